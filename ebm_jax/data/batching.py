"""Shuffled batches for a training loop of one's own."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Key, PyTree, Shaped

from ebm_jax.checks import check_key


def batches(
    images: PyTree[Shaped[Any, "..."]],
    labels: PyTree[Shaped[Any, "..."]] | None = None,
    batch_size: int = 128,
    *,
    key: Key[jax.Array, ""],
    drop_remainder: bool = True,
) -> Iterator[Any]:
    """Iterates once over the rows in random order, a batch at a time.

    The order is `jax.random.permutation(key, n)`, so the same key gives the same batches. Give every epoch a key of its
    own, such as `jax.random.fold_in(key, epoch)`.

    Args:
      images: An array, or a pytree of arrays, with n rows, NumPy (also memory-mapped) or JAX.
      labels: The same with as many rows, or None.
      batch_size: Rows of a batch, 1 to n.
      key: One typed key, `jax.random.key(seed)`.
      drop_remainder: Whether to leave out the last n mod batch_size rows of the order. All batches then have one shape,
        and a jitted step compiles once. If False, these rows come as a last, smaller batch.

    Returns:
      An iterator over batches of `images`, or over pairs `(images, labels)` if labels are given. Dtypes and kinds of
      arrays are those of the arguments.

    Raises:
      ValueError: (At the call, not at the first batch.) If there are no rows, the arrays differ in their numbers of
        rows, the batch size is not an integer from 1 to n, or the key is untyped.

    Example:
      >>> rows = np.arange(10)
      >>> [len(batch) for batch in ej.data.batches(rows, batch_size=4, key=jax.random.key(0))]
      [4, 4]
    """
    check_key(key)
    data = images if labels is None else (images, labels)
    leaves = jax.tree.leaves(data)
    if not leaves or any(np.ndim(leaf) == 0 for leaf in leaves):
        raise ValueError("images and labels must be arrays with a leading axis of rows")
    rows = sorted({np.shape(leaf)[0] for leaf in leaves})
    if len(rows) > 1:
        raise ValueError(
            f"images and labels have {' and '.join(map(str, rows))} rows; give one label to each image"
        )
    n = rows[0]
    if n == 0:
        raise ValueError("images has no rows; check the classes or the slice that selected them")
    try:
        size = operator.index(batch_size)
    except TypeError:
        size = 0
    if isinstance(batch_size, bool) or not 1 <= size <= n:
        raise ValueError(f"batch_size={batch_size!r} is not an integer from 1 to {n}, the number of rows")
    arrays = jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else np.asarray(leaf), data)
    order = np.asarray(jax.random.permutation(key, n))
    stop = n - n % size if drop_remainder else n

    def generate() -> Iterator[Any]:
        for start in range(0, stop, size):
            chosen = order[start : start + size]
            yield jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen], arrays)

    return generate()
