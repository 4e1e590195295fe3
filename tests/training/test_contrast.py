"""The gradient that an RBM works out itself, and the inputs it takes over from the sweep before."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ebm_jax as ej
from ebm_jax.training import losses, make_train_step, negatives
from ebm_jax.training.negatives import packed_chain_keys, run_chains
from tests.training.test_step import assert_close, bits


def drawn_params(model, seed=0):
    rng = np.random.default_rng(seed)
    return ej.RBMParams(
        *(jnp.asarray(rng.normal(size=leaf.shape), jnp.float32) for leaf in model.params_struct())
    )


def hidden_last(model):
    """The kernel whose sweeps end with the hidden layer."""
    return ej.gibbs(model, ej.BlockSpec(model.default_spec().free[::-1]))


@pytest.mark.parametrize("spins", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_derivative_of_the_surrogate_loss(spins, weighted):
    model = ej.RBM(7, 5, spins=spins)
    params, data, other = drawn_params(model), bits((9, 7)), bits((6, 7), seed=1)
    weights = jnp.asarray(np.random.default_rng(2).dirichlet(np.ones(6)), jnp.float32) if weighted else None
    drawn = losses.Negatives(other, weights, None)
    want = jax.value_and_grad(losses.contrastive_loss, has_aux=True)(params, model, data, drawn)
    values = 2.0 * other.T - 1 if spins else other.T.astype(jnp.float32)
    for seen in (None, (values, jnp.dot(params.weights.T, values))):
        got = losses.contrast(params, model, data, drawn._replace(seen=seen))
        assert_close(got, want, atol=3e-6)
    # Large inputs neither overflow nor lose digits.
    far = jax.tree.map(lambda leaf: 100 * leaf, params)
    got = losses.contrast(far, model, data, drawn)
    want = jax.value_and_grad(losses.contrastive_loss, has_aux=True)(far, model, data, drawn)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


def test_a_free_energy_of_ones_own_is_differentiated():
    @dataclass(frozen=True)
    class Halved(ej.RBM):
        def free_energy(self, params, v):
            return super().free_energy(params, v) / 2

    assert losses.has_contrast(ej.RBM(3, 2)) and not losses.has_contrast(Halved(3, 2))
    assert not losses.has_contrast(losses.Complete(ej.RBM(3, 2)))
    params, data = drawn_params(ej.RBM(3, 2)), bits((4, 3))
    drawn = losses.Negatives(bits((5, 3), seed=1), None, None)
    (half, _), of_half = losses.contrast(params, Halved(3, 2), data, drawn)
    (whole, _), of_whole = losses.contrast(params, ej.RBM(3, 2), data, drawn)
    np.testing.assert_allclose(2 * half, whole, rtol=1e-5)
    assert_close(jax.tree.map(lambda leaf: 2 * leaf, of_half), of_whole, atol=1e-6)


@pytest.mark.parametrize("model", [ej.RBM(9, 4), ej.RBM(9, 4, spins=True), ej.CategoricalRBM(5, 4, 3)])
@pytest.mark.parametrize("n_chains", [5, 64, 70])
def test_sweeps_tell_what_the_hidden_layer_was_drawn_from(model, n_chains):
    kernel, key = hidden_last(model), jax.random.key(0)
    assert kernel.tells_inputs and not ej.gibbs(model).tells_inputs
    assert not ej.gibbs(ej.Ising(ej.Grid(4, 4))).tells_inputs
    params = model.init(jax.random.key(1), scale=0.5)
    packed = negatives.pack_chains(kernel, params, ej.init_chains(jax.random.key(2), model, n_chains))
    tell = jax.jit(
        lambda packed: kernel.packed_steps_and_inputs(
            packed_chain_keys(key, kernel, packed), params, packed, 3
        )
    )
    new, info, seen = tell(packed)
    want, of_want = jax.jit(lambda packed: run_chains(key, kernel, params, packed, 3))(packed)
    for a, b in zip(jax.tree.leaves((new, info)), jax.tree.leaves((want, of_want)), strict=True):
        np.testing.assert_array_equal(a, b)
    visible = np.asarray(kernel.packed_positions(new)[0])
    if isinstance(model, ej.CategoricalRBM):
        visible = np.eye(model.n_levels)[visible].reshape(n_chains, -1)
    elif model.spins:
        visible = 2.0 * visible - 1
    np.testing.assert_array_equal(seen.values, visible.T)
    weights = np.asarray(params.weights).reshape(-1, model.n_hidden)
    np.testing.assert_allclose(seen.inputs, (visible @ weights).T, atol=1e-5)


def test_training_moves_the_same_way_with_what_it_was_told(monkeypatch):
    model, tx = ej.RBM(30, 20), optax.sgd(0.1)
    batch, key = bits((16, 30)), jax.random.key(0)

    def run():
        init, step = make_train_step(model, tx, negatives.pcd(hidden_last(model), k=2, n_chains=70))
        return step(key, init(key), batch)

    told = []
    steps = type(hidden_last(model)).packed_steps_and_inputs
    monkeypatch.setattr(
        type(hidden_last(model)), "packed_steps_and_inputs", lambda *args: told.append(1) or steps(*args)
    )
    state, metrics = run()
    assert told
    monkeypatch.setattr(negatives, "has_contrast", lambda model: False)
    jax.clear_caches()
    told.clear()
    plain, of_plain = run()
    assert not told
    assert_close(state.params, plain.params, atol=1e-6)
    np.testing.assert_allclose(metrics.energy_gap, of_plain.energy_gap, atol=1e-4)
    for a, b in zip(jax.tree.leaves(state.negatives), jax.tree.leaves(plain.negatives), strict=True):
        np.testing.assert_array_equal(a, b)


def test_parameters_that_are_not_finite_are_told():
    model = ej.RBM(6, 4)
    init, step = make_train_step(model, optax.sgd(0.1), negatives.pcd(hidden_last(model), n_chains=3))
    state = init(jax.random.key(0))
    for name in ("weights", "visible_bias", "hidden_bias"):
        leaf = getattr(state.params, name)
        broken = state.params._replace(**{name: leaf.at[(0,) * leaf.ndim].set(jnp.inf)})
        _, metrics = step(jax.random.key(0), state.replace(params=broken), bits((5, 6)))
        assert metrics.n_nonfinite > 3  # a step of each of three chains, and more
