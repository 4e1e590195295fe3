"""Restricted Boltzmann machines: a layer is drawn from one matrix product with the other.

Chains are multiplied in fixed tiles of 64 rows, the last one padded with zeros: the order of additions inside a product
then does not depend on how many chains run, so neither does any draw. The padding costs a lone chain a factor of 64 in
arithmetic (a product with one row is bound by reading the weights, so far less in time).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32

from ebm_jax import rng
from ebm_jax.blocks import BlockSpec
from ebm_jax.graphs import Bipartite
from ebm_jax.lattice import draw
from ebm_jax.types import PyTree

TILE = 64
UNROLLED_TILES = 8  # a loop costs about a tenth, code for many tiles more to compile

Layer = Literal["visible", "hidden"]


class Tables(NamedTuple):
    """For each group, True at the units of its layer that it draws; None when it draws all of them."""

    members: tuple[Array | None, ...]


class Layers(NamedTuple):
    """Both layers of all chains, `(chains, units)` in the caller's dtype."""

    visible: Array
    hidden: Array


class Prepared(NamedTuple):
    """Parameters with a chain axis: weights `(n_visible, n_hidden)` where shared, else `(chains, n_visible, n_hidden)`;
    biases `(1 or chains, units)`."""

    weights: Float[Array, "*c n_visible n_hidden"]
    visible_bias: Float[Array, "c n_visible"]
    hidden_bias: Float[Array, "c n_hidden"]


def build(graph: Bipartite, spec: BlockSpec) -> tuple[BipartiteLayout, Tables]:
    """Returns the layout and tables of an RBM under a block specification that fits its graph."""
    layers: list[Layer] = []
    members: list[Array | None] = []
    for sites in spec.groups:
        hidden = bool(sites[0] >= graph.n_left)
        units = sites - graph.n_left if hidden else sites
        size = graph.n_right if hidden else graph.n_left
        layers.append("hidden" if hidden else "visible")
        members.append(None if len(units) == size else jnp.asarray(np.isin(np.arange(size), units)))
    return BipartiteLayout(graph, tuple(layers)), Tables(tuple(members))


@dataclass(frozen=True)
class BipartiteLayout:
    """Packing and updates of an RBM; `layers` says which layer each group draws."""

    graph: Bipartite
    layers: tuple[Layer, ...]

    has_odds = False

    def pack(self, tables: Tables, x: tuple[Array, Array]) -> Layers:
        """Chains stay in front: a product wants whole rows."""
        del tables
        return Layers(*x)

    def unpack(self, tables: Tables, layers: Layers) -> tuple[Array, Array]:
        """The inverse of `pack`."""
        del tables
        return layers.visible, layers.hidden

    pack_mask, unpack_mask = pack, unpack

    def prepare(self, tables: Tables, params: PyTree) -> Prepared:
        """Takes parameters that carry a chain axis last (1 where all chains share them)."""
        del tables
        weights = jnp.moveaxis(params.weights, -1, 0)
        return Prepared(
            weights[0] if len(weights) == 1 else weights, params.visible_bias.T, params.hidden_bias.T
        )

    def weigh(self, prepared: Prepared, beta: Array, odds: bool) -> tuple[Prepared, Array]:
        """Returns what `update` reads at one β. Scaling fields costs less than scaling weights."""
        del odds
        return prepared, beta

    def update(
        self,
        group: int,
        tables: Tables,
        weights: tuple[Prepared, Array],
        odds: bool,
        words: UInt32[Array, "chains 2"],
        step: UInt32[Array, " chains"],
        layers: Layers,
        masks: Layers | None,
    ) -> Layers:
        """Redraws a layer from its conditional σ(β(bias + input)), except where `masks` is True."""
        del odds
        prepared, beta = weights
        if self.layers[group] == "hidden":
            old, held, first = layers.hidden, masks and masks.hidden, self.graph.n_left
            field = prepared.hidden_bias + _products(layers.visible, prepared.weights, 0)
        else:
            old, held, first = layers.visible, masks and masks.visible, 0
            field = prepared.visible_bias + _products(layers.hidden, prepared.weights, 1)
        site = jnp.arange(first, first + old.shape[1], dtype=jnp.uint32)
        word, _ = rng.site_words(words, step, site[:, None])
        drawn = draw.bernoulli(field * jnp.reshape(beta, (-1, 1)), word.T).astype(old.dtype)
        members = tables.members[group]
        drawn = drawn if members is None else jnp.where(members, drawn, old)
        drawn = drawn if held is None else jnp.where(held, old, drawn)
        return layers._replace(**{self.layers[group]: drawn})


def _products(units: Array, weights: Array, axis: int) -> Float[Array, "chains k"]:
    """Returns Σ units · weights over the `axis` (0: visible, 1: hidden) of `(n_visible, n_hidden)`, tile by tile."""
    rows = units.astype(weights.dtype)
    if weights.ndim == 3:  # every chain has weights of its own
        return jnp.einsum("cv,cvh->ch" if axis == 0 else "ch,cvh->cv", rows, weights, precision="highest")
    n_chains, width = rows.shape
    n_tiles = -(-n_chains // TILE)
    rows = jnp.pad(rows, ((0, n_tiles * TILE - n_chains), (0, 0))).reshape(n_tiles, TILE, width)

    def multiply(tile: Array) -> Array:
        # Contracting the weights where they lie: a transpose before the loop would be stored.
        return jax.lax.dot_general(tile, weights, (((1,), (axis,)), ((), ())), precision="highest")

    if n_tiles > UNROLLED_TILES:
        products = jax.lax.map(multiply, rows)
    else:
        products = jnp.stack([multiply(rows[i]) for i in range(n_tiles)])
    return products.reshape(n_tiles * TILE, -1)[:n_chains]
