"""Grey values to levels and bits, and back, of NumPy and JAX arrays, eagerly or inside jit and vmap."""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Bool, Float32, Key, Shaped, UInt8

from ebm_jax.checks import check_key


def discretize(images: Shaped[Any, "*shape"], n_levels: int = 4) -> UInt8[np.ndarray | jax.Array, "*shape"]:
    """Sorts grey values into K equal bins: level = min(⌊K·x⌋, K − 1) with x in [0, 1].

    For four levels the bins are [0, ¼), [¼, ½), [½, ¾), [¾, 1]. A uint8 value u stands for x = u / 255 and is sorted
    exactly, in integers. Floats are rounded to float32 first, so that u and float(u) / 255 have the same level.

    Args:
      images: uint8 in 0 to 255 or floating point in 0 to 1, any shape, NumPy or JAX.
      n_levels: K, 2 to 256, a Python integer (static under jit).

    Returns:
      uint8 levels 0 to K − 1 of the same shape and kind of array.

    Raises:
      ValueError: If the dtype is another, a value is NaN or outside [0, 1] (not detected for traced values inside jit),
        or `n_levels` is outside 2 to 256.

    Example:
      >>> ej.data.discretize(np.array([0.0, 0.3, 1.0]), 4)
      array([0, 1, 3], dtype=uint8)
    """
    n_levels = _check_n_levels(n_levels)
    x, xp = _as_intensities("images", images)
    if x.dtype == np.uint8:
        levels = xp.minimum(x.astype(np.int32) * n_levels // 255, n_levels - 1)
    else:
        levels = xp.minimum(xp.floor(x.astype(np.float32) * np.float32(n_levels)), n_levels - 1)
    return levels.astype(np.uint8)


def undiscretize(
    levels: Shaped[Any, "*shape"], n_levels: int = 4
) -> Float32[np.ndarray | jax.Array, "*shape"]:
    """Turns levels into evenly spaced grey values from black to white: x = level / (K − 1).

    Each grey value lies in the bin of its level, so `discretize(undiscretize(levels, K), K)` returns the levels for
    every K, and `undiscretize(discretize(x, K), K)` is within 1 / K of x. Black stays 0 and white stays 1.

    Args:
      levels: Integers 0 to K − 1, any shape, NumPy or JAX.
      n_levels: K, 2 to 256, a Python integer (static under jit).

    Returns:
      float32 grey values in [0, 1] of the same shape and kind of array.

    Raises:
      ValueError: If levels are no integers, or outside 0 to K − 1 (not detected for traced values inside jit), or
        `n_levels` is outside 2 to 256.
    """
    n_levels = _check_n_levels(n_levels)
    x, xp = _as_array(levels)
    if not np.issubdtype(x.dtype, np.integer):
        raise ValueError(
            f"levels has dtype {x.dtype}; give integers 0 to {n_levels - 1}, as discretize returns them"
        )
    _check_range(
        "levels", x, 0, n_levels - 1, f"levels run from 0 to n_levels - 1 = {n_levels - 1}; check n_levels"
    )
    return x.astype(np.float32) / xp.float32(n_levels - 1)


def binarize(
    images: Shaped[Any, "*shape"],
    threshold: float | int | None = None,
    *,
    key: Key[jax.Array, ""] | None = None,
) -> Bool[np.ndarray | jax.Array, "*shape"]:
    """Turns grey values into bits, by a threshold or at random: P(bit = 1) = x with x in [0, 1].

    With `threshold` a bit is x ≥ threshold (at ½ these are the levels of `discretize(images, 2)`). With `key` bits are
    independent Bernoulli draws whose mean is the intensity (stochastic binarization, Salakhutdinov and Murray 2008).
    Their resolution is 2⁻²³; x = 0 never gives a one, and x = 1 always does.

    Args:
      images: uint8 in 0 to 255 (x = u / 255) or floating point in 0 to 1, any shape, NumPy or JAX.
      threshold: A Python number in (0, 1]. Exactly one of `threshold` and `key` must be given.
      key: One typed key, `jax.random.key(seed)`.

    Returns:
      bool of the same shape and kind of array.

    Raises:
      ValueError: If both or none of `threshold` and `key` are given, a threshold is outside (0, 1], a key is untyped,
        the dtype is another, or a value is NaN or outside [0, 1] (not detected for traced values inside jit).

    Example:
      >>> ej.data.binarize(np.array([0.2, 0.5, 0.9]), threshold=0.5)
      array([False,  True,  True])
    """
    if (threshold is None) == (key is None):
        given = "neither" if threshold is None else "both"
        raise ValueError(
            f"binarize got {given} of threshold and key; give one: threshold=0.5 or key=jax.random.key(0)"
        )
    x, _ = _as_intensities("images", images)
    if threshold is not None:
        limit = float(threshold)
        if not 0 < limit <= 1:
            raise ValueError(
                f"threshold={threshold!r} is not in (0, 1]; use 0.5 to cut halfway between black and white"
            )
        if x.dtype == np.uint8:
            # The smallest u with u / 255 ≥ threshold: an exact comparison of integers, the same for NumPy and JAX.
            return x >= np.uint8(np.searchsorted(np.arange(256) / 255, limit))
        return x >= limit
    key = check_key(key)
    mean = jnp.asarray(x).astype(jnp.float32)
    if x.dtype == np.uint8:
        mean = mean / 255
    bits = jax.random.bernoulli(key, mean)
    return bits if isinstance(x, jax.Array) or isinstance(bits, Tracer) else np.asarray(bits)


def _check_n_levels(n_levels: int) -> int:
    try:
        value = operator.index(n_levels)
    except TypeError:
        value = 0
    if isinstance(n_levels, bool) or not 2 <= value <= 256:
        raise ValueError(f"n_levels={n_levels!r} is not an integer from 2 to 256, the range that uint8 holds")
    return value


def _as_array(x: Any) -> tuple[Any, Any]:
    """Returns an array, and the module (NumPy or jax.numpy) that it belongs to."""
    return (x, jnp) if isinstance(x, jax.Array) else (np.asarray(x), np)


def _as_intensities(name: str, x: Any) -> tuple[Any, Any]:
    """Returns uint8 or floating images and their module; raises ValueError on anything else."""
    array, xp = _as_array(x)
    if array.dtype == np.uint8:
        return array, xp
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} has dtype {array.dtype}; give uint8 in 0 to 255 or floats in 0 to 1")
    remedy = "floating-point images lie in 0 to 1: divide by 255, or pass uint8"
    _check_range(name, array, 0, 1, remedy)
    return array, xp


def _check_range(name: str, x: Any, low: int, high: int, remedy: str) -> None:
    if isinstance(x, Tracer) or x.size == 0:
        return
    values = np.asarray(x)
    good = (values >= low) & (values <= high)
    if not good.all():
        where = tuple(int(i) for i in np.unravel_index(int(np.argmin(good)), values.shape))
        raise ValueError(f"{name} holds {values[where]} at index {where}; {remedy}")
