"""THRML and this package call the same thing the same energy, and their samplers draw the same law."""

import functools
import importlib
import itertools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2_contingency

import ebm_jax as ej
from ebm_jax import run
from tests import oracles, systems
from tests.statistics import assert_other_law, assert_plausible, assert_same_law
from tests.test_imports import loaded_after

thrml = pytest.importorskip("thrml")
bridge = importlib.import_module("ebm_jax.interop.thrml")
models = thrml.models
Block = thrml.Block

N_CHAINS, N_SWEEPS = 8_000, 20
NAMES = (
    "ising_3x3_periodic",
    "ising_3x2_8",
    "ising_graph_tied",
    "potts_2x3",
    "potts_1x4_edge",
    "potts_2x2_8",
)


# Most of what these tests take is compiling.
quickly = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


# ---- models as THRML's users write them ----


def normal(seed, shape):
    return jnp.asarray(0.6 * np.random.default_rng(seed).normal(size=shape), jnp.float32)


def ising(n_sites, edges, beta=0.7, seed=0, weights=None):
    nodes = [thrml.SpinNode() for _ in range(n_sites)]
    pairs = [(nodes[i], nodes[j]) for i, j in edges]
    weights = normal(seed + 100, (len(edges),)) if weights is None else weights
    return nodes, models.IsingEBM(nodes, pairs, normal(seed, (n_sites,)), weights, jnp.array(beta))


def categories(n_sites, n_levels, pair_factors, seed=0, kind=models.CategoricalEBMFactor):
    """Biases, and one factor for each list of pairs with tables of their own."""
    nodes = [thrml.CategoricalNode() for _ in range(n_sites)]
    factors = [kind([Block(nodes)], normal(seed, (n_sites, n_levels)))]
    for number, pairs in enumerate(pair_factors):
        first, second = (Block([nodes[i] for i in ends]) for ends in zip(*pairs))
        tables = normal(seed + number + 1, (len(pairs), n_levels, n_levels))
        factors.append(kind([first, second], tables))
    return nodes, models.FactorizedEBM(factors)


def potts_grid(height, width, n_levels):
    """As in THRML's own example of a Potts model: weight times identity on every edge of a grid."""
    nodes = [thrml.CategoricalNode() for _ in range(height * width)]
    first, second = zip(*oracles.grid_edges(height, width)[0])
    tables = 0.5 * jnp.broadcast_to(jnp.eye(n_levels), (len(first), n_levels, n_levels))
    kind = models.SquareCategoricalEBMFactor
    pair = kind([Block([nodes[i] for i in first]), Block([nodes[i] for i in second])], tables)
    bias = kind([Block(nodes)], normal(3, (len(nodes), n_levels)))
    return nodes, models.FactorizedEBM([pair, bias])


# Two sites of every block below share no factor. (nodes, ebm), blocks of site numbers, levels.
THEIRS = {
    "ising_grid": (lambda: ising(6, oracles.grid_edges(2, 3)[0]), [[0, 2, 4], [5, 3, 1]], 2),
    "ising_random": (
        lambda: ising(6, [(3, 0), (1, 2), (2, 0), (4, 3), (3, 5), (1, 0), (0, 1)]),
        [[4, 0, 5], [3, 2], [1]],
        2,
    ),
    "potts_grid": (lambda: potts_grid(2, 2, 4), [[0, 3], [1, 2]], 4),
    # The pair (0, 1) occurs in both orientations and in two factors, (2, 1) twice in one.
    "tables": (
        lambda: categories(4, 3, [[(0, 1), (2, 1), (2, 1), (3, 2)], [(1, 0), (3, 0)]]),
        [[0, 2], [3, 1]],
        3,
    ),
}


def theirs(name):
    make, blocks, n_levels = THEIRS[name]
    nodes, ebm = make()
    return nodes, ebm, [Block([nodes[i] for i in block]) for block in blocks], n_levels


def their_program(ebm, free, clamped, n_levels):
    if isinstance(ebm, models.IsingEBM):
        return models.IsingSamplingProgram(ebm, free, clamped)
    spec = thrml.BlockGibbsSpec(free, clamped)
    draws = [models.CategoricalGibbsConditional(n_levels) for _ in spec.free_blocks]
    return thrml.FactorSamplingProgram(spec, draws, ebm.factors, [])


