"""Replay buffers and short runs: slots, ages, starts, and what limits do to a buffer."""

import warnings
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ebm_jax as ej
from ebm_jax.energies.networks import MLP
from ebm_jax.energies.neural import ClassConditional
from ebm_jax.training import Limits, Plan, advance, joint, make_train_step, negatives, regularized
from ebm_jax.training.negatives import starts
from tests.training.common import assert_same_bits

KEY = jax.random.key(0)
MODEL = ej.NeuralEnergy(MLP((4,)), (2,))
KERNEL = ej.langevin(MODEL, step_size=0.1, noise_scale=0.1)
CAPACITY, N_CHAINS, K = 12, 4, 3
DATA = jax.random.normal(jax.random.key(1), (32, 2))
PLAN = Plan(MODEL, 4, 8, 4, skip=True, objective=regularized(0.1))


def buffer(**settings):
    settings = {"capacity": CAPACITY, "start": starts.uniform((2,)), "reinit_rate": 0.0} | settings
    return negatives.replay(KERNEL, K, N_CHAINS, **settings)


def drawn(source, params, state):
    return jax.jit(lambda p, s: source.draw(KEY, MODEL_TARGET, p, s, None))(params, state)


MODEL_TARGET = ej.energies.target.target_of(MODEL)
PARAMS = MODEL.init(KEY)


@pytest.mark.parametrize("slots", ["drawn", "aligned"])
def test_slots_are_written_where_they_were_drawn(slots):
    source = buffer(slots=slots)
    state = source.init(KEY, MODEL_TARGET, PARAMS)
    found, new = drawn(source, PARAMS, state)
    changed = np.flatnonzero((np.asarray(new.positions) != np.asarray(state.positions)).any(axis=1))
    assert len(changed) == N_CHAINS  # none twice
    np.testing.assert_array_equal(np.flatnonzero(new.ages), changed)
    np.testing.assert_array_equal(np.asarray(new.ages)[changed], K)
    ends = {tuple(row) for row in np.asarray(found.positions).tolist()}
    assert ends == {tuple(row) for row in np.asarray(new.positions)[changed].tolist()}
    _, other = drawn(source, PARAMS, state._replace(count=jnp.uint32(1)))
    assert np.flatnonzero(other.ages).tolist() != changed.tolist()
    if slots == "aligned":
        np.testing.assert_array_equal(changed, np.arange(N_CHAINS))
        for _ in range(2):
            _, new = drawn(source, PARAMS, new)
        np.testing.assert_array_equal(new.ages, K)  # every group once


def test_every_slot_is_drawn_as_often_and_none_twice():
    """Counts of 3,000 updates lie within 5 standard errors of the mean, 12 of them: false-positive rate 7e-6."""
    n = 3000
    keys = jax.random.split(KEY, n)
    slots = np.asarray(jax.vmap(buffer()._slots, (0, None))(keys, jnp.uint32(0)))
    assert all(len(set(row)) == N_CHAINS for row in slots.tolist())
    share = N_CHAINS / CAPACITY
    counts = np.bincount(slots.ravel(), minlength=CAPACITY)
    np.testing.assert_allclose(counts, n * share, atol=5 * np.sqrt(n * share * (1 - share)))


def test_figures_are_those_of_the_chains_drawn():
    source = buffer(slots="aligned")
    state = source.init(KEY, MODEL_TARGET, PARAMS)
    found, _ = drawn(source, PARAMS, state)
    begin, ends = np.asarray(state.positions[:N_CHAINS]), np.asarray(found.positions)
    np.testing.assert_allclose(found.figures["position_max"], np.abs(ends).max(), rtol=1e-6)
    np.testing.assert_allclose(
        found.figures["movement"], np.sqrt(((ends - begin) ** 2).sum(axis=1)).mean(), rtol=1e-5
    )
    assert float(found.figures["age"]) == K


