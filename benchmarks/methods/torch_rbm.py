"""PyTorch: RBM sweeps with every buffer made once and every operation in place, no autograd, float32."""

import time

import torch

from benchmarks.tasks.gibbs import Task


def prepare(task: Task):
    """Returns build and compile seconds (there is none) and `call()`."""
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(0)
    weights = 0.1 * torch.randn(task.n_visible, task.n_hidden, generator=generator)
    weights_t = weights.t().contiguous()
    a, b = torch.zeros(task.n_visible), torch.zeros(task.n_hidden)
    v = (torch.rand(task.n_chains, task.n_visible, generator=generator) < 0.5).float()
    h = torch.zeros(task.n_chains, task.n_hidden)
    u_v, u_h, p_v, p_h = (torch.empty_like(x) for x in (v, h, v, h))

    @torch.inference_mode()
    def call():
        for _ in range(task.n_sweeps):
            torch.addmm(b, v, weights, out=p_h).sigmoid_()
            torch.lt(u_h.uniform_(generator=generator), p_h, out=h)
            torch.addmm(a, h, weights_t, out=p_v).sigmoid_()
            torch.lt(u_v.uniform_(generator=generator), p_v, out=v)
        return v, h

    return time.perf_counter() - start, 0.0, call, None
