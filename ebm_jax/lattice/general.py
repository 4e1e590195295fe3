"""Any graph with any blocks: neighbours by padded index tables.

Sites are renumbered so that the sites drawn together are contiguous rows of one array `(n_sites, chains)`. A gather
then copies whole rows of chains. The tables travel with the kernel as arguments of the compiled code.

Rows of a table are as long as the largest number of neighbours, so the sites of a group are cut into parts of about the
same degree. Sites of a group share no edge, so drawing them part after part gives the same law as drawing all at once.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from ebm_jax import rng
from ebm_jax.energies.base import PairwiseModel
from ebm_jax.graphs import Adjacency, AnyGraph, Grid, neighbours
from ebm_jax.graphs.blocks import BlockSpec
from ebm_jax.lattice.base import Layout
from ebm_jax.lattice.fields import (
    UNROLLED_SLOTS,
    Site,
    Slots,
    Weights,
    draw_levels,
    draw_spins,
    largest_log_odds,
    weigh,
)
from ebm_jax.lattice.grid import site_counters
from ebm_jax.types import PyTree

# Tables are built in NumPy and put on the device whole.
Host = Array | np.ndarray

# With fewer empty slots than this a further part, which is another loop to compile and start, does not pay.
SPARE_SLOTS = 512


class PartTables(NamedTuple):
    """Tables of sites that are drawn together, padded to the longest row.

    Attributes:
      row: int32 `(width, n)`, the row of the neighbour in the packed array.
      coupling: int32 `(width, n)`, the number of the edge's coupling. In an empty slot it is the number of couplings,
        where `slot_couplings` puts a zero.
      forward: bool `(width, n)`, True where the site is the first of the edge.
    """

    row: Int[Host, "width n"]
    coupling: Int[Host, "width n"]
    forward: Bool[Host, "width n"]


class GraphTables(NamedTuple):
    """The order of sites in memory, their random words, and their neighbours.

    The random words are those of the grid path where the graph is a grid.

    Attributes:
      order: int32 `(n_sites,)`, the site in each packed row.
      back: int32 `(n_sites,)`, the inverse of `order`.
      counter: uint32 `(n_sites,)`, the cipher counter of each packed row.
      second: True where a row takes the second of the cipher's two words; None when no row does.
      parts: The tables of the parts of each group.
    """

    order: Int[Host, " n_sites"]
    back: Int[Host, " n_sites"]
    counter: UInt32[Host, " n_sites"]
    second: Bool[Host, " n_sites"] | None
    parts: tuple[tuple[PartTables, ...], ...]


def by_degree(sites: np.ndarray, degree: np.ndarray, spare: int) -> list[np.ndarray]:
    """Returns `sites` in parts of rising degree that waste little when each is padded to its largest degree.

    Args:
      sites: The sites of a group.
      degree: The degree of every site of the graph.
      spare: Empty slots that a part may have. It may have as many as filled slots, or `SPARE_SLOTS`, if that is more.

    Returns:
      The sites of each part.
    """
    of_site = degree[sites]
    widths, counts = np.unique(of_site, return_counts=True)
    # The largest degree of each part.
    parts: list[int] = []
    n, filled = 0, 0
    for width, count in zip(widths.tolist(), counts.tolist(), strict=True):
        n, filled = n + count, filled + count * width
        if parts and n * width - filled <= max(SPARE_SLOTS, spare, filled):
            parts[-1] = width
        else:
            parts.append(width)
            n, filled = count, count * width
    number = np.searchsorted(parts, of_site)
    return [sites[number == part] for part in range(len(parts))]


class EdgeRows(NamedTuple):
    """Neighbours of every site as compressed rows (see `graphs.Adjacency`).

    Attributes:
      starts: Where each row begins.
      row: The row in which the neighbour is stored.
      coupling: The number of the edge's coupling.
      forward: Whether the site is the first of the edge.
      n_couplings: How many couplings there are.
    """

    starts: np.ndarray
    row: np.ndarray
    coupling: np.ndarray
    forward: np.ndarray
    n_couplings: int


def edge_rows(graph: AnyGraph, adjacency: Adjacency, coupling: str, row_of_site: np.ndarray) -> EdgeRows:
    """Returns the compressed rows of a graph, given the row in which every site is stored."""
    kinds, n_kinds = _coupling_of_edge(graph, coupling)
    starts, sites, edges, forward = adjacency
    return EdgeRows(starts, row_of_site[sites], kinds[edges], forward, n_kinds)


def part_tables(rows: EdgeRows, sites: np.ndarray) -> PartTables:
    """Returns the tables of some sites."""
    at, filled = padded(rows.starts, sites)
    return PartTables(
        np.where(filled, _pick(rows.row, at), 0).astype(np.int32),
        np.where(filled, _pick(rows.coupling, at), rows.n_couplings).astype(np.int32),
        np.where(filled, _pick(rows.forward, at), True).astype(np.bool_),
    )


def padded(starts: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the places of the entries of some compressed rows, padded to the longest of them, and which are filled.

    Args:
      starts: Where each row begins, and behind the last one where it ends.
      rows: Numbers of the rows.

    Returns:
      `(width, n)` places, 0 where a row has no entry, and bools, True where it has one.
    """
    counts = starts[rows + 1] - starts[rows]
    slot = np.arange(counts.max(initial=0))[:, None]
    filled = slot < counts
    return np.where(filled, starts[rows] + slot, 0), filled


