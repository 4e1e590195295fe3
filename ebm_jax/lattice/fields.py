"""A site's conditional from its own bias and its neighbours, the part that all pairwise layouts share.

A slot is one neighbour of every site in a group. Empty slots (the outside of a free grid, padding of a short row) have
coupling zero, which changes nothing.

Two arithmetics give the same conditional. With logits, couplings are added, and the draw takes an exponential for each
level. With odds, exponentials of the couplings are multiplied, and the exponentials are of parameters alone: one for
all chains. Odds are used while no product can leave float32, that is while `spread` times β stays under `MAX_SPREAD`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

from ebm_jax.lattice import draw

SELECTED_LEVELS = 4  # up to here a table entry is chosen by comparisons, beyond by a gather
MAX_SPREAD = 75.0  # exp(±75) and a sum of 256 of them fit float32 (exp(88))


class Site(NamedTuple):
    """Parameters of a group: bias `(*levels, *sites, c)`, a coupling a slot, each `(*sites, c)` or `(K, K, *sites, c)`.

    `c` is the chain axis, 1 where chains share parameters.
    """

    bias: Float[Array, "*shape"]
    couplings: tuple[Float[Array, "*shape"], ...]


class Weights(NamedTuple):
    """What an update reads: `Site` times β, as logits or as odds. Spins have a weight for a neighbour up and down."""

    bias: Float[Array, "*shape"]
    couplings: tuple[tuple[Float[Array, "*shape"], ...], ...]


def spread(site: Site, spins: bool) -> Float[Array, ""]:
    """Returns a bound on |logit| at β = 1, over all sites, levels and neighbours; biases count from their largest."""
    widest = jnp.max(jnp.abs(site.bias) if spins else jnp.max(site.bias, axis=0) - jnp.min(site.bias, axis=0))
    for coupling in site.couplings:
        widest = widest + jnp.max(jnp.abs(coupling), initial=0.0)
    return 2 * widest if spins else widest


def weigh(site: Site, spins: bool, beta: Float[Array, "..."], odds: bool) -> Weights:
    """Returns the weights at one β."""
    scale = 2 * beta if spins else beta
    bias = site.bias if spins or not odds else site.bias - jnp.max(site.bias, axis=0)
    give = (lambda value: jnp.exp(scale * value)) if odds else (lambda value: scale * value)
    pairs = [(w, -w) if spins else (w,) for w in site.couplings]
    return Weights(give(bias), tuple(tuple(give(w) for w in pair) for pair in pairs))


def draw_spins(
    weights: Weights, neighbours: Sequence[Array], odds: bool, word: UInt32[Array, "..."]
) -> Bool[Array, "..."]:
    """Draws spins: True with probability σ(2β(b + Σ J s)); a neighbour is up where it is not 0."""
    total = weights.bias
    for x, (up, down) in zip(neighbours, weights.couplings, strict=True):
        weight = jnp.where(x != 0, up, down)
        total = total * weight if odds else total + weight
    return draw.bernoulli_odds(total, word) if odds else draw.bernoulli(total, word)


def draw_levels(
    n_levels: int, weights: Weights, neighbours: Sequence[Array], odds: bool, word: UInt32[Array, "..."]
) -> UInt8[Array, "..."]:
    """Draws levels: k with probability ∝ exp(β(b[k] + Σ w[k, x_neighbour]))."""
    site_ndim = weights.bias.ndim - 1

    def value(level: Int[Array, ""] | int) -> Float[Array, "..."]:
        total = weights.bias[level]
        for x, (coupling,) in zip(neighbours, weights.couplings, strict=True):
            if coupling.ndim == site_ndim:
                same = x == jnp.asarray(level, x.dtype)
                factor = jnp.where(same, coupling, 1.0 if odds else 0.0)
            else:
                factor = _entry(coupling[level], x, n_levels)
            total = total * factor if odds else total + factor
        return total

    return (draw.categorical_odds if odds else draw.categorical)(value, n_levels, word)


def _entry(row: Float[Array, "levels *sites_c"], x: Array, n_levels: int) -> Float[Array, "..."]:
    """Returns row[x] at every site."""
    if n_levels <= SELECTED_LEVELS:
        chosen = row[0]
        for other in range(1, n_levels):
            chosen = jnp.where(x == other, row[other], chosen)
        return chosen
    # A gather from a flat table: `c` is 1 where chains share parameters, and the chain enters the address only if not.
    c = row.shape[-1]
    width = row[0].size
    address = jnp.arange(width, dtype=jnp.int32).reshape(row.shape[1:])
    address = (
        address if c > 1 else jax.lax.broadcast_in_dim(address, (*address.shape[:-1], 1), range(address.ndim))
    )
    return jnp.take(row.reshape(-1), x.astype(jnp.int32) * width + address)