def their_energies(nodes, ebm, levels):
    """E_thrml of every row of levels, in the order of `nodes`."""
    dtype = jnp.bool_ if type(nodes[0]) is thrml.SpinNode else jnp.uint8
    energies = quickly(jax.vmap(lambda x: ebm.energy([x], [Block(nodes)])))
    return energies(jnp.asarray(levels).astype(dtype))


@functools.partial(quickly, static_argnums=0)
def our_energies(model, params, levels):
    return jax.vmap(lambda x: model.energy(params, model.from_levels(x)))(jnp.asarray(levels, jnp.int32))


def their_chains(program, nodes, starts, n_sweeps=N_SWEEPS, seed=5):
    """Positions that THRML's sampler reaches from `starts`; nothing may be clamped."""
    state = bridge.to_thrml_state(nodes, program.gibbs_spec.free_blocks, starts)
    schedule = thrml.SamplingSchedule(n_sweeps, 1, 1)
    everything = [Block(np.ravel(nodes).tolist())]
    draw = jax.vmap(lambda key, s: thrml.sample_states(key, program, schedule, s, [], everything))
    samples = quickly(draw)(jax.random.split(jax.random.key(seed), len(starts)), state)
    return bridge.from_thrml_state(nodes, everything, samples)[:, 0]


def our_chains(model, params, spec, starts, beta=1.0):
    positions, _ = systems.run_chains(
        ej.gibbs(model, spec), jax.random.key(6), params, beta, starts, n_steps=N_SWEEPS
    )
    return positions


# ---- energies ----


@pytest.mark.parametrize("name", THEIRS)
def test_energies_are_theirs(name):
    nodes, ebm, free, n_levels = theirs(name)
    states = oracles.all_states(len(nodes), n_levels)
    want = their_energies(nodes, ebm, states)
    sources = {"ebm": ebm, "factors": list(ebm.factors), "program": their_program(ebm, free, [], n_levels)}
    for what, source in sources.items():
        model, params, _ = bridge.from_thrml(source)
        order = [nodes.index(node) for node in bridge.site_nodes(source).tolist()]
        got = our_energies(model, params, states[:, order])
        np.testing.assert_allclose(got, want, atol=1e-5, err_msg=what)
        model, params, _ = bridge.from_thrml(source, beta=0.4)
        np.testing.assert_allclose(0.4 * our_energies(model, params, states[:, order]), want, atol=1e-5)


def test_their_beta_gives_their_parameters():
    nodes, ebm = ising(5, [(0, 1), (3, 1), (2, 4)])
    model, params, _ = bridge.from_thrml(ebm, beta=ebm.beta)
    np.testing.assert_array_equal(params.bias, ebm.biases)
    np.testing.assert_array_equal(params.coupling, ebm.weights)
    np.testing.assert_array_equal(model.graph.edges, [(0, 1), (3, 1), (2, 4)])
    assert bridge.site_nodes(ebm).tolist() == nodes


def test_clamped_program_lacks_a_constant_only():
    """Sites 4 and 3 are clamped: their biases and their coupling are in no update, all else is."""
    nodes, ebm = ising(5, [(0, 1), (1, 2), (4, 3), (2, 3), (4, 0), (3, 0)])
    free, clamped = [(Block(nodes[:1]), Block(nodes[2:3])), Block(nodes[1:2])], [Block(nodes[:2:-1])]
    program = models.IsingSamplingProgram(ebm, free, clamped)
    model, params, spec = bridge.from_thrml(program)
    order = [nodes.index(node) for node in bridge.site_nodes(program).tolist()]
    assert order == [0, 2, 1, 4, 3]
    assert spec == ej.BlockSpec([(ej.Block([0]), ej.Block([1])), ej.Block([2])], [ej.Block([3, 4])])
    states = oracles.all_states(5, 2)
    rest = np.asarray(their_energies(nodes, ebm, states) - our_energies(model, params, states[:, order]))
    for held in itertools.product((0, 1), repeat=2):
        same = rest[(states[:, 3:] == held).all(axis=1)]
        np.testing.assert_allclose(same, same[0], atol=1e-5)
    assert np.ptp(rest) > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_our_models_keep_their_energies_there_and_back(name):
    system, beta = systems.get(name), 0.8
    there = bridge.to_thrml(system.model, system.params, beta=beta)
    states = oracles.all_states(system.n_sites, system.n_levels)[::7]
    flat = there.nodes.ravel().tolist()
    want = system.energies[::7]
    np.testing.assert_allclose(their_energies(flat, there.ebm, states), beta * want, atol=1e-5)
    model, params, spec = bridge.from_thrml(there.ebm, there.free_blocks, beta=beta)
    np.testing.assert_allclose(our_energies(model, params, states), want, atol=1e-5)
    assert spec == system.model.default_spec()
    again = bridge.to_thrml(model, params, spec)
    flat = again.nodes.ravel().tolist()
    np.testing.assert_allclose(their_energies(flat, again.ebm, states), want, atol=1e-5)
    model, params, _ = bridge.from_thrml(
        there.program, beta=beta, graph=system.model.graph, nodes=there.nodes
    )
    assert model.graph == system.model.graph
    np.testing.assert_allclose(our_energies(model, params, states), want, atol=1e-5)


