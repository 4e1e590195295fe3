"""The train step: its gradient, its metrics, one compilation, and what it refuses."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ebm_jax as ej
from ebm_jax import exact
from ebm_jax.energies.target import target_of
from ebm_jax.training import Objective, contrastive, make_train_step, negatives, positives
from ebm_jax.training import step as step_module
from tests import oracles, systems
from tests.training.common import assert_close, bits

SYSTEMS = {
    "ising": lambda: systems.pairwise(ej.Ising(ej.Grid(3, 3))),
    "potts": lambda: systems.pairwise(ej.Potts(ej.Grid(2, 3), n_levels=3, coupling="matrix")),
    "rbm": lambda: systems.rbm(4, 3),
}


def visible(model, positions):
    return positions[0] if isinstance(model, ej.RBM) else positions


UNIT_RATE = optax.sgd(1.0)


def gradient_of(model, negatives, params, batch, positives=None, objective=None):
    """The gradient that a step hands to Optax: at a learning rate of 1, old parameters less new ones."""
    init, step = make_train_step(model, UNIT_RATE, negatives, positives, objective=objective)
    state, _ = step(jax.random.key(0), init(jax.random.key(1), params), batch)
    return jax.tree.map(lambda old, new: np.asarray(old) - np.asarray(new), params, state.params)


@pytest.mark.parametrize("name", SYSTEMS)
def test_exact_negatives_give_the_gradient_of_the_likelihood(name, objective=None):
    model, params, _ = system = SYSTEMS[name]()
    batch = visible(
        model, system.positions(np.random.default_rng(0).integers(0, model.n_levels, (37, system.n_sites)))
    )
    got = gradient_of(model, negatives.exact(model), params, batch, objective=objective)
    assert_close(got, exact.gradient(model, params, batch), atol=2e-6)


def test_a_flipped_negative_phase_fails_the_gradient_test():
    def mutant(params, model, data, drawn):
        loss, energies = contrastive.loss(params, model, data, drawn)
        return 2 * energies["energy_data"] - loss, energies

    with pytest.raises(AssertionError):
        test_exact_negatives_give_the_gradient_of_the_likelihood("ising", Objective(mutant))


def test_chains_that_stand_in_the_model_give_its_gradient_on_average():
    """Persistent chains that start from exact draws: after a step they still are draws from the model."""
    model, params, _ = system = SYSTEMS["rbm"]()
    n = 20_000
    data = visible(model, system.positions(np.zeros((1, system.n_sites), int)))
    chains = negatives.pcd(ej.gibbs(model), k=1, init=system.exact_positions(n))
    assert_close(
        gradient_of(model, chains, params, data), exact.gradient(model, params, data), atol=5 / np.sqrt(n)
    )


def test_cd_starts_at_the_batch_and_draws_anew_at_every_step():
    """After few sweeps of a strongly coupled model chains still resemble the data; every step draws them anew."""
    model = ej.Ising(ej.Grid(4, 4))
    params = ej.IsingParams(jnp.zeros((4, 4)), jnp.full((2,), 2.0))
    up = jnp.ones((64, 4, 4), bool)
    source, key = negatives.cd(ej.gibbs(model), k=2), jax.random.key(0)
    target = target_of(model)
    draw = jax.jit(lambda params, counter: source.draw(key, target, params, counter, up))
    drawn, counter = draw(params, source.init(key, target, params))
    assert drawn.positions.shape == up.shape and drawn.positions.mean() > 0.95
    np.testing.assert_array_equal(drawn.info.n_steps, 2)
    assert counter == 1
    free = jax.tree.map(jnp.zeros_like, params)
    first, second = (draw(free, jnp.uint32(count))[0].positions for count in (0, 1))
    assert 0.4 < (first != second).mean() < 0.6


def test_pcd_goes_on_from_step_to_step():
    model, key = ej.RBM(6, 4), jax.random.key(3)
    batch = jnp.zeros((32, 6), jnp.uint8)
    source = negatives.pcd(ej.gibbs(model), k=3, n_chains=5)
    init, step = make_train_step(model, optax.sgd(0.0), source)
    state = init(key)
    for _ in range(4):
        state, _ = step(key, state, batch)
    chains = source.chains(state.negatives)
    np.testing.assert_array_equal(chains.step, np.full(5, 12, np.uint32))
    # At constant parameters the chains are those of one run of twelve steps.
    start, stream = init(key), jax.random.fold_in(key, step_module._NEGATIVES)
    schedule = ej.SamplingSchedule(12, 0)
    whole = ej.sample(stream, ej.gibbs(model), start.params, source.chains(start.negatives), schedule)
    for a, b in zip(jax.tree.leaves(chains), jax.tree.leaves(whole.state), strict=True):
        np.testing.assert_array_equal(a, b)


# ---- hidden sites ----


def marginal_gradient(system, is_visible, data):
    """∂ of the mean −log p(v) in float64: E[∂E] over the states that agree with the data, less E[∂E] over all."""
    model, params, energies = system
    states, p = oracles.all_states(system.n_sites, model.n_levels), oracles.boltzmann(energies)
    weights = np.zeros(len(states))
    for row in data:
        agree = (states[:, is_visible] == row[is_visible]).all(axis=1)
        weights += np.where(agree, p, 0) / p[agree].sum() / len(data)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        per_state = jax.jit(jax.vmap(jax.grad(model.energy), (None, 0)))(params, system.positions(states))
        return jax.tree.map(lambda g: np.tensordot(weights - p, g, 1), per_state)


def test_clamped_gibbs_gives_the_gradient_of_the_marginal_likelihood():
    model = ej.Ising(ej.Graph(5, [(0, 1), (1, 2), (0, 3), (1, 3), (2, 4), (3, 4), (1, 4)]))
    system = systems.pairwise(model, scale=1.0)
    mask = np.array([True, True, True, False, False])
    rows = np.array([[1, 0, 1, 0, 0], [1, 1, 1, 0, 0], [0, 0, 1, 0, 0], [1, 0, 0, 0, 0]])
    want = marginal_gradient(system, mask, rows)
    n = 40_000
    batch = system.positions(np.tile(rows, (n // 4, 1)))
    source = negatives.exact(model)
    filled = positives.clamped_gibbs(ej.gibbs(model), jnp.asarray(mask), k=20)
    assert_close(gradient_of(model, source, system.params, batch, filled), want, atol=5 / np.sqrt(n))
    # Hidden sites left as they are give something else.
    naive = exact.gradient(model, system.params, system.positions(rows))
    assert abs(naive.coupling - want.coupling).max() > 0.3


def test_clamped_gibbs_agrees_with_the_free_energy_of_an_rbm():
    model, params, _ = systems.rbm(4, 3)
    n = 40_000
    data = jnp.tile(jnp.asarray([[1, 0, 1, 0], [1, 1, 0, 1]], jnp.uint8), (n // 2, 1))
    mask = jnp.ones(4, bool), jnp.zeros(3, bool)
    got = gradient_of(
        model, negatives.exact(model), params, data, positives.clamped_gibbs(ej.gibbs(model), mask)
    )
    assert_close(got, exact.gradient(model, params, data[:2]), atol=5 / np.sqrt(n))


# ---- metrics ----


def test_metrics_tell_the_state_of_training():
    model, params, _ = system = systems.pairwise(ej.Ising(ej.Grid(3, 3)))
    data, key = system.exact_positions(20_000), jax.random.key(0)
    init, step = make_train_step(model, optax.sgd(1e-3), negatives.exact(model))
    _, at_optimum = step(key, init(key, params), data)
    far = jax.tree.map(lambda leaf: leaf - 0.5, params)
    _, off = step(key, init(key, far), data)
    assert abs(at_optimum.energy_gap) < 0.05 and at_optimum.gradient_norm < 0.05
    assert off.gradient_norm > 10 * at_optimum.gradient_norm
    for metrics in (at_optimum, off):
        assert metrics.n_nonfinite == 0 and jnp.isnan(metrics.acceptance)
        assert metrics.loss == -metrics.energy_gap
        np.testing.assert_allclose(metrics.energy_gap, metrics.energy_model - metrics.energy_data, atol=1e-5)
    # The sign: at uniform fields the data "all up" have E = −4.5, less than the model's own average.
    fields = ej.IsingParams(jnp.full((3, 3), 0.5), jnp.zeros(2))
    _, likelier = step(key, init(key, fields), jnp.ones_like(data))
    np.testing.assert_allclose(likelier.energy_data, -4.5, rtol=1e-5)
    np.testing.assert_allclose(likelier.energy_model, -4.5 * np.tanh(0.5), rtol=1e-5)
    assert likelier.energy_gap > 0
    want = exact.gradient(model, far, data)
    np.testing.assert_allclose(off.gradient_norm, np.sqrt(sum(np.sum(g**2) for g in want)), rtol=1e-4)
    np.testing.assert_allclose(
        off.energy_data, jax.vmap(model.energy, (None, 0))(far, data).mean(), rtol=1e-5
    )


def test_acceptance_and_nonfinite_values_are_reported():
    model, key = ej.Ising(ej.Grid(3, 3)), jax.random.key(0)
    init, step = make_train_step(
        model, optax.sgd(0.1), negatives.pcd(ej.metropolis(model), init=bits((64, 3, 3)) > 0)
    )
    state = init(key, ej.IsingParams(jnp.zeros((3, 3)), jnp.full((2,), 0.3)))
    batch = jnp.ones((8, 3, 3), bool)
    state, metrics = step(key, state, batch)
    assert 0.2 < metrics.acceptance < 0.99 and metrics.n_nonfinite == 0
    broken = state.replace(params=state.params._replace(coupling=jnp.array([jnp.nan, 0.3])))
    broken, metrics = step(key, broken, batch)
    # A step of each of 64 chains, the loss, the two energies, and the NaN itself; the gradient does not depend on it.
    assert metrics.n_nonfinite == 64 + 4 and jnp.isnan(broken.params.coupling[0])


# ---- one compilation ----


@dataclass(frozen=True)
class Counted(ej.RBM):
    """An RBM that counts how often its free energy is traced, which is differentiated since it is its own."""

    traces: ClassVar[list] = []

    def free_energy(self, params, v):
        self.traces.append(1)
        return super().free_energy(params, v)


def test_one_compilation_across_everything_that_is_a_number():
    Counted.traces.clear()
    tx = optax.inject_hyperparams(optax.sgd)(learning_rate=optax.linear_schedule(0.1, 0.01, 50))

    def build():
        model = Counted(6, 4)
        return make_train_step(
            model, tx, negatives.pcd(ej.gibbs(model), k=2, init=(bits((16, 6)), bits((16, 4))))
        )

    init, step = build()
    state = init(jax.random.key(0))
    batch = bits((8, 6))
    state, _ = step(jax.random.key(0), state, batch)
    traced = len(Counted.traces)
    assert traced > 0
    keys = [jax.random.key(seed) for seed in range(99)]
    others = build()
    fresh = others[0](
        jax.random.key(5),
        ej.RBMParams(np.full((6, 4), 0.1, np.float32), np.zeros(6, np.float32), jnp.zeros(4)),
    )
    with pytest.raises(Exception, match="transfer"), jax.transfer_guard("disallow"):
        jnp.sin(np.ones(3, np.float32))  # the guard guards
    with jax.transfer_guard("disallow"):
        for key in keys:
            state, metrics = step(key, state, batch)
        others[1](keys[0], fresh, batch)
    assert state.step == 100 and metrics.n_nonfinite == 0
    assert len(Counted.traces) == traced


def test_step_sizes_of_rebuilt_kernels_are_numbers_and_steps_run_inside_a_callers_scan(count_traces):
    energy, traces = count_traces(lambda params, x: 0.5 * jnp.sum(params * x**2))
    tx, start = optax.sgd(0.1), jnp.linspace(-1, 1, 16).reshape(8, 2)
    batch = start[:4] / 2

    def build(size):
        kernel = ej.langevin(energy, size, np.sqrt(2 * size))
        return make_train_step(energy, tx, negatives.pcd(kernel, k=2, init=start))

    init, step = build(0.1)
    state, _ = step(jax.random.key(0), init(jax.random.key(0), jnp.ones(2)), batch)
    traced = len(traces)
    for size in (0.2, 0.05):
        init, other = build(size)
        other(jax.random.key(1), init(jax.random.key(1), np.full(2, 2.0, np.float32)), batch)
    assert len(traces) == traced

    scanned = jax.jit(
        lambda state: jax.lax.scan(lambda s, _: step(jax.random.key(0), s, batch), state, None, length=3)
    )
    by_scan, _ = scanned(state)
    for _ in range(3):
        state, _ = step(jax.random.key(0), state, batch)
    np.testing.assert_allclose(by_scan.params, state.params, rtol=1e-6)
    np.testing.assert_array_equal(by_scan.negatives.step, state.negatives.step)


def test_nothing_calls_the_host():
    model = ej.RBM(6, 4)
    source = negatives.pcd(ej.gibbs(model), init=(bits((4, 6)), bits((4, 4))))
    init, _ = make_train_step(model, optax.adam(1e-3), source)
    arguments = source, None, jax.random.key(0), init(jax.random.key(0)), jnp.zeros((4, 6), jnp.uint8)
    traced = jax.make_jaxpr(step_module.update, static_argnums=(0, 1))
    assert "callback" not in str(traced(target_of(model), contrastive, *arguments))


# ---- bad input ----


def test_bad_batches_are_refused(as_shipped):
    model = ej.Potts(ej.Grid(2, 3), n_levels=3)
    init, step = make_train_step(model, optax.sgd(0.1), negatives.cd(ej.gibbs(model)))
    key = jax.random.key(0)
    state = init(key)
    with pytest.raises(ValueError, match=r"batch has shape \(5, 3, 2\); expected \(n_chains, 2, 3\)"):
        step(key, state, jnp.zeros((5, 3, 2), jnp.uint8))
    with pytest.raises(ValueError, match=r"batch has dtype float32; expected uint8"):
        step(key, state, jnp.full((5, 2, 3), 0.5))
    with pytest.raises(ValueError, match=r"batch holds level 3; levels run from 0 to 2"):
        step(key, state, np.full((5, 2, 3), 3, np.uint8))
    with pytest.raises(ValueError, match=r"batch has leading axes \[0\]"):
        step(key, state, jnp.zeros((0, 2, 3), jnp.uint8))
    with pytest.raises(ValueError, match=r"without a leading axis"):
        step(key, state, 3.0)
    with pytest.raises(ValueError, match=r"make a typed one"):
        step(jnp.zeros(2, jnp.uint32), state, jnp.zeros((5, 2, 3), jnp.uint8))


def test_bad_parameters_and_parts_are_refused(as_shipped):
    model, tx = ej.RBM(4, 3), optax.sgd(0.1)
    source, key = negatives.cd(ej.gibbs(model)), jax.random.key(0)
    init, _ = make_train_step(model, tx, source)
    good = model.init(key)
    with pytest.raises(ValueError, match=r"params.weights holds nan at index \(1, 2\)"):
        init(key, good._replace(weights=good.weights.at[1, 2].set(jnp.nan)))
    with pytest.raises(ValueError, match=r"params.weights has shape \(3, 4\)"):
        init(key, good._replace(weights=good.weights.T))
    with pytest.raises(ValueError, match=r"tx is None; give an Optax transformation"):
        make_train_step(model, None, source)
    with pytest.raises(ValueError, match=r"negatives is .*; give e.g. negatives.pcd"):
        make_train_step(model, tx, ej.gibbs(model))
    with pytest.raises(ValueError, match=r"negatives sample RBM\(n_visible=4, n_hidden=3"):
        make_train_step(ej.RBM(4, 2), tx, source)
    with pytest.raises(ValueError, match=r"draws no parameters of its own"):
        make_train_step(
            lambda params, x: 0.0, tx, negatives.cd(ej.langevin(lambda params, x: 0.0, 0.1, 0.1))
        )[0](key)
    with pytest.raises(ValueError, match=r"mask has dtype float32; expected bool"):
        positives.clamped_gibbs(ej.gibbs(ej.Ising(ej.Grid(3, 3))), jnp.ones((3, 3)))


def test_bad_negatives_are_refused(as_shipped):
    model, key = ej.RBM(4, 3), jax.random.key(0)
    kernel, params = ej.gibbs(model), model.init(key)
    with pytest.raises(ValueError, match=r"k is 0"):
        negatives.cd(kernel, k=0)
    with pytest.raises(ValueError, match=r"n_chains is 0"):
        negatives.pcd(kernel, n_chains=0)
    with pytest.raises(ValueError, match=r"kernel is RBM"):
        negatives.pcd(model)
    start = jnp.zeros((5, 4), jnp.uint8), jnp.zeros((5, 3), jnp.uint8)
    with pytest.raises(ValueError, match=r"n_chains is 6 and init holds 5 chains"):
        negatives.pcd(kernel, n_chains=6, init=start)
    with pytest.raises(ValueError, match=r"init has leading axes \[4, 5\]"):
        negatives.pcd(kernel, init=(start[0], start[1][:4]))
    with pytest.raises(ValueError, match=r"init\[0\] has shape"):
        negatives.pcd(kernel, init=start[::-1]).init(key, target_of(model), params)
    with pytest.raises(ValueError, match=r"2\^36 configurations.*negatives.pcd"):
        large = ej.Ising(ej.Grid(6, 6))
        negatives.exact(large).init(key, target_of(large), None)
    with pytest.raises(ValueError, match=r"no discrete levels to enumerate"):
        negatives.exact(lambda params, x: 0.0)
    energy = lambda params, x: jnp.sum(x**2)  # noqa: E731
    with pytest.raises(ValueError, match=r"pcd\(kernel, k, init=positions\)"):
        negatives.pcd(ej.langevin(energy, 0.1, 0.1)).init(key, target_of(energy), None)
