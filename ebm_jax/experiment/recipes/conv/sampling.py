"""Langevin chains of a trained energy, from uniform noise."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from ebm_jax.energies.neural import NeuralEnergy
from ebm_jax.experiment.recipes.conv.config import ConvConfig
from ebm_jax.experiment.recipes.frames import Frames
from ebm_jax.experiment.recipes.images import chains, data, judging
from ebm_jax.graphs.blocks import SamplingSchedule
from ebm_jax.run import sample
from ebm_jax.samplers.langevin import Langevin, langevin
from ebm_jax.training.negatives import starts
from ebm_jax.types import Key, PyTree

# Chains of which samples/final.npz holds pictures.
N_PICTURES = 64


def training_kernel(config: ConvConfig, model: NeuralEnergy) -> Langevin:
    """Returns the kernel of the negatives."""
    return _kernel(config.langevin, model)


def generation_kernel(config: ConvConfig, model: NeuralEnergy) -> Langevin:
    """Returns the kernel that makes samples."""
    return _kernel(config.generation, model)


def _kernel(section: Any, model: NeuralEnergy) -> Langevin:
    return langevin(
        model, section.step_size, section.noise_scale, clip=section.clip, clip_by="value", bounds=(-1.0, 1.0)
    )


def noise(config: ConvConfig, key: Key, n: int) -> jax.Array:
    """Draws images of uniform noise in [-1, 1], where all chains start."""
    # Waiting raises if there is no memory for them, where NumPy would end the process.
    return jax.block_until_ready(starts.uniform(data.image_shape(config.data))(key, n))


def ends(config: ConvConfig, model: NeuralEnergy, params: PyTree, key: Key, start: jax.Array) -> np.ndarray:
    """Returns where chains of the section `generation` end, floats in [-1, 1]."""
    schedule = SamplingSchedule(config.generation.n_steps, 1)
    return np.asarray(sample(key, generation_kernel(config, model), params, start, schedule).positions[0])


def draw_frames(
    config: ConvConfig, model: NeuralEnergy, params: PyTree, key: Key, n: int, n_steps: int
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
    start = noise(config, noise_key, n)
    kernel = generation_kernel(config, model)
    return chains.run_chains(chains_key, kernel, params, start, n_steps, config.generation.every)


def final_draws(
    config: ConvConfig, model: NeuralEnergy, params: PyTree, images: data.Images, key: Key
) -> dict[str, np.ndarray]:
    """Returns the arrays of samples/final.npz.

    frames: uint8 `(n_frames, n_chains, height, width)`, along chains from noise. steps: their steps. data: images of
    the validation set. classifier_sha256: which classifier judges the samples.
    """
    frames, steps = draw_frames(config, model, params, key, N_PICTURES, config.generation.n_steps)
    return {
        "frames": frames,
        "steps": steps,
        "data": images.validation[:N_PICTURES],
        "classifier_sha256": np.asarray(judging.load_classifier(config.data.name).sha256),
    }
