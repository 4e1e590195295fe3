"""Block Gibbs: the code that runs draws from the exact conditionals, on every path, and the mutants do not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from ebm_jax import rng
from ebm_jax.lattice.general import GeneralLayout
from ebm_jax.lattice.grid import GridLayout
from ebm_jax.samplers import sweeps
from ebm_jax.samplers.gibbs import Gibbs
from tests import oracles, systems
from tests.statistics import assert_other_law, assert_same_law

BETA = 0.9
# Of one test, over all configurations that it starts from; of one configuration at most.
N_DRAWS, MAX_DRAWS = 2_500_000, 20_000

# Each path with each kind of coupling and neighbourhood that it has. A model that fits both "grid" and "general" draws
# the same bits on both (see below), so it is enumerated on one of them.
CASES = {
    "ising_2x3_edge": "grid",
    "ising_3x2_8": "grid",
    "potts_2x3": "grid",
    "potts_2x2_matrix": "grid",
    "ising_3x3_periodic": "general",
    "ising_graph": "general",
    "ising_graph_tied": "general",
    "potts_1x4_edge": "general",
    "potts_2x2_8": "general",
    "potts_graph": "general",
    "rbm_4x3": "bipartite",
}


def transitions(system, kernel, beta=BETA, run=systems.run_chains):
    """Counts of one step from every configuration, equally many each."""
    n = min(MAX_DRAWS, N_DRAWS // len(system.energies))
    starts = repeated(system.all_positions(), n)
    ends, _ = run(kernel, jax.random.key(1), system.params, beta, starts)
    return system.counts(ends, n_rows=len(system.energies))


def repeated(positions, n):
    """Every configuration `n` times, by NumPy: JAX compiles a program for each shape and operation."""
    return jax.tree.map(lambda leaf: jnp.asarray(np.repeat(leaf, n, axis=0)), positions)


def exact_matrix(system, spec, beta=BETA):
    return oracles.gibbs_matrix(system.energies, system.n_sites, system.n_levels, spec.groups, beta)


@pytest.mark.parametrize("name", CASES)
def test_transitions_from_every_state_are_the_exact_ones(name):
    system, path = systems.get(name), CASES[name]
    kernel = ej.gibbs(system.model, path=path)
    assert kernel.path == path
    assert_same_law(transitions(system, kernel), exact_matrix(system, kernel.spec), f"{name} on {path}")


@pytest.mark.parametrize("name", CASES)
def test_sweep_leaves_the_law_invariant(name):
    """πP = π in float64, P assembled from the package's own conditionals and blocks."""
    system = systems.get(name)
    n, k = system.n_sites, system.n_levels
    with jax.enable_x64(True):
        params = jax.tree.map(lambda p: jnp.asarray(np.asarray(p), jnp.float64), system.params)

        @jax.jit
        @jax.vmap
        def conditionals(levels):
            logits = system.model.conditional_logits(params, system.model.from_levels(levels))
            rows = jnp.concatenate([leaf.reshape(-1, k) for leaf in jax.tree.leaves(logits)])
            return jax.nn.softmax(BETA * rows, axis=-1)

        states = oracles.all_states(n, k)
        table = np.asarray(conditionals(jnp.asarray(states, jnp.int32)))
    np.testing.assert_allclose(table, oracles.conditional_table(system.energies, n, k, BETA), atol=1e-12)
    law = oracles.boltzmann(system.energies, BETA)
    matrix = exact_matrix(system, ej.gibbs(system.model).spec)
    np.testing.assert_allclose(law @ matrix, law, atol=1e-12)


@pytest.mark.parametrize("name", ["potts_2x2_matrix", "ising_graph"])
def test_exact_start_stays_exact_and_several_steps_are_the_power_of_one(name):
    """Stationarity alone would pass a kernel that never moves, and one step a kernel that repeats its draws.

    `test_certificate` asks the same of an RBM.
    """
    system, n, n_steps = systems.get(name), 200_000, 4
    starts = jax.tree.map(
        lambda exact, every: jnp.asarray(np.concatenate([exact, np.repeat(every[:1], n, axis=0)])),
        *(jax.tree.map(np.asarray, x) for x in (system.exact_positions(n, BETA), system.all_positions())),
    )
    kernel = ej.gibbs(system.model)
    ends, info = systems.run_chains(kernel, jax.random.key(2), system.params, BETA, starts, n_steps=n_steps)
    exact, moved = system.counts(ends, n_rows=2)
    assert_same_law(exact, oracles.boltzmann(system.energies, BETA), f"{name}, exact start")
    law = np.linalg.matrix_power(exact_matrix(system, kernel.spec), n_steps)[0]
    assert_same_law(moved, law, f"{name}, fixed start")
    assert (info.n_steps == n_steps).all()


