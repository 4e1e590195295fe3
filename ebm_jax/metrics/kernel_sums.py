"""What tests with kernels share: rows of numbers, their median distance, and sums over all pairs of rows.

A sum over n² pairs takes memory for a few million of them at a time. The functions run under `jit` and `vmap`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ebm_jax import arrays, checks
from ebm_jax.energies.target import check_rows
from ebm_jax.types import Key, PyTree

# Entries of a kernel matrix that are computed together, 16 MB of float32.
_PAIRS = 2**22

# Rows whose distances the median is taken of.
_MEDIAN_ROWS = 500


class KernelTest(NamedTuple):
    """Result of a test with a kernel.

    Attributes:
      statistic: Unbiased estimate of the squared discrepancy, which may be negative.
      p_value: Probability of a statistic at least as large if the hypothesis holds.
      bandwidth: Bandwidth of the kernel.
    """

    statistic: Float[Array, "*batch"]
    p_value: Float[Array, "*batch"]
    bandwidth: Float[Array, "*batch"]


def read_rows(name: str, x: Any, least: int) -> PyTree:
    """Returns rows of any numbers as arrays with a leading axis.

    Args:
      name: What to call them in messages.
      x: Arrays `(n, ...)`, lists, or containers of other libraries.
      least: Least number of rows.

    Returns:
      The arrays.

    Raises:
      ValueError: If there are too few rows, or numbers are not finite.
    """
    x = arrays.to_arrays(name, x)
    n = check_rows(name, x)
    if n < least:
        raise ValueError(f"{name} has {n} rows; give at least {least}")
    checks.check_finite(name, x)
    return jax.tree.map(jnp.asarray, x)


def check_number(name: str, value: Any, largest: float | None) -> None:
    """Checks a concrete number, unless it is None.

    Raises:
      ValueError: If it is not a finite scalar above 0, or is above `largest`.
    """
    if value is None or not checks.is_concrete(value):
        return
    if jnp.shape(value) != () or not 0 < float(value) < float("inf"):
        raise ValueError(f"{name} is {value!r}; give one number greater than 0")
    if largest is not None and value > largest:
        raise ValueError(f"{name} is {value!r}; give a number of at most {largest}")


def flat_rows(x: PyTree) -> Float[Array, "n d"]:
    """Returns one row of floats for each row of a pytree."""
    parts = [leaf.reshape(leaf.shape[0], -1).astype(jnp.result_type(float)) for leaf in jax.tree.leaves(x)]
    return jnp.concatenate(parts, axis=1)


def centred(rows: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Returns rows less their mean: distances stay, and their rounding errors do not grow with the mean."""
    return rows - jnp.mean(rows, axis=0, keepdims=True)


def square_distances(a: Float[Array, "n d"], b: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """Returns |aᵢ − bⱼ|²."""
    products = jnp.matmul(a, b.T, precision="highest")
    return jnp.maximum(jnp.sum(a**2, axis=1)[:, None] + jnp.sum(b**2, axis=1)[None] - 2 * products, 0)


def median_distance(key: Key, rows: Float[Array, "n d"]) -> Float[Array, ""]:
    """Returns the median distance between rows, of at most 500 that are drawn at random.

    The choice does not depend on the order of the rows, so that permutation tests stay exact.
    """
    some = jax.random.permutation(key, rows)[:_MEDIAN_ROWS]
    first, second = jnp.triu_indices(len(some), 1)
    return jnp.median(jnp.sqrt(square_distances(some, some)[first, second]))


def pair_sums(
    kernel: Callable[[PyTree, PyTree], Array], rows: PyTree, weights: Float[Array, "b n"]
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """Returns Σᵢⱼ wᵢ wⱼ k(i, j) and Σᵢⱼ wᵢ k(i, j) for each vector of weights w.

    Args:
      kernel: `kernel(some, all) -> (n_some, n_all)`, the kernel of all pairs, symmetric.
      rows: What the kernel takes, with a leading axis of length n.
      weights: `(b, n)`.

    Returns:
      Both sums, `(b,)`.
    """
    n = weights.shape[1]
    size = min(n, max(1, _PAIRS // n))

    def scan_body(sums: tuple[Array, Array], piece: Array) -> tuple[tuple[Array, Array], None]:
        # The last piece is filled up with a row that counts for nothing.
        which = jnp.minimum(piece, n - 1)
        values = kernel(jax.tree.map(lambda leaf: leaf[which], rows), rows)
        values = jnp.where((piece < n)[:, None], values, 0)
        of_piece = weights[:, which]
        products = jnp.matmul(weights, values.T, precision="highest")
        alone = jnp.matmul(of_piece, jnp.sum(values, axis=1), precision="highest")
        return (sums[0] + jnp.sum(of_piece * products, axis=1), sums[1] + alone), None

    pieces = jnp.arange(-(-n // size) * size).reshape(-1, size)
    zero = jnp.zeros(weights.shape[0], weights.dtype)
    return jax.lax.scan(scan_body, (zero, zero), pieces)[0]


def share_at_least(statistics: Float[Array, " b"]) -> Float[Array, ""]:
    """Returns the p-value of the first statistic among all: the share that is at least as large; NaN if it is NaN."""
    share = jnp.mean(statistics >= statistics[0], dtype=statistics.dtype)
    return jnp.where(jnp.isnan(statistics[0]), statistics[0], share)


def checked(test: KernelTest) -> KernelTest:
    """Returns a result.

    Raises:
      ValueError: If it is concrete and its statistic is not finite.
    """
    if checks.is_concrete(test) and not jnp.all(jnp.isfinite(test.statistic)):
        if not jnp.all(test.bandwidth > 0):
            raise ValueError("the median distance between rows is 0: most are equal; give a bandwidth")
        raise ValueError(
            f"statistic is {float(test.statistic)}: gradients of the energy at the rows are not finite or too large"
        )
    return test
