"""torchebm: its Langevin sampler. The energy is a PyTorch module that it differentiates. It returns final states only.

Its η is ε²/2 in ebm_jax's convention. The energy is the same expression that ebm_jax differentiates. For both it is
faster than an expression with the distances to all means. With a gradient written by hand in place of autograd (a
method that one may override), torchebm was 1.5 times as fast on one core.
"""

import time

import torch
from torchebm.core import BaseModel
from torchebm.samplers import LangevinDynamics

from benchmarks.methods import Absent, Method
from benchmarks.tasks.samplers import Task, mixture, step_size


class Mixture(BaseModel):
    """−log Σ exp(−|x − m|² / 2) over the means."""

    def __init__(self, means: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("means_t", means.t().contiguous())
        self.register_buffer("half_squares", (means**2).sum(1) / 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the energies of a batch."""
        return (x * x).sum(1) / 2 - torch.logsumexp(x @ self.means_t - self.half_squares, dim=1)


def prepare(task: Task, device: str = "cpu") -> Method:
    """Prepares the task. There is nothing to compile."""
    if device == "gpu" and not torch.cuda.is_available():
        raise Absent("the installed torch sees no GPU")
    place = torch.device("cuda" if device == "gpu" else "cpu")
    start = time.perf_counter()
    means, x = (torch.as_tensor(a, device=place) for a in mixture(task))
    sampler = LangevinDynamics(
        Mixture(means).to(place), step_size=step_size(task) ** 2 / 2, noise_scale=1.0, device=place
    )

    def call():
        drawn = sampler.sample(x=x, n_steps=task.n_steps)
        if device == "gpu":
            torch.cuda.synchronize()
        return drawn.cpu().numpy(), None

    build = time.perf_counter() - start
    return Method(build, build, 0.0, call)
