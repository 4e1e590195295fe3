"""What a gathered batch goes through before a step sees it: pure functions `(key, rows) -> batch`.

`advance` calls one within its compiled scan, with a key that no other step has.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from ebm_jax import rng
from ebm_jax.types import Key


def binarize_batch(key: Key, pixels: UInt8[Array, "*shape"]) -> UInt8[Array, "*shape"]:
    """Draws independent bits that are 1 with probability u/255 from grey values u in 0 … 255.

    This is stochastic binarization (Salakhutdinov and Murray 2008), made anew at every step. 0 never gives a one and
    255 always does. Between them the probability is u/255 to 2⁻²⁴. Two pixels share a cipher call, and all is one loop
    of integers.

    Args:
      key: A typed key.
      pixels: uint8 of any shape.

    Returns:
      uint8 of the same shape, 0 and 1.

    Raises:
      ValueError: If `pixels` has another dtype.

    Example:
      >>> ej.training.binarize_batch(jax.random.key(0), jnp.array([0, 255], jnp.uint8)).tolist()
      [0, 1]
    """
    if pixels.dtype != jnp.uint8:
        raise ValueError(f"pixels has dtype {pixels.dtype}; give grey values as uint8, 0 to 255")
    k0, k1 = rng.chain_words(key)
    flat = pixels.reshape(-1)
    n, half = flat.size, -(-flat.size // 2)
    low, high = rng.threefry2x32(k0, k1, jnp.uint32(0), jnp.arange(half, dtype=jnp.uint32))
    # An odd middle pixel is drawn twice and kept once.
    bits = jnp.concatenate([_bits(low, flat[:half]), _bits(high, flat[n - half :])[2 * half - n :]])
    return bits.reshape(pixels.shape)


def _bits(word: Array, u: Array) -> Array:
    """Returns 1 where w/2²⁴ < u/255, with w the upper 24 bits of a word.

    Both sides times 255 · 2²⁴ fit 32 bits.
    """
    return ((word >> np.uint32(8)) * np.uint32(255) < u.astype(jnp.uint32) << np.uint32(24)).astype(jnp.uint8)
