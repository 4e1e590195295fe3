"""Hamiltonian Monte Carlo on any differentiable energy.

A step draws momenta p ~ N(0, M), follows H(x, p) = β E(x) + ½ pᵀM⁻¹p for L leapfrog steps of size ε,

    p ← p − (ε/2) β ∇E(x),   x ← x + ε M⁻¹ p,   p ← p − (ε/2) β ∇E(x),

and accepts the end with probability min(1, exp(−ΔH)), which leaves π(x) ∝ exp(−β E(x)) exactly invariant (Duane et al.
1987; Neal 2011). A trajectory whose length is near a period of some coordinate hardly moves it: each step draws its own
ε, uniform within ±jitter of the given one, and with `random_length` its own L, uniform on 1 … n_leapfrog (Neal 2011,
sec. 3.2 and 4.2).

The gradient at the start is kept from the step before, so that a step costs one energy and L gradients.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ebm_jax import checks, rng
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
    zero_where,
)
from ebm_jax.types import Info, Key, PyTree


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("step_size", "jitter", "mass"),
    meta_fields=("energy", "n_leapfrog", "random_length"),
)
@dataclass(frozen=True, eq=False)
class HMC(AdjustedKernelBase):
    """The kernel that `hmc` builds: energy, number of leapfrog steps and its kind are structure, numbers are leaves."""

    energy: Any
    step_size: Any
    jitter: Any
    mass: Any
    n_leapfrog: int
    random_length: bool

    target_acceptance = 0.8
    """Above the best rate for many independent coordinates, 0.651 (Beskos et al. 2013), to be safe on others; `warm_up`
    aims at it."""
    _shaped = ("mass",)

    def step_with_acceptance(
        self, key: Key, params: PyTree, beta: Any, state: CachedState
    ) -> tuple[CachedState, Info, jax.Array]:
        """Takes one step; also returns the probability with which the proposal was accepted."""
        params, beta, state, size, jitter, mass = jax.lax.stop_gradient(
            (params, beta, state, self.step_size, self.jitter, self.mass)
        )
        x = state.position
        noise, word, other = draws(key, state.step, x)
        noise = zero_where(state.clamped, noise)
        mass = spread(jnp.ones(()) if mass is None else mass, x)
        momentum = jax.tree.map(lambda m, z: (jnp.sqrt(m) * z).astype(z.dtype), mass, noise)
        # The two halves of a word: a step size to 2⁻¹⁶ of its range, and a length.
        low = (other & 0xFFFF).astype(jnp.float32) * 2.0**-16
        size = size * (1 + jitter * (2 * low - 1 + 2.0**-16))
        length = self.n_leapfrog
        if self.random_length:
            length = 1 + rng.below(other & jnp.uint32(0xFFFF0000), self.n_leapfrog).astype(jnp.int32)

        def kick(p: PyTree, gradient: PyTree, size: jax.Array) -> PyTree:
            return jax.tree.map(lambda p, g: (p - size * beta * g).astype(p.dtype), p, gradient)

        def drift(x: PyTree, p: PyTree) -> PyTree:
            return jax.tree.map(lambda x, p, m: (x + size * p / m).astype(x.dtype), x, p, mass)

        def leap(
            i: jax.Array, carry: tuple[PyTree, PyTree, jax.Array, PyTree]
        ) -> tuple[PyTree, PyTree, jax.Array, PyTree]:
            x, p, _, gradient = carry
            p = kick(p, gradient, jnp.where(i == 0, 0.5 * size, size))
            x = drift(x, p)
            return x, p, *self._evaluate(params, x, state.clamped)

        start = (x, momentum, state.energy, state.gradient)
        new, end, energy, gradient = jax.lax.fori_loop(0, length, leap, start)
        end = kick(end, gradient, 0.5 * size)
        kinetic = jax.tree.map(lambda p, q, m: (q - p) * (q + p) / (2 * m), momentum, end, mass)
        gain = total(kinetic)
        finite = jnp.isfinite(energy) & jnp.isfinite(gain)
        log_ratio = -beta * (energy - state.energy) - gain
        return self._decide(state, word, log_ratio, (new, energy, gradient), finite, length)

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Raises ValueError where positions or numbers do not fit, or an energy is not finite at its start."""
        check_scale("step_size", self.step_size, positive=True)
        super().check(params, x, clamped)


def hmc(
    energy: Any,
    step_size: Any,
    n_leapfrog: int,
    *,
    jitter: Any = 0.2,
    random_length: bool = False,
    mass: Any = None,
) -> HMC:
    """Returns the Hamiltonian Monte Carlo kernel of `n_leapfrog` leapfrog steps of about `step_size`.

    energy: `energy(params, x) -> scalar`, x a pytree of float32 or float64 arrays, or a model with such a method.
    step_size: ε > 0 in x's units times √mass; `warm_up` finds one. jitter: in [0, 1), 0 for a fixed ε.
    random_length: draws L uniformly on 1 … n_leapfrog for each chain and step; chains that run side by side then wait
    for the longest. mass: the diagonal M, a positive number, array or pytree like x (default 1); inverse variances of
    the coordinates are a good one.
    Raises ValueError on numbers outside these ranges, or an energy that is not callable.
    """
    check_energy(energy)
    check_scale("step_size", step_size, positive=True)
    n_leapfrog = checks.check_integer("n_leapfrog", n_leapfrog, 1)
    if n_leapfrog > 2**16:
        raise ValueError(f"n_leapfrog is {n_leapfrog}; give at most {2**16}, and larger steps")
    check_scale("jitter", jitter)
    if checks.is_concrete(jitter) and not jitter < 1:
        raise ValueError(f"jitter is {jitter}; give a number of at least 0 and less than 1")
    check_positive("mass", mass)
    numbers = (as_numbers(step_size), as_numbers(jitter), as_numbers(mass))
    return HMC(energy, *numbers, n_leapfrog, bool(random_length))