def test_a_rate_of_one_starts_every_drawn_slot_anew():

    def far(key, n):
        return jnp.full((n, 2), 50.0)

    source = buffer(start=far, reinit_rate=1.0)
    state = source.init(KEY, MODEL_TARGET, PARAMS)._replace(positions=jnp.zeros((CAPACITY, 2)))
    found, new = drawn(source, PARAMS, state._replace(ages=jnp.full(CAPACITY, 90, jnp.uint32)))
    assert float(found.figures["age"]) == K and float(found.positions.min()) > 40
    assert sorted(np.asarray(new.ages).tolist()) == [K] * N_CHAINS + [90] * (CAPACITY - N_CHAINS)


def quartic(params, x):
    return params * jnp.sum(x**4)


def test_a_broken_chain_goes_back_alone():
    """One slot is so far out that its energy overflows; the update is skipped and only that slot stays."""
    kernel = ej.langevin(quartic, step_size=1.0, noise_scale=0.1)
    source = negatives.replay(
        kernel, 1, N_CHAINS, capacity=N_CHAINS, start=starts.uniform((2,)), slots="aligned", reinit_rate=0.0
    )
    init, _ = make_train_step(quartic, optax.sgd(0.1), source, objective=regularized())
    state = init(KEY, jnp.ones(()))
    far = state.negatives.positions.at[1].set(1e15)
    state = state.replace(negatives=state.negatives._replace(positions=far))
    plan = Plan(quartic, 1, 32, 1, skip=True, objective=regularized())
    new, metrics = advance(plan, source, None, KEY, state, DATA)
    assert int(metrics.n_skipped[0]) == 1 and float(new.params) == 1.0
    np.testing.assert_array_equal(new.negatives.positions[1], far[1])
    assert int(new.negatives.ages[1]) == 0
    others = np.asarray([0, 2, 3])
    assert (np.asarray(new.negatives.positions)[others] != np.asarray(far)[others]).all()
    assert (np.asarray(new.negatives.ages)[others] == 1).all()


@pytest.fixture(scope="module")
def trained():
    source = buffer()
    init, _ = make_train_step(MODEL, optax.adam(1e-2), source, objective=PLAN.objective)
    state = init(KEY)
    return source, state, *advance(PLAN, source, None, KEY, state, DATA)


def test_the_buffer_stays_on_the_device_and_runs_resume_bit_for_bit(trained):
    source, state, after_epoch, _ = trained
    before = advance._cache_size()
    with jax.transfer_guard("disallow"):
        whole, _ = advance(PLAN, source, None, KEY, after_epoch, DATA)
    # What a checkpoint holds: arrays, in a state that is made anew.
    leaves, treedef = jax.tree.flatten(after_epoch)
    copied = jax.tree.unflatten(treedef, [jnp.array(leaf) for leaf in leaves])
    resumed, _ = advance(PLAN, source, None, KEY, copied, DATA)
    assert advance._cache_size() == before
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(
            jax.random.key_data(a) if a.dtype == KEY.dtype else a,
            jax.random.key_data(b) if b.dtype == KEY.dtype else b,
        )
    assert int(whole.negatives.count) == 8 and int(state.negatives.count) == 0


def test_fit_resumes_with_a_buffer_and_compiles_an_equal_transformation_once():
    """Gradient accumulation and limits take part: 2 + 2 epochs have the bits of 4, each with a `tx` of its own."""
    source, limits = buffer(capacity=8), Limits(movement=1e3, grace=6)

    def run(n_epochs, state=None):
        tx = optax.MultiSteps(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2)), 2)
        options = {"n_epochs": n_epochs, "batch_size": 8, "objective": regularized(0.1), "progress": False}
        return ej.fit(
            KEY,
            MODEL,
            DATA,
            tx=tx,
            negatives=source,
            state=state,
            prepare=noisy,
            limits=limits,
            **options,
        )

    half = run(2)
    compiled = advance._cache_size()
    rest, whole = run(2, half.state), run(4)
    assert advance._cache_size() == compiled
    assert_same_bits(rest.state, whole.state)
    np.testing.assert_array_equal(np.concatenate([half.metrics.loss, rest.metrics.loss]), whole.metrics.loss)
    assert whole.metrics.n_skipped.ravel().tolist() == [0] * 6 + [1] * 10
    # Six updates are three of the optimiser.
    assert int(whole.state.opt_state.gradient_step) == 3 and int(whole.state.negatives.count) == 16


