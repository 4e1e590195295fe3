"""What the tests of training share: data, and one small run whose programs are compiled once a process."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ebm_jax as ej
from ebm_jax.training import Limits, Plan, advance, make_train_step, negatives


def bits(shape, seed=0):
    """Random configurations of 0 and 1 from NumPy: drawing them on the device would compile a program a shape."""
    return jnp.asarray(np.random.default_rng(seed).integers(0, 2, shape), jnp.uint8)


def assert_close(got, want, atol):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def leaves_of(state):
    """Every leaf as a NumPy array."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state.replace(key=jax.random.key_data(state.key)))]


def assert_same_bits(a, b):
    for x, y in zip(leaves_of(a), leaves_of(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def assert_same_metrics(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


KEY = jax.random.key(7)
MODEL = ej.RBM(6, 4)
TX = optax.adam(1e-2)
SOURCE = negatives.pcd(ej.gibbs(MODEL), n_chains=12)
DATA = bits((50, 6))
PLAN = Plan(MODEL, 12, 4, 12)
UNLIMITED = Limits(jnp.float32(np.inf), jnp.float32(np.inf))


def start(model=MODEL, tx=TX, source=SOURCE, params=None, objective=None):
    return make_train_step(model, tx, source, objective=objective)[0](KEY, params)


def run(plan, n, state, data=DATA, source=SOURCE, limits=None):
    """The state after `n` calls, and metrics end to end."""
    kept = []
    for _ in range(n):
        state, metrics = advance(plan, source, None, KEY, state, data, limits)
        kept.append(metrics)
    return state, jax.tree.map(lambda *rows: np.concatenate(rows), *kept)
