"""Simulated annealing: chains are cooled in search of the lowest energy.

Every chain runs once through a rising list of inverse temperatures, one step of a kernel at each, and the best
configuration that it visits is kept (Kirkpatrick, Gelatt and Vecchi 1983). If the cooling is slow enough, every chain
ends in a global minimum with probability 1. At any practical speed several independent chains are the insurance.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ebm_jax import checks
from ebm_jax.chains import select
from ebm_jax.samplers.base import Kernel
from ebm_jax.samplers.start import begin, pack_chains
from ebm_jax.types import Info, Key, PyTree


class Annealed(NamedTuple):
    """What `anneal` returns.

    Attributes:
      position: The best configuration that any chain visited.
      energy: E there.
      positions: The best configuration of each chain, `(n_chains, ...)`.
      energies: E there, `(n_chains,)`.
      info: Counts over all steps, `(n_chains,)` each.
      state: The states of the kernel where the chains ended, as `sample(init=…)` takes them.

    Example:
      >>> ej.Annealed._fields
      ('position', 'energy', 'positions', 'energies', 'info', 'state')
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
    """Searches for the lowest energy by simulated annealing.

    Each chain takes one step of the kernel at each inverse temperature, and the best configuration that it visits is
    kept (Kirkpatrick, Gelatt and Vecchi 1983). A step costs one of the kernel and one energy. A NaN is never the best.

    Args:
      key: A typed key. Chain i uses `fold_in(key, i)`.
      kernel: Any kernel with an energy.
      params: Parameters of the energy.
      init: Positions with a leading chain axis, or states. They count as visited.
      betas: Inverse temperatures, one a step, `(n_steps,)`, in units of 1 / energy, e.g.
        `numpy.geomspace(0.1, 10, 1000)`. A new number of steps compiles anew.
      clamped: `(mask, values)` as for `sample`.

    Returns:
      An `Annealed`.

    Raises:
      ValueError: If anything does not fit, before any step is taken.

    Example:
      >>> model = ej.Ising(ej.Grid(3, 3))
      >>> params = ej.IsingParams(bias=jnp.zeros((3, 3)), coupling=jnp.ones(2))
      >>> start = ej.init_chains(jax.random.key(0), model, 8)
      >>> found = ej.anneal(jax.random.key(1), ej.gibbs(model), params, start, np.linspace(0.1, 3.0, 50))
      >>> float(found.energy)
      -12.0
    """
    if np.ndim(betas) != 1 or np.size(betas) == 0:
        raise ValueError(
            f"betas has shape {np.shape(betas)}; give one inverse temperature a step, (n_steps,)"
        )
    if checks.is_concrete(betas):
        values = np.asarray(betas, np.float64)
        bad = values[~(np.isfinite(values) & (values >= 0))]
        if bad.size:
            raise ValueError(f"betas holds {bad[0]}; give finite inverse temperatures of at least 0")
    params, states = begin(key, kernel, params, init, clamped)
    return _run(kernel, key, params, jnp.asarray(betas, jnp.float32), states)


@jax.jit
def _run(kernel: Any, key: Key, params: PyTree, betas: Array, states: PyTree) -> Annealed:
    def keep(best: tuple[PyTree, Array], packed: PyTree) -> tuple[PyTree, Array]:
        positions, energies = best
        new = kernel.packed_energies(params, packed)
        better = new < energies
        positions = select(better, kernel.packed_positions(packed), positions)
        return positions, jnp.where(better, new, energies)

    def scan_body(carry: tuple[PyTree, Any, Info], beta: Array) -> tuple[tuple[PyTree, Any, Info], None]:
        packed, best, info = carry
        packed, new = kernel.packed_steps(keys, params, beta, packed, 1)
        return (packed, keep(best, packed), info.then(new)), None

    keys, packed, info = pack_chains(key, kernel, params, states)
    worst = jnp.full(info.n_steps.shape, jnp.inf, kernel.packed_energies(params, packed).dtype)
    best = keep((kernel.packed_positions(packed), worst), packed)
    (packed, (positions, energies), info), _ = jax.lax.scan(scan_body, (packed, best, info), betas)
    first = jnp.argmin(energies)
    one = jax.tree.map(lambda leaf: leaf[first], positions)
    return Annealed(one, energies[first], positions, energies, info, kernel.unpack(packed))
