"""A progress bar over samples, the pieces in which a run that shows one is made, and interrupts between them."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator

import jax

from ebm_jax.graphs.blocks import SamplingSchedule
from ebm_jax.types import PyTree


def in_pieces(schedule: SamplingSchedule, n_pieces: int = 50) -> list[tuple[int, int]]:
    """Cuts a schedule into (lead, n_samples), equal but for the first and the last: few distinct programs."""
    size = max(1, -(-schedule.n_samples // n_pieces))
    counts = [size] * (schedule.n_samples // size)
    if schedule.n_samples % size:
        counts.append(schedule.n_samples % size)
    leads = [schedule.n_warmup] + [schedule.steps_per_sample] * (len(counts) - 1)
    return list(zip(leads, counts, strict=True)) if counts else [(schedule.n_warmup, 0)]


class SampleBar:
    """A tqdm bar over samples, or nothing. Its context gives `advance(n, result)`, which waits for the result."""

    def __init__(self, show: bool, schedule: SamplingSchedule) -> None:
        self._total = schedule.n_samples if show else None

    def __enter__(self) -> Callable[[int, PyTree], None]:
        if self._total is None:
            self._tqdm = None
            return lambda n, result: None
        from tqdm.auto import tqdm

        self._tqdm = bar = tqdm(total=self._total, unit="sample")

        def advance(n: int, result: PyTree) -> None:
            jax.block_until_ready(result)
            bar.update(n)

        return advance

    def __exit__(self, *exc: object) -> None:
        if self._tqdm is not None:
            self._tqdm.close()


@contextlib.contextmanager
def until_interrupted(pieces_done: Callable[[], list[tuple[int, int]]]) -> Iterator[None]:
    """Ends a block at an interrupt with a warning that says how many samples are there, unless no piece is done."""
    try:
        yield
    except KeyboardInterrupt:
        done = pieces_done()
        if not done:
            raise
        n_samples = sum(n for _, n in done)
        warnings.warn(f"interrupted after {n_samples} samples; the result holds these", stacklevel=5)
