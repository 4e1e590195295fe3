"""Sweeps of block Gibbs sampling: of packed chains, of one chain, and of chains under any nesting of `vmap`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from ebm_jax.chains import partitions, with_automatic_axes
from ebm_jax.samplers.base import ChainState
from ebm_jax.types import PyTree


def sweeps(kernel: Any, words: jax.Array, params: PyTree, betas: jax.Array, packed: Any, n: int) -> Any:
    """Runs sweeps of packed chains.

    Args:
      kernel: A `Gibbs` kernel.
      words: Two words of every chain's key, `(chains, 2)`.
      params: Parameters with a chain axis last, of size c or 1.
      betas: `(c,)`, or `(n, c)` with one row a sweep.
      packed: The chains.
      n: How many sweeps.

    Returns:
      The chains after the sweeps.
    """
    layout = kernel.layout
    prepared = _prepare(kernel, params, packed)

    def run_at_beta(beta: jax.Array, carry: Any, length: int) -> Any:
        if not layout.has_odds:
            return _run(kernel, words, layout.weigh(prepared, beta, False), False, carry, length)
        # Decided by this β alone, so that a run cut into pieces decides alike.
        fits = layout.odds_fit(prepared, beta)

        def run(odds: bool, carry: Any) -> Any:
            return _run(kernel, words, layout.weigh(prepared, beta, odds), odds, carry, length)

        return jax.lax.cond(fits, functools.partial(run, True), functools.partial(run, False), carry)

    if betas.ndim == 1:
        return run_at_beta(betas, packed, n)
    return jax.lax.scan(lambda carry, beta: (run_at_beta(beta, carry, 1), None), packed, betas, length=n)[0]


def sweeps_at_one_beta(
    kernel: Any, words: jax.Array, params: PyTree, beta: jax.Array, packed: Any
) -> Callable[[Any, int], Any]:
    """Returns `(packed, n) -> packed`, `sweeps` at one β whose weights are computed once for all calls.

    Weights are as large as the configurations where every chain has its own biases. A sweep at a time, a Potts grid of
    four levels then takes 2.5 times as long if they are computed for each call.

    Args:
      kernel: A `Gibbs` kernel.
      words: Two words of every chain's key, `(chains, 2)`.
      params: Parameters with a chain axis last, of size c or 1.
      beta: `(1,)`.
      packed: The chains before the first call, with the fields that they keep.
    """
    layout = kernel.layout
    weigh = functools.partial(layout.weigh, _prepare(kernel, params, packed), beta)
    if not layout.has_odds:
        weights = weigh(False)
        return lambda packed, n: _run(kernel, words, weights, False, packed, n)
    fits = layout.odds_fit(weigh.args[0], beta)
    weights = jax.lax.cond(fits, lambda: weigh(True), lambda: weigh(False))
    run = functools.partial(_run, kernel, words, weights)
    return lambda packed, n: jax.lax.cond(
        fits, lambda packed: run(True, packed, n), lambda packed: run(False, packed, n), packed
    )


def _prepare(kernel: Any, params: PyTree, packed: Any) -> PyTree:
    """Lays out parameters, with the fields of the chains added to their biases."""
    if packed.field is not None:
        params = with_fields(kernel.model, params, jax.lax.stop_gradient(packed.field))
    return kernel.layout.prepare(kernel.tables, params)


def with_fields(model: Any, params: PyTree, field: PyTree) -> PyTree:
    """Returns parameters that carry a chain axis last with the fields of chains, chain axis first, added."""
    return model.add_field(params, jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), field))


def _run(kernel: Any, words: jax.Array, weights: PyTree, odds: bool, packed: Any, n: int) -> Any:
    """Takes `n` sweeps with given weights."""

    def sweep(carry: Any, _: None) -> tuple[Any, None]:
        blocks, step = carry.blocks, carry.step
        for group in range(kernel.layout.n_updates(kernel.spec)):
            blocks = kernel.layout.update(
                group, kernel.tables, weights, odds, words, step, blocks, carry.masks
            )
        return carry._replace(blocks=blocks, step=step + jnp.uint32(1)), None

    return jax.lax.scan(sweep, packed, length=n)[0]


# A kernel's methods are not compiled, but this function is. Otherwise a caller who steps eagerly, as through `bind` in
# a notebook, would compile the loop over steps again at every call.
@functools.partial(jax.jit, static_argnums=5)
def _many_chains(
    kernel: Any, words: jax.Array, params: PyTree, betas: jax.Array, states: ChainState, n: int
) -> ChainState:
    def run(
        kernel: Any, words: jax.Array, params: PyTree, betas: jax.Array, states: ChainState
    ) -> ChainState:
        return kernel.unpack(sweeps(kernel, words, params, betas, kernel.pack(params, states), n))

    return with_automatic_axes(run, partitions(states), kernel, words, params, betas, states)


@functools.cache
def sweeps_of_one_chain(n: int) -> Any:
    """Returns a function of `n` sweeps of one chain, whose batching rule runs all chains at once."""

    @custom_vmap
    def run(kernel: Any, words: jax.Array, params: PyTree, betas: jax.Array, state: ChainState) -> ChainState:
        words, state = jax.tree.map(lambda leaf: leaf[None], (words, state))
        params, betas = jax.tree.map(lambda leaf: jnp.asarray(leaf)[..., None], (params, betas))
        states = _many_chains(kernel, words, params, betas, state, n)
        return jax.tree.map(lambda leaf: leaf[0], states)

    @run.def_vmap
    def rule(size: int, batched: Any, kernel: Any, words: Any, params: PyTree, betas: Any, state: Any) -> Any:
        _refuse_batched_tables(batched[0])

        def chains_last(leaf: jax.Array, b: bool) -> jax.Array:
            return jnp.moveaxis(leaf, 0, -1) if b else leaf[..., None]

        words, state = _chains_first(words, batched[1], size), _chains_first(state, batched[4], size)
        params, betas = jax.tree.map(chains_last, (params, betas), (batched[2], batched[3]))
        new = _sweeps_of_all_chains(n)(kernel, words, params, betas, state)
        return new, jax.tree.map(lambda _: True, new)

    return run


@functools.cache
def _sweeps_of_all_chains(n: int) -> Any:
    """Returns a function of `n` sweeps of many chains, whose batching rule merges a further axis into the chain axis.

    Words and states carry the chain axis first; parameters and `betas` carry it last, of size 1 where shared.
    """

    @custom_vmap
    def run(
        kernel: Any, words: jax.Array, params: PyTree, betas: jax.Array, states: ChainState
    ) -> ChainState:
        return _many_chains(kernel, words, params, betas, states, n)

    @run.def_vmap
    def rule(
        size: int, batched: Any, kernel: Any, words: Any, params: PyTree, betas: Any, states: Any
    ) -> Any:
        _refuse_batched_tables(batched[0])
        words, states = _chains_first(words, batched[1], size), _chains_first(states, batched[4], size)
        chains = words.shape[1]

        def merge_last(leaf: jax.Array, b: bool) -> jax.Array:
            if not b and leaf.shape[-1] == 1:
                return leaf
            leaf = leaf if b else jnp.broadcast_to(leaf, (size, *leaf.shape))
            leaf = jnp.broadcast_to(jnp.moveaxis(leaf, 0, -2), (*leaf.shape[1:-1], size, chains))
            return leaf.reshape(*leaf.shape[:-2], size * chains)

        words, states = jax.tree.map(
            lambda leaf: leaf.reshape(size * chains, *leaf.shape[2:]), (words, states)
        )
        params, betas = jax.tree.map(merge_last, (params, betas), (batched[2], batched[3]))
        new = _sweeps_of_all_chains(n)(kernel, words, params, betas, states)
        new = jax.tree.map(lambda leaf: leaf.reshape(size, chains, *leaf.shape[1:]), new)
        return new, jax.tree.map(lambda _: True, new)

    return run


def _chains_first(tree: PyTree, batched: PyTree, size: int) -> PyTree:
    """Gives every leaf the leading axis that the batched leaves have."""
    return jax.tree.map(
        lambda leaf, b: leaf if b else jnp.broadcast_to(leaf, (size, *jnp.shape(leaf))), tree, batched
    )


def _refuse_batched_tables(batched: PyTree) -> None:
    if any(jax.tree.leaves(batched)):
        raise ValueError(
            "a Gibbs kernel's index tables cannot be mapped; vmap over keys, params, beta and state only"
        )