def _pick(column: np.ndarray, at: np.ndarray) -> np.ndarray:
    return column[at] if column.size else np.zeros(at.shape, column.dtype)


def _coupling_of_edge(graph: AnyGraph, coupling: str) -> tuple[np.ndarray, int]:
    """Returns the number of each edge's coupling, and how many couplings there are."""
    if coupling != "tied":
        return np.arange(graph.n_edges), graph.n_edges
    if not isinstance(graph, Grid):
        return np.zeros(graph.n_edges, int), 1
    sizes = [int(np.prod(graph.edge_shape(d))) for d in graph.directions]
    return np.repeat(np.arange(len(sizes)), sizes), len(sizes)


def slot_couplings(
    part: PartTables, coupling: str, n_levels: int, values: Array
) -> Float[Array, "width *shape"]:
    """Returns the coupling in every slot.

    Args:
      part: The tables of the sites.
      coupling: "tied", "edge" or "matrix".
      n_levels: Levels of a site, K.
      values: The model's couplings with a chain axis last.

    Returns:
      `(width, n, c)`, or for "matrix" `(width, K, K, n, c)` with the site's own level first.
    """
    square = (n_levels, n_levels) if coupling == "matrix" else ()
    values = values.reshape(-1, *square, values.shape[-1])
    # Empty slots read the zero at the end.
    values = jnp.concatenate([values, jnp.zeros((1, *values.shape[1:]), values.dtype)])
    found = values[part.coupling]
    if coupling != "matrix":
        return found
    own_first = jnp.where(part.forward[..., None, None, None], found, jnp.swapaxes(found, 2, 3))
    return jnp.moveaxis(own_first, 1, -2)


