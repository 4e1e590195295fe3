"""Unadjusted Langevin dynamics on any differentiable energy, in the two conventions of the field.

    ula        x ← x − (ε²/2) β M ∇E(x) + ε √M z            z ~ N(0, I)
    langevin   x ← x − α β M ∇E(x) + σ √M z

`ula` is the Euler discretisation of the Langevin equation with the stationary distribution p(x) ∝ exp(−β E(x)). Its
bias is of order ε² (Roberts and Tweedie 1996). ε is that of Neal (2011, sec. 5.2). Texts that write x − ε∇E + √(2ε) z
mean our ε²/2. `langevin` is what papers that train energy-based models run, with α and σ chosen separately (Du and
Mordatch 2019: α = 10, σ = 0.005; Nijkamp et al. 2020). With σ² = 2α it is `ula` with ε = σ. Otherwise, for small steps,
it samples exp(−β′ E) with β′ = (2α/σ²) β. M is a positive diagonal, the preconditioner, 1 by default.

There is no accept/reject step. Without `clip` and bounds a step is differentiable in x, the parameters, β, M and the
two numbers; with them almost everywhere.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import checks
from ebm_jax.samplers.base import ChainState, check_energy, known_energy, one_of_chains, step_number
from ebm_jax.samplers.continuous import (
    ContinuousKernel,
    as_numbers,
    check_elementwise,
    check_positive,
    check_scale,
    for_each_leaf,
    total,
    zero_where,
)
from ebm_jax.samplers.noise import normals
from ebm_jax.types import Info, Key, PyTree


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("step_size", "noise_scale", "clip", "bounds", "preconditioner"),
    meta_fields=("energy", "clip_by", "boundary"),
)
@dataclass(frozen=True, eq=False)
class Langevin(ContinuousKernel):
    """The kernel that `ula` and `langevin` build: the numbers are leaves, everything else is structure.

    A schedule is a `jax.tree_util.Partial`, a pytree without leaves or with those that its maker gave it. `step_size`
    is the ε of `ula` if `noise_scale` is None.
    """

    energy: Any
    step_size: Any
    noise_scale: Any
    clip: Any = None
    bounds: Any = None
    preconditioner: Any = None
    clip_by: str = "norm"
    boundary: str = "clamp"

    exact = False
    state_type = ChainState
    elementwise = ("preconditioner",)

    def step(self, key: Key, params: PyTree, beta: Any, state: ChainState) -> tuple[ChainState, Info]:
        """Takes one step, one gradient. A step that ends with a NaN or infinite value is counted in the info."""
        x = state.position
        gradient = jax.grad(known_energy(self), argnums=1)(params, x)
        noise = normals(key, state.step, x)
        step_size, noise_scale = _at(self.step_size, state.step), _at(self.noise_scale, state.step)
        if self.noise_scale is None:
            step_size, noise_scale = step_size * step_size / 2, step_size
        if self.clip is not None:
            gradient = _clipped(zero_where(state.clamped, gradient), beta, self.clip, self.clip_by)
            beta = 1.0
        if self.preconditioner is not None:
            scale = for_each_leaf(self.preconditioner, x)
            gradient = jax.tree.map(jnp.multiply, scale, gradient)
            noise = jax.tree.map(lambda m, z: jnp.sqrt(m) * z, scale, noise)

        def move(x: jax.Array, g: jax.Array, z: jax.Array) -> jax.Array:
            return (x - step_size * beta * g + noise_scale * z).astype(x.dtype)

        new = jax.tree.map(move, x, gradient, noise)
        if self.bounds is not None:
            confine = _BOUNDARIES[self.boundary]
            new = jax.tree.map(confine, new, *(for_each_leaf(bound, x) for bound in self.bounds))
        if state.clamped is not None:
            new = jax.tree.map(jnp.where, state.clamped, x, new)
        step = state.step + jnp.uint32(1)
        finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(new)]).all()
        first = jnp.where(finite, -1, step_number(step))
        info = Info.of(n_steps=1, n_gradient=1, n_nonfinite=~finite, first_nonfinite=first)
        return ChainState(new, state.clamped, step), info

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Checks positions, bounds, the energy and the numbers of the kernel.

        Raises:
          ValueError: If positions are not floating or out of bounds, or values are not finite.
        """
        _check_number("step_size", self.step_size, positive=self.noise_scale is None)
        _check_number("noise_scale", self.noise_scale)
        super().check(params, x, clamped)
        if self.bounds is not None:
            for name, bound in zip(("lower bound", "upper bound"), self.bounds):
                check_elementwise(name, bound, one_of_chains(x))
            _check_inside(x, self.bounds)


