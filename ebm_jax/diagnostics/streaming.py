"""Observers: moments, batch means and histograms of a chain in constant memory, for `sample(observe=...)`.

Each factory returns the same `Observer` for the same arguments, so a second run compiles nothing. `fn(params, x)` is a
function of one position, such as `model.energy`; the leaves of its result are arrays. Acceptance rates need no
observer: they are in `Samples.info`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ebm_jax.checks import check_finite, check_integer
from ebm_jax.diagnostics.estimators import difference
from ebm_jax.run import Observer
from ebm_jax.types import PyTree

# Number of observers for which an equal call returns the same object.
_CACHE_SIZE = 64


class Moments(NamedTuple):
    """What `moments` gives, an entry for each chain.

    Attributes:
      n_samples: int32.
      mean: float32 pytree shaped like the result of `fn`.
      variance: The same, divided by n_samples − 1; NaN of a single sample.
    """

    n_samples: Int[Array, "*batch"]
    mean: PyTree
    variance: PyTree


class BatchMeans(NamedTuple):
    """What `batch_means` gives, an entry for each chain.

    Attributes:
      n_samples: int32, number of samples.
      n_batches: int32, number of full batches.
      mean: Mean of all samples, as in `Moments`.
      variance: Variance of all samples, as in `Moments`.
      mcse: Standard error of the mean; NaN with fewer than two full batches.
      ess: Number of independent samples with the same error; NaN with fewer than two full batches, or of a constant.
    """

    n_samples: Int[Array, "*batch"]
    n_batches: Int[Array, "*batch"]
    mean: PyTree
    variance: PyTree
    mcse: PyTree
    ess: PyTree


class Histogram(NamedTuple):
    """What `histogram` gives, an entry for each chain, int32.

    Attributes:
      counts: `(..., n_bins)`.
      n_below: Number of values below the first edge.
      n_above: Number of values above the last edge.
      n_nan: Number of NaN.
    """

    counts: PyTree
    n_below: PyTree
    n_above: PyTree
    n_nan: PyTree


class _Running(NamedTuple):
    """Welford's sums of one quantity minus its value at the start, each with its accumulated rounding error."""

    n: Array
    start: Array
    mean: tuple[Array, Array]
    squares: tuple[Array, Array]


class _Batched(NamedTuple):
    """Sums over samples, over the means of full batches, and the sum of the batch that is not full yet."""

    every: _Running
    batches: _Running
    partial: tuple[Array, Array]


def moments(fn: Callable[[PyTree, PyTree], PyTree]) -> Observer:
    """Returns an observer of the mean and variance of `fn(params, x)`.

        m_n = m_{n−1} + (y_n − m_{n−1})/n,    S_n = S_{n−1} + (y_n − m_{n−1})(y_n − m_n),    variance S_n/(n − 1)

    (Welford 1962, Technometrics 4:419), of differences from the value at the starting position. Rounding errors are
    carried along.

    Args:
      fn: A function of parameters and one position.

    Returns:
      An `Observer` whose result is `Moments`.

    Raises:
      ValueError: If `fn` is not a function.
    """
    return _moments(_check_function(fn))


@functools.lru_cache(maxsize=_CACHE_SIZE)
def _moments(fn: Callable[[PyTree, PyTree], PyTree]) -> Observer:
    def init(params: PyTree, x: PyTree) -> PyTree:
        return jax.tree.map(_begin, fn(params, x))

    def update(carry: PyTree, params: PyTree, x: PyTree) -> PyTree:
        return _over(_push, carry, fn(params, x))

    def result(carry: PyTree) -> Moments:
        return Moments(_count(carry), _over(_mean, carry), _over(_variance, carry))

    return Observer(init, update, result)


def batch_means(fn: Callable[[PyTree, PyTree], PyTree], batch_size: int) -> Observer:
    """Returns an observer of the mean of `fn(params, x)` and its error.

        mcse² = b·Var[mean of b successive samples]/n,    ess = Var[y]/mcse²,

    for b = `batch_size` and n samples. Batches must be longer than the chain's memory, and there must be many: b ≈ √n
    is a good choice (Flegal and Jones 2010, Annals of Statistics 38:1034). Samples after the last full batch count only
    for mean and variance.

    Args:
      fn: A function of parameters and one position.
      batch_size: Number of samples in a batch.

    Returns:
      An `Observer` whose result is `BatchMeans`.

    Raises:
      ValueError: If `fn` is not a function, or `batch_size` is under 1.
    """
    return _batch_means(_check_function(fn), check_integer("batch_size", batch_size, 1))


@functools.lru_cache(maxsize=_CACHE_SIZE)
def _batch_means(fn: Callable[[PyTree, PyTree], PyTree], batch_size: int) -> Observer:
    def begin(y: Array) -> _Batched:
        zero = jnp.zeros_like(_begin(y).mean[0])
        return _Batched(_begin(y), _begin(zero), (zero, zero))

    def push(carry: _Batched, y: Array) -> _Batched:
        every = _push(carry.every, y)
        partial = _add(carry.partial, difference(jnp.asarray(y), every.start))
        full = every.n % batch_size == 0
        batches = _push(carry.batches, (partial[0] + partial[1]) / batch_size)
        kept, started = (carry.batches, partial), (batches, jax.tree.map(jnp.zeros_like, partial))
        return _Batched(every, *jax.tree.map(functools.partial(jnp.where, full), started, kept))

    def mcse(carry: _Batched) -> Array:
        return jnp.sqrt(batch_size * _variance(carry.batches) / carry.every.n)

    def init(params: PyTree, x: PyTree) -> PyTree:
        return jax.tree.map(begin, fn(params, x))

    def update(carry: PyTree, params: PyTree, x: PyTree) -> PyTree:
        return _over(push, carry, fn(params, x))

    def result(carry: PyTree) -> BatchMeans:
        return BatchMeans(
            _count(_over(lambda c: c.every, carry)),
            _count(_over(lambda c: c.batches, carry)),
            _over(lambda c: _mean(c.every), carry),
            _over(lambda c: _variance(c.every), carry),
            _over(mcse, carry),
            _over(lambda c: _variance(c.every) / jnp.square(mcse(c)), carry),
        )

    return Observer(init, update, result)


