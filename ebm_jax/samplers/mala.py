"""The Metropolis-adjusted Langevin algorithm on any differentiable energy.

    x' = x − (ε²/2) β M ∇E(x) + ε √M z,   z ~ N(0, I)

is accepted with probability min(1, π(x') q(x | x') / (π(x) q(x' | x))), π(x) ∝ exp(−β E(x)), which leaves π exactly
invariant (Roberts and Tweedie 1996). With d = (ε/2) β √M (∇E(x) + ∇E(x')) the way back needs the noise z' = d − z, and
the logarithm of the ratio is

    −β (E(x') − E(x)) + ½|z|² − ½|z'|² = −β (E(x') − E(x)) + d · (z − d/2).

One step costs one energy and one gradient, both at x', since those at x are kept.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ebm_jax.samplers.continuous import (
    AdjustedKernelBase,
    CachedState,
    as_numbers,
    check_energy,
    check_positive,
    check_scale,
    draws,
    spread,
    total,
)
from ebm_jax.types import Info, Key, PyTree


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("step_size", "preconditioner"), meta_fields=("energy",)
)
@dataclass(frozen=True, eq=False)
class MALA(AdjustedKernelBase):
    """The kernel that `mala` builds: `energy` is structure, the numbers are leaves."""

    energy: Any
    step_size: Any
    preconditioner: Any = None

    target_acceptance = 0.574
    """The best rate for many independent coordinates (Roberts and Rosenthal 1998); `warm_up` aims at it."""
    _shaped = ("preconditioner",)

    def step_with_acceptance(
        self, key: Key, params: PyTree, beta: Any, state: CachedState
    ) -> tuple[CachedState, Info, jax.Array]:
        """Takes one step; also returns the probability with which the proposal was accepted."""
        params, beta, state, size, scale = jax.lax.stop_gradient(
            (params, beta, state, self.step_size, self.preconditioner)
        )
        x, gradient = state.position, state.gradient
        noise, word, _ = draws(key, state.step, x)
        root = spread(jnp.sqrt(1.0) if scale is None else jax.tree.map(jnp.sqrt, scale), x)

        def move(x: jax.Array, g: jax.Array, z: jax.Array, r: jax.Array) -> jax.Array:
            return (x + size * r * (z - 0.5 * size * beta * r * g)).astype(x.dtype)

        new = jax.tree.map(move, x, gradient, noise, root)
        if state.clamped is not None:
            new = jax.tree.map(jnp.where, state.clamped, x, new)
        new_energy, new_gradient = self._evaluate(params, new, state.clamped)

        def way_back(g: jax.Array, h: jax.Array, z: jax.Array, r: jax.Array) -> jax.Array:
            d = 0.5 * size * beta * r * (g + h)
            return d * (z - 0.5 * d)

        correction = total(jax.tree.map(way_back, gradient, new_gradient, noise, root))
        finite = jnp.isfinite(new_energy) & jnp.isfinite(correction)
        log_ratio = correction - beta * (new_energy - state.energy)
        return self._decide(state, word, log_ratio, (new, new_energy, new_gradient), finite, 1)

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Raises ValueError where positions or numbers do not fit, or an energy is not finite at its start."""
        check_scale("step_size", self.step_size, positive=True)
        super().check(params, x, clamped)


def mala(energy: Any, step_size: Any, *, preconditioner: Any = None) -> MALA:
    """Returns the Metropolis-adjusted Langevin kernel with proposals x − (ε²/2) β M ∇E(x) + ε √M z.

    energy: `energy(params, x) -> scalar`, x a pytree of float32 or float64 arrays, or a model with such a method.
    step_size: ε > 0 in x's units; `warm_up` finds one. preconditioner: the diagonal M, a positive number, array or
    pytree like x; variances of the coordinates are a good one.
    Raises ValueError on a number that is not finite and greater than 0, or an energy that is not callable.
    """
    check_energy(energy)
    check_scale("step_size", step_size, positive=True)
    check_positive("preconditioner", preconditioner)
    return MALA(energy, as_numbers(step_size), as_numbers(preconditioner))
