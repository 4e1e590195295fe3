"""Block Gibbs: the same chain, whatever runs beside it, and however its run is cut, given and differentiated."""

import jax
import jax.numpy as jnp
import numpy as np

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


def test_a_chain_does_not_know_how_many_run_beside_it():
    """Products are in tiles of 64 chains."""
    model, sizes = ej.RBM(70, 9), (130, 65, 1)
    kernel, params = ej.gibbs(model), systems.draw_params(model)
    x = ej.init_chains(jax.random.key(0), model, sizes[0])
    keys = jax.random.split(jax.random.key(1), sizes[0])
    whole = jitted_run(kernel, keys, params, 0.8, x, (3,))
    for size in sizes[1:]:
        # The last chains of all, so that they lie elsewhere in their tile.
        own_keys, own_x, expected = jax.tree.map(lambda leaf, n=size: leaf[-n:], (keys, x, whole))
        assert_equal(jitted_run(kernel, own_keys, params, 0.8, own_x, (3,)), expected)


def test_a_run_may_be_cut_anywhere():
    model = ej.RBM(9, 4)
    kernel, params = ej.gibbs(model), systems.draw_params(model)
    x = ej.init_chains(jax.random.key(0), model, 7)
    keys = jax.random.split(jax.random.key(1), 7)
    whole = jitted_run(kernel, keys, params, 0.8, x, (7,))
    assert_equal(jitted_run(kernel, keys, params, 0.8, x, (3, 4, 0)), whole)


def test_betas_a_step_and_parameters_a_chain():
    """`packed_steps` with β `(n, n_chains)`, and `vmap` over β and parameters, are every chain stepped alone."""
    model, n_chains = ej.Ising(GRAPH), 6
    kernel, params = ej.gibbs(model), systems.draw_params(model)
    x = ej.init_chains(jax.random.key(0), model, n_chains)
    keys = jax.random.split(jax.random.key(1), n_chains)
    betas = jnp.asarray(np.random.default_rng(0).uniform(0.1, 3.0, size=(4, n_chains)), jnp.float32)
    one = jax.jit(lambda key, p, b, x: kernel.steps(key, p, b, kernel.init(p, x), 4)[0].position)

    def looped(several):
        return jnp.stack([one(keys[i], several[i], betas[:, i], x[i]) for i in range(n_chains)])

    found = jitted_run(kernel, keys, params, betas, x, (4,))
    np.testing.assert_array_equal(found, looped([params] * n_chains))
    assert (found != jitted_run(kernel, keys, params, betas[:, ::-1], x, (4,))).any()
    several = [systems.draw_params(model, seed) for seed in range(n_chains)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *several)
    vmapped = jax.jit(jax.vmap(one, (0, 0, 1, 0)))(keys, stacked, betas, x)
    np.testing.assert_array_equal(vmapped, looped(several))


def assert_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
