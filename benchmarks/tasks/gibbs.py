"""The block Gibbs suite: systems, how many sweeps a timed call takes, and what is promised against which peer."""

from typing import NamedTuple

import numpy as np


class Task(NamedTuple):
    """A system and its timed call: `n_sweeps` sweeps of `n_chains` chains. `promised` is the ratio to `peer`."""

    name: str
    kind: str
    n_chains: int
    n_sweeps: int
    peer: str
    promised: float
    side: int = 0
    n_sites: int = 0
    n_levels: int = 2
    periodic: bool = False
    coupling: str = "tied"
    n_visible: int = 784
    n_hidden: int = 500

    @property
    def work(self) -> int:
        """Site updates of one call."""
        sites = {"grid": self.side**2, "graph": self.n_sites, "rbm": self.n_visible + self.n_hidden}[
            self.kind
        ]
        return sites * self.n_chains * self.n_sweeps


TASKS = (
    Task("potts4_28_tied", "grid", 64, 100, "thrml", 40, side=28, n_levels=4),
    Task("potts4_28_edge", "grid", 64, 100, "thrml", 25, side=28, n_levels=4, coupling="edge"),
    Task("ising_128_tied", "grid", 64, 50, "thrml", 6, side=128, periodic=True),
    Task("potts3_regular_10k", "graph", 64, 10, "thrml", 2, n_sites=10_000, n_levels=3, coupling="edge"),
    Task("rbm_784_500", "rbm", 128, 100, "torch", 1.7),
)


class System(NamedTuple):
    """Numbers of a pairwise system. tied: couplings by direction, or None; weights: one an edge."""

    edges: np.ndarray
    bias: np.ndarray
    weights: np.ndarray
    tied: np.ndarray | None


def system(task: Task) -> System:
    """Returns edges, biases and couplings of a grid or graph task."""
    rng = np.random.default_rng(0)
    tied = None
    if task.kind == "graph":
        edges = random_regular(task.n_sites, 3, rng)
        n_sites = task.n_sites
    else:
        pieces = grid_edges(task.side, task.periodic)
        edges, n_sites = np.concatenate(pieces), task.side**2
        if task.coupling == "tied":
            tied = np.array([0.4, 0.4] if task.n_levels == 2 else [0.5, 0.4])
    if tied is not None:
        weights = np.repeat(tied, [len(p) for p in pieces])
    else:
        weights = rng.normal(0.4, 0.2, len(edges))
    shape = (n_sites,) if task.n_levels == 2 else (n_sites, task.n_levels)
    bias = np.zeros(shape) if task.n_levels == 2 else rng.normal(0, 0.3, shape)
    return System(edges, bias, weights, tied)


def grid_edges(side: int, periodic: bool) -> list[np.ndarray]:
    """Horizontal and vertical edges, row by row."""
    site = np.arange(side * side).reshape(side, side)
    if periodic:
        pairs = [(site, np.roll(site, -1, 1)), (site, np.roll(site, -1, 0))]
    else:
        pairs = [(site[:, :-1], site[:, 1:]), (site[:-1], site[1:])]
    return [np.stack([a.ravel(), b.ravel()], 1) for a, b in pairs]


def random_regular(n_sites: int, degree: int, rng: np.random.Generator) -> np.ndarray:
    """A simple random regular graph by pairing stubs and redrawing the offending pairs (Steger and Wormald 1999)."""
    edges: set[tuple[int, int]] = set()
    stubs = np.repeat(np.arange(n_sites), degree)
    while stubs.size:
        rng.shuffle(stubs)
        left = []
        for a, b in np.sort(stubs.reshape(-1, 2), axis=1).tolist():
            if a == b or (a, b) in edges:
                left += [a, b]
            else:
                edges.add((a, b))
        if len(left) == stubs.size and stubs.size < 50:  # a dead end: begin anew
            edges, left = set(), np.repeat(np.arange(n_sites), degree)
        stubs = np.asarray(left, dtype=np.int64)
    return np.asarray(sorted(edges), dtype=np.int32)
