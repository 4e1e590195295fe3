"""Which sites are updated together: blocks, block specifications and sampling schedules, in THRML's words.

The sites of a block must be independent given all others, that is, share no edge. All of them can then be drawn at once
from their conditionals, and the joint distribution stays invariant (Geman and Geman 1984; Gonzalez et al. 2011,
"Parallel Gibbs sampling: from colored fields to thin junction trees").
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from ebm_jax.checks import check_fits, check_integer
from ebm_jax.graphs.adjacency import AnyGraph
from ebm_jax.graphs.colouring import greedy_colours
from ebm_jax.graphs.edges import Bipartite
from ebm_jax.graphs.grids import Grid


class Block:
    """A set of site numbers in the caller's order.

    Blocks compare by value.

    Args:
      sites: Whole numbers of at least 0, at least one of them, none twice.

    Raises:
      ValueError: If there is no site, a number is negative or not whole, or a site is named twice.

    Example:
      >>> len(ej.Block([0, 2, 5]))
      3
    """

    def __init__(self, sites: Any) -> None:
        table = np.asarray(sites)
        if table.ndim != 1 or table.size == 0 or not np.issubdtype(table.dtype, np.integer):
            raise ValueError(
                f"a block needs a non-empty list of site numbers, got shape {table.shape} {table.dtype}"
            )
        if table.min() < 0:
            raise ValueError(f"a block names site {int(table.min())}; site numbers start at 0")
        in_order = table if (table[1:] > table[:-1]).all() else np.sort(table)
        repeated = in_order[1:][in_order[1:] == in_order[:-1]]
        if repeated.size:
            raise ValueError(f"a block names site {int(repeated[0])} twice; name each site once")
        self.sites: Int[np.ndarray, " n"] = table.astype(np.int32)
        self.sites.setflags(write=False)
        self._digest = hashlib.sha256(self.sites.tobytes()).digest()

    def __len__(self) -> int:
        return len(self.sites)

    def __iter__(self) -> Any:
        return iter(self.sites.tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Block) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        shown = ", ".join(map(str, self.sites[:6].tolist())) + (", …" if len(self) > 6 else "")
        return f"Block([{shown}], n={len(self)})"


@dataclass(frozen=True, init=False)
class BlockSpec:
    """Which blocks are free, in the order of their update, and which are held at their initial values.

    `BlockSpec(colour(graph))` is a complete specification. `check(graph)` says whether it fits a graph; `gibbs` calls
    it.

    Args:
      free: A sequence of `Block`s and of superblocks. A superblock is a sequence of blocks that are drawn at once from
        the same state, so no edge may join any two of their sites.
      clamped: A sequence of blocks that never move.

    Raises:
      ValueError: If an entry is not a block, or a superblock is empty.

    Example:
      >>> spec = ej.BlockSpec([ej.Block([0, 2]), ej.Block([1])])
      >>> spec.check(ej.Graph(3, [(0, 1), (1, 2)]))
      >>> len(spec.groups)
      2
    """

    free: tuple[tuple[Block, ...], ...]
    clamped: tuple[Block, ...]

    def __init__(self, free: Any, clamped: Any = ()) -> None:
        groups = tuple(
            (g,) if isinstance(g, Block) else tuple(_sequence("a superblock", g))
            for g in _sequence("free", free)
        )
        if () in groups:
            raise ValueError(f"superblock {groups.index(())} holds no block; drop it")
        held = tuple(_sequence("clamped", clamped))
        for block in [b for g in groups for b in g] + list(held):
            if not isinstance(block, Block):
                raise ValueError(
                    f"a block specification holds {block!r}; wrap site numbers as Block([0, 2, …])"
                )
        object.__setattr__(self, "free", groups)
        object.__setattr__(self, "clamped", held)

    @property
    def groups(self) -> tuple[Int[np.ndarray, " n"], ...]:
        """The sites that are drawn together, one sorted array a superblock."""
        return tuple(np.sort(np.concatenate([b.sites for b in g])) for g in self.free)

    @property
    def clamped_sites(self) -> Int[np.ndarray, " n"]:
        """The sites that never move, sorted."""
        return np.sort(np.concatenate([b.sites for b in self.clamped] or [np.zeros(0, np.int32)]))

    def check(self, graph: AnyGraph) -> None:
        """Checks that every site is in exactly one block and that no superblock contains an edge.

        Args:
          graph: The graph whose sites the blocks name.

        Raises:
          ValueError: If it does not fit; the message names a site or an edge.
        """
        blocks = [b for g in self.free for b in g] + list(self.clamped)
        sites = np.concatenate([b.sites for b in blocks] or [np.zeros(0, np.int32)])
        if sites.size and sites.max() >= graph.n_sites:
            raise ValueError(
                f"a block names site {int(sites.max())}; the graph has sites 0 … {graph.n_sites - 1}"
            )
        counts = np.bincount(sites, minlength=graph.n_sites)
        if (counts > 1).any():
            site = int(np.flatnonzero(counts > 1)[0])
            holders = [i for i, b in enumerate(blocks) if site in b.sites]
            raise ValueError(f"site {site} is in blocks {holders}; put every site in exactly one block")
        if (counts == 0).any():
            site = int(np.flatnonzero(counts == 0)[0])
            raise ValueError(
                f"site {site} is in no block ({int((counts == 0).sum())} are missing); "
                "add it to a free block, or to a clamped one to hold it"
            )
        group = np.full(graph.n_sites, -1)
        for number, members in enumerate(self.groups):
            group[members] = number
        first, second = self._edges_to_check(graph)
        inside = np.flatnonzero((group[first] == group[second]) & (group[first] >= 0))
        if inside.size:
            a, b = int(first[inside[0]]), int(second[inside[0]])
            raise ValueError(
                f"block {int(group[a])} holds sites {a} and {b}, which share an edge and cannot be drawn at once; "
                "use BlockSpec(colour(graph)) to split them"
            )

    def _edges_to_check(self, graph: AnyGraph) -> tuple[np.ndarray, np.ndarray]:
        # A complete bipartite graph has n_left · n_right edges. A superblock contains one only if it has sites of both
        # layers, so one pair a superblock stands for all of them.
        if not isinstance(graph, Bipartite):
            return graph.edges[:, 0], graph.edges[:, 1]
        pairs = [(m[0], m[-1]) for m in self.groups if m[0] < graph.n_left <= m[-1]]
        table = np.asarray(pairs, np.int32).reshape(-1, 2)
        return table[:, 0], table[:, 1]


@dataclass(frozen=True)
class SamplingSchedule:
    """How many steps to discard, how many samples to keep, and how many steps lie between two of them.

    The first sample is the position after `n_warmup` steps, and `steps_per_sample` steps separate each from the next: a
    run takes n_warmup + (n_samples − 1) · steps_per_sample steps. To continue an earlier run at even distances, set
    `n_warmup` to that run's `steps_per_sample`.

    Args:
      n_warmup: Steps before the first sample.
      n_samples: Samples to keep. With 0 the run only warms up.
      steps_per_sample: Steps from one sample to the next.

    Raises:
      ValueError: If a count is negative, or `steps_per_sample` is under 1.

    Example:
      >>> ej.SamplingSchedule(n_warmup=100, n_samples=50, steps_per_sample=2).n_steps
      198
    """

    n_warmup: int = 0
    n_samples: int = 1
    steps_per_sample: int = 1

    def __post_init__(self) -> None:
        for name, minimum in (("n_warmup", 0), ("n_samples", 0), ("steps_per_sample", 1)):
            object.__setattr__(self, name, check_integer(name, getattr(self, name), minimum))

    @property
    def n_steps(self) -> int:
        """Number of steps of the run."""
        return self.n_warmup + max(self.n_samples - 1, 0) * self.steps_per_sample


def checkerboard(grid: Grid) -> tuple[Block, ...]:
    """Returns the blocks of a grid's regular pattern.

    Four neighbours need two blocks, eight need four (by parity of row and column). A periodic side of odd length cannot
    alternate: four neighbours then need three blocks, and eight need three instead of two along each odd side (6 or 9).

    Args:
      grid: The grid.

    Returns:
      The blocks; together they hold every site once.

    Raises:
      ValueError: If `grid` is not a `Grid`.

    Example:
      >>> [block.sites.tolist() for block in ej.checkerboard(ej.Grid(2, 2))]
      [[0, 3], [1, 2]]
    """
    if not isinstance(grid, Grid):
        raise ValueError(f"checkerboard needs a Grid, got {grid!r}; use colour(graph) for other graphs")
    row, column = np.arange(grid.height)[:, None], np.arange(grid.width)
    odd_rows, odd_columns = grid.periodic and grid.height % 2 == 1, grid.periodic and grid.width % 2 == 1
    if grid.neighbourhood == 8:
        a = _cycle_colours(grid.height)[row] if odd_rows else row % 2
        b = _cycle_colours(grid.width)[column] if odd_columns else column % 2
        a = a * (3 if odd_columns else 2)
    elif odd_rows or odd_columns:
        a, b = _cycle_walk(grid.height)[row], _cycle_walk(grid.width)[column]
    else:
        a, b = row % 2, column % 2
    pattern = a.astype(np.uint8) + b.astype(np.uint8)
    if grid.neighbourhood == 4:
        pattern %= np.uint8(3 if odd_rows or odd_columns else 2)
    return _blocks_of(pattern.ravel())


def colour(graph: AnyGraph) -> tuple[Block, ...]:
    """Returns blocks without an edge inside any, by greedy colouring in breadth-first order.

    The result is deterministic: a component starts at its lowest site, and neighbours are visited in edge order. There
    are two blocks whenever two suffice, and never more than the largest degree plus one.

    Args:
      graph: Any graph.

    Returns:
      The blocks; together they hold every site once.

    Example:
      >>> len(ej.colour(ej.Graph(3, [(0, 1), (1, 2), (2, 0)])))
      3
    """
    return _blocks_of(greedy_colours(graph))


# Cached because layouts compare a specification with it.
@functools.lru_cache(maxsize=2)
def default_spec(graph: AnyGraph) -> BlockSpec:
    """Returns the specification that is used where the caller gives none.

    Args:
      graph: Any graph.

    Returns:
      The checkerboard of a grid; the right (hidden) layer and then the left one of a bipartite graph; the colouring of
      any other graph.

    Raises:
      ValueError: If they are too large for the memory.

    Example:
      >>> len(ej.default_spec(ej.Grid(4, 4)).free)
      2
    """
    check_fits(f"the blocks of {graph.n_sites} sites", 8 * graph.n_sites, "take a smaller graph")
    if isinstance(graph, Grid):
        return BlockSpec(checkerboard(graph))
    if isinstance(graph, Bipartite):
        return BlockSpec([Block(np.arange(graph.n_left, graph.n_sites)), Block(np.arange(graph.n_left))])
    return BlockSpec(colour(graph))


def _sequence(name: str, value: Any) -> Any:
    if isinstance(value, Block) or not hasattr(value, "__iter__"):
        raise ValueError(f"{name} is {value!r}; give a sequence of blocks, e.g. [{value!r}]")
    return value


def _blocks_of(pattern: np.ndarray) -> tuple[Block, ...]:
    if pattern.max() < 16:
        # One pass over all sites for each colour is quicker than sorting them.
        parts = [np.flatnonzero(pattern == number) for number in range(int(pattern.max()) + 1)]
        return tuple(Block(part) for part in parts if part.size)
    order = np.argsort(pattern, kind="stable")
    cuts = np.flatnonzero(np.diff(pattern[order])) + 1
    return tuple(Block(part) for part in np.split(order, cuts))


def _cycle_colours(n: int) -> np.ndarray:
    """Returns the proper colours 0, 1, 0, 1, …, 2 of an odd cycle."""
    colours = np.arange(n) % 2
    colours[-1] = 2
    return colours


def _cycle_walk(n: int) -> np.ndarray:
    """Returns residues along a cycle of which every step, the closing one too, is ±1 modulo 3.

    With q steps of −1 and n − q of +1 the walk closes when n − 2q ≡ 0 (mod 3), that is, q = 2n mod 3.
    """
    step = np.ones(n, np.int64)
    step[: 2 * n % 3] = -1
    return np.concatenate([[0], np.cumsum(step)[:-1]]) % 3
