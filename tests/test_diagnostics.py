"""Diagnostics agree with ArviZ and with what is known of AR(1) chains; observers agree with stored samples."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arviz_stats import __version__ as arviz_version
from arviz_stats.base import array_stats as arviz
from scipy import stats

import ebm_jax as ej
from ebm_jax import diagnostics
from ebm_jax.diagnostics import estimators
from ebm_jax.diagnostics import stored as of_stored_draws
from tests import oracles, systems
from tests.statistics import assert_plausible

MODEL = ej.Ising(ej.Grid(4, 4))
PARAMS = systems.draw_params(MODEL, scale=0.3)
START = ej.init_chains(jax.random.key(0), MODEL, 4)


def ar1(phi, n, m, *event, seed=0):
    """Stationary AR(1) chains of unit variance, (n, m, *event)."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(n, m, *event))
    x = np.empty_like(noise)
    x[0] = noise[0]
    for t in range(1, n):
        x[t] = phi * x[t - 1] + np.sqrt(1 - phi**2) * noise[t]
    return x


def run_ising(n_samples, observe=MODEL.energy, **kwargs):
    schedule = ej.SamplingSchedule(n_warmup=1, n_samples=n_samples, steps_per_sample=1)
    return ej.sample(jax.random.key(1), ej.gibbs(MODEL), PARAMS, START, schedule, observe=observe, **kwargs)


# Most of what these tests take is compiling.
quickly = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@quickly
def everything(x):
    return {
        "bulk": diagnostics.effective_sample_size(x),
        "tail": diagnostics.effective_sample_size(x, "tail"),
        "mean": diagnostics.effective_sample_size(x, "mean"),
        "rank": diagnostics.r_hat(x),
        "z_scale": diagnostics.r_hat(x, "bulk"),
        "folded": diagnostics.r_hat(x, "tail"),
        "mcse": diagnostics.mcse(x),
        "mcse_sd": diagnostics.mcse(x, "sd"),
        "median": diagnostics.mcse(x, "quantile", 0.5),
        "decile": diagnostics.mcse(x, "quantile", 0.1),
    }


def by_arviz(x):
    y = np.moveaxis(np.asarray(x, float), (1, 0), (-2, -1))
    with warnings.catch_warnings():
        # Zero over zero.
        warnings.simplefilter("ignore")
        return {
            "bulk": arviz.ess(y, method="bulk"),
            "tail": arviz.ess(y, method="tail", prob=(0.05, 0.95)),
            "mean": arviz.ess(y, method="mean"),
            "rank": arviz.rhat(y, method="rank"),
            "z_scale": arviz.rhat(y, method="z_scale"),
            "folded": arviz.rhat(y, method="folded"),
            "mcse": arviz.mcse(y, method="mean"),
            "mcse_sd": mcse_of_sd(y),
            "median": arviz.mcse(y, method="quantile", prob=0.5),
            "decile": arviz.mcse(y, method="quantile", prob=0.1),
        }


def mcse_of_sd(y):
    """The error of the sd in units where draws are of order one: ArviZ takes squares that differ by 1e-15 for equal."""
    deviations = y - y.mean(axis=(-2, -1), keepdims=True)
    scale = np.abs(deviations).max(axis=(-2, -1), keepdims=True)
    unit = deviations / scale
    return scale[..., 0, 0] * oracles.mcse_of_sd(unit, arviz.ess(unit, method="sd"))


def test_the_error_of_an_sd_is_that_of_the_newer_arviz():
    y = np.sin(0.1 * np.arange(240.0) ** 1.5).reshape(4, 60)
    # The numbers are what arviz-stats 1.3.3 and 0.8.0 give.
    newer, older = 0.010284, 0.015305
    assert mcse_of_sd(y) == pytest.approx(newer, rel=1e-4)
    installed = newer if int(arviz_version.split(".")[0]) >= 1 else older
    assert arviz.mcse(y, method="sd") == pytest.approx(installed, rel=1e-4)
    assert diagnostics.mcse(y.T, "sd") == pytest.approx(newer, rel=1e-3)


def kinds_of_draws(n, m):
    """Columns: AR(1) of several φ, far from zero, at tiny and huge scales, with ties, with a trend, apart, heavy."""
    chains = [ar1(phi, n, m, seed=i) for i, phi in enumerate([-0.6, 0.0, 0.3, 0.9, 0.99])]
    x = chains[2]
    chains += [3 * x + 1e4, 1e-12 * x, 1e15 * x, np.round(x), np.round(3 * x), x > 0, x > 1]
    chains += [x + np.linspace(0, 3, n)[:, None], x + np.arange(m), np.tan(1.5 * np.tanh(x))]
    columns = np.stack([np.asarray(c, np.float32) for c in chains], axis=-1)
    moved = (columns != columns[0, 0]).any(axis=(0, 1))
    # ArviZ calls constants independent.
    return np.where(moved, columns, columns[..., :1])


