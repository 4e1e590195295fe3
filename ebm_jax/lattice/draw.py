"""Draws from a site's conditional, one random word each.

Sums are written out level by level: the order of additions, and so every decision, is the same however many chains run
side by side. A uniform has 24 bits, so an event of probability p is drawn with probability p to within 2⁻²⁴.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

from ebm_jax import rng

UNROLLED_LEVELS = 8  # beyond this a loop over levels costs less to compile, and no more to run


def bernoulli(logit: Float[Array, "..."], word: UInt32[Array, "..."]) -> Bool[Array, "..."]:
    """Returns True with probability σ(logit) = 1 / (1 + exp(−logit))."""
    return rng.uniform(word) < jax.nn.sigmoid(logit)


def categorical(
    logit: Callable[[Int[Array, ""] | int], Float[Array, "..."]], n_levels: int, word: UInt32[Array, "..."]
) -> UInt8[Array, "..."]:
    """Returns level k with probability exp(logit(k)) / Σⱼ exp(logit(j)).

    The uniform, times the total, is compared with running sums of exp(logit − max logit).
    """
    u = rng.uniform(word)
    if n_levels <= UNROLLED_LEVELS:
        logits = [logit(k) for k in range(n_levels)]
        largest = logits[0]
        for value in logits[1:]:
            largest = jnp.maximum(largest, value)
        sums = [jnp.exp(logits[0] - largest)]
        for value in logits[1:]:
            sums.append(sums[-1] + jnp.exp(value - largest))
        mark = u * sums[-1]
        level = jnp.zeros(u.shape, jnp.uint8)
        for running in sums[:-1]:
            level = level + (mark >= running).astype(jnp.uint8)
        return level
    shape = jnp.broadcast_shapes(jax.eval_shape(logit, 0).shape, u.shape)
    dtype = jax.eval_shape(logit, 0).dtype
    largest = jax.lax.fori_loop(
        0, n_levels, lambda k, m: jnp.maximum(m, logit(k)), jnp.full(shape, -jnp.inf, dtype)
    )
    weight = lambda k: jnp.exp(logit(k) - largest)  # noqa: E731
    total = jax.lax.fori_loop(0, n_levels, lambda k, s: s + weight(k), jnp.zeros(shape, dtype))
    mark = u * total

    def count(k: Int[Array, ""], carry: tuple[Array, Array]) -> tuple[Array, Array]:
        running, level = carry
        running = running + weight(k)
        return running, level + (mark >= running).astype(jnp.uint8)

    zero = jnp.zeros(shape, dtype), jnp.zeros(shape, jnp.uint8)
    return jax.lax.fori_loop(0, n_levels - 1, count, zero)[1]
