"""Estimates of log Z of factor graphs against exact values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from ebm_jax import exact, partition
from ebm_jax.partition import annealing
from tests import test_exact_factors as graphs
from tests.test_partition import N_SE, standard_error

N_CHAINS, LENGTH = 400, 60
GRAPHS = {
    "mixed levels": (graphs.DISCRETE, graphs.DISCRETE_PARAMS),
    "real units": (graphs.REAL, graphs.REAL_PARAMS),
    "a kind of one's own": (
        ej.FactorGraph(
            {"t": graphs.Triples(2), "s": ej.Spins(1)},
            [ej.Factor(("t", [0, 1])), ej.Factor(("t", 0), ("t", 1), ("s", 0)), ej.Factor(("s", 0))],
        ),
        (np.asarray([0.4, -0.9]), np.asarray([0.8]), np.asarray([0.3])),
    ),
}


def as_float32(params):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)


def test_both_sides_find_log_z():
    model, params = GRAPHS["real units"]
    params, truth = as_float32(params), exact.log_partition(model, as_float32(params))
    forward = partition.ais(jax.random.key(0), model, params, betas=LENGTH, n_chains=N_CHAINS)
    start = exact.sample(jax.random.key(1), model, params, N_CHAINS)
    reverse = partition.reverse_ais(jax.random.key(2), model, params, start, betas=LENGTH)
    for result in (forward, reverse):
        assert abs(result.log_z - truth) < N_SE * standard_error(result) + 1e-4, (result, truth)
        assert not result.warnings and result.ess > N_CHAINS / 2


@pytest.mark.parametrize("name", GRAPHS)
def test_log_z_of_the_base_is_exact(name):
    model, params = GRAPHS[name]
    base = annealing.without_couplings(model, as_float32(params))
    got = annealing.log_z_uncoupled(model, base)
    assert got == pytest.approx(exact.log_partition(model, base), abs=1e-6)


def test_bounds_of_a_likelihood_and_a_base_of_ones_own():
    model, params = graphs.REAL, as_float32(graphs.REAL_PARAMS)
    data = exact.sample(jax.random.key(1), model, params, N_CHAINS)
    base = (jnp.asarray([-0.6, -0.7]), *jax.tree.map(jnp.zeros_like, params[1:]))
    options = {"betas": LENGTH, "n_chains": N_CHAINS, "base": base}
    bounds = partition.log_likelihood_bounds(jax.random.key(2), model, params, data, start=data, **options)
    energies = jax.vmap(model.energy, (None, 0))(params, data)
    truth = -float(energies.mean()) - exact.log_partition(model, params)
    assert bounds.lower - 0.3 < truth < bounds.upper + 0.3 and not bounds.warnings


def test_refusals():
    model, params = graphs.REAL, as_float32(graphs.REAL_PARAMS)

    def ais(model, params, **options):
        return partition.ais(jax.random.key(0), model, params, betas=3, n_chains=2, **options)

    with pytest.raises(ValueError, match=r"base has a weight of factor 1, .* that is not zero"):
        ais(model, params, base=params)
    pair = ej.FactorGraph(
        {"x": ej.Gaussians(2)}, [ej.Factor(("x", range(2), "square")), ej.Factor(("x", 0), ("x", 1))]
    )
    # With precisions 1 and 2 there is a law up to a coupling of √2.
    with pytest.raises(ValueError, match=r"have the eigenvalue -0\.176, so the model has no law"):
        ais(pair, (jnp.array([-0.5, -1.0]), jnp.array([1.6])))
    assert np.isfinite(ais(pair, (jnp.array([-0.5, -1.0]), jnp.array([1.4]))).log_z)
    with pytest.raises(
        ValueError, match=r"node 1 of 'x' has the weights 0 for its value, 0\.2 for its square in base"
    ):
        ais(model, (jnp.asarray([-0.6, 0.2]), *params[1:]))
    counts = ej.FactorGraph({"n": graphs.Counts(1)}, [ej.Factor(("n", 0))])
    with pytest.raises(ValueError, match=r"the nodes 'n' are Counts\(n=1\), .* base=Base"):
        ais(counts, (jnp.zeros(1),))
