"""Connected components of random bonds: which sites hang together.

Every site has a label, at first its own number. In turn, the site that a label names hears of the smallest label beside
any site of that label (hooking), and labels are followed to the labels of the sites they name (pointer jumping), until
no bond joins two labels: each is then the smallest site of its cluster. Both shorten paths by a constant factor, so
turns grow with the logarithm of a cluster's size (Shiloach and Vishkin 1982; Zhang, Azad and Hu 2020, "FastSV"): six
or so for critical clusters of 64×64 sites, where smallest labels that spread by one site a turn take hundreds.

All chains are labelled together, in one row of sites: an index into one row of numbers compiles to half the work of one
into many, and chains that are done cost nothing but their share of the others' turns.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Float, Int, UInt32

from ebm_jax import rng
from ebm_jax.graphs.grids import AnyGraph, Grid
from ebm_jax.types import PyTree

Bonds = tuple[Bool[Array, "..."], ...]

JUMPS = 2  # with one there are half as many turns again; a third saves less than it costs


def build(graph: AnyGraph) -> tuple[GridClusters | EdgeClusters, PyTree]:
    """Returns the layout of a graph's bonds, and its index tables: none for a grid."""
    if isinstance(graph, Grid):
        return GridClusters(graph), ()
    return EdgeClusters(graph.n_sites, graph.n_edges), jax.device_put(
        (graph.edges[:, 0].copy(), graph.edges[:, 1].copy())
    )


