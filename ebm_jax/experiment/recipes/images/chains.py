"""Chains of images with pictures along them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ebm_jax.experiment.recipes.images.data import as_pixels
from ebm_jax.graphs.blocks import SamplingSchedule
from ebm_jax.run import sample
from ebm_jax.types import Key


class Frames(NamedTuple):
    """Pictures along chains.

    Attributes:
      frames: uint8 `(n_frames, n_chains, height, width)`, the start first.
      steps: Steps before each frame, `(n_frames,)`.
    """

    frames: np.ndarray
    steps: np.ndarray


def run_chains(key: Key, kernel: Any, params: Any, start: Any, n_steps: int, every: int) -> Frames:
    """Runs chains and takes pictures of them.

    Args:
      key: A typed key.
      kernel: The kernel.
      params: Parameters of its energy.
      start: Images in [-1, 1] where chains start, `(n_chains, height, width)`.
      n_steps: Steps of each chain.
      every: Steps between two pictures. If `n_steps` is no multiple, the first two are further apart.

    Returns:
      The pictures, the last after all steps.
    """
    n_frames = max(n_steps // every, 1)
    steps = n_steps - every * np.arange(n_frames)[::-1]
    schedule = SamplingSchedule(int(steps[0]), n_frames, min(every, n_steps))
    positions = sample(key, kernel, params, start, schedule).positions
    frames = np.concatenate([as_pixels(start)[None], as_pixels(positions)])
    return Frames(frames, np.concatenate([[0], steps]))
