"""Bits drawn anew from grey values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.training import binarize_batch


def test_black_and_white_are_certain_and_greys_follow_their_law():
    grey = jnp.asarray(np.arange(256, dtype=np.uint8))
    n = 8001
    bits = np.asarray(binarize_batch(jax.random.key(0), jnp.tile(grey, (n, 1))))
    assert bits.shape == (n, 256) and bits.dtype == np.uint8 and bits.max() == 1
    means, p = bits.mean(axis=0), np.arange(256) / 255
    assert means[0] == 0 and means[255] == 1
    z = (means - p)[1:-1] / np.sqrt(p * (1 - p) / n)[1:-1]
    assert abs(z).max() < 4.5 and 0.8 < z.std() < 1.2


@pytest.mark.parametrize("shape", [(1,), (5,), (3, 4), (3, 3, 3)])
def test_pixels_are_independent_in_any_shape(shape):
    draw = jax.jit(jax.vmap(lambda key: binarize_batch(key, jnp.full(shape, 127, jnp.uint8))))
    bits = np.asarray(draw(jax.random.split(jax.random.key(1), 4000))).reshape(4000, -1) * 2.0 - 1
    assert abs(bits.T @ bits / 4000 - np.eye(bits.shape[1])).max() < 5 / np.sqrt(4000) + 1 / 255


def test_bits_depend_on_the_key_alone():
    pixels = jnp.full((64, 9), 100, jnp.uint8)
    bits = [np.asarray(binarize_batch(jax.random.key(seed), pixels)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(bits[0], bits[1])
    assert (bits[0] != bits[2]).any()


def test_other_dtypes_are_refused(as_shipped):
    with pytest.raises(ValueError, match="pixels has dtype float32; give grey values as uint8"):
        binarize_batch(jax.random.key(0), jnp.zeros((2, 2)))
