"""What holds of every discrete family: the oracle's energies and conditionals, structure by value, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.energies.base import DiscreteModel
from ebm_jax.energies.ising import Ising, IsingParams
from ebm_jax.energies.potts import Potts, PottsParams
from ebm_jax.energies.rbm import RBM, RBMParams
from ebm_jax.graphs import Graph, Grid
from ebm_jax.types import count_parameters
from tests import oracles
from tests.energies.cases import BIG_CASES, CASES, configuration, oracle_energy, random_levels, random_params

SAMPLE = [Ising(Grid(4, 4)), Potts(Graph(4, [(0, 1), (3, 1), (2, 0)]), 3, "matrix"), RBM(5, 3)]


@pytest.mark.parametrize("model", [*CASES, *BIG_CASES], ids=str)
def test_energy_is_the_oracles_to_3e_5(model):
    params = random_params(model)
    energy = jax.jit(model.energy)
    oracle, n_compared = oracle_energy(model, params), 0
    for seed in range(6):
        levels = random_levels(model, seed)
        expected = oracle(levels)
        got = energy(params, configuration(model, levels))
        assert got.dtype == jnp.float32
        assert got.shape == ()
        if abs(expected) > 0.1:  # relative to what is left where terms cancel, no error is small
            assert float(got) == pytest.approx(expected, rel=3e-5)
            n_compared += 1
    assert n_compared >= 3


@pytest.mark.parametrize("model", CASES, ids=str)
def test_conditional_logits_are_energy_differences(model):
    params = random_params(model, seed=1)
    energy = oracle_energy(model, params)
    logits_of = jax.jit(model.conditional_logits)
    for seed in range(2):
        levels = random_levels(model, 10 + seed)
        logits = logits_of(params, configuration(model, levels))
        rows = np.concatenate(
            [np.asarray(leaf).reshape(-1, model.n_levels) for leaf in jax.tree.leaves(logits)]
        )
        for site in range(model.graph.n_sites):
            trial, expected = levels.copy(), []
            for level in range(model.n_levels):
                trial[site] = level
                expected.append(-energy(trial))
            np.testing.assert_allclose(
                rows[site] - rows[site, 0], np.array(expected) - expected[0], atol=2e-5
            )


@pytest.mark.parametrize("model", SAMPLE, ids=str)
def test_conditionals_are_the_oracles_at_every_beta(model):
    params = random_params(model, seed=2)
    levels = random_levels(model, 3)
    logits = jax.jit(model.conditional_logits)(params, configuration(model, levels))
    rows = np.concatenate([np.asarray(leaf).reshape(-1, model.n_levels) for leaf in jax.tree.leaves(logits)])
    for beta in (0.3, 1.0):
        got = np.asarray(jax.nn.softmax(beta * rows, axis=-1))
        for site in range(model.graph.n_sites):
            expected = oracles.site_conditional(
                oracle_energy(model, params), levels, site, model.n_levels, beta
            )
            np.testing.assert_allclose(got[site], expected, atol=3e-6)


@pytest.mark.parametrize("model", CASES, ids=str)
def test_levels_and_configurations_are_inverse(model):
    levels = random_levels(model, 4)
    x = configuration(model, levels)
    structs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), x)
    assert structs == model.position_struct()
    np.testing.assert_array_equal(model.levels(x), levels)


@pytest.mark.parametrize("model", CASES, ids=str)
def test_init_fits_the_model(model):
    assert jax.eval_shape(model.init, jax.random.key(0)) == model.params_struct()
    assert isinstance(model, DiscreteModel)


@pytest.mark.parametrize("model", SAMPLE, ids=str)
def test_init_depends_on_the_key_and_scale(model):
    field = 0 if isinstance(model, RBM) else 1
    drawn, again, other = (model.init(jax.random.key(seed))[field] for seed in (0, 0, 1))
    np.testing.assert_array_equal(drawn, again)
    assert bool((drawn != other).all())
    np.testing.assert_allclose(model.init(jax.random.key(0), scale=0.5)[field], 50 * drawn, rtol=1e-5)


@pytest.mark.parametrize("model", CASES, ids=str)
def test_default_specs_fit(model):
    model.default_spec().check(model.graph)


@pytest.mark.parametrize("model", SAMPLE, ids=str)
def test_batches_are_vmap_and_gradients_are_statistics(model):
    params = random_params(model)
    many = [configuration(model, random_levels(model, seed)) for seed in range(4)]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *many)
    energy = jax.jit(model.energy)
    energies = jax.jit(jax.vmap(energy, (None, 0)))(params, batch)
    np.testing.assert_allclose(energies, [energy(params, x) for x in many], rtol=1e-5)
    # E is linear in the parameters: their product with the gradient is E itself.
    gradient = jax.jit(jax.grad(energy))(params, many[0])
    product = sum(float(jnp.vdot(a, b)) for a, b in zip(params, gradient, strict=True))
    assert product == pytest.approx(float(energies[0]), rel=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Ising(Grid(4, 3, "periodic")),
        lambda: Ising(Graph(3, [(0, 1), (2, 1)])),
        lambda: Potts(Graph(3, [(0, 1), (2, 1)]), 3, "matrix"),
        lambda: RBM(4, 3),
    ],
    ids=["ising-grid", "ising-graph", "potts-graph", "rbm"],
)
def test_equal_models_with_new_parameters_share_one_trace(make, count_traces):
    assert make() == make()
    assert hash(make()) == hash(make())
    fn, traces = count_traces(lambda model, params, x: model.energy(params, x))
    jitted = jax.jit(fn, static_argnums=0)
    energies = set()
    for seed in range(3):
        model = make()
        energies.add(
            float(jitted(model, random_params(model, seed), configuration(model, random_levels(model))))
        )
    assert len(energies) == 3
    assert len(traces) == 1


def test_structure_tells_models_apart():
    models = [
        Ising(Grid(3, 3)),
        Ising(Grid(3, 3), "edge"),
        Ising(Grid(3, 3, "periodic")),
        Ising(Graph(9, Grid(3, 3).edges)),
        Potts(Grid(3, 3), 2),
        Potts(Grid(3, 3), 3),
        Potts(Grid(3, 3), 3, "edge"),
        RBM(3, 3),
        RBM(3, 4),
    ]
    assert len(set(models)) == len(models)


def test_the_default_coupling_follows_the_graph():
    assert Ising(Grid(3, 3)) == Ising(Grid(3, 3), "tied")
    assert Potts(Grid(3, 3), 3) == Potts(Grid(3, 3), 3, "tied")
    assert Ising(Graph(2, [(0, 1)])) == Ising(Graph(2, [(0, 1)]), "edge")


def test_counts_of_parameters():
    def count(model):
        return count_parameters(
            jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), model.params_struct())
        )

    assert count(Potts(Grid(28, 28), 4)) == 3138
    assert count(Potts(Grid(28, 28), 4, "edge")) == 3136 + 1512
    assert count(Potts(Grid(28, 28), 4, "matrix")) == 3136 + 1512 * 16
    assert count(Ising(Grid(28, 28, neighbourhood=8))) == 784 + 4
    assert count(Ising(Graph(3, [(0, 1), (1, 2)]), "tied")) == 3 + 1
    assert count(RBM(784, 500)) == 784 * 500 + 784 + 500


ISING, POTTS, MACHINE = Ising(Grid(3, 4, neighbourhood=8)), Potts(Grid(3, 4), 3), RBM(4, 3)
SPINS, LEVELS = jnp.ones((3, 4), bool), jnp.ones((3, 4), jnp.uint8)
UNITS = (jnp.ones(4, jnp.uint8), jnp.ones(3, jnp.uint8))


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("model", "params", "x", "message"),
    [
        (ISING, None, jnp.ones((3, 4)), "x has dtype float32; expected bool"),
        (ISING, None, jnp.ones((4, 3), bool), r"x has shape \(4, 3\); expected \(3, 4\)"),
        (ISING, None, jnp.ones((2, 3, 4), bool), r"x has shape \(2, 3, 4\)"),
        (ISING, None, UNITS, "x has the structure"),
        (
            ISING,
            IsingParams(jnp.zeros((3, 4)), jnp.zeros(2)),
            SPINS,
            r"params.coupling has shape \(2,\); expected \(4,\)",
        ),
        (ISING, IsingParams(jnp.zeros(4), jnp.zeros(4)), SPINS, r"params.bias has shape \(4,\)"),
        (
            ISING,
            IsingParams(jnp.zeros((3, 4), int), jnp.zeros(4)),
            SPINS,
            "params.bias has dtype int32; expected .*float32",
        ),
        (ISING, IsingParams(jnp.zeros((3, 4)), 0.4), SPINS, r"params.coupling is 0.4; expected an array"),
        (ISING, POTTS.init(jax.random.key(0)), SPINS, "params has the structure"),
        (POTTS, None, jnp.ones((3, 4), jnp.int32), "x has dtype int32; expected uint8"),
        (POTTS, None, jnp.ones(12, jnp.uint8), r"x has shape \(12,\)"),
        (
            POTTS,
            PottsParams(jnp.zeros((3, 4)), jnp.zeros(2)),
            LEVELS,
            r"params.bias has shape \(3, 4\); expected \(3, 4, 3\)",
        ),
        (MACHINE, None, (UNITS[1], UNITS[0]), r"x\[0\] has shape \(3,\); expected \(4,\)"),
        (MACHINE, None, (jnp.ones(4), jnp.ones(3)), r"x\[0\] has dtype float32; expected bool or uint8"),
        (MACHINE, None, UNITS[0], "x has the structure"),
        (
            MACHINE,
            RBMParams(jnp.zeros((3, 4)), jnp.zeros(4), jnp.zeros(3)),
            UNITS,
            r"params.weights has shape \(3, 4\)",
        ),
    ],
)
def test_input_that_does_not_fit_is_refused_everywhere(model, params, x, message):
    params = model.init(jax.random.key(0)) if params is None else params
    for method in (model.energy, model.conditional_logits, jax.jit(model.energy)):
        if method is not model.energy and any(isinstance(leaf, float) for leaf in params):
            continue
        with pytest.raises(ValueError, match=message):
            method(params, x)


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ising(4), "graph is 4; give a Grid, a Graph or a Bipartite"),
        (lambda: Ising(Grid(2, 2), "matrix"), "coupling is 'matrix'; choose one of 'tied', 'edge'"),
        (lambda: Potts("grid", 3), "graph is 'grid'"),
        (lambda: Potts(Grid(2, 2), 3, "full"), "coupling is 'full'; choose one of 'tied', 'edge', 'matrix'"),
        (lambda: Potts(Grid(2, 2), 1), "n_levels is 1; give a whole number of at least 2"),
        (lambda: Potts(Grid(2, 2), 257), "n_levels is 257; a level is stored in a byte"),
        (lambda: Potts(Grid(2, 2), 3.0), "n_levels is 3.0"),
        (lambda: RBM(0, 3), "n_visible is 0"),
        (lambda: RBM(3, -1), "n_hidden is -1"),
    ],
)
def test_bad_structure_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_annotations_are_checked_here():
    with pytest.raises(TypeError, match="Type-check error"):
        ISING.energy(ISING.init(jax.random.key(0)), jnp.ones((3, 4)))
