"""A site's conditional from its own bias and its neighbours, which all pairwise layouts share.

A slot is one neighbour of every site in a group. Empty slots (outside a free grid, or padding of a short row) have
coupling zero, which changes nothing.

Two arithmetics give the same conditional. With logits, couplings are added, and a draw takes an exponential for each
level. With odds, exponentials of the couplings are multiplied; these exponentials depend on the parameters alone, so
all chains share them. Odds are used while no product can leave float32: while `largest_log_odds` times β stays under
`MAX_LOG_ODDS`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

from ebm_jax import draw
from ebm_jax.chains import with_leading_axes

# With more slots a loop over neighbours costs less to compile, and no more to run.
UNROLLED_SLOTS = 8
# With more levels a table entry is taken by a gather instead of comparisons.
SELECTED_LEVELS = 4
# exp(±75), and a sum of 256 of them, fit float32, which holds exp(88).
MAX_LOG_ODDS = 75.0


class Site(NamedTuple):
    """Parameters of a group of sites. `c` is the chain axis, 1 where chains share parameters.

    Attributes:
      bias: `(*levels, *sites, c)`.
      couplings: `(*sites, c)` or `(K, K, *sites, c)` for each slot: a tuple over slots, or one array with slots in
        front.
    """

    bias: Float[Array, "*shape"]
    couplings: Array | tuple[Array, ...]


class Weights(NamedTuple):
    """What an update reads: the parameters of `Site` times β, as logits or as odds.

    Attributes:
      bias: As in `Site`.
      couplings: Spins have one set for a neighbour that is up and one for a neighbour that is down; levels have one
        set.
    """

    bias: Float[Array, "*shape"]
    couplings: tuple[Array | tuple[Array, ...], ...]


class Slots(NamedTuple):
    """The neighbours of the sites of a group.

    Attributes:
      stop: The number behind that of the last slot. Traced numbers make a loop.
      at: Gives the configuration in a slot, `(*sites, chains)`.
      start: The number of the first slot.
    """

    stop: Any
    at: Callable[[Any], Array]
    start: Any = 0

    @property
    def written_out(self) -> bool:
        """Whether there are few slots, each of which is written into the program."""
        return isinstance(self.stop, int) and self.stop <= UNROLLED_SLOTS

    def read(self) -> Slots:
        """Reads every slot once for all levels, where slots are written out."""
        if not self.written_out:
            return self
        return Slots(self.stop, [self.at(slot) for slot in range(self.stop)].__getitem__)


def largest_log_odds(site: Site, spins: bool) -> Float[Array, ""]:
    """Returns a bound on |logit| at β = 1 over all sites, levels and neighbours; biases count from their largest."""
    widest = jnp.max(jnp.abs(site.bias) if spins else jnp.max(site.bias, axis=0) - jnp.min(site.bias, axis=0))
    if isinstance(site.couplings, tuple):
        strengths = [jnp.max(jnp.abs(coupling), initial=0.0) for coupling in site.couplings]
        widest = functools.reduce(jnp.add, strengths, widest)
    else:
        strengths = jnp.max(jnp.abs(site.couplings), axis=range(1, site.couplings.ndim), initial=0.0)
        widest = widest + jnp.sum(strengths)
    return 2 * widest if spins else widest


def weigh(site: Site, spins: bool, beta: Float[Array, "..."], odds: bool) -> Weights:
    """Returns the weights at one β."""
    bias = site.bias if spins or not odds else site.bias - jnp.max(site.bias, axis=0, keepdims=True)

    def scaled(value: Array) -> Array:
        scale = with_leading_axes(2 * beta if spins else beta, value.ndim)
        return jnp.exp(scale * value) if odds else scale * value

    signs = (1.0, -1.0) if spins else (1.0,)
    sets = (jax.tree.map(lambda w, sign=sign: scaled(sign * w), site.couplings) for sign in signs)
    return Weights(scaled(bias), tuple(sets))


def draw_spins(weights: Weights, slots: Slots, odds: bool, word: UInt32[Array, "..."]) -> Bool[Array, "..."]:
    """Draws spins: True with probability σ(2β(b + Σ J s)); a neighbour is up where it is not 0."""
    up, down = weights.couplings

    def weight_of_slot(slot: Any, x: Array) -> Array:
        return jnp.where(x.astype(jnp.bool_), up[slot], down[slot])

    total = _combine(weights.bias, slots, odds, word.shape, weight_of_slot)
    return draw.bernoulli_odds(total, word) if odds else draw.bernoulli(total, word)


def draw_levels(
    n_levels: int, weights: Weights, slots: Slots, odds: bool, word: UInt32[Array, "..."]
) -> UInt8[Array, "..."]:
    """Draws levels: k with probability ∝ exp(β(b[k] + Σ w[k, x_neighbour]))."""
    (couplings,), slots = weights.couplings, slots.read()
    site_ndim = weights.bias.ndim - 1

    def value(level: Int[Array, ""] | int) -> Float[Array, "..."]:
        def weight_of_slot(slot: Any, x: Array) -> Array:
            coupling = couplings[slot]
            if coupling.ndim == site_ndim:
                return jnp.where(x == jnp.asarray(level, x.dtype), coupling, 1.0 if odds else 0.0)
            return table_entry(coupling[level], x, n_levels)

        return _combine(weights.bias[level], slots, odds, word.shape, weight_of_slot)

    return (draw.categorical_odds if odds else draw.categorical)(value, n_levels, word)


def _combine(
    bias: Array,
    slots: Slots,
    odds: bool,
    shape: tuple[int, ...],
    weight_of_slot: Callable[[Any, Array], Array],
) -> Array:
    """Returns the bias with the weight of every slot multiplied by it or added to it, slot after slot."""

    def include(slot: Any, total: Array) -> Array:
        weight = weight_of_slot(slot, slots.at(slot))
        return total * weight if odds else total + weight

    if not slots.written_out:
        return jax.lax.fori_loop(slots.start, slots.stop, include, jnp.broadcast_to(bias, shape))
    for slot in range(slots.stop):
        bias = include(slot, bias)
    return bias


def table_entry(row: Float[Array, "levels *sites_c"], x: Array, n_levels: int) -> Float[Array, "..."]:
    """Returns row[x] at every site."""
    if n_levels <= SELECTED_LEVELS:
        chosen = row[0]
        for other in range(1, n_levels):
            chosen = jnp.where(x == other, row[other], chosen)
        return chosen
    # A gather from a flat table. Its last axis, chains, has length 1 where chains share parameters.
    width = row[0].size
    address = jnp.arange(width, dtype=jnp.int32).reshape(row.shape[1:])
    return jnp.take(row.reshape(-1), x.astype(jnp.int32) * width + address)
