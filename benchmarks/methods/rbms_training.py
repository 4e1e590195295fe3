"""rbms (PyTorch): its `fit_batch_pcd` and SGD, in the order of its own training loop, but without the file it writes.

Gradients are plain (`centered=False`) and divided by their norm, as in the package. The data lie in memory as floats.
"""

import time

import torch
from rbms.bernoulli_bernoulli.classes import BBRBM
from rbms.training.pcd import fit_batch_pcd

from benchmarks.methods import Absent, Method
from benchmarks.tasks.training import LEARNING_RATE, Task, data_of


def prepare(task: Task, device: str = "cpu") -> Method:
    """Prepares the task. Only the first calls compile."""
    if device == "gpu" and not torch.cuda.is_available():
        raise Absent("the installed torch sees no GPU")
    if device == "cpu":
        torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    place = torch.device("cuda" if device == "gpu" else "cpu")
    start = time.perf_counter()
    torch.manual_seed(0)
    data = torch.tensor(data_of(task), dtype=torch.float32, device=place)
    weights = torch.ones(len(data), device=place)
    zeros = (torch.zeros(n, device=place) for n in (task.n_visible, task.n_hidden))
    params = BBRBM(0.01 * torch.randn(task.n_visible, task.n_hidden, device=place), *zeros)
    params.init_grad()
    optimizer = torch.optim.SGD(params.parameters(), lr=LEARNING_RATE, maximize=True)
    chains = [params.init_chains(task.batch_size)]
    build = time.perf_counter() - start

    @torch.no_grad()
    def call():
        for _ in range(task.n_batches):
            rows = torch.randperm(len(data))[: task.batch_size]
            optimizer.zero_grad(set_to_none=False)
            batch = data[rows], weights[rows]
            chains[0], _ = fit_batch_pcd(batch, chains[0], params, task.k, 1.0, centered=False)
            optimizer.step()
        if device == "gpu":
            torch.cuda.synchronize()

    # The scripts of the package are specialised in their first calls.
    call()
    return Method(build, build, 0.0, call)