# ---- samples ----


@pytest.mark.parametrize("name", THEIRS)
def test_both_samplers_draw_the_law_of_their_model(name):
    nodes, ebm, free, n_levels = theirs(name)
    model, params, spec = bridge.from_thrml(ebm, free, nodes=nodes)
    energies = their_energies(nodes, ebm, oracles.all_states(len(nodes), n_levels))
    law = oracles.boltzmann(energies)
    starts = ej.init_chains(jax.random.key(4), model, N_CHAINS)
    program = their_program(ebm, free, [], n_levels)
    system = systems.System(model, params, np.asarray(energies))
    ends = their_chains(program, nodes, starts), our_chains(model, params, spec, starts)
    counts = [system.counts(positions)[0] for positions in ends]
    assert_same_law(counts[0], law, f"THRML on {name}")
    assert_same_law(counts[1], law, f"ours on {name}")
    # The same with THRML's β left to the sampler.
    if isinstance(ebm, models.IsingEBM):
        model, params, spec = bridge.from_thrml(ebm, free, beta=ebm.beta, nodes=nodes)
        ends = our_chains(model, params, spec, starts, beta=ebm.beta)
        assert_same_law(system.counts(ends), law, f"ours on {name} at its β")
        assert_other_law(system.counts(our_chains(model, params, spec, starts)), law, "β forgotten")
    # Marginals of the two against each other, no enumeration in between.
    rows = [
        np.stack([(oracles.all_states(len(nodes), n_levels) == k).T @ c for k in range(n_levels)], 1)
        for c in counts
    ]
    for site, table in enumerate(np.stack(rows, axis=1)):
        assert_plausible(chi2_contingency(table).pvalue, f"site {site} of {name}", comparisons=1)


@pytest.mark.parametrize("name", ["ising_graph_tied", "potts_graph"])
def test_thrml_draws_the_law_of_our_models(name):
    system, beta = systems.get(name), 0.8
    there = bridge.to_thrml(system.model, system.params, beta=beta)
    starts = ej.init_chains(jax.random.key(1), system.model, N_CHAINS)
    ends = their_chains(there.program, there.nodes, starts)
    assert_same_law(system.counts(ends), oracles.boltzmann(system.energies, beta), name)


def test_superblocks_and_clamped_blocks_cross_over():
    system = systems.get("ising_graph")
    free = [(ej.Block([0]), ej.Block([4])), ej.Block([7, 1, 3]), ej.Block([5])]
    spec = ej.BlockSpec(free, [ej.Block([6, 2])])
    there = bridge.to_thrml(system.model, system.params, spec)
    assert [len(group) for group in there.program.gibbs_spec.superblocks] == [2, 1, 1]
    _, _, back = bridge.from_thrml(there.ebm, there.free_blocks, there.clamped_blocks)
    assert back == spec
    _, _, coloured = bridge.from_thrml(there.ebm, clamped_blocks=there.clamped_blocks)
    assert coloured.clamped == spec.clamped
    assert sorted(np.concatenate(coloured.groups)) == [0, 1, 3, 4, 5, 7]


def test_a_grid_is_built_on_a_grid_when_asked():
    nodes, ebm = ising(20, oracles.grid_edges(4, 5)[0][::-1])
    grid = ej.Grid(4, 5)
    free = [Block([nodes[i] for i in block]) for block in ej.checkerboard(grid)]
    model, params, spec = bridge.from_thrml(ebm, free, graph=grid)
    assert ej.gibbs(model, spec).path == "grid"
    states = np.random.default_rng(0).integers(0, 2, (50, 20))
    got = our_energies(model, params, states)
    np.testing.assert_allclose(got, their_energies(nodes, ebm, states), atol=1e-5)


