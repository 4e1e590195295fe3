"""Langevin chains of a joint model: of images, and of images of a class."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.energies.neural import ClassConditional, JointEnergy
from ebm_jax.experiment.recipes.images import chains, data
from ebm_jax.experiment.recipes.jem.config import JEMConfig
from ebm_jax.graphs.blocks import SamplingSchedule
from ebm_jax.run import sample
from ebm_jax.samplers.langevin import Langevin, langevin
from ebm_jax.training.negatives import starts
from ebm_jax.types import Key, PyTree

# Chains of which samples/final.npz holds pictures, and those of each class.
N_PICTURES = 64
N_OF_CLASS = 10


def training_kernel(config: JEMConfig, model: Any) -> Langevin:
    """Returns the kernel of the negatives, which has no bounds."""
    section = config.langevin
    return langevin(model, section.step_size, section.noise_scale, clip=section.clip, clip_by="value")


def generation_kernel(config: JEMConfig, model: Any) -> Langevin:
    """Returns the kernel that makes samples, with pixels clamped to [-1, 1]."""
    section = config.generation
    return langevin(
        model, section.step_size, section.noise_scale, clip=section.clip, clip_by="value", bounds=(-1.0, 1.0)
    )


def noise(config: JEMConfig, key: Key, n: int) -> jax.Array:
    """Draws images of uniform noise in [-1, 1], where all chains that make samples start."""
    return starts.uniform(data.image_shape(config.data))(key, n)


def ends(config: JEMConfig, model: JointEnergy, params: PyTree, key: Key, start: jax.Array) -> np.ndarray:
    """Returns where chains of the section `generation` end, floats in [-1, 1]."""
    schedule = SamplingSchedule(config.generation.n_steps, 1, config.generation.n_steps)
    return np.asarray(sample(key, generation_kernel(config, model), params, start, schedule).positions[0])


def of_classes(
    config: JEMConfig, model: JointEnergy, params: PyTree, key: Key
) -> tuple[np.ndarray, np.ndarray]:
    """Runs chains from noise that keep a class.

    Args:
      config: The configuration.
      model: The joint model.
      params: Its parameters.
      key: A typed key.

    Returns:
      Their ends, floats in [-1, 1], and their classes, the same number of each.
    """
    first, draw = jax.random.split(key)
    classes = np.repeat(np.arange(model.n_classes), N_OF_CLASS)
    one_hot = jax.nn.one_hot(classes, model.n_classes)
    start = noise(config, first, len(classes)), one_hot
    mask = jnp.zeros(model.shape, bool), jnp.ones(model.n_classes, bool)
    n_steps = config.generation.n_steps
    drawn = sample(
        draw,
        generation_kernel(config, ClassConditional(model)),
        params,
        start,
        SamplingSchedule(n_steps, 1, n_steps),
        clamped=(mask, start),
    )
    positions: Any = drawn.positions
    return np.asarray(positions[0][0]), classes


def draw_frames(
    config: JEMConfig, model: JointEnergy, params: PyTree, key: Key, n: int, n_steps: int
) -> chains.Frames:
    """Runs chains from noise and returns pictures along them."""
    noise_key, chains_key = jax.random.split(key)
    kernel = generation_kernel(config, model)
    start = noise(config, noise_key, n)
    return chains.run_chains(chains_key, kernel, params, start, n_steps, config.generation.every)


def final_draws(
    config: JEMConfig, model: JointEnergy, params: PyTree, images: data.Images, key: Key
) -> dict[str, np.ndarray]:
    """Returns the arrays of samples/final.npz.

    frames: uint8 `(n_frames, n_chains, height, width)`, along chains from noise. steps: their steps. data: images of
    the validation set. classes: uint8, ends of chains that keep a class, ten of each.
    """
    frames, steps = draw_frames(config, model, params, key, N_PICTURES, config.generation.n_steps)
    of_class, _ = of_classes(config, model, params, jax.random.fold_in(key, 1))
    return {
        "frames": frames,
        "steps": steps,
        "data": images.validation[:N_PICTURES],
        "classes": data.as_pixels(of_class),
    }