@pytest.mark.parametrize(("n", "m"), [(4, 2), (5, 4), (7, 1), (11, 2), (301, 4)])
def test_numbers_are_those_of_arviz(n, m):
    x = kinds_of_draws(n, m)
    got, want = everything(x), by_arviz(x)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-3, err_msg=name)
    assert m > 1 or np.isnan(got["rank"]).all()


def test_numbers_are_those_of_arviz_for_chains_of_this_package():
    samples = run_ising(301)
    few = samples.positions.reshape(301, 4, 16)[..., :14].astype(jnp.float32)
    # As many quantities as above, for which everything is compiled already.
    x = jnp.concatenate([samples.observed[..., None], few], axis=-1)
    got, want = everything(x), by_arviz(x)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-3, err_msg=name)

    # Spins are bool, (4, 4) an event.
    summary = diagnostics.summarize(samples._replace(observed=None))
    want, spins = by_arviz(samples.positions), np.asarray(samples.positions, float)
    np.testing.assert_allclose(summary.mean, spins.mean(axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(summary.sd, spins.std(axis=(0, 1), ddof=1), rtol=1e-5)
    for ours, theirs in [("mcse", "mcse"), ("ess_bulk", "bulk"), ("ess_tail", "tail"), ("r_hat", "rank")]:
        np.testing.assert_allclose(getattr(summary, ours), want[theirs], rtol=1e-3, err_msg=ours)


def test_autocorrelation_is_that_of_arviz_and_has_the_right_lags():
    x = kinds_of_draws(51, 2)
    want = np.moveaxis(arviz.autocorr(np.moveaxis(np.asarray(x, float), 0, -1)), -1, 0)
    np.testing.assert_allclose(diagnostics.autocorrelation(x), want, atol=1e-5)
    # A period of four: mutants that shift or turn lags around would not see it.
    wave = np.tile([1, 0, -1, 0], 25)[:, None].astype(np.int8)
    rho = np.asarray(diagnostics.autocorrelation(wave))[:, 0]
    np.testing.assert_allclose(rho[:5], [1, 0, -0.98, 0, 0.96], atol=1e-6)


@pytest.mark.parametrize("phi", [-0.5, 0.0, 0.6, 0.9])
def test_autocorrelation_time_of_ar1(phi):
    n, m, n_runs = 4000, 2, 40
    x = ar1(phi, n, m, n_runs, seed=3).astype(np.float32)
    tau = np.asarray(diagnostics.integrated_autocorrelation_time(x))
    known = (1 + phi) / (1 - phi)
    # Where it stops is chosen by the draws themselves, which costs a bias of a percent or two.
    error = tau.std(ddof=1) / np.sqrt(n_runs)
    excess = max(abs(tau.mean() - known) - 0.02 * known, 0)
    assert_plausible(2 * stats.t.sf(excess / error, n_runs - 1), f"τ = {tau.mean():.3f}, known {known:.3f}")
    assert error < 0.05 * known
    np.testing.assert_allclose(tau * diagnostics.effective_sample_size(x, "mean"), n * m, rtol=1e-5)
    # Mutants: τ without the factor of two, with the wrong sign of φ, or of half as many draws.
    wrong = [1 / (1 - phi), (1 - phi) / (1 + phi), 2 * known] if phi else [0.5, 2.0]
    for value in wrong:
        assert abs(tau.mean() - value) > 0.02 * known + 10 * error


def test_mcse_is_the_spread_of_estimates():
    x = ar1(0.6, 1000, 2, 400, seed=5).astype(np.float32)
    draws = x.reshape(-1, 400)
    estimates = {"mean": draws.mean(axis=0), "quantile": np.median(draws, axis=0)}
    for kind, estimate in estimates.items():
        claimed = np.asarray(diagnostics.mcse(x, kind, *([0.5] if kind == "quantile" else [])))
        # Chi-square of 400 estimates: sd within 3.5 % at one sigma.
        assert abs(np.sqrt((claimed**2).mean()) / estimate.std(ddof=1) - 1) < 0.18


def test_chains_that_do_not_mix_are_detected():
    apart = ar1(0.3, 200, 4) + 2 * np.arange(4)
    wider = ar1(0.3, 200, 4) * np.array([1, 1, 1, 6])
    # Every chain has the same trend: unsplit chains, alike as they are, would miss it.
    trend = ar1(0.3, 200, 4) + np.linspace(-2, 2, 200)[:, None]
    fine = ar1(0.3, 200, 4)
    x = np.stack([apart, wider, trend, fine], axis=-1).astype(np.float32)
    rank, bulk, tail = (np.asarray(diagnostics.r_hat(x, kind)) for kind in ("rank", "bulk", "tail"))
    assert (rank[:3] > 1.1).all()
    assert rank[3] < 1.02
    # The mean is right, and only the folded draws show that the spread is not.
    assert bulk[1] < 1.05 < tail[1]
    np.testing.assert_array_equal(rank, np.maximum(bulk, tail))
    assert diagnostics.effective_sample_size(x[..., 2], "mean") < 40
    assert diagnostics.potential_scale_reduction is diagnostics.r_hat


@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        ("split", lambda x: x),
        ("autocovariance", lambda x, right=estimators.autocovariance: jnp.roll(right(x), -1, axis=0)),
        ("autocovariance", lambda x, right=estimators.autocovariance: right(x)[::-1]),
        (
            "autocovariance",
            lambda x, right=estimators.autocovariance: right(x) * (-1) ** jnp.arange(len(x))[:, None],
        ),
        ("normal_scores", lambda x: x),
        ("folded", lambda x: x),
    ],
)
def test_mutants_are_caught(name, mutant, monkeypatch, as_shipped):
    slow = ar1(0.6, 400, 4)
    cases = np.stack([slow, slow + np.linspace(-2, 2, 400)[:, None], slow * [1, 1, 1, 6]], axis=-1)
    # A monotone function changes no ranks.
    cases = np.exp(cases / 2).astype(np.float32)
    want = by_arviz(cases)
    monkeypatch.setattr(estimators, name, mutant)
    fns = {"bulk": estimators.ess_bulk, "rank": estimators.r_hat}
    got = quickly(jax.vmap(lambda x: {key: fn(x) for key, fn in fns.items()}, in_axes=-1))(cases)
    assert max(float(np.max(np.abs(np.asarray(got[key]) / want[key] - 1))) for key in fns) > 0.02


