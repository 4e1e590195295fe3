"""What a run needs of a recipe, and the recipes by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ebm_jax.experiment.config import Config
from ebm_jax.types import PyTree


class Recipe(NamedTuple):
    """A run's parts, as functions of its train state. Everything random in them follows from the configuration's seed.

    n_batches: updates an epoch. init: `() -> state` at step 0. advance: `(state, n) -> (state, metrics)`, `n` updates
    within one epoch. learning_rate: `state -> float`, of the latest update. params: `state -> params` that are judged
    and kept. evaluate: `(params, settings, groups) -> {name: number}`, with a section `evaluation` of the
    configuration and a choice of `groups`. best: the name by which checkpoints are compared, larger is better; it may
    be missing. draw: `(params, n, n_steps, seed) -> (frames, steps)`, pictures of chains that begin at noise, uint8
    `(n_frames, n, height, width)`, and when. write: `(params, folder) -> None`, the arrays that figures are made of.
    """

    model: Any
    n_batches: int
    init: Callable[[], Any]
    advance: Callable[[Any, int], tuple[Any, Any]]
    learning_rate: Callable[[Any], float]
    params: Callable[[Any], PyTree]
    evaluate: Callable[..., dict[str, float]]
    groups: tuple[str, ...]
    best: str
    draw: Callable[[PyTree, int, int, int], tuple[np.ndarray, np.ndarray]]
    write: Callable[[PyTree, Path], None]


def build(config: Config) -> Recipe:
    """Returns the parts of the run that `config` describes; loads its data."""
    from ebm_jax.experiment.recipes import rbm

    return {"rbm": rbm.build}[config.recipe](config)