def noisy(key, rows):
    return rows + 0.1 * jax.random.normal(key, rows.shape)


@pytest.mark.parametrize(
    ("field", "value"), [("position", 1e-3), ("movement", 1e3), ("gradient_norm", 1e-6), ("energy_gap", 1e-9)]
)
def test_limits_hold_after_the_grace_period(trained, field, value):
    source, state, _, free = trained
    unlimited = Limits(*map(jnp.float32, Limits()[:-1]), grace=jnp.int32(2))
    _, metrics = advance(
        PLAN, source, None, KEY, state, DATA, unlimited._replace(**{field: jnp.float32(value)})
    )
    np.testing.assert_array_equal(metrics.n_skipped, [0, 0, 1, 1])
    np.testing.assert_array_equal(metrics.loss[:2], free.loss[:2])


def test_short_runs_start_anew():
    source = negatives.short_run(KERNEL, K, N_CHAINS, start=starts.normal((2,), 0.5))
    state = source.init(KEY, MODEL_TARGET, PARAMS)
    first, state = drawn(source, PARAMS, state)
    second, state = drawn(source, PARAMS, state)
    assert int(state) == 2 and not np.isin(first.positions, second.positions).any()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FromZero(ej.training.Source):
    """A source as a user writes one, with public names alone: chains that start at zero at every update."""

    kernel: Any

    def init(self, key, target, params):
        return jnp.zeros((), jnp.uint32)

    def draw(self, key, target, params, state, batch):
        chains = ej.training.pack_chains(self.kernel, params, jnp.zeros((N_CHAINS, 2)))
        key = jax.random.fold_in(key, state)
        chains, info = ej.training.run_chains(key, self.kernel, params, chains, K)
        positions = self.kernel.packed_positions(chains)
        figures = {"spread": positions.std()}
        return ej.training.Negatives(positions, None, info, figures=figures), state + jnp.uint32(1)


def test_a_source_of_the_users_trains_and_reports():
    fitted = ej.fit(
        KEY,
        MODEL,
        DATA,
        tx=optax.sgd(0.1),
        negatives=FromZero(KERNEL),
        n_epochs=1,
        batch_size=8,
        progress=False,
    )
    # Four updates of 3 steps with noise of 0.1 each: a spread of about 0.17.
    spread = fitted.metrics.extra["spread"]
    assert int(fitted.state.negatives) == 4 and len(np.unique(spread)) == 4
    assert (spread > 0.05).all() and (spread < 0.6).all()


def test_labels_stay_with_their_chains():
    joint_model = ej.JointEnergy(MLP((4,), n_outputs=3), (2,), 3)
    model = ClassConditional(joint_model)
    kernel = ej.langevin(model, step_size=0.1, noise_scale=0.1)
    start = starts.with_labels(starts.uniform((2,)), 3)
    mask = np.zeros(2, bool), np.ones(3, bool)
    source = negatives.replay(
        kernel, K, N_CHAINS, capacity=N_CHAINS, start=start, reinit_rate=0.0, slots="aligned", clamped=mask
    )
    target = ej.energies.target.target_of(model)
    state = source.init(KEY, target, joint_model.init(KEY))
    found, new = jax.jit(lambda s: source.draw(KEY, target, joint_model.init(KEY), s, None))(state)
    np.testing.assert_array_equal(found.positions[1], state.positions[1])
    np.testing.assert_array_equal(new.positions[1].sum(axis=1), 1.0)
    assert (np.asarray(found.positions[0]) != np.asarray(state.positions[0])).all()


