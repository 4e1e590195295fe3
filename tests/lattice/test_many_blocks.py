"""Graphs of many blocks: one loop over sites or blocks draws each from its conditional, whatever runs beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from ebm_jax.lattice import dense, looped
from tests import conditionals, statistics, systems


def complete(n):
    return ej.Graph(n, np.stack(np.triu_indices(n, 1), axis=1))


def sites_alone(graph, n_clamped=0):
    """Blocks of one site each, in an order of their own; the last are clamped."""
    order = np.random.default_rng(1).permutation(graph.n_sites).tolist()
    blocks = [ej.Block([site]) for site in order]
    n_free = len(blocks) - n_clamped
    return ej.BlockSpec(blocks[:n_free], clamped=blocks[n_free:])


# With them: one and two tiles of sites, each kind of coupling, levels written out and in a loop, clamped blocks.
CASES = {
    "ising_40": (ej.Ising(complete(40)), None),
    "ising_10_tied": (ej.Ising(complete(10), "tied"), sites_alone(complete(10), 3)),
    "potts_11_edge": (ej.Potts(complete(11), 3, "edge"), None),
    "potts_10_matrix": (ej.Potts(complete(10), 3, "matrix"), None),
    "ising_hub_tied": (
        ej.Ising(ej.Graph(30, [*complete(10).edges, *((10, i) for i in range(11, 30))]), "tied"),
        None,
    ),
    "potts_grid_9_levels": (ej.Potts(ej.Grid(3, 4), 9, "matrix"), sites_alone(ej.Grid(3, 4))),
}


@pytest.mark.parametrize("path", ["dense", "general"])
@pytest.mark.parametrize("name", CASES)
def test_every_site_is_drawn_from_its_conditional(name, path):
    model, spec = CASES[name]
    kernel = ej.gibbs(model, spec, path=path)
    many = name != "ising_10_tied"
    assert ej.gibbs(model, spec).path == ("dense" if many else "general")
    assert isinstance(kernel.layout, looped.LoopedLayout) == (many and path == "general")
    scale = 0.6 if model.graph.n_sites < 40 else 0.2
    conditionals.check(kernel, systems.draw_params(model, seed=3, scale=scale), name, beta=0.9)


def test_sparse_graphs_with_many_blocks_loop_over_neighbours():
    edges = {*map(tuple, complete(10).edges.tolist()), *((i, i + 1) for i in range(9, 299))}
    assert isinstance(ej.gibbs(ej.Ising(ej.Graph(300, sorted(edges)))).layout, looped.LoopedLayout)


def test_a_mutant_fails_the_check(monkeypatch):
    """Sites that do not see what was drawn before them in their tile."""
    monkeypatch.setattr(dense.np, "tri", lambda n, k=0, dtype=float: np.zeros((n, n), dtype))
    model = ej.Ising(complete(12))
    with pytest.raises(AssertionError):
        conditionals.check(ej.gibbs(model), systems.draw_params(model, seed=3, scale=0.6), "mutant", beta=0.9)


def test_a_certificate():
    """Clamped values of each chain included."""
    model = ej.Ising(complete(10))
    statistics.spend(6)
    found = ej.certify(
        ej.gibbs(model),
        model,
        systems.draw_params(model, scale=0.3),
        key=jax.random.key(2),
        n_chains=4096,
        false_positive_rate=6 * statistics.ALPHA,
        show=False,
    )
    assert ej.gibbs(model).path == "dense"
    assert found.ok and "skipped" not in {check.status for check in found.checks}, found


@pytest.mark.parametrize("path", ["dense", "general"])
def test_a_chain_does_not_know_what_runs_beside_it(path):
    model = ej.Ising(complete(40))
    kernel, params = ej.gibbs(model, path=path), systems.draw_params(model, scale=0.2)
    x = ej.init_chains(jax.random.key(0), model, 130)
    keys = jax.random.split(jax.random.key(1), 130)

    @jax.jit
    def run(keys, params, x):
        states = jax.vmap(kernel.init, (None, 0))(params, x)
        packed, _ = kernel.packed_steps(keys, params, 0.8, kernel.pack(params, states), 3)
        return kernel.packed_positions(packed)

    whole = np.asarray(run(keys, params, x))
    for n in (65, 1):
        np.testing.assert_array_equal(run(keys[-n:], params, x[-n:]), whole[-n:])
    # One chain after the other by `vmap`, and with parameters of its own each.
    vmapped = jax.jit(
        jax.vmap(lambda k, p, x: kernel.steps(k, p, 0.8, kernel.init(p, x), 3)[0].position, (0, None, 0))
    )
    np.testing.assert_array_equal(vmapped(keys, params, x), whole)
    own = jax.tree.map(lambda leaf: jnp.tile(leaf, (130, *(1,) * leaf.ndim)), params)
    each = jax.jit(jax.vmap(lambda k, p, x: kernel.steps(k, p, 0.8, kernel.init(p, x), 3)[0].position))
    # Products of single chains add in another order, which decides otherwise about once in a million draws.
    assert (np.asarray(each(keys, own, x)) == whole).all(axis=1).mean() > 0.98


def test_tables_of_each_chain():
    """Levels, and couplings of each chain's own that are tables."""
    model = ej.Potts(complete(10), 3, "matrix")
    kernel = ej.gibbs(model)
    several = [systems.draw_params(model, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *several)
    x, keys = ej.init_chains(jax.random.key(0), model, 3), jax.random.split(jax.random.key(1), 3)

    def step(key, params, x):
        return kernel.steps(key, params, 0.7, kernel.init(params, x), 2)[0].position

    found = jax.jit(jax.vmap(step))(keys, stacked, x)
    alone = jax.jit(step)
    for i in range(3):
        np.testing.assert_array_equal(found[i], alone(keys[i], several[i], x[i]))


@pytest.mark.parametrize("path", ["dense", "general"])
def test_the_program_does_not_grow_with_the_number_of_blocks(path):
    lengths = []
    for n in (32, 320):
        model = ej.Ising(complete(n))
        kernel, params = ej.gibbs(model, path=path), model.init(jax.random.key(0))
        x = ej.init_chains(jax.random.key(0), model, 4)
        program = jax.make_jaxpr(lambda p, x, k=kernel: k.steps(jax.random.key(1), p, 1.0, k.init(p, x), 5))
        lengths.append(str(program(params, x[0])).count(" = "))
    assert lengths[0] == lengths[1]


def test_which_path_runs():
    assert ej.gibbs(ej.Ising(complete(4))).path == "general"
    assert ej.gibbs(ej.Ising(complete(300))).path == "dense"
    assert ej.gibbs(ej.Potts(complete(12), 4, "matrix")).path == "dense"
    # A long path whose sites are updated one by one: its matrix would have 36 million entries.
    path = ej.Graph(6_000, np.stack([np.arange(5_999), np.arange(1, 6_000)], axis=1))
    assert ej.gibbs(ej.Ising(path, "tied"), sites_alone(path)).path == "general"
    with pytest.raises(ValueError, match="edges"):
        ej.gibbs(ej.RBM(2, 2), path="dense")
