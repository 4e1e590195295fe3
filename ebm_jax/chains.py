"""What every driver of chains does: give each chain its key, and bring arrays into a form that compiles once."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ebm_jax.types import Info, Key, PyTree


def chain_keys(key: Key, n_chains: int) -> Key:
    """Returns the keys of `n_chains` chains, `fold_in(key, i)` for chain i, shape `(n_chains,)`."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n_chains))


def count_chains(states: PyTree) -> int:
    """Returns the length of the leading chain axis of states or positions."""
    return jax.tree.leaves(states)[0].shape[0]


def zero_info(n_chains: int) -> Info:
    """Returns the report of no step for each of `n_chains` chains."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n_chains,)), Info.zero())


def strongly_typed(tree: PyTree) -> PyTree:
    """Returns the tree with every leaf an array of a fixed dtype.

    JAX types Python numbers weakly, and a program that was compiled for weakly typed arguments compiles again for
    arrays.
    """
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype=jnp.result_type(leaf)), tree)
