"""The gradient of an RBM written out, and the inputs it takes over from the sweep before."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ebm_jax as ej
from ebm_jax.energies.target import target_of
from ebm_jax.training import Negatives, contrastive, make_train_step, negatives, rbm_gradient
from ebm_jax.training.objectives import Objective, contrastive_loss
from ebm_jax.training.sources import pack_chains, packed_chain_keys, run_chains
from tests.training.common import assert_close, bits

DERIVED = Objective(contrastive_loss)
"""Maximum likelihood by differentiation alone."""


def drawn_params(model, seed=0):
    rng = np.random.default_rng(seed)
    return ej.RBMParams(
        *(jnp.asarray(rng.normal(size=leaf.shape), jnp.float32) for leaf in model.params_struct())
    )


def hidden_last(model):
    """The kernel whose sweeps end with the hidden layer."""
    return ej.gibbs(model, ej.BlockSpec(model.default_spec().free[::-1]))


def both_ways(params, model, data, drawn):
    target = target_of(model)
    return [objective.value_and_grad(params, {}, target, data, drawn) for objective in (contrastive, DERIVED)]


@pytest.mark.parametrize("spins", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_derivative_of_the_surrogate_loss(spins, weighted):
    model = ej.RBM(7, 5, spins=spins)
    params, data, other = drawn_params(model), bits((9, 7)), bits((6, 7), seed=1)
    weights = jnp.asarray(np.random.default_rng(2).dirichlet(np.ones(6)), jnp.float32) if weighted else None
    values = 2.0 * other.T - 1 if spins else other.T.astype(jnp.float32)
    drawn = Negatives(other, weights, None)
    for inputs in (None, rbm_gradient.HiddenInputs(values, jnp.dot(params.weights.T, values))):
        got, want = both_ways(params, model, data, drawn._replace(hidden_inputs=inputs))
        assert_close(got, want, atol=3e-6)
    # Large inputs neither overflow nor lose digits.
    got, want = both_ways(jax.tree.map(lambda leaf: 100 * leaf, params), model, data, drawn)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


def test_a_free_energy_of_ones_own_is_differentiated():
    @dataclass(frozen=True)
    class Halved(ej.RBM):
        def free_energy(self, params, v):
            return super().free_energy(params, v) / 2

    @dataclass(frozen=True)
    class Renamed(ej.RBM):
        pass

    full, halved = target_of(ej.RBM(3, 2)), target_of(Halved(3, 2))
    assert rbm_gradient.fits(full) and rbm_gradient.fits(target_of(Renamed(3, 2)))
    assert not rbm_gradient.fits(halved) and not rbm_gradient.fits(full.of_full_configurations())
    params, data = drawn_params(ej.RBM(3, 2)), bits((4, 3))
    drawn = Negatives(bits((5, 3), seed=1), None, None)
    (half, _), of_half = contrastive.value_and_grad(params, {}, halved, data, drawn)
    (loss, _), gradient = contrastive.value_and_grad(params, {}, full, data, drawn)
    np.testing.assert_allclose(2 * half, loss, rtol=1e-5)
    assert_close(jax.tree.map(lambda leaf: 2 * leaf, of_half), gradient, atol=1e-6)


@pytest.mark.parametrize(("model", "n_chains"), [(ej.RBM(9, 4), 70), (ej.RBM(9, 4, spins=True), 64)])
def test_sweeps_hand_over_what_the_hidden_layer_was_drawn_from(model, n_chains):
    kernel, key = hidden_last(model), jax.random.key(0)
    for other in (model, ej.Ising(ej.Grid(4, 4))):
        assert not rbm_gradient.ends_with_hidden_layer(ej.gibbs(other))
    assert rbm_gradient.ends_with_hidden_layer(kernel)
    params = model.init(jax.random.key(1), scale=0.5)
    packed = pack_chains(kernel, params, ej.init_chains(jax.random.key(2), model, n_chains))

    @jax.jit
    def run(packed):
        keys = packed_chain_keys(key, kernel, packed)
        handed = rbm_gradient.packed_steps_with_inputs(kernel, keys, params, packed, 3)
        return handed, run_chains(key, kernel, params, packed, 3)

    (new, info, inputs), (want, of_want) = run(packed)
    for a, b in zip(jax.tree.leaves((new, info)), jax.tree.leaves((want, of_want)), strict=True):
        np.testing.assert_array_equal(a, b)
    visible = np.asarray(kernel.packed_positions(new)[0])
    visible = 2.0 * visible - 1 if model.spins else visible
    np.testing.assert_array_equal(inputs.values, visible.T)
    np.testing.assert_allclose(inputs.products, (visible @ np.asarray(params.weights)).T, atol=1e-5)


def test_training_moves_the_same_way_with_the_inputs_handed_over(monkeypatch):
    tx, batch, key = optax.sgd(0.1), bits((16, 30)), jax.random.key(0)
    handed_over = []
    steps = rbm_gradient.packed_steps_with_inputs

    def counted(*args):
        handed_over.append(1)
        return steps(*args)

    def run(model):
        init, step = make_train_step(model, tx, negatives.pcd(hidden_last(model), k=2, n_chains=70))
        return step(key, init(key), batch)

    @dataclass(frozen=True)
    class Same(ej.RBM):
        """An equal free energy of its own, so that it is differentiated and asks for no inputs."""

        def free_energy(self, params, v):
            return super().free_energy(params, v)

    monkeypatch.setattr(rbm_gradient, "packed_steps_with_inputs", counted)
    state, metrics = run(ej.RBM(30, 20))
    assert len(handed_over) == 1
    plain, of_plain = run(Same(30, 20))
    assert len(handed_over) == 1
    assert_close(state.params, plain.params, atol=1e-6)
    np.testing.assert_allclose(metrics.energy_gap, of_plain.energy_gap, atol=1e-4)
    for a, b in zip(jax.tree.leaves(state.negatives), jax.tree.leaves(plain.negatives), strict=True):
        np.testing.assert_array_equal(a, b)
    # Parameters that are not finite are counted, although only the inputs are looked at.
    _, step = make_train_step(
        ej.RBM(30, 20), tx, negatives.pcd(hidden_last(ej.RBM(30, 20)), k=2, n_chains=70)
    )
    for name in ("weights", "visible_bias", "hidden_bias"):
        leaf = getattr(state.params, name)
        broken = state.params._replace(**{name: leaf.at[(0,) * leaf.ndim].set(jnp.inf)})
        _, metrics = step(key, state.replace(params=broken), batch)
        # Two steps of each of 70 chains, and more.
        assert metrics.n_nonfinite > 140
