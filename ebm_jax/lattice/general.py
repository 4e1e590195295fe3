"""Any graph with any blocks: neighbours by padded index tables.

Sites are renumbered so that the sites drawn together are contiguous rows of one array `(n_sites, chains)`; a gather
then copies whole rows of chains. The tables travel with the kernel as arguments of the compiled code.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from ebm_jax import rng
from ebm_jax.blocks import BlockSpec
from ebm_jax.graphs import AnyGraph, Grid, neighbours
from ebm_jax.lattice.fields import (
    UNROLLED_SLOTS,
    Neighbours,
    Site,
    Weights,
    draw_levels,
    draw_spins,
    spread,
    weigh,
)
from ebm_jax.lattice.grid import site_counters
from ebm_jax.types import PyTree


class GroupTables(NamedTuple):
    """Tables of the sites drawn together, padded to the longest row.

    row: int32 `(width, n)`, the neighbour's row in the packed array. coupling: int32 `(width, n)`, which coupling the
    edge has; the number of couplings where the slot is empty, which is where `prepare` puts a zero. forward: bool
    `(width, n)`, True where the site is its edge's first.
    """

    row: Int[Array, "width n"]
    coupling: Int[Array, "width n"]
    forward: Bool[Array, "width n"]


class Tables(NamedTuple):
    """order: int32 `(n_sites,)`, the site in each packed row; back: its inverse; groups: tables of each group.

    counter, second: the random word of each packed row, as the grid path has it: uint32 counter, and True where the
    second of the cipher's two words is taken; `second` is None when that is nowhere.
    """

    order: Int[Array, " n_sites"]
    back: Int[Array, " n_sites"]
    counter: UInt32[Array, " n_sites"]
    second: Bool[Array, " n_sites"] | None
    groups: tuple[GroupTables, ...]


def build_tables(graph: AnyGraph, spec: BlockSpec, coupling: str) -> Tables:
    """Returns the index tables of a graph under a block specification."""
    members = spec.groups
    order = np.concatenate([*members, spec.clamped_sites]).astype(np.int32)
    back = np.empty_like(order)
    back[order] = np.arange(graph.n_sites, dtype=np.int32)
    rows = edge_rows(graph, coupling, back)
    groups = tuple(group_tables(rows, sites) for sites in members)
    counter, second = order.astype(np.uint32), None
    if isinstance(graph, Grid):
        counter, second = (jnp.asarray(column[order]) for column in site_counters(graph))
    return Tables(jnp.asarray(order), jnp.asarray(back), jnp.asarray(counter), second, groups)


class EdgeRows(NamedTuple):
    """Neighbours of every site as compressed rows (see `graphs.neighbours`): the row in which the neighbour is stored,
    which coupling the edge has, and whether the site is the edge's first. n_couplings: how many couplings there are."""

    starts: np.ndarray
    row: np.ndarray
    coupling: np.ndarray
    forward: np.ndarray
    n_couplings: int


def edge_rows(graph: AnyGraph, coupling: str, row_of_site: np.ndarray) -> EdgeRows:
    """Returns the compressed rows of a graph, given the row in which every site is stored."""
    near = neighbours(graph)
    kinds, n_kinds = _coupling_of_edge(graph, coupling)
    return EdgeRows(near.starts, row_of_site[near.sites], kinds[near.edges], near.forward, n_kinds)


def group_tables(rows: EdgeRows, sites: np.ndarray) -> GroupTables:
    """Returns the tables of some sites."""
    counts = rows.starts[sites + 1] - rows.starts[sites]
    slot = np.arange(counts.max(initial=0))[:, None]
    filled = slot < counts
    at = np.where(filled, rows.starts[sites] + slot, 0)
    return GroupTables(
        jnp.asarray(np.where(filled, _pick(rows.row, at), 0), jnp.int32),
        jnp.asarray(np.where(filled, _pick(rows.coupling, at), rows.n_couplings), jnp.int32),
        jnp.asarray(np.where(filled, _pick(rows.forward, at), True), jnp.bool_),
    )


def _pick(column: np.ndarray, at: np.ndarray) -> np.ndarray:
    return column[at] if column.size else np.zeros(at.shape, column.dtype)


