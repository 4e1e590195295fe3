"""Block Gibbs: the same chain, whatever runs beside it, and however its run is cut, given and differentiated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from tests import systems

GRAPH = ej.Graph(5, [(1, 0), (1, 2), (2, 0), (3, 2)])


def packed_run(kernel, keys, params, beta, positions, lengths):
    states = jax.vmap(kernel.init, (None, 0))(params, positions)
    packed = kernel.pack(params, states)
    for n in lengths:
        packed, _ = kernel.packed_steps(keys, params, beta, packed, n)
    return kernel.packed_positions(packed)


jitted_run = jax.jit(packed_run, static_argnames="lengths")


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        (ej.RBM(70, 9), (130, 65, 1)),  # products in tiles of 64 chains
        (ej.Ising(ej.Grid(4, 3), "edge"), (65, 3)),
    ],
    ids=["rbm", "grid"],
)
def test_a_chain_does_not_know_how_many_run_beside_it(model, sizes):
    kernel, params = ej.gibbs(model), systems.draw_params(model)
    x = ej.init_chains(jax.random.key(0), model, sizes[0])
    keys = jax.random.split(jax.random.key(1), sizes[0])
    whole = jitted_run(kernel, keys, params, 0.8, x, (3,))
    for size in sizes[1:]:
        # The last chains of all, so that they lie elsewhere in their tile.
        last = lambda leaf, n=size: leaf[-n:]  # noqa: E731
        part = jitted_run(kernel, last(keys), params, 0.8, jax.tree.map(last, x), (3,))
        assert_equal(part, jax.tree.map(last, whole))


def test_a_run_may_be_cut_anywhere():
    model = ej.RBM(9, 4)
    kernel, params = ej.gibbs(model), systems.draw_params(model)
    x = ej.init_chains(jax.random.key(0), model, 7)
    keys = jax.random.split(jax.random.key(1), 7)
    whole = jitted_run(kernel, keys, params, 0.8, x, (7,))
    assert_equal(jitted_run(kernel, keys, params, 0.8, x, (1, 2, 4, 0)), whole)


def test_betas_a_step_and_a_chain():
    """`packed_steps` with β `(n, n_chains)` is every chain stepped alone with its own row."""
    model = ej.Ising(GRAPH)
    kernel, params = ej.gibbs(model), systems.draw_params(model)
    x = ej.init_chains(jax.random.key(0), model, 6)
    keys = jax.random.split(jax.random.key(1), 6)
    betas = jnp.asarray(np.random.default_rng(0).uniform(0.1, 3.0, size=(4, 6)), jnp.float32)
    found = jitted_run(kernel, keys, params, betas, x, (4,))
    one = jax.jit(lambda key, b, x: kernel.steps(key, params, b, kernel.init(params, x), 4)[0].position)
    looped = jnp.stack([one(keys[i], betas[:, i], x[i]) for i in range(6)])
    np.testing.assert_array_equal(found, looped)
    np.testing.assert_array_equal(jax.jit(jax.vmap(one, (0, 1, 0)))(keys, betas, x), looped)
    assert (found != jitted_run(kernel, keys, params, betas[:, ::-1], x, (4,))).any()


def test_parameters_a_chain_on_index_tables():
    model = ej.Ising(GRAPH)
    kernel = ej.gibbs(model)
    several = [systems.draw_params(model, seed) for seed in range(4)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *several)
    x = ej.init_chains(jax.random.key(0), model, 4)
    keys = jax.random.split(jax.random.key(1), 4)
    one = jax.jit(lambda key, p, x: kernel.steps(key, p, 0.8, kernel.init(p, x), 3)[0].position)
    looped = jnp.stack([one(keys[i], several[i], x[i]) for i in range(4)])
    np.testing.assert_array_equal(jax.jit(jax.vmap(one))(keys, stacked, x), looped)


@pytest.mark.parametrize("model", [ej.Ising(GRAPH), ej.RBM(4, 3)], ids=["graph", "rbm"])
def test_the_gradient_through_steps_is_zero(model):
    kernel, params = ej.gibbs(model), systems.draw_params(model)
    x = jax.tree.map(lambda leaf: leaf[0], ej.init_chains(jax.random.key(0), model, 1))

    def magnetisation(params, beta):
        position = kernel.steps(jax.random.key(1), params, beta, kernel.init(params, x), 2)[0].position
        return sum(jnp.sum(leaf.astype(jnp.float32)) for leaf in jax.tree.leaves(position))

    for leaf in jax.tree.leaves(jax.jit(jax.grad(magnetisation, argnums=(0, 1)))(params, 1.0)):
        np.testing.assert_array_equal(leaf, jnp.zeros_like(leaf))


def assert_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
