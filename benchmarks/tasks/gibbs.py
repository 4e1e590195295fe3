"""The block Gibbs suite: its systems, the number of sweeps of a timed call, and the promises."""

from typing import NamedTuple

import numpy as np


class Task(NamedTuple):
    """A system and its timed call: `n_sweeps` sweeps of `n_chains` chains.

    Attributes:
      name: Name of the task.
      kind: "grid", "graph" (random regular), "dense" (a spin glass on a complete graph) or "rbm".
      n_chains: Number of chains.
      n_sweeps: Sweeps of a call.
      peers: Peers that run it. The first is the main peer.
      promises: Promised figures by name. `ratio` compares with the main peer.
      side: Side of a grid.
      n_sites: Sites of a graph.
      n_levels: Levels of a site.
      periodic: Whether the grid is a torus.
      coupling: "tied" or "edge".
      bias: "site" or "tied".
      path: Path of Gibbs sampling.
      forms: Further forms of ebm_jax that run.
      n_visible: Visible units of an RBM.
      n_hidden: Hidden units of an RBM.
    """

    name: str
    kind: str
    n_chains: int
    n_sweeps: int
    peers: tuple[str, ...]
    promises: dict[str, float]
    side: int = 0
    n_sites: int = 0
    n_levels: int = 2
    periodic: bool = False
    coupling: str = "tied"
    bias: str = "site"
    path: str = "auto"
    forms: tuple[str, ...] = ()
    n_visible: int = 784
    n_hidden: int = 500

    @property
    def sites(self) -> int:
        """Sites of one chain."""
        return {"grid": self.side**2, "rbm": self.n_visible + self.n_hidden}.get(self.kind, self.n_sites)

    @property
    def work(self) -> int:
        """Site updates of one call."""
        return self.sites * self.n_chains * self.n_sweeps

    def small(self) -> "Task":
        """Returns a system of the same kind with a few sites."""
        return self._replace(side=min(self.side, 16), n_sites=min(self.n_sites, 100), n_visible=8, n_hidden=8)

    def scaled(self, scale: float) -> "Task":
        """Returns the task with its chains, or the sites of a single chain, reduced to about this part."""
        if scale == 1 or (self.n_chains == 1 and self.kind != "grid"):
            return self
        if self.n_chains == 1:
            return self._replace(side=max(64, round(self.side * scale**0.5 / 64) * 64))
        return self._replace(n_chains=max(1, round(self.n_chains * scale)))


MEMORY = {"bytes_beyond_state": 16}
EMBEDDED = ("vmap10", "batched10")
# Every chain has biases of its own; the second way copies the couplings too.
FIELDS = ("field", "vmapped_parameters")
FIELD = {"field_against_shared": 0.9, "field_against_vmap": 1}
POTTS4 = {"side": 28, "n_levels": 4}
ISING = {"side": 128, "periodic": True}
HUGE = {"side": 16_384, "periodic": True, "bias": "tied"}
REGULAR = {"n_levels": 3, "coupling": "edge"}

CPU_TASKS = (
    Task(
        "potts4_28_tied",
        *("grid", 64, 100, ("thrml", "torch")),
        {"ratio": 40, "vmap_against_batched": 0.85, **MEMORY},
        forms=EMBEDDED,
        **POTTS4,
    ),
    Task("potts4_28_edge", "grid", 64, 100, ("thrml",), {"ratio": 25, **MEMORY}, coupling="edge", **POTTS4),
    Task("ising_128_tied", "grid", 64, 50, ("thrml", "hamon", "numba"), {"ratio": 6, **MEMORY}, **ISING),
    Task("ising_128_bits", "grid", 64, 50, ("thrml", "hamon", "numba"), MEMORY, bias="tied", **ISING),
    Task(
        "potts3_regular_10k",
        *("graph", 64, 10, ("thrml",)),
        {"ratio": 2, "build_ratio": 50, **MEMORY},
        n_sites=10_000,
        **REGULAR,
    ),
    Task("rbm_784_500", "rbm", 128, 100, ("torch",), {"ratio": 1.7, **MEMORY}),
    Task("sk_32", "dense", 64, 100, ("thrml",), {"ratio": 20}, n_sites=32, coupling="edge"),
    Task("sk_1024", "dense", 64, 20, ("numba",), {"ratio": 1}, n_sites=1024, coupling="edge"),
    Task("ising_128_field", "grid", 64, 50, (), FIELD, forms=FIELDS, **ISING),
    Task("potts4_28_field", "grid", 64, 100, (), FIELD, forms=FIELDS, **POTTS4),
    Task("potts3_regular_10k_field", "graph", 64, 50, (), FIELD, n_sites=10_000, forms=FIELDS, **REGULAR),
    Task("sk_256_field", "dense", 64, 20, (), FIELD, n_sites=256, coupling="edge", forms=FIELDS),
    Task("rbm_784_500_field", "rbm", 128, 20, (), FIELD, forms=FIELDS),
)

