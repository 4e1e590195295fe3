import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from ebm_jax.data import binarize, discretize, undiscretize

# Under the tests' runtime type checker an annotation may speak before the function does.
REFUSED = (ValueError, TypeCheckError)
LEVELS = st.integers(2, 256)
BOTH = pytest.mark.parametrize("xp", [np, jnp])


@BOTH
def test_discretize_bins_for_four_levels(xp):
    x = xp.array([0.0, 0.2499, 0.25, 0.4999, 0.5, 0.7499, 0.75, 1.0], xp.float32)
    levels = discretize(x)
    assert levels.dtype == np.uint8 and isinstance(levels, type(x))
    np.testing.assert_array_equal(levels, [0, 0, 1, 1, 2, 2, 3, 3])
    bytes_ = xp.array([0, 63, 64, 127, 128, 191, 192, 255], xp.uint8)
    np.testing.assert_array_equal(discretize(bytes_), [0, 0, 1, 1, 2, 2, 3, 3])


@settings(deadline=None)
@given(LEVELS)
def test_levels_return_exactly_from_grey_values(n):
    levels = np.arange(n, dtype=np.uint8)
    grey = undiscretize(levels, n)
    assert grey.dtype == np.float32 and grey[0] == 0 and grey[-1] == 1
    np.testing.assert_allclose(np.diff(grey), 1 / (n - 1), rtol=1e-4)
    np.testing.assert_array_equal(discretize(grey, n), levels)


@settings(max_examples=30, deadline=None)
@given(LEVELS)
def test_levels_return_exactly_under_jit(n):
    levels = jnp.arange(n, dtype=jnp.uint8)
    round_trip = jax.jit(lambda x: discretize(undiscretize(x, n), n))
    np.testing.assert_array_equal(round_trip(levels), levels)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=1), LEVELS)
def test_grey_values_return_within_one_bin(values, n):
    x = np.array(values, np.float32)
    levels = discretize(x, n)
    assert levels.max() < n
    assert np.abs(undiscretize(levels, n) - x).max() <= 1 / n + 1e-6


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_uint8_and_float_images_have_the_same_levels_for_every_n(dtype):
    u = np.arange(256, dtype=np.uint8)
    for n in range(2, 257):
        levels = discretize(u, n)
        np.testing.assert_array_equal(discretize((u / 255).astype(dtype), n), levels)
        assert (np.diff(levels.astype(int)) >= 0).all() and levels[0] == 0 and levels[-1] == n - 1
        counts = np.bincount(levels, minlength=n)
        # Bins are equal.
        assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(levels, u)


def test_numpy_jax_and_jit_agree():
    x = np.random.RandomState(0).rand(50, 8, 8).astype(np.float32)
    for n in (2, 3, 4, 7, 256):
        expected = discretize(x, n)
        np.testing.assert_array_equal(discretize(jnp.asarray(x), n), expected)
        np.testing.assert_array_equal(jax.jit(discretize, static_argnums=1)(x, n), expected)
        np.testing.assert_array_equal(
            jax.vmap(lambda image, n=n: discretize(image, n))(jnp.asarray(x)), expected
        )


@pytest.mark.parametrize("value", [-0.001, 1.001, 255.0, np.nan, np.inf, -np.inf])
@BOTH
def test_values_outside_the_range_are_named_with_the_remedy(value, xp):
    images = np.full((2, 3), 0.5, np.float32)
    images[1, 2] = value
    for function in (discretize, lambda x: binarize(x, 0.5), lambda x: binarize(x, key=jax.random.key(0))):
        with pytest.raises(ValueError, match=r"at index \(1, 2\); .*divide by 255") as error:
            function(xp.asarray(images))
        assert str(images[1, 2]) in str(error.value)


@pytest.mark.parametrize("n", [1, 0, -4, 257, True, 4.0, "4"])
def test_bad_n_levels_is_refused(n):
    for function in (discretize, undiscretize):
        with pytest.raises(REFUSED, match="n_levels"):
            function(np.zeros(3, np.uint8), n)


