"""Cycles, mixtures and Gibbs over parts: order, choice, conditionals, errors. Their laws: `test_certificate`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from tests import kernels, systems
from tests.statistics import assert_plausible, normal_sf

SYSTEM = systems.get("ising_2x3_edge")
START = SYSTEM.exact_positions(32)
SCHEDULE = ej.SamplingSchedule(2, 3, 2)


def test_a_cycle_of_one_is_that_kernel():
    bare, other = (
        ej.sample(jax.random.key(0), kernel, SYSTEM.params, START, SCHEDULE)
        for kernel in (ej.metropolis(SYSTEM.model), ej.cycle([ej.metropolis(SYSTEM.model)]))
    )
    np.testing.assert_array_equal(bare.positions, other.positions)
    np.testing.assert_array_equal(bare.info.n_accepted, other.info.n_accepted)


def test_a_cycle_takes_every_step_and_counts_it_once():
    kernel = ej.cycle([ej.mala(kernels.gaussian, 0.5), ej.hmc(kernels.gaussian, 0.3, 3)])
    info = ej.sample(jax.random.key(0), kernel, kernels.PRECISION, jnp.zeros((8, 3)), SCHEDULE).info
    assert (info.n_steps == 6).all()
    assert (info.n_proposed == 12).all()
    assert (info.n_gradient == 6 * (1 + 3)).all()


def test_a_mixture_chooses_with_its_probabilities_and_compiles_once(count_traces):
    counted, traces = count_traces(kernels.gaussian)
    members = [ej.mala(counted, 0.5), ej.hmc(counted, 0.3, 3)]
    seen = []
    for share in (0.25, 0.75):
        kernel = ej.mixture(members, [share, 1 - share])
        info = ej.sample(
            jax.random.key(0), kernel, kernels.PRECISION, jnp.zeros((4000, 3)), ej.SamplingSchedule(1, 1, 1)
        ).info
        seen.append(len(traces))
        z = ((info.n_gradient == 1).mean() - share) / np.sqrt(share * (1 - share) / 4000)
        assert_plausible(2 * normal_sf(abs(float(z))), f"mixture with {share}")
    assert seen[1] - seen[0] <= 2  # the checks evaluate shapes; the program is there


def test_a_mixture_of_kernels_with_index_tables():
    system = systems.get("ising_graph")
    kernel = ej.mixture([ej.gibbs(system.model), ej.metropolis(system.model)], [0.5, 0.5])
    start = system.exact_positions(16)
    info = ej.sample(jax.random.key(0), kernel, system.params, start, SCHEDULE).info
    assert set(np.asarray(info.n_proposed).tolist()) <= {8 * i for i in range(7)}  # Gibbs proposes nothing
    assert len(set(np.asarray(info.n_proposed).tolist())) > 1


class Mixed(NamedTuple):
    """Spins that a number's sign leans on."""

    spins: jax.Array
    field: jax.Array


GRID = ej.Grid(2, 2)


def joint(params, x):
    return (
        ej.Ising(GRID).energy(params, x.spins)
        + x.field**2 / 2
        - 0.3 * x.field * jnp.where(x.spins, 1, -1).sum()
    )


def conditional(params, x):
    return params._replace(bias=params.bias + 0.3 * x.field)


def test_parts_with_a_model_and_with_an_energy():
    """Spins by block Gibbs given the field, the field by HMC given the spins: moments against enumeration."""
    params = ej.IsingParams(jnp.full((2, 2), 0.1), jnp.array([0.2, 0.3]))
    kernel = ej.within_gibbs(
        {"spins": (ej.gibbs(ej.Ising(GRID)), conditional), "field": ej.hmc(joint, 0.7, 4)}
    )
    start = Mixed(jnp.zeros((4000, 2, 2), bool), jnp.zeros(4000))
    run = ej.sample(jax.random.key(0), kernel, params, start, ej.SamplingSchedule(60, 1, 60))
    # Summed over the field, spins have the energy of the model less ½ (0.3 Σs)².
    states = np.array([[int(c) for c in f"{i:04b}"] for i in range(16)], bool).reshape(16, 2, 2)
    sums = np.where(states, 1, -1).sum(axis=(1, 2))
    energies = np.asarray(jax.vmap(ej.Ising(GRID).energy, (None, 0))(params, jnp.asarray(states)))
    weights = np.exp(-energies + 0.045 * sums**2)
    law = weights / weights.sum()
    drawn = np.where(run.positions.spins[0], 1, -1).sum(axis=(1, 2))
    field = np.asarray(run.positions.field[0])
    for what, values, mean, square in (
        ("sum of spins", drawn, law @ sums, law @ sums**2),
        ("field", field, 0.3 * (law @ sums), 1 + 0.09 * (law @ sums**2)),
    ):
        z = (values.mean() - mean) / np.sqrt((square - mean**2) / 4000)
        assert_plausible(2 * normal_sf(abs(z)), what)
    assert (run.info.n_steps == 60).all()


