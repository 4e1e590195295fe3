"""BlackJAX's algorithms as kernels: exact laws at any β and parameters, mutants that must fail, runs in pieces."""

import functools
import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import ebm_jax as ej
from tests import systems
from tests.statistics import ALPHA, assert_plausible
from tests.test_imports import loaded_after

blackjax = pytest.importorskip("blackjax")
bridge = importlib.import_module("ebm_jax.interop.blackjax")
from_blackjax = bridge.from_blackjax

FACTOR = np.array([[1.0, 0, 0], [0.6, 0.8, 0], [-0.5, 0.3, 1.4]])
MEAN, BETA = np.array([1.0, -2.0, 0.5]), 0.4
PARAMS = jnp.asarray(MEAN, jnp.float32), jnp.asarray(np.linalg.inv(FACTOR @ FACTOR.T) / BETA, jnp.float32)
OTHER = jnp.zeros(3), jnp.eye(3) * 4


def gaussian(params, x):
    """At `PARAMS` and `BETA` the law of MEAN + FACTOR z, z standard normal."""
    mean, precision = params
    centred = jnp.concatenate([x["a"], x["b"].ravel()]) - mean
    return 0.5 * centred @ precision @ centred


def chains(n, at=0.0):
    return {"a": jnp.full((n, 2), at), "b": jnp.full((n, 1, 1), at)}


def flat(x):
    return np.concatenate([x["a"], x["b"][..., 0]], axis=-1).astype(float)


ONE = np.ones(3)
normal_random_walk = blackjax.additive_step_random_walk.normal_random_walk
# Of each: the kernel of an energy, and the steps that it needs to forget where it began.
KERNELS = {
    "nuts": (
        lambda e: from_blackjax(
            blackjax.nuts, e, step_size=0.6, inverse_mass_matrix=ONE, max_num_doublings=4
        ),
        8,
    ),
    "hmc": (
        lambda e: from_blackjax(
            blackjax.hmc, e, step_size=0.5, inverse_mass_matrix=ONE, num_integration_steps=4
        ),
        40,
    ),
    "mala": (lambda e: from_blackjax(blackjax.mala, e, step_size=0.2), 200),
    "ghmc": (
        lambda e: from_blackjax(
            blackjax.ghmc, e, step_size=0.4, momentum_inverse_scale=ONE, alpha=0.4, delta=0.1
        ),
        150,
    ),
    "mclmc": (lambda e: from_blackjax(blackjax.mclmc, e, step_size=0.25, L=2.0), 200),
    "adjusted_mclmc": (
        lambda e: from_blackjax(blackjax.adjusted_mclmc, e, step_size=0.7, num_integration_steps=3),
        60,
    ),
    "random walk": (lambda e: from_blackjax(normal_random_walk, e, sigma=0.8 * ONE), 400),
}
each_kernel = pytest.mark.parametrize("name", KERNELS)


def build(name, energy=gaussian):
    make, n_steps = KERNELS[name]
    return make(energy), n_steps


# A few steps take less time than compiling them.
quickly = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def chains_on_two_targets(kernel, key, n_steps, params, betas):
    """Ends of chains with parameters and β of their own, after three steps on another target."""

    def chain(key, params, beta):
        def body(carry, i):
            state, info = carry
            now = jax.tree.map(lambda a, b: jnp.where(i < 3, a, b), OTHER, params)
            state, new = kernel.step(key, now, jnp.where(i < 3, 1.0, beta), state)
            return (state, info.then(new)), None

        start = kernel.init(OTHER, jax.tree.map(lambda leaf: leaf[0], chains(1, 0.5)))
        (state, info), _ = jax.lax.scan(body, (start, ej.types.Info.zero()), jnp.arange(n_steps + 3))
        return state.position, info

    return jax.vmap(chain)(jax.random.split(key, len(betas)), params, betas)


drive, drive_quickly = (jit(chains_on_two_targets, static_argnums=2) for jit in (jax.jit, quickly))


