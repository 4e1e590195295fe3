"""Unadjusted Langevin dynamics on any differentiable energy.

    x ← x − step_size · β ∇E(x) + noise_scale · z,   z ~ N(0, I)

With noise_scale = √(2 · step_size) this is the Euler discretisation of the Langevin equation whose law is
p(x) ∝ exp(−β E(x)), with a bias of order step_size (Roberts and Tweedie 1996); papers that train energy-based models
choose the two apart (Du and Mordatch 2019; Nijkamp et al. 2020), which samples another temperature or none.
There is no accept/reject step. Steps are differentiable in the parameters, β, step_size and noise_scale.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import checks, rng
from ebm_jax.samplers.base import ChainState, KernelBase, step_number
from ebm_jax.types import Info, Key, PyTree


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("step_size", "noise_scale"), meta_fields=("energy",)
)
@dataclass(frozen=True, eq=False)
class Langevin(KernelBase):
    """The kernel that `langevin` builds: `energy` is structure, the two numbers are leaves."""

    energy: Any
    step_size: Any
    noise_scale: Any

    def step(self, key: Key, params: PyTree, beta: Any, state: ChainState) -> tuple[ChainState, Info]:
        """Takes one step, one gradient. A step that ends with a NaN or infinite value is counted in the info."""
        x = state.position
        gradient = jax.grad(_energy_of(self.energy), argnums=1)(params, x)
        noise = normals(key, state.step, x)

        def move(x: jax.Array, g: jax.Array, z: jax.Array) -> jax.Array:
            return (x - self.step_size * beta * g + self.noise_scale * z).astype(x.dtype)

        new = jax.tree.map(move, x, gradient, noise)
        if state.clamped is not None:
            new = jax.tree.map(jnp.where, state.clamped, x, new)
        step = state.step + jnp.uint32(1)
        finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(new)]).all()
        first = jnp.where(finite, -1, step_number(step))
        info = Info.of(n_steps=1, n_gradient=1, n_nonfinite=~finite, first_nonfinite=first)
        return ChainState(new, state.clamped, step), info

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Raises ValueError where positions are not floating, or values are not finite."""
        for path, leaf in jax.tree_util.tree_leaves_with_path(x):
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                name = "init" + jax.tree_util.keystr(path)
                raise ValueError(
                    f"{name} has dtype {leaf.dtype}; Langevin moves floating-point arrays: use .astype"
                )
        _check_scale("step_size", self.step_size)
        _check_scale("noise_scale", self.noise_scale)
        super().check(params, x, clamped)
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), x)
        energy = jax.eval_shape(_energy_of(self.energy), params, one)
        if getattr(energy, "shape", None) != ():
            raise ValueError(f"energy gives {energy} for one configuration; it must give a scalar")


def langevin(energy: Any, step_size: Any, noise_scale: Any) -> Langevin:
    """Returns the kernel x ← x − step_size · β ∇E(x) + noise_scale · z.

    energy: `energy(params, x) -> scalar`, x a pytree of floating arrays, or a model with such a method. step_size,
    noise_scale: scalars of x's units squared and x's units; for the law exp(−β E), noise_scale = √(2 · step_size).
    Raises ValueError on a negative or non-finite number, or an energy that is not callable.
    """
    if not callable(_energy_of(energy)):
        raise ValueError(f"energy is {energy!r}; give a function energy(params, x) or a model that has one")
    for name, value in (("step_size", step_size), ("noise_scale", noise_scale)):
        _check_scale(name, value)
    dtype = jnp.result_type(float)  # float64 where the user has enabled it
    return Langevin(energy, jnp.asarray(step_size, dtype), jnp.asarray(noise_scale, dtype))


def normals(key: Key, step: jax.Array, like: PyTree) -> PyTree:
    """Returns standard normals shaped like `like`: element i of the leaves is a function of (key, step, i)."""
    words = rng.chain_words(key)
    leaves, treedef = jax.tree.flatten(like)
    drawn, start = [], 0
    for leaf in leaves:
        site = jnp.arange(start, start + leaf.size, dtype=jnp.uint32).reshape(leaf.shape)
        word, _ = rng.threefry2x32(words[0], words[1], step, site + step)
        drawn.append(rng.normal(word).astype(leaf.dtype))
        start += leaf.size
    return jax.tree.unflatten(treedef, drawn)


def _energy_of(energy: Any) -> Any:
    return getattr(energy, "energy", energy)


def _check_scale(name: str, value: Any) -> None:
    """Raises ValueError unless `value` is a real scalar, and finite and not negative where it can be looked at."""
    if jnp.shape(value) != () or not jnp.issubdtype(getattr(value, "dtype", type(value)), jnp.number):
        raise ValueError(f"{name} is {value!r}; give a single real number of at least 0")
    if checks.is_concrete(value) and not (np.isfinite(value) and np.asarray(value) >= 0):
        raise ValueError(f"{name} is {value}; give a finite number of at least 0")
