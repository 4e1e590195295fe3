"""Leaves of a train state as arrays with names, which a checkpoint can hold, and back."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.types import PyTree


def describe(array: Any) -> str:
    """Returns dtype and shape of an array, such as "float32[5,3]"."""
    return f"{np.dtype(array.dtype).name}[{','.join(map(str, array.shape))}]"


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def plain(tree: PyTree) -> PyTree:
    """Replaces typed keys by their words."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def typed(struct: PyTree, leaves: list[np.ndarray]) -> PyTree:
    """Inverts `plain`: puts `leaves` into the structure of `struct` and wraps the words of keys."""
    wanted, tree = jax.tree.flatten(struct)
    typed = [
        jax.random.wrap_key_data(jnp.asarray(leaf), impl=_key_impl(want)) if _is_key(want) else leaf
        for want, leaf in zip(wanted, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, typed)


def _key_impl(struct: Any) -> Any:
    """Returns the implementation of typed keys, which JAX tells of arrays and tracers but not of shapes."""
    found: list[Any] = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), struct)
    return found[0]


def named(tree: PyTree) -> dict[str, Any]:
    """Returns the leaves by their paths, in the order of the tree."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