def test_superblocks_and_clamped_blocks():
    """Sites 0 and 4 are drawn at once, then the others; sites 2 and 6 never move."""
    system = systems.get("ising_graph")
    blocks = [(ej.Block([0]), ej.Block([4])), ej.Block([1, 3, 7]), ej.Block([5])]
    spec = ej.BlockSpec(blocks, clamped=[ej.Block([2, 6])])
    kernel = ej.gibbs(system.model, spec)
    assert_same_law(transitions(system, kernel), exact_matrix(system, spec), "superblocks")


def test_rbm_blocks_may_split_a_layer():
    system = systems.get("rbm_4x3")
    spec = ej.BlockSpec([ej.Block([4, 6]), ej.Block([0, 1, 3]), ej.Block([5])], clamped=[ej.Block([2])])
    kernel = ej.gibbs(system.model, spec)
    assert kernel.path == "bipartite"
    assert_same_law(transitions(system, kernel), exact_matrix(system, spec), "split layers")


def test_order_of_blocks_on_a_grid_is_the_callers():
    system = systems.get("ising_2x3_edge")
    spec = ej.BlockSpec(ej.checkerboard(system.model.graph)[::-1])
    kernel = ej.gibbs(system.model, spec)
    assert kernel.path == "grid"
    counts = transitions(system, kernel)
    assert_same_law(counts, exact_matrix(system, spec), "reversed")
    assert_other_law(counts, exact_matrix(system, system.model.default_spec()), "reversed against default")


# ---- mutants ----


def mutant_updates_neighbours_together(system):
    everything = ej.BlockSpec([ej.Block(np.arange(system.n_sites))])
    kernel = Gibbs(system.model, everything, *GeneralLayout.build(system.model, everything))
    return kernel, system.params, BETA


class StaleColours(GridLayout):
    """Draws every colour from the state before the sweep."""

    def update(self, group, tables, weights, odds, words, step, packs, masks):
        new = list(packs)
        for number, target in enumerate(self.order):
            fresh = super().update(number, tables, weights, odds, words, step, packs, masks)
            new[target] = fresh[target]
        return tuple(new)


def mutant_grid_updates_both_colours_from_one_state(system):
    kernel = ej.gibbs(system.model)
    layout = StaleColours(*(getattr(kernel.layout, f.name) for f in dataclasses.fields(kernel.layout)))
    spec = ej.BlockSpec([kernel.spec.free[0] + kernel.spec.free[1]])
    return dataclasses.replace(kernel, layout=layout, spec=spec), system.params, BETA


def mutant_wrong_beta(system):
    return ej.gibbs(system.model), system.params, 1.02 * BETA


def mutant_swapped_couplings(system):
    swapped = system.params._replace(coupling=system.params.coupling[::-1])
    return ej.gibbs(system.model), swapped, BETA


def mutant_neglected_edge(system):
    return (
        ej.gibbs(system.model),
        system.params._replace(coupling=system.params.coupling.at[0].set(0.0)),
        BETA,
    )


def mutant_wrong_order(system):
    return ej.gibbs(system.model, ej.BlockSpec(ej.gibbs(system.model).spec.free[::-1])), system.params, BETA


MUTANTS = [f for name, f in sorted(globals().items()) if name.startswith("mutant_")]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda f: f.__name__)
def test_mutants_are_caught(mutant):
    name = "ising_2x3_edge"
    system = systems.get(name)
    kernel, params, beta = mutant(system)
    counts = transitions(system._replace(params=params), kernel, beta=beta)
    assert_other_law(counts, exact_matrix(system, system.model.default_spec()), mutant.__name__)


