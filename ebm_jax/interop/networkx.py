"""NetworkX graphs (https://networkx.org): undirected, without parallel edges and loops."""

from __future__ import annotations

from typing import Any

import numpy as np

from ebm_jax.graphs import AnyGraph, Graph
from ebm_jax.interop.problems import WeightedGraph, checked_labels

__all__ = ["from_networkx", "to_networkx"]


def from_networkx(graph: Any, *, weight: str = "weight") -> WeightedGraph:
    """Returns the graph, the weight of each edge and the node of each site.

    Args:
      graph: A `networkx.Graph`.
      weight: The attribute that holds an edge's weight; edges without it weigh 1.

    Returns:
      A `WeightedGraph`. Sites are in the order of `graph.nodes`, edges in that of `graph.edges`.

    Raises:
      ValueError: If `graph` is none, is directed or a multigraph, has no node, an edge joins a node to itself, or a
        weight is no finite number.
    """
    if not hasattr(graph, "nodes") or not hasattr(graph, "is_multigraph"):
        raise ValueError(f"graph is {graph!r}; give a networkx.Graph (for pairs use Graph.from_edges)")
    if graph.is_directed() or graph.is_multigraph():
        raise ValueError(f"graph is a {type(graph).__name__}; make it simple first: networkx.Graph(graph)")
    listed = list(graph.edges(data=weight, default=1.0))
    sites, labels = Graph.from_edges(((a, b) for a, b, _ in listed), nodes=graph.nodes)
    weights = []
    for a, b, value in listed:
        try:
            weights.append(float(value))
        except (TypeError, ValueError):
            raise ValueError(f"edge ({a!r}, {b!r}) has {weight} {value!r}; give a number") from None
        if not np.isfinite(weights[-1]):
            raise ValueError(f"edge ({a!r}, {b!r}) has {weight} {value!r}; give a finite number")
    return WeightedGraph(sites, np.asarray(weights, np.float64), labels)


def to_networkx(graph: AnyGraph, weights: Any = None, *, labels: Any = None) -> Any:
    """Returns a NetworkX graph.

    Args:
      graph: Any graph.
      weights: One an edge, kept as the attribute "weight". `None` means none.
      labels: One a site. `None` means the sites' numbers.

    Returns:
      A `networkx.Graph` with the nodes and edges in the same order.

    Raises:
      ImportError: If NetworkX is not installed.
      ValueError: If weights or labels do not fit the graph.
    """
    try:
        import networkx
    except ImportError as error:
        raise ImportError(
            "to_networkx needs networkx, which cannot be imported: pip install 'ebm-jax[networkx]'"
        ) from error
    names = checked_labels(labels, graph.n_sites)
    pairs = [(names[i], names[j]) for i, j in graph.edges.tolist()]
    made = networkx.Graph()
    made.add_nodes_from(names)
    if weights is None:
        made.add_edges_from(pairs)
        return made
    values = np.asarray(weights)
    if values.shape != (graph.n_edges,):
        raise ValueError(f"weights have shape {values.shape}; expected ({graph.n_edges},), one an edge")
    made.add_weighted_edges_from((a, b, value) for (a, b), value in zip(pairs, values.tolist()))
    return made
