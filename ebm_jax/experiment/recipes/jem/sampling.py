"""Langevin chains of a trained joint energy, from uniform noise, with and without a class."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.energies.neural import ClassConditional, JointEnergy
from ebm_jax.experiment.recipes.frames import Frames
from ebm_jax.experiment.recipes.images import chains
from ebm_jax.experiment.recipes.jem.config import JemConfig
from ebm_jax.graphs.blocks import SamplingSchedule
from ebm_jax.run import sample
from ebm_jax.samplers.langevin import Langevin, langevin
from ebm_jax.training.negatives import starts
from ebm_jax.types import Key, PyTree

# Chains of which samples/final.npz holds pictures, and chains of each class.
N_PICTURES = 100
N_OF_CLASS = 10
# Energies of which samples/final.npz holds histograms are those of so many images of a kind.
N_ENERGIES = 2000


def training_kernel(config: JemConfig, model: JointEnergy) -> Langevin:
    """Returns the kernel of the negatives."""
    section = config.langevin
    bounds = (-1.0, 1.0) if section.clamp else None
    energy = ClassConditional(model) if config.negatives.conditional else model
    return langevin(
        energy, section.step_size, section.noise_scale, clip=section.clip, clip_by="value", bounds=bounds
    )


def generation_kernel(config: JemConfig, energy: Any, n_steps: int) -> Langevin:
    """Returns the kernel that makes samples of a `JointEnergy` or a `ClassConditional` one in `n_steps` steps."""
    section = config.generation
    first, last = section.step_size, section.final_step_size
    step_size = first if last is None else jax.tree_util.Partial(_geometric, first, last, n_steps)
    return langevin(
        energy, step_size, section.noise_scale, clip=section.clip, clip_by="value", bounds=(-1.0, 1.0)
    )


def _geometric(first: Any, last: Any, n_steps: Any, step: jax.Array) -> jax.Array:
    """Returns the number of a step of a geometric sequence, which keeps its last number."""
    return first * (last / first) ** jnp.minimum(step / jnp.maximum(n_steps - 1, 1), 1.0)


def noise(model: JointEnergy, key: Key, n: int) -> jax.Array:
    """Draws images of uniform noise in [-1, 1], where all chains start."""
    # Waiting raises if there is no memory for them, where NumPy would end the process.
    return jax.block_until_ready(starts.uniform(model.shape)(key, n))


def ends(config: JemConfig, model: JointEnergy, params: PyTree, key: Key, start: jax.Array) -> np.ndarray:
    """Returns where chains of the section `generation` end, floats in [-1, 1]."""
    n_steps = config.generation.n_steps
    kernel = generation_kernel(config, model, n_steps)
    return np.asarray(sample(key, kernel, params, start, SamplingSchedule(n_steps, 1)).positions[0])


def ends_of_classes(
    config: JemConfig, model: JointEnergy, params: PyTree, key: Key, n_each: int
) -> np.ndarray:
    """Returns where chains end that follow the energy of one class.

    Args:
      config: The configuration.
      model: The energy.
      params: Its parameters.
      key: A typed key.
      n_each: Chains of each class.

    Returns:
      Floats in [-1, 1], `(n_classes, n_each, height, width)`.
    """
    noise_key, chains_key = jax.random.split(key)
    labels = jnp.repeat(jnp.eye(model.n_classes), n_each, axis=0)
    start = noise(model, noise_key, len(labels)), labels
    given = label_mask(model), start
    n_steps = config.generation.n_steps
    kernel = generation_kernel(config, ClassConditional(model), n_steps)
    images, _ = sample(
        chains_key, kernel, params, start, SamplingSchedule(n_steps, 1), clamped=given
    ).positions
    return np.asarray(images[0]).reshape(model.n_classes, n_each, *model.shape)


def label_mask(model: JointEnergy) -> tuple[np.ndarray, np.ndarray]:
    """Returns which parts of a configuration `(x, label)` chains keep: the label."""
    return np.zeros(model.shape, bool), np.ones(model.n_classes, bool)


def draw_frames(
    config: JemConfig, model: JointEnergy, params: PyTree, key: Key, n: int, n_steps: int
) -> Frames:
    """Runs chains from noise and returns pictures along them.

    Args:
      config: The configuration.
      model: The energy.
      params: Its parameters.
      key: A typed key.
      n: Number of chains.
      n_steps: Steps of each chain.

    Returns:
      The pictures and their steps.
    """
    noise_key, chains_key = jax.random.split(key)
    start = noise(model, noise_key, n)
    kernel = generation_kernel(config, model, n_steps)
    return chains.run_chains(chains_key, kernel, params, start, n_steps, config.generation.every)