def test_order_clamping_and_parts_left_out():
    case = kernels.case("mixed")
    start = case.draws(jax.random.key(0), 64, 1.0)
    label = ej.categorical_gibbs(case.model, 3)
    only = ej.within_gibbs({"label": label})
    end = ej.sample(jax.random.key(1), only, case.params, start, ej.SamplingSchedule(5, 1, 5)).positions
    np.testing.assert_array_equal(end["pixels"][0], start["pixels"])
    assert (end["label"][0] != start["label"]).any()
    both = ej.within_gibbs({"label": label, "pixels": ej.mala(case.model, 1.0)})
    one = (
        {"label": jnp.array(True), "pixels": jnp.array([False, True])},
        {"label": jnp.int32(2), "pixels": jnp.ones(2)},
    )
    end = ej.sample(
        jax.random.key(1), both, case.params, start, ej.SamplingSchedule(5, 1, 5), clamped=one
    ).positions
    assert (end["label"] == 2).all()
    assert (end["pixels"][..., 1] == 1).all()
    assert (end["pixels"][0, :, 0] != start["pixels"][:, 0]).any()


def test_tempering_of_a_mixed_state_and_its_energy():
    case = kernels.case("mixed")
    inner = kernels.REGISTRY["within_gibbs"]["mixed"](case.model)
    kernel = ej.parallel_tempering(inner, [0.3, 1.0])
    start = case.draws(jax.random.key(0), 8, 1.0)
    state = jax.vmap(lambda x: kernel.init(case.params, x))(start)
    np.testing.assert_allclose(
        jax.vmap(lambda s: kernel.energy_at(case.params, s))(state),
        jax.vmap(case.model, (None, 0))(case.params, start),
        rtol=1e-6,
    )


PT = ej.parallel_tempering(ej.gibbs(SYSTEM.model), [0.5, 1.0])
MALA = ej.mala(kernels.gaussian, 0.5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ej.cycle([]), "kernels is empty"),
        (lambda: ej.cycle(MALA), "kernels is a MALA; give a list"),
        (lambda: ej.parallel_tempering(PT, [0.5, 1.0]), "cannot be tempered"),
        (lambda: ej.cycle([ej.gibbs(SYSTEM.model), ej.metropolis(ej.Ising(GRID))]), "different models"),
        (lambda: ej.within_gibbs({"a": ej.cycle([MALA])}), r"cycle\(\[within_gibbs"),
        (lambda: ej.within_gibbs({"a": ej.dmala(SYSTEM.model, 0.1)}), "a model of its own"),
        (lambda: ej.cycle([ej.gibbs]), "a member of kernels is .*; give a kernel"),
        (lambda: ej.cycle([PT]), "ParallelTempering keeps more than a position"),
        (lambda: ej.mixture([MALA, MALA], [0.5, 0.6]), "sum 1.1"),
        (lambda: ej.mixture([MALA, MALA], [1.5, -0.5]), "at least 0"),
        (lambda: ej.mixture([MALA], [0.5, 0.5]), r"shape \(2,\); give one a kernel, \(1,\)"),
        (lambda: ej.within_gibbs({}), "at least one part"),
        (lambda: ej.within_gibbs({"spins": ej.gibbs(SYSTEM.model)}), r"give\s+\(kernel, parameters\)"),
        (lambda: ej.within_gibbs({"spins": (ej.gibbs(SYSTEM.model), 3)}), "give a function"),
        (
            lambda: ej.within_gibbs({"lable": MALA}).check((), {"label": jnp.zeros((2, 3))}, None),
            r"no part 'lable'; its parts are \['label'\]",
        ),
        (lambda: ej.categorical_gibbs(kernels.mixed, 1), "n_levels is 1"),
        (lambda: ej.categorical_gibbs(3, 2), "energy is 3"),
        (
            lambda: ej.categorical_gibbs(lambda p, x: x.sum(), 2).check((), jnp.zeros((2, 3)), None),
            "levels are whole numbers",
        ),
    ],
)
def test_bad_input(call, words, as_shipped):
    with pytest.raises(ValueError, match=words):
        call()