def ula(
    energy: Any,
    step_size: Any,
    *,
    clip: Any = None,
    clip_by: str = "norm",
    bounds: Any = None,
    boundary: str = "clamp",
    preconditioner: Any = None,
) -> Langevin:
    """Builds the kernel of the unadjusted Langevin algorithm.

    One step is

        x ← x − (ε²/2) β M ∇E(x) + ε √M z,   z ~ N(0, I).

    Its stationary distribution tends to exp(−β E) as ε → 0 (Roberts and Tweedie 1996). On E = x²/2 with β = M = 1 its
    variance is 1 / (1 − ε²/4).

    Args:
      energy: Function `energy(params, x) -> scalar`, x a pytree of floating arrays, or a model with such a method.
      step_size: ε > 0, a scalar in the units of x, or a schedule as for `langevin`.
      clip: As for `langevin`.
      clip_by: As for `langevin`.
      bounds: As for `langevin`.
      boundary: As for `langevin`.
      preconditioner: As for `langevin`.

    Returns:
      A `Kernel` for `sample`.

    Raises:
      ValueError: If the step size is not greater than 0, and as for `langevin`.

    Example:
      >>> kernel = ej.ula(lambda params, x: (x**2).sum() / 2, step_size=0.5)
      >>> samples = ej.sample(jax.random.key(0), kernel, None, jnp.zeros((4, 3)), ej.SamplingSchedule(10, 5, 10))
      >>> samples.positions.shape
      (5, 4, 3)
    """
    _check_number("step_size", step_size, positive=True)
    return _build(
        energy, _number_or_schedule(step_size), None, clip, clip_by, bounds, boundary, preconditioner
    )


def langevin(
    energy: Any,
    step_size: Any,
    noise_scale: Any,
    *,
    clip: Any = None,
    clip_by: str = "norm",
    bounds: Any = None,
    boundary: str = "clamp",
    preconditioner: Any = None,
) -> Langevin:
    """Builds an unadjusted Langevin kernel with separate step size and noise scale.

    One step is

        x ← x − α β M ∇E(x) + σ √M z,   z ~ N(0, I).

    For small steps the chain samples exp(−β′ E) with β′ = (2α/σ²) β. With σ² = 2α its stationary distribution tends to
    exp(−β E) as α → 0. Short-run training of energy-based models uses smaller noise (Du and Mordatch 2019: α = 10,
    σ = 0.005).

    A schedule is a function of the chain's step counter, an int32 scalar that is 0 at its first step, as in Optax. A
    new schedule compiles again, unless it is a `jax.tree_util.Partial` of the same function.

    Args:
      energy: Function `energy(params, x) -> scalar`, x a pytree of floating arrays, or a model with such a method.
      step_size: α ≥ 0, a scalar in the units of x squared, or a schedule.
      noise_scale: σ ≥ 0, a scalar in the units of x, or a schedule.
      clip: The largest norm or element of β∇E. Clipping leaves NaN and infinite gradients unchanged. None
        means no clipping.
      clip_by: "norm" clips the Euclidean norm over all elements that are not clamped, "value" each element.
      bounds: `(low, high)`, each a number, an array or a pytree like x.
      boundary: "clamp" sets what is beyond a bound to the bound, as is done with pixels, and gathers mass there.
        "reflect" folds it back: the discretised reflected equation.
      preconditioner: The diagonal M: a positive number, an array or a pytree like x. It changes the speed of
        coordinates, not the stationary distribution. None is 1.

    Returns:
      A `Kernel` for `sample`.

    Raises:
      ValueError: If a number is negative or not finite, or the energy is not callable.

    Example:
      >>> kernel = ej.langevin(lambda params, x: (x**2).sum() / 2, step_size=0.1, noise_scale=0.45)
      >>> samples = ej.sample(jax.random.key(0), kernel, None, jnp.zeros((4, 3)), ej.SamplingSchedule(10, 5, 10))
      >>> samples.positions.shape
      (5, 4, 3)
    """
    for name, value in (("step_size", step_size), ("noise_scale", noise_scale)):
        _check_number(name, value)
    return _build(
        energy,
        _number_or_schedule(step_size),
        _number_or_schedule(noise_scale),
        clip,
        clip_by,
        bounds,
        boundary,
        preconditioner,
    )


