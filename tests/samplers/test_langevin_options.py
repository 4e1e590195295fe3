"""ULA's own law, and what both Langevin conventions take: schedules, clipping, bounds, preconditioning."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import ebm_jax as ej
from tests.statistics import ALPHA, assert_plausible


def quadratic(params, x):
    return 0.5 * sum(jnp.sum(params * leaf**2) for leaf in jax.tree.leaves(x))


def run(kernel, params, x, n_steps, beta=1.0, key=0, **kwargs):
    schedule = ej.SamplingSchedule(n_steps, 1, n_steps)  # one loop to compile
    return ej.sample(jax.random.key(key), kernel, params, x, schedule, beta=beta, **kwargs).positions[0]


@jax.jit
def step(kernel, params, x, beta=1.0, clamped=None):
    """One step without noise where the kernel has none."""
    state = kernel.init(params, x, clamped)
    return kernel.step(jax.random.key(0), params, beta, state)[0].position


def test_ula_settles_at_the_variance_that_theory_gives():
    """x ← (1 − ε²βkM/2) x + ε√M z settles at ε²M / (1 − (1 − ε²βkM/2)²); 1/(βk (1 − ε²βk/4)) for M = 1."""
    size, beta = 0.6, 0.8
    curvature, metric = np.array([1.0, 3.0, 0.5]), np.array([1.0, 0.5, 3.0])
    kernel = ej.ula(quadratic, size, preconditioner=jnp.asarray(metric))
    x = np.asarray(run(kernel, jnp.asarray(curvature, jnp.float32), jnp.zeros((40_000, 3)), 80, beta))
    law = size**2 * metric / (1 - (1 - size**2 * beta * curvature * metric / 2) ** 2)
    np.testing.assert_allclose(law[0], 1 / (beta * (1 - size**2 * beta / 4)))
    assert_plausible(stats.kstest((x / law**0.5).ravel(), "norm").pvalue, "ULA")
    for wrong in (1 / (beta * curvature), law * beta, law * metric):  # no bias, another β, another M
        assert stats.kstest((x / wrong**0.5).ravel(), "norm").pvalue < ALPHA


def test_ula_is_langevin_with_its_two_numbers():
    start = jax.random.normal(jax.random.key(1), (5, 4))
    one = step(ej.ula(quadratic, 0.3), 2.0, start, 0.7)
    other = step(ej.langevin(quadratic, 0.3**2 / 2, 0.3), 2.0, start, 0.7)
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_schedules_follow_the_counter_of_the_chain():
    """α halves at the third step; Optax subtracts `transition_begin` from the count, which must not wrap."""
    schedule = optax.join_schedules([optax.constant_schedule(0.5), optax.constant_schedule(0.25)], [2])
    late = optax.linear_schedule(0.5, 0.25, transition_steps=1, transition_begin=1)
    for sizes in (schedule, late):
        kernel = ej.langevin(quadratic, sizes, lambda count: 0.0 * count)
        whole = ej.sample(jax.random.key(0), kernel, 1.0, jnp.ones((2, 1)), ej.SamplingSchedule(1, 4))
        np.testing.assert_allclose(
            whole.positions[:, 0, 0], [0.5, 0.25, 0.25 * 0.75, 0.25 * 0.75**2], rtol=1e-6
        )
    annealed = ej.ula(quadratic, lambda count: jnp.where(count == 0, 0.5, 0.0))
    first = step(annealed, 1.0, jnp.ones(1))
    assert first != 1.0
    state = annealed.init(1.0, jnp.ones(1))
    later = jax.jit(annealed.steps, static_argnums=4)(jax.random.key(0), 1.0, 1.0, state, 4)[0].position
    np.testing.assert_allclose(later, first, rtol=1e-6)


def test_a_schedule_of_numbers_that_change_traces_once(count_traces):
    counted, traces = count_traces(quadratic)
    jitted = jax.jit(lambda kernel, x: kernel.step(jax.random.key(0), 1.0, 1.0, kernel.init(1.0, x))[0])
    decay = lambda rate, count: rate / (1 + count)  # noqa: E731
    for i in range(3):
        kernel = ej.langevin(
            counted, jax.tree_util.Partial(decay, jnp.float32(i)), 0.1 * i, clip=1.0 + i, bounds=(-1.0 - i, 2)
        )
        jitted(kernel, jnp.zeros(3))
    assert len(traces) == 1


def test_clipping_by_norm_and_by_value():
    x = {"a": jnp.array([3.0, 0.5]), "b": jnp.array(4.0)}
    norm = step(ej.langevin(quadratic, 1.0, 0.0, clip=1.0), 1.0, x, 2.0)
    length = 2 * (3.0**2 + 0.5**2 + 4.0**2) ** 0.5
    np.testing.assert_allclose(norm["a"], np.array([3.0, 0.5]) * (1 - 2 / length), rtol=1e-6)
    np.testing.assert_allclose(norm["b"], 4.0 * (1 - 2 / length), rtol=1e-6)
    value = step(ej.langevin(quadratic, 0.5, 0.0, clip=1.5, clip_by="value"), 1.0, x, 2.0)
    np.testing.assert_allclose(value["a"], [3.0 - 0.75, 0.0], atol=1e-6)
    small = step(ej.langevin(quadratic, 0.1, 0.0, clip=100.0), 1.0, x)
    np.testing.assert_allclose(small["a"], 0.9 * x["a"], rtol=1e-6)
    held = {"a": jnp.array([False, False]), "b": jnp.array(True)}, x
    without = step(ej.langevin(quadratic, 1.0, 0.0, clip=1.0), 1.0, x, clamped=held)
    np.testing.assert_allclose(without["a"], np.array([3, 0.5]) * (1 - 1 / 9.25**0.5), rtol=1e-6)


@pytest.mark.parametrize("by", ["norm", "value"])
def test_clipping_hides_no_infinite_gradient(by):
    for bounds in (None, (-1.0, 1.0)):
        kernel = ej.langevin(lambda p, x: jnp.inf * jnp.sum(x), 0.1, 0.1, clip=1.0, clip_by=by, bounds=bounds)
        state = kernel.init(None, jnp.zeros(2))
        state, info = jax.jit(kernel.step)(jax.random.key(0), None, 1.0, state)
        assert not jnp.isfinite(state.position).any()
        assert int(info.n_nonfinite) == 1


def test_boundaries():
    drift = lambda p, x: -jnp.sum(p * x)  # noqa: E731
    move = jnp.array([0.3, 0.9, -0.7, 2.1, -4.6])
    start = jnp.full(5, 0.5)
    clamped = step(ej.langevin(drift, 1.0, 0.0, bounds=(0, 1)), move, start)
    np.testing.assert_allclose(clamped, [0.8, 1.0, 0.0, 1.0, 0.0], atol=1e-6)
    kernel = ej.langevin(drift, 1.0, 0.0, bounds=(0.0, 1.0), boundary="reflect")
    # 1.4 → 0.6; −0.2 → 0.2; 2.6 → −0.6 → 0.6; −4.1 → 4.1 → 0.1 after five folds
    np.testing.assert_allclose(step(kernel, move, start), [0.8, 0.6, 0.2, 0.6, 0.1], atol=1e-5)
    half = ej.langevin(drift, 1.0, 0.0, bounds=(0.0, jnp.inf), boundary="reflect")
    np.testing.assert_allclose(step(half, move, start), [0.8, 1.4, 0.2, 2.6, 4.1], atol=1e-5)
    each = ej.langevin(drift, 1.0, 0.0, bounds=(jnp.zeros(5), jnp.arange(1.0, 6.0)))
    np.testing.assert_allclose(step(each, move, start), [0.8, 1.4, 0.0, 2.6, 0.0], atol=1e-6)


def test_reflection_keeps_a_flat_law_flat():
    """A flat energy on [0, 1]: reflected noise leaves the uniform law alone, clamped noise does not."""
    flat = lambda p, x: 0.0 * jnp.sum(x)  # noqa: E731
    start = jax.random.uniform(jax.random.key(3), (100_000,))
    reflected = run(ej.ula(flat, 0.7, bounds=(0.0, 1.0), boundary="reflect"), None, start, 3)
    assert_plausible(stats.kstest(np.asarray(reflected), "uniform").pvalue, "reflected")
    stuck = run(ej.ula(flat, 0.7, bounds=(0.0, 1.0)), None, start, 3)
    assert stats.kstest(np.asarray(stuck), "uniform").pvalue < ALPHA


def test_differentiates_through_every_option():
    """x₁ = (1 − ε²βkM/2) x₀ + noise; and no NaN where the clipped gradient is 0."""

    def end(curvature, size, x):
        kernel = ej.ula(quadratic, size, preconditioner=2.0)
        return step(kernel, curvature, x, 0.5).sum()

    x = jnp.array([2.0, -1.0])
    by_curvature = jax.jit(jax.grad(end))(3.0, 0.2, x)
    np.testing.assert_allclose(by_curvature, -(0.2**2) / 2 * 0.5 * 2 * x.sum(), rtol=1e-5)

    def clipped(curvature, x):
        kernel = ej.ula(quadratic, 0.1, clip=1.0, bounds=(-4.0, 4.0), boundary="reflect")
        state = kernel.init(curvature, x)
        return kernel.steps(jax.random.key(0), curvature, 1.0, state, 3)[0].position.sum()

    slope = jax.jit(jax.grad(clipped))
    assert all(jnp.isfinite(slope(3.0, at)) for at in (x, jnp.zeros(2)))
    assert float(slope(3.0, jnp.array([0.1, 0.1]))) < 0


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ej.ula(quadratic, 0.0), "step_size is 0.0; give a finite number greater than 0"),
        (lambda: ej.ula(quadratic, -0.1), "step_size is -0.1"),
        (lambda: ej.ula(quadratic, 0.1, clip=0.0), "clip is 0.0"),
        (lambda: ej.ula(quadratic, 0.1, clip=1.0, clip_by="size"), "clip_by is 'size'"),
        (lambda: ej.ula(quadratic, 0.1, bounds=1.0), r"give \(low, high\)"),
        (lambda: ej.ula(quadratic, 0.1, bounds=(1.0, 0.0)), "less than the upper"),
        (lambda: ej.ula(quadratic, 0.1, bounds=(0.0, 1.0), boundary="wrap"), "boundary is 'wrap'"),
        (lambda: ej.ula(quadratic, 0.1, preconditioner=jnp.array([1.0, 0.0])), "preconditioner holds 0.0"),
        (lambda: run(ej.ula(quadratic, 0.1, preconditioner=jnp.ones(2)), 1.0, jnp.ones((4, 3)), 1), "fits"),
        (lambda: run(ej.ula(quadratic, 0.1, bounds=(0.0, 1.0)), 1.0, 2 * jnp.ones((4, 3)), 1), "init holds"),
        (lambda: run(ej.ula(quadratic, 0.1, preconditioner=(1.0, 1.0)), 1.0, jnp.ones((4, 3)), 1), "struct"),
    ],
)
def test_bad_input(build, words, as_shipped):
    with pytest.raises(ValueError, match=words):
        build()
