"""Graphs and random parameters that the families are tested on, and their oracles."""

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.energies.factor_graph import FactorGraph
from ebm_jax.energies.ising import Ising
from ebm_jax.energies.potts import Potts
from ebm_jax.energies.rbm import RBM
from ebm_jax.graphs import Bipartite, Graph, Grid
from tests import oracles

GRAPHS = [
    Grid(4, 4),
    Grid(4, 4, "periodic"),
    Grid(3, 5, neighbourhood=8),
    Grid(5, 3, "periodic", 8),
    Grid(3, 3, "periodic", 8),
    Grid(1, 4, neighbourhood=8),
    Grid(2, 3),
    Graph(7, [(6, 0), (0, 1), (3, 1), (2, 6), (4, 2), (5, 4)]),
    Graph(3, []),
    Bipartite(2, 3),
]
CASES = [
    *[Ising(graph, kind) for graph in GRAPHS for kind in ("tied", "edge")],
    *[Potts(graph, 3, kind) for graph in GRAPHS for kind in ("tied", "edge", "matrix")],
    RBM(5, 3),
    RBM(2, 6),
]
BIG_CASES = [
    *[Ising(Grid(28, 28, boundary), kind) for boundary in ("free", "periodic") for kind in ("tied", "edge")],
    *[Potts(Grid(28, 28, "free", n), 4, kind) for n in (4, 8) for kind in ("tied", "edge", "matrix")],
    Potts(Grid(28, 28, "periodic"), 4),
    RBM(784, 500),
]


def random_params(model, seed=0, scale=1.0):
    """float32 parameters of both signs, off centre so that energies do not cancel to nothing."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        return jnp.asarray(scale * (0.3 + rng.normal(size=leaf.shape)), jnp.float32)

    return jax.tree.map(draw, model.params_struct())


def random_levels(model, seed=0):
    """One level a site."""
    return np.random.default_rng(seed).integers(0, model.n_levels, model.graph.n_sites)


def configuration(model, levels):
    """The model's configuration with these levels."""
    return model.from_levels(jnp.asarray(levels, jnp.int32))


def oracle_energy(model, params):
    """Returns `energy(levels)` of the oracle with these parameters."""
    if isinstance(model, FactorGraph):
        energies = oracles.factor_energies(model, params)
        return lambda levels: energies[tuple(levels)]
    params = [np.asarray(leaf, np.float64) for leaf in params]
    if isinstance(model, RBM):
        return lambda levels: oracles.rbm_energy(levels, *params)
    graph, directions = model.graph, None
    edges = [tuple(edge) for edge in graph.edges.tolist()]
    if isinstance(graph, Grid):
        edges, directions = oracles.grid_edges(*graph.shape, graph.periodic, graph.neighbourhood)
    couplings = oracles.per_edge(params[1], model.coupling, edges, directions)
    family = oracles.ising_energy if isinstance(model, Ising) else oracles.potts_energy
    return lambda levels: family(levels, params[0], edges, couplings)
