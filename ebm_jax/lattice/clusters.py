"""Connected components of random bonds: which sites belong to one cluster.

Every site has a label, at first its own number. Two steps alternate. Hooking gives the site that a label names the
smallest label of any neighbour of any site with that label. Pointer jumping replaces a label by the label of the site
that it names. They end when no bond joins two labels: a label is then the smallest site of its cluster. Both shorten
paths by a constant factor, so the number of iterations grows with the logarithm of a cluster's size (Shiloach and
Vishkin 1982; Zhang, Azad and Hu 2020, "FastSV"). It is about six for critical clusters of 64×64 sites, where labels
that travel one site an iteration take hundreds.

All chains are labelled together, in one row of sites. An index into one row of numbers compiles to half the work of an
index into many rows, and a chain that is done costs only its share of the others' iterations.
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
from ebm_jax.graphs import AnyGraph, Grid
from ebm_jax.types import PyTree

Bonds = tuple[Bool[Array, "..."], ...]

# Pointer jumps an iteration. One jump needs half as many iterations again; a third saves less than it costs.
JUMPS = 2


def build(graph: AnyGraph) -> tuple[GridClusters | EdgeClusters, PyTree]:
    """Returns the layout of a graph's bonds and its index tables, of which a grid has none."""
    if isinstance(graph, Grid):
        return GridClusters(graph), ()
    return EdgeClusters(graph.n_sites, graph.n_edges), jax.device_put(
        (graph.edges[:, 0].copy(), graph.edges[:, 1].copy())
    )


@dataclass(frozen=True)
class GridClusters:
    """Bonds of a grid: an image `(height, width)` for each direction, with a bond at the first site of its edge."""

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
        """Returns a uniform of 24 bits for every bond; one cipher call gives those of two directions."""
        site = jnp.arange(self.grid.n_sites, dtype=jnp.uint32).reshape(self.grid.shape)
        drawn: list[Array] = []
        for pair in range(len(self.grid.directions) // 2):
            counter = site + jnp.uint32(pair * self.grid.n_sites) + step
            drawn += map(rng.uniform, rng.threefry2x32(words[0], words[1], step, counter))
        return tuple(drawn)

    def equal_ends(self, tables: PyTree, x: Array) -> Bonds:
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
        """Returns a uniform of 24 bits for every bond; the second half of the edges takes the cipher's second words."""
        counter = jnp.arange(self.n_counters, dtype=jnp.uint32) + step
        halves = rng.threefry2x32(words[0], words[1], step, counter)
        return (rng.uniform(jnp.concatenate(halves)[: self.n_edges]),)

    def equal_ends(self, tables: PyTree, x: Array) -> Bonds:
        """Returns where both ends of an edge hold the same level."""
        first, second = tables
        return (x[first] == x[second],)

    def labels(self, tables: PyTree, bonds: Bonds) -> Int[Array, " n_sites"]:
        """Returns the smallest site of every site's cluster, int32."""
        return _edge_labeller(self.n_sites)(tables, bonds)


@functools.cache
def _grid_labeller(grid: Grid) -> Callable[..., Array]:
    def joined_labels(bonds: Bonds, labels: Array) -> tuple[Array, Array]:
        """Returns every site's label, and the smallest among itself and its neighbours."""
        none, smallest = jnp.int32(labels.size), labels
        for bond, (down, right) in zip(bonds, grid.directions, strict=True):
            smallest = jnp.minimum(smallest, jnp.where(bond, _shift(labels, (down, right)), none))
            smallest = jnp.minimum(smallest, _shift(jnp.where(bond, labels, none), (-down, -right)))
        return labels, smallest

    def label(tables: PyTree, bonds: Bonds) -> Array:
        del tables
        shape = bonds[0].shape
        bonds = tuple(bond.reshape(-1, *grid.shape) for bond in bonds)
        return _components(bonds[0].shape, grid.n_sites, functools.partial(joined_labels, bonds)).reshape(
            shape
        )

    return _over_chains(label)


@functools.cache
def _edge_labeller(n: int) -> Callable[..., Array]:
    def joined_labels(bond: Array, ends: tuple[Array, Array], labels: Array) -> tuple[Array, Array]:
        """Returns the labels of both ends of every edge, the larger first; one label twice where there is no bond."""
        first = _gather(labels.reshape(-1), ends[0])
        second = jnp.where(bond, _gather(labels.reshape(-1), ends[1]), first)
        return jnp.maximum(first, second), jnp.minimum(first, second)

    def label(tables: PyTree, bonds: Bonds) -> Array:
        bond = bonds[0].reshape(-1, bonds[0].shape[-1])
        start = n * jnp.arange(len(bond), dtype=jnp.int32)[:, None]
        ends = tuple(sites[None] + start for sites in tables)
        found = _components((len(bond), n), n, functools.partial(joined_labels, bond, ends))
        return found.reshape(*bonds[0].shape[:-1], n)

    return _over_chains(label)


def _components(
    shape: tuple[int, ...], n: int, joined_labels: Callable[[Array], tuple[Array, Array]]
) -> Int[Array, "chains *sites"]:
    """Returns the smallest site of every site's cluster.

    Args:
      shape: Shape of the labels, chains first.
      n: Sites of a chain.
      joined_labels: Function of the labels that returns pairs of labels of one cluster, the larger first.

    Returns:
      Site numbers of `shape`.
    """
    size = math.prod(shape)
    if size >= 2**31:
        raise ValueError(
            f"{shape[0]} chains of {n} sites are more sites than 2³¹ − 1; step fewer chains at a time, e.g. by lax.map"
        )

    def hook_and_jump(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        labels, larger, smaller = (part.reshape(-1) for part in carry)
        labels = labels.at[larger].min(smaller, mode="promise_in_bounds")
        # The jumps are a loop because the compiler does not fuse across its end. Without the loop it would compute a
        # label again for each of the site's neighbours.
        labels = jax.lax.fori_loop(0, JUMPS, lambda _, row: _gather(row, row), labels).reshape(shape)
        return labels, *joined_labels(labels)

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        return (carry[1] != carry[2]).any()

    own = jnp.arange(size, dtype=jnp.int32).reshape(shape)
    labels, _, _ = jax.lax.while_loop(unfinished, hook_and_jump, (own, *joined_labels(own)))
    return labels % n


def _over_chains(label: Callable[..., Array]) -> Callable[..., Array]:
    """Returns `label(tables, bonds)` with a batching rule that hands it all chains at once.

    The batching rule of `while_loop` would copy everything at every iteration, to keep the labels of chains that are
    done.
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


def _gather(row: Array, index: Array) -> Array:
    return row.at[index].get(mode="promise_in_bounds")


def _shift(image: Array, direction: tuple[int, int]) -> Array:
    """Returns the value one step in `direction` from every site of `(..., height, width)`, across the borders."""
    for axis, step in zip((-2, -1), direction, strict=True):
        image = jnp.roll(image, -step, axis) if step else image
    return image
