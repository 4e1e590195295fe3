"""Parallel tempering: the laws of all rungs, the bare kernel, swaps and round trips against plain NumPy, the ladder."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from ebm_jax.samplers import exchanges, ladders, tempering
from tests import oracles, systems
from tests.statistics import assert_other_law, assert_plausible, assert_same_law, normal_sf

SYSTEM = systems.get("ising_2x3_edge")
LADDER = np.array([0.2, 0.5, 1.0])


@jax.jit
def start_at(kernel, positions, clamped=None):
    return jax.vmap(lambda x: kernel.init(SYSTEM.params, x, clamped))(positions)


@jax.jit
def run(kernel, states, n_steps):
    """States after a traced number of steps: one program for all of them."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(7), jnp.arange(states.step.shape[0]))
    step = lambda _, packed: kernel.packed_steps(keys, SYSTEM.params, jnp.float32(1), packed, 1)[0]  # noqa: E731
    return kernel.unpack(jax.lax.fori_loop(0, n_steps, step, kernel.pack(SYSTEM.params, states)))


def by_rung(kernel, state):
    """Counts of configurations, a row a rung."""
    positions = np.asarray(jax.jit(jax.vmap(kernel.positions_by_rung))(state))
    return np.stack([SYSTEM.counts(positions[:, k])[0] for k in range(kernel.betas.size)])


def laws(beta=1.0):
    return np.stack([oracles.boltzmann(SYSTEM.energies, beta * b) for b in LADDER])


GIBBS = ej.gibbs(SYSTEM.model)
KERNELS = {
    "even_odd": ej.parallel_tempering(GIBBS, LADDER),
    "random": ej.parallel_tempering(GIBBS, LADDER, swaps="random", steps_per_swap=3),
}
ZEROS = jnp.zeros((4000, 2, 3), bool)


@pytest.mark.parametrize("swaps", KERNELS)
def test_every_replica_has_its_law(swaps):
    kernel = KERNELS[swaps]
    state = run(kernel, start_at(kernel, ZEROS), 120)
    assert_same_law(by_rung(kernel, state), laws(), swaps)
    assert (np.sort(state.rung, axis=1) == np.arange(3)).all()
    report = ej.swap_report(kernel, state)
    assert report.n_round_trips > 4000
    # Each configuration of the target rung is also what `sample` stores.
    cold = SYSTEM.counts(jax.vmap(kernel.position)(state))
    np.testing.assert_array_equal(cold[0], by_rung(kernel, state)[2])


def test_a_wrong_exchange_is_told_apart(monkeypatch):
    monkeypatch.setattr(
        tempering,
        "exchange",
        lambda ladder, swaps, word, beta, energies, state: exchanges.exchange(
            ladder, swaps, word, beta, 0.5 * energies, state
        ),
    )
    # Two steps an exchange: a structure of its own, so that no program of the right one is at hand.
    kernel = ej.parallel_tempering(ej.gibbs(SYSTEM.model), LADDER, steps_per_swap=2)
    state = run(kernel, start_at(kernel, jnp.zeros((4000, 2, 3), bool)), 60)
    assert_other_law(by_rung(kernel, state), laws(), "swaps at half the energy")


def test_one_rung_is_the_bare_kernel():
    bare = ej.dmala(SYSTEM.model, 0.5)
    start = SYSTEM.exact_positions(64)
    schedule = ej.SamplingSchedule(2, 5, 2)
    beta = np.linspace(0.5, 1.0, schedule.n_steps)
    one, other = (
        ej.sample(jax.random.key(0), kernel, SYSTEM.params, start, schedule, beta=beta)
        for kernel in (bare, ej.parallel_tempering(bare, [1.0]))
    )
    np.testing.assert_array_equal(one.positions, other.positions)
    for field in ("n_steps", "n_energy", "n_gradient", "n_accepted"):
        np.testing.assert_array_equal(getattr(one.info, field), getattr(other.info, field))


def test_pieces_company_and_forms():
    kernel = KERNELS["random"]
    state = start_at(kernel, ZEROS)
    whole, again = run(kernel, state, 12), run(kernel, run(kernel, state, 5), 7)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(7), jnp.arange(4000))
    steps = lambda key, one: kernel.steps(key, SYSTEM.params, 1.0, one, 12)  # noqa: E731
    alone, info = jax.jit(jax.vmap(steps))(keys, state)
    np.testing.assert_array_equal(alone.rung, whole.rung)
    np.testing.assert_array_equal(alone.replicas.position, whole.replicas.position)
    assert (info.n_steps == 12).all()
    assert (info.n_energy == 12 * 3).all()


