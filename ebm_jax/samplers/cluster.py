"""Cluster sampling of ferromagnetic Ising and Potts models without a field.

A bond is laid between neighbours of the same level with probability

    p = 1 − exp(−c β J_ij),   c = 2 for Ising spins (E = −Σ J s s), 1 for Potts levels (E = −Σ J δ),

and bonds hang sites together to clusters (Fortuin and Kasteleyn 1972). Given the bonds, every choice of one level a
cluster is as likely as any other. `swendsen_wang` gives each cluster a new level, uniformly (Swendsen and Wang 1987);
`wolff` gives the cluster of one uniformly chosen site one of the other levels (Wolff 1989). Both leave
p(x) ∝ exp(−β E(x)) invariant and are reversible, and forget a critical lattice in a few steps where single sites take
thousands. A cluster that holds a clamped site keeps its level: the law is then p given the clamped values.

Both label all clusters at every step (`lattice/clusters.py`), so a step of either costs the same: dozens of Gibbs
sweeps, which pays at and near a transition, on lattices of 64×64 and more; far from one Gibbs is the quicker. Draws: a
bond by a uniform of 24 bits, so with p to 2⁻²⁴; a level or site by 32 bits, so each of n to 2⁻³².
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from ebm_jax import checks, rng
from ebm_jax.energies.base import DiscreteModel
from ebm_jax.lattice import clusters
from ebm_jax.samplers.base import ChainState
from ebm_jax.samplers.discrete import DiscreteKernel, count_nonfinite
from ebm_jax.types import Info, Key, PyTree

_as_pytree = functools.partial(
    jax.tree_util.register_dataclass, data_fields=("tables",), meta_fields=("model", "layout")
)


@dataclass(frozen=True, eq=False)
class _ClusterKernel(DiscreteKernel):
    """What both kernels are but for `_redraw`. `tables` are index tables, traced; everything else is structure."""

    model: Any
    layout: Any
    tables: Any

    nonfinite_means = "ran with a field, or with β · J under 0, where cluster moves have another law"

    def step(self, key: Key, params: PyTree, beta: Any, state: ChainState) -> tuple[ChainState, Info]:
        """Takes one step. `Info.n_nonfinite` also counts steps with a field or with β J under 0, where the law would
        be another.
        """
        params, beta = jax.lax.stop_gradient((params, jnp.asarray(beta, jnp.float32)))
        strengths = tuple(beta * c for c in self.layout.couplings(self.model.coupling, params.coupling))
        words, x = rng.chain_words(key), state.position
        bonds = tuple(
            alike & (u < self._probability(strength))
            for alike, u, strength in zip(
                self.layout.alike(self.tables, x),
                self.layout.uniforms(words, state.step),
                strengths,
                strict=True,
            )
        )
        root = self.layout.labels(self.tables, bonds)
        new = self._redraw(words, state.step, root, x)
        if state.clamped is not None:
            mask = state.clamped.reshape(-1)
            holds = jnp.zeros(mask.shape, jnp.bool_).at[root.reshape(-1)].max(mask, mode="promise_in_bounds")
            new = jnp.where(holds[root], x, new)
        return state._replace(position=new, step=state.step + jnp.uint32(1)), self._info(
            params, beta, strengths, state.step
        )

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Raises ValueError where parameters, chains `x` or clamping do not fit, on a field or a negative coupling."""
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
                "use gibbs (of two colours of Ising spins, one may be turned over, and all couplings negated)"
            )

    def _probability(self, strength: Float[Array, "..."]) -> Float[Array, "..."]:
        return -jnp.expm1(-2 * strength if self.model.spins else -strength)

    def _field(self, params: PyTree) -> Float[Array, "..."]:
        """What a field would be; a bias that is the same for all levels of a site is none."""
        return params.bias if self.model.spins else params.bias - params.bias[..., :1]

    def _info(self, params: PyTree, beta: Array, strengths: tuple[Array, ...], step: Array) -> Info:
        right = functools.reduce(
            jnp.logical_and, [(s >= 0).all() for s in strengths], (self._field(params) == 0).all()
        )
        counts = count_nonfinite(step, 1, params, beta, jnp.where(right, 0.0, jnp.nan))
        return Info.of(n_steps=1, **counts)

    def _draw(
        self, words: UInt32[Array, "2"], step: UInt32[Array, ""], number: Int[Array, "..."]
    ) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."]]:
        """Returns two words for every number; their counters come after those of the bonds."""
        counter = number.astype(jnp.uint32) + jnp.uint32(self.layout.n_counters) + step
        return rng.threefry2x32(words[0], words[1], step, counter)

    def _redraw(
        self, words: UInt32[Array, "2"], step: UInt32[Array, ""], root: Int[Array, "*sites"], x: Array
    ) -> Array:
        """Returns the configuration with new levels, given the cluster of every site."""
        raise NotImplementedError


@_as_pytree
@dataclass(frozen=True, eq=False)
class SwendsenWang(_ClusterKernel):
    """The kernel that `swendsen_wang` builds."""

    def _redraw(
        self, words: UInt32[Array, "2"], step: UInt32[Array, ""], root: Int[Array, "*sites"], x: Array
    ) -> Array:
        word, _ = self._draw(words, step, root)  # all sites of a cluster encipher the same number
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
    """Returns the Swendsen-Wang kernel of an Ising or Potts model on any graph, without field and with J ≥ 0.

    One step lays bonds and gives every cluster a level, uniformly. Couplings are "tied" or "edge". Raises ValueError on
    any other model; `sample` does on a bias or a negative coupling, and inside a caller's `jit`, where values cannot be
    seen, `Info.n_nonfinite` counts the steps that ran with them. Source: Swendsen and Wang 1987.
    """
    return SwendsenWang(model, *_bonds_of("swendsen_wang", model))


def wolff(model: DiscreteModel) -> Wolff:
    """Returns the Wolff kernel of an Ising or Potts model on any graph, without field and with J ≥ 0.

    One step gives the cluster of one uniformly chosen site one of the other levels, uniformly. Couplings are "tied" or
    "edge". Errors as for `swendsen_wang`. Source: Wolff 1989.
    """
    return Wolff(model, *_bonds_of("wolff", model))


def _bonds_of(name: str, model: Any) -> tuple[Any, PyTree]:
    coupling = getattr(model, "coupling", None)
    if coupling == "matrix":
        raise ValueError(
            f'{name} cannot lay bonds for {model!r}: its coupling is "matrix"; use "tied" or "edge", or use gibbs'
        )
    if coupling is None:
        raise ValueError(
            f"{name} cannot lay bonds for {model!r}; give an Ising or Potts model, or use gibbs for others"
        )
    return clusters.build(model.graph)
