"""Stein kernels of real and of binary configurations.

A Stein kernel h of a law p has mean zero over y ~ p for every x. A `SteinKernel` says what it needs of each draw, and
how pairs of draws make h.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ebm_jax.metrics.kernel_sums import centred, flat_rows, square_distances
from ebm_jax.types import PyTree

# Draws whose scores are computed together, and configurations with a flipped site.
_DRAWS, _FLIPS = 256, 4096

Features = tuple[Float[Array, "n d"], Float[Array, "n d"]]
_dot = functools.partial(jnp.matmul, precision="highest")


class SteinKernel(NamedTuple):
    """A Stein kernel.

    Attributes:
      features: `(energy, params, beta, x) -> (rows, scores)`, what the kernel needs of each draw.
      bandwidth: `(median) -> ℓ`, the bandwidth that is made of the median distance between rows.
      pairs: `(ℓ, features, features) -> (n, m)`, h of all pairs.
      diagonal: `(ℓ, features) -> (n,)`, h of each draw with itself.
    """

    features: Callable[[Callable[..., Array], PyTree, Any, PyTree], Features]
    bandwidth: Callable[[Array], Array]
    pairs: Callable[[Array, Features, Features], Array]
    diagonal: Callable[[Array, Features], Array]


def _real_features(energy: Callable[..., Array], params: PyTree, beta: Any, x: PyTree) -> Features:
    """Returns draws as rows, and their scores −β ∇E."""

    def gradient(one: PyTree) -> PyTree:
        return jax.grad(energy, argnums=1)(params, one)

    rows = centred(flat_rows(x))
    return rows, -beta * flat_rows(jax.lax.map(gradient, x, batch_size=min(len(rows), _DRAWS)))


def _real_pairs(scale: Array, a: Features, b: Features) -> Float[Array, "n m"]:
    """Returns h with the kernel k = q^(−½), q = 1 + |r|² / ℓ², r = x − y.

    h = s(x)·s(y) q^(−½) + ((s(x) − s(y))·r + d) q^(−3/2) / ℓ² − 3 |r|² q^(−5/2) / ℓ⁴.
    """
    (x, of_x), (y, of_y) = a, b
    squares = square_distances(x, y)
    along_x, along_y = jnp.sum(of_x * x, axis=1)[:, None], jnp.sum(of_y * y, axis=1)[None]
    along = along_x + along_y - _dot(of_x, y.T) - _dot(x, of_y.T)
    inverse = 1 / (1 + squares / scale**2)
    drift = (along + x.shape[1]) * inverse / scale**2
    return jnp.sqrt(inverse) * (_dot(of_x, of_y.T) + drift - 3 * squares * (inverse / scale**2) ** 2)


def _real_diagonal(scale: Array, features: Features) -> Float[Array, " n"]:
    rows, scores = features
    return jnp.sum(scores**2, axis=1) + rows.shape[1] / scale**2


def _binary_features(energy: Callable[..., Array], params: PyTree, beta: Any, x: PyTree) -> Features:
    """Returns draws as rows of ±1, and the rates qᵢ = p(¬ᵢx) / (p(x) + p(¬ᵢx)) at which a heat bath flips each site."""

    def rates(one: PyTree) -> Array:
        levels, restored = ravel_pytree(one)

        def flipped(site: Array) -> Array:
            return energy(params, restored(levels ^ (jnp.arange(levels.size) == site).astype(levels.dtype)))

        differences = energy(params, one) - jax.vmap(flipped)(jnp.arange(levels.size))
        return jax.nn.sigmoid(beta * differences)

    rows = 2 * flat_rows(x) - 1
    of_draws = jax.lax.map(rates, x, batch_size=min(len(rows), max(1, _FLIPS // rows.shape[1])))
    return rows, of_draws.astype(rows.dtype)


def _binary_pairs(scale: Array, a: Features, b: Features) -> Float[Array, "n m"]:
    """Returns h with the kernel k = exp(−H / ℓ), H the number of sites that differ.

    A flip of site i of x multiplies k by cosh(1/ℓ) − xᵢ yᵢ sinh(1/ℓ) with x, y = ±1, and flips of both leave it, so

        h = 2 k Σᵢ qᵢ(x) qᵢ(y) (1 − cosh(1/ℓ) + xᵢ yᵢ sinh(1/ℓ)).
    """
    (x, of_x), (y, of_y) = a, b
    agree = jnp.sinh(1 / scale) * _dot(of_x * x, (of_y * y).T)
    # 1 − cosh(u) = −2 sinh²(u / 2), which does not cancel where u is small.
    both = -2 * jnp.sinh(0.5 / scale) ** 2 * _dot(of_x, of_y.T)
    return 2 * jnp.exp(-square_distances(x, y) / (4 * scale)) * (agree + both)


def _binary_diagonal(scale: Array, features: Features) -> Float[Array, " n"]:
    return -2 * jnp.expm1(-1 / scale) * jnp.sum(features[1] ** 2, axis=1)


REAL = SteinKernel(_real_features, lambda median: median, _real_pairs, _real_diagonal)
"""With k = (1 + |x − y|² / ℓ²)^(−½)."""

BINARY = SteinKernel(_binary_features, lambda median: median**2 / 4, _binary_pairs, _binary_diagonal)
"""With k = exp(−H(x, y) / ℓ). Rows of ±1 at a distance d differ at d² / 4 sites."""
