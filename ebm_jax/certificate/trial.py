"""How a certificate runs chains: all runs have the same number of chains, so that few programs are compiled."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ebm_jax.certificate.laws import Law
from ebm_jax.chains import chain_keys, count_chains
from ebm_jax.samplers.base import Kernel
from ebm_jax.types import Key, PyTree


class Trial(NamedTuple):
    """A kernel, the law that it should sample, and how to test it.

    Attributes:
      kernel: The kernel under test.
      law: The law of its model at its parameters.
      draws: `draws(key, n, beta)` gives n independent exact draws.
      n_chains: Number of chains of every run.
      rate: False-positive rate of one comparison of laws.
    """

    kernel: Kernel
    law: Law
    draws: Callable[[Key, int, float], PyTree]
    n_chains: int
    rate: float

    def stationary(self, key: Key, beta: float) -> PyTree:
        """Returns states of chains in equilibrium at `beta`."""
        numbers = itertools.count()

        def draw(b: float) -> PyTree:
            return self.draws(jax.random.fold_in(key, next(numbers)), self.n_chains, b)

        return self.kernel.stationary(self.law.params, draw, beta)

    def states(self, x: PyTree, clamped: Any = None) -> PyTree:
        """Returns the states of chains that start at `x`."""
        return _states(self.kernel, self.law.params, x, clamped)

    def states_that_hold(self, mask: PyTree, x: PyTree) -> PyTree:
        """Returns the states of chains that start at `x` and are clamped to it where the mask is True."""
        return _states_that_hold(self.kernel, self.law.params, mask, x)

    def run(self, key: Key, beta: float, states: PyTree, n_steps: int) -> PyTree:
        """Returns the states after `n_steps` steps. β and the number of steps do not compile anew."""
        return _run(self.kernel, key, self.law.params, jnp.float32(beta), states, jnp.int32(n_steps))

    def step_alone(self, key: Key, states: PyTree) -> PyTree:
        """Returns the states after one `step` of each chain at β = 1, without the form for many chains."""
        return _step_alone(self.kernel, key, self.law.params, states)

    def positions(self, states: PyTree) -> PyTree:
        """Returns the configurations of states."""
        return _positions(self.kernel, states)


def rows(x: PyTree, n: int) -> PyTree:
    """Returns the first `n` rows of every leaf, cut by NumPy: slices of JAX arrays compile one by one."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:n], x)


def same_bits(a: PyTree, b: PyTree) -> bool:
    """Returns whether all leaves are equal bit for bit."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(p), np.asarray(q)) for p, q in pairs)


def with_dtypes_of(new: PyTree, old: PyTree) -> PyTree:
    """Returns `new` with the dtypes of `old`."""
    return jax.tree.map(lambda a, b: a.astype(b.dtype), new, old)


@jax.jit
def _states(kernel: Any, params: PyTree, x: PyTree, clamped: Any) -> PyTree:
    return jax.vmap(lambda x: kernel.init(params, x, clamped))(x)


@jax.jit
def _states_that_hold(kernel: Any, params: PyTree, mask: PyTree, x: PyTree) -> PyTree:
    return jax.vmap(lambda x: kernel.init(params, x, (mask, x)))(x)


@jax.jit
def _positions(kernel: Any, states: PyTree) -> PyTree:
    return jax.vmap(kernel.position)(states)


@jax.jit
def _run(kernel: Any, key: Key, params: PyTree, beta: Array, states: PyTree, n_steps: Array) -> PyTree:
    keys = chain_keys(key, count_chains(states))

    def step(_: Array, packed: PyTree) -> PyTree:
        return kernel.packed_steps(keys, params, beta, packed, 1)[0]

    packed = kernel.refresh(params, kernel.pack(params, states))
    return kernel.unpack(jax.lax.fori_loop(0, n_steps, step, packed))


@jax.jit
def _step_alone(kernel: Any, key: Key, params: PyTree, states: PyTree) -> PyTree:
    keys = chain_keys(key, count_chains(states))
    return jax.vmap(lambda key, state: kernel.step(key, params, jnp.float32(1), state)[0])(keys, states)