# ---- states ----


@pytest.mark.parametrize(("n_levels", "dtype"), [(2, "bool"), (5, "uint8")])
def test_states_go_there_and_back(n_levels, dtype):
    x = np.random.default_rng(0).integers(0, n_levels, (3, 7, 2, 4)).astype(dtype)
    nodes = np.array([thrml.CategoricalNode() for _ in range(8)], object).reshape(2, 4)
    flat = nodes.ravel()
    blocks = [Block(flat[[5, 0]]), (Block(flat[[1]]), Block(flat[[7, 6, 2]])), Block(flat[[4, 3]])]
    states = bridge.to_thrml_state(nodes, blocks, x)
    assert [state.shape for state in states] == [(3, 7, 2), (3, 7, 1), (3, 7, 3), (3, 7, 2)]
    assert all(state.dtype == dtype for state in states)
    np.testing.assert_array_equal(states[2][..., 1], x[..., 1, 2])
    back = bridge.from_thrml_state(nodes, blocks, states)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, x)


def test_states_that_do_not_fit_are_refused(as_shipped):
    nodes = np.array([thrml.SpinNode() for _ in range(4)], object)
    blocks = [Block(nodes[:2]), Block(nodes[2:])]
    with pytest.raises(ValueError, match=r"x has shape \(2, 2\); expected \(..., 4\)"):
        bridge.to_thrml_state(nodes, blocks, jnp.zeros((2, 2), bool))
    with pytest.raises(ValueError, match="no site of this model"):
        bridge.to_thrml_state(nodes, [Block([thrml.SpinNode()])], jnp.zeros(4, bool))
    with pytest.raises(ValueError, match="one array a block"):
        bridge.from_thrml_state(nodes, blocks, [jnp.zeros(2, bool), jnp.zeros(3, bool)])
    with pytest.raises(ValueError, match="hold 2 of 4 nodes"):
        bridge.from_thrml_state(nodes, blocks[:1], [jnp.zeros(2, bool)])


# ---- what THRML lets pass ----


def test_coupled_sites_in_one_block_are_refused():
    """THRML builds the program, and draws from another law than the model's."""
    nodes, ebm = ising(2, [(0, 1)], beta=1.0, weights=jnp.array([1.0]))
    blocks = [Block(nodes)]
    program = models.IsingSamplingProgram(ebm, blocks, [])
    model, params, _ = bridge.from_thrml(ebm)
    energies = their_energies(nodes, ebm, oracles.all_states(2, 2))
    system = systems.System(model, params, energies)
    ends = their_chains(program, nodes, ej.init_chains(jax.random.key(0), model, N_CHAINS))
    assert_other_law(system.counts(ends), oracles.boltzmann(energies), "coupled sites drawn at once")
    for source, free in [(ebm, blocks), (program, None), (ebm, [(Block(nodes[:1]), Block(nodes[1:]))])]:
        with pytest.raises(ValueError, match="sites 0 and 1, which share an edge"):
            bridge.from_thrml(source, free)


def test_no_samples_are_none_and_the_last_state_comes_back():
    """THRML answers `n_samples=0` with one sample, and keeps the state that a run ends in to itself."""
    nodes, ebm, free, _ = theirs("ising_random")
    model, params, spec = bridge.from_thrml(ebm, free)
    program, x = models.IsingSamplingProgram(ebm, free, []), ej.init_chains(jax.random.key(0), model, 3)
    state = bridge.to_thrml_state(nodes, free, x[0])
    schedule, blocks = thrml.SamplingSchedule(2, 0, 1), [Block(nodes)]

    def draw(key, state):
        return thrml.sample_states(key, program, schedule, state, [], blocks)

    assert jax.eval_shape(draw, jax.random.key(0), state)[0].shape == (1, 6)
    kernel, key = ej.gibbs(model, spec), jax.random.key(1)
    none = ej.sample(key, kernel, params, x, ej.SamplingSchedule(2, 0))
    assert none.positions.shape == (0, 3, 6)
    assert (none.state.step == 2).all()
    two = ej.sample(key, kernel, params, none.state, ej.SamplingSchedule(1, 2))
    assert two.positions.shape == (2, 3, 6)
    assert (two.state.step == 4).all()
    np.testing.assert_array_equal(two.state.position, two.positions[-1])


