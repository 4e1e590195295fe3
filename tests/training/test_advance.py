"""Steps in pieces: the same bits however a run is cut, batches prepared, and updates skipped."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ebm_jax as ej
from ebm_jax.training import Limits, Plan, advance, binarize_batch, make_train_step, negatives
from ebm_jax.training import step as step_module
from ebm_jax.training.sources import pack_chains
from tests.training.common import (
    DATA,
    KEY,
    MODEL,
    PLAN,
    SOURCE,
    TX,
    UNLIMITED,
    assert_same_bits,
    assert_same_metrics,
    run,
    start,
)

SKIPPING = PLAN._replace(skip=True)
STANDING = optax.chain(optax.trace(0.9), optax.sgd(0.0))
"""An optimiser that moves nothing, so that all figures are those of a run without limits."""


@pytest.fixture(scope="module")
def epochs():
    """The state and the metrics of two epochs, an epoch a call."""
    return run(PLAN, 2, start())


def test_pieces_equal_epochs_and_fit_bit_for_bit(epochs):
    state, metrics = epochs
    assert state.step == 24 and metrics.loss.shape == (24,)
    # Gibbs proposes nothing, and without limits nothing is skipped.
    assert not metrics.n_dead.any() and not metrics.n_skipped.any() and metrics.extra == {}
    cut, of_cut = run(PLAN._replace(n_steps=4), 6, start())
    assert_same_bits(cut, state)
    assert_same_metrics(metrics, of_cut)
    fitted = ej.fit(KEY, MODEL, DATA, tx=TX, negatives=SOURCE, n_epochs=2, batch_size=4, progress=False)
    assert_same_bits(fitted.state, state)


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


def test_a_guard_that_nothing_trips_changes_no_bit(epochs):
    guarded, of_guarded = run(SKIPPING, 2, start(), limits=UNLIMITED)
    assert_same_bits(guarded, epochs[0])
    assert_same_metrics(of_guarded, epochs[1])


@pytest.mark.parametrize("name", ["gradient_norm", "energy_gap"])
def test_updates_past_a_limit_are_skipped_alone(name):
    _, free = run(SKIPPING, 1, start(tx=STANDING), limits=UNLIMITED)
    limit = jnp.asarray(np.median(abs(getattr(free, name))))
    _, metrics = run(SKIPPING, 1, start(tx=STANDING), limits=UNLIMITED._replace(**{name: limit}))
    np.testing.assert_array_equal(metrics.n_skipped, abs(getattr(free, name)) > limit)
    assert 0 < metrics.n_skipped.sum() < 12 and metrics.n_nonfinite.sum() == 0
    # All skipped: parameters and optimiser stand, steps and chains go on.
    first = start()
    state, metrics = run(SKIPPING, 1, first, limits=UNLIMITED._replace(**{name: jnp.float32(0)}))
    for a, b in zip(
        jax.tree.leaves((state.params, state.opt_state)), jax.tree.leaves((first.params, first.opt_state))
    ):
        np.testing.assert_array_equal(a, b)
    assert state.step == 12 and metrics.n_skipped.sum() == 12
    np.testing.assert_array_equal(SOURCE.chains(state.negatives).step, 12)


def quartic(params, x):
    """E = p₀ Σ x² + p₁ Σ x⁴; far out its gradient overflows."""
    return params[0] * jnp.sum(x**2) + params[1] * jnp.sum(x**4)


QUARTIC = Plan(quartic, 4, 2, 2)


def test_a_chain_that_left_the_finite_numbers_is_put_back_alone():
    kernel, far = ej.langevin(quartic, 0.1, 0.4), jnp.full((5, 2), 0.5).at[0].set(1e13)
    source, params = negatives.pcd(kernel, k=1, init=far), jnp.array([1.0, 1.0])
    data, first = 0.5 * jnp.ones((8, 2)), start(quartic, TX, source, params)
    broken, metrics = run(QUARTIC, 1, first, data, source)
    assert not np.isfinite(broken.params).all() and metrics.n_nonfinite[-1] > 0
    state, metrics = run(QUARTIC._replace(skip=True), 1, first, data, source)
    np.testing.assert_array_equal(state.params, params)
    np.testing.assert_array_equal(metrics.n_skipped, [1, 1])
    assert state.step == 2 and (metrics.n_nonfinite > 0).all()
    chains, positions = source.chains(state.negatives), source.positions(state.negatives)
    np.testing.assert_array_equal(chains.step, 2)
    np.testing.assert_array_equal(positions[0], far[0])
    # The others are where two steps at the same parameters take them.
    stream = jax.random.fold_in(KEY, step_module._NEGATIVES)
    schedule = ej.SamplingSchedule(2, 0)
    alone = ej.sample(stream, kernel, params, far, schedule, on_nonfinite="report").state.position
    np.testing.assert_allclose(positions[1:], alone[1:], rtol=1e-5)
    assert (abs(positions[1:] - far[1:]) > 1e-4).all()


def test_updates_that_are_not_finite_are_skipped():
    """Data that no float holds: energies overflow at the data, while the chains stay where they are."""
    source = negatives.pcd(ej.langevin(quartic, 1e-3, 0.04), init=jnp.zeros((5, 2)))
    data = jnp.full((8, 2), 0.5).at[3, 0].set(1e12)
    state, metrics = run(
        QUARTIC._replace(skip=True), 2, start(quartic, TX, source, jnp.ones(2)), data, source
    )
    assert sorted(metrics.n_skipped) == [0, 0, 0, 1] and np.isfinite(state.params).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.opt_state))


def test_limits_are_numbers():
    source = negatives.pcd(ej.langevin(quartic, 1e-3, 0.04), init=jnp.zeros((5, 2)))
    first = start(quartic, TX, source, jnp.ones(2))
    plan, data = QUARTIC._replace(skip=True), jnp.full((8, 2), 0.5)
    step = functools.partial(advance, plan, source, None, KEY, first, data)
    step(Limits(1.0, 1.0))
    compiled = advance._cache_size()
    step(Limits(2.0, np.inf))
    assert advance._cache_size() == compiled


def packed_langevin():
    kernel = ej.parallel_tempering(ej.langevin(quartic, 0.1, 0.4), np.array([0.3, 1.0]))
    return kernel, jnp.ones(2), jnp.linspace(-1, 1, 12).reshape(6, 2)


def packed_gibbs():
    model = ej.GaussianRBM(5, 3)
    return ej.gibbs(model), model.init(KEY), ej.init_chains(KEY, model, 70)


@pytest.mark.parametrize("case", [packed_langevin, packed_gibbs])
def test_packed_chains_are_put_back_one_by_one(case):
    """In whatever layout a kernel packs its chains: replicas side by side, or chains innermost in tiles."""
    kernel, params, x = case()
    source = negatives.pcd(kernel, init=x)
    lost, n = 4, len(jax.tree.leaves(x)[0])

    @jax.jit
    def step(params, x):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(n))
        before = pack_chains(kernel, params, x)
        after, _ = kernel.packed_steps(keys, params, jnp.float32(1), before, 3)
        states = kernel.unpack(after)
        # One number of one chain, of one replica where there are several.
        broken = kernel.pack(params, jax.tree.map(broken_leaf, states))
        put_back = source.put_back(params, before, broken)
        return [kernel.unpack(p) for p in (before, after, put_back, source.put_back(params, before, after))]

    def broken_leaf(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return leaf.at[(lost,) + (0,) * (leaf.ndim - 1)].set(jnp.nan)

    before, after, put_back, untouched = step(params, x)
    others = np.arange(n) != lost
    for old, new, got, same in zip(*map(jax.tree.leaves, (before, after, put_back, untouched)), strict=True):
        np.testing.assert_array_equal(got[others], new[others])
        np.testing.assert_array_equal(got[lost], (new if new.dtype == jnp.uint32 else old)[lost])
        np.testing.assert_array_equal(same, new)
    assert (put_back.step == 3).all()


# ---- chains that no proposal moves ----


def test_dead_chains_are_counted():
    """Steps of 10⁶ in a narrow well are never taken; those of 10⁻³ nearly always are."""
    energy = lambda params, x: 0.5 * jnp.sum(params * x**2)  # noqa: E731
    for size, dead in ((1e6, 6), (1e-3, 0)):
        source = negatives.pcd(ej.mala(energy, size), k=3, init=jnp.zeros((6, 2)))
        init, step = make_train_step(energy, TX, source)
        _, metrics = step(KEY, init(KEY, jnp.ones(2)), jnp.ones((4, 2)))
        assert metrics.n_dead == dead


@pytest.mark.usefixtures("as_shipped")
def test_bad_plans_are_refused():
    plan = PLAN._replace(n_steps=13)
    with pytest.raises(ValueError, match=r"n_steps is 13 and an epoch has 12 batches"):
        advance(plan, SOURCE, None, KEY, start(), DATA)
    with pytest.raises(ValueError, match=r"limits are given and plan.skip is False"):
        advance(plan._replace(n_steps=2), SOURCE, None, KEY, start(), DATA, Limits())
