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
from ebm_jax.functions import shown
from ebm_jax.samplers.base import (
    ChainState,
    EnergyKernel,
    check_energy,
    check_precision,
    known_energy,
    step_number,
)
from ebm_jax.samplers.discrete import check_whole_numbers
from ebm_jax.types import Info, Key, PyTree


@functools.partial(jax.tree_util.register_dataclass, data_fields=(), meta_fields=("energy", "n_levels"))
@dataclass(frozen=True, eq=False)
class CategoricalGibbs(EnergyKernel):
    """The kernel that `categorical_gibbs` builds: all of it is structure."""

    energy: Any
    n_levels: int

    may_diverge = False

    def step(self, key: Key, params: PyTree, beta: Any, state: ChainState) -> tuple[ChainState, Info]:
        """Draws every site in turn. A site whose conditional is not finite stays, and is counted."""
        params, beta = jax.lax.stop_gradient((params, beta))
        energy, words = known_energy(self), rng.chain_words(key)
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

                def put(k: jax.Array) -> jax.Array:
                    return leaf.ravel().at[i].set(k.astype(leaf.dtype)).reshape(leaf.shape)

                levels = jnp.arange(self.n_levels)
                energies = jax.vmap(lambda k: energy(params, with_leaf(put(k))))(levels)
                check_precision("energy", energies)
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
        """Checks that positions and clamped values are levels, and that the energy is a scalar.

        Raises:
          ValueError: If they are not.
        """
        check_whole_numbers(x)
        super().check(params, x, clamped)
        if self.n_levels > 2 and any(leaf.dtype == jnp.bool_ for leaf in jax.tree.leaves(x)):
            raise ValueError(
                f"init holds bools, which have 2 levels, and n_levels is {self.n_levels}; give integers"
            )
        checks.check_levels("init", x, self.n_levels)
        if clamped is not None:
            checks.check_levels("clamped values", clamped[1], self.n_levels)


def categorical_gibbs(energy: Any, n_levels: int) -> CategoricalGibbs:
    """Builds the Gibbs kernel of discrete values under any energy, a site at a time.

    One step draws every site in turn from

        p(xᵢ = k | the rest) ∝ exp(−β E(x with xᵢ = k)),

    by K energies a site (Geman and Geman 1984). Draws have a resolution of 2⁻²⁴. It is meant for few sites, such as the
    label of a joint model of labels and pixels. For Ising, Potts and RBM models `gibbs` updates whole blocks.

    Args:
      energy: Function `energy(params, x) -> scalar`, x a pytree of whole numbers 0 … K − 1 (or bool with K = 2), or a
        model with such a method.
      n_levels: K, at least 2.

    Returns:
      A `Kernel` for `sample`.

    Raises:
      ValueError: If the energy is not callable, or there are fewer than two levels.

    Example:
      >>> kernel = ej.categorical_gibbs(lambda params, x: -params[x], n_levels=3)
      >>> start, schedule = jnp.zeros(4, jnp.int32), ej.SamplingSchedule(2, 5, 2)
      >>> ej.sample(jax.random.key(0), kernel, jnp.array([0.0, 1.0, 2.0]), start, schedule).positions.shape
      (5, 4)
    """
    check_energy(energy)
    n_levels = checks.check_integer("n_levels", n_levels, 2)
    others = set(getattr(energy, "level_counts", ())) - {n_levels}
    if others:
        raise ValueError(
            f"{shown(energy)} has sites of other than n_levels={n_levels} levels; use gibbs(model), or within_gibbs "
            "with a kernel for each part"
        )
    return CategoricalGibbs(energy, n_levels)
