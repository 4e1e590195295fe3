"""Graphs and quadratic problems in text files: rudy (Gset), DIMACS and qbsolv's .qubo.

Only regular files are opened, and an error names the file and the line.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ebm_jax.graphs import Graph
from ebm_jax.interop.problems import IsingProblem, WeightedGraph
from ebm_jax.interop.qubo import from_qubo

__all__ = ["read_dimacs", "read_qubo", "read_rudy"]


def read_rudy(path: str | os.PathLike[str]) -> WeightedGraph:
    """Returns the graph of a file as rudy writes them, among them Gset's (https://web.stanford.edu/~yyye/yyye/Gset).

    The first line holds the numbers of sites and edges. Each further line is an edge `i j weight` with sites from 1;
    without a weight it weighs 1. The cut of spins s is Σ w_ij (1 − sᵢ sⱼ) / 2, so the ground state of
    `Ising(graph)` with couplings `-weights` is a maximum cut.

    Args:
      path: The file.

    Returns:
      A `WeightedGraph` whose labels are 1 … n_sites.

    Raises:
      ValueError: If the file is no regular file, or a line does not fit; the message names the line.
    """
    lines = _Lines(path, comments=("#", "%"))
    entries = iter(lines)
    n_sites, n_edges = _whole_numbers(lines, next(entries, []), 2, "the numbers of sites and of edges")
    edges = _Edges(lines, n_sites)
    for words in entries:
        edges.add(words)
    return edges.finish(n_edges)


def read_dimacs(path: str | os.PathLike[str]) -> WeightedGraph:
    """Returns the graph of a DIMACS file.

    A line `p FORMAT n m` comes first, where FORMAT is a word such as edge or col. Each line `e i j` or `a i j`, with a
    weight or without, is an edge with sites from 1. Lines that begin with c are comments. Files of colouring problems
    list each edge in both directions: an edge that is repeated without a weight counts once.

    Args:
      path: The file.

    Returns:
      A `WeightedGraph` whose labels are 1 … n_sites.

    Raises:
      ValueError: As `read_rudy` does.
    """
    lines = _Lines(path, comments=("c",))
    edges, n_edges = None, 0
    for kind, *words in lines:
        if kind == "p":
            if edges is not None:
                raise lines.error("a second line p")
            n_sites, n_edges = _whole_numbers(
                lines, words[1:], 2, "p FORMAT and the numbers of sites and edges"
            )
            edges = _Edges(lines, n_sites, merge=True)
        elif kind not in ("e", "a"):
            raise lines.error(f"the line begins with {kind!r}; lines begin with c, p, e or a")
        elif edges is None:
            raise lines.error("an edge before the line p, which says how many sites there are")
        else:
            edges.add(words)
    if edges is None:
        raise lines.error("no line p, which says how many sites and edges there are")
    return edges.finish(n_edges)


def read_qubo(path: str | os.PathLike[str]) -> IsingProblem:
    """Returns the Ising model of a .qubo file, the format of D-Wave's qbsolv.

    A line `p qubo 0 n n_diagonal n_couplers` comes first. Each further line is an entry `i j value` of Q with sites
    from 0, where `i i` is a linear term. Lines that begin with c are comments. The energy is Σ Q_ij xᵢ xⱼ over x in
    {0, 1}.

    Args:
      path: The file.

    Returns:
      An `IsingProblem` with labels 0 … n − 1; sites without an entry are among them.

    Raises:
      ValueError: If the file is no regular file, or a line does not fit; the message names the line.
    """
    lines = _Lines(path, comments=("c", "#"))
    entries = iter(lines)
    first = next(entries, [])
    if first[:2] != ["p", "qubo"] or len(first) != 6:
        raise lines.error("the first line is not `p qubo 0 n n_diagonal n_couplers`")
    n, n_diagonal, n_couplers = _whole_numbers(lines, first[3:], 3, "three numbers")
    if n == 0:
        raise lines.error("there is no site")
    found: dict[tuple[int, int], float] = {}
    diagonal = 0
    for words in entries:
        if len(words) != 3:
            raise lines.error("an entry is `i j value`")
        i, j = _whole_numbers(lines, words[:2], 2, "two sites")
        pair = (min(i, j), max(i, j))
        if pair[1] >= n:
            raise lines.error(f"site {pair[1]} is outside 0 … {n - 1}")
        if pair in found:
            raise lines.error(f"entry {pair} is listed twice")
        found[pair] = _number(lines, words[2])
        diagonal += i == j
    if (diagonal, len(found) - diagonal) != (n_diagonal, n_couplers):
        raise lines.error(
            f"{diagonal} diagonal entries and {len(found) - diagonal} couplers, and the first line promises "
            f"{n_diagonal} and {n_couplers}"
        )
    # Zeros name all sites in their order.
    return from_qubo({(i, i): 0.0 for i in range(n)} | found)


class _Lines:
    """The words of each line of a text file that is neither empty nor a comment."""

    def __init__(self, path: str | os.PathLike[str], comments: tuple[str, ...]) -> None:
        self.path, self.comments, self.number = Path(path), comments, 0

    def __iter__(self) -> Iterator[list[str]]:
        # Opening a FIFO to read would wait for a writer.
        handle = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        with open(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise ValueError(f"{self.path} is no regular file; give a text file")
            for self.number, line in enumerate(file, 1):
                try:
                    words = line.decode("utf-8").split()
                except UnicodeDecodeError:
                    raise self.error("it is not text") from None
                if words and not self._is_comment(words[0]):
                    yield words

    def _is_comment(self, word: str) -> bool:
        return any(word == mark or (not mark.isalpha() and word.startswith(mark)) for mark in self.comments)

    def error(self, problem: str) -> ValueError:
        """Returns the error of the line that was read last."""
        return ValueError(f"{self.path}, line {self.number}: {problem}")


class _Edges:
    """Edges as lines give them, with sites from 1."""

    def __init__(self, lines: _Lines, n_sites: int, *, merge: bool = False) -> None:
        if n_sites == 0:
            raise lines.error("there is no site")
        self.lines, self.n_sites, self.merge, self.listed = lines, n_sites, merge, 0
        self.weights: dict[tuple[int, int], float] = {}

    def add(self, words: list[str]) -> None:
        """Adds the edge of a line, `i j` or `i j weight`."""
        if len(words) not in (2, 3):
            raise self.lines.error("an edge is two sites, and a weight or none")
        i, j = _whole_numbers(self.lines, words[:2], 2, "two sites")
        pair = (min(i, j), max(i, j))
        if pair[0] < 1 or pair[1] > self.n_sites:
            outside = pair[0] if pair[0] < 1 else pair[1]
            raise self.lines.error(f"site {outside} is outside 1 … {self.n_sites}")
        if i == j:
            raise self.lines.error(f"the edge joins site {i} to itself")
        self.listed += 1
        if pair in self.weights and not (self.merge and len(words) == 2):
            raise self.lines.error(f"edge {pair} is listed twice")
        self.weights[pair] = 1.0 if len(words) == 2 else _number(self.lines, words[2])

    def finish(self, n_edges: int) -> WeightedGraph:
        """Returns the graph; raises ValueError if there are not `n_edges` edges."""
        if n_edges not in (self.listed, len(self.weights)):
            raise self.lines.error(f"{self.listed} edges, and the first line promises {n_edges}")
        graph = Graph(self.n_sites, [(i - 1, j - 1) for i, j in self.weights])
        weights = np.asarray(list(self.weights.values()), np.float64)
        return WeightedGraph(graph, weights, tuple(range(1, self.n_sites + 1)))


def _whole_numbers(lines: _Lines, words: list[str], count: int, what: str) -> list[int]:
    """Returns the words as whole numbers of at least 0."""
    # 18 digits fit 64 bits, and int() refuses thousands of them.
    if len(words) != count or not all(
        word.isascii() and word.isdigit() and len(word) <= 18 for word in words
    ):
        raise lines.error(f"{' '.join(words)[:60]!r} is not {what}: give {count} whole numbers")
    return [int(word) for word in words]


def _number(lines: _Lines, word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise lines.error(f"{word[:60]!r} is no finite number")
    return value