def test_draws_without_information_give_nan():
    moving = ar1(0.0, 11, 2).astype(np.float32)
    still = np.full((11, 2), 0.1, np.float32)
    broken = moving.copy()
    broken[6, 1] = np.nan
    apart = still + np.arange(2, dtype=np.float32)
    endless = np.where(np.isnan(broken), np.inf, broken)
    got = everything(np.stack([still, broken, apart, endless] + 11 * [moving], axis=-1))
    for name, values in got.items():
        assert np.isnan(values[:2]).all(), name
        assert np.isfinite(values[4:]).all(), name
    assert np.isnan(got["mean"][3])
    assert got["bulk"][3] == pytest.approx(arviz.ess(endless.astype(float).T, method="bulk"), rel=1e-3)
    assert got["rank"][2] == np.inf
    assert got["mean"][2] == pytest.approx(arviz.ess(apart.astype(float).T, method="mean"), rel=1e-3)
    rho = np.asarray(diagnostics.autocorrelation(np.stack([still, broken, moving], axis=-1)))
    assert np.isnan(rho[..., 0]).all()
    assert np.isnan(rho[:, 1, 1]).all()
    assert np.isfinite(rho[..., 2]).all()


def test_pytrees_dtypes_and_many_events(monkeypatch):
    x = np.round(3 * ar1(0.3, 11, 2, 2, 3))
    tree = {"a": x.astype(np.int32), "b": (x.astype(np.float16), x[:, :, 0, 0].astype(np.uint32) + 2**31)}
    tree["c"] = np.zeros((11, 2, 0), bool)

    def sizes():
        return quickly(functools.partial(diagnostics.effective_sample_size, kind="mean"))

    got = sizes()(tree)
    want = arviz.ess(np.moveaxis(x, (1, 0), (-2, -1)), method="mean")
    np.testing.assert_allclose(got["a"], want, rtol=1e-3)
    np.testing.assert_allclose(got["b"][0], want, rtol=1e-3)
    np.testing.assert_allclose(got["b"][1], want[0, 0], rtol=1e-3)
    assert got["a"].dtype == jnp.float32
    assert got["c"].shape == (0,)
    # Four events at once, and two more.
    monkeypatch.setattr(of_stored_draws, "_AT_ONCE", 90)
    np.testing.assert_array_equal(sizes()(tree["a"]), got["a"])


