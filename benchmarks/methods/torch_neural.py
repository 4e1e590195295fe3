"""PyTorch: the training loop of the scripts that people copy, in eager mode, with the steps of `ours_neural`.

A Langevin step asks autograd for the gradient of the summed energy with respect to the images. Parameters are frozen
meanwhile, which saves their part of the graph. The buffer lies on the device.
"""

import itertools
import time

import torch
from torch import nn

from benchmarks.methods import Absent, Method
from benchmarks.tasks.neural import (
    CHANNELS,
    KERNEL_SIZES,
    LATENT_HIDDEN,
    LATENT_SIZE,
    PADDINGS,
    STRIDES,
    Task,
    data_of,
    shape_of,
)


def prepare(task: Task, device: str = "cpu") -> Method:
    """Prepares the task. There is nothing to compile."""
    if device == "gpu" and not torch.cuda.is_available():
        raise Absent("the installed torch sees no GPU")
    if device == "cpu":
        torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    place = torch.device("cuda" if device == "gpu" else "cpu")
    start = time.perf_counter()
    torch.manual_seed(0)
    rows, labels = (torch.as_tensor(a, device=place) for a in data_of(task))
    net = network(task).to(place)
    optimizer = torch.optim.Adam(net.parameters(), lr=task.learning_rate)
    buffer = 2 * torch.rand(task.capacity, *shape_of(task), device=place) - 1
    build = time.perf_counter() - start

    def call():
        for i in range(task.n_batches):
            batch = slice(i * task.batch_size, (i + 1) * task.batch_size)
            update(task, net, optimizer, rows[batch], labels[batch].long(), buffer)
        if device == "gpu":
            torch.cuda.synchronize()

    return Method(build, build, 0.0, call)


def network(task: Task) -> nn.Module:
    """Returns the network: class logits for "joint", else minus one number."""
    if task.kind == "joint":
        sizes = (784, 512, 512, 512)
        layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.SiLU())]
        return nn.Sequential(*layers, nn.Linear(512, 10))
    if task.kind == "latent":
        return nn.Sequential(nn.Linear(LATENT_SIZE, LATENT_HIDDEN), nn.SiLU(), nn.Linear(LATENT_HIDDEN, 1))
    layers = [nn.Unflatten(1, (1, 28))]
    for a, b, size, stride, padding in zip((1, *CHANNELS), CHANNELS, KERNEL_SIZES, STRIDES, PADDINGS):
        layers += [nn.Conv2d(a, b, size, stride, padding), nn.SiLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * CHANNELS[-1], 64), nn.SiLU(), nn.Linear(64, 1))


def energy(task: Task, net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Returns the energy of each row."""
    if task.kind == "joint":
        return -net(x).logsumexp(dim=1)
    prior = 0.5 * (x**2).sum(dim=1) if task.kind == "latent" else 0.0
    return prior - net(x)[:, 0]


def negatives(task: Task, net: nn.Module, buffer: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Returns the ends of Langevin chains from noise, or from slots of the buffer, to which they are written."""
    fresh = 2 * torch.rand_like(like) - 1
    x, slots = fresh, None
    if task.capacity:
        slots = torch.randperm(task.capacity, device=like.device)[: len(like)]
        anew = torch.rand(len(like), *[1] * (like.ndim - 1), device=like.device) < 0.05
        x = torch.where(anew, fresh, buffer[slots])
    net.requires_grad_(False)
    for _ in range(task.k):
        x.requires_grad_(True)
        (gradient,) = torch.autograd.grad(energy(task, net, x).sum(), x)
        if task.clip is not None:
            gradient = gradient.clamp(-task.clip, task.clip)
        x = x.detach() - task.step_size * gradient + task.noise_scale * torch.randn_like(x)
        if task.bounds is not None:
            x = x.clamp(-task.bounds, task.bounds)
    net.requires_grad_(True)
    if slots is not None:
        buffer[slots] = x
    return x


def update(task, net, optimizer, rows, labels, buffer) -> None:
    """Makes one update of the parameters."""
    ends = negatives(task, net, buffer, rows)
    optimizer.zero_grad(set_to_none=True)
    loss = 0.0
    if task.kind == "joint":
        logits = net(rows)
        of_data = -logits.logsumexp(dim=1)
        loss = nn.functional.cross_entropy(logits, labels)
    else:
        of_data = energy(task, net, rows)
    of_model = energy(task, net, ends)
    loss = loss + of_data.mean() - of_model.mean()
    if task.l2:
        loss = loss + task.l2 * ((of_data**2).mean() + (of_model**2).mean())
    loss.backward()
    optimizer.step()
