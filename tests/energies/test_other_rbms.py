"""Categorical, Gaussian and ±1 RBMs: energies against plain loops, conditionals and draws against energies."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import ebm_jax as ej
from ebm_jax import exact
from tests import statistics, systems

CATEGORICAL = ej.CategoricalRBM(3, 2, 3)
GAUSSIAN = ej.GaussianRBM(3, 2)
SPIN = ej.RBM(3, 2, spins=True)
# Of every run of many chains, so that each model compiles one program for all tests.
N_CHAINS, N_STEPS = 20_000, 60


def params_of(model, scale=0.7):
    rng = np.random.default_rng(3)
    return jax.tree.map(
        lambda s: jnp.asarray(rng.normal(0.2, scale, s.shape), jnp.float32), model.params_struct()
    )


def energy_by_loops(model, params, v, h):
    """E(v, h) term by term; v and h are levels, or real numbers."""
    w, a, b = (np.asarray(leaf, np.float64) for leaf in params)
    total = 0.0
    if model == CATEGORICAL:
        for i, level in enumerate(v):
            total -= a[i, level] + sum(w[i, level, j] * h[j] for j in range(len(h)))
        return total - sum(b[j] * h[j] for j in range(len(h)))
    if model == SPIN:
        v, h = [2 * x - 1 for x in v], [2 * x - 1 for x in h]
    for i, x in enumerate(v):
        total += (x - a[i]) ** 2 / 2 if model == GAUSSIAN else -a[i] * x
        total -= sum(x * w[i, j] * h[j] for j in range(len(h)))
    return total - sum(b[j] * h[j] for j in range(len(h)))


def visible_configurations(model):
    if model == GAUSSIAN:
        return [tuple(row) for row in np.random.default_rng(5).normal(size=(4, 3))]
    return list(itertools.product(range(model.n_levels), repeat=3))


def as_visible(model, v):
    return jnp.asarray(v, jnp.float32 if model == GAUSSIAN else jnp.uint8)


HIDDEN = list(itertools.product((0, 1), repeat=2))


def starts_of(model, n):
    """Random configurations from NumPy, which compiles nothing."""
    rng = np.random.default_rng(2)
    v = rng.normal(size=(n, 3)) if model == GAUSSIAN else rng.integers(model.n_levels, size=(n, 3))
    return as_visible(model, v), jnp.asarray(rng.integers(2, size=(n, 2)), jnp.uint8)


@pytest.mark.parametrize("model", [CATEGORICAL, GAUSSIAN, SPIN], ids=str)
def test_energy_and_free_energy_by_loops(model):
    params = params_of(model)
    for v in visible_configurations(model):
        energies = [energy_by_loops(model, params, v, h) for h in HIDDEN]
        for h, expected in zip(HIDDEN, energies, strict=True):
            x = as_visible(model, v), jnp.asarray(h, jnp.uint8)
            assert model.energy(params, x) == pytest.approx(expected, abs=1e-4)
        free = -np.log(np.sum(np.exp(-np.asarray(energies))))
        assert model.free_energy(params, as_visible(model, v)) == pytest.approx(free, abs=1e-4)


@pytest.mark.parametrize("model", [CATEGORICAL, SPIN], ids=str)
def test_conditional_logits_are_energy_differences(model):
    params = params_of(model)
    x = jnp.asarray([1, 0, 1], jnp.uint8), jnp.asarray([0, 1], jnp.uint8)
    for part, logits in enumerate(model.conditional_logits(params, x)):
        for unit, row in enumerate(np.asarray(logits)):
            changed = [
                tuple(p.at[unit].set(k) if n == part else p for n, p in enumerate(x)) for k in range(len(row))
            ]
            energies = np.asarray([model.energy(params, y) for y in changed])
            np.testing.assert_allclose(row - row[0], energies[0] - energies, atol=1e-5)


@pytest.mark.parametrize("beta", [1.0, 0.5])
@pytest.mark.parametrize("model", [CATEGORICAL, SPIN], ids=str)
def test_a_sweep_keeps_the_law_and_mixes(model, beta):
    """20,000 chains from one configuration reach the enumerated law; chi-squared over all configurations."""
    params, kernel, n = params_of(model), ej.gibbs(model), N_CHAINS
    assert kernel.path == "bipartite"
    start = jnp.zeros((n, 3), jnp.uint8), jnp.zeros((n, 2), jnp.uint8)
    (v, h), info = systems.run_chains(kernel, jax.random.key(1), params, beta, start, n_steps=N_STEPS)
    assert not np.asarray(info.n_nonfinite).any()
    states = [(v_, h_) for v_ in visible_configurations(model) for h_ in HIDDEN]
    weights = np.exp([-beta * energy_by_loops(model, params, *x) for x in states])
    number = {v_ + h_: i for i, (v_, h_) in enumerate(states)}
    rows = np.concatenate([np.asarray(v), np.asarray(h)], axis=1)
    counts = np.bincount([number[tuple(row)] for row in rows.tolist()], minlength=len(states))
    statistics.assert_same_law(counts, weights / weights.sum(), f"{model} at beta {beta}")


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_gaussian_units_follow_the_mixture(beta):
    """v is a mixture over h of N(a + W h, 1/β) with weights ∝ exp(β (b·h + ½‖a + W h‖² − ½‖a‖²)); compared by
    the distribution of a random projection."""
    params, kernel, start = params_of(GAUSSIAN), ej.gibbs(GAUSSIAN), starts_of(GAUSSIAN, N_CHAINS)
    (v, h), _ = systems.run_chains(kernel, jax.random.key(1), params, beta, start, n_steps=N_STEPS)
    w, a, b = (np.asarray(leaf, np.float64) for leaf in params)
    means = np.asarray([a + w @ np.asarray(x) for x in HIDDEN])
    log_weights = beta * np.asarray(
        [b @ np.asarray(x) + (m @ m - a @ a) / 2 for x, m in zip(HIDDEN, means, strict=True)]
    )
    p = np.exp(log_weights - log_weights.max())
    p /= p.sum()
    counts = np.bincount(np.asarray(h) @ [2, 1], minlength=4)
    statistics.assert_same_law(counts, p, "hidden units")
    direction = np.asarray([0.6, -0.48, 0.64])
    sd = np.linalg.norm(direction) / np.sqrt(beta)

    def cdf(t):
        return sum(q * stats.norm.cdf(t, m @ direction, sd) for q, m in zip(p, means, strict=True))

    statistics.assert_plausible(stats.kstest(np.asarray(v) @ direction, cdf).pvalue, "visible units")
    # A mutant of the check: the law at another temperature is told apart.
    assert stats.kstest(np.asarray(v) @ direction / 1.1, cdf).pvalue < statistics.ALPHA


@pytest.mark.parametrize("model", [CATEGORICAL, GAUSSIAN, SPIN], ids=str)
def test_chains_are_alike_in_any_company_and_pieces(model):
    """A mask that holds nothing is no mask, and shares the program of the test below."""
    params, kernel, key = params_of(model), ej.gibbs(model), jax.random.key(4)
    among_many = starts_of(model, N_CHAINS)
    many, _ = systems.run_chains(kernel, key, params, 1.0, among_many, n_steps=N_STEPS)
    start = jax.tree.map(lambda leaf: np.asarray(leaf)[:70], among_many)
    held = np.zeros(3, bool), np.zeros(2, bool)
    values = jax.tree.map(lambda leaf: leaf[0], start)
    first = ej.sample(key, kernel, params, start, SCHEDULE, clamped=(held, values))
    second = ej.sample(key, kernel, params, first.state, SCHEDULE, clamped=(held, values))
    assert (np.asarray(second.state.step) == N_STEPS).all()
    for few, leaf in zip(second.positions, many, strict=True):
        np.testing.assert_array_equal(np.asarray(few)[-1], np.asarray(leaf)[:70])


# Half of `N_STEPS`.
SCHEDULE = ej.SamplingSchedule(1, 30)


@pytest.mark.parametrize("model", [CATEGORICAL, GAUSSIAN, SPIN], ids=str)
def test_clamped_units_stay_and_the_others_move(model):
    params, kernel = params_of(model, 0.2), ej.gibbs(model)
    start = jax.tree.map(np.asarray, starts_of(model, 70))
    mask = np.asarray([True, False, True]), np.asarray([False, True])
    values = jax.tree.map(lambda leaf: leaf[0], start)
    run = ej.sample(jax.random.key(0), kernel, params, start, SCHEDULE, clamped=(mask, values))
    for samples, held, value in zip(run.positions, mask, values, strict=True):
        assert (np.asarray(samples)[..., held] == np.asarray(value)[np.asarray(held)]).all()
        assert np.asarray(samples)[..., ~np.asarray(held)].std() > 0.1


def test_spins_are_zeros_and_ones_with_other_numbers():
    """E of spins s = 2x − 1 is E of x with weights 4W and biases 2a − 2W·1, 2b − 2Wᵀ·1, up to a constant."""
    w, a, b = params_of(SPIN)
    other = ej.RBMParams(4 * w, 2 * a - 2 * w.sum(1), 2 * b - 2 * w.sum(0))
    model = ej.RBM(3, 2)
    laws = [exact.probabilities(m, p) for m, p in ((SPIN, ej.RBMParams(w, a, b)), (model, other))]
    np.testing.assert_allclose(*laws, atol=1e-6)


def test_exact_answers_know_spins():
    params = params_of(SPIN)
    energies = [energy_by_loops(SPIN, params, v, h) for v in visible_configurations(SPIN) for h in HIDDEN]
    log_z = np.log(np.sum(np.exp(-1.3 * np.asarray(energies))))
    assert exact.log_partition(SPIN, params, beta=1.3) == pytest.approx(log_z, rel=1e-6)
    n = 20_000
    v, h = exact.sample(jax.random.key(0), SPIN, params, n)
    counts = np.bincount(np.asarray(v) @ [16, 8, 4] + np.asarray(h) @ [2, 1], minlength=32)
    p = np.exp(-np.asarray(energies))
    p /= p.sum()
    statistics.assert_same_law(counts, p, "exact draws of spins")


@pytest.mark.parametrize("model", [CATEGORICAL, GAUSSIAN], ids=str)
def test_training_lowers_the_free_energy_of_data(model):
    rng = np.random.default_rng(0)
    pattern = np.asarray([2, 0, 1]) if model == CATEGORICAL else np.asarray([1, 0, 1])
    if model == GAUSSIAN:
        data = (pattern * 2 - 1 + 0.1 * rng.normal(size=(256, 3))).astype(np.float32)
    else:
        data = np.tile(pattern, (256, 1)).astype(np.uint8)
    kernel = ej.gibbs(model)
    negatives = ej.negatives.pcd(kernel, n_chains=64)
    result = ej.fit(
        jax.random.key(0),
        model,
        data,
        tx=optax.adam(0.05),
        negatives=negatives,
        n_epochs=30,
        batch_size=64,
        progress=False,
    )
    (v, _), _ = systems.run_chains(
        kernel, jax.random.key(2), result.state.params, 1.0, starts_of(model, N_CHAINS), n_steps=N_STEPS
    )
    v = np.asarray(v)
    if model == GAUSSIAN:
        assert np.abs(v.mean(0) - (pattern * 2 - 1)).max() < 0.35
    else:
        assert (v == pattern).all(1).mean() > 0.7


def test_exact_negatives_of_categorical_units_give_the_gradient():
    params, data = params_of(CATEGORICAL), np.random.default_rng(0).integers(0, 3, (8, 3)).astype(np.uint8)
    init, step = ej.make_train_step(CATEGORICAL, optax.sgd(1.0), ej.negatives.exact(CATEGORICAL))
    key = jax.random.key(0)
    state, _ = step(key, init(key, params), data)
    want = exact.gradient(CATEGORICAL, params, data)
    for before, after, gradient in zip(params, state.params, want, strict=True):
        np.testing.assert_allclose(before - after, gradient, rtol=0, atol=2e-6)


def test_save_and_load(tmp_path):
    for number, model in enumerate((CATEGORICAL, GAUSSIAN, SPIN)):
        params = params_of(model)
        ej.save(tmp_path / f"{number}", model, params)
        again, same = ej.load(tmp_path / f"{number}")
        assert again == model
        jax.tree.map(np.testing.assert_array_equal, params, same)


def test_bad_input(as_shipped):
    with pytest.raises(ValueError, match="n_levels is 300"):
        ej.CategoricalRBM(3, 2, 300)
    params, kernel = params_of(CATEGORICAL), ej.gibbs(CATEGORICAL)
    bad = jnp.zeros((2, 3), jnp.uint8), jnp.full((2, 2), 2, jnp.uint8)
    with pytest.raises(ValueError, match=r"init\[1\] holds level 2"):
        ej.sample(jax.random.key(0), kernel, params, bad, ej.SamplingSchedule(1, 1))
    for model in (CATEGORICAL, GAUSSIAN):
        with pytest.raises(ValueError, match="metropolis cannot propose"):
            ej.metropolis(model)
    with pytest.raises(ValueError, match="use pcd"):
        ej.negatives.exact(GAUSSIAN)
    v, h = starts_of(GAUSSIAN, 2)
    with pytest.raises(ej.NonFiniteError, match="NaN or infinite"):
        ej.sample(
            jax.random.key(0),
            ej.gibbs(GAUSSIAN),
            params_of(GAUSSIAN),
            (v, h),
            ej.SamplingSchedule(1, 1),
            beta=0.0,
        )
    with pytest.raises(ValueError, match="not finite"):
        ej.sample(
            jax.random.key(0),
            ej.gibbs(GAUSSIAN),
            params_of(GAUSSIAN),
            (v * jnp.inf, h),
            ej.SamplingSchedule(1, 1),
        )
