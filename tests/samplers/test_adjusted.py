"""MALA and HMC: exact laws, mutants that must fail, β, caches, and proposals without a finite energy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import ebm_jax as ej
from ebm_jax.samplers import hmc as hmc_module
from ebm_jax.samplers.acceptance import AcceptRejectKernel, digest_of
from tests.statistics import ALPHA, assert_other_law, assert_plausible, assert_same_law

N = 200_000
BETA = 1.3
EDGES = np.linspace(-1.6, 1.6, 25)

KERNELS = {
    "mala": lambda energy, size, **k: ej.mala(energy, size, **k),
    "hmc": lambda energy, size, **k: ej.hmc(energy, size, 4, **k),
    "hmc, random length": lambda energy, size, **k: ej.hmc(energy, size, 4, random_length=True, **k),
}
each_kernel = pytest.mark.parametrize("name", KERNELS)


def double_well(params, x):
    return params * (x**2 - 1) ** 2 + 0.3 * x


def exact(beta):
    """Returns (probabilities of the bins, N exact draws) of the double well, by quadrature on a fine grid."""
    grid = np.linspace(-3, 3, 600_001)
    density = np.exp(-beta * (2 * (grid**2 - 1) ** 2 + 0.3 * grid))
    cumulative = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    cumulative /= cumulative[-1]
    levels = np.random.default_rng(0).uniform(size=N)
    probabilities = np.diff(np.concatenate([[0], np.interp(EDGES, grid, cumulative), [1]]))
    return probabilities, jnp.asarray(np.interp(levels, cumulative, grid), jnp.float32)


def counts(x):
    return np.bincount(np.searchsorted(EDGES, np.asarray(x)), minlength=len(EDGES) + 1)


def run(kernel, params, x, n_steps=1, beta=1.0, key=0, **kwargs):
    schedule = ej.SamplingSchedule(n_steps, 1, n_steps)  # one loop to compile
    return ej.sample(jax.random.key(key), kernel, params, x, schedule, beta=beta, **kwargs)


@functools.partial(jax.jit, static_argnums=4)
def drive(key, kernel, params, x, n_steps, beta=1.0, step=0):
    """What `sample` does, in one compilation; the counters start at `step`."""
    n = jax.tree.leaves(x)[0].shape[0]
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(key), jnp.arange(n))
    states = jax.vmap(functools.partial(kernel.init, params))(x)
    states = states._replace(step=jnp.broadcast_to(jnp.uint32(step), (n,)))
    return kernel.packed_steps(keys, params, beta, states, n_steps)


def well(name):
    """A kernel with an energy of its own, so that nothing compiled for another test is used."""
    return KERNELS[name](lambda params, x: double_well(params, x), 0.45 if name == "mala" else 0.3)


MUTANTS = {
    "none": lambda ratio, change: ratio,
    "accept always": lambda ratio, change: ratio * 0,
    "wrong sign of the correction": lambda ratio, change: -2 * BETA * change - ratio,
    "no correction": lambda ratio, change: -BETA * change,
    "β forgotten": lambda ratio, change: ratio + (BETA - 1) * change,
}


@each_kernel
def test_a_step_leaves_the_double_well_invariant_and_its_mutants_do_not(name, monkeypatch):
    """Exact draws stay exact, and do move. One compilation for all: a chain whose counter starts at i follows mutant i,
    and the last sixth has a β of its own.
    """
    decide = AcceptRejectKernel.decide

    def changed(self, state, word, ratio, proposal, finite, n_gradient):
        ratios = jnp.stack([mutant(ratio, proposal[1] - state.energy) for mutant in MUTANTS.values()])
        return decide(self, state, word, ratios[state.step], proposal, finite, n_gradient)

    monkeypatch.setattr(AcceptRejectKernel, "decide", changed)
    kernel, n = well(name), N // 2
    cold, warm = exact(BETA), exact(0.5)
    start = jnp.concatenate([*[cold[1][:n]] * 5, warm[1][:n]])
    mutant = jnp.repeat(jnp.array([0, 1, 2, 3, 4, 0], jnp.uint32), n)
    betas = jnp.repeat(jnp.array([BETA] * 5 + [0.5]), n)[None]
    after, info = drive(5, kernel, 2.0, start, 1, betas, mutant)
    *groups, warm_group = np.split(np.asarray(after.position), 6)
    assert_same_law(counts(groups[0]), cold[0], name)
    assert_same_law(counts(warm_group), warm[0], name)
    rate = float(info.acceptance[:n].mean())
    assert 0.25 < rate < 0.97
    assert float((after.position != start)[:n].mean()) == pytest.approx(rate)
    assert ((after.position > 0) != (start > 0))[:n].any()
    assert (info.n_energy == 1).all()
    gradients = np.asarray(info.n_gradient)
    if name == "hmc, random length":
        assert_same_law(np.bincount(gradients - 1, minlength=4), np.full(4, 0.25), "length")
    else:
        assert (gradients == (1 if name == "mala" else 4)).all()
    for what, group in list(zip(MUTANTS, groups, strict=True))[1:]:
        assert_other_law(counts(group), cold[0], what)


def test_momenta_that_are_never_drawn_anew_are_caught(monkeypatch):
    draws = hmc_module.normals_and_words

    def stale(key, step, like):
        noise, _, _ = draws(key, jnp.zeros_like(step), like)
        return noise, *draws(key, step, like)[1:]

    monkeypatch.setattr(hmc_module, "normals_and_words", stale)
    probabilities, start = exact(BETA)
    after, _ = drive(0, well("hmc"), 2.0, start, 4, BETA)
    assert_other_law(counts(after.position), probabilities, "momenta kept")


def gaussian(params, x):
    mean, precision = params
    centred = jnp.concatenate([x["a"], x["b"].ravel()]) - mean
    return 0.5 * centred @ precision @ centred


@pytest.mark.parametrize("name", ["mala", "hmc"])
def test_reaches_a_gaussian_with_its_mean_and_covariance(name):
    """From a point: whitened by the known law, 20,000 chains are independent standard normals in every respect."""
    factor = np.array([[1.0, 0, 0], [0.6, 0.8, 0], [-0.5, 0.3, 1.4]])
    mean, beta = np.array([1.0, -2.0, 0.5]), 0.8
    precision = np.linalg.inv(factor @ factor.T) / beta
    metric = {"a": jnp.array([1.2, 0.9]), "b": jnp.array([[1.5]])}
    inverse = jax.tree.map(lambda m: 1 / m, metric)
    numbers = {"preconditioner": metric} if name == "mala" else {"mass": inverse}
    n_steps = 120 if name == "mala" else 40
    kernel = KERNELS[name](gaussian, 0.75 if name == "mala" else 0.5, **numbers)
    start = {"a": jnp.full((20_000, 2), 1.5), "b": jnp.zeros((20_000, 1, 1))}
    params = jnp.asarray(mean, jnp.float32), jnp.asarray(precision, jnp.float32)
    x = drive(0, kernel, params, start, n_steps, beta)[0].position
    x = np.concatenate([x["a"], x["b"][:, 0]], axis=-1).astype(float)
    white = np.linalg.solve(factor, (x - mean).T)
    for i in range(3):
        n = white.shape[1]
        assert_plausible(2 * stats.norm.sf(abs(white[i].mean()) * n**0.5), "mean")
        upper = stats.chi2.sf((white[i] ** 2).sum(), n)
        assert_plausible(2 * min(upper, 1 - upper), "variance")
        assert_plausible(stats.kstest(white[i], "norm").pvalue, "quantiles")
        assert_plausible(stats.pearsonr(white[i], white[(i + 1) % 3]).pvalue, "covariance")
    assert stats.kstest(white[0] * beta**0.5, "norm").pvalue < ALPHA


def rough(params, x):
    return (
        jnp.sum(jnp.cos(params * x["a"])) + jnp.sum(x["a"] ** 2) + 0.5 * jnp.sum(x["b"] ** 4) * x["a"][0] ** 2
    )


def test_refresh_makes_states_of_new_parameters_and_keeps_bits_of_old_ones():
    kernel = ej.mala(rough, 0.3)
    x = {"a": jax.random.normal(jax.random.key(1), (6, 3)), "b": jnp.ones(6)}
    mask = {"a": jnp.arange(3) == jnp.arange(6)[:, None] % 4, "b": jnp.zeros(6, bool)}
    old, new = (jax.vmap(functools.partial(kernel.init, p))(x, (mask, x)) for p in (3.0, 3.1))
    moved = kernel.refresh(3.1, old)
    for leaf, fresh in zip(jax.tree.leaves(moved), jax.tree.leaves(new), strict=True):
        np.testing.assert_allclose(leaf, fresh, rtol=1e-6, atol=1e-6)
    assert (moved.gradient["a"][mask["a"]] == 0).all()
    rounded = old._replace(energy=old.energy * (1 + 1e-6))
    np.testing.assert_array_equal(kernel.refresh(3.0, rounded).energy, rounded.energy)
    other = ej.mala(lambda p, x: rough(p, x) + 1.0, 0.3)  # the same parameters of another energy
    np.testing.assert_allclose(other.refresh(3.0, old).energy, old.energy + 1, rtol=1e-6)


def test_digests_tell_parameters_apart():
    base = {"w": jnp.arange(6.0), "b": jnp.zeros(3)}
    swapped = base["w"].at[:2].set(jnp.array([1.0, 0.0]))
    variants = [
        base,
        {"w": swapped, "b": jnp.zeros(3)},
        {"w": jnp.arange(6.0), "b": jnp.array([0.0, 0.0, -0.0])},
        {"w": jnp.nextafter(base["w"], jnp.inf), "b": jnp.zeros(3)},
        (jnp.arange(3.0), jnp.array([True]), jnp.arange(3, dtype=jnp.int8), jax.random.key(3)),
        (jnp.arange(3.0), jnp.array([False]), jnp.arange(3, dtype=jnp.int8), jax.random.key(3)),
        (jnp.arange(3.0), jnp.array([False]), jnp.arange(3, dtype=jnp.int8), jax.random.key(4)),
    ]
    digests = {tuple(np.asarray(digest_of(variant)).tolist()) for variant in variants}
    assert len(digests) == len(variants)
    np.testing.assert_array_equal(jax.jit(digest_of)(base), digest_of(base))
    np.testing.assert_array_equal(digest_of(3.0), digest_of(jnp.float32(3.0)))


def half_line(params, x):
    """E = x for x > 0, and +∞, NaN or −∞ elsewhere, as `params` is 1, 0 or −1."""
    return jnp.where(x > 0, x, params / jnp.zeros(()))


@pytest.mark.parametrize("outside", [1.0, 0.0, -1.0])
@pytest.mark.parametrize("name", ["mala", "hmc"])
def test_proposals_without_a_finite_energy_are_rejected_and_counted(name, outside):
    """The law is exponential, and no run fails."""
    kernel = KERNELS[name](half_line, 0.9 if name == "mala" else 0.25)
    start = jax.random.exponential(jax.random.key(9), (N // 2,))
    after = run(kernel, outside, start, 2)
    x = np.asarray(after.positions[0])
    assert (x > 0).all()
    assert_plausible(stats.kstest(x, "expon").pvalue, "exponential")
    refused = np.asarray(after.info.n_nonfinite)
    assert 0.03 < refused.mean() < 1.0
    assert (refused + np.asarray(after.info.n_accepted) <= 2).all()
    np.testing.assert_array_equal(np.asarray(after.info.first_nonfinite) > 0, refused > 0)


def test_agrees_with_blackjax_in_law():
    """One step from the same exact starts of a 100-dimensional Gaussian: acceptance and energies, by quantiles."""
    blackjax = pytest.importorskip("blackjax")
    scales = jnp.geomspace(0.5, 2.0, 100)
    energy = lambda params, x: 0.5 * jnp.sum((x / params) ** 2)  # noqa: E731
    start = jax.random.normal(jax.random.key(1), (4000, 100)) * scales
    keys = jax.random.split(jax.random.key(2), 4000)
    pairs = [
        (ej.mala(energy, 0.45), blackjax.mala(lambda x: -energy(scales, x), 0.45**2 / 2)),
        (
            ej.hmc(energy, 0.35, 4, jitter=0),
            blackjax.hmc(lambda x: -energy(scales, x), 0.35, jnp.ones(100), 4),
        ),
    ]
    for ours, theirs in pairs:
        states = jax.vmap(functools.partial(ours.init, scales))(start)
        step = jax.jit(jax.vmap(ours.step_with_acceptance, (0, None, None, 0)))
        after, _, accepted = step(keys, scales, 1.0, states)
        other, info = jax.jit(jax.vmap(theirs.step))(keys, jax.vmap(theirs.init)(start))
        assert 0.3 < accepted.mean() < 0.9
        assert_plausible(stats.ks_2samp(accepted, info.acceptance_rate).pvalue, "acceptance")
        change = np.asarray(after.energy - states.energy), np.asarray(-other.logdensity - states.energy)
        assert_plausible(stats.ks_2samp(*change).pvalue, "energies")


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ej.mala(gaussian, 0.0), "step_size is 0.0; give a finite number greater than 0"),
        (lambda: ej.hmc(gaussian, -0.1, 3), "step_size is -0.1; give a finite number greater than 0"),
        (lambda: ej.hmc(gaussian, 0.1, 0), "n_leapfrog is 0"),
        (lambda: ej.hmc(gaussian, 0.1, 2, jitter=1.0), "jitter is 1.0"),
        (lambda: ej.hmc(gaussian, 0.1, 2, mass=jnp.array([1.0, -1.0])), "mass holds -1.0"),
        (lambda: ej.mala(3.0, 0.1), "energy is 3.0"),
        (lambda: run(ej.mala(double_well, 0.1), 1.0, jnp.zeros(4, jnp.bfloat16)), "bfloat16"),
        (lambda: run(ej.mala(double_well, 0.1), 1.0, jnp.zeros(4, int)), "int32"),
        (lambda: run(ej.mala(lambda p, x: 1 / x, 0.1), 1.0, jnp.array([1.0, 0.0])), "chain 1 starts where"),
        (lambda: run(ej.mala(double_well, 0.1, preconditioner=jnp.ones(3)), 1.0, jnp.ones(4)), "fits"),
    ],
)
def test_bad_input(build, words, as_shipped):
    with pytest.raises(ValueError, match=words):
        build()
