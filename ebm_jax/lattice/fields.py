"""Logits of a site from its own bias and its neighbours, the part that all pairwise layouts share.

A slot is one neighbour of every site in a group: its configuration and the coupling of the edge to it. Empty slots
(the outside of a free grid, padding of a short row) have coupling zero, which adds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

from ebm_jax.lattice import draw

SELECTED_LEVELS = 4  # up to here a table entry is chosen by comparisons, beyond by a gather


class Slot(NamedTuple):
    """One neighbour of every site: its configuration, and couplings `(*sites, c)` or `(K, K, *sites, c)`."""

    x: Array
    coupling: Float[Array, "*shape"]


def draw_spins(
    bias: Float[Array, "*sites_c"],
    slots: Sequence[Slot],
    beta: Float[Array, "..."],
    word: UInt32[Array, "..."],
) -> Bool[Array, "..."]:
    """Draws spins: True with probability σ(2β(b + Σ J s))."""
    field = bias
    for slot in slots:
        field = field + jnp.where(slot.x, slot.coupling, -slot.coupling)
    return draw.bernoulli(2.0 * beta * field, word)


def draw_levels(
    n_levels: int,
    bias: Float[Array, "levels *sites_c"],
    slots: Sequence[Slot],
    beta: Float[Array, "..."],
    word: UInt32[Array, "..."],
) -> UInt8[Array, "..."]:
    """Draws levels: k with probability ∝ exp(β(b[k] + Σ w[k, x_neighbour]))."""

    def logit(level: Int[Array, ""] | int) -> Float[Array, "..."]:
        total = bias[level]
        for slot in slots:
            total = total + _contribution(slot, level, n_levels, bias.ndim - 1)
        return beta * total

    return draw.categorical(logit, n_levels, word)


def _contribution(
    slot: Slot, level: Int[Array, ""] | int, n_levels: int, site_ndim: int
) -> Float[Array, "..."]:
    if slot.coupling.ndim == site_ndim:
        return jnp.where(slot.x == jnp.asarray(level, slot.x.dtype), slot.coupling, 0)
    row = slot.coupling[level]  # (K, *sites, c): one value for every level of the neighbour
    if n_levels <= SELECTED_LEVELS:
        chosen = row[0]
        for other in range(1, n_levels):
            chosen = jnp.where(slot.x == other, row[other], chosen)
        return chosen
    # Flat gather; `c` is 1 where chains share parameters, so the chain enters the address only if it is not.
    flat = row.reshape(n_levels, -1)
    c = row.shape[-1]
    sites = jnp.arange(flat.shape[1] // c, dtype=jnp.int32).reshape(*row.shape[1:-1], 1) * c
    address = sites + (jnp.arange(c, dtype=jnp.int32) if c > 1 else 0)
    return jnp.take(flat.reshape(-1), slot.x.astype(jnp.int32) * flat.shape[1] + address)
