"""PyTorch: a tied Potts grid as one-hot float32 arrays with a border of zeros, every buffer made once.

The grid is cut by parity of row and column, so a colour is two strided slices, and its neighbours are slices too.
Chains are innermost. A level is drawn by inverting its distribution function, with one uniform and three comparisons
per site. There is no autograd, and operations work in place.
"""

import time

import torch

from benchmarks.methods import Absent, Method
from benchmarks.tasks.gibbs import Task, system


def prepare(task: Task, device: str = "cpu") -> Method:
    """Prepares the task. There is nothing to compile."""
    if device == "gpu" and not torch.cuda.is_available():
        raise Absent("the installed torch sees no GPU")
    place = torch.device("cuda" if device == "gpu" else "cpu")
    start = time.perf_counter()
    given, k, side, chains = system(task), task.n_levels, task.side, task.n_chains
    generator = torch.Generator(place).manual_seed(0)
    across, down = (float(w) for w in given.tied)
    bias = torch.tensor(given.bias, dtype=torch.float32).reshape(side, side, k).permute(2, 0, 1)[..., None]
    bias = bias.contiguous().to(place)
    levels = torch.randint(0, k, (side, side, chains), generator=generator, device=place)
    x = torch.zeros(k, side + 2, side + 2, chains, device=place)
    x[:, 1:-1, 1:-1] = (levels == torch.arange(k, device=place)[:, None, None, None]).float()

    def slices(a, b, rows=0, columns=0):
        """Returns the sites of a parity, shifted by rows and columns."""
        high, wide = (side - a + 1) // 2, (side - b + 1) // 2
        top, left = 1 + a + rows, 1 + b + columns
        return x[:, top : top + 2 * high - 1 : 2, left : left + 2 * wide - 1 : 2]

    parts = []
    for a, b in ((0, 0), (1, 1), (0, 1), (1, 0)):
        here = slices(a, b)
        beside = [slices(a, b, *d) for d in ((0, -1), (0, 1), (-1, 0), (1, 0))]
        field, u = torch.empty(here.shape, device=place), torch.empty(here.shape[1:], device=place)
        parts.append((here, beside, bias[:, a::2, b::2], field, u, torch.empty_like(u)))

    @torch.inference_mode()
    def call():
        for _ in range(task.n_sweeps):
            for here, (left, right, above, below), own, field, u, other in parts:
                torch.add(own, left, alpha=across, out=field)
                field.add_(right, alpha=across).add_(above, alpha=down).add_(below, alpha=down).exp_()
                for level in range(1, k):
                    field[level].add_(field[level - 1])
                u.uniform_(generator=generator).mul_(field[-1])
                torch.lt(u, field[0], out=here[0])
                other.copy_(here[0])
                for level in range(1, k - 1):
                    torch.lt(u, field[level], out=here[level])
                    here[level].sub_(other)
                    other.add_(here[level])
                torch.sub(1.0, other, out=here[-1])
        if device == "gpu":
            torch.cuda.synchronize()
        return x

    build = time.perf_counter() - start
    return Method(build, build, 0.0, call)
