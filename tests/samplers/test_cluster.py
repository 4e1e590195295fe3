"""Swendsen-Wang and Wolff: exact transitions, stationary laws, clamping, mutants, labels, and how fast they forget."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from ebm_jax.lattice import clusters
from tests import oracles, systems
from tests.statistics import assert_other_law, assert_same_law

BETA = 0.7
KERNELS = [ej.swendsen_wang, ej.wolff]
POTTS_GRAPH = ej.Graph(5, [(1, 0), (1, 2), (2, 0), (3, 2)])
SMALL = {  # few edges: every choice of bonds can be listed
    "ising_2x3": ej.Ising(ej.Grid(2, 3)),
    "potts_2x2_8": ej.Potts(ej.Grid(2, 2, neighbourhood=8), 3, "edge"),
    "potts_graph": ej.Potts(ej.Graph(4, [(1, 0), (1, 2), (2, 0), (3, 2)]), 3, "edge"),
}
LARGER = {
    "ising_3x3_periodic": ej.Ising(ej.Grid(3, 3, "periodic"), bias="tied"),
    "ising_bipartite": ej.Ising(ej.Bipartite(3, 4), "tied"),
}


def params_of(model, seed=0):
    """No field, and couplings of order one; the Potts biases differ between sites, not between levels."""
    rng = np.random.default_rng(seed)
    struct = model.params_struct()
    bias = np.zeros(struct.bias.shape)
    if not model.spins:
        bias += rng.normal(size=(*model.graph.shape, 1))
    coupling = rng.uniform(0.2, 1.2, struct.coupling.shape)
    return type(struct)(jnp.asarray(bias, jnp.float32), jnp.asarray(coupling, jnp.float32))


@functools.cache
def system_of(name):
    model = (SMALL | LARGER)[name]
    return systems.pairwise(model, params=params_of(model))


def smallest_in_cluster(n_sites, edges):
    """Union-find: the smallest site of every site's cluster."""
    parent = list(range(n_sites))

    def find(site):
        while parent[site] != site:
            site = parent[site]
        return site

    for i, j in edges:
        i, j = find(int(i)), find(int(j))
        parent[max(i, j)] = min(i, j)
    return np.array([find(site) for site in range(n_sites)])


def exact_matrix(system, single, beta=BETA):
    """Transition matrix by listing the bonds between sites that are alike, and the levels of the clusters."""
    model, states = system.model, oracles.all_states(system.n_sites, system.n_levels)
    edges, directions = model.graph.edges, None
    if isinstance(model.graph, ej.Grid):
        graph = model.graph
        edges, directions = oracles.grid_edges(graph.height, graph.width, graph.periodic, graph.neighbourhood)
    couplings = np.array(oracles.per_edge(system.params.coupling, model.coupling, edges, directions))
    chance = 1 - np.exp(-(2 if model.spins else 1) * beta * couplings)
    matrix = np.zeros((len(states), len(states)))
    for row, x in enumerate(states):
        alike = [e for e, (i, j) in enumerate(edges) if x[i] == x[j]]
        for laid in itertools.product([False, True], repeat=len(alike)):
            weight = np.prod([chance[e] if on else 1 - chance[e] for e, on in zip(alike, laid, strict=True)])
            root = smallest_in_cluster(
                system.n_sites, [edges[e] for e, on in zip(alike, laid, strict=True) if on]
            )
            roots = np.unique(root)
            if single:
                for r in roots:
                    for shift in range(1, system.n_levels):
                        new = np.where(root == r, (x + shift) % system.n_levels, x)
                        part = np.sum(root == r) / system.n_sites / (system.n_levels - 1)
                        matrix[row, oracles.state_numbers(new, system.n_levels)] += weight * part
            else:
                at = np.searchsorted(roots, root)
                for levels in itertools.product(range(system.n_levels), repeat=len(roots)):
                    new = oracles.state_numbers(np.array(levels)[at], system.n_levels)
                    matrix[row, new] += weight / system.n_levels ** len(roots)
    return matrix


def transitions(system, kernel, beta=BETA, n_draws=8000):
    starts = jnp.asarray(np.repeat(system.all_positions(), n_draws, axis=0))
    ends, info = systems.run_chains(kernel, jax.random.key(1), system.params, beta, starts)
    assert (np.asarray(info.n_steps) == 1).all() and not np.asarray(info.n_nonfinite).any()
    return system.counts(ends, n_rows=len(system.energies))


# Wolff moves of Ising models: below, and certificates.
@pytest.mark.parametrize(
    ("name", "make"),
    [(name, make) for make in KERNELS for name in SMALL if (name, make) != ("ising_2x3", ej.wolff)],
)
def test_transitions_from_every_state_are_the_exact_ones(name, make):
    system = system_of(name)
    matrix = exact_matrix(system, make is ej.wolff)
    flow = oracles.boltzmann(system.energies, BETA)[:, None] * matrix
    np.testing.assert_allclose(flow, flow.T, atol=1e-9)  # of the oracle: parameters are float32
    assert_same_law(transitions(system, make(system.model)), matrix, name)


