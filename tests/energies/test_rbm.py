"""What only an RBM has: its free energy and its two layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.energies.rbm import RBM
from tests import oracles
from tests.energies.cases import random_params


def test_free_energy_sums_the_hidden_units_out():
    model = RBM(4, 5)
    params = random_params(model)
    arrays = [np.asarray(leaf, np.float64) for leaf in params]
    hidden = oracles.all_states(5, 2)
    for v in oracles.all_states(4, 2):
        table = [oracles.rbm_energy(np.concatenate([v, h]), *arrays) for h in hidden]
        got = model.free_energy(params, jnp.asarray(v, jnp.uint8))
        assert float(got) == pytest.approx(-oracles.log_z(table), rel=1e-5, abs=1e-5)


def test_bool_and_uint8_units_are_alike():
    model = RBM(4, 3)
    params = random_params(model)
    x = (jnp.array([1, 0, 1, 1], jnp.uint8), jnp.array([0, 1, 1], jnp.uint8))
    as_bool = jax.tree.map(lambda leaf: leaf.astype(bool), x)
    assert model.energy(params, x) == model.energy(params, as_bool)
    assert model.free_energy(params, x[0]) == model.free_energy(params, as_bool[0])
    np.testing.assert_array_equal(model.levels(x), model.levels(as_bool))


def test_visible_and_complete():
    model = RBM(4, 3)
    v = jnp.array([1, 0, 1, 1], jnp.uint8)
    x = model.complete(v)
    np.testing.assert_array_equal(model.visible(x), v)
    assert x[1].shape == (3,)
    assert not x[1].any()
    assert model.complete(v.astype(bool))[1].dtype == bool


def test_free_energy_of_large_inputs_is_finite():
    model = RBM(3, 2)
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 100.0), model.params_struct())
    assert float(model.free_energy(params, jnp.ones(3, jnp.uint8))) == pytest.approx(-1100.0)


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("v", "message"),
    [
        (jnp.ones(3, jnp.uint8), r"v has shape \(3,\); expected \(4,\)"),
        (jnp.ones((2, 4), jnp.uint8), r"v has shape \(2, 4\)"),
        (jnp.ones(4), "v has dtype float32"),
    ],
)
def test_visible_units_that_do_not_fit_are_refused(v, message):
    model = RBM(4, 3)
    with pytest.raises(ValueError, match=message):
        model.free_energy(model.init(jax.random.key(0)), v)
