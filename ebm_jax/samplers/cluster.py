"""Cluster sampling of ferromagnetic Ising and Potts models without a field.

A bond is laid between neighbours of the same level with probability

    p = 1 − exp(−c β J_ij),   c = 2 for Ising spins (E = −Σ J s s), 1 for Potts levels (E = −Σ J δ),

and bonds join sites into clusters (Fortuin and Kasteleyn 1972). Given the bonds, every choice of one level a cluster is
as likely as any other. `swendsen_wang` gives each cluster a new level, uniformly (Swendsen and Wang 1987). `wolff`
gives the cluster of one uniformly chosen site one of the other levels (Wolff 1989). Both leave p(x) ∝ exp(−β E(x))
invariant and are reversible. On a critical lattice they decorrelate in a few steps, where single-site updates take
thousands. A cluster that holds a clamped site keeps its level, so the law is p given the clamped values.

Both label all clusters at every step (`lattice/clusters.py`), so a step of either costs the same: dozens of Gibbs
sweeps. That pays at and near a transition on lattices of 64×64 and more; far from a transition Gibbs is faster. A bond
is drawn by a uniform of 24 bits, so its p is right to 2⁻²⁴; a level or site is drawn by 32 bits, so its probability is
right to 2⁻³².
"""

from __future__ import annotations

import abc
import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from ebm_jax import checks, rng
from ebm_jax.energies.base import DiscreteModel, PairwiseModel
from ebm_jax.functions import shown
from ebm_jax.lattice import clusters
from ebm_jax.samplers.base import ChainState
from ebm_jax.samplers.discrete import DiscreteKernel, count_nonfinite
from ebm_jax.types import Info, Key, PyTree

_as_pytree = functools.partial(
    jax.tree_util.register_dataclass, data_fields=("tables",), meta_fields=("model", "layout")
)


