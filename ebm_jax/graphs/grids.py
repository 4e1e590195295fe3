"""Which sites interact: grids, arbitrary graphs, bipartite ones, and grids with any local pattern.

A graph is static structure. It compares and hashes by value, so that two equal graphs share one compilation.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int

from ebm_jax.checks import check_choice, check_integer


@dataclass(frozen=True)
class Grid:
    """A rectangular lattice of `height` × `width` sites, numbered row by row.

    boundary: "free" (edges stop at the border) or "periodic" (a torus; both sides at least 3, since a shorter one
    would join two sites twice). neighbourhood: 4 (horizontal, vertical) or 8 (and the two diagonals).
    `shape` is `(height, width)`. `edges` lists one direction after the other (horizontal, vertical, down-right,
    down-left), each row by row, the second site lying in that direction from the first.
    Raises ValueError on a side under 1, a periodic side under 3, or an unknown boundary or neighbourhood.
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
        return _freeze(np.concatenate(listed).astype(np.int32))


class Graph:
    """Any simple undirected graph: sites 0 … n_sites − 1 and an `(n_edges, 2)` list of joined pairs.

    The order of edges, and of the two sites of each, is the caller's: per-edge couplings follow it. `shape` is
    `(n_sites,)`. Isolated sites are allowed. Raises ValueError on no sites, a site number out of range, a self-loop,
    or an edge that is listed twice (in either direction).
    """

    def __init__(self, n_sites: int, edges: Any) -> None:
        self.n_sites = check_integer("n_sites", n_sites, 1)
        self.edges = _freeze(_checked_edges(self.n_sites, edges))
        self.digest = _digest("Graph", self.n_sites, self.edges)

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
    """Two layers, every site of one joined to every site of the other: the graph of an RBM.

    Sites 0 … n_left − 1 are the left (visible) layer, the rest the right (hidden) one; edges run through the right
    layer fastest. `shape` is `(n_left + n_right,)`. Raises ValueError on an empty layer.
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
        left, right = np.divmod(np.arange(self.n_edges, dtype=np.int32), np.int32(self.n_right))
        return _freeze(np.stack([left, self.n_left + right], axis=1))


AnyGraph = Grid | Graph | Bipartite


def local_grid(
    height: int,
    width: int,
    offsets: Any,
    boundary: Literal["free", "periodic"] = "free",
    *,
    rotations: bool = False,
) -> Graph:
    """Returns a grid in which every site is joined to those at a fixed pattern of offsets.

    Site (r, c), number r · width + c, is joined to (r + dr, c + dc) for every (dr, dc) of `offsets`; an offset and its
    opposite say the same and count once. rotations: joins the quarter turns of each offset too, (dr, dc), (−dc, dr),
    (−dr, −dc) and (dc, −dr), as denoising thermodynamic models do (Jelinčič et al. 2025, "An efficient probabilistic
    hardware architecture for diffusion-like models"): `[(0, 1), (4, 1)]` gives eight neighbours. boundary: "free" drops
    edges that would leave the grid, "periodic" wraps them round. Edges are listed offset by offset, in the order given,
    each row by row. Where every dr + dc is odd, and periodic sides are even, two blocks suffice.

    Raises ValueError on a side under 1, offsets that are not pairs of whole numbers, the offset (0, 0), one that is
    longer than a free grid, and on a periodic grid where wrapping joins a site to itself or two sites twice.
    """
    height, width = check_integer("height", height, 1), check_integer("width", width, 1)
    periodic = check_choice("boundary", boundary, ("free", "periodic")) == "periodic"
    steps = _checked_offsets(height, width, periodic, offsets, rotations)
    row, column = np.divmod(np.arange(height * width), width)
    listed = []
    for dr, dc in steps:
        to_row, to_column = row + dr, column + dc
        second = to_row % height * width + to_column % width
        edges = np.stack([row * width + column, second], axis=1)
        inside = (to_row >= 0) & (to_row < height) & (to_column >= 0) & (to_column < width)
        listed.append(edges if periodic else edges[inside])
    return Graph(height * width, np.concatenate(listed))


class Adjacency(NamedTuple):
    """Adjacency of every site as compressed rows: those of site i are `[starts[i] : starts[i + 1]]`.

    sites: the neighbour; edges: the number of the edge; forward: True where the site in question is the edge's first.
    Rows are sorted by edge number.
    """

    starts: Int[np.ndarray, " n_sites_plus_one"]
    sites: Int[np.ndarray, " two_n_edges"]
    edges: Int[np.ndarray, " two_n_edges"]
    forward: np.ndarray


@functools.lru_cache(maxsize=2)  # colouring and tables of one kernel ask for the same
def neighbours(graph: AnyGraph) -> Adjacency:
    """Returns the compressed neighbour rows of a graph; read only."""
    ends = graph.edges.ravel()  # edge e has places 2e and 2e + 1
    # Sorting words of (site, place) is a stable sort by site, and several times as fast as one.
    words = np.sort((ends.astype(np.int64) << 32) | np.arange(ends.size))
    place = words & (2**32 - 1)
    starts = np.zeros(graph.n_sites + 1, np.int64)
    np.cumsum(np.bincount(ends, minlength=graph.n_sites), out=starts[1:])
    columns = starts, ends[place ^ 1], (place >> 1).astype(np.int32), (place & 1) == 0
    return Adjacency(*map(_freeze, columns))


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
    taken: dict[tuple[int, int], tuple[int, int]] = {}  # wrapped steps, and the offset that makes each
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


def _freeze(array: np.ndarray) -> np.ndarray:
    array = np.ascontiguousarray(array)
    array.setflags(write=False)
    return array


def _digest(*parts: Any) -> str:
    h = hashlib.sha256()
    for part in parts:
        h.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return h.hexdigest()
