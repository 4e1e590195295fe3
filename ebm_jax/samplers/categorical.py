"""Gibbs sampling of discrete values under any energy, a site at a time.

Every site takes a level drawn from p(xᵢ = k | the rest) ∝ exp(−β E(x with xᵢ = k)), which is found by evaluating the
energy at all K levels (Geman and Geman 1984). That costs K energies a site and nothing else is asked of the energy: it
is meant for few sites, such as the label of a joint model of labels and pixels. Levels are mapped, so what does not
depend on the site (a network's features of the pixels) is evaluated once for all K.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ebm_jax import checks, rng
from ebm_jax.samplers.base import ChainState, Kernel, energy_of, step_number
from ebm_jax.types import Info, Key, PyTree


@functools.partial(jax.tree_util.register_dataclass, data_fields=(), meta_fields=("energy", "n_levels"))
@dataclass(frozen=True, eq=False)
class CategoricalGibbs(Kernel):
    """The kernel that `categorical_gibbs` builds: all of it is structure."""

    energy: Any
    n_levels: int

    may_diverge = False

    def step(self, key: Key, params: PyTree, beta: Any, state: ChainState) -> tuple[ChainState, Info]:
        """Draws every site in turn; a site whose conditional is not finite stays, and is counted."""
        params, beta = jax.lax.stop_gradient((params, beta))
        energy, words = energy_of(self), rng.chain_words(key)
        leaves, tree = jax.tree.flatten(state.position)
        held = [None] * len(leaves) if state.clamped is None else jax.tree.leaves(state.clamped)
        finite, start = jnp.ones((), jnp.bool_), 0

        for number, mask in enumerate(held):

            def with_leaf(leaf: jax.Array, number: int = number) -> PyTree:
                return jax.tree.unflatten(tree, [*leaves[:number], leaf, *leaves[number + 1 :]])

            def draw(
                i: Any,
                carry: tuple[jax.Array, jax.Array],
                mask: Any = mask,
                with_leaf: Any = with_leaf,
                start: int = start,
            ) -> tuple[jax.Array, jax.Array]:
                leaf, finite = carry
                put = lambda k: leaf.ravel().at[i].set(k.astype(leaf.dtype)).reshape(leaf.shape)  # noqa: E731
                levels = jnp.arange(self.n_levels)
                energies = jax.vmap(lambda k: energy(params, with_leaf(put(k))))(levels)
                logits = -beta * energies
                weights = jnp.exp(logits - logits.max())
                fine = jnp.isfinite(weights).all()
                word, _ = rng.threefry2x32(
                    words[0], words[1], state.step, jnp.uint32(start) + jnp.uint32(i) + state.step
                )
                edges = jnp.cumsum(weights)
                level = jnp.minimum((rng.uniform(word) * edges[-1] >= edges).sum(), self.n_levels - 1)
                moves = fine if mask is None else fine & ~mask.ravel()[i]
                return jnp.where(moves, put(level), leaf), finite & fine

            size = leaves[number].size
            if size == 1:
                leaves[number], finite = draw(0, (leaves[number], finite))
            else:
                leaves[number], finite = jax.lax.fori_loop(0, size, draw, (leaves[number], finite))
            start += size

        step = state.step + jnp.uint32(1)
        info = Info.of(
            n_steps=1,
            n_energy=self.n_levels * start,
            n_nonfinite=~finite,
            first_nonfinite=jnp.where(finite, -1, step_number(step)),
        )
        return ChainState(jax.tree.unflatten(tree, leaves), state.clamped, step), info

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Raises ValueError where values are no levels or the energy is no scalar."""
        for path, leaf in jax.tree_util.tree_leaves_with_path(x):
            if not jnp.issubdtype(leaf.dtype, jnp.integer) and leaf.dtype != jnp.bool_:
                name = "init" + jax.tree_util.keystr(path)
                raise ValueError(
                    f"{name} has dtype {leaf.dtype}; levels are whole numbers: use .astype(jnp.int32)"
                )
        super().check(params, x, clamped)
        checks.check_levels("init", x, self.n_levels)
        if clamped is not None:
            checks.check_levels("clamped values", clamped[1], self.n_levels)
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), x)
        energy = jax.eval_shape(energy_of(self), params, one)
        if getattr(energy, "shape", None) != ():
            raise ValueError(f"energy gives {energy} for one configuration; it must give a scalar")


def categorical_gibbs(energy: Any, n_levels: int) -> CategoricalGibbs:
    """Returns the kernel that draws every site in turn from its conditional, by K = `n_levels` energies a site.

    energy: `energy(params, x) -> scalar`, x a pytree of whole numbers 0 … K − 1 (or bool with K = 2), or a model with
    such a method. Draws have a resolution of 2⁻²⁴. For Ising, Potts and RBM models `gibbs` updates whole blocks.
    Raises ValueError on an energy that is not callable, and on fewer than two levels.
    """
    if not callable(energy_of(energy)):
        raise ValueError(f"energy is {energy!r}; give a function energy(params, x) or a model that has one")
    return CategoricalGibbs(energy, checks.check_integer("n_levels", n_levels, 2))