def test_integers_and_sums_lose_nothing():
    x = jnp.asarray([[2**31 - 1, -(2**31)], [5, -7]], jnp.int32)
    got = estimators.difference(x, x[1, 1])
    np.testing.assert_array_equal(got, np.float32(np.asarray(x, np.int64) + 7))
    tenth = jnp.full(3_000_000, 0.1, jnp.float32)
    assert float(jax.jit(estimators.mean)(tenth)) == pytest.approx(float(np.float32(0.1)), rel=1e-6)
    a, b = [1.0, 2.2, 50.0, 1.0, 1e5], [1.0, 5.0, 80.0, 1e5, 1e5]
    got = jax.vmap(estimators.beta_quantiles)(jnp.asarray(a), jnp.asarray(b))
    for i in range(len(a)):
        want = stats.beta.ppf([0.1586553, 0.8413447], a[i], b[i])
        np.testing.assert_allclose(got[i], want, rtol=2e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: diagnostics.r_hat(np.zeros((3, 2))), "has 3 draws.*at least 4"),
        (lambda: diagnostics.r_hat({"a": np.zeros(9)}), r"x\['a'\] has shape \(9,\).*x\[:, None\]"),
        (lambda: diagnostics.r_hat(np.zeros((9, 0))), r"shape \(9, 0\)"),
        (lambda: diagnostics.r_hat([1.0, 2.0]), "is float; give an array"),
        (lambda: diagnostics.r_hat(np.zeros((9, 2), complex)), "complex64.*real"),
        (lambda: diagnostics.effective_sample_size(np.zeros((9, 2)), "sd"), "kind is 'sd'.*'tail'"),
        (lambda: diagnostics.mcse(np.zeros((9, 2)), prob=0.5), "prob is 0.5 with kind='mean'"),
        (lambda: diagnostics.mcse(np.zeros((9, 2)), "quantile"), "prob is None.*0.5"),
        (lambda: diagnostics.mcse(np.zeros((9, 2)), "quantile", 1), "prob is 1;"),
        (lambda: diagnostics.r_hat(ej.Samples(np.zeros((9, 2)), None, None, None)), "positions or .observed"),
        (lambda: diagnostics.summarize(ej.Samples(None, 0, None, None)), "an Observer reduced them"),
        (lambda: diagnostics.moments(3), "fn is 3"),
        (lambda: diagnostics.batch_means(MODEL.energy, 0), "batch_size is 0"),
        (lambda: diagnostics.histogram(MODEL.energy, [1.0]), r"shape \(1,\)"),
        (lambda: diagnostics.histogram(MODEL.energy, [0, 2, 1]), "from 2.0 to 1.0 at index 1"),
        (lambda: diagnostics.histogram(MODEL.energy, [0, np.inf]), "inf at index"),
    ],
)
def test_bad_input_is_refused(call, words, as_shipped):
    with pytest.raises(ValueError, match=words):
        call()


# ---- observers ----


def both(params, x):
    """A pytree of a float, and of spins: a tuple first, which carries are as well."""
    return MODEL.energy(params, x), {"spins": x}


STORED = functools.cache(lambda: run_ising(203, observe=both))


def value_itself(params, x):
    return x


def feed(observer, values):
    """What an observer says of given values, after a start that is no sample."""
    start = observer.init(None, jax.tree.map(lambda leaf: leaf[0], values))

    def push(carry, y):
        return observer.update(carry, None, y), None

    return observer.result(jax.lax.scan(push, start, values)[0])


def feed_chains(observer, values):
    return quickly(jax.vmap(functools.partial(feed, observer), in_axes=1))(values)


