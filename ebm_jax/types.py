"""Aliases and the report of a run, which everything shares. This module imports nothing of the package.

Sign convention, everywhere: p(x) ∝ exp(−β E(x; θ)), so a configuration of low energy is likely.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

Key: TypeAlias = jax.Array
"""A typed random key, as `jax.random.key` makes it."""

PyTree: TypeAlias = Any
"""Any nesting of tuples, lists, dicts and registered classes with arrays as leaves."""


# `n_proposed` stays here once it gets here.
_MAX_COUNT = np.uint32(2**32 - 1)


class Info(NamedTuple):
    """What a run of steps cost and how it went, one entry for each chain.

    Counts add up over steps.

    Attributes:
      n_steps: int32, steps taken.
      n_energy: int32, evaluations of the energy. Gibbs sampling needs none.
      n_gradient: int32, evaluations of its gradient.
      n_proposed: uint32, proposals of an accept/reject rule. It stays at 2³² − 1 once it gets there, and the acceptance
        is then NaN.
      n_accepted: uint32, accepted proposals.
      n_nonfinite: int32, steps that ended with a NaN or infinite value. Of a discrete kernel: steps with such
        parameters or β (of a cluster kernel, also with a field or with β J under 0). Of MALA and HMC: steps that
        rejected a proposal because its energy was such a value.
      first_nonfinite: int32, the chain's step counter after the first such step; −1 if there was none.

    Example:
      >>> float(ej.Info.of(n_steps=10, n_proposed=8, n_accepted=6).acceptance)
      0.75
    """

    n_steps: Int[Array, "*batch"]
    n_energy: Int[Array, "*batch"]
    n_gradient: Int[Array, "*batch"]
    n_proposed: Int[Array, "*batch"]
    n_accepted: Int[Array, "*batch"]
    n_nonfinite: Int[Array, "*batch"]
    first_nonfinite: Int[Array, "*batch"]

    @classmethod
    def zero(cls) -> Info:
        """Returns the report of no step."""
        i, u = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.uint32)
        return cls(i, i, i, u, u, i, jnp.full((), -1, jnp.int32))

    @classmethod
    def of(cls, **counts: Any) -> Info:
        """Returns a report with the given counts and zero elsewhere."""
        zero = cls.zero()
        return zero._replace(**{k: jnp.asarray(v, getattr(zero, k).dtype) for k, v in counts.items()})

    @property
    def acceptance(self) -> Float[Array, "*batch"] | Float[np.ndarray, "*batch"]:
        """n_accepted / n_proposed; NaN after no proposals (as in Gibbs sampling), or after 2³² − 1 or more.

        A NumPy array, unless the counts are being traced.
        """
        return acceptance_rate(self.n_accepted, self.n_proposed)

    def then(self, later: Info) -> Info:
        """Returns the report of these steps followed by `later` ones."""
        first = jnp.where(self.first_nonfinite >= 0, self.first_nonfinite, later.first_nonfinite)
        summed = jax.tree.map(jnp.add, self, later)
        proposed = jnp.where(summed.n_proposed < self.n_proposed, _MAX_COUNT, summed.n_proposed)
        return summed._replace(first_nonfinite=first, n_proposed=proposed)


def acceptance_rate(
    n_accepted: Array | np.ndarray, n_proposed: Array | np.ndarray
) -> Float[Array, "*batch"] | Float[np.ndarray, "*batch"]:
    """Returns n_accepted / n_proposed; NaN where nothing was proposed, or 2³² − 1 or more.

    `jax_debug_nans` refuses the results of compiled programs that hold a NaN. So kernels and train steps return the
    counts, and NumPy divides them here, unless they are being traced.
    """
    traced = any(isinstance(count, Tracer) for count in (n_accepted, n_proposed))
    xp: Any = jnp if traced else np
    accepted, proposed = xp.asarray(n_accepted), xp.asarray(n_proposed)
    known = (proposed > 0) & (proposed < _MAX_COUNT)
    rate = accepted.astype(jnp.result_type(float)) / xp.maximum(proposed, 1).astype(jnp.result_type(float))
    return xp.where(known, rate, xp.asarray(np.nan, rate.dtype))


def count_parameters(params: PyTree) -> int:
    """Returns the number of scalars in a pytree of parameters.

    Args:
      params: Any pytree of arrays, or of their shapes.

    Returns:
      The number of scalars.

    Example:
      A tied 28×28 grid of four levels has 28·28·4 + 2 parameters.

      >>> ej.count_parameters(ej.Potts(ej.Grid(28, 28), n_levels=4).params_struct())
      3138
    """
    return sum(math.prod(getattr(leaf, "shape", ())) for leaf in jax.tree.leaves(params))
