"""ebmkit (PyTorch): its losses in the loop of its `Trainer`, which draws random batches."""

import time

import ebm
import torch

from benchmarks.methods import Absent, Method
from benchmarks.tasks.objectives import (
    DENOISING_SIGMA,
    DISCREPANCY_SIGMA,
    LEARNING_RATE,
    N_NEGATIVES,
    WIDTHS,
    Task,
    data_of,
)


def prepare(task: Task, device: str = "cpu") -> Method:
    """Prepares the task. There is nothing to compile."""
    if device == "gpu" and not torch.cuda.is_available():
        raise Absent("the installed torch sees no GPU")
    if device == "cpu":
        torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    place = torch.device("cuda" if device == "gpu" else "cpu")
    start = time.perf_counter()
    torch.manual_seed(0)
    loss = {
        "denoising": lambda: ebm.DenoisingScoreMatching(DENOISING_SIGMA),
        "noise-contrastive": lambda: ebm.NoiseContrastiveEstimation(),
        "discrepancy": lambda: ebm.EnergyDiscrepancy(DISCREPANCY_SIGMA, N_NEGATIVES),
    }[task.kind]()
    rows = torch.as_tensor(data_of(task), device=place)
    trainer = ebm.Trainer(ebm.nets.MLPEnergy(2, WIDTHS), loss, lr=LEARNING_RATE, device=place)
    build = time.perf_counter() - start

    def call():
        trainer.fit(rows, steps=task.n_batches, batch_size=task.batch_size, verbose=False)
        if device == "gpu":
            torch.cuda.synchronize()

    return Method(build, build, 0.0, call)