def histogram(fn: Callable[[PyTree, PyTree], PyTree], edges: Any) -> Observer:
    """Returns an observer that counts `fn(params, x)` between edges.

    Bin i holds edges[i] ≤ y < edges[i + 1]; the last bin also holds its upper edge (as in `numpy.histogram`).

    Args:
      fn: A function of parameters and one position.
      edges: `(n_bins + 1,)`, increasing numbers, compared in float32. New edges compile anew.

    Returns:
      An `Observer` whose result is `Histogram`.

    Raises:
      ValueError: If `fn` is not a function, or the edges are fewer than two, not finite or not increasing.
    """
    values = np.asarray(edges, np.float32)
    if values.ndim != 1 or values.size < 2:
        raise ValueError(f"edges has shape {values.shape}; give n_bins + 1 numbers, at least two")
    check_finite("edges", values)
    if not (np.diff(values) > 0).all():
        i = int(np.argmin(np.diff(values) > 0))
        raise ValueError(
            f"edges goes from {values[i]} to {values[i + 1]} at index {i}; give increasing numbers (in float32)"
        )
    return _histogram(_check_function(fn), tuple(values.tolist()))


@functools.lru_cache(maxsize=_CACHE_SIZE)
def _histogram(fn: Callable[[PyTree, PyTree], PyTree], edges: tuple[float, ...]) -> Observer:
    n_bins = len(edges) - 1

    def bin_number(y: Any) -> Array:
        """Returns 0 below, 1 … n_bins, n_bins + 1 above, n_bins + 2 for NaN."""
        y = jnp.asarray(y, jnp.float32)
        inner = jnp.searchsorted(jnp.asarray(edges, jnp.float32), y, side="right")
        inner = jnp.where(y == edges[-1], n_bins, inner)
        return jnp.where(jnp.isnan(y), n_bins + 2, inner)

    def init(params: PyTree, x: PyTree) -> PyTree:
        return jax.tree.map(lambda y: jnp.zeros((*jnp.shape(y), n_bins + 3), jnp.int32), fn(params, x))

    def update(carry: PyTree, params: PyTree, x: PyTree) -> PyTree:
        def count(counts: Array, y: Array) -> Array:
            return counts + (bin_number(y)[..., None] == jnp.arange(n_bins + 3))

        return jax.tree.map(count, carry, fn(params, x))

    def result(carry: PyTree) -> Histogram:
        def pick(at: Any) -> PyTree:
            return jax.tree.map(lambda counts: counts[..., at], carry)

        return Histogram(pick(slice(1, n_bins + 1)), pick(0), pick(n_bins + 1), pick(n_bins + 2))

    return Observer(init, update, result)


# ---- running sums ----


def _begin(y: Array) -> _Running:
    y = jnp.asarray(y)
    if jnp.issubdtype(y.dtype, jnp.floating):
        y = jnp.where(jnp.isfinite(y), y, 0)
    zero = jnp.zeros(y.shape, difference(y, y).dtype)
    return _Running(jnp.zeros((), jnp.int32), y, (zero, zero), (zero, zero))


def _push(running: _Running, y: Array) -> _Running:
    n = running.n + 1
    d = difference(jnp.asarray(y), running.start)
    before = d - sum(running.mean)
    mean = _add(running.mean, before / n)
    return running._replace(n=n, mean=mean, squares=_add(running.squares, before * (d - sum(mean))))


def _add(total: tuple[Array, Array], y: Array) -> tuple[Array, Array]:
    """Adds to a sum that carries its rounding error."""
    s, lost = _two_sum(total[0], y)
    return _two_sum(s, total[1] + lost)


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Returns a + b as rounded, and the rounding error (Knuth)."""
    s = a + b
    v = s - a
    return s, (a - (s - v)) + (b - v)


def _mean(running: _Running) -> Float[Array, "..."]:
    mean = running.start.astype(running.mean[0].dtype) + sum(running.mean)
    return jnp.where(running.n > 0, mean, jnp.nan)


def _variance(running: _Running) -> Float[Array, "..."]:
    n = running.n
    return jnp.where(n > 1, sum(running.squares) / jnp.maximum(n - 1, 1), jnp.nan)


def _over(fn: Callable[..., Any], carry: PyTree, *rest: PyTree) -> PyTree:
    """Maps over the quantities of a carry."""
    return jax.tree.map(fn, carry, *rest, is_leaf=lambda node: isinstance(node, _Running | _Batched))


def _count(carry: PyTree) -> Array:
    leaves = jax.tree.leaves(carry, is_leaf=lambda node: isinstance(node, _Running))
    return leaves[0].n if leaves else jnp.zeros((), jnp.int32)


def _check_function(fn: Any) -> Callable[[PyTree, PyTree], PyTree]:
    if not callable(fn):
        raise ValueError(f"fn is {fn!r}; give a function fn(params, x), e.g. model.energy")
    return fn
