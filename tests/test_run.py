"""The loop: schedules, continuing, observing, clamping, tracing and refusing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from ebm_jax import run
from tests import systems

MODEL = ej.Potts(ej.Grid(3, 4), 3)
PARAMS = systems.draw_params(MODEL)
KEY = jax.random.key(7)
START = ej.init_chains(jax.random.key(0), MODEL, 5)
# Gibbs packs its chains and takes four times as long to compile.
GIBBS = ej.gibbs(MODEL)
KERNEL = ej.metropolis(MODEL)


def sample(schedule, init=START, kernel=KERNEL, **kwargs):
    return ej.sample(KEY, kernel, PARAMS, init, ej.SamplingSchedule(*schedule), **kwargs)


step_alone = jax.jit(lambda kernel, *arguments: kernel.step(*arguments))


def by_hand(n_steps, beta=1.0, kernel=KERNEL):
    """Positions of every chain after 0, 1, … n_steps steps, one chain and one step at a time."""
    step = functools.partial(step_alone, kernel)
    rows = []
    for i in range(5):
        key, state = jax.random.fold_in(KEY, i), kernel.init(PARAMS, START[i])
        trace = [state.position]
        for t in range(n_steps):
            state, _ = step(key, PARAMS, jnp.broadcast_to(beta, (n_steps,))[t], state)
            trace.append(state.position)
        rows.append(np.stack(trace))
    return np.stack(rows, axis=1)


@pytest.mark.parametrize(
    ("schedule", "kernel"),
    [
        *(
            (schedule, KERNEL)
            for schedule in [(0, 1, 1), (0, 4, 1), (2, 3, 2), (1, 3, 4), (4, 1, 3), (3, 0, 1)]
        ),
        ((1, 3, 4), GIBBS),
    ],
)
def test_samples_are_the_chain_at_the_schedules_steps(schedule, kernel):
    warmup, n, every = schedule
    trace = by_hand(warmup + max(n - 1, 0) * every, kernel=kernel)
    samples = sample(schedule, kernel=kernel)
    assert samples.positions.shape == (n, 5, 3, 4)
    np.testing.assert_array_equal(samples.positions, trace[warmup::every][:n])
    np.testing.assert_array_equal(samples.state.position, trace[-1])
    assert (samples.info.n_steps == len(trace) - 1).all()
    assert (samples.state.step == len(trace) - 1).all()


def test_beta_may_change_at_every_step():
    betas = jnp.linspace(0.1, 3.0, 8)
    for kernel in (KERNEL, GIBBS):
        samples = sample((2, 4, 2), beta=betas, kernel=kernel)
        np.testing.assert_array_equal(samples.positions, by_hand(8, betas, kernel)[2::2])


def test_chunked_equals_whole_and_progress_changes_no_bit(capsys):
    whole = sample((3, 7, 2), observe=MODEL.energy)
    first = sample((3, 3, 2))
    second = sample((2, 4, 2), init=first.state)
    np.testing.assert_array_equal(whole.positions, np.concatenate([first.positions, second.positions]))
    shown = sample((3, 7, 2), observe=MODEL.energy, progress=True)
    assert_equal(whole, shown)
    assert "7/7" in capsys.readouterr().err


def test_number_of_chains_changes_no_bit():
    many, few = (sample((1, 3, 4), init=init, kernel=GIBBS).positions for init in (START, START[:2]))
    np.testing.assert_array_equal(many[:, :2], few)


def test_observers():
    samples = sample((2, 4, 2), observe=MODEL.energy)
    energies = jax.vmap(jax.vmap(lambda x: MODEL.energy(PARAMS, x)))(samples.positions)
    np.testing.assert_allclose(samples.observed, energies, rtol=1e-5)
    mean = ej.Observer(
        lambda params, x: (0, jnp.zeros(())),
        lambda carry, params, x: (carry[0] + 1, carry[1] + MODEL.energy(params, x)),
        lambda carry: carry[1] / carry[0],
    )
    for progress in (False, True):
        reduced = sample((2, 4, 2), observe=mean, progress=progress)
        assert reduced.positions is None
        np.testing.assert_allclose(reduced.observed, energies.mean(axis=0), rtol=1e-5)


# Of the two tests of clamped chains, which share a program.
CLAMPED = (2, 3, 2)


def test_clamping_is_traced_and_kept_when_continuing():
    mask = jnp.zeros((3, 4), bool).at[0].set(True)
    values = jnp.full((3, 4), 2, jnp.uint8)
    go = functools.partial(sample, CLAMPED, kernel=GIBBS)
    first = go(clamped=(mask, values))
    programs = run._run._cache_size()
    assert (first.positions[:, :, 0] == 2).all()
    second = go(init=first.state)
    assert (second.positions[:, :, 0] == 2).all()
    moved = go(init=first.state, clamped=(~mask, values))
    assert (moved.positions[:, :, 1:] == 2).all()
    assert (moved.state.step == first.state.step + 6).all()
    per_chain = jnp.arange(5)[:, None, None] == jnp.zeros((3, 4))
    some = go(clamped=(per_chain, jnp.broadcast_to(values, START.shape)))
    assert (some.positions[0, 0] == 2).all()
    assert not (some.positions[0, 1:] == 2).all()
    assert run._run._cache_size() == programs


def test_one_compilation_for_new_numbers():
    mask, values = jnp.zeros((3, 4), bool), START[0]
    programs = []
    for i in range(4):
        ej.sample(
            jax.random.key(i),
            ej.gibbs(ej.Potts(ej.Grid(3, 4), 3)),
            systems.draw_params(MODEL, i),
            ej.init_chains(jax.random.key(i), MODEL, 5),
            ej.SamplingSchedule(*CLAMPED),
            beta=0.5 + i,
            clamped=(mask.at[0, 0].set(i % 2 == 0), values),
        )
        programs.append(run._run._cache_size())
    assert len(set(programs)) == 1


def test_runs_inside_jit_and_vmap():
    def energy(key, params, beta):
        samples = ej.sample(
            key, GIBBS, params, START, ej.SamplingSchedule(1, 2), beta=beta, observe=MODEL.energy
        )
        return samples.observed

    betas = jnp.array([0.5, 1.0])
    several = jax.jit(jax.vmap(energy, (None, None, 0)))
    mapped = several(KEY, PARAMS, betas)
    alone = sample((1, 2), observe=MODEL.energy, kernel=GIBBS).observed
    np.testing.assert_allclose(mapped[1], alone, rtol=1e-5)
    broken = jax.tree.map(lambda p: p * jnp.nan, PARAMS)
    assert several(KEY, broken, betas).shape == (2, 2, 5)  # values cannot be looked at while tracing
    with pytest.raises(ValueError, match="shape"):
        jax.jit(energy)(KEY, PARAMS._replace(bias=PARAMS.bias[:2]), 1.0)


def test_rbm_positions_and_dtypes_are_kept():
    model = ej.RBM(5, 3)
    params, start = systems.draw_params(model), ej.init_chains(jax.random.key(1), model, 4)
    for dtype in (jnp.uint8, jnp.bool_):
        x = jax.tree.map(lambda leaf, d=dtype: leaf.astype(d), start)
        for kernel in (ej.gibbs(model), ej.metropolis(model)):
            samples = ej.sample(KEY, kernel, params, x, ej.SamplingSchedule(1, 2, 1))
            assert [leaf.dtype for leaf in samples.positions] == [dtype, dtype]
            assert [leaf.shape for leaf in samples.positions] == [(2, 4, 5), (2, 4, 3)]


NAN = jnp.nan
GRID_MASK = (jnp.zeros((3, 4), bool), jnp.zeros((3, 4), jnp.uint8))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"init": START.astype(jnp.int32) - 9}, "dtype int32"),
        ({"init": START[0]}, r"\(n_chains, 3, 4\)"),
        ({"init": START[:, :2]}, r"\(n_chains, 3, 4\)"),
        ({"init": START[:0]}, "n_chains"),
        ({"init": START + 3}, "level 5; levels run from 0 to 2"),
        ({"init": (START, START)}, "structure"),
        ({"init": ej.Samples(START, None, None, None)}, "give its .state"),
        ({"kernel": MODEL}, "kernel is Potts"),
        ({"beta": None}, "beta is None"),
        ({"params": PARAMS._replace(bias=np.full((3, 4, 3), 1e39))}, "params.bias holds 1e"),
        ({"params": PARAMS._replace(bias=PARAMS.bias * NAN)}, r"params.bias holds nan at index \(0, 0, 0\)"),
        ({"params": PARAMS._replace(coupling=PARAMS.coupling[:1])}, "params.coupling has shape"),
        ({"params": PARAMS._replace(coupling=jnp.array([1, 2]))}, "int32"),
        ({"params": tuple(PARAMS)}, "structure"),
        ({"clamped": (GRID_MASK[0][:2], GRID_MASK[1])}, "mask has shape"),
        ({"clamped": (GRID_MASK[1], GRID_MASK[1])}, "mask has dtype uint8"),
        ({"clamped": (GRID_MASK[0], GRID_MASK[0])}, "values has dtype bool"),
        ({"clamped": (GRID_MASK[0], GRID_MASK[1] + 9)}, "clamped values holds level 9"),
        ({"clamped": GRID_MASK[0]}, "mask, values"),
        ({"beta": jnp.ones(3)}, "4 steps"),
        ({"beta": NAN}, "beta holds nan"),
        ({"key": jax.random.PRNGKey(0)}, "jax.random.key"),
        ({"key": jax.random.split(KEY)}, "single key"),
        ({"schedule": 10}, "SamplingSchedule"),
        ({"on_nonfinite": "ignore"}, "'ignore'"),
        ({"mesh": "all"}, "mesh=None"),
        ({"observe": 3}, "observe is 3"),
    ],
)
def test_bad_input_is_refused_before_any_work(change, words, as_shipped):
    good = {
        "key": KEY,
        "kernel": KERNEL,
        "params": PARAMS,
        "init": START,
        "schedule": ej.SamplingSchedule(2, 2, 2),
    }
    before = run._run._cache_size()
    with pytest.raises(ValueError, match=words):
        ej.sample(**(good | change))
    assert run._run._cache_size() == before


def test_init_chains(as_shipped):
    start = ej.init_chains(jax.random.key(0), ej.Ising(ej.Grid(2, 3)), 1000)
    assert start.shape == (1000, 2, 3)
    assert 0.4 < float(start.mean()) < 0.6
    with pytest.raises(ValueError, match="n_chains is 0"):
        ej.init_chains(jax.random.key(0), MODEL, 0)
    with pytest.raises(ValueError, match="arrays of your own"):
        ej.init_chains(jax.random.key(0), lambda p, x: 0.0, 3)


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
