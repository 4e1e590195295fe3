"""What is measured of a trained energy: the samples that its chains make, and how it sees unseen images."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.energies.neural import NeuralEnergy
from ebm_jax.experiment.recipes.conv import sampling
from ebm_jax.experiment.recipes.conv.config import ConvConfig, ConvEvaluationConfig
from ebm_jax.experiment.recipes.images import data
from ebm_jax.experiment.recipes.images.data import Images
from ebm_jax.experiment.recipes.images.judging import Judge
from ebm_jax.training.negatives import BufferState
from ebm_jax.types import Key, PyTree

_CHUNK = 500


class Evaluation:
    """The context of one evaluation. Each method measures a group of `metrics.METRICS`.

    Args:
      config: The configuration.
      model: The energy.
      params: Its parameters.
      images: The data.
      settings: The section `evaluation` of the configuration.
      key: A typed key.
    """

    def __init__(
        self,
        config: ConvConfig,
        model: NeuralEnergy,
        params: PyTree,
        images: Images,
        settings: ConvEvaluationConfig,
        key: Key,
    ) -> None:
        self.config = config
        self.model = model
        self.params = params
        self.images = images
        self.settings = settings
        self.noise_key, self.chains_key = jax.random.split(key)
        self.unseen = images.validation if settings.split == "validation" else images.test

    @functools.cached_property
    def judge(self) -> Judge:
        """What compares samples with unseen images."""
        return Judge(self.config.data, data.as_floats(self.unseen))

    @functools.cached_property
    def noise(self) -> jax.Array:
        """Where the chains start."""
        return sampling.noise(self.config, self.noise_key, self.settings.n_chains)

    @functools.cached_property
    def ends(self) -> np.ndarray:
        """Where the chains end."""
        return sampling.ends(self.config, self.model, self.params, self.chains_key, self.noise)

    def samples(self) -> dict[str, float]:
        """Returns the figures of fresh chains from noise."""
        return self.judge.figures(self.ends, "noise", self.config.generation.n_steps)

    def start(self) -> dict[str, float]:
        """Returns the same figures of the chains before their first step."""
        return self.judge.figures(np.asarray(self.noise), "noise", 0, prefix="start_")

    def training_images(self) -> dict[str, float]:
        """Returns the same figures of as many training images, which no sampler has to beat."""
        few = data.as_floats(self.images.train[: self.settings.n_chains])
        return self.judge.figures(few, "data", 0, prefix="training_")

    def buffer(self, slots: BufferState) -> dict[str, float]:
        """Returns the same figures of slots of the replay buffer, whose steps are their mean age."""
        n = self.settings.n_chains
        age = round(float(np.mean(slots.ages[:n])))
        return self.judge.figures(np.asarray(slots.positions[:n]), "buffer", age, prefix="buffer_")

    def energy(self) -> dict[str, float]:
        """Returns mean energies of unseen and training images, of the ends of chains and of their noise.

        Training images that have lower energies than unseen ones show that a network learns them by heart.
        """
        compared = {
            "energy_unseen": data.as_floats(self.unseen),
            "energy_training": data.as_floats(self.images.train[: len(self.unseen)]),
            "energy_samples": self.ends,
            "energy_noise": np.asarray(self.noise),
        }
        return {name: mean_energy(self.model, self.params, x) for name, x in compared.items()}


def mean_energy(model: NeuralEnergy, params: PyTree, x: Any) -> float:
    """Returns the mean energy of images in [-1, 1], added up in float64."""
    parts = [_energies(model, params, jnp.asarray(x[i : i + _CHUNK])) for i in range(0, len(x), _CHUNK)]
    return float(np.mean(np.concatenate([np.asarray(part, np.float64) for part in parts])))


@functools.partial(jax.jit, static_argnums=0)
def _energies(model: NeuralEnergy, params: PyTree, x: jax.Array) -> jax.Array:
    return jax.vmap(model.energy, (None, 0))(params, x)