def test_exchanges_as_in_plain_numpy():
    """Follows one step of the exchange, its statistics and its round trips, with the decisions that it took."""
    rng = np.random.default_rng(0)
    kernel = ej.parallel_tempering(ej.gibbs(SYSTEM.model), np.array([0.1, 0.4, 0.7, 1.0]))
    state = kernel.init(SYSTEM.params, SYSTEM.positions(np.zeros((1, 6), int))[0])._replace(replicas=None)
    betas = np.asarray(kernel.betas, np.float64)
    words = jnp.array([3, 5], jnp.uint32)
    exchange = jax.jit(
        lambda e, s: exchanges.exchange(kernel.betas, "even_odd", words, jnp.float32(0.8), e, s)
    )
    seen, last, trips = [[] for _ in range(3)], [None] * 3 + ["top"], 0
    for step in range(400):
        energies = rng.normal(scale=4, size=4).astype(np.float32)
        new = exchange(energies, state)._replace(step=state.step + jnp.uint32(1))
        old_rung, new_rung = np.asarray(state.rung), np.asarray(new.rung)
        holder = np.argsort(old_rung)
        for pair in range(3):
            low, high = holder[pair], holder[pair + 1]
            swapped = new_rung[low] == pair + 1
            assert swapped == (new_rung[high] == pair)
            if pair % 2 != step % 2:
                assert not swapped
                continue
            ratio = 0.8 * (betas[pair + 1] - betas[pair]) * (energies[high] - energies[low])
            seen[pair].append(1 - np.exp(min(ratio, 0.0)))
            if ratio >= 0:
                assert swapped
        for replica in range(4):
            if new_rung[replica] == 3:
                trips += last[replica] == "bottom"
                last[replica] = "top"
            elif new_rung[replica] == 0 and last[replica] == "top":
                last[replica] = "bottom"
        state = new
    np.testing.assert_allclose(state.statistics.rejection, [np.mean(s) for s in seen], rtol=1e-4)
    np.testing.assert_array_equal(state.statistics.n_tried, [len(s) for s in seen])
    assert trips > 5
    assert int(state.statistics.n_round_trips) == trips


def test_energies_that_are_no_numbers_are_not_exchanged():
    kernel = KERNELS["even_odd"]
    state = kernel.init(SYSTEM.params, SYSTEM.positions(np.zeros((1, 6), int))[0])._replace(replicas=None)
    words = jnp.zeros(2, jnp.uint32)
    exchange = jax.jit(lambda e, s: exchanges.exchange(kernel.betas, "even_odd", words, jnp.float32(1), e, s))
    for step in range(4):
        energies = jnp.array([jnp.nan, jnp.nan, jnp.nan])
        state = exchange(energies, state)
        state = state._replace(step=jnp.uint32(step))
        np.testing.assert_array_equal(state.rung, [0, 1, 2])


def test_tuning_equalises_rejections():
    model = ej.Ising(ej.Grid(8, 8, "periodic"), bias="tied")
    params = ej.IsingParams(jnp.zeros(()), jnp.ones(2))
    uneven = np.array([0.05, 0.1, 0.15, 0.2, 0.25, 0.44])
    kernel = ej.parallel_tempering(ej.gibbs(model), uneven)
    start = ej.init_chains(jax.random.key(1), model, 32)
    tuned, states = ej.tune_ladder(jax.random.key(2), kernel, params, start, 1023, n_rounds=5)
    assert (np.asarray(states.statistics.n_steps) == 0).all()
    np.testing.assert_allclose(tuned.betas[np.array([0, -1])], uneven[[0, -1]], rtol=1e-6)
    schedule = ej.SamplingSchedule(400, 1, 400)
    before, after = (
        ej.swap_report(k, ej.sample(jax.random.key(3), k, params, start, schedule).state)
        for k in (kernel, tuned)
    )
    assert np.ptp(before.rejection) > 0.3
    assert np.ptp(after.rejection) < 0.08, after.rejection
    assert after.n_round_trips > 2 * before.n_round_trips
    assert after.round_trip_rate == pytest.approx(after.n_round_trips / (32 * 400))
    assert after.best_rate == pytest.approx(1 / (2 + 2 * after.rejection.sum()))
    np.testing.assert_array_less(np.diff(after.energy), 0)  # colder rungs lie lower


