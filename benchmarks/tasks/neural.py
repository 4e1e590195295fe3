"""The neural suite: training steps of a joint, a convolutional and a latent energy, and the promises.

Every method trains the same network with the same numbers of chains and steps, on its own random numbers. Times do not
depend on the data, so these are noise of the shape of the real data.
"""

from typing import NamedTuple

import numpy as np


class Task(NamedTuple):
    """A training run and its timed call: `n_batches` updates. Buffers and chains go on between calls.

    Attributes:
      name: Name of the task.
      kind: "joint", "convolutional" or "latent": which network and which objective.
      batch_size: Rows of a batch, and chains.
      k: Langevin steps of an update.
      n_batches: Updates of a call.
      peers: Peers, and the file of `benchmarks.methods` that runs each. `ratio` compares with the first.
      promises: Promised figures by name.
      step_size: α.
      noise_scale: σ.
      clip: Largest element of a gradient in the chains, or None.
      bounds: Largest |x| in the chains, or None.
      capacity: Slots of the replay buffer; 0: chains begin at uniform noise at every update.
      learning_rate: Of Adam.
      l2: Weight of the mean squared energies.
    """

    name: str
    kind: str
    batch_size: int
    k: int
    n_batches: int
    peers: dict[str, str]
    promises: dict[str, float]
    step_size: float
    noise_scale: float
    clip: float | None = None
    bounds: float | None = None
    capacity: int = 0
    learning_rate: float = 1e-3
    l2: float = 0.0

    @property
    def ours(self) -> str:
        """The file of `benchmarks.methods` that runs ebm_jax."""
        return "ours_neural"

    def facts(self) -> dict[str, int]:
        """Returns what a row of results says of the task."""
        return {name: getattr(self, name) for name in ("kind", "batch_size", "k", "n_batches")}

    def scaled(self, scale: float) -> "Task":
        """Returns the task with updates and steps reduced to about this part."""
        if scale == 1:
            return self
        cut = {name: max(2, round(getattr(self, name) * scale)) for name in ("k", "n_batches")}
        return self._replace(**cut)


# Grathwohl et al. 2020 with the perceptron and the numbers of a common classroom version.
JEM = Task(
    "jem_784_512x3_10",
    "joint",
    64,
    50,
    5,
    {"pytorch": "torch_neural", "ebmkit": "ebmkit_neural"},
    {"ratio": 1.9},
    step_size=0.1,
    noise_scale=0.01,
)
CONV = Task(
    "conv_28x28",
    "convolutional",
    32,
    20,
    10,
    {"pytorch": "torch_neural"},
    {"ratio": 1.3},
    step_size=10.0,
    noise_scale=0.005,
    clip=0.03,
    bounds=1.0,
    capacity=2048,
    learning_rate=5e-4,
    l2=0.1,
)
# Energy ½|z|² + MLP(z) with 8 hidden units; 468 updates are an epoch of MNIST.
LATENT = Task(
    "latent_d16",
    "latent",
    128,
    20,
    468,
    {"pytorch": "torch_neural"},
    {"ratio": 5},
    step_size=0.05,
    noise_scale=0.1**0.5,
    capacity=128,
    learning_rate=1e-3,
)

LATENT_SIZE, LATENT_HIDDEN = 16, 8
CHANNELS, KERNEL_SIZES, STRIDES, PADDINGS = (16, 32, 64, 64), (5, 3, 3, 3), (2, 2, 2, 2), (4, 1, 1, 1)
CPU_TASKS = (JEM, CONV, LATENT)
GPU_TASKS = tuple(task._replace(n_batches=10 * task.n_batches, promises={}) for task in (JEM, CONV)) + (
    LATENT._replace(promises={}),
)


def shape_of(task: Task) -> tuple[int, ...]:
    """Returns the shape of a datum."""
    return {"joint": (784,), "convolutional": (28, 28), "latent": (LATENT_SIZE,)}[task.kind]


def data_of(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows, float32 uniform on (−1, 1), and labels, int32 0 to 9."""
    rng = np.random.default_rng(0)
    n = task.batch_size * task.n_batches
    rows = rng.uniform(-1, 1, (n, *shape_of(task))).astype(np.float32)
    return rows, rng.integers(0, 10, n).astype(np.int32)
