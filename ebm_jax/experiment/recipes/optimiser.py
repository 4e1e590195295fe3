"""Optimisers that recipes share: learning rate, its factor after rollbacks, and the Optax chain of a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ebm_jax.experiment.config.sections import HealthConfig, TrainingConfig
from ebm_jax.training import averaging
from ebm_jax.training.state import TrainState
from ebm_jax.training.step import Limits
from ebm_jax.types import PyTree


def schedule(training: TrainingConfig, n_batches: int) -> optax.Schedule:
    """Returns the learning rate by step.

    It rises linearly from zero for `warmup_epochs`, and from its peak follows the schedule until the last step.

    Args:
      training: The section of the configuration.
      n_batches: Updates an epoch.

    Returns:
      A function of the step.
    """
    peak, total = training.learning_rate, training.n_epochs * n_batches
    warmup_steps = round(training.warmup_epochs * n_batches)
    decay_steps = max(total - warmup_steps, 1)
    after = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, 0.0, decay_steps),
        "cosine": optax.cosine_decay_schedule(peak, decay_steps),
    }[training.schedule]
    if warmup_steps == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup_steps), after], [warmup_steps])


class RateFactor(NamedTuple):
    """State of `rate_factor`: the factor, a scalar."""

    factor: Any


def rate_factor() -> optax.GradientTransformation:
    """Returns a transformation that multiplies updates by a factor in its state, 1 until `with_rate_factor` sets it."""

    def init(params: Any) -> RateFactor:
        del params
        return RateFactor(jnp.ones((), jnp.float32))

    def update(updates: Any, state: RateFactor, params: Any = None) -> tuple[Any, RateFactor]:
        del params
        return jax.tree.map(lambda leaf: leaf * state.factor, updates), state

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def with_rate_factor(state: TrainState, factor: float) -> TrainState:
    """Returns a train state whose learning rates are those of the schedule times `factor`."""

    def is_factor(node: Any) -> bool:
        return isinstance(node, RateFactor)

    def replaced(node: Any) -> Any:
        return RateFactor(jnp.float32(factor)) if is_factor(node) else node

    return state.replace(opt_state=jax.tree.map(replaced, state.opt_state, is_leaf=is_factor))


def applied_rate(state: TrainState, rate: optax.Schedule, accumulate: int = 1) -> float:
    """Returns the learning rate of the latest update.

    Args:
      state: Train state whose `tx` comes from `transformation`. Skipped updates do not advance its schedule.
      rate: The schedule.
      accumulate: Updates for each change of the parameters.

    Returns:
      The rate, its factor included.
    """
    kinds = (optax.ScaleByScheduleState, RateFactor)
    nodes = jax.tree.leaves(state.opt_state, is_leaf=lambda node: isinstance(node, kinds))
    count = next(node.count for node in nodes if isinstance(node, optax.ScaleByScheduleState))
    factor = next(node.factor for node in nodes if isinstance(node, RateFactor))
    value: Any = _of_changes(rate, accumulate)(jnp.maximum(count - 1, 0))
    return float(value) * float(factor)


def transformation(
    training: TrainingConfig,
    rate: optax.Schedule,
    *,
    before: Sequence[optax.GradientTransformation] = (),
    decayed: PyTree = None,
    adam_b1: float = 0.9,
) -> optax.GradientTransformation:
    """Returns the Optax chain of a configuration.

    Args:
      training: The section of the configuration.
      rate: The schedule.
      before: Transformations of the gradient that come first.
      decayed: Which parameters decay, as the `mask` of `optax.add_decayed_weights`. None: all.
      adam_b1: Decay of Adam's mean of the gradient.

    Returns:
      The chain. `applied_rate`, `with_rate_factor` and `judged_params` read its state.
    """
    parts: list[Any] = [*before]
    if training.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(training.clip_norm))
    if training.weight_decay:
        parts.append(optax.add_decayed_weights(training.weight_decay, mask=decayed))
    if training.optimizer == "adam":
        parts.append(optax.scale_by_adam(adam_b1))
    elif training.momentum:
        parts.append(optax.trace(training.momentum))
    parts += [optax.scale_by_learning_rate(_of_changes(rate, training.accumulate)), rate_factor()]
    if training.ema_decay is not None:
        parts.append(averaging.average(training.ema_decay))
    chain = optax.chain(*parts)
    if training.accumulate == 1:
        return chain
    return optax.MultiSteps(chain, training.accumulate).gradient_transformation()


def _of_changes(rate: optax.Schedule, accumulate: int) -> optax.Schedule:
    """Returns the learning rate by change of the parameters, which every `accumulate`-th update makes."""
    if accumulate == 1:
        return rate

    def scaled(count: Any) -> Any:
        return rate(count * accumulate)

    return scaled


def judged_params(training: TrainingConfig, state: TrainState) -> PyTree:
    """Returns the moving average of the parameters where the configuration asks for one, else the latest."""
    return state.params if training.ema_decay is None else averaging.averaged(state.opt_state)


def limits(health: HealthConfig) -> Limits:
    """Returns the limits past which an update is skipped, as arrays."""

    def bound(value: float | None, unlimited: float) -> Any:
        return jnp.float32(unlimited if value is None else value)

    return Limits(
        gradient_norm=bound(health.max_gradient_norm, np.inf),
        energy_gap=bound(health.max_energy_gap, np.inf),
        position=bound(health.max_position, np.inf),
        movement=bound(health.min_movement, 0.0),
        acceptance=bound(health.min_acceptance, 0.0),
        grace=jnp.int32(health.grace_steps),
    )