@pytest.mark.parametrize("dtype", [np.int32, np.bool_, np.complex64, np.uint16])
def test_images_of_another_dtype_are_refused(dtype):
    with pytest.raises(ValueError, match=f"dtype {np.dtype(dtype)}; give uint8"):
        discretize(np.zeros(3, dtype))


def test_levels_outside_the_range_are_refused():
    with pytest.raises(ValueError, match=r"levels holds 4 at index \(2,\).*n_levels - 1 = 3"):
        undiscretize(np.array([0, 3, 4]))
    with pytest.raises(ValueError, match="holds -1"):
        undiscretize(jnp.array([0, -1]))
    with pytest.raises(ValueError, match="dtype float32; give integers"):
        undiscretize(np.zeros(3, np.float32))


def test_no_images_are_no_levels():
    assert discretize(np.zeros((0, 8, 8))).shape == (0, 8, 8)
    assert undiscretize(np.zeros((0, 8, 8), np.uint8)).shape == (0, 8, 8)


@BOTH
@pytest.mark.parametrize("threshold", [0.5, 64 / 255, 0.2501, 1.0, 1e-9, 1])
def test_binarize_by_threshold(xp, threshold):
    u = np.arange(256, dtype=np.uint8)
    bits = binarize(xp.asarray(u), threshold)
    assert bits.dtype == np.bool_ and isinstance(bits, type(xp.asarray(u)))
    np.testing.assert_array_equal(bits, u / 255 >= threshold)
    x = xp.array([0.0, 0.25, 0.5, 1.0], xp.float32)
    np.testing.assert_array_equal(binarize(x, threshold), np.array([0, 0.25, 0.5, 1]) >= threshold)


def test_binarize_at_a_half_is_discretize_with_two_levels():
    u = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(binarize(u, 0.5), discretize(u, 2))


def test_stochastic_binarization_has_the_intensity_as_its_mean():
    n = 20_000
    u = np.tile(np.array([0, 51, 128, 255], np.uint8), (n, 1))
    bits = binarize(u, key=jax.random.key(1))
    assert isinstance(bits, np.ndarray) and bits.dtype == np.bool_
    mean = bits.mean(0)
    assert mean[0] == 0 and mean[3] == 1
    p = np.array([51, 128]) / 255
    assert (np.abs(mean[1:3] - p) < 4.5 * np.sqrt(p * (1 - p) / n)).all()
    correlation = np.corrcoef(bits[:, 1], bits[:, 2])[0, 1]
    assert abs(correlation) < 4.5 / np.sqrt(n)
    np.testing.assert_array_equal(bits, binarize(u, key=jax.random.key(1)))
    assert (bits != binarize(u, key=jax.random.key(2))).any()
    jitted = jax.jit(lambda key, x: binarize(x, key=key))(jax.random.key(1), u)
    np.testing.assert_array_equal(jitted, bits)
    np.testing.assert_array_equal(binarize((u / 255).astype(np.float32), key=jax.random.key(1)), bits)


def test_binarize_takes_exactly_one_of_threshold_and_key():
    with pytest.raises(ValueError, match="neither of threshold and key"):
        binarize(np.zeros(3))
    with pytest.raises(ValueError, match="both of threshold and key"):
        binarize(np.zeros(3), 0.5, key=jax.random.key(0))


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5, float("nan")])
def test_bad_threshold_is_refused(threshold):
    with pytest.raises(ValueError, match=r"threshold=.* is not in \(0, 1\]"):
        binarize(np.zeros(3), threshold)


@pytest.mark.parametrize(
    "make", [lambda: jax.random.PRNGKey(0), lambda: jax.random.split(jax.random.key(0)), lambda: 3]
)
def test_untyped_key_is_refused(make):
    with pytest.raises(REFUSED, match="key"):
        binarize(np.zeros(3), key=make())
