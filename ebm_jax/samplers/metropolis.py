"""Single-site Metropolis sampling of discrete models.

A proposal picks a site uniformly and one of its other K − 1 levels uniformly. It is accepted with probability

    min(1, exp(−β ΔE))

(Metropolis et al. 1953). One step makes as many proposals as there are sites. Every proposal, and so every step, leaves
p(x) ∝ exp(−β E(x)) invariant. A single proposal is reversible.

ΔE comes from the site's own conditional: it costs the site's neighbours, not a whole energy.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ebm_jax import rng
from ebm_jax.energies.base import DiscreteModel, LayeredModel, PairwiseModel
from ebm_jax.functions import shown
from ebm_jax.lattice import single
from ebm_jax.samplers.base import ChainState
from ebm_jax.samplers.discrete import DiscreteKernel, count_nonfinite
from ebm_jax.types import Info, Key, PyTree


@functools.partial(jax.tree_util.register_dataclass, data_fields=("tables",), meta_fields=("model", "sites"))
@dataclass(frozen=True, eq=False)
class Metropolis(DiscreteKernel):
    """The kernel that `metropolis` builds.

    Attributes:
      model: The model.
      sites: How the conditional of one site is computed.
      tables: Index tables, the only traced leaves of the kernel.
    """

    model: Any
    sites: Any
    tables: Any

    may_diverge = False

    def step(self, key: Key, params: PyTree, beta: Any, state: ChainState) -> tuple[ChainState, Info]:
        """Makes `n_sites` proposals; those at a clamped site are rejected.

        The report counts no energies, since no whole energy is evaluated.
        """
        params, beta = jax.lax.stop_gradient((params, beta))
        n, n_levels = self.model.graph.n_sites, self.model.n_levels
        prepared = self.sites.prepare(self.tables, params)
        held = None
        if state.clamped is not None:
            held = self.model.levels(_with_dtypes(state.clamped, state.position)) != 0
        words = rng.chain_words(key)

        def propose(t: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            x, accepted = carry
            pick, decide = rng.threefry2x32(words[0], words[1], state.step, jnp.uint32(t) + state.step)
            site = rng.below(pick, n).astype(jnp.int32)
            old = x[site]
            new = 1 - old
            if n_levels > 2:
                other, _ = rng.threefry2x32(words[0], words[1], state.step, jnp.uint32(t + n) + state.step)
                new = (old + 1 + rng.below(other, n_levels - 1).astype(jnp.int32)) % n_levels
            logits = self.sites.logits(self.tables, prepared, x, site)
            accept = rng.uniform(decide) < jnp.exp(jnp.minimum(beta * (logits[new] - logits[old]), 0.0))
            if held is not None:
                accept = accept & ~held[site]
            return x.at[site].set(jnp.where(accept, new, old)), accepted + accept.astype(jnp.uint32)

        start = self.model.levels(state.position), jnp.zeros((), jnp.uint32)
        x, accepted = jax.lax.fori_loop(0, n, propose, start)
        position = _with_dtypes(self.model.from_levels(x), state.position)
        bad = count_nonfinite(state.step, 1, params, jnp.asarray(beta, jnp.float32))
        info = Info.of(n_steps=1, n_proposed=n, n_accepted=accepted, **bad)
        return state._replace(position=position, step=state.step + jnp.uint32(1)), info


def metropolis(model: DiscreteModel) -> Metropolis:
    """Returns the single-site Metropolis kernel of an Ising, Potts or RBM model.

    Args:
      model: A model on a graph, or an RBM whose units have two values each.

    Returns:
      A `Kernel` for `sample`.

    Raises:
      ValueError: If the model is any other.

    Example:
      >>> model = ej.Potts(ej.Grid(3, 3), n_levels=4)
      >>> start = ej.init_chains(jax.random.key(0), model, 8)
      >>> params = model.init(jax.random.key(1))
      >>> run = ej.sample(jax.random.key(2), ej.metropolis(model), params, start, ej.SamplingSchedule(10, 5, 10))
      >>> run.positions.shape, int(run.info.n_proposed[0])
      ((5, 8, 3, 3), 450)
    """
    if isinstance(model, PairwiseModel):
        sites = single.PairwiseSites(model.coupling, model.n_levels, model.spins)
        return Metropolis(model, sites, single.pairwise_tables(model.graph, model.coupling))
    if isinstance(model, LayeredModel) and model.units in (("binary", "binary"), ("spin", "spin")):
        return Metropolis(model, single.BipartiteSites(model.graph, model.units[0] == "spin"), ())
    raise ValueError(f"metropolis cannot propose for {shown(model)}; give an Ising, Potts or RBM model")


def _with_dtypes(tree: PyTree, like: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf, old: leaf.astype(old.dtype), tree, like)
