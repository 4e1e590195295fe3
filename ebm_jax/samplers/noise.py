"""Random words and standard normals of a chain's step: functions of (chain key, step, element).

A cipher call gives two words. Words 0 … h − 1 of n, h = ⌈n/2⌉, are the first words of calls 0 … h − 1, and the others
are the second words of the same calls. So two elements cost one call, and element i does not depend on its value or on
other chains.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ebm_jax import rng
from ebm_jax.types import Key, PyTree


def normals(key: Key, step: jax.Array, like: PyTree) -> PyTree:
    """Returns standard normals shaped like `like`."""
    n = _size(like)
    first, second = _word_pairs(key, step, -(-n // 2))
    return _shaped_normals(jnp.concatenate([first, second[: n // 2]]), like)


def normals_and_words(key: Key, step: jax.Array, like: PyTree) -> tuple[PyTree, jax.Array, jax.Array]:
    """Returns standard normals shaped like `like`, the same as `normals` gives, and two random words."""
    words, first, second = random_words(key, step, _size(like))
    return _shaped_normals(words, like), first, second


def random_words(key: Key, step: jax.Array, n: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns n random words, and the two words of one more call."""
    half = -(-n // 2)
    first, second = _word_pairs(key, step, half + 1)
    return jnp.concatenate([first[:half], second[: n - half]]), first[half], second[half]


def _word_pairs(key: Key, step: jax.Array, n_pairs: int) -> tuple[jax.Array, jax.Array]:
    """Returns the two words of each of `n_pairs` cipher calls."""
    # The barrier keeps the compiler from enciphering the chain's key for each word.
    words = jax.lax.optimization_barrier(rng.chain_words(key))
    site = jnp.arange(n_pairs, dtype=jnp.uint32)
    return rng.threefry2x32(words[0], words[1], step, site + step)


def _size(like: PyTree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(like))


def _shaped_normals(words: jax.Array, like: PyTree) -> PyTree:
    leaves, treedef = jax.tree.flatten(like)
    flat = rng.normal(words)
    drawn, start = [], 0
    for leaf in leaves:
        drawn.append(flat[start : start + leaf.size].reshape(leaf.shape).astype(leaf.dtype))
        start += leaf.size
    return jax.tree.unflatten(treedef, drawn)
