"""What Ising and Potts models share: how couplings lie on the edges of a graph.

"tied" is one number a direction on a grid and a single number on a graph, "edge" one number an edge, and "matrix" a K×K
table an edge. A grid lists its edges direction by direction and row by row, so values of edges are plain images and
neighbours are slices or rolls: no index table enters the compiled code.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator

import jax.numpy as jnp
from jaxtyping import Array

from ebm_jax.checks import check_choice
from ebm_jax.graphs import AnyGraph, Bipartite, Graph, Grid


def resolve_coupling(graph: AnyGraph, coupling: str | None, allowed: tuple[str, ...]) -> str:
    """Returns the kind of coupling, or the graph's default for None.

    Args:
      graph: The graph.
      coupling: A kind, or None.
      allowed: The kinds that the family has.

    Returns:
      "tied", "edge" or "matrix".

    Raises:
      ValueError: If the graph or the kind is unknown.
    """
    if not isinstance(graph, (Grid, Graph, Bipartite)):
        remedy = (
            " (Graph.from_edges returns one and the labels of its sites)" if isinstance(graph, tuple) else ""
        )
        raise ValueError(f"graph is {reprlib.repr(graph)}; give a Grid, a Graph or a Bipartite{remedy}")
    if coupling is None:
        return "tied" if isinstance(graph, Grid) else "edge"
    return check_choice("coupling", coupling, allowed)


def coupling_shape(graph: AnyGraph, coupling: str, n_levels: int) -> tuple[int, ...]:
    """Returns the shape of the coupling parameters."""
    if coupling == "tied":
        return (len(graph.directions),) if isinstance(graph, Grid) else ()
    return (graph.n_edges,) if coupling == "edge" else (graph.n_edges, n_levels, n_levels)


def edge_values(
    graph: AnyGraph, coupling: str, values: Array, x: Array
) -> Iterator[tuple[Array, Array, Array]]:
    """Yields (coupling, x at first sites, x at second sites) for each class of edges; couplings broadcast over edges.

    Tables of edges keep their two level axes last.
    """
    of_classes = _by_direction(graph, coupling, values) if isinstance(graph, Grid) else [values]
    for of_class, (first, second) in zip(of_classes, edge_ends(graph, x), strict=True):
        yield of_class, first, second


def edge_ends(graph: AnyGraph, x: Array) -> Iterator[tuple[Array, Array]]:
    """Yields x at first and at second sites for each class of edges: the directions of a grid, or all at once.

    Args:
      graph: The graph.
      x: Values of sites, which may have further axes behind.
    """
    if not isinstance(graph, Grid):
        yield x[graph.edges[:, 0]], x[graph.edges[:, 1]]
        return
    for direction in graph.directions:
        yield _ends(graph, direction, x)


def add_at_sites(
    graph: AnyGraph,
    coupling: str,
    values: Array,
    x: Array,
    field: Array,
    to_first: Callable[[Array, Array], Array],
    to_second: Callable[[Array, Array], Array],
) -> Array:
    """Returns `field` plus, at every site, the contributions of its edges.

    Args:
      graph: The graph.
      coupling: "tied", "edge" or "matrix".
      values: The couplings.
      x: The configuration.
      field: What to add to, shaped like a configuration with further axes behind.
      to_first: `to_first(coupling, x_second)` is what an edge adds at its first site.
      to_second: `to_second(coupling, x_first)` is what an edge adds at its second site.

    Returns:
      An array shaped like `field`.
    """
    if not isinstance(graph, Grid):
        first, second = graph.edges[:, 0], graph.edges[:, 1]
        field = field.at[first].add(to_first(values, x[second]))
        return field.at[second].add(to_second(values, x[first]))
    for values_d, direction in zip(_by_direction(graph, coupling, values), graph.directions, strict=True):
        x_first, x_second = _ends(graph, direction, x)
        at_first, at_second = to_first(values_d, x_second), to_second(values_d, x_first)
        if graph.periodic:
            field = field + at_first + jnp.roll(at_second, direction, axis=(0, 1))
        else:
            rows, columns = _ends_of_slices(graph, direction)
            field = field.at[rows[0], columns[0]].add(at_first).at[rows[1], columns[1]].add(at_second)
    return field


def _by_direction(grid: Grid, coupling: str, values: Array) -> list[Array]:
    if coupling == "tied":
        return [values[d] for d in range(len(grid.directions))]
    pieces, start = [], 0
    for direction in grid.directions:
        shape = grid.edge_shape(direction)
        n = shape[0] * shape[1]
        pieces.append(values[start : start + n].reshape(*shape, *values.shape[1:]))
        start += n
    return pieces


def _ends(grid: Grid, direction: tuple[int, int], x: Array) -> tuple[Array, Array]:
    down, right = direction
    if grid.periodic:
        return x, jnp.roll(x, (-down, -right), axis=(0, 1))
    rows, columns = _ends_of_slices(grid, direction)
    return x[rows[0], columns[0]], x[rows[1], columns[1]]


def _ends_of_slices(
    grid: Grid, direction: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Returns the row slices and the column slices of first and second sites on a free grid."""
    down, right = direction
    height, width = grid.edge_shape(direction)
    left = max(0, -right)
    rows = slice(0, height), slice(down, down + height)
    columns = slice(left, left + width), slice(left + right, left + right + width)
    return rows, columns