def test_equal_parts_of_the_barrier():
    betas = np.array([0.0, 0.5, 1.0])
    np.testing.assert_allclose(ladders._equalise(betas, np.array([0.3, 0.3])), betas, atol=1e-12)
    moved = ladders._equalise(betas, np.array([0.6, 0.2]))
    assert 0.2 < moved[1] < 0.45
    never = ladders._equalise(betas, np.array([np.nan, np.nan]))
    np.testing.assert_allclose(never, betas)
    np.testing.assert_array_equal(ladders._equalise(betas[:2], np.array([0.3])), betas[:2])


def test_crosses_a_barrier_that_the_bare_kernel_does_not():
    """Two far wells of unequal weight: MALA stays where it is, tempered MALA weighs them."""
    energy = lambda p, x: -jnp.logaddexp(p - 8 * (x - 1.5) ** 2, -8 * (x + 1.5) ** 2)  # noqa: E731
    start = jnp.full((256,), -1.5)
    schedule = ej.SamplingSchedule(2000, 1, 2000)
    bare = ej.mala(energy, 0.35)
    right = {}
    for name, kernel in (("bare", bare), ("tempered", ej.parallel_tempering(bare, np.geomspace(0.03, 1, 6)))):
        x = ej.sample(jax.random.key(0), kernel, jnp.float32(1.0), start, schedule).positions[0]
        right[name] = int((np.asarray(x) > 0).sum())
    assert right["bare"] == 0
    share = 1 / (1 + np.exp(-1.0))
    z = (right["tempered"] - 256 * share) / np.sqrt(256 * share * (1 - share))
    assert_plausible(2 * normal_sf(abs(z)), "share of a well")


def test_clamping_and_continuing_with_another():
    kernel = KERNELS["even_odd"]
    mask = jnp.zeros((2, 3), bool).at[0, 1].set(True)
    start = start_at(kernel, SYSTEM.exact_positions(16), (mask, jnp.ones((2, 3), bool)))
    held = run(kernel, start, 4)
    assert bool(held.replicas.position[:, :, 0, 1].all())
    assert not bool(held.replicas.position[:, :, 1].all())
    free = jnp.zeros((16, 2, 3), bool)
    freed = jax.vmap(lambda state, m: kernel.clamp(SYSTEM.params, state, (m, m)))(held, free)
    np.testing.assert_array_equal(freed.replicas.position, held.replicas.position)
    np.testing.assert_array_equal(freed.rung, held.rung)
    later = run(kernel, freed, 4)
    assert (later.step == 8).all()
    assert not bool(later.replicas.position[:, :, 0, 1].all())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"betas": [1.0, 0.5]}, r"betas is \[1.0, 0.5\]"),
        ({"betas": [-0.5, 1.0]}, "betas is"),
        ({"betas": [0.1, np.nan]}, "betas is"),
        ({"betas": 1.0}, r"betas has shape \(\)"),
        ({"betas": []}, r"betas has shape \(0,\)"),
        ({"swaps": "all"}, "swaps is 'all'"),
        ({"steps_per_swap": 0}, "steps_per_swap is 0"),
        ({"kernel": "gibbs"}, "kernel is 'gibbs'"),
    ],
)
def test_bad_input(change, words, as_shipped):
    arguments = {"kernel": ej.gibbs(SYSTEM.model), "betas": [0.5, 1.0]} | change
    with pytest.raises(ValueError, match=words):
        ej.parallel_tempering(**arguments)


def test_bad_tuning(as_shipped):
    kernel = KERNELS["even_odd"]
    start = SYSTEM.exact_positions(4)
    tune = functools.partial(ej.tune_ladder, jax.random.key(0))
    with pytest.raises(ValueError, match="give one of parallel_tempering"):
        tune(ej.gibbs(SYSTEM.model), SYSTEM.params, start, 100)
    with pytest.raises(ValueError, match="n_steps is 10"):
        tune(kernel, SYSTEM.params, start, 10)
    state = start_at(kernel, start)
    with pytest.raises(ValueError, match="replicas a chain and the ladder 2 rungs"):
        tune(ej.parallel_tempering(ej.gibbs(SYSTEM.model), [0.5, 1.0]), SYSTEM.params, state, 100)
    with pytest.raises(ValueError, match="init is a TemperingState, of another kernel"):
        ej.sample(
            jax.random.key(0), ej.gibbs(SYSTEM.model), SYSTEM.params, state, ej.SamplingSchedule(1, 1, 1)
        )
    with pytest.raises(ValueError, match=r"give that of a run of parallel_tempering, samples\.state"):
        ej.swap_report(kernel, start)
    with pytest.raises(ValueError, match="one ladder needs one beta"):
        tune(kernel, SYSTEM.params, start, 100, beta=jnp.ones(4))
