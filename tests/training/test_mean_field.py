"""Data that are means of bits: the gradient in closed form, the bound, and bits themselves."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ebm_jax as ej
from ebm_jax import training

pytestmark = pytest.mark.usefixtures("as_shipped")
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
BITS = RNG.integers(0, 2, (8, 4)).astype(np.uint8)
MEANS = RNG.random((8, 4)).astype(np.float32)
STATES = np.array(list(itertools.product((0, 1), repeat=4)), np.float64)


def fit(data, model=None, negatives=None, **options):
    model = model or ej.RBM(4, 3)
    negatives = negatives or ej.negatives.pcd(ej.gibbs(model), n_chains=4)
    options = {"tx": optax.sgd(0.1), "n_epochs": 2, "batch_size": 4, "progress": False, **options}
    return ej.fit(KEY, model, data, negatives=negatives, **options)


@pytest.mark.parametrize("spins", [False, True])
def test_means_of_0_and_1_are_bits(spins):
    model = ej.RBM(4, 3, spins)
    ordinary = fit(BITS, model)
    same = fit(BITS.astype(float).tolist(), model, visible="mean-field")
    jax.tree.map(np.testing.assert_array_equal, same.state.params, ordinary.state.params)
    jax.tree.map(np.testing.assert_array_equal, same.metrics, ordinary.metrics)


@pytest.mark.parametrize("spins", [False, True])
def test_gradient_in_closed_form_and_the_bound(spins):
    model = ej.RBM(4, 3, spins)
    params = jax.tree.map(lambda p: jnp.asarray(RNG.normal(size=p.shape), p.dtype), model.params_struct())
    w, a, b = (np.asarray(p, np.float64) for p in params)
    result = fit(
        MEANS,
        model,
        ej.negatives.exact(model),
        visible="mean-field",
        tx=optax.sgd(1.0),
        n_epochs=1,
        batch_size=8,
        params=params,
    )

    def values(m):
        return 2.0 * m - 1 if spins else np.asarray(m, np.float64)

    def free_energies(m):
        y = b + values(m) @ w
        return -values(m) @ a - np.sum(np.logaddexp(y, -y if spins else 0.0), axis=1)

    def gradients(m, weights):
        y = b + values(m) @ w
        hidden = np.tanh(y) if spins else 1 / (1 + np.exp(-y))
        return -(values(m).T * weights) @ hidden, -weights @ values(m), -weights @ hidden

    law = np.exp(-free_energies(STATES))
    law /= law.sum()
    equal = np.full(8, 1 / 8)
    expected = [d - m for d, m in zip(gradients(MEANS, equal), gradients(STATES, law), strict=True)]
    moved = jax.tree.map(lambda before, after: before - after, params, result.state.params)
    for got, want in zip(moved, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)
    np.testing.assert_allclose(
        result.metrics.energy_data, np.mean(free_energies(MEANS)), rtol=1e-5, atol=1e-5
    )
    # Of bits drawn from the means, the gradient in the visible biases is the same and the energy lower.
    drawn = np.prod(np.where(STATES[None] == 1, MEANS[:, None], 1 - MEANS[:, None]), axis=2).mean(axis=0)
    np.testing.assert_allclose(gradients(STATES, drawn)[1], gradients(MEANS, equal)[1], rtol=1e-5)
    assert drawn @ free_energies(STATES) < np.mean(free_energies(MEANS))


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (MEANS * 255, {}, r"data holds .*means of bits lie in 0 to 1: divide grey values"),
        (MEANS - 1, {}, "data holds -"),
        (np.full((8, 4), np.nan, np.float32), {}, "data holds nan"),
        (MEANS.reshape(8, 2, 2), {}, r"data has shape \(8, 2, 2\); expected \(n, 4\), e\.g\. by \.reshape"),
        (MEANS, {"objective": training.contrastive}, "leave one of them out"),
        (MEANS, {"visible": "grey"}, "visible is 'grey'; choose one of None, 'mean-field'"),
        (
            MEANS,
            {"negatives": ej.negatives.cd(ej.gibbs(ej.RBM(4, 3)))},
            "cd starts its chains at the batch.*use pcd",
        ),
    ],
)
def test_other_data_and_options_are_refused(data, options, message):
    with pytest.raises(ValueError, match=message):
        fit(data, **{"visible": "mean-field", **options})


def test_other_models_take_no_means():
    with pytest.raises(ValueError, match="takes no means of its visible units; give an RBM"):
        fit(MEANS, ej.Ising(ej.Grid(1, 4)), visible="mean-field")