def test_biased_draw_is_caught(monkeypatch):
    """A uniform short of one part in a hundred."""
    system = systems.get("potts_1x4_edge")
    genuine = rng.uniform
    monkeypatch.setattr("ebm_jax.rng.uniform", lambda word: genuine(word) * np.float32(0.99))
    counts = transitions(system, ej.gibbs(system.model), run=systems.run_patched)
    assert_other_law(counts, exact_matrix(system, system.model.default_spec()), "biased draw")


# ---- forms ----


N_CHAINS = 65


def random_positions(model, n):
    levels = np.random.default_rng(0).integers(model.n_levels, size=(n, model.graph.n_sites))
    return jax.vmap(model.from_levels)(jnp.asarray(levels, jnp.int32))


def states_and_keys(kernel, params):
    x = random_positions(kernel.model, N_CHAINS)
    states = jax.vmap(kernel.init, (None, 0))(params, x)
    return states, jax.random.split(jax.random.key(1), N_CHAINS)


def three_steps_in_pieces(kernel, params):
    """`vmap` over chains, compiled for one step."""
    states, keys = states_and_keys(kernel, params)
    step = jax.jit(lambda states: jax.vmap(lambda k, s: kernel.steps(k, params, 0.7, s, 1)[0])(keys, states))
    return step(step(step(states)))


@pytest.mark.parametrize("model", [ej.Potts(ej.Grid(3, 5), 3, "matrix"), ej.RBM(40, 7)], ids=str)
def test_looped_vmapped_packed_and_chunked_chains_have_the_same_bits(model):
    params, kernel = systems.draw_params(model), ej.gibbs(model)
    vmapped = three_steps_in_pieces(kernel, params)
    states, keys = states_and_keys(kernel, params)

    @jax.jit
    def packed(states):
        new, _ = kernel.packed_steps(keys, params, 0.7, kernel.pack(params, states), 3)
        return kernel.unpack(new)

    assert_equal(vmapped, packed(states))
    for chain in (0, N_CHAINS - 1):
        alone = jax.tree.map(lambda leaf, i=chain: jnp.asarray(np.asarray(leaf)[i]), states)
        looped, _ = kernel.steps(keys[chain], params, 0.7, alone, 3)
        assert_equal(jax.tree.map(lambda leaf, i=chain: np.asarray(leaf)[i], vmapped), looped)


@pytest.mark.parametrize(
    "model",
    [ej.Potts(ej.Grid(3, 5), 3, "matrix"), ej.Ising(ej.Grid(4, 4, "periodic", 8), "edge")],
    ids=str,
)
def test_grids_draw_the_same_bits_on_the_general_path(model):
    params = systems.draw_params(model)
    results = [three_steps_in_pieces(ej.gibbs(model, path=path), params) for path in ("grid", "general")]
    assert_equal(*results)


def test_nested_vmap_batched_params_and_betas():
    model = ej.Potts(ej.Grid(4, 3), 3)
    kernel = ej.gibbs(model)
    several = [systems.draw_params(model, seed, 1.0) for seed in range(3)]
    many = jax.tree.map(lambda *leaves: np.stack(leaves), *several)
    positions = random_positions(model, 4)
    keys, betas = jax.random.split(jax.random.key(2), 4), np.array([0.5, 1.0, 2.0], np.float32)

    def run(key, params, beta, x):
        return kernel.steps(key, params, beta, kernel.init(params, x), 3)[0].position

    @jax.jit
    def nested(many, betas):
        inner = jax.vmap(run, (0, None, None, 0))
        return jax.vmap(inner, (None, 0, 0, None))(keys, many, betas, positions)

    @jax.jit
    def other_way(many, betas):
        inner = jax.vmap(run, (None, 0, 0, None))
        return jax.vmap(inner, (0, None, None, 0))(keys, many, betas, positions)

    @jax.jit
    def alone(params, beta):
        return run(keys[2], params, beta, positions[2])

    whole = np.asarray(nested(many, betas))
    np.testing.assert_array_equal(whole, np.swapaxes(other_way(many, betas), 0, 1))
    for i in range(3):
        np.testing.assert_array_equal(whole[i, 2], alone(several[i], betas[i]))


