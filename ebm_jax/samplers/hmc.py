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
from ebm_jax.samplers.acceptance import AdjustedKernel, CachedState
from ebm_jax.samplers.base import check_energy
from ebm_jax.samplers.continuous import (
    as_numbers,
    check_positive,
    check_scale,
    for_each_leaf,
    total,
    zero_where,
)
from ebm_jax.samplers.noise import normals_and_words
from ebm_jax.types import Info, Key, PyTree


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("step_size", "jitter", "mass"),
    meta_fields=("energy", "n_leapfrog", "random_length"),
)
@dataclass(frozen=True, eq=False)
class HMC(AdjustedKernel):
    """The kernel that `hmc` builds: the energy and the number of leapfrog steps are structure, numbers are leaves."""

    energy: Any
    step_size: Any
    jitter: Any
    mass: Any
    n_leapfrog: int
    random_length: bool

    # Above 0.651, the best rate for many independent coordinates (Beskos et al. 2013), to be safe on others.
    target_acceptance = 0.8
    elementwise = ("mass",)

    def step_with_acceptance(
        self, key: Key, params: PyTree, beta: Any, state: CachedState
    ) -> tuple[CachedState, Info, jax.Array]:
        """Takes one step; also returns the probability with which the proposal was accepted."""
        params, beta, state, size, jitter, mass = jax.lax.stop_gradient(
            (params, beta, state, self.step_size, self.jitter, self.mass)
        )
        x = state.position
        noise, word, other = normals_and_words(key, state.step, x)
        noise = zero_where(state.clamped, noise)
        mass = for_each_leaf(jnp.ones(()) if mass is None else mass, x)
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
            return x, p, *self.evaluate(params, x, state.clamped)

        start = (x, momentum, state.energy, state.gradient)
        new, end, energy, gradient = jax.lax.fori_loop(0, length, leap, start)
        end = kick(end, gradient, 0.5 * size)
        kinetic = jax.tree.map(lambda p, q, m: (q - p) * (q + p) / (2 * m), momentum, end, mass)
        gain = total(kinetic)
        finite = jnp.isfinite(energy) & jnp.isfinite(gain)
        log_ratio = -beta * (energy - state.energy) - gain
        return self.decide(state, word, log_ratio, (new, energy, gradient), finite, length)


def hmc(
    energy: Any,
    step_size: Any,
    n_leapfrog: int,
    *,
    jitter: Any = 0.2,
    random_length: bool = False,
    mass: Any = None,
) -> HMC:
    """Builds the Hamiltonian Monte Carlo kernel.

    One step draws momenta p ~ N(0, M), takes L leapfrog steps of size ε on H(x, p) = β E(x) + ½ pᵀM⁻¹p,

        p ← p − (ε/2) β ∇E(x),   x ← x + ε M⁻¹ p,   p ← p − (ε/2) β ∇E(x),

    and accepts the end with probability min(1, exp(−ΔH)) (Duane et al. 1987; Neal 2011). It costs one energy and L
    gradients.

    Args:
      energy: Function `energy(params, x) -> scalar`, x a pytree of float32 or float64 arrays, or a model with such a
        method.
      step_size: ε > 0, in the units of x times √mass. `warm_up` finds one.
      n_leapfrog: L, at most 2¹⁶.
      jitter: In [0, 1). Each step draws its own step size, uniformly on ε (1 ± jitter); 0 fixes it.
      random_length: Whether each chain and step draws its own number of leapfrog steps, uniformly on 1 … L. Chains that
        run side by side then wait for the longest.
      mass: The diagonal M: a positive number, an array, or a pytree like x. Inverse variances of the coordinates are a
        good choice. None is 1.

    Returns:
      A `Kernel` for `sample`.

    Raises:
      ValueError: If a number is outside its range, or the energy is not callable.

    Example:
      >>> kernel = ej.hmc(lambda params, x: (x**2).sum() / 2, step_size=0.3, n_leapfrog=4)
      >>> samples = ej.sample(jax.random.key(0), kernel, None, jnp.zeros((4, 3)), ej.SamplingSchedule(10, 5, 10))
      >>> samples.info.n_gradient
      Array([200, 200, 200, 200], dtype=int32)
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
