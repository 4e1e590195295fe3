"""Steps in pieces: the same bits however a run is cut, batches prepared, and updates left out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ebm_jax as ej
from ebm_jax.training import Limits, Plan, advance, binarize_batch, make_train_step, negatives
from ebm_jax.training import step as step_module
from tests.training.test_fit import assert_same_bits
from tests.training.test_step import bits

KEY = jax.random.key(7)
MODEL = ej.RBM(6, 4)
TX = optax.adam(1e-2)
SOURCE = negatives.pcd(ej.gibbs(MODEL), n_chains=12)
DATA = bits((50, 6))


def start(model=MODEL, tx=TX, source=SOURCE, params=None):
    return make_train_step(model, tx, source)[0](KEY, params)


def run(plan, n, state, data=DATA, source=SOURCE, limits=None):
    """The state after `n` calls, and metrics end to end."""
    kept = []
    for _ in range(n):
        state, metrics = advance(plan, source, None, KEY, state, data, limits)
        kept.append(metrics)
    return state, jax.tree.map(lambda *rows: np.concatenate(rows), *kept)


def test_pieces_equal_epochs_and_fit_bit_for_bit():
    plan = Plan(MODEL, 12, 4, 12)
    whole, metrics = run(plan, 2, start())
    assert whole.step == 24 and metrics.loss.shape == (24,)
    for length in (2, 3, 4):
        cut, of_cut = run(plan._replace(n_steps=length), 24 // length, start())
        assert_same_bits(cut, whole)
        for a, b in zip(metrics, of_cut, strict=True):
            np.testing.assert_array_equal(a, b)
    fitted = ej.fit(KEY, MODEL, DATA, tx=TX, negatives=SOURCE, n_epochs=2, batch_size=4, progress=False)
    assert_same_bits(fitted.state, whole)


def test_rows_are_prepared_with_a_key_of_their_own_at_every_step():
    """Grey values ¾ under fields that see the data linearly: what a step saw is read off its gradient."""
    model = ej.Ising(ej.Graph(400, [(0, 1)]))
    source = negatives.cd(ej.gibbs(model))
    seen = []

    def prepare(key, rows):
        jax.debug.callback(lambda key: seen.append(tuple(key)), jax.random.key_data(key), ordered=True)
        return binarize_batch(key, rows) > 0

    grey = jnp.full((8, 400), 191, jnp.uint8)
    zeros = ej.IsingParams(jnp.zeros(400), jnp.zeros(1))
    plan = Plan(model, 4, 2, 4, prepare=prepare)
    tx = optax.sgd(0.0)
    _, metrics = run(plan, 2, start(model, tx, source, zeros._replace(bias=jnp.full(400, 0.1))), grey, source)
    jax.effects_barrier()
    stream = jax.random.fold_in(KEY, step_module.BATCHES)
    assert seen == [tuple(np.asarray(jax.random.key_data(jax.random.fold_in(stream, s)))) for s in range(8)]
    # E = −0.1 Σ s, with mean spin ½ in 800 draws a step.
    np.testing.assert_allclose(
        metrics.energy_data, -0.1 * 400 * (2 * 191 / 255 - 1), atol=0.1 * 5 * np.sqrt(400 / 2)
    )
    assert len(set(metrics.energy_data)) > 4


# ---- leaving updates out ----


def test_a_guard_that_nothing_trips_changes_no_bit():
    plan = Plan(MODEL, 12, 4, 6)
    plain, metrics = run(plan, 2, start())
    guarded, of_guarded = run(plan._replace(skip=True), 2, start())
    assert_same_bits(plain, guarded)
    for a, b in zip(metrics, of_guarded, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not metrics.n_skipped.any()


@pytest.mark.parametrize("name", Limits._fields)
def test_updates_past_a_limit_are_left_out_alone(name):
    """With a rate of 0 all figures are those of a run without limits, so it is known which steps exceed one."""
    tx = optax.chain(optax.trace(0.9), optax.sgd(0.0))
    plan = Plan(MODEL, 12, 4, 12, skip=True)
    _, free = run(plan, 1, start(tx=tx))
    limit = float(np.median(abs(getattr(free, name))))
    state, metrics = run(plan, 1, start(tx=tx), limits=Limits(**{name: limit}))
    np.testing.assert_array_equal(metrics.n_skipped, abs(getattr(free, name)) > limit)
    assert 0 < metrics.n_skipped.sum() < 12 and metrics.n_nonfinite.sum() == 0
    # All left out: parameters and optimiser stand, steps and chains go on.
    state, metrics = run(plan, 1, start(), limits=Limits(**{name: 0.0}))
    first = start()
    for a, b in zip(
        jax.tree.leaves((state.params, state.opt_state)), jax.tree.leaves((first.params, first.opt_state))
    ):
        np.testing.assert_array_equal(a, b)
    assert state.step == 12 and metrics.n_skipped.sum() == 12
    chains = SOURCE.chains(state.negatives)
    np.testing.assert_array_equal(chains.step, 12)


def test_limits_are_numbers():
    plan = Plan(MODEL, 12, 4, 5, skip=True)
    step = functools.partial(advance, plan, SOURCE, None, KEY, start(), DATA)
    step(Limits(1.0, 1.0))
    compiled = advance._cache_size()
    step(Limits(2.0, 0.5))
    step(Limits(jnp.float32(3.0), np.inf))
    assert (
        advance._cache_size() <= compiled + 1
    )  # arrays and numbers differ in their weak types, values do not


def quartic(params, x):
    """E = p₀ Σ x² + p₁ Σ x⁴; far out its gradient overflows."""
    return params[0] * jnp.sum(x**2) + params[1] * jnp.sum(x**4)


def test_chains_that_left_the_finite_numbers_are_put_back():
    kernel = ej.langevin(quartic, 0.1, 0.4)
    far = jnp.full((5, 2), 0.5).at[0].set(1e13)
    source = negatives.pcd(kernel, k=1, init=far)
    params = jnp.array([1.0, 1.0])
    data = 0.5 * jnp.ones((8, 2))
    plan = Plan(quartic, 4, 2, 2)
    first = start(quartic, TX, source, params)
    broken, metrics = run(plan, 1, first, data, source)
    assert not np.isfinite(broken.params).all() and metrics.n_nonfinite[-1] > 0
    state, metrics = run(plan._replace(skip=True), 1, first, data, source)
    np.testing.assert_array_equal(state.params, params)
    np.testing.assert_array_equal(source.positions(state.negatives), far)
    np.testing.assert_array_equal(source.chains(state.negatives).step, 2)
    np.testing.assert_array_equal(metrics.n_skipped, [1, 1])
    assert state.step == 2 and (metrics.n_nonfinite > 0).all()


def test_updates_that_are_not_finite_are_left_out():
    """Data that no float holds: energies overflow at the data, while the chains stay where they are."""
    source = negatives.pcd(ej.langevin(quartic, 1e-3, 0.04), init=jnp.zeros((4, 2)))
    data = jnp.array([[1e12, 0.0], [0.5, 0.5]])
    plan = Plan(quartic, 2, 1, 2, skip=True)
    state, metrics = run(plan, 1, start(quartic, TX, source, jnp.ones(2)), data, source)
    assert sorted(metrics.n_skipped) == [0, 1] and np.isfinite(state.params).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.opt_state))


# ---- chains that no proposal moves ----


def test_dead_chains_are_counted():
    """Steps of 10⁶ in a narrow well are never taken; those of 10⁻³ nearly always are."""
    energy = lambda params, x: 0.5 * jnp.sum(params * x**2)  # noqa: E731
    for size, dead in ((1e6, 6), (1e-3, 0)):
        source = negatives.pcd(ej.mala(energy, size), k=3, init=jnp.zeros((6, 2)))
        init, step = make_train_step(energy, TX, source)
        _, metrics = step(KEY, init(KEY, jnp.ones(2)), jnp.ones((4, 2)))
        assert metrics.n_dead == dead
    init, step = make_train_step(MODEL, TX, SOURCE)
    assert step(KEY, init(KEY), DATA)[1].n_dead == 0  # Gibbs proposes nothing


@pytest.mark.usefixtures("as_shipped")
def test_bad_plans_are_refused():
    plan = Plan(MODEL, 12, 4, 13)
    with pytest.raises(ValueError, match=r"n_steps is 13 and an epoch has 12 batches"):
        advance(plan, SOURCE, None, KEY, start(), DATA)
    with pytest.raises(ValueError, match=r"limits are given and plan.skip is False"):
        advance(plan._replace(n_steps=2), SOURCE, None, KEY, start(), DATA, Limits())