@dataclass(frozen=True, eq=False)
class _ClusterKernel(DiscreteKernel):
    """Both kernels without `_redraw`.

    Attributes:
      model: The model.
      layout: How bonds lie in memory.
      tables: Index tables, the only traced leaves of the kernel.
    """

    model: Any
    layout: Any
    tables: Any

    nonfinite_means = "ran with a field, or with β · J under 0, where cluster moves have another law"

    def step(self, key: Key, params: PyTree, beta: Any, state: ChainState) -> tuple[ChainState, Info]:
        """Takes one step.

        `Info.n_nonfinite` also counts steps with a field or with β J under 0, which follow another law.
        """
        params, beta = jax.lax.stop_gradient((params, jnp.asarray(beta, jnp.float32)))
        strengths = tuple(beta * c for c in self.layout.couplings(self.model.coupling, params.coupling))
        words, x = rng.chain_words(key), state.position
        bonds = tuple(
            equal & (u < self._probability(strength))
            for equal, u, strength in zip(
                self.layout.equal_ends(self.tables, x),
                self.layout.uniforms(words, state.step),
                strengths,
                strict=True,
            )
        )
        root = self.layout.labels(self.tables, bonds)
        new = self._redraw(words, state.step, root, x)
        if state.clamped is not None:
            mask = state.clamped.reshape(-1)
            held = jnp.zeros(mask.shape, jnp.bool_).at[root.reshape(-1)].max(mask, mode="promise_in_bounds")
            new = jnp.where(held[root], x, new)
        info = self._info(params, beta, strengths, state.step)
        return state._replace(position=new, step=state.step + jnp.uint32(1)), info

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Checks parameters, chains and clamping.

        Args:
          params: Parameters.
          x: Configurations with a leading chain axis.
          clamped: `(mask, values)` or None.

        Raises:
          ValueError: If one of them does not fit the model, or there is a field or a negative coupling.
        """
        super().check(params, x, clamped)
        if not checks.is_concrete(params):
            return
        field = np.asarray(self._field(params))
        if field.any():
            where = tuple(np.argwhere(field)[0].tolist())
            raise ValueError(
                f"params.bias differs from no field by {field[where]} at index {where}; set it to zero"
                f"{'' if self.model.spins else ' (or to one number for all levels of a site)'}, or use gibbs"
            )
        coupling = np.asarray(params.coupling)
        if (coupling < 0).any():
            where = tuple(np.argwhere(coupling < 0)[0].tolist())
            raise ValueError(
                f"params.coupling holds {coupling[where]} at index {where}, and clusters need couplings of at least 0: "
                "use gibbs (on a graph of two colours the spins of one may be flipped and all couplings negated)"
            )

    def _probability(self, strength: Float[Array, "..."]) -> Float[Array, "..."]:
        return -jnp.expm1(-2 * strength if self.model.spins else -strength)

    def _field(self, params: PyTree) -> Float[Array, "..."]:
        """Returns the field, which must be 0; a bias that is the same for all levels of a site is no field."""
        return params.bias if self.model.spins else params.bias - params.bias[..., :1]

    def _info(self, params: PyTree, beta: Array, strengths: tuple[Array, ...], step: Array) -> Info:
        no_field = (self._field(params) == 0).all()
        fits = functools.reduce(jnp.logical_and, [(s >= 0).all() for s in strengths], no_field)
        counts = count_nonfinite(step, 1, params, beta, jnp.where(fits, 0.0, jnp.nan))
        return Info.of(n_steps=1, **counts)

    def _draw(
        self, words: UInt32[Array, "2"], step: UInt32[Array, ""], number: Int[Array, "..."]
    ) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."]]:
        """Returns two random words for every number; their counters come after those of the bonds."""
        counter = number.astype(jnp.uint32) + jnp.uint32(self.layout.n_counters) + step
        return rng.threefry2x32(words[0], words[1], step, counter)

    @abc.abstractmethod
    def _redraw(
        self, words: UInt32[Array, "2"], step: UInt32[Array, ""], root: Int[Array, "*sites"], x: Array
    ) -> Array:
        """Returns the configuration with new levels, given the cluster of every site."""


@_as_pytree
@dataclass(frozen=True, eq=False)
class SwendsenWang(_ClusterKernel):
    """The kernel that `swendsen_wang` builds."""

    def _redraw(
        self, words: UInt32[Array, "2"], step: UInt32[Array, ""], root: Int[Array, "*sites"], x: Array
    ) -> Array:
        # All sites of a cluster encipher the same number.
        word, _ = self._draw(words, step, root)
        if self.model.spins:
            return (word >> np.uint32(31)) != 0
        return rng.below(word, self.model.n_levels).astype(x.dtype)


@_as_pytree
@dataclass(frozen=True, eq=False)
class Wolff(_ClusterKernel):
    """The kernel that `wolff` builds."""

    def _redraw(
        self, words: UInt32[Array, "2"], step: UInt32[Array, ""], root: Int[Array, "*sites"], x: Array
    ) -> Array:
        n, n_levels = self.model.graph.n_sites, self.model.n_levels
        pick, other = self._draw(words, step, jnp.zeros((), jnp.int32))
        site = rng.below(pick, n).astype(jnp.int32)
        level = x.reshape(-1)[site].astype(jnp.int32) + 1 + rng.below(other, n_levels - 1).astype(jnp.int32)
        return jnp.where(root == root.reshape(-1)[site], (level % n_levels).astype(x.dtype), x)


def swendsen_wang(model: DiscreteModel) -> SwendsenWang:
    """Returns the Swendsen-Wang kernel of an Ising or Potts model without a field and with J ≥ 0.

    One step lays bonds and gives every cluster a level, uniformly (Swendsen and Wang 1987). `sample` refuses a bias and
    a negative coupling. Inside a caller's `jit`, where values cannot be read, `Info.n_nonfinite` counts the steps that
    ran with them.

    Args:
      model: An Ising or Potts model on any graph, with "tied" or "edge" couplings.

    Returns:
      A `Kernel` for `sample`.

    Raises:
      ValueError: If the model is any other.

    Example:
      >>> model = ej.Ising(ej.Grid(8, 8, "periodic"), bias="tied")
      >>> params = ej.IsingParams(jnp.zeros(()), jnp.full(2, 0.44))
      >>> start = ej.init_chains(jax.random.key(0), model, 4)
      >>> ej.sample(jax.random.key(1), ej.swendsen_wang(model), params, start, ej.SamplingSchedule()).positions.shape
      (1, 4, 8, 8)
    """
    return SwendsenWang(model, *_bonds_of("swendsen_wang", model))


def wolff(model: DiscreteModel) -> Wolff:
    """Returns the Wolff kernel of an Ising or Potts model without a field and with J ≥ 0.

    One step gives the cluster of one uniformly chosen site one of the other levels, uniformly (Wolff 1989).

    Args:
      model: An Ising or Potts model on any graph, with "tied" or "edge" couplings.

    Returns:
      A `Kernel` for `sample`.

    Raises:
      ValueError: If the model is any other. Parameters are treated as by `swendsen_wang`.

    Example:
      >>> model = ej.Potts(ej.Grid(6, 6), n_levels=3)
      >>> params = ej.PottsParams(jnp.zeros((6, 6, 3)), jnp.ones(2))
      >>> start = ej.init_chains(jax.random.key(0), model, 4)
      >>> ej.sample(jax.random.key(1), ej.wolff(model), params, start, ej.SamplingSchedule()).positions.shape
      (1, 4, 6, 6)
    """
    return Wolff(model, *_bonds_of("wolff", model))


def _bonds_of(name: str, model: Any) -> tuple[Any, PyTree]:
    if not isinstance(model, PairwiseModel):
        raise ValueError(
            f"{name} cannot lay bonds for {shown(model)}; give an Ising or Potts model, or use gibbs for others"
        )
    if model.coupling == "matrix":
        raise ValueError(
            f'{name} cannot lay bonds for {shown(model)}: its coupling is "matrix"; use "tied" or "edge", or use gibbs'
        )
    return clusters.build(model.graph)