@pytest.mark.parametrize(("name", "make"), list(zip(LARGER, KERNELS, strict=True)))
def test_exact_start_stays_exact_and_a_fixed_one_becomes_so(name, make):
    system, kernel, n = system_of(name), make(LARGER[name]), 10_000
    fixed = system.positions(np.zeros((n, system.n_sites)))
    starts = jnp.asarray(np.concatenate([system.exact_positions(n, BETA), fixed]))
    ends, _ = systems.run_chains(kernel, jax.random.key(2), system.params, BETA, starts, n_steps=30)
    counts = system.counts(ends, n_rows=2)
    law = oracles.boltzmann(system.energies, BETA)
    assert_same_law(counts, np.stack([law, law]), name)


class HalfTheBonds(type(ej.swendsen_wang(SMALL["ising_2x3"]))):
    def _probability(self, strength):
        return -jnp.expm1(-strength)


@dataclasses.dataclass(frozen=True)
class OneSetOfWords(clusters.GridClusters):
    n_counters = 0  # clusters are drawn from the words of the bonds


@pytest.mark.parametrize("mutant", [HalfTheBonds, OneSetOfWords, "beta"])
def test_mutants_are_caught(mutant):
    system = system_of("ising_2x3")
    kernel = ej.swendsen_wang(system.model)
    beta = 1.05 * BETA if mutant == "beta" else BETA
    if mutant is HalfTheBonds:
        jax.tree_util.register_dataclass(
            HalfTheBonds, data_fields=("tables",), meta_fields=("model", "layout")
        )
        kernel = HalfTheBonds(kernel.model, kernel.layout, kernel.tables)
    elif mutant != "beta":
        kernel = dataclasses.replace(kernel, layout=mutant(system.model.graph))
    counts = transitions(system, kernel, beta)
    assert_other_law(counts, exact_matrix(system, False), str(mutant))


@pytest.mark.parametrize("make", KERNELS)
def test_clamped_sites_keep_their_level_and_the_rest_follows_its_law_given_them(make):
    system, n = system_of("potts_graph"), 10_000
    mask, values = np.array([True, False, False, True]), np.array([2, 0, 0, 1])
    clamped = (
        jnp.broadcast_to(jnp.asarray(mask), (n, 4)),
        jnp.broadcast_to(jnp.asarray(values, jnp.uint8), (n, 4)),
    )
    starts = system.positions(np.zeros((n, 4)))
    ends, _ = systems.run_chains(
        make(system.model), jax.random.key(0), system.params, BETA, starts, clamped, n_steps=20
    )
    fits = (oracles.all_states(4, 3)[:, mask] == values[mask]).all(axis=1)
    law = np.where(fits, oracles.boltzmann(system.energies, BETA), 0)
    assert_same_law(system.counts(ends)[0], law / law.sum(), make.__name__)


@pytest.mark.parametrize(
    "graph", [ej.Grid(3, 4, neighbourhood=8), ej.Grid(7, 9, "periodic"), systems.random_graph()]
)
def test_labels_are_those_of_union_find(graph):
    layout, tables = clusters.build(graph)
    n_chains, edges = 60, graph.edges
    laid = np.random.default_rng(0).random((n_chains, graph.n_edges)) < np.linspace(0, 1, n_chains)[:, None]
    images = []
    for image in jax.vmap(lambda row: layout.couplings("edge", row))(jnp.asarray(laid, jnp.float32)):
        images.append(image > 0)

    @jax.jit
    def labels(bonds):
        one = jax.tree.map(lambda leaf: leaf[20], bonds)
        return jax.vmap(lambda b: layout.labels(tables, b))(bonds), layout.labels(tables, one)

    found, one = labels(tuple(images))
    assert found.shape == (n_chains, *graph.shape)
    for chain in range(n_chains):
        exact = smallest_in_cluster(graph.n_sites, edges[laid[chain]])
        np.testing.assert_array_equal(found[chain].ravel(), exact)
    np.testing.assert_array_equal(one, found[20])


def test_looped_vmapped_and_chunked_have_the_same_bits():
    model = ej.Potts(ej.Grid(5, 4), 5)
    params, kernel = params_of(model), ej.swendsen_wang(model)
    positions = ej.init_chains(jax.random.key(0), model, 4)
    keys = jax.random.split(jax.random.key(1), 4)

    @jax.jit
    def forms(positions):
        states = jax.vmap(lambda x: kernel.init(params, x))(positions)
        pairs = jax.tree.map(lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]), (keys, states))
        nested, info = jax.vmap(jax.vmap(lambda k, s: kernel.steps(k, params, 0.7, s, 3)))(*pairs)
        one = jax.tree.map(lambda leaf: leaf[2], states)
        half, first = kernel.steps(keys[2], params, 0.7, one, 1)
        chunked, second = kernel.steps(keys[2], params, 0.7, half, 2)
        return nested, info, chunked, first.then(second)

    nested, info, chunked, total = forms(positions)
    assert (nested.position != positions.reshape(nested.position.shape)).any(axis=(2, 3)).all()
    np.testing.assert_array_equal(nested.position[1, 0], chunked.position)
    assert jax.tree.map(lambda leaf: leaf[1, 0], info) == total


