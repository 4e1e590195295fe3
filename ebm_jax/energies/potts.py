"""The Potts model on a grid or any graph, with K levels a site.

E(x) = −Σᵢ bᵢ[xᵢ] − Σ_(i,j) w_ij δ(xᵢ, xⱼ) (Potts 1952), or with a table an edge, −Σ w_e[xᵢ, xⱼ], i the first column
of `graph.edges`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from ebm_jax.checks import FLOATS, check_integer, check_struct
from ebm_jax.energies import pairwise
from ebm_jax.energies.hidden import HiddenSites, check_hidden
from ebm_jax.graphs.blocks import Block, BlockSpec, default_spec
from ebm_jax.graphs.grids import AnyGraph
from ebm_jax.types import Key


class PottsParams(NamedTuple):
    """Parameters of a Potts model, floating point.

    bias: `(*sites, K)`. coupling: `(2,)` or `(4,)` for a tied grid (horizontal, vertical, down-right, down-left), `()`
    for a tied graph, `(n_edges,)` for "edge", `(n_edges, K, K)` for "matrix", in the order of `graph.edges`.
    """

    bias: Float[Array, "*sites_and_levels"]
    coupling: Float[Array, "*couplings"]


@dataclass(frozen=True)
class Potts(HiddenSites):
    """Sites of `graph` with `n_levels` levels (2 to 256); `coupling` is "tied" (default on a Grid), "edge" or "matrix".

    A configuration is a uint8 array of shape `graph.shape`. hidden: sites that no data show; a sampler treats them as
    any other. Raises ValueError on another graph, number of levels or coupling, and on hidden sites that are not a part
    of the graph's.
    """

    graph: AnyGraph
    n_levels: int
    coupling: str | None = None
    hidden: Block | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_levels", check_integer("n_levels", self.n_levels, 2))
        if self.n_levels > 256:
            raise ValueError(f"n_levels is {self.n_levels}; a level is stored in a byte: use at most 256")
        kind = pairwise.resolve_coupling(self.graph, self.coupling, ("tied", "edge", "matrix"))
        object.__setattr__(self, "coupling", kind)
        object.__setattr__(self, "hidden", check_hidden(self.graph, self.hidden))

    spins = False
    position_dtypes = frozenset({"uint8"})

    def init(self, key: Key, *, scale: float = 0.01) -> PottsParams:
        """Draws couplings from N(0, scale²); biases are zero. float32."""
        struct = self.params_struct()
        coupling = scale * jax.random.normal(key, struct.coupling.shape, jnp.float32)
        return PottsParams(jnp.zeros(struct.bias.shape, jnp.float32), coupling)

    def energy(self, params: PottsParams, x: UInt8[Array, "*sites"]) -> Float[Array, ""]:
        """Returns E(x) of one configuration; raises ValueError when shapes or dtypes do not fit."""
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        check_struct("x", x, self.position_struct())
        bias, coupling = params
        total = jnp.sum(jnp.take_along_axis(bias, x[..., None].astype(jnp.int32), axis=-1))
        for values, first, second in pairwise.edge_values(self.graph, str(self.coupling), coupling, x):
            if self.coupling == "matrix":
                total = total + jnp.sum(_at_level(_at_level(values, first), second))
            elif self.coupling == "edge":
                total = total + jnp.sum(jnp.where(first == second, values, 0))
            else:
                total = total + values * jnp.sum(first == second)
        return -total

    def energy_relaxed(self, params: PottsParams, one_hot: Float[Array, "*sites levels"]) -> Float[Array, ""]:
        """Returns E with every level replaced by the weights of its row, multilinear: E(x) where rows are one-hot."""
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        bias, coupling = params
        total = jnp.sum(bias * one_hot)
        for values, first, second in pairwise.edge_values(self.graph, str(self.coupling), coupling, one_hot):
            if self.coupling == "matrix":
                total = total + jnp.sum(first[..., :, None] * values * second[..., None, :])
            else:
                total = total + jnp.sum(values * jnp.sum(first * second, axis=-1))
        return -total

    def conditional_logits(
        self, params: PottsParams, x: UInt8[Array, "*sites"]
    ) -> Float[Array, "*sites levels"]:
        """Returns bᵢ[k] + Σⱼ w_ij[k, xⱼ] for every site i and level k."""
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        check_struct("x", x, self.position_struct())
        bias, coupling = params

        def same(w: Array, x_other: Array) -> Array:
            return w[..., None] * jax.nn.one_hot(x_other, self.n_levels, dtype=bias.dtype)

        if self.coupling == "matrix":
            to_first, to_second = lambda w, second: _at_level(jnp.swapaxes(w, -1, -2), second), _at_level
        else:
            to_first = to_second = same
        return pairwise.add_at_sites(self.graph, str(self.coupling), coupling, x, bias, to_first, to_second)

    def default_spec(self) -> BlockSpec:
        """The graph's own blocks."""
        return default_spec(self.graph)

    def position_struct(self) -> Any:
        """uint8, shape `graph.shape`."""
        return jax.ShapeDtypeStruct(self.graph.shape, jnp.uint8)

    def params_struct(self) -> PottsParams:
        """Shapes of the parameters, float32."""
        shape = pairwise.coupling_shape(self.graph, str(self.coupling), self.n_levels)
        struct: Any = jax.ShapeDtypeStruct
        return PottsParams(
            struct((*self.graph.shape, self.n_levels), jnp.float32), struct(shape, jnp.float32)
        )

    def levels(self, x: UInt8[Array, "*sites"]) -> Int[Array, " n_sites"]:
        """The configuration as int32 in the order of the graph's sites."""
        return x.reshape(-1).astype(jnp.int32)

    def from_levels(self, levels: Int[Array, " n_sites"]) -> UInt8[Array, "*sites"]:
        """The inverse of `levels`."""
        return levels.astype(jnp.uint8).reshape(self.graph.shape)


def _at_level(table: Array, level: Array) -> Array:
    """Picks the entry of the first level axis: (edges…, K, *rest) at (edges…) -> (edges…, *rest)."""
    index = level.astype(jnp.int32).reshape(level.shape + (1,) * (table.ndim - level.ndim))
    return jnp.squeeze(jnp.take_along_axis(table, index, axis=level.ndim), axis=level.ndim)
