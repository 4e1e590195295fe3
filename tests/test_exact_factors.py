"""Exact answers of factor graphs: loops over configurations, transfer matrices, quadrature and other families."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import kstest

import ebm_jax as ej
from ebm_jax import exact
from ebm_jax.exact import conditioning, elimination, tables
from ebm_jax.exact.enumeration import Enumeration
from tests.statistics import assert_same_law
from tests.test_exact import as_float64, difference_quotients, flat

BETA = 0.7
RNG = np.random.default_rng(5)
# Three spins, one category of 3 levels and two of 2; names out of order, so that leaves and sites differ in theirs.
DISCRETE = ej.FactorGraph(
    {"s": ej.Spins(3), "c": ej.Categories(1, 3), "a": ej.Categories(2, 2)},
    [
        ej.Factor(("s", [0, 1, 2])),
        ej.Factor(("s", 0), ("s", 1), ("s", 2)),
        ej.Factor(("s", [0, 2]), ("c", 0), ("s", [1, 1])),
        ej.Factor(("a", [0, 1]), ("c", 0)),
        ej.Factor(("c", 0)),
    ],
)
DISCRETE_PARAMS = tuple(RNG.normal(size=shape) for shape in [(3,), (1,), (2, 3), (2, 2, 3), (1, 3)])
DISCRETE_STATES = list(itertools.product((0, 1), (0, 1), (0, 1), range(3), (0, 1), (0, 1)))
# Two real units whose precisions and coupling depend on a spin and a category.
REAL = ej.FactorGraph(
    {"x": ej.Gaussians(2), "s": ej.Spins(1), "c": ej.Categories(1, 3)},
    [
        ej.Factor(("x", [0, 1], "square")),
        ej.Factor(("c", 0), ("x", 1, "square")),
        ej.Factor(("x", 0), ("x", 1), ("s", 0)),
        ej.Factor(("s", [0, 0]), ("x", [0, 1])),
        ej.Factor(("x", [1, 0]), ("c", 0)),
        ej.Factor(("s", 0), ("c", 0)),
    ],
)
REAL_PARAMS = (
    np.asarray([-0.6, -0.5]),
    np.asarray([[-0.3, 0.1, 0.0]]),
    np.asarray([0.4]),
    RNG.normal(size=2),
    RNG.normal(size=(2, 3)),
    RNG.normal(size=(1, 3)),
)
REAL_STATES = list(itertools.product((0, 1), range(3)))


def discrete_log_weights(params):
    """−β E by loops, in the order of DISCRETE_STATES."""
    field, cubic, mixed, pairs, bias = params
    found = []
    for *bits, c, a0, a1 in DISCRETE_STATES:
        s = 2 * np.asarray(bits) - 1
        total = field @ s + cubic[0] * s.prod() + bias[0, c]
        total += mixed[0, c] * s[0] * s[1] + mixed[1, c] * s[2] * s[1] + pairs[0, a0, c] + pairs[1, a1, c]
        found.append(BETA * total)
    return np.asarray(found)


def real_density(params):
    """Points of a fine grid, and exp(−β E) of each with each discrete configuration times the area of a cell."""
    square, of_class, coupling, drive, table, bias = params
    axis = np.linspace(-14, 14, 281)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    columns = []
    for bit, c in REAL_STATES:
        s = 2 * bit - 1
        exponent = square[0] * x**2 + (square[1] + of_class[0, c]) * y**2 + coupling[0] * s * x * y
        exponent += s * (drive[0] * x + drive[1] * y) + table[0, c] * y + table[1, c] * x + bias[0, c] * s
        columns.append(np.exp(BETA * exponent).reshape(-1) * 0.01)
    return np.stack([x.reshape(-1), y.reshape(-1)], axis=1), np.stack(columns, axis=1)


def cubic_chain(n, seed=0):
    """A chain of three-body terms, its parameters, and its log Z by a transfer matrix of pairs of spins."""
    first = np.arange(n - 2)
    model = ej.FactorGraph(
        {"s": ej.Spins(n)},
        [ej.Factor(("s", range(n))), ej.Factor(("s", first), ("s", first + 1), ("s", first + 2))],
    )
    rng = np.random.default_rng(seed)
    field, strength = rng.normal(size=n), rng.normal(size=n - 2)
    spins = np.asarray([-1.0, 1.0])
    rows = field[0] * spins[:, None] + field[1] * spins
    for site in range(2, n):
        triple = np.einsum("a,b,c->abc", spins, spins, spins)
        rows = logsumexp(rows[:, :, None] + strength[site - 2] * triple, axis=0) + field[site] * spins
    return model, (field, strength), logsumexp(rows)


def test_mixed_levels_are_enumerated_in_order():
    weights = discrete_log_weights(DISCRETE_PARAMS)
    assert exact.log_partition(DISCRETE, DISCRETE_PARAMS, beta=BETA) == pytest.approx(
        logsumexp(weights), rel=1e-13
    )
    p = exact.probabilities(DISCRETE, DISCRETE_PARAMS, beta=BETA)
    np.testing.assert_allclose(p, np.exp(weights - logsumexp(weights)), rtol=1e-12)
    states = exact.states(DISCRETE)
    assert {name: leaf.dtype for name, leaf in states.items()} == {"s": bool, "c": np.uint8, "a": np.uint8}
    np.testing.assert_array_equal(jax.vmap(DISCRETE.levels)(states), DISCRETE_STATES)
    mean = exact.expectation(DISCRETE, DISCRETE_PARAMS, lambda x: x["c"][0] == 2, beta=BETA)
    assert mean == pytest.approx(p @ (np.asarray(DISCRETE_STATES)[:, 3] == 2), abs=1e-13)


def test_elimination_agrees_with_loops():
    weights = discrete_log_weights(DISCRETE_PARAMS)
    factors = tables.factors_of(DISCRETE, DISCRETE_PARAMS, BETA)
    assert elimination.log_partition(factors) == pytest.approx(logsumexp(weights), rel=1e-13)
    cutset = conditioning.cutset_of(DISCRETE, 12)
    assert cutset.sites and conditioning.log_partition(factors, cutset) == pytest.approx(
        logsumexp(weights), rel=1e-13
    )
    slope = difference_quotients(lambda q: logsumexp(discrete_log_weights(q)), DISCRETE_PARAMS)
    np.testing.assert_allclose(flat(tables.gradient(DISCRETE, DISCRETE_PARAMS, BETA)), flat(slope), atol=1e-9)
    joint = np.exp(weights - logsumexp(weights)).reshape(2, 2, 2, 3, 2, 2)
    found = exact.marginals(DISCRETE, DISCRETE_PARAMS, beta=BETA)
    assert {name: p.shape for name, p in found.nodes.items()} == {"s": (3, 2), "c": (1, 3), "a": (2, 2)}
    np.testing.assert_allclose(found.nodes["a"][1], joint.sum(axis=(0, 1, 2, 3, 4)), atol=1e-13)
    # The members of this factor are spin 2, the category and spin 1.
    np.testing.assert_allclose(found.factors[2][1], np.einsum("abcdef->cdb", joint), atol=1e-13)
    uniforms = np.random.default_rng(1).random((20_000, 6))
    levels = elimination.sample(factors, uniforms)
    numbers = np.ravel_multi_index(levels.T, joint.shape)
    assert_same_law(np.bincount(numbers, minlength=joint.size), joint.reshape(-1), "eliminated draws")


def test_chains_of_three_body_terms():
    model, params, log_z = cubic_chain(12)
    assert exact.log_partition(model, params) == pytest.approx(log_z, rel=1e-13)
    # 2^80 configurations.
    model, params, log_z = cubic_chain(80)
    assert exact.log_partition(model, params) == pytest.approx(log_z, rel=1e-13)
    x = exact.sample(jax.random.key(0), model, params, 2000)
    assert (x["s"].shape, x["s"].dtype) == ((2000, 80), bool)
    # The gradient at draws is the difference of their means from the model's: 158 of them, each of a term within ±1.
    # Five standard errors are exceeded with probability 158 · 6e-7.
    slope = exact.gradient(model, params, x)
    assert np.abs(flat(slope)).max() < 5 / np.sqrt(2000)
    assert np.abs(flat(exact.gradient(model, params, {"s": ~x["s"]}))).max() > 0.5


def test_other_families_are_factor_graphs():
    """An RBM of real units, and a Potts model, term by term."""
    rbm = ej.GaussianRBM(3, 4)
    params = rbm.init(jax.random.key(0), scale=0.4)
    w, a, b = as_float64(params._replace(visible_bias=jnp.asarray([0.3, -0.2, 0.5])))
    pairs = np.stack(np.meshgrid(range(3), range(4), indexing="ij"), axis=-1).reshape(-1, 2)
    factors = [
        ej.Factor(("v", range(3), "square")),
        ej.Factor(("v", range(3))),
        ej.Factor(("h", range(4))),
        ej.Factor(("v", pairs[:, 0]), ("h", pairs[:, 1])),
    ]
    graph = ej.FactorGraph({"v": ej.Gaussians(3), "h": ej.Categories(4, 2)}, factors)
    off_and_on = np.asarray([0.0, 1.0])
    weights = (-np.ones(3) / 2, a, b[:, None] * off_and_on, w.reshape(-1, 1) * off_and_on)
    expected = exact.log_partition(rbm, ej.RBMParams(w, a, b), beta=BETA) + BETA * a @ a / 2
    assert exact.log_partition(graph, weights, beta=BETA) == pytest.approx(expected, rel=1e-13)
    p = exact.probabilities(rbm, ej.RBMParams(w, a, b), beta=BETA, layer="hidden")
    np.testing.assert_allclose(
        exact.probabilities(graph, weights, beta=BETA, layer="discrete"), p, rtol=1e-11
    )

    potts = ej.Potts(ej.Grid(3, 7), 3, "matrix")
    bias, coupling = as_float64(potts.init(jax.random.key(1), scale=0.5))
    ends = potts.graph.edges.T
    graph = ej.FactorGraph(
        {"c": ej.Categories(21, 3)}, [ej.Factor(("c", range(21))), ej.Factor(("c", ends[0]), ("c", ends[1]))]
    )
    weights = (bias.reshape(21, 3), coupling)
    expected = exact.log_partition(potts, ej.PottsParams(bias, coupling))
    assert exact.log_partition(graph, weights) == pytest.approx(expected, rel=1e-13)
    data = np.random.default_rng(2).integers(0, 3, (5, 21)).astype(np.uint8)
    slope = exact.gradient(potts, ej.PottsParams(bias, coupling), data.reshape(5, 3, 7))
    np.testing.assert_allclose(flat(exact.gradient(graph, weights, {"c": data})), flat(slope), atol=1e-12)


def test_real_units_are_integrated_out():
    # The trapezoidal rule is exact to rounding for such densities.
    _, density = real_density(REAL_PARAMS)
    got = exact.log_partition(REAL, REAL_PARAMS, beta=BETA)
    assert got == pytest.approx(np.log(density.sum()), rel=1e-12)
    p = exact.probabilities(REAL, REAL_PARAMS, beta=BETA, layer="discrete")
    np.testing.assert_allclose(p, density.sum(axis=0) / density.sum(), rtol=1e-11)
    np.testing.assert_array_equal(exact.states(REAL, layer="discrete"), REAL_STATES)


def test_gradients_with_real_units_are_slopes():
    v, _ = real_density(REAL_PARAMS)
    rows, numbers = [40_000, 39_000, 37_070], [0, 4, 5]
    data = {
        "x": v[rows].astype(np.float32),
        "s": np.asarray([[REAL_STATES[n][0]] for n in numbers], bool),
        "c": np.asarray([[REAL_STATES[n][1]] for n in numbers], np.uint8),
    }

    def loss(params):
        density = real_density(params)[1]
        return -np.mean(np.log(density[rows, numbers])) + np.log(density.sum())

    got = exact.gradient(REAL, REAL_PARAMS, data, beta=BETA)
    np.testing.assert_allclose(flat(got), flat(difference_quotients(loss, REAL_PARAMS)), atol=1e-6)


def test_draws_with_real_units_follow_the_law():
    x = exact.sample(jax.random.key(2), REAL, REAL_PARAMS, 20_000, beta=BETA)
    assert {name: leaf.dtype for name, leaf in x.items()} == {"s": bool, "c": np.uint8, "x": np.float32}
    p = exact.probabilities(REAL, REAL_PARAMS, beta=BETA, layer="discrete")
    numbers = np.asarray(x["s"])[:, 0] * 3 + np.asarray(x["c"])[:, 0]
    assert_same_law(np.bincount(numbers, minlength=6), p, "discrete")
    layer = exact.sample(jax.random.key(2), REAL, REAL_PARAMS, 20_000, beta=BETA, layer="discrete")
    np.testing.assert_array_equal(layer, np.stack([x["s"][:, 0], x["c"][:, 0]], axis=1))
    square, of_class, coupling, drive, table, _ = REAL_PARAMS
    for number, (bit, c) in enumerate(REAL_STATES):
        s = 2 * bit - 1
        off = -coupling[0] * s
        precision = np.asarray([[-2 * square[0], off], [off, -2 * (square[1] + of_class[0, c])]])
        linear = s * drive + table[::-1, c]
        rows = np.asarray(x["x"], np.float64)[numbers == number]
        whitened = np.sqrt(BETA) * (rows - np.linalg.solve(precision, linear)) @ np.linalg.cholesky(precision)
        # A false alarm in one of the six has probability 6e-6.
        assert kstest(whitened.ravel(), "norm").pvalue > 1e-6
        assert abs(np.corrcoef(whitened.T)[0, 1]) < 5 / np.sqrt(len(rows))


def test_gaussian_graphs():
    n = 5
    first, second = np.triu_indices(n, 1)
    graph = ej.FactorGraph(
        {"x": ej.Gaussians(n)},
        [
            ej.Factor(("x", range(n))),
            ej.Factor(("x", range(n), "square")),
            ej.Factor(("x", first), ("x", second)),
        ],
    )
    root, linear = RNG.normal(size=(n, n)), RNG.normal(size=n)
    precision = root @ root.T + np.eye(n)
    params = (linear, -np.diag(precision) / 2, -precision[first, second])
    solved = np.linalg.solve(precision, linear)
    expected = linear @ solved / 2 - np.linalg.slogdet(precision / (2 * np.pi))[1] / 2
    assert exact.log_partition(graph, params) == pytest.approx(expected, rel=1e-13)
    slope = exact.gradient(graph, params, {"x": np.zeros((1, n), np.float32)})
    np.testing.assert_allclose(slope[0], solved, rtol=1e-11)
    np.testing.assert_allclose(slope[1], np.diag(np.linalg.inv(precision)) + solved**2, rtol=1e-11)


@dataclasses.dataclass(frozen=True)
class Triples(ej.NodeKind):
    """Numbers 0, 1 and 2 that factors read as −1, 0 and 1."""

    dtype = jnp.int32
    n_values = 3

    def evaluate(self, statistic, x):
        return x - 1.0

    def draw(self, fields, words):
        return jnp.zeros_like(words[0], jnp.int32)


@dataclasses.dataclass(frozen=True)
class Counts(ej.NodeKind):
    """Numbers without bound."""

    dtype = jnp.float32

    def evaluate(self, statistic, x):
        return x

    def draw(self, fields, words):
        return jnp.zeros_like(words[0], jnp.float32)


def test_kinds_of_ones_own_with_levels():
    graph = ej.FactorGraph({"t": Triples(2), "s": ej.Spins(1)}, [ej.Factor(("t", 0), ("t", 1), ("s", 0))])
    values = [a * b * s for a in (-1, 0, 1) for b in (-1, 0, 1) for s in (-1, 1)]
    expected = logsumexp(0.8 * np.asarray(values))
    params = (np.asarray([0.8]),)
    assert exact.log_partition(graph, params) == pytest.approx(expected, rel=1e-13)
    assert elimination.log_partition(tables.factors_of(graph, params, 1.0)) == pytest.approx(
        expected, rel=1e-13
    )


def gaussian_pair(coupling, square=-0.5):
    graph = ej.FactorGraph(
        {"s": ej.Spins(1), "x": ej.Gaussians(2)},
        [ej.Factor(("x", [0, 1], "square")), ej.Factor(("s", 0), ("x", 0), ("x", 1)), ej.Factor(("s", 0))],
    )
    return graph, (np.full(2, square), np.asarray([coupling]), np.zeros(1))


def flat_direction():
    """A precision matrix of rank 1, whose other pivots are positive by rounding alone."""
    v = np.asarray([0.39, 0.7, 1.3])
    assert (np.diag(np.linalg.cholesky(np.outer(v, v))) > 0).all()
    first, second = np.triu_indices(3, 1)
    factors = [ej.Factor(("x", range(3), "square")), ej.Factor(("x", first), ("x", second))]
    return ej.FactorGraph({"x": ej.Gaussians(3)}, factors), (-(v**2) / 2, -v[first] * v[second])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exact.log_partition(*flat_direction()), "is not positive definite"),
        (
            lambda: exact.log_partition(*gaussian_pair(1.0)),
            r"levels \[0\] the precision .* is not positive definite",
        ),
        (lambda: exact.sample(jax.random.key(0), *gaussian_pair(1.5), 3), "is not positive definite"),
        (lambda: exact.log_partition(*gaussian_pair(0.5), beta=-1.0), "beta is -1.0; real units"),
        (lambda: exact.states(REAL), "nodes without levels of FactorGraph are real .* layer='discrete'"),
        (lambda: exact.probabilities(REAL, REAL_PARAMS), "are real and cannot be enumerated"),
        (lambda: exact.expectation(REAL, REAL_PARAMS, lambda x: x["x"]), "are real and cannot be enumerated"),
        (lambda: exact.marginals(REAL, REAL_PARAMS), "FactorGraph without real units"),
        (lambda: exact.states(DISCRETE, layer="discrete"), "FactorGraph has none; leave it out"),
        (lambda: exact.states(REAL, layer="hidden"), "choose 'discrete'"),
        (
            lambda: exact.log_partition(
                ej.FactorGraph({"n": Counts(1), "s": ej.Spins(1)}, [ej.Factor(("n", 0), ("s", 0))]),
                (np.ones(1),),
            ),
            r"the nodes 'n' are Counts\(n=1\), which takes infinitely many values",
        ),
        (
            lambda: exact.log_partition(
                ej.FactorGraph(
                    {"x": ej.Gaussians(2)},
                    [ej.Factor(("x", [0, 1], "square")), ej.Factor(("x", 0, "square"), ("x", 1))],
                ),
                (-np.ones(2), np.ones(1)),
            ),
            "factor 1, .* is of degree 3 in real units",
        ),
        (
            lambda: exact.gradient(
                DISCRETE,
                DISCRETE_PARAMS,
                {
                    "s": np.ones((1, 3), bool),
                    "c": np.full((1, 1), 3, np.uint8),
                    "a": np.ones((1, 2), np.uint8),
                },
            ),
            "data holds level 3; levels run from 0 to 2",
        ),
        (
            lambda: exact.states(ej.FactorGraph({"s": ej.Spins(20), "c": ej.Categories(3, 5)}, [])),
            r"2\^20·5\^3 = 131,072,000 configurations",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_chunks_of_real_units_are_put_together(monkeypatch):
    whole = exact.log_partition(REAL, REAL_PARAMS)
    monkeypatch.setattr("ebm_jax.exact.enumeration._CHUNK_VALUES", 1)
    chain, params, log_z = cubic_chain(10)
    assert Enumeration(chain).chunk_size == 256
    assert exact.log_partition(chain, params) == pytest.approx(log_z, rel=1e-13)
    assert exact.log_partition(REAL, REAL_PARAMS) == pytest.approx(whole, rel=1e-13)