def test_new_numbers_and_rebuilt_kernels_trace_once_and_gradients_are_zero(count_traces):
    def energy_after(kernel, key, params, beta, x):
        state, info = kernel.step(key, params, beta, kernel.init(params, x))
        return jnp.sum(state.position * params.coupling.sum()), info

    counted, traces = count_traces(energy_after)
    gradient = jax.jit(jax.grad(counted, argnums=3, has_aux=True))
    for i, (bias, sign, beta) in enumerate(
        [(0, 1, 0.5), (0.1, 1, 1.5), (0, -1, 0.7), (0, 1, -0.1), (0, 1, np.nan)]
    ):
        model = ej.Ising(ej.Graph(4, [(0, 1), (3, 2)]))
        params = params_of(model)
        params = params._replace(bias=params.bias.at[1].set(bias), coupling=sign * params.coupling)
        x = ej.init_chains(jax.random.key(i), model, 1)[0]
        slope, info = gradient(ej.wolff(model), jax.random.key(i), params, beta, x)
        assert slope == 0
        assert (info.n_nonfinite, info.first_nonfinite) == ((0, -1) if i == 0 else (1, 1))
    assert len(traces) == 1


@pytest.mark.slow
def test_energies_of_a_critical_lattice_are_forgotten_ten_times_as_fast():
    """Integrated autocorrelation times at β_c = log(1 + √2) / 2 from batch means; at 64×64 they are 11 and 430."""
    side, n_chains, n_batches = 32, 8, 8
    model = ej.Ising(ej.Grid(side, side, "periodic"), bias="tied")
    params, x = ej.IsingParams(jnp.zeros(()), jnp.ones(2)), jnp.ones((n_chains, side, side), bool)
    times, means = {}, {}
    for make, n in ((ej.swendsen_wang, 400), (ej.gibbs, 6000)):
        # The first samples are left out below: a warm-up is a second loop to compile.
        schedule = ej.SamplingSchedule(1, n // 8 + n, 1)
        run = ej.sample(
            jax.random.key(0), make(model), params, x, schedule, beta=0.4406868, observe=model.energy
        )
        energies = np.asarray(run.observed, np.float64)[n // 8 :].reshape(n_batches, -1, n_chains)
        batches = energies.mean(axis=1)
        times[make] = energies.shape[1] * batches.var(ddof=1) / energies.var(ddof=1)
        means[make] = batches.mean(), batches.std(ddof=1) / np.sqrt(batches.size)
    assert times[ej.gibbs] > 10 * times[ej.swendsen_wang], times
    (a, error_a), (b, error_b) = means.values()
    assert abs(a - b) < 5 * np.hypot(error_a, error_b)


@pytest.mark.parametrize("make", KERNELS)
@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        (ej.Ising(ej.Grid(2, 2)), {"bias": (1, 0.5)}, r"by 0.5 at index \(0, 1\); set it to zero"),
        (ej.Potts(ej.Grid(2, 2), 3), {"bias": (4, 0.5)}, "one number for all levels"),
        (ej.Ising(ej.Grid(2, 2)), {"coupling": (1, -2.0)}, r"holds -2.0 at index \(1,\)"),
        (ej.Ising(POTTS_GRAPH, "tied"), {"coupling": (0, -1.0)}, "couplings of at least 0"),
    ],
)
def test_what_no_cluster_can_have_is_refused(make, model, change, message):
    params = params_of(model)
    ((name, (place, value)),) = change.items()
    leaf = getattr(params, name)
    number = leaf.ravel()[place] * (name == "bias") + value
    params = params._replace(**{name: leaf.ravel().at[place].set(number).reshape(leaf.shape)})
    x = ej.init_chains(jax.random.key(0), model, 2)
    with pytest.raises(ValueError, match=message):
        ej.sample(jax.random.key(0), make(model), params, x, ej.SamplingSchedule(1, 1, 1))


@pytest.mark.parametrize("make", KERNELS)
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ej.Potts(ej.Grid(2, 2), 3, "matrix"), 'coupling is "matrix"'),
        (ej.RBM(3, 2), "give an Ising or Potts model"),
        (object(), "give an Ising or Potts model"),
    ],
)
def test_other_models_are_refused(make, model, message, as_shipped):
    with pytest.raises(ValueError, match=message):
        make(model)
