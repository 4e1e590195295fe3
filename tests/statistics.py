"""How unlikely a result must be before a test of chance fails.

Keys are fixed, so a test gives one verdict for good; what is bounded is the chance that a correct program is written
down with a failing key. The whole suite is allowed `SUITE_RATE`, shared evenly among `COMPARISONS` p-values (a union
bound, so they need not be independent). χ² p-values are asymptotic, and a skewed cell expected 25 times strays further
than they say: `MARGIN` makes the true rate of the worst case, two cells of which one is expected 25 times, at most the
share (exact: `test_statistics`). A test that compares many rows should pool them into one p-value, as
`chi_square_pvalue` does with a table, or pass their number as `comparisons`. Each process counts what it spends and
refuses to go past the budget.
"""

import scipy.stats

from tests.oracles import chi_square_pvalue

SUITE_RATE = 1e-4
COMPARISONS = 3000
MARGIN = 100
ALPHA = SUITE_RATE / COMPARISONS / MARGIN

_spent = 0


def spend(comparisons):
    """Counts p-values that something else compares with `ALPHA`; fails past the budget."""
    global _spent
    _spent += comparisons
    assert _spent <= COMPARISONS, f"{_spent} comparisons: raise COMPARISONS in {__name__}, which lowers ALPHA"


def normal_sf(z):
    """Returns the probability that a standard normal exceeds z."""
    return float(scipy.stats.norm.sf(z))


def assert_plausible(pvalue, what, *, comparisons=1):
    """Fails when `pvalue`, or the smallest of `comparisons` of them, is under its share of the suite's rate."""
    spend(comparisons)
    assert pvalue > ALPHA, f"{what}: p = {pvalue:.3g}, below {ALPHA:.3g}"


def assert_same_law(counts, probabilities, what):
    """Fails unless χ² finds `counts` plausible as multinomial draws; rows of a table are pooled into one p-value."""
    assert_plausible(chi_square_pvalue(counts, probabilities), what)


def assert_other_law(counts, probabilities, what):
    """Fails unless χ² rejects: that a mutant is caught says that the test above has power."""
    pvalue = chi_square_pvalue(counts, probabilities)
    assert pvalue <= ALPHA, f"{what}: not told apart, p = {pvalue:.3g}"