def test_some_labels_are_dropped():
    """The number of 400 labels that are kept is binomial: outside [60, 140] with probability 1e-5."""
    start = starts.drop_labels(starts.with_labels(starts.uniform((2,)), 3), 0.75)
    x, label = map(np.asarray, start(KEY, 400))
    n_classes = label.sum(axis=1)
    assert x.shape == (400, 2) and set(n_classes) == {1, 3}
    assert 60 <= (n_classes == 1).sum() <= 140
    with pytest.raises(ValueError, match=r"rate is 1\.5; give a probability"):
        starts.drop_labels(start, 1.5)


def test_the_energy_of_a_set_of_classes():
    """One class: −f(x)[y]; all of them: E(x). A logit 200 above those of the set must not swallow them."""
    joint_model = ej.JointEnergy(MLP((4,), n_outputs=3), (2,), 3)
    params, x = joint_model.init(KEY), jnp.array([0.3, -0.7])
    output = max(params, key=lambda name: params[name]["bias"].shape == (3,))
    params[output]["bias"] = params[output]["bias"].at[0].add(200.0)
    model, logits = ClassConditional(joint_model), np.asarray(joint_model.logits(params, x), np.float64)
    for chosen in ([1], [1, 2], [0, 1, 2]):
        label = jnp.zeros(3).at[jnp.array(chosen)].set(1.0)
        energy, gradient = jax.value_and_grad(model.energy, argnums=1)(params, (x, label))
        np.testing.assert_allclose(energy, -np.logaddexp.reduce(logits[chosen]), rtol=1e-5)
        assert all(np.isfinite(leaf).all() for leaf in gradient)


def test_chains_of_a_class_train_the_joint_model():
    joint_model = ej.JointEnergy(MLP((4,), n_outputs=3), (2,), 3)
    kernel = ej.langevin(ClassConditional(joint_model), step_size=0.1, noise_scale=0.1)
    start = starts.with_labels(starts.uniform((2,)), 3)
    mask = np.zeros(2, bool), np.ones(3, bool)
    source = negatives.short_run(kernel, K, N_CHAINS, start=start, clamped=mask)
    init, step = make_train_step(joint_model, optax.sgd(0.1), source, objective=joint(1.0))
    _, metrics = step(KEY, init(KEY), (DATA[:8], jnp.arange(8, dtype=jnp.int32) % 3))
    assert int(metrics.n_nonfinite) == 0 and np.isfinite(metrics.extra["cross_entropy"])


def test_class_gaussians_have_the_moments_of_their_class():
    """Means and variances of 4,000 draws lie within 5 standard errors, 4 of them: false-positive rate 3e-6."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 100)
    images = rng.normal(np.where(labels[:, None] == 0, -0.5, 0.5), 0.1, (200, 1)).astype(np.float32)
    start = starts.class_gaussians(images, labels, 2, low=-9.0, high=9.0, labelled=True)
    x, label = map(np.asarray, start(KEY, 4000))
    for k in range(2):
        found, of_class = x[label[:, k] == 1, 0], images[labels == k, 0]
        error = of_class.std(ddof=1) / np.sqrt(len(found))
        assert abs(found.mean() - of_class.mean()) < 5 * error
        np.testing.assert_allclose(found.std(), of_class.std(ddof=1), rtol=5 / np.sqrt(2 * len(found)))


def test_rows_are_rows_of_the_data():
    found = np.asarray(starts.rows(DATA)(KEY, 10))
    assert {tuple(row) for row in found.tolist()} <= {tuple(row) for row in np.asarray(DATA).tolist()}


def test_a_buffer_that_is_hardly_drawn_is_told():
    with pytest.warns(UserWarning, match=r"is drawn 0\.67 times in 2 updates .* capacity of at most 4 "):
        buffer().check_run(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        buffer().check_run(9)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"capacity": 3}, "capacity is 3"),
        ({"reinit_rate": 1.5}, "reinit_rate is 1.5"),
        ({"slots": "random"}, "slots is 'random'"),
        ({"slots": "aligned", "capacity": 10}, "capacity is 10 and n_chains 4"),
        ({"start": 3}, "start is 3"),
    ],
)
def test_errors_name_the_value(as_shipped, settings, words):
    with pytest.raises(ValueError, match=words):
        buffer(**settings)
