"""Thermodynamic integration against enumeration and a Gaussian, from exact draws at every β."""

import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from ebm_jax import partition, schedules
from tests import oracles, systems

N_SE = 6.2  # a two-sided normal tail of 5e-10
BETAS = schedules.linear(9)
SHAPE = (500, 4)


def ising():
    """Energies of exact draws at every β, log Z at 0 and at every β."""
    system = systems.pairwise(
        ej.Ising(ej.Grid(3, 3)), params=ej.IsingParams(jnp.full((3, 3), 0.2), jnp.ones(2) * 0.5)
    )
    rng = np.random.default_rng(0)
    table = system.energies
    energies = np.stack([rng.choice(table, SHAPE, p=oracles.boltzmann(table, b)) for b in BETAS], axis=-1)
    return energies, 9 * np.log(2), np.array([oracles.log_z(table, b) for b in BETAS])


def standard_error(result):
    return (result.interval[1] - result.interval[0]) / 2 / 1.96


def test_of_an_enumerable_model():
    energies, log_z0, truth = ising()
    result = partition.thermodynamic_integration(BETAS, energies, log_z0)
    assert abs(result.log_z - truth[-1]) < N_SE * standard_error(result)
    assert standard_error(result) < 0.02 and not result.warnings
    slack = N_SE * standard_error(result)
    assert result.bounds[0] - slack < truth[-1] < result.bounds[1] + slack
    assert 0.2 < result.bounds[1] - result.bounds[0] < 2


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Of a hundred estimates from independent parts of the same draws; binomial, with a tail of 1e-9."""
    rng, inside = np.random.default_rng(1), 0
    truth = np.log(2 * np.pi / 1.5) * 3
    betas = np.linspace(0.25, 1.5, 12)
    for _ in range(100):  # a Gaussian of six components: E ~ Gamma(3) / β
        energies = rng.gamma(3.0, 1 / betas, (*SHAPE, 12))
        result = partition.thermodynamic_integration(betas, energies, 3 * np.log(2 * np.pi / 0.25))
        inside += result.interval[0] < truth < result.interval[1]
    assert inside >= 78, inside


def test_autocorrelation_and_correlation_between_betas_widen_the_interval():
    """Nine independent series, one for every β, and one for all, as where chains change places."""
    rng = np.random.default_rng(2)
    noise = rng.normal(size=(2000, 4, 1))
    slow = noise.copy()
    for t in range(1, 2000):
        slow[t] = 0.9 * slow[t - 1] + np.sqrt(1 - 0.9**2) * noise[t]
    falling = -10 * BETAS
    alone = partition.thermodynamic_integration(BETAS, falling + rng.normal(size=(2000, 4, 9)), 0.0)
    joined = partition.thermodynamic_integration(BETAS, falling + noise, 0.0)
    slowly = partition.thermodynamic_integration(BETAS, falling + slow, 0.0)
    widths = [standard_error(r) for r in (alone, joined, slowly)]
    assert 2 < widths[1] / widths[0] < 4 and 3 < widths[2] / widths[1] < 6
    np.testing.assert_allclose([alone.log_z, joined.log_z, slowly.log_z], 5, atol=0.5)


def test_a_slow_chain_at_one_beta_widens_the_interval_and_is_told_of():
    """Quick chains at 24 betas and one that repeats a draw a hundred times, as at a phase transition.

    The sum of all hides the autocorrelation of the one: by the error of the sum, 73 of 100 intervals hold the truth.
    Binomial with a share of 0.95 has a tail of 3e-5 below 85.
    """
    rng, inside, betas, n = np.random.default_rng(1), 0, np.linspace(0.25, 1.5, 25), 1000
    truth = 3 * np.log(2 * np.pi / 1.5)
    for _ in range(100):
        energies = rng.gamma(3.0, 1 / betas, (n, 1, 25))
        last_new = np.maximum.accumulate(np.where(rng.random(n) >= 0.99, np.arange(n), 0))
        energies[..., 0] = energies[last_new, :, 0]
        result = partition.thermodynamic_integration(betas, energies, 3 * np.log(2 * np.pi / 0.25))
        inside += result.interval[0] < truth < result.interval[1]
        assert any("independent draws" in text for text in result.warnings)
    assert inside >= 85, inside


@pytest.mark.parametrize("mutant", ["plain trapezoid", "wrong sign"])
def test_the_correction_is_needed_and_has_the_right_sign(mutant, monkeypatch):
    """On a coarse ladder, with draws enough to tell."""
    betas = np.array([0.25, 0.5, 1.0])
    energies = np.random.default_rng(3).gamma(3.0, 1 / betas, (20_000, 4, 3))
    truth, log_z0 = 3 * np.log(2 * np.pi), 3 * np.log(2 * np.pi / 0.25)
    result = partition.thermodynamic_integration(betas, energies, log_z0)
    steps, variance = np.diff(betas), energies.var(axis=(0, 1))
    correction = np.sum(steps**2 * (variance[:-1] - variance[1:])) / 12
    other = result.log_z - correction * (1 if mutant == "plain trapezoid" else 2)
    assert abs(result.log_z - truth) < 0.3 * abs(other - truth)
    batches = [partition.thermodynamic_integration(betas, e, log_z0).log_z for e in np.split(energies, 20)]
    monte_carlo = np.std(batches) / np.sqrt(20)
    assert abs(other - truth) > N_SE * monte_carlo
    # So few betas leave an error beyond that of the chains, which the interval includes.
    assert abs(result.log_z - truth) > 4 * monte_carlo
    assert result.interval[0] < truth < result.interval[1]


def test_warnings_name_what_is_wrong():
    energies, log_z0, _ = ising()
    short = partition.thermodynamic_integration(BETAS, energies[:10], log_z0)
    assert any("independent draws" in text for text in short.warnings)
    cold = partition.thermodynamic_integration(BETAS, energies[..., ::-1], log_z0)
    assert any("mean energy rises" in text for text in cold.warnings)
    coarse = partition.thermodynamic_integration(BETAS * 40, energies, log_z0)
    assert any("take more betas" in text for text in coarse.warnings)
    still = partition.thermodynamic_integration(BETAS, np.zeros((*SHAPE, 9)), log_z0)
    assert still.log_z == log_z0 and np.isnan(still.interval).all() and still.warnings


@pytest.mark.parametrize(
    ("betas", "shape", "log_z0", "message"),
    [
        ([0.0], (5, 2, 1), 0.0, "at least two values"),
        ([0.0, 0.5, 0.5], (5, 2, 3), 0.0, "that rise"),
        ([0.0, 1.0], (5, 2, 3), 0.0, r"energies has shape \(5, 2, 3\)"),
        ([0.0, 1.0], (3, 2, 2), 0.0, "3 samples a chain"),
        ([0.0, 1.0], (5, 2, 2), np.inf, "log_z0 holds inf"),
    ],
)
def test_bad_input(betas, shape, log_z0, message):
    with pytest.raises(ValueError, match=message):
        partition.thermodynamic_integration(betas, np.zeros(shape), log_z0)
