"""What every driver of chains does: keys, reports, and arrays in a form that compiles once."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

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


def with_leading_axes(values: jax.Array, ndim: int) -> jax.Array:
    """Returns `values` with axes of length 1 in front, `ndim` axes in all.

    NumPy's rules of broadcasting do the same in silence; `jax_numpy_rank_promotion="raise"` refuses them.
    """
    return values.reshape((1,) * (ndim - values.ndim) + values.shape)


def select(keep: jax.Array, kept: PyTree, other: PyTree) -> PyTree:
    """Returns the rows of `kept` where `keep`, `(n_chains,)`, is True, and those of `other` elsewhere."""

    def choose(kept: jax.Array, other: jax.Array) -> jax.Array:
        return jnp.where(keep.reshape(keep.shape + (1,) * (kept.ndim - keep.ndim)), kept, other)

    return jax.tree.map(choose, kept, other)


def with_automatic_axes(fun: Callable[..., PyTree], out: PyTree, *args: PyTree) -> PyTree:
    """Returns `fun(*args)`, with mesh axes of explicit type left to the compiler inside `fun`.

    Packing reshapes and pads the chain axis, which explicit axes refuse.

    Args:
      fun: The function to call.
      out: The `PartitionSpec` of every result.
      *args: Its arguments.

    Returns:
      What `fun` returns.
    """
    if not jax.sharding.get_abstract_mesh().explicit_axes:
        return fun(*args)
    return jax.sharding.auto_axes(fun, out_sharding=out)(*args)


def partitions(tree: PyTree) -> PyTree:
    """Returns the `PartitionSpec` of every leaf; one that names no axis where nothing is known."""
    return jax.tree.map(lambda leaf: getattr(jax.typeof(leaf).sharding, "spec", PartitionSpec()), tree)
