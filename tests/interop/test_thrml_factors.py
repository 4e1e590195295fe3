"""THRML's factors of any order, over spins and categories, are factor graphs here: same energies, same laws."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from tests import oracles, systems
from tests.statistics import assert_same_law

thrml = pytest.importorskip("thrml")
bridge = ej.interop.thrml
models, Block = thrml.models, thrml.Block

N_CHAINS = 2**19
# Most of what these tests take is compiling.
quickly = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def normal(seed, *shape):
    return jnp.asarray(0.8 * np.random.default_rng(seed).normal(size=shape), jnp.float32)


def blocks_of(nodes, *columns):
    return [Block([nodes[i] for i in column]) for column in columns]


# ---- models as THRML's users write them: (nodes of every site, factors) ----


def three_spins():
    """Products of three spins, of two and of one; the rows of a triple are in no order."""
    s = [thrml.SpinNode() for _ in range(6)]
    triples = models.SpinEBMFactor(blocks_of(s, [0, 4, 5, 1], [2, 3, 0, 5], [1, 2, 4, 3]), normal(0, 4))
    pairs = models.SpinEBMFactor(blocks_of(s, [1, 5], [4, 2]), normal(1, 2))
    return {"spin": s}, [triples, pairs, models.SpinEBMFactor([Block(s)], normal(2, 6))]


def tables_of_three():
    """Tables over three categories of three levels, one factor of them square; one triple occurs in both."""
    c = [thrml.CategoricalNode() for _ in range(5)]
    square = models.SquareCategoricalEBMFactor(blocks_of(c, [0, 3], [1, 4], [2, 2]), normal(3, 2, 3, 3, 3))
    plain = models.CategoricalEBMFactor(blocks_of(c, [2, 1], [0, 0], [1, 4]), normal(4, 2, 3, 3, 3))
    bias = models.CategoricalEBMFactor([Block(c)], jnp.tile(jnp.array([1.6, 0.0, -0.3]), (5, 1)))
    return {"category": c}, [square, plain, bias]


def mixed():
    """s s c and s c c terms, categories of three and four levels, and a spin that meets tables alone."""
    s = [thrml.SpinNode() for _ in range(4)]
    c = [thrml.CategoricalNode() for _ in range(3)]
    ssc = models.SquareDiscreteEBMFactor(blocks_of(s, [0, 2], [1, 0]), blocks_of(c, [0, 2]), normal(5, 2, 3))
    scc = models.DiscreteEBMFactor(blocks_of(s, [3, 1]), blocks_of(c, [0, 2], [1, 1]), normal(6, 2, 3, 4))
    pair = models.CategoricalEBMFactor(blocks_of(c, [1], [2]), normal(7, 1, 4, 3))
    up = models.SpinEBMFactor([Block(s)], 1.2 * jnp.ones(4))
    bias = models.CategoricalEBMFactor([Block([c[2], c[0]])], jnp.tile(jnp.array([2.0, 0.0, -0.3]), (2, 1)))
    other = models.CategoricalEBMFactor([Block([c[1]])], jnp.array([[0.0, 0.0, 0.0, 1.5]]))
    return {"spin": s, "category_3": [c[0], c[2]], "category_4": [c[1]]}, [ssc, scc, pair, up, bias, other]


MODELS = {"three_spins": three_spins, "tables_of_three": tables_of_three, "mixed": mixed}


def all_levels(model):
    return np.array(list(itertools.product(*map(range, model.site_levels))), np.int32)


def all_positions(model):
    return positions_of(model, all_levels(model))


def positions_of(model, levels):
    return {name: jnp.asarray(levels[:, model.sites(name)].astype(kind.dtype)) for name, kind in model.nodes}


def their_energies(ebm, nodes, x):
    everything = [Block(each) for each in nodes.values()]
    state = bridge.to_thrml_state(nodes, everything, x)
    return np.asarray(quickly(jax.vmap(lambda s: ebm.energy(s, everything)))(state))


@functools.partial(quickly, static_argnums=0)
def our_energies(model, params, x):
    return jax.vmap(lambda each: model.energy(params, each))(x)


def their_program(factors, blocks, clamped=(), levels=None):
    spec = thrml.BlockGibbsSpec(blocks, list(clamped))
    draws = [
        models.SpinGibbsConditional()
        if block.node_type is thrml.SpinNode
        else models.CategoricalGibbsConditional(levels[block[0]])
        for block in spec.free_blocks
    ]
    return thrml.FactorSamplingProgram(spec, draws, factors, [])


def levels_by_node(model, nodes):
    return {node: model.kinds[name].n_values for name, each in nodes.items() for node in each}


def starts(model, n_chains):
    """Uniform levels."""
    levels = np.random.default_rng(0).integers(0, model.site_levels, (n_chains, len(model.site_levels)))
    return positions_of(model, levels)


def counts(model, positions):
    """How often each configuration occurs, in the order of `all_levels`."""
    levels = np.concatenate([np.asarray(positions[name], np.int32) for name, _ in model.nodes], axis=1)
    numbers = np.ravel_multi_index(levels.T, model.site_levels)
    return np.bincount(numbers, minlength=np.prod(model.site_levels))


def assert_law(found, law, what):
    """Within 2 % of the largest probability everywhere, which is 5 standard deviations at least, and by χ²."""
    n = found.sum()
    assert 0.02 * np.sqrt(n * law.max()) > 5
    assert np.abs(found / n - law).max() < 0.02 * law.max(), what
    assert_same_law(found, law, what)


# ---- energies ----


@pytest.mark.parametrize("name", MODELS)
def test_energies_are_theirs_and_weights_stay_as_they_are(name):
    nodes, factors = MODELS[name]()
    ebm = models.FactorizedEBM(factors)
    model, params, _ = bridge.from_thrml(ebm)
    assert {key: set(each) for key, each in bridge.site_nodes(ebm).items()} == {
        k: set(v) for k, v in nodes.items()
    }
    for ours, theirs in zip(params, factors, strict=True):
        np.testing.assert_array_equal(ours, theirs.weights)
    x, found = all_positions(model), bridge.site_nodes(ebm)
    want = their_energies(ebm, found, x)
    np.testing.assert_allclose(our_energies(model, params, x), want, atol=1e-5)
    same, colder, _ = bridge.from_thrml(factors, beta=0.5, nodes=found)
    assert same == model
    np.testing.assert_allclose(0.5 * our_energies(model, colder, x), want, atol=1e-5)
    # A program holds each term once for every node that it updates.
    blocks = [Block([node]) for each in nodes.values() for node in each]
    program = their_program(factors, blocks, levels=levels_by_node(model, found))
    merged, weights, _ = bridge.from_thrml(program, nodes=found)
    np.testing.assert_allclose(our_energies(merged, weights, x), want, atol=1e-5)
    there = bridge.to_thrml(model, params, beta=0.7)
    np.testing.assert_allclose(their_energies(there.ebm, there.nodes, x), 0.7 * want, atol=1e-5)
    again, back, spec = bridge.from_thrml(there.ebm, there.free_blocks, beta=0.7, nodes=there.nodes)
    assert again == model
    assert [sorted(g.tolist()) for g in spec.groups] == [
        sorted(g.tolist()) for g in model.default_spec().groups
    ]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), back, params)


def test_their_classes_are_chosen_by_what_factors_join():
    nodes = {"s": ej.Spins(2), "c": ej.Categories(2, 3), "d": ej.Categories(1, 4)}
    members = [
        (("s", 0), ("s", 1)),
        (("c", 0), ("c", 1)),
        (("c", 0), ("d", 0)),
        (("c", 1), ("s", 0), ("s", 1)),
        (("d", 0), ("s", 0), ("c", 1)),
    ]
    model = ej.FactorGraph(nodes, [ej.Factor(*each) for each in members])
    params = tuple(normal(i, *struct.shape) for i, struct in enumerate(model.params_struct()))
    there = bridge.to_thrml(model, params)
    assert [type(factor).__name__ for factor in there.ebm.factors] == [
        "SpinEBMFactor",
        "SquareCategoricalEBMFactor",
        "CategoricalEBMFactor",
        "SquareDiscreteEBMFactor",
        "DiscreteEBMFactor",
    ]
    x = all_positions(model)
    np.testing.assert_allclose(
        their_energies(there.ebm, there.nodes, x), our_energies(model, params, x), atol=1e-5
    )


def test_names_of_ones_own_split_factors():
    """A dict of nodes makes a factor graph of a pairwise model too."""
    s = [thrml.SpinNode() for _ in range(4)]
    pairs = models.SpinEBMFactor(blocks_of(s, [0, 1, 2], [1, 2, 3]), normal(0, 3))
    model, params, _ = bridge.from_thrml([pairs], nodes={"left": s[:2], "right": s[2:]})
    assert model.factors == (
        ej.Factor(("left", [0], "value"), ("left", [1], "value")),
        ej.Factor(("left", [1], "value"), ("right", [0], "value")),
        ej.Factor(("right", [0], "value"), ("right", [1], "value")),
    )
    np.testing.assert_array_equal(np.concatenate(params), pairs.weights)
    assert isinstance(bridge.from_thrml([pairs])[0], ej.Ising)


def test_a_clamped_program_lacks_a_constant_only():
    """The term of the clamped nodes alone is in no update; terms of one, two and three free nodes are whole."""
    s, c = [thrml.SpinNode() for _ in range(3)], [thrml.CategoricalNode() for _ in range(2)]
    factors = [
        models.DiscreteEBMFactor(blocks_of(s, [0], [1]), blocks_of(c, [0], [1]), normal(0, 1, 3, 4)),
        models.SpinEBMFactor(blocks_of(s, [0], [1], [2]), normal(1, 1)),
        models.DiscreteEBMFactor(blocks_of(s, [2]), blocks_of(c, [1]), normal(2, 1, 4)),
    ]
    free, clamped = [(Block(s[:1]),), Block(s[1:2]), Block(c[:1])], [Block(s[2:]), Block(c[1:])]
    levels = {c[0]: 3}
    program = their_program(factors, free, clamped, levels)
    model, params, spec = bridge.from_thrml(program)
    found = bridge.site_nodes(program)
    assert spec.clamped_sites.tolist() == [2, 4]
    levels = all_levels(model)
    x = all_positions(model)
    rest = their_energies(models.FactorizedEBM(factors), found, x) - our_energies(model, params, x)
    for held in itertools.product(range(2), range(4)):
        same = rest[(levels[:, [2, 4]] == held).all(axis=1)]
        np.testing.assert_allclose(same, same[0], atol=1e-5)
    assert np.ptp(rest) > 0.1


# ---- laws ----


@pytest.mark.parametrize("name", MODELS)
def test_law_of_their_models(name):
    """Drawn here; one of the six spins is clamped."""
    nodes, factors = MODELS[name]()
    ebm = models.FactorizedEBM(factors)
    held = [Block(nodes["spin"][5:])] if name == "three_spins" else []
    model, params, spec = bridge.from_thrml(ebm, clamped_blocks=held)
    x = all_positions(model)
    energies = their_energies(ebm, bridge.site_nodes(ebm), x)
    start = starts(model, N_CHAINS)
    if held:
        site = bridge.site_nodes(ebm)["spin"].tolist().index(nodes["spin"][5])
        start["spin"] = start["spin"].at[:, site].set(True)
        energies = np.where(x["spin"][:, site], energies, np.inf)
    law = oracles.boltzmann(energies)
    kernel = ej.gibbs(model, spec)
    ends, _ = systems.run_chains(kernel, jax.random.key(1), params, 1.0, start, n_steps=20)
    assert_law(counts(model, ends), law, name)


def test_they_draw_the_law_of_our_models():
    """The superblocks of a colouring hold nodes of several kinds."""
    _, factors = mixed()
    model, params, _ = bridge.from_thrml(factors)
    there = bridge.to_thrml(model, params)
    assert any(
        len({block.node_type for block in group}) == 2 for group in there.program.gibbs_spec.superblocks
    )
    start = starts(model, 8_000)
    state = bridge.to_thrml_state(there.nodes, there.free_blocks, start)
    everything, schedule = [Block(each) for each in there.nodes.values()], thrml.SamplingSchedule(20, 1, 1)
    draw = jax.vmap(lambda key, s: thrml.sample_states(key, there.program, schedule, s, [], everything))
    samples = quickly(draw)(jax.random.split(jax.random.key(3), 8_000), state)
    ends = jax.tree.map(lambda x: x[:, 0], bridge.from_thrml_state(there.nodes, everything, samples))
    x = all_positions(model)
    assert_same_law(counts(model, ends), oracles.boltzmann(our_energies(model, params, x)), "THRML")


def test_spins_and_gaussians_on_a_grid():
    """4×4, alternating: s x on the edges, x x along the diagonals.

    Given the spins the units are normal with precision A and mean A⁻¹(b + B s), so a weight of the spins is
    exp(½ (b + B s)ᵀ A⁻¹ (b + B s) + h s), and all moments follow.
    """
    grid = np.arange(16).reshape(4, 4)
    dark = (grid // 4 + grid % 4) % 2 == 0
    number = np.where(dark, np.cumsum(dark).reshape(4, 4), np.cumsum(~dark).reshape(4, 4)) - 1
    edges = np.array(oracles.grid_edges(4, 4)[0])
    spin, unit = np.where(dark.ravel()[edges[:, 0]], edges.T, edges.T[::-1])
    diagonals = np.stack([grid[:-1, :-1], grid[1:, 1:]], axis=-1)[~dark[:-1, :-1]]
    spin, unit, (first, second) = (number.ravel()[each] for each in (spin, unit, diagonals.T))
    model = ej.FactorGraph(
        {"s": ej.Spins(8), "x": ej.Gaussians(8)},
        [
            ej.Factor(("s", spin), ("x", unit)),
            ej.Factor(("x", first), ("x", second)),
            ej.Factor(("x", range(8), "square")),
            ej.Factor(("x", range(8))),
            ej.Factor(("s", range(8))),
        ],
    )
    generator = np.random.default_rng(0)
    weights = [generator.uniform(-0.5, 0.5, len(spin)), generator.uniform(-0.4, 0.4, len(first))]
    weights += [generator.uniform(-1.0, -0.6, 8), *generator.uniform(-0.5, 0.5, (2, 8))]
    coupling, precision = np.zeros((8, 8)), np.diag(-2 * weights[2])
    coupling[unit, spin] = weights[0]
    precision[first, second] = precision[second, first] = -weights[1]
    covariance, s = np.linalg.inv(precision), 2.0 * oracles.all_states(8, 2) - 1
    fields = weights[3] + s @ coupling.T
    law = oracles.boltzmann(-0.5 * np.sum(fields @ covariance * fields, axis=1) - s @ weights[4])
    means = np.concatenate([s, fields @ covariance], axis=1)
    exact = np.einsum("k,ki,kj->ij", law, means, means)
    exact[8:, 8:] += covariance

    params = tuple(jnp.asarray(each, jnp.float32) for each in weights)
    start = {"s": jnp.zeros((N_CHAINS // 2, 8), bool), "x": jnp.zeros((N_CHAINS // 2, 8))}
    ends, _ = systems.run_chains(ej.gibbs(model), jax.random.key(1), params, 1.0, start, n_steps=20)
    assert_same_law(
        np.bincount(np.asarray(ends["s"]) @ (1 << np.arange(8)[::-1]), minlength=256), law, "spins"
    )
    values = np.concatenate([2.0 * np.asarray(ends["s"]) - 1, np.asarray(ends["x"], np.float64)], axis=1)
    found = values.T @ values / len(values)
    # The standard deviation of the worst moment is that of the largest x² at most.
    assert 6 * np.sqrt(2 / len(values)) < 0.02
    assert np.abs(found - exact).max() < 0.02 * exact.max()


# ---- states and refusals ----


def test_states_of_several_names_go_there_and_back():
    nodes = {
        "a": [thrml.SpinNode() for _ in range(3)],
        "b": [thrml.SpinNode() for _ in range(2)],
        "c": [thrml.CategoricalNode() for _ in range(2)],
    }
    generator = np.random.default_rng(0)
    x = {name: generator.integers(0, 2, (5, 7, len(each))).astype(bool) for name, each in nodes.items()}
    x["c"] = generator.integers(0, 9, (5, 7, 2)).astype(np.uint8)
    a, b, c = nodes.values()
    blocks = [Block([b[1], a[2], a[0]]), (Block(c), Block([a[1], b[0]]))]
    states = bridge.to_thrml_state(nodes, blocks, x)
    np.testing.assert_array_equal(states[0], np.stack([x["b"][..., 1], x["a"][..., 2], x["a"][..., 0]], -1))
    assert [state.dtype for state in states] == [bool, np.uint8, bool]
    back = bridge.from_thrml_state(nodes, blocks, states)
    assert {name: each.dtype for name, each in back.items()} == {name: each.dtype for name, each in x.items()}
    jax.tree.map(np.testing.assert_array_equal, back, x)
    with pytest.raises(ValueError, match="one array for each of a, b, c"):
        bridge.to_thrml_state(nodes, blocks, {"a": x["a"]})
    with pytest.raises(ValueError, match=r"x\['b'\] has shape \(3,\); expected \(\.\.\., 2\)"):
        bridge.to_thrml_state(nodes, blocks, x | {"b": np.zeros(3, bool)})


S, C = thrml.SpinNode, thrml.CategoricalNode


def term(spins, categories, *levels):
    groups = ([Block([node]) for node in nodes] for nodes in (spins, categories))
    return models.DiscreteEBMFactor(*groups, jnp.ones((1, *levels)))


def test_what_has_no_factor_graph_is_refused(as_shipped):
    s, c, t = S(), C(), S()
    with pytest.raises(ValueError, match="used as one of 2 categories and as one of 3 categories"):
        bridge.from_thrml([term([s], [c], 2), term([], [c], 3)])
    with pytest.raises(ValueError, match="used as a spin and as one of 2 categories"):
        bridge.from_thrml([term([s, t], []), term([], [s], 2)])
    with pytest.raises(ValueError, match="reads a node twice"):
        bridge.from_thrml([term([s, t, s], [])])
    with pytest.raises(ValueError, match="number of categories is unknown"):
        bridge.from_thrml([term([s], [c], 2), term([], [C()], 3)], [Block([s]), Block([c, C()])])
    triple = [term([s, t], [c], 2)]
    with pytest.raises(ValueError, match="a FactorGraph has its factors for it"):
        bridge.from_thrml(triple, graph=ej.Graph(3, []))
    with pytest.raises(ValueError, match=r"nodes by name \(spin, category\)"):
        bridge.from_thrml(triple, nodes=[s, t, c])
    with pytest.raises(ValueError, match="the nodes 'all' are of 2 kinds"):
        bridge.from_thrml(triple, nodes={"all": [s, t, c]})
    with pytest.raises(ValueError, match="nodes holds 2 nodes, not the 3"):
        bridge.from_thrml(triple, nodes={"spin": [s, t], "category": []})
    with pytest.raises(ValueError, match="share an edge"):
        bridge.from_thrml(triple, [Block([s, t]), Block([c])])


def test_a_program_of_no_energy_is_refused(as_shipped):
    s, c = [S(), S()], C()

    def group(n_spin, weights, head, tails):
        interaction = models.DiscreteEBMInteraction(n_spin, weights)
        return thrml.InteractionGroup(interaction, Block([head]), [Block([tail]) for tail in tails])

    table = jnp.array([[1.0, -1.0]])
    updates = [group(1, table, s[0], [s[1], c]), group(1, table, s[1], [s[0], c])]
    spec = thrml.BlockGibbsSpec([Block(s[:1]), Block(s[1:]), Block([c])], [])
    draws = [models.SpinGibbsConditional()] * 2 + [models.CategoricalGibbsConditional(2)]
    whole = thrml.BlockSamplingProgram(spec, draws, [*updates, group(2, table, c, s)])
    model, params, _ = bridge.from_thrml(whole)
    product = ej.Factor(("spin", [0], "value"), ("spin", [1], "value"), ("category", [0], "value"))
    assert model.factors == (product,)
    np.testing.assert_allclose(params[0], table)
    with pytest.raises(ValueError, match="not the same for all nodes of a term"):
        bridge.from_thrml(thrml.BlockSamplingProgram(spec, draws, [*updates, group(2, 2 * table, c, s)]))
    with pytest.raises(ValueError, match="not the same for all nodes of a term"):
        bridge.from_thrml(thrml.BlockSamplingProgram(spec, draws, updates))


def test_kinds_that_they_lack_are_refused(as_shipped):
    model = ej.FactorGraph({"s": ej.Spins(1), "x": ej.Gaussians(2)}, [ej.Factor(("x", [0, 1], "square"))])
    with pytest.raises(ValueError, match="'x' are Gaussians, for which THRML has no factor class"):
        bridge.to_thrml(model, model.init(jax.random.key(0)))
