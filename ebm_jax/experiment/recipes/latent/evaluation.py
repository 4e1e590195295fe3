"""What is measured of an energy of latents: its likelihood beside mixtures of Gaussians, and decoded samples."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ebm_jax import partition
from ebm_jax.energies.latent import LatentModel, LatentParams
from ebm_jax.experiment.recipes.images.judging import Judge
from ebm_jax.experiment.recipes.latent import sampling
from ebm_jax.experiment.recipes.latent.config import LatentConfig, LatentEvaluationConfig
from ebm_jax.experiment.recipes.latent.partition import MAX_LATENTS, log_partition
from ebm_jax.samplers.mala import mala
from ebm_jax.types import Key


class Latents(NamedTuple):
    """Whitened latents of images, `(n, n_latents)`."""

    train: np.ndarray
    held_out: np.ndarray


class Evaluation:
    """The context of one evaluation. Each method measures a group of `metrics.METRICS`.

    Args:
      config: The configuration.
      model: The model.
      params: Its parameters.
      held_out: Images that training has not seen, bool `(n, height, width)`.
      latents: Function that returns the latents of training and held-out images.
      settings: The section `evaluation` of the configuration.
      key: A typed key.
    """

    def __init__(
        self,
        config: LatentConfig,
        model: LatentModel,
        params: LatentParams,
        held_out: np.ndarray,
        latents: Callable[[], Latents],
        settings: LatentEvaluationConfig,
        key: Key,
    ) -> None:
        self.config = config
        self.model = model
        self.params = params
        self.held_out = held_out
        self.settings = settings
        self._latents = latents
        self.chains_key, self.forward_key, self.reverse_key = jax.random.split(key, 3)

    @functools.cached_property
    def latents(self) -> Latents:
        """Whitened latents of training and held-out images."""
        return self._latents()

    @functools.cached_property
    def chains(self) -> sampling.Chains:
        """Fresh chains from N(0, I): their start and their ends."""
        n_steps = self.config.generation.n_steps
        n = self.settings.n_chains
        return sampling.run_chains(
            self.config, self.model, self.params, self.chains_key, n, n_steps, every=n_steps
        )

    @functools.cached_property
    def judge(self) -> Judge:
        """What compares samples with held-out images."""
        return Judge(self.config.data, 2 * self.held_out.astype(np.float32) - 1)

    def likelihood(self) -> dict[str, float]:
        """Returns log-likelihoods of latents and the estimates of log Z that they are made of."""
        prior, energy, settings = self.model.prior, self.params.energy, self.settings
        annealed: dict[str, Any] = {
            "betas": settings.ais_betas,
            "base": partition.standard_normal(prior.position_struct()),
            "kernel": functools.partial(mala, step_size=self.chains.step_size),
        }
        forward = partition.ais(self.forward_key, prior, energy, n_chains=settings.ais_chains, **annealed)
        ends = self.chains.positions[-1][: settings.ais_chains]
        reverse = partition.reverse_ais(self.reverse_key, prior, energy, ends, **annealed)
        log_z = max(forward.log_z, reverse.log_z)
        if prior.shape[0] <= MAX_LATENTS:
            log_z = log_partition(prior, energy)
        train, held_out = (
            -sampling.energies_of(self.model, self.params, z).mean() - log_z for z in self.latents
        )
        gaussian = [gaussian_log_likelihood(z) for z in self.latents]
        return {
            "gain": held_out - gaussian[1],
            "gain_train": train - gaussian[0],
            "log_likelihood": held_out,
            "log_likelihood_gaussian": gaussian[1],
            "log_z": log_z,
            "log_z_forward": forward.log_z,
            "log_z_reverse": reverse.log_z,
            "ais_ess": forward.ess,
            "ais_spread": forward.spread,
        }

    def mixtures(self) -> dict[str, float]:
        """Returns gains of Gaussian mixtures that are fitted to all training latents; NaN for those not asked for."""
        gaussian = gaussian_log_likelihood(self.latents.held_out)
        found = {f"gain_gmm_{n}": np.nan for n in (10, 50, 200)}
        for n in self.settings.mixtures:
            found[f"gain_gmm_{n}"] = mixture_log_likelihood(n, self.config.seed, *self.latents) - gaussian
        return found

    def reconstruction(self) -> dict[str, float]:
        """Returns −log p(x | z(x)) of held-out images, in nats."""
        log_p = reconstruction_error(self.model, self.params, self.held_out)
        return {"reconstruction": float(np.mean(log_p))}

    def samples(self) -> dict[str, float]:
        """Returns the figures of decoded ends of fresh chains."""
        found = self._figures(self.chains.positions[-1], "noise", self.config.generation.n_steps, "")
        chains = {
            "generation_step_size": self.chains.step_size,
            "generation_acceptance": self.chains.acceptance,
        }
        return found | chains

    def start(self) -> dict[str, float]:
        """Returns the same figures of the chains before their first step, draws of one Gaussian."""
        return self._figures(self.chains.positions[0], "noise", 0, "start_")

    def reconstructed(self) -> dict[str, float]:
        """Returns the same figures of reconstructed held-out images, which no energy of these latents has to beat."""
        few = self.latents.held_out[: self.settings.n_chains]
        return self._figures(few, "data", 0, "reconstructed_")

    def _figures(self, z: np.ndarray, origin: str, n_steps: int, prefix: str) -> dict[str, float]:
        images = np.clip(2 * sampling.decoded(self.model, self.params, z) - 1, -1, 1)
        return self.judge.figures(images, origin, n_steps, prefix)


def gaussian_log_likelihood(z: np.ndarray) -> float:
    """Returns the mean log-likelihood of N(0, I)."""
    squares = np.square(z.astype(np.float64)).sum(axis=1).mean()
    return float(-squares / 2 - z.shape[1] / 2 * np.log(2 * np.pi))


def mixture_log_likelihood(n_components: int, seed: int, train: np.ndarray, held_out: np.ndarray) -> float:
    """Returns the mean log-likelihood of held-out rows by a Gaussian mixture that scikit-learn fits to `train`."""
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(n_components, random_state=seed, max_iter=100, reg_covar=1e-3)
    return float(mixture.fit(train).score(held_out))


def reconstruction_error(model: LatentModel, params: LatentParams, images: np.ndarray) -> np.ndarray:
    """Returns −log p(x | z(x)) of each image of bits, in nats."""
    return np.asarray(_reconstruction_error(model, params.autoencoder, images.astype(np.float32)))


@functools.partial(jax.jit, static_argnums=0)
def _reconstruction_error(model: LatentModel, params: Any, images: jax.Array) -> jax.Array:
    return jax.vmap(model.autoencoder.energy, (None, 0))(params, images)