def test_rbm_chains_with_their_own_weights():
    """Batched weights are multiplied another way, so compare conditionals' law through a deterministic limit."""
    model = ej.RBM(6, 4)
    kernel = ej.gibbs(model)
    params = systems.draw_params(model, scale=1e4)
    stacked = jax.tree.map(lambda p: np.stack([p, -p, 2 * p]), jax.tree.map(np.asarray, params))
    positions = jax.tree.map(np.asarray, random_positions(model, 3))
    keys = jax.random.split(jax.random.key(2), 3)
    run = jax.jit(lambda k, p, x: kernel.steps(k, p, 1.0, kernel.init(p, x), 4)[0].position)
    batched = jax.jit(jax.vmap(run))(keys, stacked, positions)
    alone = [run(keys[i], *jax.tree.map(lambda leaf, i=i: leaf[i], (stacked, positions))) for i in range(3)]
    assert_equal(batched, jax.tree.map(lambda *leaves: np.stack(leaves), *alone))


@pytest.mark.parametrize("name", ["ising_graph", "rbm_4x3"])
def test_grad_and_vmap_grad_of_a_program_around_a_kernel(name):
    """Draws are constants: only the explicit dependence is differentiated."""
    system = systems.get(name)
    kernel, x = ej.gibbs(system.model), jax.tree.map(lambda leaf: leaf[0], system.all_positions())

    def program(scale, key):
        params = jax.tree.map(lambda p: scale * p, system.params)
        state, _ = kernel.steps(key, params, scale, kernel.init(params, x), 3)
        return scale**2 + system.model.energy(jax.lax.stop_gradient(params), state.position)

    keys = jax.random.split(jax.random.key(0), 4)
    scales = jnp.arange(1.0, 5.0)
    np.testing.assert_allclose(jax.jit(jax.grad(program))(1.5, keys[0]), 3.0)
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(program)))(scales, keys), 2 * scales)


def test_one_trace_for_new_numbers_and_rebuilt_kernels(count_traces):
    model = ej.Potts(ej.Graph(5, [(0, 1), (3, 2), (1, 2)]), 3)

    def run(kernel, key, params, beta, x, clamped):
        return kernel.steps(key, params, beta, kernel.init(params, x, clamped), 2)[0].position

    counted, traces = count_traces(run)
    jitted = jax.jit(counted)
    for i in range(3):
        again = ej.Potts(ej.Graph(5, [(0, 1), (3, 2), (1, 2)]), 3)
        x = jnp.full(5, i, jnp.uint8)
        mask = np.arange(5) < i
        jitted(ej.gibbs(again), jax.random.key(i), systems.draw_params(model, i), 0.5 + i, x, (mask, x))
    assert len(traces) == 1


def test_clamped_sites_never_move_and_the_rest_is_conditional():
    """On a graph; `test_certificate` does so on a grid and for an RBM."""
    name = "ising_graph"
    system = systems.get(name)
    n, k = system.n_sites, system.n_levels
    held = np.isin(np.arange(n), [0, n - 2])
    values = np.where(held, k - 1, 0)
    n_chains = 60_000
    starts = system.positions(np.zeros((n_chains, n)))
    mask = jax.tree.map(lambda leaf: leaf.astype(bool), system.positions(np.tile(held, (n_chains, 1))))
    clamped = (mask, system.positions(np.tile(values, (n_chains, 1))))
    ends, _ = systems.run_chains(
        ej.gibbs(system.model), jax.random.key(5), system.params, BETA, starts, clamped, n_steps=40
    )
    levels = np.asarray(jax.vmap(system.model.levels)(ends))
    assert (levels[:, held] == k - 1).all()
    law = oracles.boltzmann(system.energies, BETA)
    law = np.where((oracles.all_states(n, k)[:, held] == k - 1).all(axis=1), law, 0.0)
    assert_same_law(system.counts(ends), law / law.sum(), name)


@pytest.mark.parametrize("coupling", ["tied", "edge", "matrix"])
@pytest.mark.parametrize("boundary", ["free", "periodic"])
@pytest.mark.parametrize("neighbourhood", [4, 8])
def test_which_path_runs(coupling, boundary, neighbourhood):
    for height, width in [(4, 4), (4, 5), (5, 4)]:
        graph = ej.Grid(height, width, boundary, neighbourhood)
        odd_torus = boundary == "periodic" and (height % 2 or width % 2)
        models = [ej.Potts(graph, 3, coupling)] + (
            [ej.Ising(graph, coupling)] if coupling != "matrix" else []
        )
        for model in models:
            assert ej.gibbs(model).path == ("general" if odd_torus else "grid")
    flat = ej.Graph(graph.n_sites, graph.edges)
    assert ej.gibbs(ej.Potts(flat, 3, coupling)).path == "general"


