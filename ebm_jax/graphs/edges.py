"""Graphs given by their edges: any simple graph, and complete bipartite ones.

A graph is static structure. It compares and hashes by value, so that two equal graphs share one compilation.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from ebm_jax.checks import check_fits, check_integer


class Graph:
    """Any simple undirected graph on sites 0 … n_sites − 1.

    The caller chooses the order of the edges, and of the two sites of each: couplings of edges follow it. Sites without
    an edge are allowed. `shape` is `(n_sites,)`.

    Args:
      n_sites: Number of sites.
      edges: Whole numbers of shape `(n_edges, 2)`, the pairs of joined sites.

    Raises:
      ValueError: If there is no site, a site number is out of range, an edge joins a site to itself, or an edge is
        listed twice (in either direction).

    Example:
      >>> ej.Graph(3, [(0, 1), (2, 1)])
      Graph(n_sites=3, n_edges=2)
    """

    def __init__(self, n_sites: int, edges: Any) -> None:
        self.n_sites = check_integer("n_sites", n_sites, 1)
        self.edges = freeze(_checked_edges(self.n_sites, edges))
        self.digest = _digest("Graph", self.n_sites, self.edges)

    @classmethod
    def from_edges(cls, pairs: Iterable[Any], *, nodes: Iterable[Any] = ()) -> tuple[Graph, tuple[Any, ...]]:
        """Returns the graph of pairs of labels, and the label of each site.

        Graphs compare by structure, so labels are returned beside the graph and not kept in it.

        Args:
          pairs: Any iterable of pairs of hashable labels: whole numbers with gaps, names, lattice points. The order of
            the edges stays.
          nodes: Labels that come first, in their order. Sites without an edge are named here.

        Returns:
          `(graph, labels)`: `labels[i]` is the label of site i. Labels beyond `nodes` are in ascending order if all are
          whole numbers, and in the order of their first edges otherwise.

        Raises:
          ValueError: If an entry is not a pair of hashable labels, `nodes` repeat a label, an edge joins a site to
            itself or is listed twice (in either direction), or there is no site.

        Example:
          >>> ej.Graph.from_edges([("a", "b"), ("b", "c")])
          (Graph(n_sites=3, n_edges=2), ('a', 'b', 'c'))
        """
        first = tuple(nodes)
        edges = [_pair(number, entry) for number, entry in enumerate(pairs)]
        others = dict.fromkeys(label for edge in edges for label in edge)
        site_of: dict[Any, int] = {}
        for label in first:
            if label in site_of:
                raise ValueError(f"nodes list {label!r} twice; list each label once")
            site_of[label] = len(site_of)
        rest = [label for label in others if label not in site_of]
        if all(isinstance(label, (int, np.integer)) and not isinstance(label, bool) for label in rest):
            rest.sort()
        labels = (*first, *rest)
        site_of.update((label, site) for site, label in enumerate(labels))
        seen: set[tuple[int, int]] = set()
        table = []
        for number, edge in enumerate(edges):
            i, j = (site_of[label] for label in edge)
            if i == j:
                raise ValueError(f"edge {number}, {edge}, joins a site to itself; drop it")
            if (min(i, j), max(i, j)) in seen:
                raise ValueError(f"edge {number}, {edge}, is listed twice; keep one and add up the couplings")
            seen.add((min(i, j), max(i, j)))
            table.append((i, j))
        if not labels:
            raise ValueError("pairs and nodes are empty; give at least one site")
        return cls(len(labels), table), labels

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a configuration, `(n_sites,)`."""
        return (self.n_sites,)

    @property
    def n_edges(self) -> int:
        """Number of edges."""
        return len(self.edges)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Graph(n_sites={self.n_sites}, n_edges={self.n_edges})"


@dataclass(frozen=True)
class Bipartite:
    """The complete bipartite graph, the graph of an RBM: every site of one layer is joined to every site of the other.

    Sites 0 … n_left − 1 are the left (visible) layer, the others the right (hidden) one. Edges run through the right
    layer fastest. `shape` is `(n_left + n_right,)`.

    Args:
      n_left: Sites of the left layer.
      n_right: Sites of the right layer.

    Raises:
      ValueError: If a layer is empty.

    Example:
      >>> ej.Bipartite(1, 2).edges.tolist()
      [[0, 1], [0, 2]]
    """

    n_left: int
    n_right: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_left", check_integer("n_left", self.n_left, 1))
        object.__setattr__(self, "n_right", check_integer("n_right", self.n_right, 1))

    @property
    def n_sites(self) -> int:
        """n_left + n_right."""
        return self.n_left + self.n_right

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a configuration, `(n_sites,)`."""
        return (self.n_sites,)

    @property
    def n_edges(self) -> int:
        """n_left · n_right."""
        return self.n_left * self.n_right

    @functools.cached_property
    def edges(self) -> Int[np.ndarray, "n_edges 2"]:
        """Pairs of joined sites, int32."""
        check_fits(f"{self.n_edges} edges", 8 * self.n_edges, "make the layers smaller")
        left, right = np.divmod(np.arange(self.n_edges, dtype=np.int32), np.int32(self.n_right))
        return freeze(np.stack([left, self.n_left + right], axis=1))


def _pair(number: int, entry: Any) -> tuple[Any, Any]:
    try:
        # A word of two letters is no pair.
        labels = () if isinstance(entry, str) else tuple(entry)
        hash(labels)
    except TypeError:
        labels = ()
    if len(labels) != 2:
        raise ValueError(
            f"edge {number} is {entry!r}; give a pair of hashable labels (weights go into an array of their own)"
        )
    return labels


def freeze(array: np.ndarray) -> np.ndarray:
    """Returns the array, contiguous and read only."""
    array = np.ascontiguousarray(array)
    array.setflags(write=False)
    return array


def _checked_edges(n_sites: int, edges: Any) -> np.ndarray:
    table = np.asarray(edges)
    if table.size == 0:
        return np.zeros((0, 2), np.int32)
    if table.ndim != 2 or table.shape[1] != 2 or not np.issubdtype(table.dtype, np.integer):
        raise ValueError(
            f"edges has shape {table.shape} and dtype {table.dtype}; give whole site numbers of shape (n_edges, 2)"
        )
    if table.min() < 0 or table.max() >= n_sites:
        bad = table[((table < 0) | (table >= n_sites)).any(axis=1)][0]
        raise ValueError(
            f"edge {tuple(bad.tolist())} names a site outside 0 … {n_sites - 1}; mend it or raise n_sites"
        )
    loops = np.flatnonzero(table[:, 0] == table[:, 1])
    if loops.size:
        raise ValueError(
            f"edge {int(loops[0])} joins site {int(table[loops[0], 0])} to itself; drop it (a self-coupling is a bias)"
        )
    ends = table.astype(np.int64).T
    code = np.minimum(*ends) * n_sites + np.maximum(*ends)
    in_order = np.sort(code)
    if (in_order[1:] == in_order[:-1]).any():
        _, first = np.unique(code, return_index=True)
        repeated = int(np.setdiff1d(np.arange(len(table)), first)[0])
        pair = tuple(table[repeated].tolist())
        raise ValueError(f"edge {repeated}, {pair}, is listed twice; keep one and add up the couplings")
    return table.astype(np.int32)


def _digest(*parts: Any) -> str:
    h = hashlib.sha256()
    for part in parts:
        h.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return h.hexdigest()
