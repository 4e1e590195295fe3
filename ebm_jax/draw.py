"""Draws from a site's conditional, one random word each.

A conditional comes as logits, or as odds, the exponentials of logits. The odds of a site are products of exponentials
of parameters, which are computed once for all chains, so a draw from odds needs no exponential of its own. The caller
must ensure that odds fit float32.

Sums are written out level by level: the order of additions, and so every decision, is the same however many chains run
side by side. A uniform has 24 bits, so an event of probability p is drawn with probability p to within 2⁻²⁴.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

from ebm_jax import rng

# With more levels a loop over them costs less to compile, and no more to run.
UNROLLED_LEVELS = 8

LevelFunction = Callable[[Int[Array, ""] | int], Float[Array, "..."]]


def bernoulli(logit: Float[Array, "..."], word: UInt32[Array, "..."]) -> Bool[Array, "..."]:
    """Returns True with probability σ(logit): where u (1 + exp(−logit)) < 1, without a division."""
    return rng.uniform(word) * (1 + jnp.exp(-logit)) < 1


def bernoulli_odds(odds: Float[Array, "..."], word: UInt32[Array, "..."]) -> Bool[Array, "..."]:
    """Returns True with probability odds / (1 + odds)."""
    return rng.uniform(word) * (1 + odds) < odds


def categorical(logit: LevelFunction, n_levels: int, word: UInt32[Array, "..."]) -> UInt8[Array, "..."]:
    """Returns level k with probability exp(logit(k)) / Σⱼ exp(logit(j))."""
    if n_levels <= UNROLLED_LEVELS:
        logits = [logit(k) for k in range(n_levels)]
        largest = logits[0]
        for value in logits[1:]:
            largest = jnp.maximum(largest, value)
        odds = [jnp.exp(value - largest) for value in logits]
        return categorical_odds(lambda k: odds[k], n_levels, word)
    like = jax.eval_shape(logit, 0)
    lowest = jnp.full(like.shape, -jnp.inf, like.dtype)
    largest = jax.lax.fori_loop(0, n_levels, lambda k, m: jnp.maximum(m, logit(k)), lowest)
    return categorical_odds(lambda k: jnp.exp(logit(k) - largest), n_levels, word)


def categorical_odds(odds: LevelFunction, n_levels: int, word: UInt32[Array, "..."]) -> UInt8[Array, "..."]:
    """Returns level k with probability odds(k) / Σⱼ odds(j), by comparing uniform · total with running sums."""
    u = rng.uniform(word)
    if n_levels <= UNROLLED_LEVELS:
        sums = [odds(0)]
        for k in range(1, n_levels):
            sums.append(sums[-1] + odds(k))
        threshold = u * sums[-1]
        level = jnp.zeros(threshold.shape, jnp.uint8)
        for running in sums[:-1]:
            level = level + (threshold >= running).astype(jnp.uint8)
        return level
    like = jax.eval_shape(odds, 0)
    shape = jnp.broadcast_shapes(like.shape, u.shape)
    zero = jnp.zeros(shape, like.dtype)
    threshold = u * jax.lax.fori_loop(0, n_levels, lambda k, total: total + odds(k), zero)

    def count(k: Int[Array, ""], carry: tuple[Array, Array]) -> tuple[Array, Array]:
        running, level = carry
        running = running + odds(k)
        return running, level + (threshold >= running).astype(jnp.uint8)

    return jax.lax.fori_loop(0, n_levels - 1, count, (zero, jnp.zeros(shape, jnp.uint8)))[1]