@dataclass(frozen=True)
class GeneralLayout(Layout):
    """An Ising or Potts model on any graph with any blocks.

    Attributes:
      shape: Shape of a configuration.
      coupling: "tied", "edge" or "matrix".
      n_levels: Levels of a site.
      spins: Whether sites are ±1, stored as bool.
      sizes: The number of sites of each part of each group.
    """

    shape: tuple[int, ...]
    coupling: str
    n_levels: int
    spins: bool
    sizes: tuple[tuple[int, ...], ...]

    path = "general"

    @classmethod
    def obstacle(cls, model: Any, spec: BlockSpec) -> str | None:
        """Says why a model does not fit, or returns None when it does."""
        del spec
        fits = isinstance(model, PairwiseModel)
        return None if fits else "it has no couplings on the edges of its graph"

    @classmethod
    def build(cls, model: Any, spec: BlockSpec) -> tuple[GeneralLayout, GraphTables]:
        """Returns the layout and tables of an Ising or Potts model under blocks that fit its graph."""
        graph = model.graph
        adjacency = neighbours(graph)
        members = [by_degree(sites, np.diff(adjacency.starts), graph.n_edges // 8) for sites in spec.groups]
        order = np.concatenate([sites for parts in members for sites in parts] + [spec.clamped_sites])
        order = order.astype(np.int32)
        back = np.empty_like(order)
        back[order] = np.arange(graph.n_sites, dtype=np.int32)
        rows = edge_rows(graph, adjacency, model.coupling, back)
        parts = tuple(tuple(part_tables(rows, sites) for sites in group) for group in members)
        counter, second = order.astype(np.uint32), None
        if isinstance(graph, Grid):
            counter, second = (column[order] for column in site_counters(graph))
        sizes = tuple(tuple(len(sites) for sites in group) for group in members)
        layout = cls(graph.shape, model.coupling, model.n_levels, model.spins, sizes)
        # One `device_put` of all tables: `jnp.asarray` compiles a program for every shape, which took ten times as long
        # as everything else here.
        return layout, jax.device_put(GraphTables(order, back, counter, second, parts))

    @property
    def has_odds(self) -> bool:
        """Whether updates by odds are compiled too: with parts they would double the compiling and gain nothing."""
        return all(len(parts) == 1 for parts in self.sizes)

    def pack(self, tables: GraphTables, x: Array) -> Array:
        """Turns `(chains, *sites)` into `(n_sites, chains)` in packed order."""
        return x.reshape(x.shape[0], -1).T[tables.order]

    def unpack(self, tables: GraphTables, rows: Array) -> Array:
        """The inverse of `pack`."""
        return rows[tables.back].T.reshape(-1, *self.shape)

    def prepare(self, tables: GraphTables, params: PyTree) -> tuple[tuple[Site, ...], ...]:
        """Lays out parameters that carry a chain axis last (1 where all chains share them)."""
        levels = () if self.spins else (self.n_levels,)
        c = params.bias.shape[-1]
        bias = params.bias.reshape(-1, *levels, c)
        # A tied bias becomes one bias a site.
        bias = jnp.broadcast_to(bias, (len(tables.order), *bias.shape[1:]))
        bias = jnp.moveaxis(bias[tables.order], 0, -2)

        def site(part: PartTables, start: int, size: int) -> Site:
            couplings = slot_couplings(part, self.coupling, self.n_levels, params.coupling)
            couplings = tuple(couplings) if len(couplings) <= UNROLLED_SLOTS else couplings
            return Site(bias[..., start : start + size, :], couplings)

        return tuple(
            tuple(site(part, *span) for part, span in zip(parts, self._spans(group), strict=True))
            for group, parts in enumerate(tables.parts)
        )

    def largest_log_odds(self, prepared: tuple[tuple[Site, ...], ...]) -> Array:
        """Returns a bound on |logit| at β = 1."""
        bounds = [largest_log_odds(site, self.spins) for parts in prepared for site in parts]
        return functools.reduce(jnp.maximum, bounds, jnp.zeros(()))

    def weigh(
        self, prepared: tuple[tuple[Site, ...], ...], beta: Array, odds: bool
    ) -> tuple[tuple[Weights, ...], ...]:
        """Returns what `update` reads at one β."""
        return tuple(tuple(weigh(site, self.spins, beta, odds) for site in parts) for parts in prepared)

    def update(
        self,
        group: int,
        tables: GraphTables,
        weights: tuple[tuple[Weights, ...], ...],
        odds: bool,
        words: UInt32[Array, "chains 2"],
        step: UInt32[Array, " chains"],
        rows: Array,
        masks: Array | None,
    ) -> Array:
        """Redraws every site of a group from its conditional, except where `masks` is True."""
        parts = zip(tables.parts[group], weights[group], self._spans(group), strict=True)
        for part, own, (start, size) in parts:
            span = slice(start, start + size)
            word, other = rng.site_words(words, step, jnp.asarray(tables.counter[span, None]))
            if tables.second is not None:
                word = jnp.where(tables.second[span, None], other, word)
            slots = Slots(len(part.row), lambda slot, row=part.row, rows=rows: rows[row[slot]])
            if self.spins:
                drawn = draw_spins(own, slots, odds, word)
            else:
                drawn = draw_levels(self.n_levels, own, slots, odds, word)
            if masks is not None:
                drawn = jnp.where(masks[span], rows[span], drawn)
            rows = jax.lax.dynamic_update_slice_in_dim(rows, drawn, start, axis=0)
        return rows

    def _spans(self, group: int) -> list[tuple[int, int]]:
        """Returns the first packed row and the number of rows of each part of a group."""
        start = sum(sum(sizes) for sizes in self.sizes[:group])
        ends = itertools.accumulate(self.sizes[group], initial=start)
        return list(zip(ends, self.sizes[group], strict=False))