def _build(
    energy: Any,
    step_size: Any,
    noise_scale: Any,
    clip: Any,
    clip_by: str,
    bounds: Any,
    boundary: str,
    preconditioner: Any,
) -> Langevin:
    check_energy(energy)
    checks.check_choice("clip_by", clip_by, ("norm", "value"))
    checks.check_choice("boundary", boundary, tuple(_BOUNDARIES))
    if clip is not None:
        check_scale("clip", clip, positive=True)
        clip = as_numbers(clip)
    if bounds is not None:
        bounds = _checked_bounds(bounds)
    if preconditioner is not None:
        preconditioner = as_numbers(preconditioner)
        check_positive("preconditioner", preconditioner)
    return Langevin(energy, step_size, noise_scale, clip, bounds, preconditioner, clip_by, boundary)


def _number_or_schedule(value: Any) -> Any:
    if isinstance(value, jax.tree_util.Partial):
        return value
    if callable(value):
        return jax.tree_util.Partial(value)
    return as_numbers(value)


def _check_number(name: str, value: Any, *, positive: bool = False) -> None:
    if value is not None and not callable(value):
        check_scale(name, value, positive=positive)


def _at(value: Any, step: jax.Array) -> Any:
    """Returns a number, or what its schedule says. As int32: Optax subtracts from the count, and uint32 would wrap."""
    return value(step_number(step)) if callable(value) else value


def _clipped(gradient: PyTree, beta: Any, clip: jax.Array, by: str) -> PyTree:
    """Returns β · gradient within `clip`; NaN and infinite values stay, so that they are counted."""
    scaled = jax.tree.map(lambda g: beta * g, gradient)
    if by == "value":
        return jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), jnp.clip(g, -clip, clip), g), scaled)
    square = total(jax.tree.map(jnp.square, scaled))
    # The condition also keeps √ from 0, where it has no derivative.
    short = square <= clip * clip
    factor = jnp.where(short, 1.0, clip / jnp.sqrt(jnp.where(short, 1.0, square)))
    return jax.tree.map(lambda g: factor * g, scaled)


def _clamp(x: jax.Array, low: Any, high: Any) -> jax.Array:
    return jnp.where(jnp.isfinite(x), jnp.clip(x, low, high), x).astype(x.dtype)


def _reflect(x: jax.Array, low: Any, high: Any) -> jax.Array:
    """Folds x back between the bounds, any number of times; once where one bound is infinite."""
    width = high - low
    both = jnp.isfinite(width)
    period = jnp.where(both, 2 * width, 1.0)
    offset = jnp.mod(jnp.where(both, x - low, 0.0), period)
    folded = low + jnp.minimum(offset, period - offset)
    once = jnp.where(x < low, 2 * low - x, 2 * high - x)
    reflected = jnp.clip(jnp.where(both, folded, once), low, high)
    return jnp.where((x < low) | (x > high), jnp.where(jnp.isfinite(x), reflected, x), x).astype(x.dtype)


_BOUNDARIES = {"clamp": _clamp, "reflect": _reflect}


def _checked_bounds(bounds: Any) -> tuple[PyTree, PyTree]:
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise ValueError(f"bounds is {bounds!r}; give (low, high)")
    low, high = map(as_numbers, bounds)
    if jax.tree.structure(low) != jax.tree.structure(high):
        raise ValueError("bounds are two different structures; give both numbers, arrays or pytrees like x")
    for a, b in zip(jax.tree.leaves(low), jax.tree.leaves(high)):
        if checks.is_concrete((a, b)) and not (np.asarray(a) < np.asarray(b)).all():
            raise ValueError(f"bounds are {bounds}; the lower must be less than the upper")
    return low, high


def _check_inside(x: PyTree, bounds: tuple[PyTree, PyTree]) -> None:
    for leaf, low, high in zip(jax.tree.leaves(x), *(jax.tree.leaves(for_each_leaf(b, x)) for b in bounds)):
        if checks.is_concrete((leaf, low, high)):
            values = np.asarray(leaf)
            outside = (values < np.asarray(low)) | (values > np.asarray(high))
            if outside.any():
                raise ValueError(
                    f"init holds {values[outside][0]}, out of bounds ({low} to {high}); start chains between them"
                )
