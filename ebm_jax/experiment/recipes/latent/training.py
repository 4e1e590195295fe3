"""Training of an energy of latents, in two phases.

The first epochs train an autoencoder on thresholded images: binary cross-entropy of images that are decoded from noisy
latents, with a penalty of large latents. Then the latents of all training images are whitened once, and the other
epochs train the energy of whitened latents by maximum likelihood with persistent MALA chains at temperature 1. Which
phase an update belongs to follows from its step alone. Each phase has a train state of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.energies.autoencoder import Autoencoder
from ebm_jax.energies.latent import LatentEnergy, LatentModel, LatentParams, Whitening, whitening_of
from ebm_jax.energies.networks import MLP
from ebm_jax.experiment.config import ConfigError
from ebm_jax.experiment.config.sections import TrainingConfig
from ebm_jax.experiment.recipes import optimiser
from ebm_jax.experiment.recipes.base import Experiment, measure
from ebm_jax.experiment.recipes.images import data
from ebm_jax.experiment.recipes.latent import sampling
from ebm_jax.experiment.recipes.latent.config import LatentConfig, LatentEvaluationConfig
from ebm_jax.experiment.recipes.latent.evaluation import Evaluation, Latents
from ebm_jax.experiment.recipes.latent.metrics import AUTOENCODER_GROUPS, METRICS
from ebm_jax.experiment.recipes.latent.negatives import AdaptiveChains
from ebm_jax.samplers.mala import mala
from ebm_jax.training.loop import Plan, advance
from ebm_jax.training.objectives import Objective
from ebm_jax.training.state import TrainState
from ebm_jax.training.step import make_train_step
from ebm_jax.types import Key

# Images that are encoded at once.
_CHUNK = 2000


class LatentState(NamedTuple):
    """What a run carries from one call to the next.

    Attributes:
      autoencoder: Train state of the first phase; it stays as it is in the second.
      whitening: Of the latents of the training images, computed at the end of the first phase.
      energy: Train state of the second phase.
    """

    autoencoder: TrainState
    whitening: Whitening
    energy: TrainState


@dataclass(frozen=True)
class WithNoise:
    """A function for `Plan.prepare`: bits become floats, with normal noise for their latents.

    Attributes:
      scale: Standard deviation of the noise.
      n_latents: Latent numbers.
    """

    scale: float
    n_latents: int

    def __call__(self, key: Key, bits: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns images as floats and the noise, `(n, n_latents)`."""
        noise = self.scale * jax.random.normal(key, (len(bits), self.n_latents))
        return bits.astype(jnp.float32), noise


@dataclass(frozen=True)
class Reconstruction:
    """The loss of an autoencoder: mean −log p(x | z(x) + noise) + c |z(x)|², on batches of `WithNoise`.

    Attributes:
      latent_l2: c.
    """

    latent_l2: float

    def __call__(self, params: Any, model: Any, batch: Any, negatives: Any) -> tuple[jax.Array, dict]:
        """Returns the loss, and its first part as `reconstruction`."""
        del negatives
        coder: Autoencoder = model.model
        images, noise = batch
        z = jax.vmap(coder.encode, (None, 0))(params, images)
        of_images = jax.vmap(coder.energy_given, (None, 0, 0))(params, images, z + noise).mean()
        return of_images + self.latent_l2 * jnp.square(z).sum(axis=1).mean(), {"reconstruction": of_images}


class _Trainer(NamedTuple):
    """What training needs beside the data."""

    model: LatentModel
    objective: Objective
    source: AdaptiveChains
    rates: tuple[Any, Any]
    starts: tuple[Any, Any]


def build(config: LatentConfig) -> Experiment:
    """Loads the data and returns the experiment.

    Raises:
      ConfigError: If a batch has more rows than the data.
    """
    key = jax.random.key(config.seed)
    images = data.load_images(config.data)
    n, batch_size = len(images.train), config.training.batch_size
    if batch_size > n:
        problem = f"training.batch_size: {batch_size} was given, and there are {n} rows to train on: give at most {n}"
        raise ConfigError(config.name, [problem])
    n_batches = n // batch_size
    n_first = config.autoencoder.n_epochs * n_batches
    model, objective, source, rates, _ = _trainer(config, n_batches)
    coder = model.autoencoder
    run_keys = run_keys_of(config)
    threshold = config.data.threshold
    train = jax.device_put((images.train > threshold).astype(np.uint8))
    held_out = (images.test if config.evaluation.split == "test" else images.validation) > threshold
    skip = config.health.policy == "skip"
    limits = optimiser.limits(config.health) if skip else None
    noise = WithNoise(config.autoencoder.noise, coder.n_latents)
    # The latents of the training images for the parameters of the autoencoder that they were made with.
    cached: list[Any] = [None, None]

    def latents_of(params: Any, whitening: Whitening) -> jax.Array:
        if cached[0] is not params:
            cached[:] = params, whitening.apply(encoded(coder, params, train))
        return cached[1]

    def advance_state(state: LatentState, n_steps: int) -> tuple[LatentState, Any]:
        step = int(state.autoencoder.step)
        if step < n_first:
            plan = Plan(coder, n_batches, batch_size, n_steps, noise, skip, objective)
            new, metrics = advance(plan, None, None, run_keys[0], state.autoencoder, train, limits)
            state = state._replace(autoencoder=new)
            if step + n_steps == n_first:
                whitening = whitening_of(encoded(coder, new.params, train))
                state = state._replace(whitening=jax.device_put(whitening))
            return state, metrics
        rows = latents_of(state.autoencoder.params, state.whitening)
        plan = Plan(model.prior, n_batches, batch_size, n_steps, None, skip)
        new, metrics = advance(plan, source, None, run_keys[1], state.energy, rows, limits)
        return state._replace(energy=new), metrics

    def latents(params: LatentParams) -> Latents:
        """Whitened latents of training and held-out images."""
        z = encoded(coder, params.autoencoder, held_out.astype(np.uint8))
        whitened = params.whitening.apply(z)
        return Latents(np.asarray(latents_of(params.autoencoder, params.whitening)), np.asarray(whitened))

    def evaluate(
        params: LatentParams, settings: LatentEvaluationConfig, groups: Iterable[str]
    ) -> dict[str, float]:
        evaluation_key = jax.random.fold_in(key, data.EVALUATION)
        context = Evaluation(
            config, model, params, held_out, lambda: latents(params), settings, evaluation_key
        )
        return measure(METRICS, context, groups)

    def groups_due(step: int) -> tuple[str, ...]:
        return (
            tuple(dict.fromkeys(metric.group for metric in METRICS)) if step > n_first else AUTOENCODER_GROUPS
        )

    def draws(params: LatentParams) -> dict[str, np.ndarray]:
        return sampling.final_draws(config, model, params, held_out, jax.random.fold_in(key, data.DRAWS))

    def learning_rate(state: LatentState) -> float:
        phase = 0 if int(state.energy.step) == 0 else 1
        return optimiser.applied_rate((state.autoencoder, state.energy)[phase], rates[phase])

    return Experiment(
        n_batches=n_batches,
        init=lambda: init(config, n_batches),
        advance=advance_state,
        learning_rate=learning_rate,
        with_rate_factor=with_rate_factor,
        evaluate=evaluate,
        draws=draws,
        groups_due=groups_due,
        data_digest=images.digest,
    )


