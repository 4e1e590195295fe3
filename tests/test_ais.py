"""Weights of annealing by hand, on general energies against closed forms, and ladders that fit themselves."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from ebm_jax import exact, partition
from ebm_jax.partition import annealing
from tests.test_partition import ISING, N_SE, RBM, params_of, standard_error

BASE_2D, BASE_3D = (partition.standard_normal(jax.ShapeDtypeStruct((n,), jnp.float32)) for n in (2, 3))


@pytest.mark.parametrize("betas", [[0.0, 1.0], [0.0, 0.4, 1.0]], ids=["importance sampling", "one between"])
def test_weights_are_those_by_hand(betas):
    """Σ [E_t(x) − E_u(x)] at draws from the base, moved in between by a sweep; E[w] = Z / Z₀ for any ladder."""
    model, params, key, n = ISING, params_of(ISING, 0.3), jax.random.key(0), 4000
    result = partition.ais(key, model, params, betas=betas, n_chains=n)

    path = annealing.path_of(model, params, None, None)
    first, walk, _ = jax.random.split(key, 3)
    x = path.from_base(first, n)
    at = lambda t: path.at(jnp.float32(t))  # noqa: E731
    energy = lambda t: np.asarray(jax.vmap(model.energy, (None, 0))(at(t), x), np.float64)  # noqa: E731
    log_w = energy(0.0) - energy(betas[1])
    if len(betas) == 3:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(walk, jnp.arange(n))
        kernel = ej.gibbs(model)
        step = lambda k, x: kernel.step(k, at(0.4), 1.0, kernel.init(None, x))[0].position  # noqa: E731
        x = jax.jit(jax.vmap(step))(keys, x)
        log_w += energy(0.4) - energy(1.0)
    np.testing.assert_allclose(result.log_weights, path.log_z + log_w, atol=2e-5)

    w = np.exp(result.log_weights - path.log_z)
    truth = np.exp(exact.log_partition(model, params) - exact.log_partition(model, at(0.0)))
    assert abs(w.mean() - truth) < N_SE * w.std() / np.sqrt(n)
    assert w.std() / np.sqrt(n) < 0.1 * truth


def gaussian(params, x):
    return jnp.sum(((x - params["mean"]) / params["scale"]) ** 2) / 2


def mixture(params, x):
    return -jax.nn.logsumexp(params["log_w"] - jnp.sum((x - params["centres"]) ** 2, axis=-1) / 2 / 0.6**2)


def of_gaussian():
    params = {"mean": jnp.asarray([1.0, -0.5, 0.3]), "scale": jnp.asarray([0.5, 1.0, 1.6])}
    scale = np.asarray(params["scale"], np.float64)
    truth = 1.5 * np.log(2 * np.pi) + np.log(scale).sum()
    draws = np.random.default_rng(0).normal(params["mean"], scale, (400, 3))
    return gaussian, params, BASE_3D, truth, draws


def of_mixture():
    centres, log_w = np.array([[1.2, 0.5], [-1.0, -0.8]]), np.array([0.3, -0.4])
    params = {"centres": jnp.asarray(centres, jnp.float32), "log_w": jnp.asarray(log_w, jnp.float32)}
    axis = np.linspace(-6, 6, 241)
    points = np.stack(np.meshgrid(axis, axis), axis=-1)[..., None, :]
    density = np.exp(log_w - np.sum((points - centres) ** 2, axis=-1) / 2 / 0.6**2).sum()
    truth = np.log(density * (axis[1] - axis[0]) ** 2)
    rng = np.random.default_rng(1)
    which = rng.choice(2, 400, p=np.exp(log_w) / np.exp(log_w).sum())
    return mixture, params, BASE_2D, truth, rng.normal(centres[which], 0.6)


def by_mala(energy):
    return ej.mala(energy, 0.7)


@pytest.mark.parametrize("case", [of_gaussian, of_mixture])
def test_any_energy_with_mala_from_both_sides(case):
    energy, params, base, truth, draws = case()
    options = {"betas": 60, "base": base, "kernel": by_mala}
    forward = partition.ais(jax.random.key(0), energy, params, n_chains=400, **options)
    start = jnp.asarray(draws, jnp.float32)
    reverse = partition.reverse_ais(jax.random.key(1), energy, params, start, **options)
    for result in (forward, reverse):
        assert abs(result.log_z - truth) < N_SE * standard_error(result), (result, truth)
        assert not result.warnings and result.ess > 100
    assert forward.interval[0] < reverse.interval[1] and reverse.interval[0] < forward.interval[1]


@pytest.mark.parametrize("model", [ISING, RBM], ids=str)
def test_every_step_of_an_adaptive_ladder_has_the_share_that_was_asked_for(model):
    """(E w)² / E w² under the exact law at each t, by enumeration; the last step is what is left."""
    params, cess = params_of(model, 0.8), 0.95
    ladder = partition.adaptive_ladder(
        jax.random.key(0), model, params, cess=cess, n_chains=4000, max_betas=40
    )
    assert ladder.dtype == np.float64 and ladder[0] == 0 and ladder[-1] == 1 and (np.diff(ladder) > 0).all()
    path = annealing.path_of(model, params, None, None)
    x = exact.states(model, layer="visible" if model is RBM else None)
    at = jax.jit(lambda t: jax.vmap(path.energy, (None, 0))(path.at(t), x))
    energies = np.stack([np.asarray(at(jnp.float32(t)), np.float64) for t in ladder])
    mean = lambda log_w, e: np.logaddexp.reduce(log_w - e) - np.logaddexp.reduce(-e)  # noqa: E731
    pairs = itertools.pairwise(energies)
    share = np.exp(
        [2 * mean(before - after, before) - mean(2 * (before - after), before) for before, after in pairs]
    )
    assert len(share) >= 4 and share[-1] > 0.945
    np.testing.assert_allclose(1 - share[:-1], 1 - cess, rtol=0.15)

    if model is RBM:
        return
    truth = exact.log_partition(model, params)
    few = partition.ais(jax.random.key(1), model, params, betas=ladder, n_chains=400)
    assert abs(few.log_z - truth) < N_SE * standard_error(few)
    assert few.spread < 2 * np.sqrt(len(share) * (1 - cess))  # each step adds about 1 − cess to its square


def test_adaptive_ladders_of_any_energy_are_repeatable_and_new_numbers_compile_nothing():
    energy, params, base, *_ = of_gaussian()
    fit = lambda params, **options: partition.adaptive_ladder(  # noqa: E731
        jax.random.key(0), energy, params, base=base, kernel=by_mala, **options
    )
    fine = fit(params)
    np.testing.assert_array_equal(fine, fit(params))
    before = annealing.climb._cache_size()
    coarse = fit(params, cess=0.9)
    closer = fit(jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, {"mean": 0.0, "scale": 1.0}, params))
    assert annealing.climb._cache_size() == before
    assert len(closer) < len(coarse) < len(fine)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cess": 1.0}, "cess is 1.0"),
        ({"n_chains": 1}, "n_chains is 1"),
        ({"cess": 0.9999, "n_chains": 4000, "max_betas": 40}, "after 40 of max_betas=40 values t is 0"),
    ],
)
def test_bad_input(as_shipped, options, message):
    with pytest.raises(ValueError, match=message):
        partition.adaptive_ladder(jax.random.key(0), ISING, params_of(ISING), **options)


HALF_NORMAL = float(np.log(np.sqrt(2 * np.pi) / 2))


def half_normal(params, x):
    """E = x² / 2 for x > 0, and +∞ elsewhere."""
    del params
    return jnp.where(x > 0, x**2 / 2, jnp.inf)


def test_weights_outside_the_support_are_zero():
    """Half of the chains begin where E = +∞: they count as zero, and keep moving."""
    base, kernel = partition.standard_normal(jnp.zeros(())), lambda energy: ej.mala(energy, 1.0)
    result = partition.ais(
        jax.random.key(0), half_normal, None, betas=5, n_chains=4000, base=base, kernel=kernel
    )
    zero = np.isneginf(result.log_weights)
    np.testing.assert_allclose(result.log_weights[~zero], base.log_z, atol=1e-5)
    assert abs(result.log_z - HALF_NORMAL) < N_SE * standard_error(result) and not result.warnings
    assert abs(zero.mean() - 0.5) < N_SE * 0.5 / np.sqrt(4000)
    assert 0.01 < standard_error(result) < 0.03 and abs(result.ess / (~zero).sum() - 1) < 1e-4
    ladder = partition.adaptive_ladder(jax.random.key(1), half_normal, None, base=base, kernel=kernel)
    assert ladder.tolist() == [0, 1]  # inside the support the two energies are equal


def test_reverse_weights_outside_the_support_of_the_base_are_zero():
    base = partition.Base(
        lambda key: jnp.abs(jax.random.normal(key)), lambda x: half_normal(None, x), HALF_NORMAL
    )
    start = jax.random.normal(jax.random.key(3), (4000,))
    arguments = {"betas": 5, "base": base, "kernel": lambda energy: ej.mala(energy, 1.0)}
    result = partition.reverse_ais(jax.random.key(0), lambda p, x: x**2 / 2, None, start, **arguments)
    assert np.isposinf(result.log_weights).sum() == (start <= 0).sum() and not result.warnings
    assert abs(result.log_z - np.log(2 * np.pi) / 2) < N_SE * standard_error(result)


def test_chains_that_all_miss_the_support_are_said_to():
    base, kernel = partition.standard_normal(jnp.zeros(())), lambda energy: ej.mala(energy, 0.1)
    result = partition.ais(
        jax.random.key(0),
        lambda p, x: half_normal(p, x - 9),
        None,
        betas=5,
        n_chains=20,
        base=base,
        kernel=kernel,
    )
    assert result.log_z == -np.inf and result.ess == 0 and "all weights are zero" in result.warnings[0]