@each_kernel
def test_reaches_the_gaussian_of_these_parameters_and_this_beta(name):
    """Whitened by the known law, chains are independent standard normals in every respect. What a kernel that forgets
    β, or keeps parameters of before, would draw is told apart: the last two groups of chains draw it.
    """
    kernel, n_steps = build(name)
    # Chains side by side wait for the longest tree of NUTS.
    n, few = (1_000, 200) if name == "nuts" else (5_000, 1_000)
    right, wrong = repeat(PARAMS, n + few), repeat(OTHER, few)
    params = jax.tree.map(lambda *parts: jnp.concatenate(parts), right, wrong)
    betas = jnp.repeat(jnp.array([BETA, 1.0, BETA]), jnp.array([n, few, few]))
    driven = drive_quickly if name == "nuts" else drive
    positions, info = driven(kernel, jax.random.key(1), n_steps, params, betas)
    white, *mutants = np.split(np.linalg.solve(FACTOR, (flat(positions) - MEAN).T), [n, n + few], axis=1)
    for i in range(3):
        assert_plausible(2 * stats.norm.sf(abs(white[i].mean()) * n**0.5), "mean")
        assert_plausible(variance_pvalue(white[i]), "variance")
        assert_plausible(stats.kstest(white[i], "norm", method="asymp").pvalue, "quantiles")
        assert_plausible(stats.pearsonr(white[i], white[(i + 1) % 3]).pvalue, "covariance")
    for what, group in zip(("β forgotten", "parameters of before"), mutants, strict=True):
        assert variance_pvalue(group[2]) < ALPHA, what
    assert (info.n_steps == n_steps + 3).all()
    assert (info.n_nonfinite == 0).all()
    if name == "mclmc":
        assert np.isnan(info.acceptance).all()
    else:
        assert 0.3 < np.asarray(info.acceptance)[:n].mean() < 1.0


def repeat(tree, n):
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *leaf.shape)), tree)


def variance_pvalue(white):
    upper = stats.chi2.sf((white**2).sum(), len(white))
    return 2 * min(upper, 1 - upper)


@pytest.mark.parametrize("name", ["hmc", "random walk"])
def test_a_state_holds_nothing_of_its_target(name):
    kernel, _ = build(name)
    x = jax.tree.map(lambda leaf: leaf[0], chains(1, 0.3))
    step = quickly(kernel.step)
    old = kernel.init(OTHER, x)
    moved, _ = step(jax.random.key(3), OTHER, 1.0, old)
    anew = kernel.init(PARAMS, moved.position)._replace(step=moved.step, drawn=moved.drawn)
    one, two = (step(jax.random.key(3), PARAMS, BETA, state) for state in (moved, anew))
    for leaf, other in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(leaf, other)
    assert moved.kept == {}


def test_runs_in_pieces_are_the_whole():
    """Of MCLMC, whose states keep a momentum; the states of others are positions and counters."""
    kernel, _ = build("mclmc")
    # β = 0 is among them: a flat target.
    betas = jnp.linspace(0.0, 1.0, 12)
    go = functools.partial(ej.sample, jax.random.key(2), kernel, PARAMS)
    undivided = go(chains(6), ej.SamplingSchedule(3, 4, 3), beta=betas)
    first = go(chains(6), ej.SamplingSchedule(3, 2, 3), beta=betas[:6])
    second = go(first.state, ej.SamplingSchedule(3, 2, 3), beta=betas[6:])
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), first.positions, second.positions)
    for got, want in ((joined, undivided.positions), (second.state, undivided.state)):
        for leaf, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_array_equal(leaf, other)
    assert np.ptp(flat(undivided.positions), axis=(0, 1)).min() > 0.1


def test_momenta_are_drawn_once_and_kept():
    slow = from_blackjax(blackjax.mclmc, gaussian, step_size=1e-3, L=1e6)
    state = slow.init(PARAMS, jax.tree.map(lambda leaf: leaf[0], chains(1)))
    key, step, norms, momenta = jax.random.key(0), quickly(slow.step), [], []
    for _ in range(3):
        state, _ = step(key, PARAMS, 1.0, state)
        momenta.append(flat(jax.tree.map(lambda leaf: leaf[None], state.kept["momentum"]))[0])
        norms.append(np.linalg.norm(momenta[-1]))
    np.testing.assert_allclose(norms, 1, rtol=1e-5)
    np.testing.assert_allclose(momenta[1], momenta[0], atol=0.02)
    np.testing.assert_allclose(momenta[2], momenta[0], atol=0.02)


