"""Small discrete systems that can be enumerated, with the energies of the oracle beside the package's own model."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import ebm_jax as ej
from tests import oracles


class System(NamedTuple):
    """A model with parameters, and E of every configuration in the order of `oracles.all_states`."""

    model: Any
    params: Any
    energies: np.ndarray

    @property
    def n_sites(self):
        return self.model.graph.n_sites

    @property
    def n_levels(self):
        return self.model.n_levels

    def positions(self, levels):
        """Stacked configurations from stacked levels."""
        return jax.vmap(self.model.from_levels)(jnp.asarray(levels, jnp.int32))

    def all_positions(self):
        return self.positions(oracles.all_states(self.n_sites, self.n_levels))

    def exact_positions(self, n, beta=1.0, seed=0):
        """n independent draws from the exact law."""
        probabilities = oracles.boltzmann(self.energies, beta)
        numbers = np.random.default_rng(seed).choice(len(probabilities), size=n, p=probabilities)
        return self.positions(oracles.all_states(self.n_sites, self.n_levels)[numbers])

    def counts(self, positions, n_rows=1):
        """How often each configuration occurs in each of `n_rows` equal runs of positions."""
        numbers = np.asarray(_numbers(self.model, positions)).reshape(n_rows, -1)
        size = self.n_levels**self.n_sites
        shifted = numbers + size * np.arange(n_rows)[:, None]
        return np.bincount(shifted.ravel(), minlength=n_rows * size).reshape(n_rows, size)


@functools.partial(jax.jit, static_argnums=0)
def _numbers(model, positions):
    """The number of each configuration in the order of `oracles.all_states`."""
    n_sites = model.graph.n_sites
    strides = oracles.state_numbers(np.eye(n_sites, dtype=int), model.n_levels).astype(np.int32)
    return jax.vmap(lambda x: jnp.sum(model.levels(x) * strides))(positions)


def draw_params(model, seed=0, scale=0.8):
    """Parameters of order one, so that no interaction is negligible.

    NumPy draws them: JAX would compile a program for each shape.
    """
    rng = np.random.default_rng(seed)

    def draw(struct):
        normal = rng.normal(size=struct.shape)
        at_least = np.copysign(np.maximum(np.abs(normal), 0.3), normal)
        return jnp.asarray(scale * at_least, jnp.float32)

    return jax.tree.map(draw, model.params_struct())


def pairwise(model, seed=0, scale=0.8, params=None):
    params = draw_params(model, seed, scale) if params is None else params
    graph = model.graph
    edges, directions = [tuple(e) for e in graph.edges.tolist()], None
    if isinstance(graph, ej.Grid):
        edges, directions = oracles.grid_edges(graph.height, graph.width, graph.periodic, graph.neighbourhood)
    couplings = oracles.per_edge(params.coupling, model.coupling, edges, directions)
    energy = oracles.ising_energy if isinstance(model, ej.Ising) else oracles.potts_energy
    table = oracles.energy_table(
        lambda x: energy(x, params.bias, edges, couplings), graph.n_sites, model.n_levels
    )
    return System(model, params, table)


def rbm(n_visible, n_hidden, seed=0):
    model = ej.RBM(n_visible, n_hidden)
    params = draw_params(model, seed)
    table = oracles.energy_table(lambda x: oracles.rbm_energy(x, *params), n_visible + n_hidden, 2)
    return System(model, params, table)


def random_graph():
    """Eight sites, eleven edges in scrambled order and orientation, degrees from 1 to 4, a triangle."""
    edges = [(3, 0), (1, 2), (0, 1), (2, 0), (4, 3), (3, 5), (6, 5), (1, 4), (5, 2), (6, 4), (7, 6)]
    return ej.Graph(8, edges)


_BUILDERS = {
    "ising_3x3": lambda: pairwise(ej.Ising(ej.Grid(3, 3))),
    "ising_2x3_edge": lambda: pairwise(ej.Ising(ej.Grid(2, 3), "edge")),
    "ising_3x3_periodic": lambda: pairwise(ej.Ising(ej.Grid(3, 3, "periodic"))),
    "ising_3x2_8": lambda: pairwise(ej.Ising(ej.Grid(3, 2, neighbourhood=8), "edge")),
    "ising_graph": lambda: pairwise(ej.Ising(random_graph())),
    "ising_graph_tied": lambda: pairwise(ej.Ising(random_graph(), "tied"), seed=2),
    "potts_2x3": lambda: pairwise(ej.Potts(ej.Grid(2, 3), 3)),
    "potts_1x4_edge": lambda: pairwise(ej.Potts(ej.Grid(1, 4), 3, "edge")),
    "potts_2x2_edge": lambda: pairwise(ej.Potts(ej.Grid(2, 2), 4, "edge")),
    "potts_2x2_matrix": lambda: pairwise(ej.Potts(ej.Grid(2, 2), 3, "matrix")),
    "potts_2x2_8": lambda: pairwise(ej.Potts(ej.Grid(2, 2, neighbourhood=8), 3, "matrix")),
    "potts_graph": lambda: pairwise(ej.Potts(ej.Graph(5, [(1, 0), (1, 2), (2, 0), (3, 2)]), 3, "matrix")),
    "rbm_4x3": lambda: rbm(4, 3),
}
NAMES = tuple(_BUILDERS)


@functools.cache
def get(name):
    """Returns a system by name, built once."""
    return _BUILDERS[name]()


@functools.partial(jax.jit, static_argnames="n_steps")
def run_chains(kernel, key, params, beta, positions, clamped=None, n_steps=1):
    """Runs chains from `positions` in the kernel's own form for many chains; returns the positions reached."""
    n_chains = jax.tree.leaves(positions)[0].shape[0]
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n_chains))
    axes = None if clamped is None else (0, 0)
    states = jax.vmap(kernel.init, (None, 0, axes))(params, positions, clamped)
    packed, info = kernel.packed_steps(keys, params, beta, kernel.pack(params, states), n_steps)
    return kernel.packed_positions(packed), info


def patched_run():
    """Returns `run_chains` to be compiled anew, so that patches of the package take effect; leaves other code alone."""

    def fresh(*args, n_steps=1):
        return run_chains.__wrapped__(*args, n_steps=n_steps)

    return jax.jit(fresh, static_argnames="n_steps")


def run_patched(*args, **kwargs):
    """Runs `patched_run()` once."""
    return patched_run()(*args, **kwargs)
