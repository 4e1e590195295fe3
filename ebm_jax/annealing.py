"""Simulated annealing: chains are cooled in search of the lowest energy.

Every chain runs once through a rising list of inverse temperatures, a step of a kernel at each, and the best
configuration that it has seen is kept (Kirkpatrick, Gelatt and Vecchi 1983). Slow enough, every chain ends in a global
minimum with probability 1; at any practical speed several independent chains are the insurance.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ebm_jax import checks
from ebm_jax.chains import chain_keys, strongly_typed, zero_info
from ebm_jax.samplers.base import Kernel, start_chains
from ebm_jax.types import Info, Key, PyTree


class Annealed(NamedTuple):
    """position, energy: the best configuration that any chain saw, and E there. positions, energies: the best of each
    chain, `(n_chains, ...)` and `(n_chains,)`. info: counts over all steps, `(n_chains,)` each. state: the kernel's
    states where the chains ended, as `sample(init=…)` takes them.
    """

    position: PyTree
    energy: Float[Array, ""]
    positions: PyTree
    energies: Float[Array, " n_chains"]
    info: Info
    state: PyTree


def anneal(
    key: Key, kernel: Kernel, params: PyTree, init: PyTree, betas: Any, *, clamped: Any = None
) -> Annealed:
    """Runs chains of `kernel` through `betas` and returns the lowest energies that they saw, and where.

    key: a typed key; chain i uses `fold_in(key, i)`. init: positions with a leading chain axis, or states; they count
    as seen. betas: inverse temperatures, one a step, `(n_steps,)`, e.g. `numpy.geomspace(0.1, 10, 1000)` in units of
    1 / energy; a new number of steps compiles anew. clamped: as for `sample`.
    A step costs one of the kernel and one energy. A NaN is never the best. Raises ValueError on anything that does not
    fit, before any step is taken.
    """
    checks.check_key(key)
    if not hasattr(kernel, "packed_energies"):
        raise ValueError(f"kernel is {kernel!r}; give a kernel, e.g. gibbs(model)")
    if np.ndim(betas) != 1 or np.size(betas) == 0:
        raise ValueError(
            f"betas has shape {np.shape(betas)}; give one inverse temperature a step, (n_steps,)"
        )
    if checks.is_concrete(betas):
        values = np.asarray(betas, np.float64)
        bad = values[~(np.isfinite(values) & (values >= 0))]
        if bad.size:
            raise ValueError(f"betas holds {bad[0]}; give finite inverse temperatures of at least 0")
    states = start_chains(kernel, params, init, clamped)
    params = strongly_typed(params)
    return _run(kernel, key, params, jnp.asarray(betas, jnp.float32), states)


@jax.jit
def _run(kernel: Any, key: Key, params: PyTree, betas: Array, states: PyTree) -> Annealed:
    n_chains = states.step.shape[0]
    keys = chain_keys(key, n_chains)

    def keep(best: tuple[PyTree, Array], packed: PyTree) -> tuple[PyTree, Array]:
        positions, energies = best
        new = kernel.packed_energies(params, packed)
        better = new < energies

        def choose(seen: Array, now: Array) -> Array:
            return jnp.where(better.reshape(better.shape + (1,) * (now.ndim - 1)), now, seen)

        positions = jax.tree.map(choose, positions, kernel.packed_positions(packed))
        return positions, jnp.where(better, new, energies)

    def turn(carry: tuple[PyTree, Any, Info], beta: Array) -> tuple[tuple[PyTree, Any, Info], None]:
        packed, best, info = carry
        packed, new = kernel.packed_steps(keys, params, beta, packed, 1)
        return (packed, keep(best, packed), info.then(new)), None

    packed = kernel.refresh(params, kernel.pack(params, states))
    worst = jnp.full(n_chains, jnp.inf, kernel.packed_energies(params, packed).dtype)
    best = keep((kernel.packed_positions(packed), worst), packed)
    info = zero_info(n_chains)
    (packed, (positions, energies), info), _ = jax.lax.scan(turn, (packed, best, info), betas)
    first = jnp.argmin(energies)
    one = jax.tree.map(lambda leaf: leaf[first], positions)
    return Annealed(one, energies[first], positions, energies, info, kernel.unpack(packed))
