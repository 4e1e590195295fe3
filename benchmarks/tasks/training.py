"""The training suite: RBMs by persistent contrastive divergence, and the promises."""

from typing import NamedTuple

import numpy as np


class Task(NamedTuple):
    """A training run and its timed call: one pass over the data. Chains continue between calls.

    Attributes:
      name: Name of the task.
      k: Sweeps per update, of as many chains as a batch has rows.
      batch_size: Rows of a batch.
      n_batches: Updates of a call.
      peers: Peers, and the file of `benchmarks.methods` that runs each. `ratio` compares with the first.
      promises: Promised figures by name.
      n_visible: Visible units.
      n_hidden: Hidden units.
    """

    name: str
    k: int
    batch_size: int
    n_batches: int
    peers: dict[str, str]
    promises: dict[str, float]
    n_visible: int = 784
    n_hidden: int = 500

    @property
    def ours(self) -> str:
        """The file of `benchmarks.methods` that runs ebm_jax."""
        return "ours_training"

    def facts(self) -> dict[str, int]:
        """Returns what a row of results says of the task."""
        names = ("k", "batch_size", "n_batches", "n_visible", "n_hidden")
        return {name: getattr(self, name) for name in names}

    def scaled(self, scale: float) -> "Task":
        """Returns the task with updates and units reduced to about this part."""
        if scale == 1:
            return self

        def cut(n, least):
            return max(least, round(n * scale))

        return self._replace(
            n_batches=cut(self.n_batches, 3),
            n_visible=cut(self.n_visible, 8),
            n_hidden=cut(self.n_hidden, 8),
        )


LEARNING_RATE = 0.01
RBMS, SKLEARN = {"rbms": "rbms_training"}, {"scikit-learn": "sklearn_training"}
PCD_1 = Task("rbm_pcd1", 1, 128, 100, RBMS, {"ratio": 3})
PCD_10 = Task("rbm_pcd10", 10, 128, 20, RBMS, {"ratio": 3})

CPU_TASKS = (PCD_1, PCD_10, Task("rbm_pcd1_batch100", 1, 100, 100, SKLEARN, {"ratio": 1.8}))
GPU_TASKS = (PCD_1._replace(n_batches=500, promises={}), PCD_10._replace(n_batches=500, promises={}))


def data_of(task: Task) -> np.ndarray:
    """Returns blurred stripes at random places, as bits: uint8 `(rows, n_visible)`."""
    rng = np.random.default_rng(0)
    n = task.batch_size * task.n_batches
    phase, width = rng.uniform(0, 2 * np.pi, (n, 1)), rng.uniform(2, 6, (n, 1))
    wave = np.sin(width * np.linspace(0, 2 * np.pi, task.n_visible) + phase)
    return (rng.random((n, task.n_visible)) < 0.05 + 0.6 * (wave > 0.5)).astype(np.uint8)
