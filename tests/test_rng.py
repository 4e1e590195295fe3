"""The random words: the published cipher, and the stream as samplers read it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ebm_jax import rng
from ebm_jax.samplers import noise
from tests.statistics import ALPHA, assert_plausible


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        # Known answers of the Random123 distribution for Threefry-2x32 with 20 rounds.
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_cipher_gives_the_published_words(counter, key, words):
    args = (jnp.uint32(value) for value in (*key, *counter))
    assert tuple(int(w) for w in rng.threefry2x32(*args, rounds=20)) == words


def stream(n_chains=64, n_sites=256, n_steps=64):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(n_chains))
    words, site = rng.chain_words(keys), jnp.arange(n_sites, dtype=jnp.uint32)[:, None]
    step = lambda s: rng.site_words(words, jnp.full(n_chains, s), site)  # noqa: E731
    return jax.jit(jax.vmap(step))(jnp.arange(n_steps, dtype=jnp.uint32))  # (steps, sites, chains)


def test_words_are_uniform_in_every_byte_and_bit():
    for word in map(np.asarray, stream()):
        for shift in (0, 8, 16, 24):
            counts = np.bincount(((word >> shift) & 0xFF).ravel(), minlength=256)
            assert_plausible(stats.chisquare(counts).pvalue, f"byte at bit {shift}")
        assert_plausible(
            stats.kstest(np.asarray(rng.uniform(jnp.asarray(word))).ravel()[::7], "uniform").pvalue, "u"
        )


def test_words_do_not_correlate_along_steps_sites_and_chains():
    first, second = (np.asarray(rng.uniform(w)) for w in stream())
    pairs = {
        "steps": (first[1:], first[:-1]),
        "sites": (first[:, 1:], first[:, :-1]),
        "chains": (first[:, :, 1:], first[:, :, :-1]),
        "step against site": (first[1:, :-1], first[:-1, 1:]),
        "both words": (first, second),
    }
    for name, (a, b) in pairs.items():
        assert_plausible(stats.pearsonr(a.ravel(), b.ravel()).pvalue, name)
        grid = np.histogram2d(a.ravel(), b.ravel(), bins=16, range=[[0, 1], [0, 1]])[0]
        assert_plausible(stats.chisquare(grid.ravel()).pvalue, name)


def test_too_few_rounds_are_caught():
    """That these tests see a weak stream: four rounds of the cipher fail them."""
    site, step = jnp.arange(1024, dtype=jnp.uint32)[:, None], jnp.arange(64, dtype=jnp.uint32)
    word, _ = rng.threefry2x32(jnp.uint32(1), jnp.uint32(2), step, site, rounds=4)
    counts = np.bincount((np.asarray(word) & 0xFF).ravel(), minlength=256)
    assert stats.chisquare(counts).pvalue < ALPHA


def test_words_of_a_chain_are_not_its_key():
    key = jax.random.key(3)
    assert not np.array_equal(rng.chain_words(key), jax.random.key_data(key))


def test_uniforms_and_normals_cover_their_range():
    edge = jnp.array([0, 0xFFFFFFFF], jnp.uint32)
    assert rng.uniform(edge).tolist() == [0.0, 1.0 - 2.0**-24]
    low, high = rng.normal(edge).tolist()
    assert -high == low
    assert high == pytest.approx(stats.norm.ppf(1 - 2.0**-25), rel=1e-3)


@given(st.integers(0, 2**32 - 1), st.integers(1, 2**32 - 1))
def test_below_is_the_upper_half_of_the_product(word, n):
    assert int(rng.below(jnp.uint32(word), n)) == word * n >> 32


@pytest.mark.parametrize("shapes", [((1,), ()), ((2,), (3, 2)), ((5,), (2,))])
def test_noise_uses_both_words_of_a_call_and_depends_on_key_step_and_element(shapes):
    """Element i of n has the first word of call i, or the second of call i − ⌈n/2⌉."""
    like = tuple(jnp.zeros(shape) for shape in shapes)
    key, step = jax.random.key(3), jnp.uint32(9)
    n = sum(leaf.size for leaf in like)
    half = -(-n // 2)
    chain = rng.chain_words(key)
    words = [rng.threefry2x32(*chain, step, jnp.uint32(i) + step) for i in range(half)]
    expected = [words[i][0] if i < half else words[i - half][1] for i in range(n)]
    drawn = jax.jit(noise.normals)(key, step, like)
    flat = np.concatenate([np.ravel(leaf) for leaf in drawn])
    np.testing.assert_allclose(flat, rng.normal(jnp.stack(expected)), rtol=1e-6)
    with_words, *others = jax.jit(noise.normals_and_words)(key, step, like)
    for a, b in zip(drawn, with_words, strict=True):
        np.testing.assert_array_equal(a, b)
    assert tuple(map(int, others)) == tuple(
        int(w) for w in rng.threefry2x32(*chain, step, jnp.uint32(half) + step)
    )
