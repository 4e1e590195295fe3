"""Tests of fit: their statistics by hand, their rates of false positives under the null, and their power.

Rates are of hundreds of repetitions in one mapped program, against the binomial law.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial
import scipy.stats

from ebm_jax import metrics
from ebm_jax.metrics import kernel_sums, two_sample
from ebm_jax.metrics.stein_kernels import BINARY
from tests import oracles, systems
from tests.statistics import assert_plausible

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
SPINS = systems.get("ising_2x3_edge")
# Two numbers of precision 2 and ½, correlated.
PRECISION = jnp.asarray([[2.0, 0.4], [0.4, 0.5]])


def gaussian(precision, x):
    return x @ precision @ x / 2


def draws(key, n):
    """Exact draws of `gaussian` at β = 1."""
    root = jnp.linalg.cholesky(jnp.linalg.inv(PRECISION))
    return jax.random.normal(key, (n, 2)) @ root.T


def stein(key, shift=0.0, beta=1.0):
    one, two = jax.random.split(key)
    return metrics.kernel_stein_discrepancy(
        gaussian, PRECISION, draws(one, 40) + shift, key=two, beta=beta, n_bootstrap=99
    ).p_value


def binary_stein(key, beta=1.0):
    one, two = jax.random.split(key)
    numbers = jax.random.choice(one, 64, (40,), p=jnp.asarray(oracles.boltzmann(SPINS.energies), jnp.float32))
    x = SPINS.positions(oracles.all_states(6, 2))[numbers]
    return metrics.kernel_stein_discrepancy(
        SPINS.model, SPINS.params, x, key=two, beta=beta, n_bootstrap=99
    ).p_value


def kernel_test(key, shift=0.0):
    one, two, three = jax.random.split(key, 3)
    return metrics.mmd_test(draws(one, 30), draws(two, 20) + shift, key=three, n_permutations=99).p_value


def classifier_test(key, shift=0.0):
    one, two, three = jax.random.split(key, 3)
    x, y = draws(one, 60), draws(two, 40) + shift
    return metrics.classifier_two_sample_test(x, y, key=three, n_steps=30).p_value


@functools.partial(jax.jit, static_argnums=0)
def p_values(test, keys, *args):
    return jax.vmap(lambda key: test(key, *args))(keys)


KEYS = jax.random.split(KEY, 400)


def rejected_of(keys, test, *args):
    """The number of samples whose p-value is at most 5 %, and at most a half."""
    found = np.asarray(p_values(test, keys, *args))
    return [int((found <= level + 1e-6).sum()) for level in (0.05, 0.5)]


@pytest.mark.parametrize(
    ("test", "null", "mutants"),
    [
        (stein, (0.0, 1.0), [(1.0, 1.0), (0.0, 0.3)]),
        (binary_stein, (1.0,), [(0.3,)]),
        (kernel_test, (0.0,), [(1.0,)]),
    ],
    ids=["stein", "binary stein", "mmd"],
)
def test_p_values_are_uniform_under_the_null_alone(test, null, mutants):
    """Mutants: draws shifted by one, and draws of another β."""
    for rejected, level in zip(rejected_of(KEYS, test, *null), (0.05, 0.5), strict=True):
        assert_plausible(scipy.stats.binomtest(rejected, 400, level).pvalue, f"{rejected} of 400 at {level}")
    for mutant in mutants:
        assert rejected_of(KEYS, test, *mutant)[0] > 0.7 * 400


def test_a_classifier_rejects_no_more_often_than_the_level():
    """Counts of rows are whole numbers, so a level is not used up. The mutant is a shift by two."""
    for rejected, level in zip(rejected_of(KEYS, classifier_test, 0.0), (0.05, 0.5), strict=True):
        pvalue = scipy.stats.binomtest(rejected, 400, level, alternative="greater").pvalue
        assert_plausible(pvalue, f"{rejected} of 400 at {level}")
        assert rejected > 400 * level / 5
    assert rejected_of(KEYS, classifier_test, 2.0)[0] > 0.9 * 400


def test_the_stein_kernel_is_its_definition():
    """By differences of the kernel, from scores −β P x, in float64."""
    x = np.asarray(draws(KEY, 6), np.float64)
    width, step = 1.5, 1e-4
    scores = -2.0 * x @ np.asarray(PRECISION, np.float64)

    def k(a, b):
        return (1 + ((a - b) ** 2).sum() / width**2) ** -0.5

    def h(i, j):
        moves = step * np.eye(2)
        total = scores[i] @ scores[j] * k(x[i], x[j])
        for d, move in enumerate(moves):
            total += scores[i, d] * (k(x[i], x[j] + move) - k(x[i], x[j] - move)) / (2 * step)
            total += scores[j, d] * (k(x[i] + move, x[j]) - k(x[i] - move, x[j])) / (2 * step)
            mixed = [a * b * k(x[i] + a * move, x[j] + b * move) for a in (1, -1) for b in (1, -1)]
            total += sum(mixed) / (4 * step**2)
        return total

    expected = np.mean([h(i, j) for i in range(6) for j in range(6) if i != j])
    found = metrics.kernel_stein_discrepancy(
        gaussian, PRECISION, x, key=KEY, beta=2.0, bandwidth=width, n_bootstrap=3
    )
    np.testing.assert_allclose(found.statistic, expected, rtol=1e-4)
    # A position of several parts is the same draws, and a far mean costs no precision.
    parts = {"one": x[:, 0] + 100, "two": x[:, 1:]}
    found = metrics.kernel_stein_discrepancy(
        lambda p, x: gaussian(p, jnp.stack([x["one"] - 100, x["two"][0]])),
        PRECISION,
        parts,
        key=KEY,
        beta=2.0,
        bandwidth=width,
        n_bootstrap=3,
    )
    np.testing.assert_allclose(found.statistic, expected, rtol=1e-3)


def test_the_binary_stein_kernel_has_mean_zero_under_the_law():
    """Over all configurations, for each other one, at two β; it is h by its definition, and its diagonal is its own."""
    states = oracles.all_states(6, 2)
    spins, width = 2.0 * states - 1, 2.5
    k = np.exp(-(spins[:, None] != spins).sum(axis=-1) / width)
    for beta in (1.0, 0.4):
        law = oracles.boltzmann(SPINS.energies, beta)
        features = BINARY.features(SPINS.model.energy, SPINS.params, beta, SPINS.all_positions())
        h = np.asarray(BINARY.pairs(jnp.float32(width), features, features))
        np.testing.assert_allclose(h @ law, 0, atol=1e-6)
        np.testing.assert_allclose(BINARY.diagonal(jnp.float32(width), features), np.diag(h), rtol=1e-5)
    expected = np.zeros((64, 64))
    for i in range(6):
        other = oracles.state_numbers(states ^ np.eye(6, dtype=int)[i], 2)
        q = law[other] / (law + law[other])
        expected += np.outer(q, q) * (k[other][:, other] - k[other] - k[:, other] + k)
    np.testing.assert_allclose(h, expected, atol=1e-6)


def test_slow_signs_allow_for_dependent_draws():
    """An AR(1) chain of correlation 0.5: signs of independent draws reject it too often, slow ones do not."""

    def test(key, flip):
        one, two = jax.random.split(key)

        def scan_body(x, noise):
            x = 0.5 * x + np.sqrt(1 - 0.5**2) * noise
            return x, x

        start, *noise = jax.random.normal(one, (121, 1))
        x = jax.lax.scan(scan_body, start, jnp.stack(noise))[1]
        one = jnp.ones((1, 1))
        return metrics.kernel_stein_discrepancy(
            gaussian, one, x, key=two, bandwidth=1.0, flip=flip, n_bootstrap=99
        ).p_value

    fast, slow = (rejected_of(KEYS[:200], test, flip)[0] / 200 for flip in (0.5, 0.1))
    assert fast > 0.2 and slow < 0.15


def test_the_kernel_statistic_is_mmd_of_two_samples():
    x, y = np.asarray(draws(KEY, 12)), np.asarray(draws(jax.random.key(1), 9)) + 0.5
    found = metrics.mmd_test(x, y, key=KEY)
    pooled = np.concatenate([x, y])
    distances = scipy.spatial.distance.pdist(pooled)
    np.testing.assert_allclose(found.bandwidth, np.median(distances), rtol=1e-5)
    np.testing.assert_allclose(found.statistic, metrics.mmd(x, y, float(found.bandwidth)), rtol=1e-3)
    # Bits of images are rows of numbers too.
    bits = (pooled > 0).reshape(-1, 2, 1)
    assert metrics.mmd_test(bits[:12], bits[12:], key=KEY, n_permutations=9).p_value >= 0.1


def test_pieces_of_pairs_add_up(monkeypatch):
    rows, weights = np.random.default_rng(0).normal(size=(2, 10, 10))
    on_device = jnp.asarray(rows, jnp.float32), jnp.asarray(weights, jnp.float32)
    table = np.exp(-((rows[:, None] - rows) ** 2).sum(axis=-1))
    for pairs in (7, 30, 1000):
        monkeypatch.setattr(kernel_sums, "_PAIRS", pairs)
        found = kernel_sums.pair_sums(lambda a, b: jnp.exp(-kernel_sums.square_distances(a, b)), *on_device)
        np.testing.assert_allclose(found[0], np.einsum("bi,ij,bj->b", weights, table, weights), rtol=1e-4)
        np.testing.assert_allclose(found[1], weights @ table.sum(axis=1), rtol=1e-4)


@pytest.mark.parametrize(("n", "m", "drawn"), [(30, 20, 33), (400, 900, 700)])
def test_the_tail_is_that_of_fishers_exact_test(n, m, drawn):
    least = np.arange(max(0, drawn - m), min(n, drawn) + 1)
    tail = functools.partial(two_sample._hypergeometric_tail, n, m, jnp.float32(drawn))
    expected = scipy.stats.hypergeom.sf(least - 1, n + m, n, drawn)
    np.testing.assert_allclose(jax.vmap(tail)(least), expected, rtol=1e-3, atol=1e-30)


@pytest.mark.parametrize("test", [stein, binary_stein, kernel_test, classifier_test])
def test_arrays_of_one_rank_and_dtype_meet(test):
    def strict(key):
        with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
            return test(key)

    assert jax.eval_shape(strict, KEY).shape == ()


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda x: metrics.kernel_stein_discrepancy(gaussian, PRECISION, (x > 0).astype(int), key=KEY),
            "x has dtypes int.*mmd_test",
        ),
        (lambda x: metrics.kernel_stein_discrepancy(gaussian, PRECISION, x[:1], key=KEY), "x has 1 rows"),
        (
            lambda x: metrics.kernel_stein_discrepancy(gaussian, PRECISION, x, key=KEY, flip=2.0),
            "flip is 2.0",
        ),
        (lambda x: metrics.kernel_stein_discrepancy(gaussian, PRECISION, x, key=KEY, beta=-1), "beta is -1"),
        (lambda x: metrics.kernel_stein_discrepancy(lambda p, x: x, None, x, key=KEY), "give a scalar"),
        (
            lambda x: metrics.kernel_stein_discrepancy(lambda p, x: jnp.sqrt(x * 0).sum(), 0, x, key=KEY),
            "gradients of the energy at the rows are not finite",
        ),
        (lambda x: metrics.mmd_test(x, x[:, :1], key=KEY), "hold 2 numbers and those of y 1"),
        (lambda x: metrics.mmd_test(x * 0, x * 0, key=KEY), "median distance between rows is 0"),
        (lambda x: metrics.mmd_test(x, x * np.nan, key=KEY), "y holds nan"),
        (lambda x: metrics.mmd_test(x, x, key=KEY, bandwidth=0.0), "bandwidth is 0.0"),
        (lambda x: metrics.mmd_test(x, x, key=0), "key is 0"),
        (lambda x: metrics.classifier_two_sample_test(x, x[:3], key=KEY), "y has 3 rows; give at least 4"),
    ],
)
def test_errors_name_the_value(call, words):
    with pytest.raises(ValueError, match=words):
        call(np.asarray(draws(KEY, 8)))
