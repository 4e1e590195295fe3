"""Chains of images with pictures along them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ebm_jax.experiment.recipes.frames import Frames, run_frames
from ebm_jax.experiment.recipes.images.data import as_pixels
from ebm_jax.types import Key


def frame_steps(n_steps: int, every: int) -> np.ndarray:
    """Returns the steps before each picture but that of the start: every `every`-th, counted from the last.

    If `n_steps` is no multiple of `every`, the start and the first of them are further apart than the others.
    """
    return n_steps - every * np.arange(max(n_steps // every, 1))[::-1]


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
      The pictures `(n_frames, n_chains, height, width)`, the last after all steps.
    """
    return run_frames(key, kernel, params, start, frame_steps(n_steps, every), as_pixels)
