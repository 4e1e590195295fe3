"""scikit-learn: `BernoulliRBM.fit`, one pass over float32 data, with as many chains as a batch has rows.

It multiplies in float32 if the data are float32. A call draws new weights, which takes a hundredth of its time.
"""

from sklearn.neural_network import BernoulliRBM

from benchmarks.methods import Absent, Method
from benchmarks.tasks.training import LEARNING_RATE, Task, data_of


def prepare(task: Task, device: str = "cpu") -> Method:
    """Prepares the task. scikit-learn runs one sweep per update, on the CPU."""
    if device == "gpu":
        raise Absent("scikit-learn runs on the CPU")
    if task.k != 1:
        raise Absent("scikit-learn takes one sweep an update")
    data = data_of(task).astype("float32")
    rbm = BernoulliRBM(
        task.n_hidden, learning_rate=LEARNING_RATE, batch_size=task.batch_size, n_iter=1, random_state=0
    )

    def call():
        rbm.fit(data)

    return Method(0.0, 0.0, 0.0, call)
