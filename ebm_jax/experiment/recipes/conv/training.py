"""Training of a convolutional energy by short Langevin chains from a replay buffer.

The energies of data and negatives are contrasted and kept near zero (Du and Mordatch 2019, "Implicit generation and
modeling with energy-based models"). Chains take few noisy steps of a large step size, whose gradient is clipped by
element, so an update moves each pixel of a chain by at most α times the clip a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from ebm_jax.energies.networks import ConvNet
from ebm_jax.energies.neural import NeuralEnergy
from ebm_jax.experiment.config import ConfigError
from ebm_jax.experiment.recipes import optimiser
from ebm_jax.experiment.recipes.base import Experiment, measure
from ebm_jax.experiment.recipes.conv import sampling
from ebm_jax.experiment.recipes.conv.config import ConvConfig, ConvEvaluationConfig, ConvTrainingConfig
from ebm_jax.experiment.recipes.conv.evaluation import Evaluation
from ebm_jax.experiment.recipes.conv.metrics import METRICS
from ebm_jax.experiment.recipes.images import data
from ebm_jax.training import negatives, network_objectives
from ebm_jax.training.loop import Plan, advance
from ebm_jax.training.objectives import Objective
from ebm_jax.training.sources import Source
from ebm_jax.training.state import TrainState
from ebm_jax.training.step import make_train_step
from ebm_jax.types import Key, PyTree


class _Trainer(NamedTuple):
    """What training needs beside the data."""

    model: NeuralEnergy
    source: Source
    objective: Objective
    rate: optax.Schedule
    start: Callable[..., TrainState]


def build(config: ConvConfig) -> Experiment:
    """Loads the data and returns the experiment.

    Raises:
      ConfigError: If a batch has more rows than the data.
    """
    key = jax.random.key(config.seed)
    run_key = jax.random.fold_in(key, data.RUN)
    images = data.load_images(config.data)
    n, batch_size = len(images.train), config.training.batch_size
    if batch_size > n:
        problem = f"training.batch_size: {batch_size} was given, and there are {n} rows to train on: give at most {n}"
        raise ConfigError(config.name, [problem])
    n_batches = n // batch_size
    model, source, objective, rate, start = _trainer(config, n_batches)
    source.check_run(config.training.n_epochs * n_batches)
    rows = jax.device_put(images.train)
    skip = config.health.policy == "skip"
    limits = optimiser.limits(config.health) if skip else None
    prepare = data.NoisyPixels(config.data.noise)

    def advance_state(state: TrainState, n_steps: int) -> tuple[TrainState, Any]:
        plan = Plan(model, n_batches, batch_size, n_steps, prepare, skip, objective)
        return advance(plan, source, None, run_key, state, rows, limits)

    def context(params: Any, settings: ConvEvaluationConfig) -> Evaluation:
        evaluation_key = jax.random.fold_in(key, data.EVALUATION)
        return Evaluation(config, model, params, images, settings, evaluation_key)

    def evaluate(params: Any, settings: ConvEvaluationConfig, groups: Iterable[str]) -> dict[str, float]:
        return measure(METRICS, context(params, settings), groups)

    def evaluate_state(
        state: TrainState, settings: ConvEvaluationConfig, groups: Iterable[str]
    ) -> dict[str, float]:
        return context(state.params, settings).buffer(state.negatives) if "buffer" in groups else {}

    def draws(params: Any) -> dict[str, np.ndarray]:
        return sampling.final_draws(config, model, params, images, jax.random.fold_in(key, data.DRAWS))

    return Experiment(
        n_batches=n_batches,
        init=lambda: start(run_key, first_params(config, model, jax.random.fold_in(run_key, 0))),
        advance=advance_state,
        learning_rate=lambda state: optimiser.applied_rate(state, rate, config.training.accumulate),
        with_rate_factor=optimiser.with_rate_factor,
        evaluate=evaluate,
        draws=draws,
        evaluate_state=evaluate_state,
        data_digest=images.digest,
    )


def model_of(config: ConvConfig) -> NeuralEnergy:
    """Returns the energy of a configuration."""
    section = config.model
    network = ConvNet(
        channels=tuple(section.channels),
        kernel_sizes=tuple(section.kernel_sizes),
        strides=tuple(section.strides),
        paddings=tuple(section.paddings),
        dense=tuple(section.dense),
        activation=section.activation,
    )
    return NeuralEnergy(network, data.image_shape(config.data))


def first_params(config: ConvConfig, model: NeuralEnergy, key: Key) -> PyTree:
    """Draws the first parameters, with the kernels of the network times `model.init_scale`."""

    def scaled(path: Any, leaf: jax.Array) -> jax.Array:
        return leaf * config.model.init_scale if path[-1].key == "kernel" else leaf

    return jax.tree_util.tree_map_with_path(scaled, model.init(key))


def struct(config: ConvConfig) -> TrainState:
    """Returns the shapes and dtypes of the train state, without data."""
    # They do not depend on the number of batches, which is known only with the data.
    return jax.eval_shape(_trainer(config, n_batches=1).start, jax.random.key(0))


def _trainer(config: ConvConfig, n_batches: int) -> _Trainer:
    model, training, buffer = model_of(config), config.training, config.buffer
    rate = rate_schedule(training, n_batches)
    source = negatives.replay(
        sampling.training_kernel(config, model),
        config.langevin.n_steps,
        training.batch_size,
        capacity=buffer.capacity,
        start=negatives.starts.uniform(model.shape),
        reinit_rate=buffer.reinit_rate,
    )
    objective = network_objectives.regularized(config.objective.energy_l2)
    tx = optimiser.transformation(training, rate, adam_b1=training.adam_b1)
    start, _ = make_train_step(model, tx, source, objective=objective)
    return _Trainer(model, source, objective, rate, start)


def rate_schedule(training: ConvTrainingConfig, n_batches: int) -> optax.Schedule:
    """Returns the learning rate by step: it rises for `warmup_epochs`, stays, and falls from `decay_start` on.

    Args:
      training: The section of the configuration.
      n_batches: Updates an epoch.

    Returns:
      A function of the step.
    """
    peak, total = training.learning_rate, training.n_epochs * n_batches
    rise = round(training.warmup_epochs * n_batches)
    fall_start = max(rise, round(training.decay_start * total))
    fall = max(total - fall_start, 1)
    after = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, training.final_rate * peak, fall),
        "cosine": optax.cosine_decay_schedule(peak, fall, training.final_rate),
    }[training.schedule]
    rising = optax.linear_schedule(0.0, peak, max(rise, 1))
    return optax.join_schedules([rising, optax.constant_schedule(peak), after], [rise, fall_start])
