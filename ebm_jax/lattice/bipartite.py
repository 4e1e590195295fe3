"""Restricted Boltzmann machines: a layer is drawn from one matrix product with the other.

Chains are multiplied in fixed tiles of 64 columns, the last tile padded. The order of additions inside a product then
does not depend on how many chains run, so neither does any draw. Padding costs a single chain a factor of 64 in
arithmetic, but far less in time: a product with one column is bound by reading the weights. A tile goes through its
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

from ebm_jax.energies.base import LayeredModel
from ebm_jax.graphs.blocks import BlockSpec
from ebm_jax.graphs.edges import Bipartite
from ebm_jax.lattice.base import Layout
from ebm_jax.lattice.units import Gaussian, Units, make_units
from ebm_jax.types import PyTree

TILE = 64
# With more tiles a loop over them costs less to compile.
UNROLLED_TILES = 8

Layer = Literal["visible", "hidden"]
_Columns = Callable[[Any], Float[Array, "k tile"]]


class LayerTables(NamedTuple):
    """Which units a group does not draw.

    Attributes:
      others: For each group, the packed mask of the units of its layer that are not in it; None when all of them are.
    """

    others: tuple[Array | None, ...]


class Layers(NamedTuple):
    """Both layers of all chains as `lattice.units` stores them.

    Attributes:
      visible: `(tiles, rows + 1, TILE)`.
      hidden: `(tiles, rows + 1, TILE)`.
      like: An empty array for each layer, which holds the dtype of the caller's configurations.
    """

    visible: Array
    hidden: Array
    like: tuple[Array, Array]


class LayerParameters(NamedTuple):
    """Parameters as products read them; `width` is the number of values by which visible units enter a product.

    Attributes:
      to_hidden: `(n_hidden, width)`, or with a chain axis in front where chains have weights of their own.
      to_visible: `(width, n_hidden)`, likewise.
      visible_bias: `(width, 1 or chains)`.
      hidden_bias: `(n_hidden, 1 or chains)`.
    """

    to_hidden: Float[Array, "*c n_hidden width"]
    to_visible: Float[Array, "*c width n_hidden"]
    visible_bias: Float[Array, "width c"]
    hidden_bias: Float[Array, "n_hidden c"]


@dataclass(frozen=True)
class BipartiteLayout(Layout):
    """An RBM with any blocks of one layer each.

    Attributes:
      visible: How the visible layer is stored and drawn.
      hidden: How the hidden layer is stored and drawn.
      layers: For each group of the block specification, the layer that it draws.
    """

    visible: Units
    hidden: Units
    layers: tuple[Layer, ...]

    path = "bipartite"

    @classmethod
    def obstacle(cls, model: Any, spec: BlockSpec) -> str | None:
        """Says why a model does not fit, or returns None when it does."""
        del spec
        fits = isinstance(model, LayeredModel) and isinstance(model.graph, Bipartite)
        return None if fits else "it is not an RBM"

    @classmethod
    def build(cls, model: Any, spec: BlockSpec) -> tuple[BipartiteLayout, LayerTables]:
        """Returns the layout and tables of an RBM under a block specification that fits its graph."""
        n_visible, n_hidden = model.graph.n_left, model.graph.n_right
        visible, hidden = map(make_units, model.units, (n_visible, n_hidden), model.level_counts)
        layers: list[Layer] = []
        others: list[Array | None] = []
        for sites in spec.groups:
            in_hidden = bool(sites[0] >= n_visible)
            layer, first = (hidden, n_visible) if in_hidden else (visible, 0)
            layers.append("hidden" if in_hidden else "visible")
            left = ~np.isin(np.arange(layer.n), sites - first)
            others.append(layer.pack_mask(jnp.asarray(left)[:, None]) if left.any() else None)
        return cls(visible, hidden, tuple(layers)), LayerTables(tuple(others))

    @property
    def may_diverge(self) -> bool:
        """Whether a layer is real: it leaves the finite numbers where β is not above 0 or parameters are not finite."""
        return any(isinstance(layer, Gaussian) for layer in self._both)

    def pack(self, tables: LayerTables, x: tuple[Array, Array]) -> Layers:
        """Cuts chains into tiles and puts them last."""
        del tables
        packed = (layer.pack(_tiles(part.T)) for layer, part in zip(self._both, x, strict=True))
        visible, hidden = (jnp.pad(layer, ((0, 0), (0, 1), (0, 0))) for layer in packed)
        return Layers(visible, hidden, (jnp.zeros(0, x[0].dtype), jnp.zeros(0, x[1].dtype)))

    def unpack(self, tables: LayerTables, layers: Layers) -> tuple[Array, Array]:
        """The inverse of `pack`, with the chains that fill the last tile."""
        del tables
        parts = zip(self._both, (layers.visible, layers.hidden), layers.like, strict=True)
        v, h = (_chains(layer.unpack(part[:, :-1])).astype(like.dtype) for layer, part, like in parts)
        return v, h

    def pack_mask(self, tables: LayerTables, mask: tuple[Array, Array]) -> Layers:
        """Lays out a mask as its layers store it."""
        del tables
        visible, hidden = (
            layer.pack_mask(_tiles(part.T)) for layer, part in zip(self._both, mask, strict=True)
        )
        return Layers(visible, hidden, (jnp.zeros(0, jnp.bool_), jnp.zeros(0, jnp.bool_)))

    def unpack_mask(self, tables: LayerTables, masks: Layers) -> tuple[Array, Array]:
        """The inverse of `pack_mask`, with the chains that fill the last tile."""
        del tables
        v, h = (
            _chains(layer.unpack_mask(part)).astype(jnp.bool_)
            for layer, part in zip(self._both, (masks.visible, masks.hidden), strict=True)
        )
        return v, h

    def prepare(self, tables: LayerTables, params: PyTree) -> LayerParameters:
        """Takes parameters that carry a chain axis last (1 where all chains share them)."""
        del tables
        weights = jnp.moveaxis(params.weights, -1, 0)
        # (c, width, n_hidden), and without the chain axis where chains share the weights.
        weights = weights.reshape(len(weights), -1, weights.shape[-1])
        weights = weights[0] if len(weights) == 1 else weights
        visible_bias = params.visible_bias.reshape(-1, params.visible_bias.shape[-1])
        # A product runs along rows, so the weights are transposed here, once for all sweeps. Where there is a single
        # sweep the compiler would multiply by the matrix as it lies, which takes nearly twice as long: hence the
        # barrier.
        to_hidden = jax.lax.optimization_barrier(jnp.swapaxes(weights, -1, -2))
        return LayerParameters(to_hidden, weights, visible_bias, params.hidden_bias)

    def weigh(self, prepared: LayerParameters, beta: Array, odds: bool) -> tuple[LayerParameters, Array]:
        """Returns what `update` reads at one β. Scaling the units' inputs costs less than scaling the weights."""
        del odds
        return prepared, beta

    def update(
        self,
        group: int,
        tables: LayerTables,
        weights: tuple[LayerParameters, Array],
        odds: bool,
        words: UInt32[Array, "chains 2"],
        step: UInt32[Array, " chains"],
        layers: Layers,
        masks: Layers | None,
    ) -> Layers:
        """Redraws a layer from its conditional given the other, except where `masks` holds units."""
        del odds
        return self.redraw(group, tables, weights, words, step, layers, masks)[0]

    def redraw(
        self,
        group: int,
        tables: LayerTables,
        weights: tuple[LayerParameters, Array],
        words: UInt32[Array, "chains 2"],
        step: UInt32[Array, " chains"],
        layers: Layers,
        masks: Layers | None,
    ) -> tuple[Layers, _Columns, _Columns]:
        """Returns the layers with one redrawn, and functions that give the operand and the product of a tile."""
        prepared, beta = weights
        name: Layer = self.layers[group]
        if name == "hidden":
            layer, other, first_site = self.hidden, self.visible, self.visible.n
            matrix, bias, source = prepared.to_hidden, prepared.hidden_bias, layers.visible
        else:
            layer, other, first_site = self.visible, self.hidden, 0
            matrix, bias, source = prepared.to_visible, prepared.visible_bias, layers.hidden

        def operand(t: Any) -> Array:
            return other.operand(source[t, :-1], matrix.dtype)

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
    """Cuts the last axis into tiles, the last one filled with zeros, and puts tiles first."""
    n_tiles = -(-columns.shape[-1] // TILE)
    padded = jnp.pad(columns, ((0, 0), (0, n_tiles * TILE - columns.shape[-1])))
    return jnp.moveaxis(padded.reshape(-1, n_tiles, TILE), 1, 0)


def _chains(tiles: Shaped[Array, "tiles k tile"]) -> Shaped[Array, "chains k"]:
    """Returns one row for each chain."""
    return jnp.swapaxes(tiles, 1, 2).reshape(-1, tiles.shape[1])


def _shared_or_tiles(values: Shaped[Array, "k c"]) -> Callable[[Any], Array]:
    """Returns, for tile t, its columns, or the one column that all chains share."""
    return (lambda t: values) if values.shape[-1] == 1 else _tiles(values).__getitem__