def test_new_numbers_compile_nothing_and_new_structure_does(count_traces):
    energy, traces = count_traces(gaussian)

    def go(step_size, mass, length=3, beta=1.0):
        kernel = from_blackjax(
            blackjax.hmc, energy, step_size=step_size, inverse_mass_matrix=mass, num_integration_steps=length
        )
        state = kernel.init(OTHER, jax.tree.map(lambda leaf: leaf[0], chains(1)))
        before = len(traces)
        take_step(kernel, jax.random.key(0), OTHER, beta, state)
        return len(traces) - before

    take_step = quickly(lambda kernel, key, params, beta, state: kernel.step(key, params, beta, state)[0])
    assert go(0.5, ONE) > 0
    assert go(np.float32(0.2), 2 * jnp.ones(3), beta=0.3) == 0
    assert go(0.2, ONE, length=4) > 0


@pytest.mark.parametrize("name", ["nuts", "mclmc", "random walk"])
def test_evaluations_are_counted(name):
    calls = []

    def counted(params, x):
        jax.debug.callback(lambda: calls.append(1))
        return gaussian(params, x)

    kernel, _ = build(name, counted)
    state = kernel.init(OTHER, jax.tree.map(lambda leaf: leaf[0], chains(1, 0.7)))
    state, info = quickly(kernel.steps, static_argnums=4)(jax.random.key(0), OTHER, 1.0, state, 3)
    jax.effects_barrier()
    assert int(info.n_energy) == len(calls)
    assert int(info.n_gradient) == (0 if name == "random walk" else len(calls))


def density(x):
    return -BETA * gaussian(PARAMS, x)


def test_an_algorithm_that_is_built_samples_its_own_target():
    theirs = from_blackjax(blackjax.hmc(density, 0.5, jnp.ones(3), 4))
    ours, _ = build("hmc")
    schedule = ej.SamplingSchedule(2, 3, 2)
    got = ej.sample(jax.random.key(0), theirs, None, chains(4), schedule).positions
    want = ej.sample(jax.random.key(0), ours, PARAMS, chains(4), schedule, beta=BETA).positions
    np.testing.assert_allclose(flat(got), flat(want), atol=1e-5)
    with pytest.raises(ej.NonFiniteError):
        ej.sample(jax.random.key(0), theirs, None, chains(4), schedule, beta=0.5)


def test_numbers_that_window_adaptation_finds_are_settings():
    warmup = blackjax.window_adaptation(blackjax.hmc, density, num_integration_steps=3)
    x = jax.tree.map(lambda leaf: leaf[0], chains(1))
    (state, parameters), _ = warmup.run(jax.random.key(0), x, num_steps=100)
    kernel = from_blackjax(blackjax.hmc, gaussian, **parameters)
    start = jax.tree.map(lambda leaf: leaf[None], state.position)
    samples = ej.sample(jax.random.key(1), kernel, PARAMS, start, ej.SamplingSchedule(1, 100, 1), beta=BETA)
    assert 0.5 < float(samples.info.acceptance[0]) < 1


def ours():
    ising = systems.get("ising_3x3")
    spins = jax.tree.map(lambda leaf: leaf[5], ising.all_positions())
    x = jax.tree.map(lambda leaf: leaf[0], chains(1, 0.5))
    return {
        "gibbs": (ej.gibbs(ising.model), ising.params, spins),
        "metropolis": (ej.metropolis(ising.model), ising.params, spins),
        "ula": (ej.ula(gaussian, 0.1), PARAMS, x),
        "mala": (ej.mala(gaussian, 0.3), PARAMS, x),
        "hmc": (ej.hmc(gaussian, 0.3, 3), PARAMS, x),
        "mclmc": (build("mclmc")[0], PARAMS, x),
    }


@pytest.mark.parametrize("name", ["gibbs", "metropolis", "ula", "mala", "hmc", "mclmc"])
def test_blackjax_drives_bound_kernels(name):
    """Its loop hands every step a key of its own, and takes up states where it left them."""
    kernel, params, x = ours()[name]
    drive = functools.partial(
        blackjax.util.run_inference_algorithm, jax.random.key(4), kernel.bind(params, BETA), 7
    )
    state, (states, infos) = drive(initial_position=x)
    assert int(state.step) == 7
    np.testing.assert_array_equal(infos.n_steps, np.ones(7))
    leaves = zip(*map(jax.tree.leaves, (states.position, x)), strict=True)
    assert all((np.diff(leaf, axis=0) != 0).any() and leaf.dtype == old.dtype for leaf, old in leaves)
    if name == "mala":
        # Its loop splits off a key to start with.
        key = jax.random.split(jax.random.key(4))[0]
        again, _ = blackjax.util.run_inference_algorithm(
            key, kernel.bind(params, BETA), 7, initial_state=state
        )
        assert int(again.step) == 14