def _coupling_of_edge(graph: AnyGraph, coupling: str) -> tuple[np.ndarray, int]:
    """Which coupling each edge has, and how many there are."""
    if coupling != "tied":
        return np.arange(graph.n_edges), graph.n_edges
    if not isinstance(graph, Grid):
        return np.zeros(graph.n_edges, int), 1
    sizes = [int(np.prod(graph.edge_shape(d))) for d in graph.directions]
    return np.repeat(np.arange(len(sizes)), sizes), len(sizes)


def slot_couplings(
    group: GroupTables, coupling: str, n_levels: int, values: Array
) -> Float[Array, "width *shape"]:
    """Returns the coupling in every slot, `(width, n, c)`, or `(width, K, K, n, c)` with the site's own level first.

    values: the model's couplings with a chain axis last.
    """
    square = (n_levels, n_levels) if coupling == "matrix" else ()
    values = values.reshape(-1, *square, values.shape[-1])
    values = jnp.concatenate([values, jnp.zeros((1, *values.shape[1:]), values.dtype)])  # for empty slots
    found = values[group.coupling]
    if coupling != "matrix":
        return found
    own_first = jnp.where(group.forward[..., None, None, None], found, jnp.swapaxes(found, 2, 3))
    return jnp.moveaxis(own_first, 1, -2)


@dataclass(frozen=True)
class GeneralLayout:
    """Packing and updates of an Ising or Potts model on any graph; `sizes` counts the sites of each group."""

    shape: tuple[int, ...]
    coupling: str
    n_levels: int
    spins: bool
    sizes: tuple[int, ...]

    has_odds = True

    def pack(self, tables: Tables, x: Array) -> Array:
        """`(chains, *sites)` to `(n_sites, chains)` in packed order."""
        return x.reshape(x.shape[0], -1).T[tables.order]

    def unpack(self, tables: Tables, rows: Array) -> Array:
        """The inverse of `pack`."""
        return rows[tables.back].T.reshape(-1, *self.shape)

    pack_mask, unpack_mask = pack, unpack

    def prepare(self, tables: Tables, params: PyTree) -> tuple[Site, ...]:
        """Lays out parameters that carry a chain axis last (1 where all chains share them)."""
        levels = () if self.spins else (self.n_levels,)
        c = params.bias.shape[-1]
        bias = jnp.moveaxis(params.bias.reshape(-1, *levels, c)[tables.order], 0, -2)
        prepared, start = [], 0
        for size, group in zip(self.sizes, tables.groups, strict=True):
            couplings = slot_couplings(group, self.coupling, self.n_levels, params.coupling)
            couplings = tuple(couplings) if len(couplings) <= UNROLLED_SLOTS else couplings
            prepared.append(Site(bias[..., start : start + size, :], couplings))
            start += size
        return tuple(prepared)

    def spread(self, prepared: tuple[Site, ...]) -> Array:
        """Returns a bound on |logit| at β = 1."""
        spreads = [spread(site, self.spins) for site in prepared]
        return functools.reduce(jnp.maximum, spreads, jnp.zeros(()))

    def weigh(self, prepared: tuple[Site, ...], beta: Array, odds: bool) -> tuple[Weights, ...]:
        """Returns what `update` reads at one β."""
        return tuple(weigh(site, self.spins, beta, odds) for site in prepared)

    def update(
        self,
        group: int,
        tables: Tables,
        weights: tuple[Weights, ...],
        odds: bool,
        words: UInt32[Array, "chains 2"],
        step: UInt32[Array, " chains"],
        rows: Array,
        masks: Array | None,
    ) -> Array:
        """Redraws every site of a group from its conditional, except where `masks` is True."""
        start, size = sum(self.sizes[:group]), self.sizes[group]
        mine = slice(start, start + size)
        word, other = rng.site_words(words, step, tables.counter[mine, None])
        if tables.second is not None:
            word = jnp.where(tables.second[mine, None], other, word)
        table = tables.groups[group].row
        near = Neighbours(table.shape[0], lambda slot: rows[table[slot]])
        if self.spins:
            drawn = draw_spins(weights[group], near, odds, word)
        else:
            drawn = draw_levels(self.n_levels, weights[group], near, odds, word)
        if masks is not None:
            drawn = jnp.where(masks[mine], rows[mine], drawn)
        return jax.lax.dynamic_update_slice_in_dim(rows, drawn, start, axis=0)
