"""Unadjusted Langevin: its exact one-step law, its known bias, its noise, derivatives and non-finite values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import ebm_jax as ej
from ebm_jax.run import NonFiniteError
from tests.statistics import ALPHA, assert_plausible


def quadratic(params, x):
    return 0.5 * params * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(x))


def chains(kernel, params, x, n_steps, beta=1.0, key=0, **kwargs):
    schedule = ej.SamplingSchedule(n_steps, 1)
    return ej.sample(jax.random.key(key), kernel, params, x, schedule, beta=beta, **kwargs)


def test_one_step_has_its_normal_law():
    """From x, the next position is N(x − αβ∇E, σ²)."""
    start, alpha, sigma, curvature, beta = 1.5, 0.1, 0.3, 2.0, 0.7
    samples = chains(ej.langevin(quadratic, alpha, sigma), curvature, jnp.full((100_000,), start), 1, beta)
    z = (samples.positions[0] - (start - alpha * beta * curvature * start)) / sigma
    assert_plausible(stats.kstest(np.asarray(z), "norm").pvalue, "one step")
    mutant = chains(
        ej.langevin(quadratic, alpha, 1.05 * sigma), curvature, jnp.full((100_000,), start), 1, beta
    )
    z = (mutant.positions[0] - (start - alpha * beta * curvature * start)) / sigma
    assert stats.kstest(np.asarray(z), "norm").pvalue < ALPHA


def test_stationary_law_of_a_quadratic_has_the_bias_that_theory_gives():
    """x ← (1 − αβk) x + √(2α) z settles at variance 2α / (1 − (1 − αβk)²), above 1/(βk)."""
    alpha, curvature, beta = 0.1, 2.0, 1.5
    samples = chains(
        ej.langevin(quadratic, alpha, (2 * alpha) ** 0.5), curvature, jnp.zeros(50_000), 60, beta
    )
    exact = 2 * alpha / (1 - (1 - alpha * beta * curvature) ** 2)
    z = np.asarray(samples.positions[0]) / exact**0.5
    assert_plausible(stats.kstest(z, "norm").pvalue, "stationary law")
    unbiased = np.asarray(samples.positions[0]) * (beta * curvature) ** 0.5
    assert stats.kstest(unbiased, "norm").pvalue < ALPHA  # unadjusted: the step size shows


def test_noise_is_independent_across_elements_steps_and_chains():
    kernel = ej.langevin(lambda p, x: 0.0 * jnp.sum(x["a"]) + 0.0 * jnp.sum(x["b"]), 1.0, 1.0)
    start = {"a": jnp.zeros((2000, 30)), "b": jnp.zeros((2000, 2, 10))}
    two = ej.sample(jax.random.key(0), kernel, None, start, ej.SamplingSchedule(1, 2))
    flat = np.concatenate([np.asarray(two.positions[k]).reshape(2, 2000, -1) for k in "ab"], axis=-1)
    first, second = flat[0], flat[1] - flat[0]
    numbers = np.stack([first, second])
    assert_plausible(stats.kstest(numbers.ravel(), "norm").pvalue, "normal")
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        z = ((numbers.astype(float) ** power).mean() - mean) / np.sqrt(variance / numbers.size)
        assert_plausible(2 * stats.norm.sf(abs(z)), f"moment {power}")
    for edge in (3.0, 4.0):
        n, share = int((np.abs(numbers) > edge).sum()), 2 * stats.norm.sf(edge)
        assert_plausible(stats.binomtest(n, numbers.size, share).pvalue, f"tail beyond {edge}")
    for a, b in [
        (numbers[0], numbers[1]),
        (numbers[:, :-1], numbers[:, 1:]),
        (numbers[:, :, :-1], numbers[:, :, 1:]),
        (numbers[:, :, :20], numbers[:, :, 30:]),
        # Both words of one cipher call.
        (numbers[:, :, :25], numbers[:, :, 25:]),
    ]:
        assert_plausible(stats.pearsonr(a.ravel(), b.ravel()).pvalue, "correlation")


def test_differentiates_in_parameters_beta_and_step_size():
    """x₁ = (1 − αβk) x₀ without noise."""

    def end(alpha, beta, curvature):
        kernel = ej.langevin(quadratic, alpha, 0.0)
        return kernel.steps(jax.random.key(0), curvature, beta, kernel.init(curvature, jnp.array(2.0)), 2)[
            0
        ].position

    gradients = jax.jit(jax.grad(end, argnums=(0, 1, 2)))(0.1, 0.5, 3.0)
    factor = 2 * 2.0 * (1 - 0.1 * 0.5 * 3.0)
    np.testing.assert_allclose(gradients, [-factor * 1.5, -factor * 0.3, -factor * 0.05], rtol=1e-5)
    mapped = jax.vmap(jax.grad(end), (0, None, None))(jnp.array([0.1, 0.2]), 0.5, 3.0)
    np.testing.assert_allclose(mapped, [-factor * 1.5, -2 * 2.0 * (1 - 0.3) * 1.5], rtol=1e-5)


def test_non_finite_values_are_named_after_the_run():
    steep = ej.langevin(lambda p, x: -jnp.sum(x**4), 0.5, 1.0)
    start = jnp.array([[3.0], [0.0]])
    with pytest.raises(NonFiniteError, match=r"chain 0 .* after step") as caught:
        chains(steep, None, start, 30)
    samples = chains(steep, None, start, 30, on_nonfinite="report")
    np.testing.assert_array_equal(samples.positions, caught.value.samples.positions)
    assert int(samples.info.n_nonfinite[0]) > 0
    assert int(samples.info.first_nonfinite[0]) == 31 - int(samples.info.n_nonfinite[0])


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ej.langevin(quadratic, -0.1, 0.1), "step_size is -0.1"),
        (lambda: ej.langevin(quadratic, 0.1, float("nan")), "noise_scale is nan"),
        (lambda: ej.langevin(3.0, 0.1, 0.1), "energy is 3.0"),
        (lambda: ej.langevin(quadratic, jnp.ones(2), 0.1), "single real number"),
        (lambda: chains(ej.langevin(lambda p, x: x**2, 0.1, 0.1), 1.0, jnp.zeros((2, 3)), 1), "scalar"),
        (lambda: chains(ej.langevin(quadratic, 0.1, 0.1), 1.0, jnp.zeros((2, 3), int), 1), "int32"),
        (lambda: chains(ej.langevin(quadratic, 0.1, 0.1), jnp.nan, jnp.zeros((2, 3)), 1), "params"),
    ],
)
def test_bad_input(build, words, as_shipped):
    with pytest.raises(ValueError, match=words):
        build()
