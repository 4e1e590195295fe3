"""Single-site Metropolis: exact transitions, reversibility of a proposal, and mutants."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from ebm_jax.lattice import single
from tests import oracles, systems
from tests.statistics import assert_other_law, assert_same_law

BETA = 0.8
SYSTEMS = [
    "ising_2x3_edge",
    "ising_graph_tied",
    "potts_2x2_matrix",
    "potts_1x4_edge",
    "rbm_4x3",
]


def exact_matrix(system, beta=BETA, n_steps=1):
    proposal = oracles.metropolis_matrix(system.energies, system.n_sites, system.n_levels, beta)
    return np.linalg.matrix_power(proposal, system.n_sites * n_steps)


def transitions(system, kernel, n_draws=20_000, beta=BETA):
    starts = jax.tree.map(lambda x: jnp.repeat(x, n_draws, axis=0), system.all_positions())
    ends, info = systems.run_chains(kernel, jax.random.key(1), system.params, beta, starts)
    return system.counts(ends, n_rows=len(system.energies)), info


@pytest.mark.parametrize("name", SYSTEMS)
def test_transitions_from_every_state_are_the_exact_ones(name):
    system = systems.get(name)
    counts, info = transitions(system, ej.metropolis(system.model))
    assert_same_law(counts, exact_matrix(system), name)
    assert (info.n_proposed == system.n_sites).all()
    assert 0.1 < float(info.acceptance.mean()) < 0.9


@pytest.mark.parametrize("name", SYSTEMS)
def test_one_proposal_is_reversible(name):
    """The oracle's own matrix, in detailed balance with the law that enumeration gives."""
    system = systems.get(name)
    proposal = oracles.metropolis_matrix(system.energies, system.n_sites, system.n_levels, BETA)
    flow = oracles.boltzmann(system.energies, BETA)[:, None] * proposal
    np.testing.assert_allclose(flow, flow.T, atol=1e-15)


def test_exact_start_stays_exact():
    system = systems.get("ising_3x3")
    ends, _ = systems.run_chains(
        ej.metropolis(system.model),
        jax.random.key(2),
        system.params,
        BETA,
        system.exact_positions(200_000, BETA),
        n_steps=3,
    )
    assert_same_law(system.counts(ends), oracles.boltzmann(system.energies, BETA), "exact start")


class AcceptsAll(single.PairwiseSites):
    def logits(self, tables, prepared, x, site):
        return jnp.zeros(self.n_levels)


class ForgetsLastNeighbour(single.PairwiseSites):
    def logits(self, tables, prepared, x, site):
        fewer = tables._replace(**{name: getattr(tables, name)[:-1] for name in tables._fields})
        shorter = prepared._replace(couplings=prepared.couplings[:-1])
        return super().logits(fewer, shorter, x, site)


@pytest.mark.parametrize("mutant", [AcceptsAll, ForgetsLastNeighbour])
def test_mutants_are_caught(mutant):
    system = systems.get("ising_2x3_edge")
    kernel = ej.metropolis(system.model)
    sites = mutant(*(getattr(kernel.sites, f.name) for f in dataclasses.fields(kernel.sites)))
    counts, _ = transitions(system, dataclasses.replace(kernel, sites=sites))
    assert_other_law(counts, exact_matrix(system), mutant.__name__)


def test_wrong_beta_is_caught():
    system = systems.get("ising_2x3_edge")
    counts, _ = transitions(system, ej.metropolis(system.model), beta=1.03 * BETA)
    assert_other_law(counts, exact_matrix(system), "wrong beta")


def test_looped_vmapped_and_chunked_have_the_same_bits():
    model = ej.Potts(systems.random_graph(), 5, "matrix")
    params, kernel = systems.draw_params(model), ej.metropolis(model)
    positions = ej.init_chains(jax.random.key(0), model, 4)
    keys = jax.random.split(jax.random.key(1), 4)

    @jax.jit
    def forms(positions):
        states = jax.vmap(lambda x: kernel.init(params, x))(positions)
        vmapped, info = jax.vmap(lambda k, s: kernel.steps(k, params, 0.7, s, 3))(keys, states)
        one = jax.tree.map(lambda leaf: leaf[2], states)
        half, first = kernel.steps(keys[2], params, 0.7, one, 1)
        chunked, second = kernel.steps(keys[2], params, 0.7, half, 2)
        return vmapped, info, chunked, first.then(second)

    vmapped, info, chunked, total = forms(positions)
    np.testing.assert_array_equal(vmapped.position[2], chunked.position)
    assert jax.tree.map(lambda leaf: leaf[2], info) == total


def test_clamped_sites_never_move():
    system = systems.get("potts_1x4_edge")
    positions = system.positions(np.zeros((500, 4)))
    mask = jnp.broadcast_to(jnp.array([[True, False, False, True]]), positions.shape)
    clamped = (mask, jnp.full(positions.shape, 2, jnp.uint8))
    ends, info = systems.run_chains(
        ej.metropolis(system.model), jax.random.key(0), system.params, BETA, positions, clamped, n_steps=20
    )
    assert (ends[:, 0, jnp.array([0, 3])] == 2).all()
    assert len(np.unique(np.asarray(ends[:, 0, 1]))) == 3
    assert (info.n_accepted > 0).all()


def test_one_trace_for_new_numbers_and_rebuilt_kernels(count_traces):
    counted, traces = count_traces(lambda kernel, k, p, b, x: kernel.step(k, p, b, kernel.init(p, x)))
    jitted = jax.jit(counted)
    for i in range(3):
        model = ej.Ising(ej.Graph(4, [(0, 1), (3, 2)]))
        x = ej.init_chains(jax.random.key(i), model, 1)[0]
        jitted(ej.metropolis(model), jax.random.key(i), systems.draw_params(model, i), 0.5 + i, x)
    assert len(traces) == 1


def test_refuses_other_models(as_shipped):
    with pytest.raises(ValueError, match="Ising, Potts or RBM"):
        ej.metropolis(object())
