"""Elimination on thin graphs of any numbering: closed forms, loops over configurations, and what is refused."""

import jax
import numpy as np
import pytest
from scipy.special import logsumexp

from ebm_jax import exact
from ebm_jax.energies.ising import Ising, IsingParams
from ebm_jax.energies.potts import Potts, PottsParams
from ebm_jax.energies.rbm import RBM
from ebm_jax.exact import conditioning, elimination, order, tables
from ebm_jax.graphs import Bipartite, Graph, Grid
from tests import oracles
from tests.energies.cases import oracle_energy, random_params

TREE = [((child - 1) // 2, child) for child in range(1, 255)]
# log Z = n log 2 + (n − 1) log cosh J of a tree without field.
TREE_LOG_Z = 255 * np.log(2) + 254 * np.log(np.cosh(1.0))
NUMBERINGS = [np.arange(255), np.random.default_rng(0).permutation(255)]
SMALL = [
    Ising(Graph(6, [(0, 3), (3, 5), (5, 0), (1, 4)])),
    Ising(Grid(3, 3, "periodic", 8), "tied", bias="tied"),
    Potts(Graph(5, [(4, 1), (2, 3), (1, 0), (0, 2)]), 3, "matrix"),
    Potts(Bipartite(2, 3), 3),
]


def numbered_tree(numbers):
    model = Ising(Graph(255, numbers[np.asarray(TREE)]))
    return model, IsingParams(np.zeros(255), np.ones(254))


def min_fill_factors(model, params, beta):
    factors = tables.factors_of(model, jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params), beta)
    return factors._replace(plan=order.plan(factors.structure))


@pytest.mark.parametrize("numbers", NUMBERINGS, ids=["breadth first", "random"])
def test_a_tree_in_any_numbering(numbers):
    model, params = numbered_tree(numbers)
    assert tables.plan_of(model).entries <= 2**20
    log_z = exact.log_partition(model, params)
    assert log_z == pytest.approx(TREE_LOG_Z, rel=1e-13)
    assert log_z == pytest.approx(286.93286, abs=5e-6)
    # ⟨s_i s_j⟩ = tanh J on every edge of a tree.
    found = exact.marginals(model, params)
    np.testing.assert_allclose(found.sites, 0.5, atol=1e-13)
    correlation = np.einsum("eab,a,b->e", found.edges, [-1, 1], [-1, 1])
    np.testing.assert_allclose(correlation, np.tanh(1.0), atol=1e-12)


def test_draws_from_a_tree_have_its_correlations():
    model, params = numbered_tree(NUMBERINGS[1])
    x = np.asarray(exact.sample(jax.random.key(0), model, params, 1000))
    spins, (first, second) = 2.0 * x - 1, model.graph.edges.T
    # The 254 products are independent with mean tanh J: 4.5 standard errors are exceeded with probability 7e-6.
    error = 1 / np.cosh(1.0) / np.sqrt(254 * 1000)
    assert abs((spins[:, first] * spins[:, second]).mean() - np.tanh(1.0)) < 4.5 * error
    # The gradient at data is the difference of means: those of the draws less those of the model.
    slope = exact.gradient(model, params, x)
    np.testing.assert_allclose(
        slope.coupling, np.tanh(1.0) - (spins[:, first] * spins[:, second]).mean(axis=0)
    )


@pytest.mark.parametrize("model", SMALL, ids=str)
def test_min_fill_agrees_with_loops(model):
    params, beta = random_params(model, seed=2), 0.8
    n, levels = model.graph.n_sites, model.n_levels
    table = oracles.energy_table(oracle_energy(model, params), n, levels)
    factors = min_fill_factors(model, params, beta)
    assert elimination.log_partition(factors) == pytest.approx(oracles.log_z(table, beta), rel=1e-12)
    p = oracles.boltzmann(table, beta).reshape((levels,) * n)
    for scope, got in zip(factors.structure.scopes, elimination.marginals(factors), strict=True):
        expected = np.einsum(p, range(n), scope)
        np.testing.assert_allclose(got, expected, atol=1e-12)
    found = exact.marginals(model, params, beta=beta)
    np.testing.assert_allclose(
        found.edges[0], np.einsum(p, range(n), model.graph.edges[0].tolist()), atol=1e-12
    )


def test_a_star_is_summed_from_its_leaves():
    n = 400
    model = Potts(Graph(n, [(0, leaf) for leaf in range(1, n)]), 3)
    bias, w = np.random.default_rng(1).normal(size=(n, 3)), np.linspace(-1, 1, n - 1)
    leaves = logsumexp(bias[1:, None, :] + w[:, None, None] * np.eye(3), axis=-1).sum(axis=0)
    got = exact.log_partition(model, PottsParams(bias, w))
    assert got == pytest.approx(logsumexp(bias[0] + leaves), rel=1e-13)
    # With the centre as the last number, too: any order but the leaves' first would need 3^400 entries.
    assert order.plan(tables.structure_of(model)).width == 1


def test_a_strip_in_any_numbering():
    strip = Grid(4, 30)
    numbers = np.random.default_rng(2).permutation(120)
    graph = Graph(120, numbers[strip.edges])
    assert order.plan(tables.structure_of(Ising(graph))).width <= 5
    params = random_params(Ising(strip, "edge"), seed=4)
    bias = np.zeros(120)
    bias[numbers] = np.asarray(params.bias, np.float64).reshape(-1)
    expected = exact.log_partition(Ising(strip, "edge"), params)
    got = exact.log_partition(Ising(graph), IsingParams(bias, np.asarray(params.coupling, np.float64)))
    assert got == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "model", [Ising(Grid(4, 5, "periodic")), Potts(Grid(3, 3, "periodic"), 3, "matrix")], ids=str
)
def test_held_sites_leave_log_z_as_it_is(model):
    factors = min_fill_factors(model, random_params(model, seed=3), 0.9)
    widest = model.n_levels ** (tables.plan_of(model).width + 1)
    cutset = conditioning.cutset_of(model, widest // model.n_levels**2)
    assert len(cutset.sites) >= 2
    log_z = elimination.log_partition(factors)
    assert conditioning.log_partition(factors, cutset) == pytest.approx(log_z, rel=1e-13)
    assert conditioning.cutset_of(model, model.n_levels**2) is None


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            Ising(Grid(13, 13, "periodic")),
            r"2\^169 .* meets a width of 2\d, a table of 2\^2\d entries; the limit is 2\^22",
        ),
        (Potts(Grid(14, 14), 3), r"3\^196 .* meets a width of 14, a table of 3\^15 entries"),
        (Ising(Bipartite(60, 70)), r"2\^130 .* meets a width of 60"),
        (Ising(Graph(300, np.stack(np.triu_indices(300, 1), axis=1))), "meets a width of 299"),
        (Ising(Grid(600, 600)), "meets a width of 600"),
    ],
    ids=str,
)
def test_what_is_too_wide_is_refused_with_the_width(model, message):
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), model.params_struct())
    for call in (exact.log_partition, exact.marginals):
        with pytest.raises(ValueError, match=message):
            call(model, params)


def test_marginals_are_of_pairwise_models():
    model = RBM(3, 2)
    with pytest.raises(ValueError, match="marginals need an Ising or Potts model"):
        exact.marginals(model, model.init(jax.random.key(0)))
