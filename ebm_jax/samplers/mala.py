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

from ebm_jax.samplers.acceptance import AdjustedKernel, CachedState
from ebm_jax.samplers.base import check_energy
from ebm_jax.samplers.continuous import as_numbers, check_positive, check_scale, for_each_leaf, total
from ebm_jax.samplers.noise import normals_and_words
from ebm_jax.types import Info, Key, PyTree


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("step_size", "preconditioner"), meta_fields=("energy",)
)
@dataclass(frozen=True, eq=False)
class MALA(AdjustedKernel):
    """The kernel that `mala` builds: the energy is structure, the numbers are leaves."""

    energy: Any
    step_size: Any
    preconditioner: Any = None

    # The best rate for many independent coordinates (Roberts and Rosenthal 1998).
    target_acceptance = 0.574
    elementwise = ("preconditioner",)

    def step_with_acceptance(
        self, key: Key, params: PyTree, beta: Any, state: CachedState
    ) -> tuple[CachedState, Info, jax.Array]:
        """Takes one step; also returns the probability with which the proposal was accepted."""
        params, beta, state, size, scale = jax.lax.stop_gradient(
            (params, beta, state, self.step_size, self.preconditioner)
        )
        x, gradient = state.position, state.gradient
        noise, word, _ = normals_and_words(key, state.step, x)
        root = for_each_leaf(jnp.sqrt(1.0) if scale is None else jax.tree.map(jnp.sqrt, scale), x)

        def move(x: jax.Array, g: jax.Array, z: jax.Array, r: jax.Array) -> jax.Array:
            return (x + size * r * (z - 0.5 * size * beta * r * g)).astype(x.dtype)

        new = jax.tree.map(move, x, gradient, noise, root)
        if state.clamped is not None:
            new = jax.tree.map(jnp.where, state.clamped, x, new)
        new_energy, new_gradient = self.evaluate(params, new, state.clamped)

        def way_back(g: jax.Array, h: jax.Array, z: jax.Array, r: jax.Array) -> jax.Array:
            d = 0.5 * size * beta * r * (g + h)
            return d * (z - 0.5 * d)

        correction = total(jax.tree.map(way_back, gradient, new_gradient, noise, root))
        finite = jnp.isfinite(new_energy) & jnp.isfinite(correction)
        log_ratio = correction - beta * (new_energy - state.energy)
        return self.decide(state, word, log_ratio, (new, new_energy, new_gradient), finite, 1)


def mala(energy: Any, step_size: Any, *, preconditioner: Any = None) -> MALA:
    """Builds the Metropolis-adjusted Langevin kernel.

    One step proposes

        x' = x − (ε²/2) β M ∇E(x) + ε √M z,   z ~ N(0, I),

    and accepts it with probability min(1, π(x') q(x | x') / (π(x) q(x' | x))), π(x) ∝ exp(−β E(x)) (Roberts and
    Tweedie 1996). It costs one energy and one gradient.

    Args:
      energy: Function `energy(params, x) -> scalar`, x a pytree of float32 or float64 arrays, or a model with such a
        method.
      step_size: ε > 0, in the units of x. `warm_up` finds one.
      preconditioner: The diagonal M: a positive number, an array, or a pytree like x. Variances of the coordinates are
        a good choice. None is 1.

    Returns:
      A `Kernel` for `sample`.

    Raises:
      ValueError: If a number is not finite and greater than 0, or the energy is not callable.

    Example:
      >>> kernel = ej.mala(lambda params, x: (x**2).sum() / 2, step_size=1.0)
      >>> samples = ej.sample(jax.random.key(0), kernel, None, jnp.zeros((4, 3)), ej.SamplingSchedule(10, 5, 10))
      >>> samples.positions.shape
      (5, 4, 3)
    """
    check_energy(energy)
    check_scale("step_size", step_size, positive=True)
    check_positive("preconditioner", preconditioner)
    return MALA(energy, as_numbers(step_size), as_numbers(preconditioner))
