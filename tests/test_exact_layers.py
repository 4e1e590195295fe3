"""RBMs of categorical and of real units: one layer enumerated, the other summed or integrated out."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest

from ebm_jax import exact
from ebm_jax.energies.categorical_rbm import CategoricalRBM, CategoricalRBMParams
from ebm_jax.energies.gaussian_rbm import GaussianRBM
from ebm_jax.energies.rbm import RBMParams
from tests.statistics import assert_same_law
from tests.test_exact import difference_quotients, flat

BETA = 0.7
RNG = np.random.default_rng(3)
CATEGORICAL = CategoricalRBM(2, 3, n_levels=3)
CATEGORICAL_PARAMS = CategoricalRBMParams(
    RNG.normal(size=(2, 3, 3)), RNG.normal(size=(2, 3)), RNG.normal(size=3)
)
GAUSSIAN = GaussianRBM(2, 3)
GAUSSIAN_PARAMS = RBMParams(0.7 * RNG.normal(size=(2, 3)), RNG.normal(size=2), RNG.normal(size=3))


def categorical_law(params):
    """Z and p(v, h) by loops."""
    w, a, b = params
    weights = np.zeros((3, 3, 2, 2, 2))
    for v in itertools.product(range(3), repeat=2):
        for h in itertools.product(range(2), repeat=3):
            drive = sum(a[i, k] + w[i, k] @ h for i, k in enumerate(v))
            weights[(*v, *h)] = np.exp(BETA * (drive + b @ h))
    return np.log(weights.sum()), (weights / weights.sum()).reshape(9, 8)


def gaussian_density(params):
    """Points of a fine grid, and exp(−β E) of each with each hidden configuration times the area of a cell."""
    w, a, b = params
    axis = np.linspace(-14, 14, 281)
    v = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    h = np.asarray(list(itertools.product(range(2), repeat=3)))
    energy = 0.5 * ((v - a) ** 2).sum(axis=1)[:, None] - h @ b - v @ w @ h.T
    return v, np.exp(-BETA * energy) * 0.01


def test_categorical_layers_are_summed():
    log_z, joint = categorical_law(CATEGORICAL_PARAMS)
    assert exact.log_partition(CATEGORICAL, CATEGORICAL_PARAMS, beta=BETA) == pytest.approx(log_z, rel=1e-13)
    for layer, axis in (("visible", 1), ("hidden", 0)):
        p = exact.probabilities(CATEGORICAL, CATEGORICAL_PARAMS, beta=BETA, layer=layer)
        np.testing.assert_allclose(p, joint.sum(axis=axis), rtol=1e-12)
    assert exact.states(CATEGORICAL, layer="visible").shape == (9, 2)
    # Both at once, though a visible unit has three levels and a hidden one two.
    p = exact.probabilities(CATEGORICAL, CATEGORICAL_PARAMS, beta=BETA)
    np.testing.assert_allclose(p.reshape(9, 8), joint, rtol=1e-12)


def test_gaussian_log_z_is_the_integral():
    # The trapezoidal rule is exact to rounding for such densities.
    _, density = gaussian_density(GAUSSIAN_PARAMS)
    got = exact.log_partition(GAUSSIAN, GAUSSIAN_PARAMS, beta=BETA)
    assert got == pytest.approx(np.log(density.sum()), rel=1e-12)
    p = exact.probabilities(GAUSSIAN, GAUSSIAN_PARAMS, beta=BETA, layer="hidden")
    np.testing.assert_allclose(p, density.sum(axis=0) / density.sum(), rtol=1e-11)


def test_gradients_are_slopes():
    data = np.asarray([[0, 2], [1, 1], [2, 0], [0, 0]], np.uint8)

    def categorical_loss(params):
        joint = categorical_law(params)[1]
        return -np.mean(np.log(joint.sum(axis=1)[data[:, 0] * 3 + data[:, 1]]))

    got = exact.gradient(CATEGORICAL, CATEGORICAL_PARAMS, data, beta=BETA)
    expected = difference_quotients(categorical_loss, CATEGORICAL_PARAMS)
    np.testing.assert_allclose(flat(got), flat(expected), atol=1e-8)
    # Rows of the grid, so that the quadrature has their densities.
    v, _ = gaussian_density(GAUSSIAN_PARAMS)
    rows = [40_000, 39_000, 37_070]

    def gaussian_loss(params):
        density = gaussian_density(params)[1]
        return -np.mean(np.log(density[rows].sum(axis=1))) + np.log(density.sum())

    got = exact.gradient(GAUSSIAN, GAUSSIAN_PARAMS, v[rows].astype(np.float32), beta=BETA)
    expected = difference_quotients(gaussian_loss, GAUSSIAN_PARAMS)
    np.testing.assert_allclose(flat(got), flat(expected), atol=1e-6)


@pytest.mark.parametrize(
    "model", [CATEGORICAL, CategoricalRBM(3, 4, n_levels=2)], ids=["by hidden", "by visible"]
)
def test_categorical_draws_follow_the_law(model):
    params = CATEGORICAL_PARAMS
    if model.n_visible == 3:
        params = CategoricalRBMParams(RNG.normal(size=(3, 2, 4)), RNG.normal(size=(3, 2)), RNG.normal(size=4))
    x, h = exact.sample(jax.random.key(1), model, params, 20_000, beta=BETA)
    assert (x.dtype, h.dtype) == (jnp.uint8, jnp.uint8)
    # The laws of both layers, which the enumeration and the conditionals give in turn.
    for units, layer, levels in ((x, "visible", model.n_levels), (h, "hidden", 2)):
        p = exact.probabilities(model, params, beta=BETA, layer=layer)
        numbers = np.asarray(units) @ levels ** np.arange(units.shape[1])[::-1]
        assert_same_law(np.bincount(numbers, minlength=p.size), p, layer)


def test_gaussian_draws_follow_the_law():
    w, a, _ = GAUSSIAN_PARAMS
    v, h = exact.sample(jax.random.key(2), GAUSSIAN, GAUSSIAN_PARAMS, 20_000, beta=BETA)
    assert (v.dtype, v.shape, h.dtype) == (jnp.float32, (20_000, 2), jnp.uint8)
    p = exact.probabilities(GAUSSIAN, GAUSSIAN_PARAMS, beta=BETA, layer="hidden")
    assert_same_law(np.bincount(np.asarray(h) @ [4, 2, 1], minlength=8), p, "hidden")
    # v given h is N(a + W h, 1/β). A false alarm has probability 1e-5.
    residual = (np.asarray(v) - a - np.asarray(h) @ w.T) * np.sqrt(BETA)
    assert kstest(residual.ravel(), "norm").pvalue > 1e-5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exact.states(GAUSSIAN), "visible units of GaussianRBM are real"),
        (
            lambda: exact.probabilities(GAUSSIAN, GAUSSIAN_PARAMS, layer="visible"),
            "are real .* layer='hidden'",
        ),
        (lambda: exact.log_partition(GAUSSIAN, GAUSSIAN_PARAMS, beta=0.0), "beta is 0.0; real units"),
        (
            lambda: exact.gradient(GAUSSIAN, GAUSSIAN_PARAMS, np.full((1, 2), np.nan, np.float32)),
            "data holds nan",
        ),
        (lambda: exact.states(CATEGORICAL, layer="discrete"), "choose 'visible' or 'hidden'"),
        (
            lambda: exact.log_partition(
                GaussianRBM(2, 23), RBMParams(np.zeros((2, 23)), np.zeros(2), np.zeros(23))
            ),
            r"2\^23 = 8,388,608 configurations are too many",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
