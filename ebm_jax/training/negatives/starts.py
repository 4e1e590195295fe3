"""Distributions from which chains start: callables `(key, n) -> positions` with a leading axis of length n.

Each is a pytree whose numbers and arrays are leaves, so that other numbers reuse the compiled program. Any function of
the user's with this signature works too.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ebm_jax import checks
from ebm_jax.types import Key, PyTree

# Rows of a class that its covariance is made of. Their number bounds the rank of the covariance and the cost of a draw.
_MAX_ROWS = 256


@functools.partial(jax.tree_util.register_dataclass, data_fields=("low", "high"), meta_fields=("shape",))
@dataclass(frozen=True, eq=False)
class Uniform:
    """What `uniform` builds."""

    shape: tuple[int, ...]
    low: Any
    high: Any

    def __call__(self, key: Key, n: int) -> Array:
        """Draws n positions; raises ValueError if they are too large for the memory."""
        checks.check_chains_fit(n, jax.ShapeDtypeStruct(self.shape, jnp.float32), "n")
        return jax.random.uniform(key, (n, *self.shape), minval=self.low, maxval=self.high)


def uniform(shape: tuple[int, ...], low: float = -1.0, high: float = 1.0) -> Uniform:
    """Independent uniform numbers, the usual noise images.

    Args:
      shape: Shape of one position.
      low: Smallest number.
      high: Largest number.

    Returns:
      A start for `replay` and `short_run`.

    Raises:
      ValueError: If `low` is not less than `high`.

    Example:
      >>> ej.negatives.starts.uniform((8, 8))(jax.random.key(0), 4).shape
      (4, 8, 8)
    """
    if not low < high:
        raise ValueError(f"low is {low} and high is {high}; low must be less than high")
    return Uniform(tuple(shape), jnp.float32(low), jnp.float32(high))


@functools.partial(jax.tree_util.register_dataclass, data_fields=("scale",), meta_fields=("shape",))
@dataclass(frozen=True, eq=False)
class Normal:
    """What `normal` builds."""

    shape: tuple[int, ...]
    scale: Any

    def __call__(self, key: Key, n: int) -> Array:
        """Draws n positions; raises ValueError if they are too large for the memory."""
        checks.check_chains_fit(n, jax.ShapeDtypeStruct(self.shape, jnp.float32), "n")
        return self.scale * jax.random.normal(key, (n, *self.shape))


def normal(shape: tuple[int, ...], scale: float = 1.0) -> Normal:
    """Independent normal numbers of mean 0.

    Args:
      shape: Shape of one position.
      scale: Standard deviation.

    Returns:
      A start for `replay` and `short_run`.
    """
    return Normal(tuple(shape), jnp.float32(scale))


@functools.partial(jax.tree_util.register_dataclass, data_fields=("data",), meta_fields=())
@dataclass(frozen=True, eq=False)
class Rows:
    """What `rows` builds."""

    data: PyTree

    def __call__(self, key: Key, n: int) -> PyTree:
        """Draws n rows, with replacement."""
        size = jax.tree.leaves(self.data)[0].shape[0]
        chosen = jax.random.randint(key, (n,), 0, size)
        return jax.tree.map(lambda leaf: leaf[chosen], self.data)


def rows(data: PyTree) -> Rows:
    """Random rows of data, drawn with replacement.

    Args:
      data: Real positions with a leading axis.

    Returns:
      A start for `replay` and `short_run`.
    """
    return Rows(jax.tree.map(jnp.asarray, data))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("means", "factors", "low", "high"),
    meta_fields=("shape", "labelled"),
)
@dataclass(frozen=True, eq=False)
class ClassGaussians:
    """What `class_gaussians` builds."""

    shape: tuple[int, ...]
    labelled: bool
    means: Any
    factors: Any
    low: Any
    high: Any

    def __call__(self, key: Key, n: int) -> Any:
        """Draws n positions of random classes."""
        pick, draw = jax.random.split(key)
        n_classes, rank, size = self.factors.shape
        one_hot = jax.nn.one_hot(jax.random.randint(pick, (n,), 0, n_classes), n_classes)
        z = jax.random.normal(draw, (n, 1, rank)) * one_hot[:, :, None]
        flat = one_hot @ self.means + z.reshape(n, -1) @ self.factors.reshape(-1, size)
        x = jnp.clip(flat, self.low, self.high).reshape(n, *self.shape)
        return (x, one_hot) if self.labelled else x


def class_gaussians(
    images: Any, labels: Any, n_classes: int, low: float = -1.0, high: float = 1.0, *, labelled: bool = False
) -> ClassGaussians:
    """A Gaussian for each class with the mean and covariance of its images, clipped to `[low, high]`.

    These are the informed starts of Grathwohl et al. 2020. The covariance is that of the first 256 images of a class.

    Args:
      images: `(n, ...)` real.
      labels: `(n,)` integers.
      n_classes: Number of classes, all of equal probability.
      low: Smallest number.
      high: Largest number.
      labelled: Whether positions are pairs of an image and its class as a float one-hot vector.

    Returns:
      A start for `replay` and `short_run`.

    Raises:
      ValueError: If a class has fewer than two images.
    """
    images, labels = np.asarray(images, np.float32), np.asarray(labels)
    means, factors = [], []
    for label in range(n_classes):
        found = images[labels == label].reshape(-1, images[0].size)
        if len(found) < 2:
            raise ValueError(f"class {label} has {len(found)} images; give at least 2 of every class")
        means.append(found.mean(axis=0))
        few = found[:_MAX_ROWS]
        centred = np.zeros((_MAX_ROWS, few.shape[1]), np.float32)
        centred[: len(few)] = (few - few.mean(axis=0)) / np.sqrt(len(few) - 1)
        factors.append(centred)
    stacked = jnp.asarray(np.stack(means)), jnp.asarray(np.stack(factors))
    return ClassGaussians(images.shape[1:], labelled, *stacked, jnp.float32(low), jnp.float32(high))


@functools.partial(jax.tree_util.register_dataclass, data_fields=("start",), meta_fields=("n_classes",))
@dataclass(frozen=True, eq=False)
class Labelled:
    """What `with_labels` builds."""

    start: Any
    n_classes: int

    def __call__(self, key: Key, n: int) -> tuple[Any, Array]:
        """Draws n positions and a class for each."""
        first, second = jax.random.split(key)
        classes = jax.random.randint(second, (n,), 0, self.n_classes)
        return self.start(first, n), jax.nn.one_hot(classes, self.n_classes)


def with_labels(start: Any, n_classes: int) -> Labelled:
    """Positions of another start with a random class, as a float one-hot vector, for `ClassConditional` energies.

    Args:
      start: A start.
      n_classes: Number of classes, all of equal probability.

    Returns:
      A start of pairs `(x, label)`.
    """
    return Labelled(as_start(start), checks.check_integer("n_classes", n_classes, 2))


@functools.partial(jax.tree_util.register_dataclass, data_fields=("start", "rate"), meta_fields=())
@dataclass(frozen=True, eq=False)
class PartlyLabelled:
    """What `drop_labels` builds."""

    start: Any
    rate: Any

    def __call__(self, key: Key, n: int) -> tuple[Any, Array]:
        """Draws n pairs and drops some of their labels."""
        first, second = jax.random.split(key)
        x, label = self.start(first, n)
        dropped = jax.random.uniform(second, (n, 1)) < self.rate
        return x, jnp.where(dropped, jnp.ones_like(label), label)


def drop_labels(start: Any, rate: float) -> PartlyLabelled:
    """Pairs of another start, some of them with ones in place of their label, which stand for all classes.

    A chain of a `ClassConditional` energy that keeps such a label follows E(x). So one buffer holds chains with and
    without a class.

    Args:
      start: A start of pairs `(x, label)`.
      rate: Probability with which a label is dropped, 0 to 1.

    Returns:
      A start of pairs `(x, label)`.

    Raises:
      ValueError: If the rate is no probability, or `start` cannot be called.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is {rate}; give a probability, 0 to 1")
    return PartlyLabelled(as_start(start), jnp.float32(rate))


def as_start(start: Any) -> Any:
    """Returns a start as a pytree: a function becomes a `jax.tree_util.Partial`.

    Raises:
      ValueError: If it cannot be called.
    """
    if not callable(start):
        raise ValueError(
            f"start is {start!r}; give a function (key, n) -> positions, e.g. negatives.starts.uniform((28, 28))"
        )
    return start if dataclass_pytree(start) else jax.tree_util.Partial(start)


def dataclass_pytree(start: Any) -> bool:
    """Returns whether JAX takes the object apart, rather than seeing one leaf in it."""
    return not jax.tree_util.treedef_is_leaf(jax.tree.structure(start))