def test_which_path_runs_for_other_structures():
    grid = ej.Grid(4, 4)
    checker, everything = ej.checkerboard(grid), range(16)
    for shape in [(1, 1), (1, 5), (5, 1), (2, 2)]:
        assert ej.gibbs(ej.Ising(ej.Grid(*shape))).path == "grid"
    for n_levels in (2, 17, 256):
        assert ej.gibbs(ej.Potts(grid, n_levels)).path == "grid"
    for spec, path in [
        (ej.BlockSpec(checker[::-1]), "grid"),
        (ej.BlockSpec([ej.Block([site]) for site in everything]), "dense"),
        (ej.BlockSpec(checker[:1], clamped=checker[1:]), "general"),
    ]:
        for model in (ej.Ising(grid), ej.Potts(grid, 3, "matrix")):
            assert ej.gibbs(model, spec).path == path
    assert ej.gibbs(ej.Ising(systems.random_graph(), "tied")).path == "general"
    assert ej.gibbs(ej.Ising(ej.Graph(3, []))).path == "general"
    assert ej.gibbs(ej.Ising(grid), path="general").path == "general"
    assert ej.gibbs(ej.RBM(3, 2)).path == "bipartite"


@pytest.mark.parametrize(
    ("model", "big", "path"),
    [
        (ej.Ising(ej.Grid(2, 3), "edge"), [60.0, 0.4, -60.0, 60.0, -60.0, 0.3, -0.2], "grid"),
        (ej.Potts(ej.Grid(2, 2), 3), [60.0, -60.0], "general"),
    ],
    ids=["ising", "potts"],
)
def test_weights_of_sixty_are_drawn_right(model, big, path):
    """Exponentials of such sums leave float32, so conditionals come from logits; where ±60 cancel, biases decide."""
    params = systems.draw_params(model)._replace(coupling=jnp.array(big))
    system = systems.pairwise(model, params=params)
    kernel = ej.gibbs(model, path=path)
    assert_same_law(transitions(system, kernel), exact_matrix(system, kernel.spec), f"{model} on {path}")


def test_both_arithmetics_give_the_same_draws(monkeypatch):
    """Logits and odds round differently, and share every random word: all but a few draws in a million agree."""
    system = systems.get("potts_2x2_edge")
    starts = repeated(system.all_positions(), 1000)
    arguments = ej.gibbs(system.model), jax.random.key(1), system.params, BETA, starts
    odds, _ = systems.run_chains(*arguments)
    monkeypatch.setattr("ebm_jax.lattice.base.MAX_LOG_ODDS", 0.0)
    logits, _ = systems.run_patched(*arguments)
    assert np.mean(np.asarray(odds) != np.asarray(logits)) < 1e-5


def test_256_levels():
    """A level favoured by 20 is drawn but for a chance of 255 exp(−20); at β = 10 its logits leave float32."""
    model = ej.Potts(ej.Grid(1, 4), 256)
    bias = np.where(np.arange(256) == 255, np.float32(20), np.zeros((1, 4, 256), np.float32))
    params = ej.PottsParams(jnp.asarray(bias), jnp.asarray(np.zeros(2, np.float32)))
    x = repeated(random_positions(model, 4), 25_000)
    run = functools.partial(systems.run_chains, ej.gibbs(model), jax.random.key(1), params)
    for beta in (1.0, 10.0):
        assert (np.asarray(run(beta, x)[0])[::25_000] == 255).all()
    counts = np.bincount(np.asarray(run(0.0, x)[0]).ravel(), minlength=256)
    assert_same_law(counts, np.full(256, 1 / 256), "256 levels")


def test_many_neighbours_are_taken_in_a_loop(monkeypatch):
    """Sites with more neighbours than are written out: the same bits, and the same law."""
    system = systems.get("potts_graph")
    starts = repeated(system.all_positions(), 200)
    arguments = ej.gibbs(system.model), jax.random.key(1), system.params
    betas = (BETA, 1000.0)  # as odds, and as logits
    written_out = [systems.run_chains(*arguments, beta, starts)[0] for beta in betas]
    monkeypatch.setattr("ebm_jax.lattice.fields.UNROLLED_SLOTS", 1)
    monkeypatch.setattr("ebm_jax.lattice.general.UNROLLED_SLOTS", 1)
    run = systems.patched_run()
    in_a_loop = [run(*arguments, beta, starts)[0] for beta in betas]
    for a, b in zip(written_out, in_a_loop, strict=True):
        assert np.mean(np.asarray(a) != np.asarray(b)) < 1e-4