def test_moments_are_those_of_stored_samples():
    observed = run_ising(203, observe=diagnostics.moments(both)).observed
    assert (observed.n_samples == 203).all()
    for stored, mean, var in zip(
        *map(jax.tree.leaves, (STORED().observed, observed.mean, observed.variance))
    ):
        stored = np.asarray(stored, float)
        np.testing.assert_allclose(mean, stored.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(var, stored.var(axis=0, ddof=1), rtol=1e-5)


def test_batch_means_are_those_of_stored_samples():
    b, n = 20, 203
    observed = feed_chains(diagnostics.batch_means(value_itself, b), STORED().observed)
    assert (observed.n_samples == n).all()
    assert (observed.n_batches == n // b).all()
    for i, stored in enumerate(jax.tree.leaves(STORED().observed)):
        mean, var, mcse, ess = (jax.tree.leaves(part)[i] for part in observed[2:])
        stored = np.asarray(stored, float)
        batches = stored[: n // b * b].reshape(n // b, b, *stored.shape[1:]).mean(axis=1)
        np.testing.assert_allclose(mean, stored.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(var, stored.var(axis=0, ddof=1), rtol=1e-5)
        np.testing.assert_allclose(mcse, np.sqrt(b * batches.var(axis=0, ddof=1) / n), rtol=1e-4)
        np.testing.assert_allclose(ess, var / mcse**2, rtol=1e-4)


def test_histograms_are_those_of_stored_samples():
    energies, spins = np.asarray(STORED().observed[0]), np.asarray(STORED().observed[1]["spins"])
    edges = np.quantile(energies, [0.1, 0.3, 0.4, 0.9]).astype(np.float32)
    # Some values lie on the first edge and on the last.
    edges[[0, -1]] = energies[7, 0], energies[11, 1]
    edges.sort()
    edges = np.append(edges[edges < 0], [0.5, 1.0]).astype(np.float32)
    observed = feed_chains(diagnostics.histogram(value_itself, edges), STORED().observed)
    for chain in range(4):
        np.testing.assert_array_equal(observed.counts[0][chain], np.histogram(energies[:, chain], edges)[0])
    np.testing.assert_array_equal(observed.n_below[0], (energies < edges[0]).sum(axis=0))
    np.testing.assert_array_equal(observed.n_above[0], (energies > edges[-1]).sum(axis=0))
    np.testing.assert_array_equal(observed.counts[1]["spins"][..., -1], spins.sum(axis=0))
    np.testing.assert_array_equal(observed.counts[1]["spins"][..., -2], (~spins).sum(axis=0))


def test_long_runs_lose_nothing():
    rng = np.random.default_rng(0)
    values = (-20_000 + rng.integers(0, 2, 1_000_000) + 0.25).astype(np.float32)
    observed = jax.jit(functools.partial(feed, diagnostics.moments(value_itself)))(values)
    exact = values.astype(float)
    np.testing.assert_allclose(observed.mean, exact.mean(), rtol=1e-7)
    np.testing.assert_allclose(observed.variance, exact.var(ddof=1), rtol=1e-5)


def test_batch_means_know_the_error_of_ar1():
    x = jnp.asarray(ar1(0.6, 20_000, 1, seed=8)[:, 0], jnp.float32)
    observed = jax.jit(functools.partial(feed, diagnostics.batch_means(value_itself, 100)))(x)
    # 200 batches give it to 10 % at one sigma.
    assert float(observed.ess) == pytest.approx(20_000 / 4, rel=0.4)
    assert float(observed.mcse) == pytest.approx(np.sqrt(4 / 20_000), rel=0.2)


def test_few_samples_and_odd_values():
    values = jnp.asarray([np.nan, -1.0, 0.5, 9.0, np.nan], jnp.float32)
    observed = feed(diagnostics.histogram(value_itself, [0.0, 1.0]), values)
    assert [int(v) for v in (observed.counts[0], observed.n_below, observed.n_above, observed.n_nan)] == [
        1,
        1,
        1,
        2,
    ]
    assert np.isnan(feed(diagnostics.moments(value_itself), values).mean)
    one = feed(diagnostics.moments(value_itself), values[1:2])
    assert (one.n_samples, one.mean) == (1, -1.0)
    assert np.isnan(one.variance)
    none = run_ising(0, observe=diagnostics.moments(MODEL.energy)).observed
    assert np.isnan(none.mean).all()
    few = feed(diagnostics.batch_means(value_itself, 2), values[1:4])
    assert few.n_batches == 1
    assert np.isnan(few.mcse)
    # The start is no sample, so it need not be finite.
    moved = diagnostics.moments(value_itself)
    assert (
        moved.result(moved.update(moved.init(None, jnp.asarray(jnp.inf)), None, jnp.float32(2.0))).mean == 2.0
    )


def test_equal_observers_compile_once(count_traces):
    energy, traces = count_traces(MODEL.energy)
    for _ in range(2):
        run_ising(3, observe=diagnostics.histogram(energy, [0.0, 1.0]))
        first = len(traces)
    run_ising(3, observe=diagnostics.histogram(energy, np.array([0.0, 1.0])))
    assert len(traces) == first + 1  # `init`, which runs as it is
    assert diagnostics.moments(energy) is diagnostics.moments(energy)
