"""What these objectives share: real batches, random numbers shaped like a batch, and sums over one configuration."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from ebm_jax.samplers import noise
from ebm_jax.samplers.continuous import check_scale
from ebm_jax.types import Key, PyTree


def check_real(batch: PyTree) -> int:
    """Checks that a batch holds real numbers, which an energy can be differentiated in.

    Returns:
      The number of rows.

    Raises:
      ValueError: If it does not.
    """
    leaves = jax.tree.leaves(batch)
    for leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"the batch has dtype {leaf.dtype}, and this objective moves data by real noise; give floats, or an "
                "objective of discrete data such as pseudo_likelihood()"
            )
    return leaves[0].shape[0]


def check_scales(name: str, values: Any) -> tuple[float, ...]:
    """Returns positive numbers as a tuple; raises ValueError where one is not."""
    if not isinstance(values, Iterable) or not (scales := tuple(values)):
        raise ValueError(f"{name} is {values!r}; give one or more numbers, e.g. (0.1, 0.3, 1.0)")
    for value in scales:
        check_scale(name, value, positive=True)
    return tuple(map(float, scales))


def normals(key: Key, batch: PyTree, copies: int | None = None) -> PyTree:
    """Returns standard normals shaped like a batch, or `(copies, n, …)` of them."""
    return noise.normals(key, jnp.uint32(0), repeated(batch, copies))


def words(key: Key, n: int) -> UInt32[Array, " n"]:
    """Returns n random words."""
    return noise.random_words(key, jnp.uint32(0), n)[0]


def repeated(batch: PyTree, copies: int | None) -> PyTree:
    """Returns the shapes and dtypes of a batch, with a leading axis `copies` unless that is None."""
    front = () if copies is None else (copies,)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*front, *leaf.shape), leaf.dtype), batch)


def rows(numbers: Float[Array, " n"], leaf: Array) -> Array:
    """Returns a number a row with the axes of `leaf`, so that both can be multiplied."""
    return numbers.reshape(numbers.shape + (1,) * (leaf.ndim - 1)).astype(leaf.dtype)


def inner(a: PyTree, b: PyTree) -> Float[Array, ""]:
    """Returns the inner product of two pytrees."""
    return functools.reduce(jnp.add, jax.tree.leaves(jax.tree.map(lambda x, y: jnp.sum(x * y), a, b)))
