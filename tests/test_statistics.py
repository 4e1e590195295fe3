"""The tests of chance are tested: false alarms stay in the budget, and laws that differ are distinguished."""

import numpy as np
import pytest
from scipy.stats import binom, chi2

from tests import oracles
from tests.statistics import (
    ALPHA,
    COMPARISONS,
    SUITE_RATE,
    assert_other_law,
    assert_plausible,
    assert_same_law,
)


@pytest.mark.parametrize("expected", [25.0, 40.0, 100.0, 1e3, 1e4])
@pytest.mark.parametrize("n", [20_000, 1_000_000])
def test_false_alarms_of_two_cells_stay_in_the_budget(expected, n):
    p = expected / n
    reach = np.sqrt(chi2.isf(ALPHA, 1) * n * p * (1 - p))
    false_alarm = binom.sf(np.ceil(expected + reach) - 1, n, p) + binom.cdf(np.floor(expected - reach), n, p)
    assert false_alarm <= SUITE_RATE / COMPARISONS


def test_pvalues_of_many_cells_are_uniform():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(200, 0.3))
    values = np.array([oracles.chi_square_pvalue(rng.multinomial(5000, p), p) for _ in range(2000)])
    for level in (0.5, 0.1, 0.01):
        assert abs(np.mean(values < level) - level) < 4 * np.sqrt(level * (1 - level) / 2000)


def test_tables_pool_their_rows():
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(6), size=40)
    counts = np.stack([rng.multinomial(20_000, row) for row in p])
    assert_same_law(counts, p, "the right rows")
    assert_other_law(counts, 0.97 * p + 0.03 / 6, "every row a little off")
    assert_other_law(counts, np.roll(p, 1, axis=0), "the wrong rows")


def test_a_count_where_there_is_no_chance_fails():
    assert oracles.chi_square_pvalue([10_000, 1], [1.0, 0.0]) == 0.0
    with pytest.raises(AssertionError, match="p = 0"):
        assert_plausible(0.0, "nothing")


def test_probabilities_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match="add up to"):
        oracles.chi_square([5, 5], [0.5, 0.4])


def test_oracle_matrices_are_stochastic_and_invariant():
    edges = [(0, 1), (1, 2), (2, 3), (3, 0), (0, 2)]
    rng = np.random.default_rng(2)
    bias, couplings = rng.normal(size=(4, 3)), rng.normal(size=5)
    table = oracles.energy_table(lambda x: oracles.potts_energy(x, bias, edges, couplings), 4, 3)
    p = oracles.boltzmann(table, 0.7)
    gibbs = oracles.gibbs_matrix(table, 4, 3, [[1, 3], [0], [2]], 0.7)
    metropolis = oracles.metropolis_matrix(table, 4, 3, 0.7)
    together = oracles.gibbs_matrix(table, 4, 3, [[0, 1, 2, 3]], 0.7)
    for matrix in (gibbs, metropolis):
        np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-12)
        np.testing.assert_allclose(p @ matrix, p, atol=1e-14)
    # Neighbours that are drawn together do not leave the law invariant.
    assert np.abs(p @ together - p).max() > 1e-3
    flow = p[:, None] * metropolis
    np.testing.assert_allclose(flow, flow.T, atol=1e-15)
    assert (np.linalg.matrix_power(gibbs, 200)[0] - p).max() < 1e-9