@dataclass(frozen=True)
class GridClusters:
    """Bonds of a grid: an image `(height, width)` a direction, at the first site of each edge."""

    grid: Grid

    @property
    def n_counters(self) -> int:
        """Counters that `uniforms` uses, from 0 on."""
        return len(self.grid.directions) // 2 * self.grid.n_sites

    def couplings(self, kind: str, values: Float[Array, " couplings"]) -> tuple[Float[Array, "..."], ...]:
        """Returns the couplings of every direction, 0 where there is no edge."""
        grid, images, start = self.grid, [], 0
        for number, (down, right) in enumerate(grid.directions):
            rows, columns = grid.edge_shape((down, right))
            image = values[number]
            if kind == "edge":
                image = values[start : start + rows * columns].reshape(rows, columns)
                start += rows * columns
            if (rows, columns) != grid.shape:
                left = max(0, -right)
                padding = (0, grid.height - rows), (left, grid.width - columns - left)
                image = jnp.pad(jnp.broadcast_to(image, (rows, columns)), padding)
            images.append(image)
        return tuple(images)

    def uniforms(self, words: UInt32[Array, "2"], step: UInt32[Array, ""]) -> tuple[Array, ...]:
        """Returns a uniform for every bond, of 24 bits; one cipher call gives those of two directions."""
        site = jnp.arange(self.grid.n_sites, dtype=jnp.uint32).reshape(self.grid.shape)
        drawn: list[Array] = []
        for pair in range(len(self.grid.directions) // 2):
            counter = site + jnp.uint32(pair * self.grid.n_sites) + step
            drawn += map(rng.uniform, rng.threefry2x32(words[0], words[1], step, counter))
        return tuple(drawn)

    def alike(self, tables: PyTree, x: Array) -> Bonds:
        """Returns where both ends of an edge hold the same level."""
        del tables
        return tuple(x == _shift(x, direction) for direction in self.grid.directions)

    def labels(self, tables: PyTree, bonds: Bonds) -> Int[Array, "height width"]:
        """Returns the smallest site of every site's cluster, int32."""
        return _grid_labeller(self.grid)(tables, bonds)


@dataclass(frozen=True)
class EdgeClusters:
    """Bonds of any graph, in the order of its edges; tables are the first and the second sites of all edges."""

    n_sites: int
    n_edges: int

    @property
    def n_counters(self) -> int:
        """Counters that `uniforms` uses, from 0 on."""
        return -(-self.n_edges // 2)

    def couplings(self, kind: str, values: Float[Array, "*couplings"]) -> tuple[Float[Array, "..."], ...]:
        """Returns the couplings, one for all or one an edge."""
        del kind
        return (values,)

    def uniforms(self, words: UInt32[Array, "2"], step: UInt32[Array, ""]) -> tuple[Array, ...]:
        """Returns a uniform for every bond, of 24 bits; the second half of the edges has the cipher's second words."""
        counter = jnp.arange(self.n_counters, dtype=jnp.uint32) + step
        halves = rng.threefry2x32(words[0], words[1], step, counter)
        return (rng.uniform(jnp.concatenate(halves)[: self.n_edges]),)

    def alike(self, tables: PyTree, x: Array) -> Bonds:
        """Returns where both ends of an edge hold the same level."""
        first, second = tables
        return (x[first] == x[second],)

    def labels(self, tables: PyTree, bonds: Bonds) -> Int[Array, " n_sites"]:
        """Returns the smallest site of every site's cluster, int32."""
        return _edge_labeller(self.n_sites)(tables, bonds)


@functools.cache
def _grid_labeller(grid: Grid) -> Callable[..., Array]:
    def pairs(bonds: Bonds, labels: Array) -> tuple[Array, Array]:
        """Every site's label, and the smallest beside it."""
        none, least = jnp.int32(labels.size), labels
        for bond, (down, right) in zip(bonds, grid.directions, strict=True):
            least = jnp.minimum(least, jnp.where(bond, _shift(labels, (down, right)), none))
            least = jnp.minimum(least, _shift(jnp.where(bond, labels, none), (-down, -right)))
        return labels, least

    def label(tables: PyTree, bonds: Bonds) -> Array:
        del tables
        shape = bonds[0].shape
        bonds = tuple(bond.reshape(-1, *grid.shape) for bond in bonds)
        return _components(bonds[0].shape, grid.n_sites, functools.partial(pairs, bonds)).reshape(shape)

    return _over_chains(label)


@functools.cache
def _edge_labeller(n: int) -> Callable[..., Array]:
    def pairs(bond: Array, ends: tuple[Array, Array], labels: Array) -> tuple[Array, Array]:
        """Labels of both ends of every bond, the larger first; of no bond, one label twice."""
        first = _at(labels.reshape(-1), ends[0])
        second = jnp.where(bond, _at(labels.reshape(-1), ends[1]), first)
        return jnp.maximum(first, second), jnp.minimum(first, second)

    def label(tables: PyTree, bonds: Bonds) -> Array:
        bond = bonds[0].reshape(-1, bonds[0].shape[-1])
        start = n * jnp.arange(len(bond), dtype=jnp.int32)[:, None]
        ends = tuple((sites + start) for sites in tables)
        found = _components((len(bond), n), n, functools.partial(pairs, bond, ends))
        return found.reshape(*bonds[0].shape[:-1], n)

    return _over_chains(label)


def _components(
    shape: tuple[int, ...], n: int, pairs: Callable[[Array], tuple[Array, Array]]
) -> Int[Array, "chains *sites"]:
    """Returns the smallest site of every site's cluster, of `shape` with chains first and n sites each.

    `pairs(labels)` are labels that should be one, the larger first.
    """
    size = math.prod(shape)
    if size >= 2**31:
        raise ValueError(
            f"{shape[0]} chains of {n} sites are more sites than 2³¹ − 1; step fewer chains at a time, e.g. by lax.map"
        )

    def turn(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        labels, larger, smaller = (part.reshape(-1) for part in carry)
        labels = labels.at[larger].min(smaller, mode="promise_in_bounds")
        # As a loop: its end is where the compiler stops to compute a label once for each of its neighbours.
        labels = jax.lax.fori_loop(0, JUMPS, lambda _, row: _at(row, row), labels).reshape(shape)
        return labels, *pairs(labels)

    own = jnp.arange(size, dtype=jnp.int32).reshape(shape)
    apart = lambda carry: (carry[1] != carry[2]).any()  # noqa: E731
    labels, _, _ = jax.lax.while_loop(apart, turn, (own, *pairs(own)))
    return labels % n


def _over_chains(label: Callable[..., Array]) -> Callable[..., Array]:
    """Returns `label(tables, bonds)` with a batching rule that hands it all chains at once.

    The rule of a `while_loop` would keep, at every turn, the labels of chains that are done, at a copy of everything.
    """
    run = custom_vmap(label)

    @run.def_vmap
    def rule(size: int, batched: Any, tables: PyTree, bonds: Bonds) -> tuple[Array, bool]:
        if any(jax.tree.leaves(batched[0])):
            raise ValueError(
                "a cluster kernel's index tables cannot be mapped; vmap over keys, params, beta and state only"
            )
        bonds = tuple(
            bond if b else jnp.broadcast_to(bond, (size, *bond.shape))
            for bond, b in zip(bonds, batched[1], strict=True)
        )
        return run(tables, bonds), True

    return run


def _at(row: Array, index: Array) -> Array:
    return row.at[index].get(mode="promise_in_bounds")


def _shift(image: Array, direction: tuple[int, int]) -> Array:
    """Returns what lies one step in `direction` of every site of `(..., height, width)`, round the borders."""
    for axis, step in zip((-2, -1), direction, strict=True):
        image = jnp.roll(image, -step, axis) if step else image
    return image
