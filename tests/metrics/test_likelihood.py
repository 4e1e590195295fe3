"""Pseudo-likelihood and reconstruction against sums written out in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import exact
from ebm_jax.energies.base import levels_of_sites
from ebm_jax.energies.categorical_rbm import CategoricalRBM
from ebm_jax.energies.ising import Ising
from ebm_jax.energies.potts import Potts
from ebm_jax.energies.rbm import RBM, RBMParams
from ebm_jax.graphs import Graph, Grid
from ebm_jax.metrics import pseudo_log_likelihood, reconstruction_error
from tests.test_exact_factors import DISCRETE, REAL


def rbm_params(n_visible, n_hidden, seed=0):
    rng = np.random.default_rng(seed)
    shapes = (n_visible, n_hidden), (n_visible,), (n_hidden,)
    return RBMParams(*(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes))


def pseudo_of(configurations, log_p, data, n_levels):
    """From the probabilities of all configurations: Σᵢ log p(x) − log Σ_{l} p(x with xᵢ = l)."""
    table = {tuple(x): value for x, value in zip(configurations.tolist(), log_p, strict=True)}
    total = 0.0
    for row in data.tolist():
        for i in range(len(row)):
            others = [
                table[(*row[:i], level, *row[i + 1 :])]
                for level in range(np.broadcast_to(n_levels, len(row))[i])
            ]
            total += table[tuple(row)] - np.logaddexp.reduce(others)
    return total / len(data)


@pytest.mark.parametrize("spins", [False, True])
def test_pseudo_likelihood_of_an_rbm_is_that_of_its_enumerated_law(spins):
    model, params = RBM(5, 3, spins), rbm_params(5, 3)
    every = np.asarray(list(itertools.product((0, 1), repeat=5)), np.uint8)
    a, b, w = (
        np.asarray(part, np.float64) for part in (params.visible_bias, params.hidden_bias, params.weights)
    )
    values = 2.0 * every - 1 if spins else every.astype(float)
    levels = (-1.0, 1.0) if spins else (0.0, 1.0)
    hidden = np.asarray(list(itertools.product(levels, repeat=3)))
    log_p = np.logaddexp.reduce(values @ a[:, None] + hidden @ b + values @ w @ hidden.T, axis=1)
    data = np.random.default_rng(1).integers(0, 2, (70, 5)).astype(np.uint8)  # more rows than go at once
    assert pseudo_log_likelihood(model, params, data) == pytest.approx(
        pseudo_of(every, log_p, data, 2), abs=1e-5
    )


@pytest.mark.parametrize(
    "model",
    [Potts(Grid(2, 3), n_levels=3), Ising(Graph(5, [(0, 1), (1, 2), (2, 3), (0, 4)])), DISCRETE],
    ids=["potts", "ising", "factors"],
)
def test_pseudo_likelihood_of_sites_is_that_of_the_enumerated_law(model):
    rng = np.random.default_rng(2)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), model.init(jax.random.key(0))
    )
    every = exact.states(model)
    flat = np.asarray(jax.vmap(model.levels)(every))
    log_p = np.log(exact.probabilities(model, params))
    chosen = rng.integers(0, len(flat), 9)
    data = jax.tree.map(lambda leaf: leaf[chosen], every)
    want = pseudo_of(flat, log_p, flat[chosen], levels_of_sites(model))
    assert pseudo_log_likelihood(model, params, data) == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize("spins", [False, True])
def test_flips_are_differences_of_free_energies(spins):
    model, params = RBM(6, 4, spins), rbm_params(6, 4, 3)
    v = np.asarray([0, 1, 1, 0, 1, 0], np.uint8)
    flipped = np.where(np.eye(6, dtype=bool), 1 - v, v).astype(np.uint8)
    want = [
        model.free_energy(params, jnp.asarray(row)) - model.free_energy(params, jnp.asarray(v))
        for row in flipped
    ]
    np.testing.assert_allclose(model.flip_differences(params, jnp.asarray(v)), want, atol=1e-5)


def test_reconstruction_error():
    model, params = RBM(5, 3), rbm_params(5, 3, 4)
    data = np.random.default_rng(5).integers(0, 2, (4, 5)).astype(np.uint8)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    a, b, w = (
        np.asarray(part, np.float64) for part in (params.visible_bias, params.hidden_bias, params.weights)
    )
    want = np.mean((data - sigmoid(a + sigmoid(b + data @ w) @ w.T)) ** 2)
    assert reconstruction_error(model, params, data) == pytest.approx(want, abs=1e-6)
    spins = RBM(5, 3, spins=True)
    field = b + (2.0 * data - 1) @ w
    want = np.mean((data - sigmoid(2 * (a + np.tanh(field) @ w.T))) ** 2)
    assert reconstruction_error(spins, params, data) == pytest.approx(want, abs=1e-6)


def test_what_does_not_fit_is_refused():
    model, params = RBM(5, 3), rbm_params(5, 3)
    with pytest.raises(ValueError, match="give every leaf the same number of rows, at least 1"):
        pseudo_log_likelihood(model, params, np.zeros((0, 5), np.uint8))
    with pytest.raises(ValueError, match="data"):
        pseudo_log_likelihood(model, params, np.zeros((2, 4), np.uint8))
    with pytest.raises(ValueError, match="no conditionals of the sites"):
        other = CategoricalRBM(4, 3, 2)
        pseudo_log_likelihood(other, other.init(jax.random.key(0)), np.zeros((2, 4), np.uint8))
    with pytest.raises(ValueError, match="FactorGraph without real units"):
        pseudo_log_likelihood(REAL, REAL.init(jax.random.key(0)), {})
    with pytest.raises(ValueError, match="reconstructs nothing"):
        ising = Ising(Grid(2, 2))
        reconstruction_error(ising, ising.init(jax.random.key(0)), np.zeros((2, 2, 2), np.uint8))
