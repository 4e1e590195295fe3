"""Sparse graphs with many blocks: one loop over pieces of blocks, so that the program does not name every block.

Blocks are cut into pieces of equally many rows, the last piece of a block padded. Sites of a piece share no edge. A
piece has as many slots as its widest site has neighbours, and the tables of all pieces lie one behind the other, so a
loop of its own length over the slots of each piece wastes nothing on the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt32

from ebm_jax import rng
from ebm_jax.graphs import neighbours
from ebm_jax.graphs.blocks import BlockSpec
from ebm_jax.lattice.base import Layout
from ebm_jax.lattice.dense import MANY_GROUPS, counters
from ebm_jax.lattice.fields import Site, Slots, Weights, draw_levels, draw_spins, weigh
from ebm_jax.lattice.general import GeneralLayout, Host, PartTables, edge_rows, part_tables, slot_couplings
from ebm_jax.types import PyTree

# A step of the loop costs about as much as so many rows of 64 chains.
_ROWS_A_STEP = 16
_LARGEST_PIECE = 512


class PieceTables(NamedTuple):
    """The order of sites in memory, their random words, and the slots of all pieces.

    Rows are the pieces in order, then clamped sites. A row that pads a piece copies site 0, and no slot reads it.

    Attributes:
      order: int32 `(n_rows,)`, the site in each row.
      back: int32 `(n_sites,)`, the row of each site.
      counter: uint32 `(n_rows,)`, the cipher counter of each row.
      second: bool `(n_rows,)`, where a row takes the second of the cipher's two words.
      slots: The tables of all pieces, `(n_slots, n_rows of a piece)`.
      first: int32 `(n_pieces + 1,)`, where the slots of each piece begin, and the end.
    """

    order: Int[Host, " n_rows"]
    back: Int[Host, " n_sites"]
    counter: UInt32[Host, " n_rows"]
    second: Bool[Host, " n_rows"]
    slots: PartTables
    first: Int[Host, " n_first"]


@dataclass(frozen=True)
class LoopedLayout(Layout):
    """An Ising or Potts model on any graph with any blocks, as one loop.

    Attributes:
      shape: Shape of a configuration.
      coupling: "tied", "edge" or "matrix".
      n_levels: Levels of a site.
      spins: Whether sites are ±1, stored as bool.
      size: Rows of a piece.
      n_pieces: Pieces of all blocks.
    """

    shape: tuple[int, ...]
    coupling: str
    n_levels: int
    spins: bool
    size: int
    n_pieces: int

    path = "general"

    @classmethod
    def obstacle(cls, model: Any, spec: BlockSpec) -> str | None:
        """Says why a model does not fit, or returns None when it does."""
        return GeneralLayout.obstacle(model, spec)

    @classmethod
    def pays(cls, model: Any, spec: BlockSpec) -> bool:
        """Returns whether there are many blocks."""
        del model
        return len(spec.free) > MANY_GROUPS

    @classmethod
    def build(cls, model: Any, spec: BlockSpec) -> tuple[LoopedLayout, PieceTables]:
        """Returns the layout and tables of an Ising or Potts model under blocks that fit its graph."""
        graph = model.graph
        adjacency = neighbours(graph)
        degree = np.diff(adjacency.starts)
        size = _rows_of_a_piece([len(sites) for sites in spec.groups])
        pieces = []
        for sites in spec.groups:
            by_degree = sites[np.argsort(degree[sites], kind="stable")]
            pieces += np.split(by_degree, np.arange(size, len(sites), size))
        order = np.zeros(len(pieces) * size, np.int32)
        back = np.zeros(graph.n_sites, np.int32)
        for number, sites in enumerate(pieces):
            back[sites] = number * size + np.arange(len(sites))
        back[spec.clamped_sites] = len(order) + np.arange(len(spec.clamped_sites))
        order = np.concatenate([order, np.zeros(len(spec.clamped_sites), np.int32)])
        order[back] = np.arange(graph.n_sites)
        edges = edge_rows(graph, adjacency, model.coupling, back)
        tables = [part_tables(edges, sites) for sites in pieces]
        padding = {"row": 0, "coupling": edges.n_couplings, "forward": True}
        slots = PartTables(
            *(
                np.concatenate(
                    [
                        np.pad(column, ((0, 0), (0, size - column.shape[1])), constant_values=padding[name])
                        for column in (getattr(table, name) for table in tables)
                    ]
                )
                for name in PartTables._fields
            )
        )
        first = np.cumsum([0, *(len(table.row) for table in tables)]).astype(np.int32)
        counter, second = counters(graph)
        layout = cls(graph.shape, model.coupling, model.n_levels, model.spins, size, len(pieces))
        made = PieceTables(order, back, counter[order], second[order], slots, first)
        return layout, jax.device_put(made)

    def n_updates(self, spec: BlockSpec) -> int:
        """Returns 1: an update visits all blocks."""
        del spec
        return 1

    def pack(self, tables: PieceTables, x: Array) -> Array:
        """Turns `(chains, *sites)` into `(n_rows, chains)`."""
        return x.reshape(x.shape[0], -1).T[tables.order]

    def unpack(self, tables: PieceTables, packed: Array) -> Array:
        """The inverse of `pack`."""
        return packed[tables.back].T.reshape(-1, *self.shape)

    def prepare(self, tables: PieceTables, params: PyTree) -> Site:
        """Lays out parameters that carry a chain axis last (1 where all chains share them)."""
        levels = () if self.spins else (self.n_levels,)
        bias = params.bias.reshape(-1, *levels, params.bias.shape[-1])
        bias = jnp.broadcast_to(bias, (len(tables.back), *bias.shape[1:]))[tables.order]
        couplings = slot_couplings(tables.slots, self.coupling, self.n_levels, params.coupling)
        return Site(jnp.moveaxis(bias, 0, -2), couplings)

    def weigh(self, prepared: Site, beta: Array, odds: bool) -> Weights:
        """Returns what `update` reads at one β."""
        return weigh(prepared, self.spins, beta, odds)

    def update(
        self,
        group: int,
        tables: PieceTables,
        weights: Weights,
        odds: bool,
        words: UInt32[Array, "chains 2"],
        step: UInt32[Array, " chains"],
        packed: Array,
        masks: Array | None,
    ) -> Array:
        """Redraws every free site from its conditional, piece after piece, except where `masks` is True."""
        del group

        def redraw(piece: Any, rows: Array) -> Array:
            start = piece * self.size

            def own(column: Any, axis: int = 0) -> Array:
                return jax.lax.dynamic_slice_in_dim(column, start, self.size, axis)

            word, other = rng.site_words(words, step, own(tables.counter)[:, None])
            word = jnp.where(own(tables.second)[:, None], other, word)
            begin, end = tables.first[piece], tables.first[piece + 1]
            slots = Slots(end, lambda slot: rows[tables.slots.row[slot]], begin)
            here = weights._replace(bias=own(weights.bias, weights.bias.ndim - 2))
            if self.spins:
                drawn = draw_spins(here, slots, odds, word)
            else:
                drawn = draw_levels(self.n_levels, here, slots, odds, word)
            if masks is not None:
                drawn = jnp.where(own(masks), own(rows), drawn)
            return jax.lax.dynamic_update_slice_in_dim(rows, drawn, start, axis=0)

        return jax.lax.fori_loop(0, self.n_pieces, redraw, packed)


def _rows_of_a_piece(sizes: list[int]) -> int:
    """Returns the power of two at which padding and steps of the loop cost least."""
    candidates = [2**k for k in range(_LARGEST_PIECE.bit_length()) if 2**k < 2 * max(sizes)]
    steps = {size: sum(-(-n // size) for n in sizes) for size in candidates}
    return min(candidates, key=lambda size: steps[size] * (size + _ROWS_A_STEP))
