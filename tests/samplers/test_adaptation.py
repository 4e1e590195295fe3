"""Warm-up: dual averaging written a second time, the acceptance it reaches, and what it compiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from ebm_jax.samplers import adaptation
from ebm_jax.samplers.start import start_chains


def energy(params, x):
    return 0.5 * jnp.sum(params * x**2)


CURVATURE = jnp.geomspace(0.3, 3.0, 20)
START = jax.random.normal(jax.random.key(1), (64, 20)) / jnp.sqrt(CURVATURE)


@jax.jit
def acceptance(kernel, state, beta):
    keys = jax.random.split(jax.random.key(1), 64)
    return kernel.packed_steps(keys, CURVATURE, beta, state, 60)[1].acceptance.mean()


@pytest.mark.parametrize(
    ("build", "target"),
    [
        (lambda size: ej.mala(energy, size), None),
        (lambda size: ej.hmc(energy, size, 3), None),
        (lambda size: ej.hmc(energy, size, 3), 0.6),
    ],
)
def test_reaches_its_target_from_any_step_size(build, target):
    """Pooled over 64 chains the tuned rate comes within 0.03 of the target, from steps 30 times too large or small."""
    before = adaptation._run._cache_size()
    sizes = []
    for first, n_steps, beta in ((30.0, 400, 1.0), (0.01, 500, 1.0), (0.5, 400, 4.0)):
        kernel, state = ej.warm_up(
            jax.random.key(0),
            build(first),
            CURVATURE,
            START / beta**0.5,
            n_steps,
            beta=beta,
            target_acceptance=target,
        )
        assert (state.step == n_steps).all()
        want = kernel.target_acceptance if target is None else target
        assert abs(float(acceptance(kernel, state, beta)) - want) < 0.03
        sizes.append(float(kernel.step_size))
    np.testing.assert_allclose(sizes[0], sizes[1], rtol=0.1)
    np.testing.assert_allclose(sizes[0], 2 * sizes[2], rtol=0.1)  # √β scales every length
    assert adaptation._run._cache_size() <= before + 1


def test_dual_averaging_is_that_of_the_paper():
    """Algorithm 5 of Hoffman and Gelman, in NumPy, on the same acceptances."""
    rates = np.random.default_rng(0).uniform(size=50)
    target, first = 0.65, 0.3
    mu, shortfall, log_bar = np.log(10 * first), 0.0, 0.0
    expected = []
    for m, alpha in enumerate(rates, start=1):
        shortfall = (1 - 1 / (m + 10)) * shortfall + (target - alpha) / (m + 10)
        log_size = mu - np.sqrt(m) / 0.05 * shortfall
        log_bar = m**-0.75 * log_size + (1 - m**-0.75) * log_bar
        expected.append((log_size, log_bar))
    zero, log_first = jnp.zeros(()), jnp.log(first)
    average = adaptation._Average(zero, zero, log_first, log_first, jnp.log(10 * first))
    for rate, (log_size, log_bar) in zip(rates, expected, strict=True):
        average = adaptation._updated(average, jnp.float32(rate), jnp.float32(target))
        np.testing.assert_allclose((average.log_size, average.log_average), (log_size, log_bar), atol=1e-3)


def test_no_steps_change_nothing():
    kernel, state = ej.warm_up(jax.random.key(0), ej.mala(energy, 0.5), CURVATURE, START, 0)
    assert float(kernel.step_size) == 0.5
    np.testing.assert_array_equal(state.position, START)


def test_starts_clamped_and_where_an_earlier_run_ended():
    kernel = ej.mala(energy, 0.5)
    clamped = jnp.arange(20) < 5, jnp.ones(20)
    state = start_chains(kernel, CURVATURE, START, clamped)
    assert (state.position[:, :5] == 1).all()
    np.testing.assert_array_equal(state.position[:, 5:], START[:, 5:])
    assert (state.clamped == clamped[0]).all()
    later = state._replace(step=state.step + jnp.uint32(7))
    assert start_chains(kernel, CURVATURE, later, None) is later
    assert (start_chains(kernel, CURVATURE, later, clamped).step == 7).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kernel": ej.langevin(energy, 0.1, 0.1)}, "accepts or rejects"),
        ({"target_acceptance": 1.0}, "target_acceptance is 1.0"),
        ({"target_acceptance": 0.0}, "target_acceptance is 0.0"),
        ({"n_steps": -1}, "n_steps is -1"),
        ({"beta": jnp.ones(3)}, r"beta has shape \(3,\)"),
        ({"init": jnp.ones(())}, "without a chain axis"),
        ({"init": jnp.full((4, 20), jnp.nan)}, "not finite"),
    ],
)
def test_bad_input(change, words, as_shipped):
    arguments = {"kernel": ej.mala(energy, 0.1), "init": START, "n_steps": 10} | change
    with pytest.raises(ValueError, match=words):
        ej.warm_up(
            jax.random.key(0),
            arguments.pop("kernel"),
            CURVATURE,
            arguments.pop("init"),
            arguments.pop("n_steps"),
            **arguments,
        )