# THRML makes one object per site, which would take too long on the huge grid.
GPU_TASKS = (
    Task(
        "potts4_28_tied",
        *("grid", 4096, 100, ("thrml", "torch")),
        {"ratio": 20, "vmap_against_batched": 0.85, **MEMORY},
        forms=EMBEDDED,
        **POTTS4,
    ),
    Task("ising_128_tied", "grid", 4096, 50, ("thrml", "hamon"), MEMORY, **ISING),
    Task("ising_128_bits", "grid", 4096, 50, ("thrml", "hamon"), MEMORY, bias="tied", **ISING),
    Task("rbm_784_500", "rbm", 4096, 100, ("torch",), MEMORY),
    Task("sk_1024", "dense", 4096, 20, (), {}, n_sites=1024, coupling="edge"),
    Task("ising_16384_bits", "grid", 1, 20, (), {"updates_per_ns": 100, **MEMORY}, path="bits", **HUGE),
    Task("ising_16384_grid", "grid", 1, 20, (), MEMORY, path="grid", **HUGE),
    Task("potts3_regular_100k", "graph", 256, 10, ("thrml",), MEMORY, n_sites=100_000, **REGULAR),
)


class System(NamedTuple):
    """The numbers of a pairwise system.

    Attributes:
      edges: Pairs of sites.
      bias: Bias of every site.
      weights: Coupling of every edge.
      tied: Couplings by direction, or None.
    """

    edges: np.ndarray
    bias: np.ndarray
    weights: np.ndarray
    tied: np.ndarray | None


def tied_coupling(task: Task) -> np.ndarray | None:
    """Returns couplings along rows and along columns, or None if every edge has its own."""
    if task.kind != "grid" or task.coupling != "tied":
        return None
    return np.array([0.4, 0.4] if task.n_levels == 2 else [0.5, 0.4])


def system(task: Task) -> System:
    """Returns edges, biases and couplings of a grid or graph task."""
    rng = np.random.default_rng(0)
    tied = tied_coupling(task)
    if task.kind in ("graph", "dense"):
        n_sites = task.n_sites
        complete = np.stack(np.triu_indices(n_sites, 1), 1)
        edges = complete if task.kind == "dense" else random_regular(n_sites, 3, rng)
    else:
        pieces = grid_edges(task.side, task.periodic)
        edges, n_sites = np.concatenate(pieces), task.side**2
    if tied is not None:
        weights = np.repeat(tied, [len(p) for p in pieces])
    else:
        mean, deviation = (0.0, n_sites**-0.5) if task.kind == "dense" else (0.4, 0.2)
        weights = rng.normal(mean, deviation, len(edges))
    shape = (n_sites,) if task.n_levels == 2 else (n_sites, task.n_levels)
    bias = np.zeros(shape) if task.n_levels == 2 else rng.normal(0, 0.3, shape)
    return System(edges, bias, weights, tied)


def grid_edges(side: int, periodic: bool) -> list[np.ndarray]:
    """Returns horizontal and vertical edges, row by row."""
    site = np.arange(side * side).reshape(side, side)
    if periodic:
        pairs = [(site, np.roll(site, -1, 1)), (site, np.roll(site, -1, 0))]
    else:
        pairs = [(site[:, :-1], site[:, 1:]), (site[:-1], site[1:])]
    return [np.stack([a.ravel(), b.ravel()], 1) for a, b in pairs]


def random_regular(n_sites: int, degree: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a simple random regular graph by pairing stubs and redrawing bad pairs (Steger and Wormald 1999)."""
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
        # At a dead end it starts again.
        if len(left) == stubs.size and stubs.size < 50:
            edges, left = set(), np.repeat(np.arange(n_sites), degree)
        stubs = np.asarray(left, dtype=np.int64)
    return np.asarray(sorted(edges), dtype=np.int32)
