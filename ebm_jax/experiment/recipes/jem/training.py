"""Training of a classifier as an energy of its inputs, in two phases.

The classifier epochs minimise the cross-entropy with a penalty of large energies, without negatives. The joint epochs
add the contrast of E(x) = −log Σ_y exp f(x)[y] between data and Langevin chains (Grathwohl et al. 2020, "Your
classifier is secretly an energy based model and you should treat it like one"). Which phase an update belongs to
follows from its step alone, so a resumed run goes on in the right one. The optimiser's moments go on from one
phase to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ebm_jax.energies.networks import MLP
from ebm_jax.energies.neural import JointEnergy
from ebm_jax.experiment.config import ConfigError
from ebm_jax.experiment.recipes import optimiser
from ebm_jax.experiment.recipes.base import Experiment, measure
from ebm_jax.experiment.recipes.images import data
from ebm_jax.experiment.recipes.jem import sampling
from ebm_jax.experiment.recipes.jem.config import JemConfig, JemEvaluationConfig, JemTrainingConfig
from ebm_jax.experiment.recipes.jem.evaluation import Evaluation
from ebm_jax.experiment.recipes.jem.metrics import METRICS
from ebm_jax.training import negatives, network_objectives
from ebm_jax.training.loop import Plan, advance
from ebm_jax.training.objectives import Objective
from ebm_jax.training.sources import Source
from ebm_jax.training.state import TrainState
from ebm_jax.training.step import make_train_step
from ebm_jax.types import Key

_EVERY_EVALUATION = ("classifier", "ood")


@dataclass(frozen=True)
class NoisyRows:
    """A function for `Plan.prepare`: grey values become floats, moved and with normal noise; labels stay.

    Attributes:
      scale: Standard deviation of the noise.
      shift: Largest number of pixels by which an image is moved; black fills what it leaves.
    """

    scale: float
    shift: int = 0

    def __call__(self, key: Key, rows: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Returns floats and labels from a batch of uint8 and labels."""
        pixels, labels = rows
        if self.shift:
            pixels = _shifted(jax.random.fold_in(key, 1), pixels, self.shift)
        x = data.as_floats(pixels)
        return x + self.scale * jax.random.normal(key, x.shape), labels


def _shifted(key: Key, pixels: jax.Array, shift: int) -> jax.Array:
    """Moves each image by whole numbers of pixels, uniform in [-shift, shift] along either side."""
    padded = jnp.pad(pixels, ((0, 0), (shift, shift), (shift, shift)))
    corners = jax.random.randint(key, (len(pixels), 2), 0, 2 * shift + 1)
    shape = pixels.shape[1:]
    return jax.vmap(lambda image, corner: jax.lax.dynamic_slice(image, corner, shape))(padded, corners)


class _Trainer(NamedTuple):
    """What training needs beside the data."""

    model: JointEnergy
    source: Source
    objective: Objective
    rate: optax.Schedule
    start: Callable[..., TrainState]


def build(config: JemConfig) -> Experiment:
    """Loads the data and returns the experiment.

    Raises:
      ConfigError: If a batch has more rows than the data.
    """
    key = jax.random.key(config.seed)
    run_key = jax.random.fold_in(key, data.RUN)
    images = data.load_images(config.data)
    training, settings = config.training, config.evaluation
    n, batch_size = len(images.train), training.batch_size
    if batch_size > n:
        problem = f"training.batch_size: {batch_size} was given, and there are {n} rows to train on: give at most {n}"
        raise ConfigError(config.name, [problem])
    n_batches = n // batch_size
    n_first, n_updates = training.classifier_epochs * n_batches, training.n_epochs * n_batches
    model, source, joint, rate, start = _trainer(config, n_batches, images)
    source.check_run(n_updates - n_first)
    rows = jax.device_put((images.train, images.labels[0]))
    skip = config.health.policy == "skip"
    limits = optimiser.limits(config.health) if skip else None
    moved, still = (NoisyRows(config.data.noise, shift) for shift in (config.data.shift, 0))
    classification = network_objectives.classification(config.objective.logsumexp_l2)

    def advance_state(state: TrainState, n_steps: int) -> tuple[TrainState, Any]:
        in_first = int(state.step) < n_first
        objective, drawn, prepare = (classification, None, moved) if in_first else (joint, source, still)
        plan = Plan(model, n_batches, batch_size, n_steps, prepare, skip, objective)
        return advance(plan, drawn, None, run_key, state, rows, limits)

    def context(params: Any, settings: JemEvaluationConfig) -> Evaluation:
        evaluation_key = jax.random.fold_in(key, data.EVALUATION)
        return Evaluation(config, model, params, images, settings, evaluation_key)

    def evaluate(params: Any, settings: JemEvaluationConfig, groups: Iterable[str]) -> dict[str, float]:
        return measure(METRICS, context(params, settings), groups)

    def draws_samples(step: int) -> bool:
        epoch, is_later = divmod(step, n_batches)
        return step == n_updates or (step > n_first and not is_later and epoch % settings.samples_every == 0)

    def groups_due(step: int) -> tuple[str, ...]:
        every = tuple(dict.fromkeys(metric.group for metric in METRICS))
        return every if draws_samples(step) else _EVERY_EVALUATION

    def frames(params: Any) -> Any:
        draws_key = jax.random.fold_in(key, data.DRAWS)
        return sampling.draw_frames(
            config, model, params, draws_key, sampling.N_PICTURES, config.generation.n_steps
        )

    def snapshot(params: Any, step: int) -> dict[str, np.ndarray]:
        return {"samples": frames(params).frames[-1]} if draws_samples(step) else {}

    def draws(params: Any) -> dict[str, np.ndarray]:
        pictures, steps = frames(params)
        classes_key = jax.random.fold_in(jax.random.fold_in(key, data.DRAWS), 1)
        of_classes = sampling.ends_of_classes(config, model, params, classes_key, sampling.N_OF_CLASS)
        energies = context(params, settings).energies(sampling.N_ENERGIES)
        return {
            "frames": pictures,
            "steps": steps,
            "data": images.validation[: sampling.N_PICTURES],
            "classes": data.as_pixels(of_classes),
        } | {f"energy_{name}": e.astype(np.float32) for name, e in energies.items()}

    return Experiment(
        n_batches=n_batches,
        init=lambda: start(run_key),
        advance=advance_state,
        learning_rate=lambda state: optimiser.applied_rate(state, rate, training.accumulate),
        with_rate_factor=optimiser.with_rate_factor,
        evaluate=evaluate,
        draws=draws,
        groups_due=groups_due,
        snapshot=snapshot,
        data_digest=images.digest,
    )


