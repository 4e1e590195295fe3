"""Mean energies of many configurations of a pairwise model, by counting bits.

The energy is linear in the parameters, E(x; θ) = −θ · φ(x), where φ holds spins or levels and pairs of them. A mean
energy is thus −θ · mean φ, and its gradient −mean φ comes with it. Means of φ are counts. 32 configurations share a
machine word, so that a pair of sites is one operation on bits for all of them.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8, UInt32

from ebm_jax.energies import pairwise
from ebm_jax.energies.sums import weighted_sum
from ebm_jax.graphs import AnyGraph, Grid

_WORD = 32


def level_planes(
    x: Bool[Array, "n *sites"] | UInt8[Array, "n *sites"], n_levels: int
) -> UInt32[Array, "*sites planes words"]:
    """Returns the binary digits of all levels, lowest first; bit c of word w is configuration 32w + c.

    Configurations that fill the last word are at level 0.
    """
    filled = jnp.pad(x.astype(jnp.uint8), [(0, -len(x) % _WORD)] + [(0, 0)] * (x.ndim - 1))
    filled = filled.reshape(-1, _WORD, *x.shape[1:])
    place = np.arange(_WORD, dtype=np.uint32).reshape(1, _WORD, *(1,) * (x.ndim - 1))
    planes = []
    for digit in range((n_levels - 1).bit_length()):
        bits = ((filled >> np.uint8(digit)) & np.uint8(1)).astype(jnp.uint32)
        planes.append(jnp.sum(bits << place, axis=1, dtype=jnp.uint32))
    return jnp.moveaxis(jnp.stack(planes), (0, 1), (-2, -1))


def one_hot_planes(
    planes: UInt32[Array, "*sites planes words"], n_levels: int, n: int
) -> UInt32[Array, "*sites levels words"]:
    """Returns, for each level, which of the n configurations are at it."""
    last = np.uint32((1 << (n % _WORD or _WORD)) - 1)
    there = np.full(planes.shape[-1], np.uint32(0xFFFFFFFF))
    there[-1] = last

    def at_level(level: int) -> Array:
        digits = [planes[..., d, :] for d in range(planes.shape[-2])]
        chosen = [digit if level >> d & 1 else ~digit for d, digit in enumerate(digits)]
        return functools.reduce(operator.and_, chosen) & there.reshape((1,) * (planes.ndim - 2) + (-1,))

    return jnp.stack([at_level(level) for level in range(n_levels)], axis=-2)


def share(words: UInt32[Array, "*shape words"], n: int, dtype: Any) -> Float[Array, "*shape"]:
    """Returns the share of the n configurations whose bits are set."""
    return jnp.sum(jax.lax.population_count(words), axis=-1, dtype=jnp.uint32).astype(dtype) / n


def share_of_equal_ends(first: Array, second: Array, n: int, dtype: Any) -> Float[Array, "*edges"]:
    """Returns the share of the n configurations in which two sites have one level, from their `level_planes`."""
    unequal = functools.reduce(
        operator.or_, [first[..., d, :] ^ second[..., d, :] for d in range(first.shape[-2])]
    )
    return 1 - share(unequal, n, dtype)


def edge_means(
    graph: AnyGraph, coupling: str, planes: Array, mean_of_ends: Callable[[Array, Array], Array]
) -> Array:
    """Returns means over configurations of a function of the two ends of an edge, in the form of the couplings.

    Args:
      graph: The graph.
      coupling: "tied" (means are summed over the edges that share a coupling), "edge" or "matrix".
      planes: Bits of all sites, `(*sites, …, words)`.
      mean_of_ends: From the bits of first and second ends, `(*edges)`, or with two level axes behind for "matrix".
    """
    means = [mean_of_ends(first, second) for first, second in pairwise.edge_ends(graph, planes)]
    if coupling == "tied":
        sums = [jnp.sum(mean) for mean in means]
        return jnp.stack(sums) if isinstance(graph, Grid) else sums[0]
    levels = means[0].shape[-2:] if coupling == "matrix" else ()
    return jnp.concatenate([mean.reshape(-1, *levels) for mean in means])


def minus_product(params: Any, statistics: Any) -> Float[Array, ""]:
    """Returns −θ · φ over all parameters; differentiation sees φ as constants."""
    products = jax.tree.map(weighted_sum, params, jax.lax.stop_gradient(statistics))
    return -jax.tree.reduce(operator.add, products)


def mean_field_energy(model: Any, params: Any, field: Array | None, x: Array) -> Float[Array, ""] | float:
    """Returns the mean of what fields add to E, which is E at parameters that are the fields alone."""
    if field is None:
        return 0.0
    zeros = jax.tree.map(jnp.zeros_like, params)
    return jnp.mean(jax.vmap(lambda f, x: model.energy(model.add_field(zeros, f), x))(field, x))
