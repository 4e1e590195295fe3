"""The loop: it learns, goes on where it stopped, and compiles once."""

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ebm_jax as ej
from ebm_jax import exact
from ebm_jax.training import loop, negatives
from tests import oracles, systems
from tests.training.common import DATA, KEY, MODEL, SOURCE, TX, assert_same_bits, assert_same_metrics, bits
from tests.training.test_step import Counted


def divergence(p, q):
    """KL(p ‖ q)."""
    return float(np.sum(p * np.log(p / q)))


def falling(rate, n_steps):
    return optax.sgd(optax.cosine_decay_schedule(rate, n_steps))


def test_pcd_learns_an_ising_model():
    model, _, energies = system = systems.pairwise(ej.Ising(ej.Grid(3, 3)), scale=0.3)
    data, truth = system.exact_positions(8192), oracles.boltzmann(energies)
    result = ej.fit(
        jax.random.key(0),
        model,
        data,
        tx=falling(0.2, 20 * 64),
        negatives=negatives.pcd(ej.gibbs(model), k=1, n_chains=256),
        n_epochs=20,
        progress=False,
    )
    start = model.init(jax.random.key(1))
    assert divergence(truth, exact.probabilities(model, start)) > 0.1
    assert divergence(truth, exact.probabilities(model, result.state.params)) < 0.01
    assert result.metrics.energy_gap.shape == (20, 64)
    assert abs(result.metrics.energy_gap[-1].mean()) < 0.2
    assert not result.metrics.n_nonfinite.any()


def test_pcd_learns_an_rbm():
    model, _, energies = system = systems.rbm(4, 3)
    data = system.exact_positions(8192)[0]
    truth = oracles.boltzmann(energies).reshape(16, 8).sum(axis=1)
    result = ej.fit(
        jax.random.key(0),
        model,
        data,
        tx=falling(0.3, 40 * 64),
        negatives=negatives.pcd(ej.gibbs(model), k=1, n_chains=256),
        params=model.init(jax.random.key(1), scale=0.3),
        n_epochs=40,
        progress=False,
    )
    start = model.init(jax.random.key(1))
    assert divergence(truth, exact.probabilities(model, start, layer="visible")) > 0.1
    assert divergence(truth, exact.probabilities(model, result.state.params, layer="visible")) < 0.01


def test_pcd_with_langevin_learns_a_gaussian():
    """E = ½ p x² has variance 1/p; the chains' own bias is of order step_size."""
    energy = lambda params, x: 0.5 * jnp.sum(params * x**2)  # noqa: E731
    deviation = jnp.array([0.5, 2.0])
    data = deviation * np.random.default_rng(0).standard_normal((4096, 2)).astype(np.float32)
    result = ej.fit(
        jax.random.key(1),
        energy,
        data,
        tx=falling(0.3, 20 * 32),
        negatives=negatives.pcd(ej.langevin(energy, 0.02, 0.2), k=10, init=data[:256]),
        params=jnp.ones(2),
        n_epochs=20,
        progress=False,
    )
    np.testing.assert_allclose(result.state.params, 1 / jnp.var(data, axis=0), rtol=0.15)


def test_an_epoch_is_one_call_of_one_program_that_hands_nothing_to_the_host(monkeypatch):
    model = Counted(5, 3)
    data = bits((205, 5))
    epoch, calls = loop.advance, []

    def guarded(*args, **options):
        calls.append(len(Counted.traces))
        # Compiling moves constants to the device.
        if len(calls) == 1:
            return epoch(*args, **options)
        with jax.transfer_guard("disallow"):
            return epoch(*args, **options)

    monkeypatch.setattr(loop, "advance", guarded)
    Counted.traces.clear()
    seen = []
    result = ej.fit(
        jax.random.key(0),
        model,
        data,
        tx=optax.sgd(0.1),
        negatives=negatives.pcd(ej.gibbs(model), n_chains=16),
        n_epochs=4,
        batch_size=8,
        callback=lambda number, state, metrics: seen.append((number, int(state.step), metrics.loss.shape)),
    )
    assert result.state.step == 100 and result.metrics.loss.shape == (4, 25)
    assert len(calls) == 4 and calls[1] > 0 and len(set(calls[1:])) == 1 and len(Counted.traces) == calls[1]
    assert seen == [(0, 25, (25,)), (1, 50, (25,)), (2, 75, (25,)), (3, 100, (25,))]