def test_new_weights_compile_nothing():
    """Nodes, factors and weights are all new each time; the model is the same value."""
    before, runs = run._run._cache_size(), []
    for i in range(3):
        _, ebm, free, _ = theirs("tables")
        model, params, spec = bridge.from_thrml(ebm, free, beta=0.5 + i)
        # No other test has seven chains.
        x = ej.init_chains(jax.random.key(0), model, 7)
        sampled = ej.sample(jax.random.key(i), ej.gibbs(model, spec), params, x, ej.SamplingSchedule(2, 2))
        runs.append((model, spec, sampled.positions))
    assert run._run._cache_size() == before + 1
    assert runs[0][:2] == runs[1][:2] == runs[2][:2]


_SHOW = """
import hashlib, sys
sys.path[:0] = sys.argv[1:]
import jax, jax.numpy as jnp, numpy as np, thrml
import ebm_jax as ej
nodes = [thrml.CategoricalNode() for _ in range(30)]
rng = np.random.default_rng(0)
pairs = [(i, j) for i, j in rng.integers(0, 30, (80, 2)).tolist() if i != j]
first, second = (thrml.Block([nodes[i] for i in ends]) for ends in zip(*pairs))
factor = thrml.models.CategoricalEBMFactor
tables = jnp.asarray(rng.normal(size=(len(pairs), 3, 3)), jnp.float32)
factors = [factor([first, second], tables), factor([thrml.Block(nodes)], tables[:30, 0])]
bridge = ej.interop.thrml
model, params, spec = bridge.from_thrml(factors)
order = [nodes.index(node) for node in bridge.site_nodes(factors)]
there = bridge.to_thrml(model, params, spec)
back = [np.array([list(there.nodes).index(node) for node in block]) for block in there.free_blocks]
parts = [np.array(order), model.graph.edges, *params, *spec.groups, *back]
print(hashlib.sha256(b"".join(np.asarray(part).tobytes() for part in parts)).hexdigest(), hash("a"))
"""


def test_nothing_depends_on_the_order_of_a_hash():
    root = os.path.dirname(os.path.dirname(ej.__file__))
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _SHOW, root],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "JAX_PLATFORMS": "cpu"},
        )
        for seed in ("1", "2")
    ]
    shown = [process.communicate(timeout=120)[0].split() for process in started]
    assert len(shown[0]) == 2
    assert shown[0][0] == shown[1][0]
    assert shown[0][1] != shown[1][1]


# ---- refusals ----


def pair_of(kinds, shape):
    groups = [Block([kind()]) for kind in kinds]
    spins = [g for g in groups if g.node_type is thrml.SpinNode]
    return models.DiscreteEBMFactor(spins, [g for g in groups if g not in spins], jnp.ones((1, *shape)))


S, C = thrml.SpinNode, thrml.CategoricalNode


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (lambda: [models.SpinEBMFactor([b := Block([S()]), b], jnp.ones(1))], "couples site 0 to itself"),
        (list, "give an IsingEBM"),
        (lambda: 3, "give an IsingEBM"),
        (lambda: ["bias"], "neither of spins nor of categories"),
    ],
)
def test_factors_that_no_model_here_has_are_refused(factors, message, as_shipped):
    with pytest.raises(ValueError, match=message):
        bridge.from_thrml(factors())


