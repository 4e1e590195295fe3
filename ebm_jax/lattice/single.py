"""The conditional of one site, for kernels that move one site at a time.

`prepare` runs once a call and `logits` once a proposal. The configuration is a flat int32 row of levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ebm_jax.graphs import Bipartite, neighbours
from ebm_jax.lattice import general
from ebm_jax.types import PyTree

# With more slots a loop over neighbours costs less to compile.
UNROLLED_SLOTS = 16


class PairwisePrepared(NamedTuple):
    """The parameters of one chain.

    Attributes:
      bias: `(n, K)`; `(n, 2)` for spins.
      couplings: `(width, n)` or `(width, K, K, n)`.
    """

    bias: Float[Array, "n levels"]
    couplings: Float[Array, "width *shape"]


@dataclass(frozen=True)
class PairwiseSites:
    """Sites of an Ising or Potts model on any graph."""

    coupling: str
    n_levels: int
    spins: bool

    def prepare(self, tables: general.PartTables, params: PyTree) -> PairwisePrepared:
        """Lays out the parameters of one chain."""
        values = params.coupling[..., None]
        couplings = general.slot_couplings(tables, self.coupling, self.n_levels, values)[..., 0]
        if self.spins:
            # A tied bias becomes one bias a site.
            bias = jnp.broadcast_to(params.bias.reshape(-1), tables.row.shape[1:])
            return PairwisePrepared(jnp.stack([-bias, bias], axis=-1), couplings)
        return PairwisePrepared(params.bias.reshape(-1, self.n_levels), couplings)

    def logits(
        self,
        tables: general.PartTables,
        prepared: PairwisePrepared,
        x: Int[Array, " n_sites"],
        site: Int[Array, ""],
    ) -> Float[Array, " levels"]:
        """Returns log p(site = k | rest) + const at β = 1; neighbours are added one after the other."""
        levels = jnp.arange(self.n_levels)

        def include(slot: Any, total: Array) -> Array:
            other = x[tables.row[slot, site]]
            if self.coupling == "matrix":
                return total + prepared.couplings[slot, :, other, site]
            w = prepared.couplings[slot, site]
            same = levels == other
            return total + jnp.where(same, w, -w if self.spins else 0.0)

        width, total = tables.row.shape[0], prepared.bias[site]
        if width > UNROLLED_SLOTS:
            return jax.lax.fori_loop(0, width, include, total)
        for slot in range(width):
            total = include(slot, total)
        return total


@dataclass(frozen=True)
class BipartiteSites:
    """Units of an RBM of two values each, visible ones first."""

    graph: Bipartite
    spins: bool

    def prepare(self, tables: PyTree, params: PyTree) -> PyTree:
        """Returns the parameters as they are."""
        del tables
        return params

    def logits(
        self, tables: PyTree, params: PyTree, x: Int[Array, " n_sites"], site: Int[Array, ""]
    ) -> Array:
        """Returns (0, input) of one unit, or (−input, input) of a spin."""
        del tables
        n_visible = self.graph.n_left
        units = x.astype(params.weights.dtype)
        units = 2 * units - 1 if self.spins else units
        v, h = units[:n_visible], units[n_visible:]

        def visible() -> Array:
            return params.visible_bias[site] + jnp.dot(params.weights[site], h, precision="highest")

        def hidden() -> Array:
            column = params.weights[:, site - n_visible]
            return params.hidden_bias[site - n_visible] + jnp.dot(column, v, precision="highest")

        unit_input = jax.lax.cond(site < n_visible, visible, hidden)
        return jnp.stack([-unit_input if self.spins else jnp.zeros_like(unit_input), unit_input])


def pairwise_tables(graph: Any, coupling: str) -> general.PartTables:
    """Returns the neighbour tables of all sites in the order of their numbers."""
    sites = np.arange(graph.n_sites, dtype=np.int32)
    return jax.device_put(
        general.part_tables(general.edge_rows(graph, neighbours(graph), coupling, sites), sites)
    )
