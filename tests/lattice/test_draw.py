"""Draws from one word: the probability of every outcome, exactly, by finding the words at which the outcome changes.

A uniform takes 2²⁴ values. An outcome does not decrease with it, so bisection counts the values that give each.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import draw

BITS = 24
CASES = {
    "equal": lambda k: np.zeros((3, k)),
    "moderate": lambda k: np.random.default_rng(0).normal(size=(40, k)),
    "sixty": lambda k: np.random.default_rng(1).choice([-60.0, -20.0, 0.0, 14.0], size=(40, k)),
    "one_level": lambda k: np.where(np.arange(k) == k - 1, 60.0, 0.0)[None],
    "rare_last_level": lambda k: np.where(np.arange(k) == k - 1, -14.0, 0.0)[None],
}


@functools.partial(jax.jit, static_argnames=("form", "n_levels"))
def cumulative(form, logits, n_levels):
    """P(level ≤ k) for k under `n_levels − 1`, as a number of uniforms; logits `(cases, levels)`."""
    shape = (n_levels - 1, logits.shape[0])
    values = jnp.broadcast_to(logits.T[:, None], (n_levels, *shape))

    def outcome(number):
        word = (number << (32 - BITS)).astype(jnp.uint32)
        if form == "bernoulli":
            return draw.bernoulli(values[0] - values[1], word) == False  # noqa: E712 (level 0 is True)
        if form == "bernoulli_odds":
            return draw.bernoulli_odds(jnp.exp(values[0] - values[1]), word) == False  # noqa: E712
        if form == "categorical":
            return draw.categorical(lambda k: values[k], n_levels, word)
        odds = jnp.exp(values - jnp.max(values, axis=0))
        return draw.categorical_odds(lambda k: odds[k], n_levels, word)

    wanted = jnp.arange(n_levels - 1)[:, None]

    def halve(bit, low):  # low: the most uniforms known to give levels up to the wanted one
        trial = low + (jnp.uint32(1) << (BITS - 1 - bit).astype(jnp.uint32))
        return jnp.where(outcome(trial - 1) <= wanted, trial, low)

    low = jax.lax.fori_loop(0, BITS, halve, jnp.zeros(shape, jnp.uint32))
    return low + (outcome(low) <= wanted)  # the last of 2²⁴ is reached by no sum of halves


@pytest.mark.parametrize(
    ("form", "n_levels"),
    [("bernoulli", 2), ("bernoulli_odds", 2)]
    + [(form, k) for form in ("categorical", "categorical_odds") for k in (3, 17, 256)],
)
def test_probabilities_are_exact_to_the_resolution_of_a_uniform(form, n_levels):
    tables = [table(n_levels) for table in CASES.values()]
    logits = np.concatenate(tables).astype(np.float32)
    found = np.asarray(cumulative(form, jnp.asarray(logits), n_levels)).T / 2.0**BITS
    exact = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    exact = np.cumsum(exact / exact.sum(axis=1, keepdims=True), axis=1)[:, :-1]
    # Two units for the uniform and the product; running sums in float32 add half a unit a level at most.
    np.testing.assert_allclose(found, exact, rtol=0, atol=(2 + n_levels / 2) * 2.0**-BITS)
    assert (np.diff(found, axis=1) >= 0).all()


@pytest.mark.parametrize("n_levels", [2, 17, 256])
def test_no_level_beyond_the_last_and_no_impossible_one(n_levels):
    """At the largest uniform, and with levels whose odds are zero at either end."""
    words = jnp.asarray([0, 2**32 - 1], jnp.uint32)
    for favoured in (0, n_levels // 2, n_levels - 1):
        logits = jnp.where(jnp.arange(n_levels) == favoured, 0.0, -200.0)
        levels = draw.categorical(lambda k, t=logits: jnp.broadcast_to(t[k], (2,)), n_levels, words)
        np.testing.assert_array_equal(levels, favoured)
    level = draw.categorical(lambda k: jnp.zeros(2), n_levels, words)
    np.testing.assert_array_equal(level, [0, n_levels - 1])
    for form, value in [(draw.bernoulli, 200.0), (draw.bernoulli_odds, 3e37)]:
        assert form(jnp.full(2, value), words).all()
    assert not draw.bernoulli_odds(jnp.zeros(2), words).any()
    assert not draw.bernoulli(jnp.full(2, -200.0), words).any()
