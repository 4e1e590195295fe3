"""Chains of images with pictures along them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ebm_jax.experiment.recipes.images.data import as_pixels
from ebm_jax.graphs.blocks import SamplingSchedule
from ebm_jax.run import sample
from ebm_jax.types import Key


class Frames(NamedTuple):
    """Pictures along chains: `frames` uint8 `(n_frames, n, height, width)` and `steps`."""

    frames: np.ndarray
    steps: np.ndarray


def run_chains(key: Key, kernel: Any, params: Any, start: Any, n_steps: int, every: int) -> Frames:
    """Runs chains and returns pictures of them every few steps, the start included."""
    every = min(every, n_steps)
    n_frames = n_steps // every
    first = n_steps - (n_frames - 1) * every
    schedule = SamplingSchedule(first, n_frames, every)
    positions = sample(key, kernel, params, start, schedule).positions
    frames = np.concatenate([as_pixels(start)[None], as_pixels(positions)])
    return Frames(frames, np.asarray([0, *(first + every * np.arange(n_frames))]))
