"""Rectangular grids, and grids with any local pattern of edges."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from ebm_jax.checks import check_choice, check_fits, check_integer
from ebm_jax.graphs.edges import Graph, freeze


@dataclass(frozen=True)
class Grid:
    """A rectangular lattice whose sites are numbered row by row.

    `shape` is `(height, width)`. `edges` lists one direction after the other (horizontal, vertical, down-right,
    down-left), each row by row. The second site of an edge lies in that direction from the first.

    Args:
      height: Number of rows.
      width: Number of columns.
      boundary: "free", where edges stop at the border, or "periodic", a torus. Both sides of a torus are at least 3:
        a shorter one would join two sites twice.
      neighbourhood: 4 (horizontal and vertical) or 8 (also the two diagonals).

    Raises:
      ValueError: If a side is under 1, a periodic side is under 3, or the boundary or neighbourhood is unknown.

    Example:
      >>> grid = ej.Grid(2, 3)
      >>> grid.shape, grid.n_sites, grid.n_edges
      ((2, 3), 6, 7)
    """

    height: int
    width: int
    boundary: Literal["free", "periodic"] = "free"
    neighbourhood: Literal[4, 8] = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "height", check_integer("height", self.height, 1))
        object.__setattr__(self, "width", check_integer("width", self.width, 1))
        check_choice("boundary", self.boundary, ("free", "periodic"))
        check_choice("neighbourhood", self.neighbourhood, (4, 8))
        if self.periodic and min(self.height, self.width) < 3:
            raise ValueError(
                f"a periodic grid of {self.height}×{self.width} joins two sites twice; "
                'make both sides at least 3, or use boundary="free"'
            )

    @property
    def periodic(self) -> bool:
        """True when opposite borders are joined."""
        return self.boundary == "periodic"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a configuration, `(height, width)`."""
        return (self.height, self.width)

    @property
    def n_sites(self) -> int:
        """Height · width."""
        return self.height * self.width

    @property
    def directions(self) -> tuple[tuple[int, int], ...]:
        """Row and column step of each kind of edge: horizontal, vertical, then down-right and down-left."""
        return ((0, 1), (1, 0)) if self.neighbourhood == 4 else ((0, 1), (1, 0), (1, 1), (1, -1))

    @property
    def n_edges(self) -> int:
        """Number of edges, without listing them."""
        return sum(np.prod(self.edge_shape(d), dtype=int).item() for d in self.directions)

    def edge_shape(self, direction: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of first sites that have an edge in `direction`."""
        if self.periodic:
            return self.height, self.width
        return self.height - abs(direction[0]), self.width - abs(direction[1])

    @functools.cached_property
    def edges(self) -> Int[np.ndarray, "n_edges 2"]:
        """Pairs of joined sites, int32."""
        check_fits(f"{self.n_edges} edges", 8 * self.n_edges, "make the grid smaller")
        sites = np.arange(self.n_sites, dtype=np.int32).reshape(self.shape)
        listed = []
        for down, right in self.directions:
            first = (
                sites
                if self.periodic
                else sites[: self.height - down, max(0, -right) : self.width - max(0, right)]
            )
            row, column = np.divmod(first, self.width)
            second = (row + down) % self.height * self.width + (column + right) % self.width
            listed.append(np.stack([first.ravel(), second.ravel()], axis=1))
        return freeze(np.concatenate(listed).astype(np.int32))


def edge_directions(graph: Any) -> Int[np.ndarray, " n_edges"]:
    """Returns which of a grid's directions each edge has: the number of its tied coupling; zeros for other graphs."""
    if not isinstance(graph, Grid):
        return np.zeros(graph.n_edges, np.int64)
    counts = [np.prod(graph.edge_shape(direction), dtype=int) for direction in graph.directions]
    return np.repeat(np.arange(len(counts)), counts)


def local_grid(
    height: int,
    width: int,
    offsets: Any,
    boundary: Literal["free", "periodic"] = "free",
    *,
    rotations: bool = False,
) -> Graph:
    """Returns a grid in which every site is joined to the sites at a fixed pattern of offsets.

    Site (r, c), number r · width + c, is joined to (r + dr, c + dc) for every offset (dr, dc). An offset and its
    opposite mean the same edges and count once. Edges are listed offset by offset in the order given, each row by row.
    Two blocks suffice where every dr + dc is odd and periodic sides are even.

    Args:
      height: Number of rows.
      width: Number of columns.
      offsets: Pairs of whole numbers (rows down, columns right).
      boundary: "free" drops edges that would leave the grid, "periodic" wraps them around it.
      rotations: Whether the quarter turns of each offset join sites too: (dr, dc), (−dc, dr), (−dr, −dc) and (dc, −dr).
        With them `[(0, 1), (4, 1)]` gives eight neighbours, as in denoising thermodynamic models (Jelinčič et al. 2025,
        "An efficient probabilistic hardware architecture for diffusion-like models").

    Returns:
      A `Graph` of height · width sites.

    Raises:
      ValueError: If a side is under 1, offsets are not pairs of whole numbers, an offset is (0, 0) or longer than a
        free grid, or wrapping joins a site to itself or two sites twice.

    Example:
      >>> ej.local_grid(6, 6, [(0, 1), (2, 1)], "periodic", rotations=True)
      Graph(n_sites=36, n_edges=144)
    """
    height, width = check_integer("height", height, 1), check_integer("width", width, 1)
    periodic = check_choice("boundary", boundary, ("free", "periodic")) == "periodic"
    steps = _checked_offsets(height, width, periodic, offsets, rotations)
    check_fits("the edges", 16 * height * width * len(steps), "make the grid smaller")
    row, column = np.divmod(np.arange(height * width), width)
    listed = []
    for dr, dc in steps:
        to_row, to_column = row + dr, column + dc
        second = to_row % height * width + to_column % width
        edges = np.stack([row * width + column, second], axis=1)
        inside = (to_row >= 0) & (to_row < height) & (to_column >= 0) & (to_column < width)
        listed.append(edges if periodic else edges[inside])
    return Graph(height * width, np.concatenate(listed))


def _checked_offsets(
    height: int, width: int, periodic: bool, offsets: Any, rotations: bool
) -> list[tuple[int, int]]:
    """Returns distinct offsets in the order given, none of them the opposite of an earlier one."""
    table = np.asarray(offsets)
    if table.ndim != 2 or table.shape[1] != 2 or not np.issubdtype(table.dtype, np.integer):
        raise ValueError(
            f"offsets has shape {table.shape} and dtype {table.dtype}; give pairs of rows and columns, e.g. [(0, 1)]"
        )
    kept: list[tuple[int, int]] = []
    # Wrapped steps, and the offset that makes each.
    taken: dict[tuple[int, int], tuple[int, int]] = {}
    remedy = f"on a periodic grid of {height}×{width}; make the sides longer, or drop the offset"
    for dr, dc in table.tolist():
        # A half turn is the opposite offset, and one quarter turn the opposite of the other.
        for step in [(dr, dc), (-dc, dr)] if rotations else [(dr, dc)]:
            if step == (0, 0):
                raise ValueError(
                    "offset (0, 0) joins sites to themselves; drop it (a self-coupling is a bias)"
                )
            if step in kept or (-step[0], -step[1]) in kept:
                continue
            kept.append(step)
            if not periodic:
                if abs(step[0]) >= height or abs(step[1]) >= width:
                    raise ValueError(
                        f"offset {step} is longer than a grid of {height}×{width}; make it larger, or drop the offset"
                    )
                continue
            there, back = (step[0] % height, step[1] % width), (-step[0] % height, -step[1] % width)
            if there == (0, 0):
                raise ValueError(f"offset {step} joins sites to themselves {remedy}")
            if there == back or there in taken:
                other = taken.get(there, "its opposite")
                raise ValueError(f"offset {step} joins the same sites as {other} {remedy}")
            taken[there] = taken[back] = step
    return kept
