"""ebmkit (PyTorch): `JEMLoss` over `ContrastiveDivergence`, as its documentation trains a joint model."""

import time

import ebm
import torch

from benchmarks.methods import Absent, Method, torch_neural
from benchmarks.tasks.neural import Task, data_of


def prepare(task: Task, device: str = "cpu") -> Method:
    """Prepares the joint task. There is nothing to compile."""
    if task.kind != "joint":
        raise Absent("only its JEMLoss is compared")
    if device == "gpu" and not torch.cuda.is_available():
        raise Absent("the installed torch sees no GPU")
    if device == "cpu":
        torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    place = torch.device("cuda" if device == "gpu" else "cpu")
    start = time.perf_counter()
    torch.manual_seed(0)
    rows, labels = (torch.as_tensor(a, device=place) for a in data_of(task))
    model = ebm.ClassifierEnergy(torch_neural.network(task)).to(place)
    sampler = ebm.LangevinDynamics(task.step_size, task.k, noise_scale=task.noise_scale)
    contrastive = ebm.ContrastiveDivergence(
        sampler, init_fn=lambda shape: 2 * torch.rand(shape) - 1, energy_reg=task.l2
    )
    loss = ebm.JEMLoss(contrastive)
    optimizer = torch.optim.Adam(model.parameters(), lr=task.learning_rate)
    build = time.perf_counter() - start

    def call():
        for i in range(task.n_batches):
            batch = slice(i * task.batch_size, (i + 1) * task.batch_size)
            optimizer.zero_grad(set_to_none=True)
            loss(model, rows[batch], labels[batch].long()).loss.backward()
            optimizer.step()
        if device == "gpu":
            torch.cuda.synchronize()

    return Method(build, build, 0.0, call)
