"""PyTorch: RBM sweeps in float32 (not TF32), without autograd; buffers are made once and operations are in place."""

import time

import torch

from benchmarks.methods import Absent, Method
from benchmarks.tasks.gibbs import Task


def prepare(task: Task, device: str = "cpu") -> Method:
    """Prepares the task. There is nothing to compile."""
    if device == "gpu" and not torch.cuda.is_available():
        raise Absent("the installed torch sees no GPU")
    torch.backends.cuda.matmul.allow_tf32 = False
    place = torch.device("cuda" if device == "gpu" else "cpu")
    start = time.perf_counter()
    generator = torch.Generator(place).manual_seed(0)
    weights = 0.1 * torch.randn(task.n_visible, task.n_hidden, generator=generator, device=place)
    weights_t = weights.t().contiguous()
    a, b = torch.zeros(task.n_visible, device=place), torch.zeros(task.n_hidden, device=place)
    v = (torch.rand(task.n_chains, task.n_visible, generator=generator, device=place) < 0.5).float()
    h = torch.zeros(task.n_chains, task.n_hidden, device=place)
    u_v, u_h, p_v, p_h = (torch.empty_like(x) for x in (v, h, v, h))

    @torch.inference_mode()
    def call():
        for _ in range(task.n_sweeps):
            torch.addmm(b, v, weights, out=p_h).sigmoid_()
            torch.lt(u_h.uniform_(generator=generator), p_h, out=h)
            torch.addmm(a, h, weights_t, out=p_v).sigmoid_()
            torch.lt(u_v.uniform_(generator=generator), p_v, out=v)
        if device == "gpu":
            torch.cuda.synchronize()
        return v, h

    build = time.perf_counter() - start
    return Method(build, build, 0.0, call)
