"""Tests whether two samples come from one law: the kernel test of Gretton et al. 2012, and a classifier's.

Both are exact at any sample size: under the hypothesis every assignment of the pooled rows to the two samples is
equally likely, and the p-value is the share of assignments that fare at least as well. They need independent rows: of
many chains take one draw each, `run.positions[-1]`, rather than many of one chain.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ebm_jax import checks
from ebm_jax.metrics.kernel_sums import (
    KernelTest,
    centred,
    check_number,
    checked,
    flat_rows,
    median_distance,
    pair_sums,
    read_rows,
    share_at_least,
    square_distances,
)
from ebm_jax.types import Key

# Hidden units of the classifier, its learning rate, and the momentum.
_HIDDEN, _RATE, _MOMENTUM = 32, 0.1, 0.9


class ClassifierTest(NamedTuple):
    """Result of `classifier_two_sample_test`.

    Attributes:
      statistic: Share of held-out rows whose sample the classifier names, each sample weighing a half. It is about ½
        if the samples cannot be told apart.
      p_value: Probability of a share at least as large if both samples come from one law.
      n_held_out: Number of rows that the share is of.
    """

    statistic: Float[Array, "*batch"]
    p_value: Float[Array, "*batch"]
    n_held_out: int


def mmd_test(x: Any, y: Any, *, key: Key, bandwidth: Any = None, n_permutations: int = 1000) -> KernelTest:
    """Tests whether two samples come from one law, by the maximum mean discrepancy (Gretton et al. 2012).

    The statistic is that of `mmd`: the unbiased estimate of E k(x, x′) + E k(y, y′) − 2 E k(x, y) with
    k(x, y) = exp(−|x − y|² / (2 h²)). The p-value is the share of random assignments of the pooled rows to the samples,
    the true one among them, whose statistic is at least as large.

    Args:
      x: `(n, ...)`, at least 2 rows of numbers of any kind; axes after the first are flattened.
      y: `(m, ...)`, rows of the same shape.
      key: A typed key, for the assignments.
      bandwidth: h > 0. None means the median distance between pooled rows.
      n_permutations: Number of random assignments. The p-value is at least 1 / (n_permutations + 1).

    Returns:
      A `KernelTest` of scalars. It runs under `jit` and `vmap`.

    Raises:
      ValueError: If shapes do not fit, values are not finite, a number is out of range, or the median distance
        is 0.

    Example:
      >>> x, y = jax.random.normal(jax.random.key(0), (2, 200, 3))
      >>> same = ej.metrics.mmd_test(x, y, key=jax.random.key(1))
      >>> moved = ej.metrics.mmd_test(x, y + 1, key=jax.random.key(1))
      >>> bool(same.p_value > 0.05), bool(moved.p_value < 0.01)
      (True, True)
    """
    checks.check_integer("n_permutations", n_permutations, 1)
    check_number("bandwidth", bandwidth, None)
    x, y = _two_samples(key, x, y, least=2)
    return checked(_mmd_test(n_permutations, key, x, y, bandwidth))


def classifier_two_sample_test(x: Any, y: Any, *, key: Key, n_steps: int = 100) -> ClassifierTest:
    """Tests whether two samples come from one law, by a classifier that tells them apart (Lopez-Paz and Oquab 2017).

    A network of one hidden layer is trained on a random half of each sample and asked about the other half. Given how
    many held-out rows it assigns to x, the number of those that are right is hypergeometric under the hypothesis: the
    p-value is that of Fisher's exact test, however well the network was trained.

    Args:
      x: `(n, ...)`, at least 4 rows of numbers of any kind; axes after the first are flattened.
      y: `(m, ...)`, rows of the same shape.
      key: A typed key, for the halves and the first weights.
      n_steps: Steps of gradient descent on the whole training half.

    Returns:
      A `ClassifierTest` of scalars. It runs under `jit` and `vmap`.

    Raises:
      ValueError: If shapes do not fit, values are not finite, or there are too few rows or steps.

    Example:
      >>> x, y = jax.random.normal(jax.random.key(0), (2, 200, 3))
      >>> moved = ej.metrics.classifier_two_sample_test(x, y + 1, key=jax.random.key(1))
      >>> bool(moved.statistic > 0.7), bool(moved.p_value < 0.01), moved.n_held_out
      (True, True, 200)
    """
    checks.check_integer("n_steps", n_steps, 1)
    x, y = _two_samples(key, x, y, least=4)
    statistic, p_value = _classifier_test(n_steps, key, x, y)
    return ClassifierTest(statistic, p_value, len(x) - len(x) // 2 + len(y) - len(y) // 2)


def _two_samples(key: Key, x: Any, y: Any, least: int) -> tuple[Array, Array]:
    checks.check_key(key)
    rows = [flat_rows(read_rows(name, sample, least)) for name, sample in (("x", x), ("y", y))]
    if rows[0].shape[1] != rows[1].shape[1]:
        raise ValueError(
            f"rows of x hold {rows[0].shape[1]} numbers and those of y {rows[1].shape[1]}; give equal shapes"
        )
    return rows[0], rows[1]


@functools.partial(jax.jit, static_argnums=0)
def _mmd_test(
    n_permutations: int, key: Key, x: Float[Array, "n d"], y: Float[Array, "m d"], bandwidth: Any
) -> KernelTest:
    n, m = len(x), len(y)
    rows = centred(jnp.concatenate([x, y]))
    for_median, for_labels = jax.random.split(key)
    scale = jnp.asarray(median_distance(for_median, rows) if bandwidth is None else bandwidth, rows.dtype)

    def kernel(a: Array, b: Array) -> Array:
        return jnp.exp(-square_distances(a, b) / (2 * scale**2))

    labels = (jnp.arange(n + m) < n).astype(rows.dtype)
    # Marks the n smallest of random words. A tie, which marks one row too many, has a probability of about n / 2³².
    words = jax.random.bits(for_labels, (n_permutations, n + m), jnp.uint32)
    shuffled = (words <= jnp.sort(words, axis=1)[:, n - 1 : n]).astype(rows.dtype)
    everything = jnp.ones((1, n + m), rows.dtype)
    within, alone = pair_sums(kernel, rows, jnp.concatenate([labels[None], shuffled, everything]))
    total, within_x, of_x = within[-1], within[:-1], alone[:-1]
    within_y, across = total - 2 * of_x + within_x, of_x - within_x
    statistics = (within_x - n) / (n * (n - 1)) + (within_y - m) / (m * (m - 1)) - 2 * across / (n * m)
    return KernelTest(statistics[0], share_at_least(statistics), scale)


@functools.partial(jax.jit, static_argnums=0)
def _classifier_test(
    n_steps: int, key: Key, x: Float[Array, "n d"], y: Float[Array, "m d"]
) -> tuple[Array, Array]:
    of_x, of_y, of_weights = jax.random.split(key, 3)
    x, y = jax.random.permutation(of_x, x), jax.random.permutation(of_y, y)
    train = x[: len(x) // 2], y[: len(y) // 2]
    pooled = jnp.concatenate(train)
    mean, deviation = jnp.mean(pooled, axis=0, keepdims=True), jnp.std(pooled, axis=0, keepdims=True)

    def standardised(rows: Array) -> Array:
        return (rows - mean) / jnp.where(deviation > 0, deviation, 1)

    weights = _train(n_steps, of_weights, *map(standardised, train))
    held_out = x[len(x) // 2 :], y[len(y) // 2 :]
    named_x = [jnp.sum(_log_odds(weights, standardised(rows)) > 0, dtype=x.dtype) for rows in held_out]
    n, m = map(len, held_out)
    statistic = (named_x[0] / n + 1 - named_x[1] / m) / 2
    return statistic, _hypergeometric_tail(n, m, named_x[0] + named_x[1], named_x[0])


def _train(n_steps: int, key: Key, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> tuple[Array, ...]:
    """Returns weights of a classifier that gives rows of `x` positive log-odds."""

    def loss(weights: tuple[Array, ...]) -> Array:
        of_x, of_y = _log_odds(weights, x), _log_odds(weights, y)
        return jnp.mean(jax.nn.softplus(-of_x)) + jnp.mean(jax.nn.softplus(of_y))

    def scan_body(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
        weights, velocity = carry
        velocity = jax.tree.map(lambda v, g: _MOMENTUM * v - _RATE * g, velocity, jax.grad(loss)(weights))
        return (jax.tree.map(jnp.add, weights, velocity), velocity), None

    first, second = jax.random.split(key)
    into = jax.random.normal(first, (x.shape[1], _HIDDEN), x.dtype) / jnp.sqrt(x.shape[1])
    out = jax.random.normal(second, (_HIDDEN,), x.dtype) / jnp.sqrt(_HIDDEN)
    weights = into, jnp.zeros(_HIDDEN, x.dtype), out, jnp.zeros((), x.dtype)
    start = weights, jax.tree.map(jnp.zeros_like, weights)
    return jax.lax.scan(scan_body, start, length=n_steps)[0][0]


def _log_odds(weights: tuple[Array, ...], rows: Float[Array, "n d"]) -> Float[Array, " n"]:
    into, bias, out, offset = weights
    return jnp.tanh(rows @ into + bias[None]) @ out + offset


def _hypergeometric_tail(n: int, m: int, drawn: Array, least: Array) -> Float[Array, ""]:
    """Returns the probability of at least `least` of n marked items among `drawn` of n + m items.

    Neighbouring probabilities have the ratio (n − t) (drawn − t) / ((t + 1) (m − drawn + t + 1)).
    """
    # Floats, since products of counts may not fit int32.
    marked = jnp.arange(n + 1.0)
    possible = (marked >= drawn - m) & (marked <= drawn)
    t, exists = marked[:-1], possible[:-1] & possible[1:]
    above, below = (n - t) * (drawn - t), (t + 1) * (m - drawn + t + 1)
    log_ratios = jnp.log(jnp.where(exists, above, 1)) - jnp.log(jnp.where(exists, below, 1))
    logs = jnp.concatenate([jnp.zeros(1), jnp.cumsum(log_ratios)])
    probabilities = jax.nn.softmax(jnp.where(possible, logs, -jnp.inf))
    return jnp.sum(jnp.where(marked >= least, probabilities, 0))
