"""The neighbours of every site of a graph, as compressed rows."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from ebm_jax.graphs.edges import Bipartite, Graph, freeze
from ebm_jax.graphs.grids import Grid

AnyGraph = Grid | Graph | Bipartite


class Adjacency(NamedTuple):
    """Compressed rows: the neighbours of site i are the entries `[starts[i] : starts[i + 1]]`, sorted by edge number.

    Attributes:
      starts: `(n_sites + 1,)`, where each row begins.
      sites: `(2 n_edges,)`, the neighbour.
      edges: `(2 n_edges,)`, the number of the edge.
      forward: `(2 n_edges,)`, True where the row's site is the first of the edge.
    """

    starts: Int[np.ndarray, " n_sites_plus_one"]
    sites: Int[np.ndarray, " two_n_edges"]
    edges: Int[np.ndarray, " two_n_edges"]
    forward: Bool[np.ndarray, " two_n_edges"]


# Colouring and the index tables of one kernel ask for the same graph.
@functools.lru_cache(maxsize=2)
def neighbours(graph: AnyGraph) -> Adjacency:
    """Returns the compressed neighbour rows of a graph, read only.

    Args:
      graph: Any graph.

    Returns:
      The rows of all sites.
    """
    # Edge e has places 2e and 2e + 1 among all ends of edges.
    ends = graph.edges.ravel()
    # Sorting words of (site, place) is a stable sort by site, and several times as fast as one.
    words = np.sort((ends.astype(np.int64) << 32) | np.arange(ends.size))
    place = words & (2**32 - 1)
    starts = np.zeros(graph.n_sites + 1, np.int64)
    np.cumsum(np.bincount(ends, minlength=graph.n_sites), out=starts[1:])
    columns = starts, ends[place ^ 1], (place >> 1).astype(np.int32), (place & 1) == 0
    return Adjacency(*map(freeze, columns))
