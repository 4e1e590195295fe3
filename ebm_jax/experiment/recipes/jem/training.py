"""Training of a joint model: a classifier first, then cross-entropy and contrast of energies together.

Energies of a network that already recognises digits are smooth enough for few, large Langevin steps. From the start, or
with weight 1, the contrast drives energies far from zero and the classifier with them (Grathwohl et al. 2020 report the
same instability). The squares of the energies, input noise and clipped gradients keep the rest stable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from ebm_jax.energies.networks import MLP
from ebm_jax.energies.neural import ClassConditional, JointEnergy
from ebm_jax.experiment.config import ConfigError
from ebm_jax.experiment.recipes import optimiser
from ebm_jax.experiment.recipes.base import Experiment, measure
from ebm_jax.experiment.recipes.images import data
from ebm_jax.experiment.recipes.jem import sampling
from ebm_jax.experiment.recipes.jem.config import JEMConfig, JEMEvaluationConfig
from ebm_jax.experiment.recipes.jem.evaluation import Evaluation
from ebm_jax.experiment.recipes.jem.metrics import METRICS
from ebm_jax.training import classification, joint, negatives
from ebm_jax.training.loop import Plan, advance
from ebm_jax.training.sources import Source
from ebm_jax.training.state import TrainState
from ebm_jax.training.step import make_train_step
from ebm_jax.types import Key

_FINAL_CLASSIFIER_RATE = 0.1


@dataclass(frozen=True)
class NoisyPairs:
    """A `prepare`: grey values become floats in [-1, 1] with normal noise; labels stay as they are."""

    scale: float

    def __call__(self, key: Key, batch: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Returns a batch."""
        pixels, labels = batch
        x = data.as_floats(pixels)
        return x + self.scale * jax.random.normal(key, x.shape), labels


class _Trainer(NamedTuple):
    """What training needs beside the data."""

    model: JointEnergy
    source: Source
    rate: optax.Schedule
    start: Callable[..., TrainState]


def build(config: JEMConfig) -> Experiment:
    """Loads the data and returns the experiment.

    Raises:
      ConfigError: If a batch has more rows than the data.
    """
    key = jax.random.key(config.seed)
    run_key = jax.random.fold_in(key, data.RUN)
    images = data.load_images(config.data)
    n, training = len(images.train), config.training
    if training.batch_size > n:
        size = training.batch_size
        problem = (
            f"training.batch_size: {size} was given, and there are {n} rows to train on: give at most {n}"
        )
        raise ConfigError(config.name, [problem])
    n_batches = n // training.batch_size
    n_classifier = training.classifier_epochs * n_batches
    model, source, rate, start = _trainer(config, n_batches, images)
    source.check_run(training.n_epochs * n_batches - n_classifier)
    rows = jax.device_put((images.train, images.train_labels))
    skip = config.health.policy == "skip"
    limits = optimiser.limits(config.health) if skip else None
    prepare = NoisyPairs(config.data.noise)
    first = classification(config.objective.logsumexp_l2)
    second = joint(config.objective.weight, config.objective.energy_l2)

    def advance_state(state: TrainState, n_steps: int) -> tuple[TrainState, Any]:
        # Calls lie within an epoch, so all their updates are of one phase.
        if int(state.step) < n_classifier:
            plan = Plan(model, n_batches, training.batch_size, n_steps, prepare, skip, first)
            return advance(plan, None, None, run_key, state, rows, limits)
        plan = Plan(model, n_batches, training.batch_size, n_steps, prepare, skip, second)
        return advance(plan, source, None, run_key, state, rows, limits)

    def evaluate(params: Any, settings: JEMEvaluationConfig, groups: Iterable[str]) -> dict[str, float]:
        evaluation_key = jax.random.fold_in(key, data.EVALUATION)
        context = Evaluation(config, model, params, images, settings, evaluation_key)
        return measure(METRICS, context, groups)

    def draws(params: Any) -> dict[str, np.ndarray]:
        draws_key = jax.random.fold_in(key, data.DRAWS)
        energies = Evaluation(config, model, params, images, config.evaluation, draws_key).histograms()
        return sampling.final_draws(config, model, params, images, draws_key) | energies

    return Experiment(
        n_batches=n_batches,
        init=lambda: start(run_key),
        advance=advance_state,
        learning_rate=lambda state: optimiser.applied_rate(state, rate),
        with_rate_factor=optimiser.with_rate_factor,
        evaluate=evaluate,
        draws=draws,
    )


def model_of(config: JEMConfig) -> JointEnergy:
    """Returns the joint model of a configuration."""
    n_classes = max(data.kept_classes(config.data)) + 1
    network = MLP(tuple(config.model.features), config.model.activation, n_classes)
    return JointEnergy(network, data.image_shape(config.data), n_classes)


def struct(config: JEMConfig) -> TrainState:
    """Returns the shapes and dtypes of the train state, without data."""
    # They do not depend on the number of batches or on where chains start.
    return jax.eval_shape(_trainer(config, 1, None).start, jax.random.key(0))


def rate_schedule(config: JEMConfig, n_batches: int) -> optax.Schedule:
    """Returns the learning rate by step: a cosine for the classifier, then `training.schedule` after a warm-up.

    Args:
      config: The configuration.
      n_batches: Updates an epoch.

    Returns:
      A function of the step.
    """
    training = config.training
    n_classifier = training.classifier_epochs * n_batches
    peak, rise = training.learning_rate, round(training.warmup_epochs * n_batches)
    fall = max(training.n_epochs * n_batches - n_classifier - rise, 1)
    after = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, training.final_rate * peak, fall),
        "cosine": optax.cosine_decay_schedule(peak, fall, training.final_rate),
    }[training.schedule]
    first = optax.cosine_decay_schedule(
        training.classifier_rate, max(n_classifier, 1), _FINAL_CLASSIFIER_RATE
    )
    rising = optax.linear_schedule(0.0, peak, max(rise, 1))
    return optax.join_schedules([first, rising, after], [n_classifier, n_classifier + rise])


def _trainer(config: JEMConfig, n_batches: int, images: data.Images | None) -> _Trainer:
    model, training, section = model_of(config), config.training, config.negatives
    rate = rate_schedule(config, n_batches)
    sampled: Any = ClassConditional(model) if section.conditional else model
    mask = None
    start: Any = negatives.starts.uniform(model.shape)
    if section.start == "class_gaussians" and images is not None:
        pixels = data.as_floats(images.train)
        start = negatives.starts.class_gaussians(
            pixels, images.train_labels, model.n_classes, labelled=section.conditional
        )
    elif section.conditional:
        start = negatives.starts.with_labels(start, model.n_classes)
    if section.conditional:
        mask = np.zeros(model.shape, bool), np.ones(model.n_classes, bool)
    kernel = sampling.training_kernel(config, sampled)
    n_steps, n_chains = config.langevin.n_steps, section.n_chains
    if section.method == "replay":
        source: Source = negatives.replay(
            kernel,
            n_steps,
            n_chains,
            capacity=config.buffer.capacity,
            reinit_rate=config.buffer.reinit_rate,
            start=start,
            clamped=mask,
        )
    else:
        source = negatives.short_run(kernel, n_steps, n_chains, start=start, clamped=mask)
    before = [] if training.clip_norm is None else [optax.clip_by_global_norm(training.clip_norm)]
    tx = optimiser.transformation(training, rate, before=before)
    start_state, _ = make_train_step(model, tx, source, objective=joint())
    return _Trainer(model, source, rate, start_state)