@pytest.mark.parametrize("source", ["pcd", "cd"])
def test_resumed_equals_undisturbed_bit_for_bit(source):
    drawn = SOURCE if source == "pcd" else negatives.cd(ej.gibbs(MODEL))

    def run(n_epochs, key, state=None):
        options = {"n_epochs": n_epochs, "batch_size": 4, "state": state, "progress": False}
        return ej.fit(key, MODEL, np.asarray(DATA), tx=TX, negatives=drawn, **options)

    key = KEY
    whole = run(3, key)
    half = run(1, key)
    # Through plain arrays and back, as a checkpoint goes.
    plain = jax.tree.map(np.asarray, half.state.replace(key=jax.random.key_data(half.state.key)))
    restored = plain.replace(key=jax.random.wrap_key_data(plain.key))
    rest = run(2, restored.key, restored)
    assert_same_bits(whole.state, rest.state)
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), half.metrics, rest.metrics)
    assert_same_metrics(whole.metrics, joined)
    nothing = run(0, key, half.state)
    assert nothing.metrics.loss.shape == (0, 12) and nothing.metrics.n_dead.dtype == np.int32
    assert_same_bits(nothing.state, half.state)
    # Epochs differ from one another, and so does a run under another key.
    assert not np.array_equal(whole.metrics.loss[0], whole.metrics.loss[1])
    assert not np.array_equal(run(1, jax.random.key(8)).metrics.loss, half.metrics.loss)


def test_a_train_state_is_a_plain_tree_of_arrays():
    model, source = MODEL, SOURCE
    state = ej.make_train_step(model, TX, source)[0](KEY)
    other = ej.make_train_step(ej.RBM(6, 4), TX, source)[0](jax.random.key(1))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    assert jax.tree.structure(state) == jax.tree.structure(other)
    x = jax.tree.map(lambda leaf: leaf[0], source.positions(state.negatives))
    assert state.apply_fn(state.params, x) == model.energy(state.params, x)
    plain = state.replace(key=jax.random.key_data(state.key))
    template = other.replace(key=plain.key)
    restored = flax.serialization.from_bytes(template, flax.serialization.to_bytes(plain))
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(a, b)


def test_every_row_is_visited_once_an_epoch():
    """Fields moved by SGD see the data linearly: the batches of an epoch add up to the mean of all rows."""
    model = ej.Ising(ej.Graph(3, [(0, 1)]))
    data = bits((40, 3)) > 0
    rate = 1e-4  # so small that the negatives, all but constant, cancel
    result = ej.fit(
        jax.random.key(0),
        model,
        data,
        tx=optax.sgd(rate),
        negatives=negatives.exact(model),
        params=ej.IsingParams(jnp.zeros(3), jnp.zeros(1)),
        n_epochs=1,
        batch_size=10,
        progress=False,
    )
    means = jnp.where(data, 1.0, -1.0).mean(axis=0)
    np.testing.assert_allclose(result.state.params.bias / (4 * rate), means, atol=2e-3)


def test_bad_arguments_are_refused_before_any_step(as_shipped):
    model, key = ej.RBM(4, 3), jax.random.key(0)
    source, data = negatives.cd(ej.gibbs(model)), np.zeros((20, 4), np.uint8)

    def run(data=data, **changes):
        options = {
            "tx": optax.sgd(0.1),
            "negatives": source,
            "n_epochs": 1,
            "batch_size": 10,
            "progress": False,
        }
        return ej.fit(key, model, data, **{**options, **changes})

    with pytest.raises(ValueError, match=r"batch_size is 21 and data has 20 rows"):
        run(batch_size=21)
    with pytest.raises(ValueError, match=r"n_epochs is -1"):
        run(n_epochs=-1)
    with pytest.raises(ValueError, match=r"data holds level 2"):
        run(data + np.uint8(2))
    with pytest.raises(ValueError, match=r"data holds level 2"):
        run(jnp.asarray(data + np.uint8(2)))
    with pytest.raises(ValueError, match=r"data has shape \(20, 5\); expected \(n_chains, 4\)"):
        run(np.zeros((20, 5), np.uint8))
    with pytest.raises(ValueError, match=r"data has dtype float64"):
        run(data + 0.5)
    state = run(n_epochs=0).state
    with pytest.raises(ValueError, match=r"state and params are both given"):
        run(params=state.params, state=state)
    with pytest.raises(ValueError, match=r"state.negatives has arrays of shapes \[\(\)\]"):
        run(state=state, negatives=negatives.pcd(ej.gibbs(model)))
    with pytest.raises(ValueError, match=r"state.opt_state has arrays"):
        run(state=state, tx=optax.adam(0.1))
    with pytest.raises(ValueError, match=r"state is RBMParams; give the .state"):
        run(state=state.params)
