"""Exact answers against enumeration by loops, closed forms, each other and finite differences."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import exact
from ebm_jax.energies.ising import Ising, IsingParams
from ebm_jax.energies.potts import Potts, PottsParams
from ebm_jax.energies.rbm import RBM, RBMParams
from ebm_jax.exact import elimination, tables
from ebm_jax.exact.enumeration import Enumeration, logsumexp, smallest
from ebm_jax.graphs import Bipartite, Graph, Grid
from tests import oracles
from tests.energies.cases import oracle_energy, random_levels, random_params
from tests.statistics import assert_other_law, assert_same_law

SMALL = [
    Ising(Grid(3, 3, "periodic")),
    Ising(Graph(5, [(4, 0), (0, 1), (3, 1), (2, 0)])),
    Potts(Grid(2, 3), 3, "matrix"),
    Potts(Graph(4, [(0, 1), (2, 1), (3, 0)]), 4),
    RBM(4, 3),
    RBM(2, 5),
]
STRIPS = [
    *[
        Ising(Grid(3, 4, b, n), kind)
        for b in ("free", "periodic")
        for n in (4, 8)
        for kind in ("tied", "edge")
    ],
    *[
        Potts(Grid(h, w, b, n), 3, kind)
        for h, w, b, n in [(2, 4, "free", 4), (4, 2, "free", 8), (3, 3, "periodic", 4), (3, 3, "periodic", 8)]
        for kind in ("tied", "edge", "matrix")
    ],
    Ising(Grid(1, 9)),
    Ising(Graph(6, [(0, 1), (2, 1), (2, 3), (5, 0), (4, 1)])),
    Potts(Graph(5, [(4, 1), (2, 3)]), 3, "tied"),
    Potts(Graph(5, [(4, 1), (2, 3), (1, 0)]), 3, "matrix"),
    Potts(Bipartite(2, 3), 3),
]
SLOPES = [Grid(3, 4, "periodic", 8), Grid(4, 2, "free", 8), STRIPS[-2].graph, STRIPS[-1].graph]


def flat(tree):
    return np.concatenate([np.asarray(leaf, np.float64).reshape(-1) for leaf in jax.tree.leaves(tree)])


def as_float64(params):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def enumerated_log_partition(model, params, beta):
    with jax.enable_x64(True):
        return float(logsumexp(Enumeration(model).log_weights(as_float64(params), beta)))


def eliminated_log_partition(model, params, beta):
    return elimination.log_partition(tables.factors_of(model, as_float64(params), beta))


def difference_quotients(fn, params, step=1e-5):
    """Central differences of `fn` in every parameter."""
    params = as_float64(params)
    leaves, structure = jax.tree.flatten(params)
    slopes = []
    for number, leaf in enumerate(leaves):
        slope = np.zeros_like(leaf)
        for index in np.ndindex(leaf.shape):
            ends = []
            for sign in (1, -1):
                moved = leaf.copy()
                moved[index] += sign * step
                ends.append(fn(structure.unflatten([*leaves[:number], moved, *leaves[number + 1 :]])))
            slope[index] = (ends[0] - ends[1]) / (2 * step)
        slopes.append(slope)
    return structure.unflatten(slopes)


# ---- against the oracle ----


@pytest.mark.parametrize("model", SMALL, ids=str)
def test_states_are_all_configurations_with_the_last_site_fastest(model):
    levels = jax.vmap(model.levels)(exact.states(model))
    np.testing.assert_array_equal(levels, oracles.all_states(model.graph.n_sites, model.n_levels))


@pytest.mark.parametrize("model", SMALL, ids=str)
@pytest.mark.parametrize("beta", [1.0, 0.4])
def test_log_partition_and_probabilities_are_the_oracles(model, beta):
    params = random_params(model)
    table = oracles.energy_table(oracle_energy(model, params), model.graph.n_sites, model.n_levels)
    p = exact.probabilities(model, params, beta=beta)
    assert exact.log_partition(model, params, beta=beta) == pytest.approx(
        oracles.log_z(table, beta), abs=1e-12
    )
    np.testing.assert_allclose(p, oracles.boltzmann(table, beta), rtol=1e-11)
    assert p.dtype == np.float64
    assert p.sum() == pytest.approx(1.0, abs=1e-13)


def test_expectations_of_a_pytree():
    model = Potts(Grid(2, 3), 3)
    params = random_params(model)
    table = oracles.energy_table(oracle_energy(model, params), 6, 3)
    states, p = oracles.all_states(6, 3), oracles.boltzmann(table, 0.6)

    def statistics(x):
        same = x[0, 0] == x[1, 2]
        return {"same": same, "levels": (x, model.energy(params, x)), "phase": jnp.exp(1j * x[0])}

    got = exact.expectation(model, params, statistics, beta=0.6)
    assert got["same"] == pytest.approx(p @ (states[:, 0] == states[:, 5]), abs=1e-13)
    np.testing.assert_allclose(got["levels"][0], (p @ states).reshape(2, 3), atol=1e-13)
    assert got["levels"][1] == pytest.approx(p @ table, rel=1e-6)
    np.testing.assert_allclose(got["phase"], p @ np.exp(1j * states[:, :3]), atol=1e-6)
    assert got["same"].dtype == got["levels"][0].dtype == np.float64
    assert got["phase"].dtype == np.complex128


def test_layers_of_an_rbm_are_marginals():
    model = RBM(4, 3)
    params = random_params(model)
    table = oracles.energy_table(oracle_energy(model, params), 7, 2)
    joint = oracles.boltzmann(table, 0.7).reshape(16, 8)
    visible, hidden = (
        exact.probabilities(model, params, beta=0.7, layer=layer) for layer in ("visible", "hidden")
    )
    np.testing.assert_allclose(visible, joint.sum(axis=1), rtol=1e-11)
    np.testing.assert_allclose(hidden, joint.sum(axis=0), rtol=1e-11)
    np.testing.assert_array_equal(exact.states(model, layer="visible"), oracles.all_states(4, 2))
    np.testing.assert_array_equal(exact.states(model, layer="hidden"), oracles.all_states(3, 2))
    mean = exact.expectation(model, params, lambda v: v, beta=0.7, layer="visible")
    np.testing.assert_allclose(mean, visible @ oracles.all_states(4, 2), atol=1e-13)


@pytest.mark.parametrize(
    "model", [SMALL[0], Potts(Graph(3, [(0, 1), (2, 1)]), 3, "matrix"), RBM(4, 2), RBM(2, 3)], ids=str
)
def test_gradient_is_the_slope_of_the_mean_negative_log_likelihood(model):
    params, beta = random_params(model, scale=0.5), 0.7
    x = jax.vmap(model.from_levels)(jnp.stack([jnp.asarray(random_levels(model, seed)) for seed in range(5)]))
    data = x[0] if isinstance(model, RBM) else x
    rows = np.asarray(jax.vmap(model.levels)(x))

    def loss(p):
        energy = oracle_energy(model, p)
        table = oracles.energy_table(energy, model.graph.n_sites, model.n_levels)
        if isinstance(model, RBM):
            joint = oracles.boltzmann(table, beta).reshape(2**model.n_visible, -1)
            return -np.mean(np.log(joint.sum(axis=1))[oracles.state_numbers(rows[:, : model.n_visible], 2)])
        return np.mean([beta * energy(row) for row in rows]) + oracles.log_z(table, beta)

    got = exact.gradient(model, params, data, beta=beta)
    assert jax.tree.structure(got) == jax.tree.structure(params)
    assert all(leaf.dtype == np.float64 for leaf in got)
    np.testing.assert_allclose(flat(got), flat(difference_quotients(loss, params)), atol=1e-8)


def test_gradient_vanishes_where_data_are_the_models_own_law():
    model = Ising(Grid(2, 2))
    params = jax.tree.map(jnp.zeros_like, random_params(model))
    gradient = exact.gradient(model, params, exact.states(model))
    np.testing.assert_allclose(flat(gradient), 0.0, atol=1e-15)


# ---- closed forms ----


@pytest.mark.parametrize(("strength", "log_z"), [(0.2, 11.7714703585), (0.4, 14.5610930238)])
def test_the_4_by_4_torus(strength, log_z):
    model = Ising(Grid(4, 4, "periodic"))
    params = IsingParams(np.zeros((4, 4)), np.full(2, strength))
    assert exact.log_partition(model, params) == pytest.approx(log_z, abs=6e-11)
    unit = IsingParams(np.zeros((4, 4)), np.ones(2))
    assert exact.log_partition(model, unit, beta=strength) == pytest.approx(log_z, abs=6e-11)
    assert eliminated_log_partition(model, params, 1.0) == pytest.approx(log_z, abs=6e-11)


def kaufman_log_z(height, width, strength):
    """Log Z of the Ising torus without field (Kaufman, Phys. Rev. 76, 1232, 1949)."""
    k = np.arange(2 * width)
    gamma = np.arccosh(np.cosh(2 * strength) / np.tanh(2 * strength) - np.cos(np.pi * k / width))
    gamma[0] = 2 * strength + np.log(np.tanh(strength))
    odd, even = height * gamma[1::2] / 2, height * gamma[0::2] / 2
    products = [np.prod(2 * np.cosh(odd)), np.prod(2 * np.sinh(odd)), np.prod(2 * np.cosh(even))]
    total = sum(products) + np.prod(2 * np.sinh(even))
    return 0.5 * height * width * np.log(2 * np.sinh(2 * strength)) + np.log(total / 2)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 12), (20, 4)])
@pytest.mark.parametrize("strength", [0.2, 0.6])
def test_tori_are_kaufmans(height, width, strength):
    model = Ising(Grid(height, width, "periodic"))
    params = IsingParams(np.zeros((height, width)), np.full(2, strength))
    assert exact.log_partition(model, params) == pytest.approx(
        kaufman_log_z(height, width, strength), rel=1e-12
    )


def test_chains_and_rings_of_potts_spins():
    n, levels, w = 60, 5, 0.8
    eigenvalues = np.exp(w) - 1 + levels, np.exp(w) - 1
    bias = np.zeros((n, levels))
    chain = [(i, i + 1) for i in range(n - 1)]
    open_chain = Potts(Graph(n, chain), levels, "tied")
    expected = np.log(levels) + (n - 1) * np.log(eigenvalues[0])
    assert exact.log_partition(open_chain, PottsParams(bias, np.array(w))) == pytest.approx(
        expected, rel=1e-13
    )
    ring = Potts(Graph(n, [*chain, (0, n - 1)]), levels, "tied")
    expected = np.log(eigenvalues[0] ** n + (levels - 1) * eigenvalues[1] ** n)
    assert exact.log_partition(ring, PottsParams(bias, np.array(w))) == pytest.approx(expected, rel=1e-13)


def test_an_ising_ring_in_a_field():
    n, strength, field = 300, 0.5, 0.3
    edges = [(i, (i + 1) % n) for i in range(n)]
    root = np.sqrt(np.sinh(field) ** 2 + np.exp(-4 * strength))
    # The share of the smaller eigenvalue is far below 1e-16.
    expected = n * (strength + np.log(np.cosh(field) + root))
    params = IsingParams(np.full(n, field), np.full(n, strength))
    assert exact.log_partition(Ising(Graph(n, edges)), params) == pytest.approx(expected, rel=1e-13)


def test_an_rbm_without_weights_is_independent_units():
    rng = np.random.default_rng(0)
    params = RBMParams(np.zeros((300, 8)), rng.normal(size=300), rng.normal(size=8))
    expected = np.logaddexp(0, 2.0 * np.concatenate([params.visible_bias, params.hidden_bias])).sum()
    assert exact.log_partition(RBM(300, 8), params, beta=2.0) == pytest.approx(expected, rel=1e-13)


def test_both_layers_of_an_rbm_give_one_log_z():
    model = RBM(11, 9)
    params = random_params(model)
    mirrored = RBMParams(params.weights.T, params.hidden_bias, params.visible_bias)
    log_z = exact.log_partition(model, params, beta=0.8)
    assert exact.log_partition(RBM(9, 11), mirrored, beta=0.8) == pytest.approx(log_z, rel=1e-13)
    visible = exact.expectation(model, params, lambda v: v[0], beta=0.8, layer="visible")
    bumped = params._replace(visible_bias=np.asarray(params.visible_bias, np.float64) + 1e-5 * np.eye(11)[0])
    slope = (exact.log_partition(model, bumped, beta=0.8) - log_z) / 1e-5
    assert visible == pytest.approx(slope / 0.8, abs=1e-5)


# ---- transfer matrices ----


@pytest.mark.parametrize("model", STRIPS, ids=str)
def test_transfer_matrices_agree_with_enumeration(model):
    params, beta = random_params(model, seed=5), 0.8
    expected = enumerated_log_partition(model, params, beta)
    assert eliminated_log_partition(model, params, beta) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("model", [model for model in STRIPS if model.graph in SLOPES], ids=str)
def test_slopes_of_transfer_matrices_agree_with_enumeration(model):
    params, beta = random_params(model, seed=6), 0.8
    with jax.enable_x64(True):
        slope = Enumeration(model).log_partition_gradient(as_float64(params), beta)
    np.testing.assert_allclose(
        flat(tables.gradient(model, as_float64(params), beta)), flat(slope), atol=1e-12
    )


def test_forbidden_levels_have_no_weight():
    model = Potts(Grid(2, 3), 3)
    params = as_float64(random_params(model))
    params.bias[0, 1] = [-np.inf, 0.0, -np.inf]
    expected = enumerated_log_partition(model, params, 1.0)
    assert np.isfinite(expected)
    assert eliminated_log_partition(model, params, 1.0) == pytest.approx(expected, rel=1e-12)


def test_plans_foretell_the_tables():
    for model in STRIPS:
        plan = tables.plan_of(model)
        factors = tables.factors_of(model, as_float64(random_params(model)), 1.0)
        found = [table for table, _ in elimination._stored(factors)]
        assert max(table.ndim for table in found) == plan.width + 1
        assert sum(table.size for table in found) == plan.entries


def test_long_strips_are_quick_in_either_direction():
    tall, wide = (
        Potts(Grid(*shape, "periodic"), 4, "tied") for shape in [(40, 3), (3, 40)]
    )  # 4^120 configurations, 4^7 table entries
    bias = np.random.default_rng(0).normal(size=(40, 3, 4))
    start = time.perf_counter()
    log_z = exact.log_partition(tall, PottsParams(bias, np.array([0.3, 0.7])))
    turned = exact.log_partition(wide, PottsParams(bias.transpose(1, 0, 2), np.array([0.7, 0.3])))
    assert time.perf_counter() - start < 10.0
    assert log_z == pytest.approx(turned, rel=1e-13)


# ---- independent draws ----


@pytest.mark.parametrize("model", [SMALL[1], Potts(Grid(2, 3), 2, "edge"), RBM(3, 2), RBM(2, 3)], ids=str)
def test_draws_follow_the_probabilities(model):
    params, n = random_params(model, scale=0.7), 40_000
    x = exact.sample(jax.random.key(3), model, params, n, beta=0.9)
    assert jax.tree.map(lambda leaf: (leaf.shape[1:], leaf.dtype), x) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), model.position_struct()
    )
    levels = np.asarray(jax.vmap(model.levels)(x))
    p = exact.probabilities(model, params, beta=0.9)
    counts = np.bincount(oracles.state_numbers(levels, model.n_levels), minlength=p.size)
    assert_same_law(counts, p, "exact draws")
    assert_other_law(counts, exact.probabilities(model, params, beta=0.7), "exact draws at another β")


@pytest.mark.parametrize("model", [Ising(Grid(3, 3, "periodic")), Potts(Grid(2, 3), 3, "matrix")], ids=str)
def test_draws_through_transfer_matrices_follow_the_probabilities(model):
    params = as_float64(random_params(model, scale=0.7))
    uniforms = np.random.default_rng(1).random((40_000, model.graph.n_sites))
    levels = elimination.sample(tables.factors_of(model, params, 0.9), uniforms)
    p = exact.probabilities(model, params, beta=0.9)
    counts = np.bincount(oracles.state_numbers(levels, model.n_levels), minlength=p.size)
    assert_same_law(counts, p, "draws through transfer matrices")


def test_draws_from_a_long_strip_have_its_means():
    model = Ising(Grid(3, 30, "periodic"))
    params = IsingParams(np.full((3, 30), 0.1), np.array([0.2, 0.3]))
    x = exact.sample(jax.random.key(0), model, params, 4000)
    assert x.shape == (4000, 3, 30)
    # At the law's own mean statistics the likelihood gradient is zero, up to the noise of 4,000 draws.
    assert np.abs(flat(exact.gradient(model, params, x)[1])).max() < 5 * np.sqrt(3 * 90 / 4000)
    assert abs(exact.gradient(model, params, x[:, ::-1, ::-1]).bias.mean()) < 0.01


def test_layers_and_none_can_be_drawn():
    model = RBM(40, 3)
    params = random_params(model)
    v, h = exact.sample(jax.random.key(0), model, params, 7)
    assert (v.shape, h.shape) == ((7, 40), (7, 3))
    np.testing.assert_array_equal(exact.sample(jax.random.key(0), model, params, 7, layer="visible"), v)
    np.testing.assert_array_equal(exact.sample(jax.random.key(0), model, params, 7, layer="hidden"), h)
    assert exact.sample(jax.random.key(0), model, params, 0)[0].shape == (0, 40)


# ---- precision, size and refusals ----


def test_answers_are_float64_and_leave_the_users_default_alone():
    model = Ising(Grid(2, 2))
    params = IsingParams(np.full((2, 2), 1e-9), np.zeros(2))
    # float32 would round log cosh(1e-9) and the bias's effect to nothing.
    p = exact.probabilities(model, params)
    assert p[-1] / p[0] - 1 == pytest.approx(8e-9, rel=1e-6)
    assert jnp.zeros(1).dtype == jnp.float32
    assert isinstance(exact.log_partition(model, params), float)


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_non_finite_parameters_are_refused(value):
    model = Ising(Grid(2, 2))
    params = random_params(model)
    params = params._replace(bias=params.bias.at[0, 0].set(value))
    for answer in (exact.log_partition, exact.probabilities):
        with pytest.raises(ValueError, match=r"params\.bias holds (nan|inf)"):
            answer(model, params)
    with pytest.raises(ValueError, match="beta is nan"):
        exact.log_partition(model, random_params(model), beta=float("nan"))


def test_uneven_chunks_are_put_together(monkeypatch):
    model = Potts(Graph(7, [(0, 1), (5, 6)]), 3)
    params = random_params(model)
    in_one_chunk = exact.probabilities(model, params)
    monkeypatch.setattr("ebm_jax.exact.enumeration._CHUNK_VALUES", 1)
    assert Enumeration(model).chunk_size == 256
    np.testing.assert_allclose(exact.probabilities(model, params), in_one_chunk, rtol=1e-13)
    np.testing.assert_array_equal(jax.vmap(model.levels)(exact.states(model)), oracles.all_states(7, 3))


def test_65536_states_take_a_second_or_two():
    model = Ising(Grid(4, 4, "periodic"), "edge")
    params = random_params(model)
    start = time.perf_counter()
    p = exact.probabilities(model, params)
    assert p.size == 2**16
    assert time.perf_counter() - start < 10.0


def test_one_compilation_for_all_parameters():
    Enumeration.chunk_log_weights.clear_cache()
    for seed in range(3):
        model = Ising(Graph(6, [(0, 1), (4, 5)]))
        exact.log_partition(model, random_params(model, seed), beta=0.5 + seed)
    assert Enumeration.chunk_log_weights._cache_size() == 1


def dense(n):
    return Ising(Graph(n, [(i, j) for i in range(n) for j in range(i)]))


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("model", "call", "message"),
    [
        (
            dense(28),
            exact.log_partition,
            r"2\^28 = 268,435,456 configurations .* limit is 2\^22 = 4,194,304; use a smaller",
        ),
        (Ising(Grid(28, 28)), exact.log_partition, r"2\^784 \(about 10\^236\)"),
        (Ising(Grid(28, 28)), exact.probabilities, r"2\^784"),
        (Ising(Grid(3, 30)), exact.probabilities, r"2\^90"),
        (Potts(Grid(28, 28), 4), lambda m, p: exact.expectation(m, p, jnp.mean), r"4\^784"),
        (Ising(Grid(28, 28)), lambda m, p: exact.gradient(m, p, jnp.ones((1, 28, 28), bool)), r"2\^784"),
        (Ising(Grid(28, 28)), lambda m, p: exact.sample(jax.random.key(0), m, p, 1), r"2\^784"),
        (
            Ising(Grid(10, 10, "periodic")),
            lambda m, p: exact.sample(jax.random.key(0), m, p, 1),
            "keep every table",
        ),
        (RBM(23, 30), exact.log_partition, r"2\^23 "),
        (RBM(784, 5), lambda m, p: exact.states(m), r"2\^789 .*layer='hidden'"),
        (RBM(784, 5), lambda m, p: exact.states(m, layer="visible"), r"2\^784 .*layer='hidden'"),
        (dense(4), lambda m, p: exact.states(m, layer="hidden"), "layer is 'hidden', and Ising has none"),
        (RBM(3, 2), lambda m, p: exact.states(m, layer="both"), "layer is 'both'; choose one of"),
        (
            dense(4),
            lambda m, p: exact.log_partition(m, p._replace(bias=p.bias[:2])),
            r"params.bias has shape \(2,\)",
        ),
        (dense(4), lambda m, p: exact.log_partition(m, (1.0, 2.0)), "params has the structure"),
        (
            dense(4),
            lambda m, p: exact.log_partition(m, p, beta=jnp.ones(2)),
            "beta is .*; give one finite number",
        ),
        (
            dense(4),
            lambda m, p: exact.log_partition(m, p, beta="cold"),
            "beta is 'cold'; give one finite number",
        ),
        (dense(4), lambda m, p: jax.jit(lambda q: exact.log_partition(m, q))(p), "call this outside jit"),
        (dense(4), lambda m, p: exact.gradient(m, p, jnp.ones((0, 4), bool)), "data holds no configuration"),
        (
            dense(4),
            lambda m, p: exact.gradient(m, p, jnp.ones((3, 4))),
            "data has dtype float32; expected bool",
        ),
        (dense(4), lambda m, p: exact.gradient(m, p, jnp.ones((3, 5), bool)), r"expected \(n_chains, 4\)"),
        (RBM(3, 2), lambda m, p: exact.gradient(m, p, jnp.full((3, 3), 2, jnp.uint8)), "data holds level 2"),
        (dense(4), lambda m, p: exact.sample(jax.random.PRNGKey(0), m, p, 1), "make a typed one"),
        (dense(4), lambda m, p: exact.sample(jax.random.key(0), m, p, -1), "n_samples is -1"),
    ],
)
def test_what_cannot_be_done_is_refused(model, call, message):
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), model.params_struct())
    with pytest.raises(ValueError, match=message):
        call(model, params)


def test_the_smaller_layer_is_summed():
    assert smallest(RBM(5, 3)) == Enumeration(RBM(5, 3), "hidden")
    assert smallest(RBM(3, 5)) == Enumeration(RBM(3, 5), "visible")
    assert smallest(Ising(Grid(2, 2))).n_states == 16
