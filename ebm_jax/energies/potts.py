"""The Potts model on a grid or any graph, with K levels a site.

The energy is

    E(x) = −Σᵢ bᵢ[xᵢ] − Σ_(i,j) w_ij δ(xᵢ, xⱼ)

(Potts 1952). With a table for each edge the second term is −Σ w_e[xᵢ, xⱼ], where i is the first column of
`graph.edges`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from ebm_jax.checks import FLOATS, check_integer, check_params_fit, check_struct
from ebm_jax.energies import counts, pairwise
from ebm_jax.energies.sites import GraphModel, check_hidden
from ebm_jax.energies.sums import weighted_sum
from ebm_jax.graphs import AnyGraph
from ebm_jax.graphs.blocks import Block
from ebm_jax.types import Key


class PottsParams(NamedTuple):
    """Parameters of a Potts model, floating point.

    Attributes:
      bias: `(*sites, K)`.
      coupling: `(2,)` or `(4,)` for a tied grid (horizontal, vertical, down-right, down-left), `()` for a tied graph.
        `(n_edges,)` for "edge" and `(n_edges, K, K)` for "matrix", in the order of `graph.edges`.

    Example:
      >>> params = ej.PottsParams(bias=jnp.zeros((2, 2, 3)), coupling=jnp.ones(2))
      >>> float(ej.Potts(ej.Grid(2, 2), 3).energy(params, jnp.zeros((2, 2), jnp.uint8)))
      -4.0
    """

    bias: Float[Array, "*sites_and_levels"]
    coupling: Float[Array, "*couplings"]


@dataclass(frozen=True)
class Potts(GraphModel):
    """Sites of several levels on a graph.

    A configuration is a uint8 array of shape `graph.shape`; parameters are `PottsParams`.

    Args:
      graph: A `Grid`, `Graph` or `Bipartite`.
      n_levels: Levels of a site, K, from 2 to 256.
      coupling: "tied" (the default on a `Grid`), one number a direction of a grid or one for a graph; "edge" (the
        default elsewhere), one number an edge; or "matrix", a K×K table an edge.
      hidden: Sites that no data show. A sampler treats them as any other.

    Raises:
      ValueError: If the graph, the number of levels or the coupling is none of these, or the hidden sites are not part
        of the graph.

    Example:
      >>> model = ej.Potts(ej.Grid(28, 28), n_levels=4)
      >>> ej.count_parameters(model.params_struct())
      3138
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
    site_dtype = jnp.uint8
    position_dtypes = frozenset({"uint8"})

    def init(self, key: Key, *, scale: float = 0.01) -> PottsParams:
        """Draws float32 couplings from N(0, scale²); biases are zero."""
        struct = self.params_struct()
        check_params_fit(struct)
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
            else:
                total = total + weighted_sum(values, (first == second).astype(values.dtype))
        return -total

    def energy_relaxed(self, params: PottsParams, one_hot: Float[Array, "*sites levels"]) -> Float[Array, ""]:
        """Returns E with every level replaced by the weights of its row, a multilinear form: E(x) on one-hot rows."""
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        bias, coupling = params
        total = weighted_sum(bias, one_hot)
        for values, first, second in pairwise.edge_values(self.graph, str(self.coupling), coupling, one_hot):
            if self.coupling == "matrix":
                total = total + weighted_sum(values, first[..., :, None] * second[..., None, :])
            else:
                total = total + weighted_sum(values, jnp.sum(first * second, axis=-1))
        return -total

    def mean_energy(
        self, params: PottsParams, x: UInt8[Array, "n *sites"], field: Float[Array, "n *biases"] | None = None
    ) -> Float[Array, ""]:
        """Returns the mean of E over n configurations, quickly; so is its gradient in the parameters.

        Args:
          params: The parameters.
          x: The configurations, leading axis first.
          field: What each configuration adds to the biases, or None.

        Raises:
          ValueError: If shapes or dtypes do not fit.
        """
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        check_struct("x", x, self.position_struct(), leading=1)
        n, dtype = len(x), params.bias.dtype
        planes = counts.level_planes(x, self.n_levels)
        one_hot = counts.one_hot_planes(planes, self.n_levels, n)

        def share_of_pairs(first: Array, second: Array) -> Array:
            return counts.share(first[..., :, None, :] & second[..., None, :, :], n, dtype)

        def share_of_equal(first: Array, second: Array) -> Array:
            return counts.share_of_equal_ends(first, second, n, dtype)

        bits, mean = (one_hot, share_of_pairs) if self.coupling == "matrix" else (planes, share_of_equal)
        pairs = counts.edge_means(self.graph, str(self.coupling), bits, mean)
        levels = counts.share(one_hot, n, dtype)
        return counts.mean_field_energy(self, params, field, x) + counts.minus_product(
            params, PottsParams(levels, pairs.astype(params.coupling.dtype))
        )

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
            to_first, to_second = _at_second_level, _at_level
        else:
            to_first = to_second = same
        return pairwise.add_at_sites(self.graph, str(self.coupling), coupling, x, bias, to_first, to_second)

    def params_struct(self) -> PottsParams:
        """Returns the shapes of the parameters, float32."""
        shape = pairwise.coupling_shape(self.graph, str(self.coupling), self.n_levels)
        struct: Any = jax.ShapeDtypeStruct
        return PottsParams(
            struct((*self.graph.shape, self.n_levels), jnp.float32), struct(shape, jnp.float32)
        )

    def from_levels(self, levels: Int[Array, " n_sites"]) -> UInt8[Array, "*sites"]:
        """The inverse of `levels`."""
        return levels.astype(jnp.uint8).reshape(self.graph.shape)


def _at_level(table: Array, level: Array) -> Array:
    """Returns the entries at levels `(*edges)` of the first level axis of `(*edges, K, *rest)`, `(*edges, *rest)`."""
    index = level.astype(jnp.int32).reshape(level.shape + (1,) * (table.ndim - level.ndim))
    return jnp.squeeze(jnp.take_along_axis(table, index, axis=level.ndim), axis=level.ndim)


def _at_second_level(table: Array, level: Array) -> Array:
    return _at_level(jnp.swapaxes(table, -1, -2), level)
