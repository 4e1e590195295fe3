"""Figures of a train step that show whether training is healthy, and limits past which an update is skipped."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ebm_jax.types import Info, PyTree, acceptance_rate


class Energies(NamedTuple):
    """Mean energies of a step; of a run, the same with leading axes.

    Attributes:
      data: Mean F over the batch.
      model: Mean F over the negatives.
      gap: model − data.
    """

    data: Float[Array, "*batch"] | np.ndarray
    model: Float[Array, "*batch"] | np.ndarray
    gap: Float[Array, "*batch"] | np.ndarray


class Metrics(NamedTuple):
    """Health of a step; of a run, the same with leading axes. All is measured before the update.

    What a step may not have (energies, proposals) is NaN in the properties, and in no field: programs that return
    metrics run under `jax_debug_nans`.

    Attributes:
      loss: What the objective minimises; by default the surrogate −energy_gap.
      energies: The energies of both sides, or None where the objective reports none.
      gradient_norm: Euclidean norm over all parameters, before `tx`.
      n_proposed: uint32, proposals of the step's kernels; 0 for kernels that propose nothing (Gibbs).
      n_accepted: uint32, those that were accepted.
      n_nonfinite: int32, NaN or infinite values among the loss, the energies, the gradient,
        the new parameters and the new variables, and steps of chains that ended with one.
      n_dead: int32, chains that had proposals in this step and accepted none of them; 0 for kernels that propose
        nothing (Gibbs).
      n_skipped: int32, 1 where limits left the update out, else 0.
      extra: Further figures of the objective by name.
    """

    loss: Float[Array, "*batch"] | np.ndarray
    energies: Energies | None
    gradient_norm: Float[Array, "*batch"] | np.ndarray
    n_proposed: Int[Array, "*batch"] | np.ndarray
    n_accepted: Int[Array, "*batch"] | np.ndarray
    n_nonfinite: Int[Array, "*batch"] | np.ndarray
    n_dead: Int[Array, "*batch"] | np.ndarray
    n_skipped: Int[Array, "*batch"] | np.ndarray
    extra: Mapping[str, Any] = {}

    @property
    def energy_gap(self) -> Float[Array, "*batch"] | np.ndarray:
        """energy_model − energy_data; NaN where the objective reports no energies.

        It is positive while the model finds the data likelier than its own samples, near 0 at the optimum, and runs
        away when chains no longer follow the model.
        """
        return self._unknown() if self.energies is None else self.energies.gap

    @property
    def energy_data(self) -> Float[Array, "*batch"] | np.ndarray:
        """Mean F over the batch; NaN where the objective reports none."""
        return self._unknown() if self.energies is None else self.energies.data

    @property
    def energy_model(self) -> Float[Array, "*batch"] | np.ndarray:
        """Mean F over the negatives; NaN where the objective reports none."""
        return self._unknown() if self.energies is None else self.energies.model

    @property
    def acceptance(self) -> Float[Array, "*batch"] | np.ndarray:
        """Share of all proposals of the step that were accepted; NaN for kernels that propose nothing."""
        return acceptance_rate(self.n_accepted, self.n_proposed)

    def figures(self) -> dict[str, Any]:
        """Returns every figure by name, those of the objective last."""
        return {name: getattr(self, name) for name in FIGURES} | dict(self.extra)

    def _unknown(self) -> np.ndarray:
        return np.full(self.loss.shape, np.nan, np.float32)


FIGURES = (
    "loss",
    "energy_gap",
    "energy_data",
    "energy_model",
    "gradient_norm",
    "acceptance",
    "n_nonfinite",
    "n_dead",
    "n_skipped",
)
"""Names of the figures that every step has, in the order of a row of metrics."""


class Limits(NamedTuple):
    """Bounds past which an update is skipped, numbers or traced scalars.

    Attributes:
      gradient_norm: Largest gradient norm.
      energy_gap: Largest |energy_gap|, for objectives that report energies.
      position: Largest `position_max`, for sources that report it.
      movement: Least `movement`, for sources that report it.
      acceptance: Least acceptance, for kernels that propose.
      grace: Updates at the start of a run during which only NaN and infinite values count.
    """

    gradient_norm: Float[Array, ""] | float = np.inf
    energy_gap: Float[Array, ""] | float = np.inf
    position: Float[Array, ""] | float = np.inf
    movement: Float[Array, ""] | float = 0.0
    acceptance: Float[Array, ""] | float = 0.0
    grace: Int[Array, ""] | int = 0


def measure(
    loss: Array, extras: Mapping[str, Any], grads: PyTree, updated: PyTree, info: Info
) -> tuple[Metrics, Bool[Array, ""]]:
    """Measures a step.

    Args:
      loss: The objective's value.
      extras: What it reports beside.
      grads: Its gradient.
      updated: Parameters and variables after the update.
      info: Report of the sampler, a row a chain.

    Returns:
      The metrics, and whether loss, energies, gradient and updated arrays are all finite.

    Raises:
      ValueError: If the objective reports a figure under the name of another metric.
    """
    extras = dict(extras)
    energies = [extras.pop(name) for name in ("energy_data", "energy_model") if name in extras]
    taken = sorted(set(extras) & {*FIGURES, *Metrics._fields})
    if len(energies) == 1 or taken:
        raise ValueError(
            f"the objective reports {sorted(extras)} and {len(energies)} energies; give energy_data and energy_model "
            f"together or neither, and names other than {taken or list(FIGURES)}"
        )
    figures = [*energies, loss]
    squares = _sum_of_squares(grads)
    n_nonfinite = _count_nonfinite((figures, grads, updated), squares, (figures, updated))
    metrics = Metrics(
        loss=loss,
        energies=Energies(energies[0], energies[1], energies[1] - energies[0]) if energies else None,
        gradient_norm=jnp.sqrt(squares),
        n_proposed=jnp.sum(info.n_proposed, dtype=jnp.uint32),
        n_accepted=jnp.sum(info.n_accepted, dtype=jnp.uint32),
        n_nonfinite=n_nonfinite + jnp.sum(info.n_nonfinite, dtype=jnp.int32),
        n_dead=jnp.sum((info.n_proposed > 0) & (info.n_accepted == 0), dtype=jnp.int32),
        n_skipped=jnp.zeros((), jnp.int32),
        extra={name: jnp.asarray(value) for name, value in extras.items()},
    )
    return metrics, n_nonfinite == 0


def within(limits: Limits, metrics: Metrics, step: Int[Array, ""]) -> Bool[Array, ""]:
    """Whether the update after `step` others exceeds no limit.

    A norm that overflows exceeds every limit, because the optimiser would square the same gradient. Another figure that
    is NaN exceeds none: nothing reports it, or it is counted as not finite.
    """
    norm = jnp.asarray(metrics.gradient_norm)
    unknown = jnp.full((), jnp.nan, jnp.float32)
    over = (
        (norm > limits.gradient_norm)
        | (jnp.abs(metrics.energy_gap) > limits.energy_gap)
        | (metrics.extra.get("position_max", unknown) > limits.position)
        | (metrics.extra.get("movement", unknown) < limits.movement)
        | (metrics.acceptance < limits.acceptance)
    )
    return jnp.isfinite(norm) & ~(over & (step >= limits.grace))


def _sum_of_squares(tree: PyTree) -> Float[Array, ""]:
    return functools.reduce(jnp.add, [jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)])


def _count_nonfinite(tree: PyTree, known_sum: Float[Array, ""], rest: PyTree) -> Int[Array, ""]:
    """Counts NaN and infinite values of `tree`.

    One NaN or infinity makes the sum non-finite. The sum is cheap, so elements are counted only then.
    `known_sum` covers all of `tree` but `rest`.
    """
    total = functools.reduce(jnp.add, [jnp.sum(leaf) for leaf in jax.tree.leaves(rest)], known_sum)

    def count() -> Int[Array, ""]:
        return functools.reduce(
            jnp.add, [jnp.sum(~jnp.isfinite(leaf), dtype=jnp.int32) for leaf in jax.tree.leaves(tree)]
        )

    return jax.lax.cond(jnp.isfinite(total), lambda: jnp.zeros((), jnp.int32), count)
