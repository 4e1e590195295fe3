"""The objectives suite: updates of a perceptron on two moons without chains, and the promises."""

from typing import NamedTuple

import numpy as np


class Task(NamedTuple):
    """A training run and its timed call: `n_batches` updates.

    Attributes:
      name: Name of the task.
      kind: "denoising", "noise-contrastive" or "discrepancy".
      peers: Peers, and the file of `benchmarks.methods` that runs each. `ratio` compares with the first.
      promises: Promised figures by name.
      batch_size: Rows of a batch.
      n_batches: Updates of a call.
    """

    name: str
    kind: str
    peers: dict[str, str]
    promises: dict[str, float]
    batch_size: int = 128
    n_batches: int = 200

    @property
    def ours(self) -> str:
        """The file of `benchmarks.methods` that runs ebm_jax."""
        return "ours_objectives"

    def facts(self) -> dict[str, int]:
        """Returns what a row of results says of the task."""
        return {name: getattr(self, name) for name in ("kind", "batch_size", "n_batches")}

    def scaled(self, scale: float) -> "Task":
        """Returns the task with updates reduced to about this part."""
        return self if scale == 1 else self._replace(n_batches=max(2, round(self.n_batches * scale)))


# Batch, widths, rate, noise levels and the four negatives are the defaults of ebmkit.
WIDTHS, LEARNING_RATE, DENOISING_SIGMA, DISCREPANCY_SIGMA, N_NEGATIVES = (128, 128), 1e-3, 0.1, 1.0, 4
EBMKIT, PROMISES = {"ebmkit": "ebmkit_objectives"}, {"ratio": 3}
CPU_TASKS = tuple(
    Task(name, kind, EBMKIT, PROMISES)
    for name, kind in (
        ("moons_dsm", "denoising"),
        ("moons_nce", "noise-contrastive"),
        ("moons_ed", "discrepancy"),
    )
)
GPU_TASKS = tuple(task._replace(promises={}) for task in CPU_TASKS)


def data_of(task: Task) -> np.ndarray:
    """Returns points of two moons, float32 `(rows, 2)`."""
    rng = np.random.default_rng(0)
    n = task.batch_size * task.n_batches
    angle, lower = rng.uniform(0, np.pi, n), rng.random(n) < 0.5
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = np.where(lower[:, None], [1.0, 0.5] - upper, upper) - [0.5, 0.25]
    return (points + 0.1 * rng.normal(size=(n, 2))).astype(np.float32)