def of(algorithm, **settings):
    return lambda: run(from_blackjax(algorithm, gaussian, **settings), PARAMS, chains(2))


mala = functools.partial(from_blackjax, blackjax.mala, step_size=0.1)
built = blackjax.mala(lambda x: -(x**2).sum(), 0.1)


def run(kernel, params, x, **kwargs):
    return ej.sample(jax.random.key(0), kernel, params, x, ej.SamplingSchedule(1, 1, 1), **kwargs)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: from_blackjax("nuts", gaussian), "algorithm is 'nuts'"),
        (lambda: from_blackjax(blackjax.nuts, step_size=0.1), "energy is None"),
        (lambda: mala(gaussian, step_size=float("nan")), "a setting is nan"),
        (lambda: from_blackjax(built, gaussian), "built already"),
        (lambda: from_blackjax(built, step_size=0.1), "built already"),
        (lambda: from_blackjax(blackjax.elliptical_slice, gaussian, mean=0.0, cov=ONE), "Gaussian prior"),
        (
            of(
                blackjax.orbital_hmc,
                step_size=0.1,
                inverse_mass_matrix=ONE,
                period=3,
                bijection=blackjax.mcmc.integrators.velocity_verlet,
            ),
            "without a position",
        ),
        (lambda: run(from_blackjax(built), jnp.ones(2), jnp.ones((2, 3))), "params=None"),
        (
            lambda: (
                from_blackjax(built)
                .bind(None, 0.5)
                .step(jax.random.key(0), from_blackjax(built).init(None, jnp.ones(3)))
            ),
            "beta is 0.5",
        ),
        (
            lambda: run(
                mala(gaussian), PARAMS, chains(2), clamped=(jax.tree.map(jnp.isnan, chains(2)), chains(2))
            ),
            "move every element",
        ),
        (lambda: mala(gaussian).init(PARAMS, chains(1), clamped=()), "move every element"),
        (lambda: run(mala(lambda p, x: x), None, jnp.ones((2, 3))), "must give a scalar"),
        (lambda: run(mala(lambda p, x: x.sum()), None, jnp.ones((2, 3), int)), "int32"),
        (lambda: run(mala(gaussian), PARAMS, chains(2, jnp.nan)), "nan"),
        (
            lambda: run(
                from_blackjax(blackjax.mclmc, lambda p, x: x**2, L=1.0, step_size=0.1), None, jnp.ones(4)
            ),
            "more than 1 dimension",
        ),
    ],
)
def test_bad_input(act, words, as_shipped):
    with pytest.raises(ValueError, match=words):
        act()


def test_states_with_fields_of_unknown_meaning_are_refused(as_shipped):
    covariance = np.eye(3)
    kernel = from_blackjax(
        blackjax.mgrad_gaussian,
        lambda p, x: (x**2).sum(),
        covariance=covariance,
        mean=np.zeros(3),
        step_size=0.1,
    )
    with pytest.raises(ValueError, match="keeps U_grad_x, U_x in its states"):
        run(kernel, None, jnp.ones((2, 3)))


def test_blackjax_is_loaded_when_asked_for_and_its_absence_is_said_with_the_remedy(monkeypatch):
    assert "blackjax" not in loaded_after("import ebm_jax.interop; dir(ebm_jax.interop)")
    monkeypatch.delitem(sys.modules, "ebm_jax.interop.blackjax")
    monkeypatch.delattr(ej.interop, "blackjax")
    monkeypatch.setitem(sys.modules, "blackjax", None)
    with pytest.raises(ImportError, match=r"pip install 'ebm-jax\[blackjax\]'"):
        ej.interop.blackjax


def test_says_what_is_not_exact():
    assert not bridge.from_blackjax(blackjax.mclmc, lambda p, x: x @ x, L=1.0, step_size=0.1).exact
    assert from_blackjax(
        blackjax.nuts, lambda p, x: x @ x, step_size=0.1, inverse_mass_matrix=jnp.ones(2)
    ).exact