def test_programs_that_no_model_here_has_are_refused(as_shipped):
    nodes = [S(), S()]

    def pair(weight, head, tail):
        interaction = models.DiscreteEBMInteraction(1, jnp.array([weight]))
        return thrml.InteractionGroup(interaction, Block([nodes[head]]), [Block([nodes[tail]])])

    spec = thrml.BlockGibbsSpec([Block(nodes[:1]), Block(nodes[1:])], [])
    draws = [models.SpinGibbsConditional()] * 2
    one_way = thrml.BlockSamplingProgram(spec, draws, [pair(1.0, 0, 1), pair(0.5, 1, 0)])
    with pytest.raises(ValueError, match="not the same both ways"):
        bridge.from_thrml(one_way)
    both = thrml.BlockSamplingProgram(spec, draws, [pair(1.0, 0, 1), pair(1.0, 1, 0)])
    np.testing.assert_allclose(bridge.from_thrml(both)[1].coupling, [1.0])
    other = thrml.InteractionGroup(jnp.ones(1), Block(nodes[:1]), [])
    with pytest.raises(ValueError, match="which no model here has"):
        bridge.from_thrml(thrml.BlockSamplingProgram(spec, draws, [other]))
    empty = thrml.FactorSamplingProgram(thrml.BlockGibbsSpec([Block([C()])], []), draws[:1], [], [])
    with pytest.raises(ValueError, match="number of categories is unknown"):
        bridge.from_thrml(empty)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda n: {"beta": 0.0}, "give a positive number"),
        (lambda n: {"beta": np.nan}, "not finite"),
        (lambda n: {"free_blocks": [Block(n[:1]), Block(n[1:2])]}, "site 2 is in no block"),
        (lambda n: {"free_blocks": [Block(n[::2]), Block(n[:2])]}, r"site 0 is in blocks \[0, 1\]"),
        (lambda n: {"free_blocks": [n[0], n[1], n[2]]}, "give THRML Blocks"),
        (lambda n: {"free_blocks": [Block(n[::2]), Block([n[1], C()][:1]), Block([C()])]}, "unknown"),
        (lambda n: {"graph": ej.Grid(2, 2)}, "4 sites, and there are 3 nodes"),
        (lambda n: {"graph": ej.Graph(3, [(0, 2), (0, 1)])}, r"sites \(2, 1\) are coupled and no edge"),
        (lambda n: {"nodes": n[:2]}, "not the 3 of the model"),
        (lambda n: {"nodes": [*n, n[0]]}, "not the 3 of the model"),
        (lambda n: {"graph": ej.Graph(3, [])}, r"sites \(0, 1\) are coupled and no edge"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message, as_shipped):
    nodes, ebm = ising(3, [(0, 1), (2, 1)])
    with pytest.raises(ValueError, match=message):
        bridge.from_thrml(ebm, **arguments(nodes))


def test_blocks_for_a_program_may_not_free_what_it_clamps(as_shipped):
    nodes, ebm = ising(3, [(0, 1), (2, 1)])
    program = models.IsingSamplingProgram(ebm, [Block(nodes[:1]), Block(nodes[1:2])], [Block(nodes[2:])])
    with pytest.raises(ValueError, match="site 2 is clamped in the program"):
        bridge.from_thrml(program, [Block(nodes[::2]), Block(nodes[1:2])])
    with pytest.raises(ValueError, match="clamped_blocks came without free_blocks"):
        bridge.from_thrml(program, None, [Block(nodes[2:])])
    _, _, spec = bridge.from_thrml(program, [Block(nodes[:1])], [Block(nodes[1:])])
    assert spec.clamped_sites.tolist() == [1, 2]


def test_to_thrml_refuses_what_it_cannot_write(as_shipped):
    rbm = systems.get("rbm_4x3")
    with pytest.raises(ValueError, match="converts Ising and Potts models and factor graphs"):
        bridge.to_thrml(rbm.model, rbm.params)
    potts = systems.get("potts_2x3")
    with pytest.raises(ValueError, match="has shape"):
        bridge.to_thrml(ej.Potts(ej.Grid(2, 4), 3), potts.params)
    with pytest.raises(ValueError, match="share an edge"):
        bridge.to_thrml(potts.model, potts.params, ej.BlockSpec([ej.Block(range(6))]))


def test_models_without_edges_cross_over():
    for model in (ej.Ising(ej.Grid(1, 1)), ej.Potts(ej.Graph(3, []), 4)):
        params = systems.draw_params(model)
        there = bridge.to_thrml(model, params)
        back, again, _ = bridge.from_thrml(there.program)
        assert back.n_levels == model.n_levels
        np.testing.assert_allclose(np.ravel(again.bias), np.ravel(params.bias))
        assert again.coupling.shape[0] == 0


# ---- imports ----


def test_interop_loads_thrml_only_when_asked_for():
    assert "thrml" not in loaded_after("import ebm_jax.interop; dir(ebm_jax.interop)")
    assert "thrml" in loaded_after("import ebm_jax as ej; ej.interop.thrml.from_thrml")


def test_a_missing_thrml_is_said_with_its_remedy(monkeypatch):
    for name in [m for m in sys.modules if m.startswith("ebm_jax.interop.thrml")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(ej.interop, "thrml")
    monkeypatch.setitem(sys.modules, "thrml", None)
    with pytest.raises(ImportError, match=r"pip install ebm_jax\[thrml\]"):
        ej.interop.thrml
