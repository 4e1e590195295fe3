"""Sums over sites with weights that all chains share, in a form that compilers get right."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array


def weighted_sum(weights: Array, values: Array) -> Array:
    """Returns Σ wᵢ xᵢ over all elements; a scalar weight is shared by all of them.

    It is a matrix product rather than `jnp.sum(weights * values)`. Mapped over chains, that sum reaches a library of
    fused reductions in jaxlib 0.10 on the CPU, which reads the wrong rows at some numbers of chains (32,769 to 43,690
    chains of three sites). The gradient with respect to the weights is a matrix product as well.

    Args:
      weights: Parameters, shaped like `values` or `()`.
      values: What a configuration has at the same places.

    Returns:
      A scalar.
    """
    if weights.ndim == 0:
        return weights * jnp.sum(values)
    return jnp.dot(weights.reshape(-1), values.reshape(-1), precision="highest")