def test_all_sites_clamped_never_move():
    model = ej.Ising(systems.random_graph())
    kernel = ej.gibbs(model, ej.BlockSpec([], clamped=ej.colour(model.graph)))
    x = random_positions(model, 3)
    samples = ej.sample(jax.random.key(1), kernel, systems.draw_params(model), x, ej.SamplingSchedule(2, 1))
    np.testing.assert_array_equal(samples.positions[0], x)


def test_eager_steps_in_the_shape_that_blackjax_drives_compile_once():
    system = systems.get("ising_graph")
    init, step = ej.gibbs(system.model).bind(system.params, beta=BETA)
    state, info = step(jax.random.key(0), init(system.all_positions()[0]))
    assert int(state.step) == 1
    assert int(info.n_steps) == 1
    before = sweeps._many_chains._cache_size()
    for _ in range(3):
        state, _ = step(jax.random.key(0), state)
    assert sweeps._many_chains._cache_size() == before
    assert int(state.step) == 4


@pytest.mark.parametrize("build", [ej.gibbs, ej.metropolis])
def test_traced_non_finite_numbers_are_reported(build):
    model = ej.Ising(ej.Grid(2, 3))
    x, kernel = ej.init_chains(jax.random.key(0), model, 2), build(ej.Ising(ej.Grid(2, 3)))

    @jax.jit
    def info(params, beta):
        return ej.sample(jax.random.key(1), kernel, params, x, ej.SamplingSchedule(2, 2, 2), beta=beta).info

    params = systems.draw_params(model)
    assert (info(params, 1.0).n_nonfinite == 0).all()
    broken = params._replace(bias=params.bias.at[1, 1].set(jnp.nan))
    for bad in (info(broken, 1.0), info(params, jnp.inf)):
        assert (bad.n_nonfinite == 4).all()
        assert (bad.first_nonfinite == 1).all()


def test_keys_of_another_implementation_give_each_chain_its_own_stream():
    system = systems.get("ising_graph")
    kernel, x = ej.gibbs(system.model), system.all_positions()[0]
    keys = jax.random.split(jax.random.key(0, impl="rbg"), 4)

    def run(key):
        return kernel.step(key, system.params, BETA, kernel.init(system.params, x))[0].position

    np.testing.assert_array_equal(jax.vmap(run)(keys), jnp.stack([run(key) for key in keys]))


def test_jitted_and_eager_probabilities_agree():
    system = systems.get("potts_2x2_matrix")
    x = jax.tree.map(lambda leaf: leaf[17], system.all_positions())

    def probabilities(p, x):
        return jax.nn.softmax(BETA * system.model.conditional_logits(p, x))

    np.testing.assert_allclose(
        jax.jit(probabilities)(system.params, x), probabilities(system.params, x), atol=1e-6
    )


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (
            lambda: ej.gibbs(ej.Ising(ej.Grid(2, 2)), ej.BlockSpec([ej.Block([0, 1]), ej.Block([2, 3])])),
            "share an edge",
        ),
        (lambda: ej.gibbs(ej.Ising(ej.Grid(2, 2)), [ej.Block([0])]), "BlockSpec"),
        (lambda: ej.gibbs(ej.Ising(ej.Graph(2, [(0, 1)])), path="grid"), "not a Grid"),
        (lambda: ej.gibbs(ej.Ising(ej.Grid(3, 3, "periodic")), path="grid"), "odd"),
        (lambda: ej.gibbs(ej.Ising(ej.Grid(3, 3)), path="bipartite"), "RBM"),
        (lambda: ej.gibbs(ej.Ising(ej.Grid(3, 3)), path="fast"), "'fast'"),
        (lambda: ej.gibbs(ej.RBM(2, 2), path="general"), "edges"),
    ],
)
def test_refuses_what_does_not_fit(build, words, as_shipped):
    with pytest.raises(ValueError, match=words):
        build()


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
