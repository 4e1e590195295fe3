"""Restricted Boltzmann machines: a layer is drawn from one matrix product with the other.

Chains are multiplied in fixed tiles of 64 columns, the last one padded: the order of additions inside a product then
does not depend on how many chains run, so neither does any draw. The padding costs a lone chain a factor of 64 in
arithmetic (a product with one column is bound by reading the weights, so far less in time). A tile goes through its
product and its draws while it is in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt32

from ebm_jax.graphs.blocks import BlockSpec
from ebm_jax.graphs.grids import Bipartite
from ebm_jax.lattice.units import Units, units
from ebm_jax.types import PyTree

TILE = 64
UNROLLED_TILES = 8  # beyond this a loop over tiles costs less to compile

Layer = Literal["visible", "hidden"]
_Columns = Callable[[Any], Float[Array, "k tile"]]


class Tables(NamedTuple):
    """For each group, a packed mask of the units of its layer that it leaves alone; None when it draws all of them."""

    others: tuple[Array | None, ...]


class Layers(NamedTuple):
    """Both layers of all chains as `lattice.units` stores them, `(tiles, rows + 1, TILE)`.

    like: an empty array for each layer, which holds the dtype of the caller's configurations.
    """

    visible: Array
    hidden: Array
    like: tuple[Array, Array]


class Prepared(NamedTuple):
    """Parameters as products read them. to_hidden, to_visible: `(rows out, rows in)`, or with a chain axis in front
    where chains have weights of their own. visible_bias, hidden_bias: `(rows, 1 or chains)`.
    """

    to_hidden: Float[Array, "*c n_hidden width"]
    to_visible: Float[Array, "*c width n_hidden"]
    visible_bias: Float[Array, "width c"]
    hidden_bias: Float[Array, "n_hidden c"]


def obstacle(model: Any, spec: BlockSpec) -> str | None:
    """Says why a model and its blocks do not fit, or None when they do."""
    del spec
    return None if isinstance(model.graph, Bipartite) and hasattr(model, "units") else "it is not an RBM"


def build(model: Any, spec: BlockSpec) -> tuple[BipartiteLayout, Tables]:
    """Returns the layout and tables of an RBM under a block specification that fits its graph."""
    n_visible = model.graph.n_left
    kinds = dict(zip(("visible", "hidden"), model.units, strict=True))
    visible = units(kinds["visible"], n_visible, getattr(model, "n_levels", 2))
    hidden = units(kinds["hidden"], model.graph.n_right, 2)
    layers: list[Layer] = []
    others: list[Array | None] = []
    for sites in spec.groups:
        in_hidden = bool(sites[0] >= n_visible)
        layer, first = (hidden, n_visible) if in_hidden else (visible, 0)
        layers.append("hidden" if in_hidden else "visible")
        left = ~np.isin(np.arange(layer.n), sites - first)
        others.append(layer.pack_mask(jnp.asarray(left)[:, None]) if left.any() else None)
    return BipartiteLayout(visible, hidden, tuple(layers)), Tables(tuple(others))


@dataclass(frozen=True)
class BipartiteLayout:
    """Packing and updates of an RBM; `layers` says which layer each group draws."""

    visible: Units
    hidden: Units
    layers: tuple[Layer, ...]

    has_odds = False

    def pack(self, tables: Tables, x: tuple[Array, Array]) -> Layers:
        """Cuts chains into tiles, and puts them last."""
        del tables
        packed = (layer.pack(_tiles(part.T)) for layer, part in zip(self._both, x, strict=True))
        visible, hidden = (jnp.pad(layer, ((0, 0), (0, 1), (0, 0))) for layer in packed)
        return Layers(visible, hidden, (jnp.zeros(0, x[0].dtype), jnp.zeros(0, x[1].dtype)))

    def unpack(self, tables: Tables, layers: Layers) -> tuple[Array, Array]:
        """The inverse of `pack`, with the chains that fill up the last tile."""
        del tables
        whole = zip(self._both, (layers.visible, layers.hidden), layers.like, strict=True)
        v, h = (_chains(layer.unpack(part[:, :-1])).astype(like.dtype) for layer, part, like in whole)
        return v, h

    def pack_mask(self, tables: Tables, mask: tuple[Array, Array]) -> Layers:
        """Lays out a mask as its layers store it."""
        del tables
        visible, hidden = (
            layer.pack_mask(_tiles(part.T)) for layer, part in zip(self._both, mask, strict=True)
        )
        return Layers(visible, hidden, (jnp.zeros(0, jnp.bool_), jnp.zeros(0, jnp.bool_)))

    def unpack_mask(self, tables: Tables, masks: Layers) -> tuple[Array, Array]:
        """The inverse of `pack_mask`, with the chains that fill up the last tile."""
        del tables
        v, h = (
            _chains(layer.unpack_mask(part)) != 0
            for layer, part in zip(self._both, (masks.visible, masks.hidden), strict=True)
        )
        return v, h

    def prepare(self, tables: Tables, params: PyTree) -> Prepared:
        """Takes parameters that carry a chain axis last (1 where all chains share them)."""
        del tables
        weights = jnp.moveaxis(params.weights, -1, 0)
        weights = weights.reshape(len(weights), -1, weights.shape[-1])  # (c, width, n_hidden)
        weights = weights[0] if len(weights) == 1 else weights
        visible_bias = params.visible_bias.reshape(-1, params.visible_bias.shape[-1])
        # Transposed here, once for all sweeps: a product runs along rows. Of a single sweep the compiler would
        # multiply by the transposed matrix as it lies, which takes nearly twice as long; hence the barrier.
        to_hidden = jax.lax.optimization_barrier(jnp.swapaxes(weights, -1, -2))
        return Prepared(to_hidden, weights, visible_bias, params.hidden_bias)

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
        """Redraws a layer from its conditional given the other, except where `masks` holds it."""
        del odds
        return self.redraw(group, tables, weights, words, step, layers, masks)[0]

    def redraw(
        self,
        group: int,
        tables: Tables,
        weights: tuple[Prepared, Array],
        words: UInt32[Array, "chains 2"],
        step: UInt32[Array, " chains"],
        layers: Layers,
        masks: Layers | None,
    ) -> tuple[Layers, _Columns, _Columns]:
        """Redraws a layer as `update` does.

        Returns:
          The layers, and two functions of a tile's number: the values that weights multiplied, and the products.
        """
        prepared, beta = weights
        name: Layer = self.layers[group]
        if name == "hidden":
            layer, other, first_site = self.hidden, self.visible, self.visible.n
            matrix, bias, source = prepared.to_hidden, prepared.hidden_bias, layers.visible
        else:
            layer, other, first_site = self.visible, self.hidden, 0
            matrix, bias, source = prepared.to_visible, prepared.visible_bias, layers.hidden
        operand = lambda t: other.operand(source[t, :-1], matrix.dtype)  # noqa: E731
        products = _products(matrix, operand, len(step))
        key_words, steps = _tiles(words.T), _tiles(step[None])
        biases, betas = _shared_or_tiles(bias), _shared_or_tiles(beta[None])
        held = masks and getattr(masks, name)

        def redraw(t: Any, packed: Array) -> Array:
            field = biases(t) + products(t)
            new = layer.redraw(field, betas(t)[0], key_words[t].T, steps[t, 0], first_site)
            for mask in (tables.others[group], None if held is None else held[t]):
                if mask is not None:
                    new = layer.hold(mask, packed[t, :-1], new)
            return jax.lax.dynamic_update_slice(packed, new[None], (t, 0, 0))

        packed = getattr(layers, name)
        if len(packed) > UNROLLED_TILES:
            packed = jax.lax.fori_loop(0, len(packed), redraw, packed)
        else:
            for t in range(len(packed)):
                packed = redraw(t, packed)
        return layers._replace(**{name: packed}), operand, products

    @property
    def _both(self) -> tuple[Units, Units]:
        return self.visible, self.hidden


def _products(
    matrix: Array, operand: Callable[[Any], Array], n_chains: int
) -> Callable[[Any], Float[Array, "k chains"]]:
    """Returns, for tile t, the matrix times the operand of the tile."""
    if matrix.ndim == 2:
        return lambda t: jax.lax.dot_general(
            matrix, operand(t), (((1,), (0,)), ((), ())), precision=jax.lax.Precision.HIGHEST
        )
    n_tiles = -(-n_chains // TILE)
    chains = _chains(jnp.stack([operand(t) for t in range(n_tiles)]))[:n_chains]
    fields = _tiles(jnp.einsum("ckj,cj->kc", matrix, chains, precision="highest"))
    return fields.__getitem__


def _tiles(columns: Shaped[Array, "k chains"]) -> Shaped[Array, "tiles k tile"]:
    """Cuts the last axis into tiles, filled up with zeros, and puts tiles first."""
    n_tiles = -(-columns.shape[-1] // TILE)
    padded = jnp.pad(columns, ((0, 0), (0, n_tiles * TILE - columns.shape[-1])))
    return jnp.moveaxis(padded.reshape(-1, n_tiles, TILE), 1, 0)


def _chains(tiles: Shaped[Array, "tiles k tile"]) -> Shaped[Array, "chains k"]:
    """Returns a row a chain."""
    return jnp.swapaxes(tiles, 1, 2).reshape(-1, tiles.shape[1])


def _shared_or_tiles(values: Shaped[Array, "k c"]) -> Callable[[Any], Array]:
    """Returns, for tile t, its columns, or the one column that all chains share."""
    return (lambda t: values) if values.shape[-1] == 1 else _tiles(values).__getitem__