def model_of(config: JemConfig) -> JointEnergy:
    """Returns the joint energy of a configuration."""
    n_classes = len(data.kept_classes(config.data))
    network = MLP(tuple(config.model.features), config.model.activation, n_classes)
    return JointEnergy(network, data.image_shape(config.data), n_classes)


def struct(config: JemConfig) -> TrainState:
    """Returns the shapes and dtypes of the train state, without data."""
    # They do not depend on the number of batches or the kind of start, which need the data.
    uniform = config.negatives.model_copy(update={"start": "uniform"})
    config = config.model_copy(update={"negatives": uniform})
    return jax.eval_shape(_trainer(config, 1, None).start, jax.random.key(0))


def _trainer(config: JemConfig, n_batches: int, images: data.Images | None) -> _Trainer:
    model, training = model_of(config), config.training
    rate = rate_schedule(training, n_batches)
    source = _source(config, model, images)
    objective = network_objectives.joint(config.objective.weight, config.objective.energy_l2)
    tx = optimiser.transformation(training, rate)
    start, _ = make_train_step(model, tx, source, objective=objective)
    return _Trainer(model, source, objective, rate, start)


def _source(config: JemConfig, model: JointEnergy, images: data.Images | None) -> Source:
    """Returns the source of negatives."""
    section, n_classes = config.negatives, model.n_classes
    if section.start == "class_gaussians" and images is not None:
        start = negatives.starts.class_gaussians(
            data.as_floats(images.train), images.labels[0], n_classes, labelled=section.conditional > 0
        )
    else:
        start = negatives.starts.uniform(model.shape)
        if section.conditional:
            start = negatives.starts.with_labels(start, n_classes)
    if 0 < section.conditional < 1:
        start = negatives.starts.drop_labels(start, 1 - section.conditional)
    clamped = jax.tree.map(jnp.asarray, sampling.label_mask(model)) if section.conditional else None
    kernel, k = sampling.training_kernel(config, model), config.langevin.n_steps
    if section.method == "short_run":
        return negatives.short_run(kernel, k, section.n_chains, start=start, clamped=clamped)
    return negatives.replay(
        kernel,
        k,
        section.n_chains,
        capacity=section.capacity,
        start=start,
        reinit_rate=section.reinit_rate,
        clamped=clamped,
    )


def rate_schedule(training: JemTrainingConfig, n_batches: int) -> optax.Schedule:
    """Returns the learning rate by step: each phase has a peak and falls from it to the share `final_rate`.

    The joint phase rises to its peak for `warmup_epochs`.

    Args:
      training: The section of the configuration.
      n_batches: Updates an epoch.

    Returns:
      A function of the step.
    """
    n_first = training.classifier_epochs * n_batches
    rise = round(training.warmup_epochs * n_batches)
    n_joint = training.n_epochs * n_batches - n_first

    def falling(peak: float, n_steps: int) -> optax.Schedule:
        return {
            "constant": optax.constant_schedule(peak),
            "linear": optax.linear_schedule(peak, training.final_rate * peak, n_steps),
            "cosine": optax.cosine_decay_schedule(peak, n_steps, training.final_rate),
        }[training.schedule]

    first = falling(training.classifier_rate, max(n_first, 1))
    rising = optax.linear_schedule(0.0, training.learning_rate, max(rise, 1))
    after = falling(training.learning_rate, max(n_joint - rise, 1))
    return optax.join_schedules([first, rising, after], [n_first, n_first + rise])
