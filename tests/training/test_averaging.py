"""Averages of parameters over updates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ebm_jax as ej
from ebm_jax.training import average, averaged
from tests.training.common import DATA, KEY, MODEL, SOURCE


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_the_average_is_the_weighted_mean_of_all_updates(decay):
    tx = optax.chain(optax.trace(0.9), optax.sgd(0.1), average(decay))
    params = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}
    state = tx.init(params)
    np.testing.assert_array_equal(averaged(state)["w"], params["w"])
    seen, rng = [], np.random.default_rng(0)
    for _ in range(20):
        grads = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(np.asarray(params["w"], np.float64))
    weights = decay ** np.arange(20.0)[::-1]
    np.testing.assert_allclose(averaged(state)["w"], np.average(seen, axis=0, weights=weights), rtol=2e-5)


def test_a_run_of_training_carries_it():
    result = ej.fit(
        KEY,
        MODEL,
        DATA,
        tx=optax.chain(optax.adam(1e-2), average(0.9)),
        negatives=SOURCE,
        n_epochs=2,
        batch_size=4,
        progress=False,
    )
    mean = averaged(result.state.opt_state)
    assert type(mean) is ej.RBMParams and not np.array_equal(mean.weights, result.state.params.weights)
    np.testing.assert_allclose(mean.weights, result.state.params.weights, atol=0.1)


def test_bad_use_is_refused(as_shipped):
    for decay in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"decay is .*; give a number from 0"):
            average(decay)
    params = jnp.ones(2)
    with pytest.raises(ValueError, match=r"holds 0 averages"):
        averaged(optax.adam(0.1).init(params))
    with pytest.raises(ValueError, match=r"holds 2 averages"):
        averaged(optax.chain(average(0.5), average(0.9)).init(params))
    tx = average(0.9)
    with pytest.raises(ValueError, match="average needs the parameters"):
        tx.update(params, tx.init(params))