def model_of(config: LatentConfig) -> LatentModel:
    """Returns the model of a configuration."""
    n_latents = config.autoencoder.n_latents
    network = MLP(tuple(config.model.features), config.model.activation)
    coder = Autoencoder(data.image_shape(config.data), n_latents, config.autoencoder.n_hidden)
    return LatentModel(LatentEnergy(network, (n_latents,)), coder)


def run_keys_of(config: LatentConfig) -> tuple[Key, Key]:
    """Returns the keys of the two phases."""
    run_key = jax.random.fold_in(jax.random.key(config.seed), data.RUN)
    return jax.random.fold_in(run_key, 0), jax.random.fold_in(run_key, 1)


def init(config: LatentConfig, n_batches: int) -> LatentState:
    """Returns the state at step 0, with a whitening that changes nothing."""
    trainer = _trainer(config, n_batches)
    coder, energy = (start(key) for start, key in zip(trainer.starts, run_keys_of(config), strict=True))
    n = trainer.model.autoencoder.n_latents
    return LatentState(coder, Whitening(jnp.zeros(n), jnp.eye(n), jnp.eye(n)), energy)


def struct(config: LatentConfig) -> LatentState:
    """Returns the shapes and dtypes of the state, without data."""
    # They do not depend on the number of batches, which is known only with the data.
    return jax.eval_shape(lambda: init(config, 1))


def params_of(config: LatentConfig, state: LatentState) -> LatentParams:
    """Returns the parameters that are judged and kept."""
    energy = optimiser.judged_params(config.training, state.energy)
    return LatentParams(energy, state.autoencoder.params, state.whitening)


def with_rate_factor(state: LatentState, factor: float) -> LatentState:
    """Returns a state whose learning rates are those of the schedules times `factor`, in both phases."""
    coder, energy = (optimiser.with_rate_factor(part, factor) for part in (state.autoencoder, state.energy))
    return state._replace(autoencoder=coder, energy=energy)


def encoded(coder: Autoencoder, params: Any, bits: Any) -> jax.Array:
    """Returns the latents of images of bits, `(n, n_latents)`, before they are whitened."""
    parts = [_encode(coder, params, bits[i : i + _CHUNK]) for i in range(0, len(bits), _CHUNK)]
    return jnp.concatenate(parts)


@functools.partial(jax.jit, static_argnums=0)
def _encode(coder: Autoencoder, params: Any, bits: jax.Array) -> jax.Array:
    return jax.vmap(coder.encode, (None, 0))(params, bits.astype(jnp.float32))


def _trainer(config: LatentConfig, n_batches: int) -> _Trainer:
    model, section, coding = model_of(config), config.negatives, config.autoencoder
    of_coder = TrainingConfig(
        n_epochs=coding.n_epochs, optimizer="adam", learning_rate=coding.learning_rate, schedule="cosine"
    )
    of_energy = config.training.model_copy(update={"n_epochs": config.training.n_epochs - coding.n_epochs})
    rates = optimiser.schedule(of_coder, n_batches), optimiser.schedule(of_energy, n_batches)
    objective = Objective(Reconstruction(coding.latent_l2), needs_negatives=False)
    start_key = jax.random.fold_in(jax.random.key(config.seed), data.RUN)
    source = AdaptiveChains(
        mala(model.prior, section.step_size),
        sampling.normal_start(start_key, section.n_chains, coding.n_latents),
        jnp.float32(section.target_acceptance),
        jnp.float32(section.adaptation_rate),
        section.n_steps,
    )
    coder_start, _ = make_train_step(
        model.autoencoder, optimiser.transformation(of_coder, rates[0]), objective=objective
    )
    energy_start, _ = make_train_step(model.prior, optimiser.transformation(of_energy, rates[1]), source)
    return _Trainer(model, objective, source, rates, (coder_start, energy_start))
