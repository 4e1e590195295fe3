"""The Ising model on a grid or any graph.

The energy is

    E(s) = −Σᵢ bᵢ sᵢ − Σ_(i,j) J_ij sᵢ sⱼ

with spins s = ±1 (Lenz 1920, Ising 1925), stored as bool: True is +1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ebm_jax.checks import FLOATS, check_choice, check_finite, check_params_fit, check_struct
from ebm_jax.energies import counts, pairwise
from ebm_jax.energies.couplings import graph_of_couplings
from ebm_jax.energies.sites import GraphModel, check_hidden
from ebm_jax.energies.sums import weighted_sum
from ebm_jax.graphs import AnyGraph
from ebm_jax.graphs.blocks import Block
from ebm_jax.types import Key


class IsingParams(NamedTuple):
    """Parameters of an Ising model, floating point.

    Attributes:
      bias: One number a site, shaped like a configuration, or `()` where tied.
      coupling: `(2,)` or `(4,)` for a tied grid (horizontal, vertical, down-right, down-left), `()` for a tied graph,
        and `(n_edges,)` in the order of `graph.edges` for "edge".

    Example:
      >>> params = ej.IsingParams(bias=jnp.zeros((4, 4)), coupling=jnp.array([0.5, 0.5]))
      >>> float(ej.Ising(ej.Grid(4, 4)).energy(params, jnp.ones((4, 4), bool)))
      -12.0
    """

    bias: Float[Array, "*biases"]
    coupling: Float[Array, "*couplings"]


@dataclass(frozen=True)
class Ising(GraphModel):
    """Ising spins on a graph.

    A configuration is a bool array of shape `graph.shape`; parameters are `IsingParams`.

    Args:
      graph: A `Grid`, `Graph` or `Bipartite`.
      coupling: "tied" (the default on a `Grid`), one number a direction of a grid or one for a graph, or "edge" (the
        default elsewhere), one number an edge.
      hidden: Sites that no data show. A sampler treats them as any other.
      bias: "site", one number a site, or "tied", one for all, a uniform field. With tied couplings on a periodic grid
        a tied bias makes sampling several times as fast.

    Raises:
      ValueError: If the graph, coupling or bias is none of these, or the hidden sites are not part of the graph.

    Example:
      >>> model = ej.Ising(ej.Grid(3, 3, "periodic"))
      >>> params = ej.IsingParams(jnp.zeros((3, 3)), jnp.ones(2))
      >>> float(model.energy(params, jnp.ones((3, 3), bool)))
      -18.0
    """

    graph: AnyGraph
    coupling: str | None = None
    hidden: Block | None = None
    bias: str = "site"

    def __post_init__(self) -> None:
        kind = pairwise.resolve_coupling(self.graph, self.coupling, ("tied", "edge"))
        object.__setattr__(self, "coupling", kind)
        object.__setattr__(self, "hidden", check_hidden(self.graph, self.hidden))
        check_choice("bias", self.bias, ("site", "tied"))

    n_levels = 2
    spins = True
    site_dtype = jnp.bool_
    position_dtypes = frozenset({"bool"})

    @classmethod
    def from_couplings(cls, couplings: Any, field: Any = None) -> tuple[Ising, IsingParams]:
        """Returns the model and the parameters of E(s) = −Σ_{i<j} J_ij sᵢ sⱼ − Σ hᵢ sᵢ.

        Each pair counts once. A convention with ½ Σ_ij over all pairs is the same energy; one with +J needs `-J`.

        Args:
          couplings: J, `(n_sites, n_sites)`, dense or SciPy-sparse, symmetric with zeros on its diagonal.
          field: h, `(n_sites,)`. `None` means no field.

        Returns:
          `(model, params)`. The graph has an edge (i, j), i < j, wherever J_ij is not zero, row by row.

        Raises:
          ValueError: If J or h have other shapes, J is not symmetric, its diagonal is not zero, or a number is not
            finite.

        Example:
          >>> model, params = ej.Ising.from_couplings([[0, 2], [2, 0]], [0.5, 0])
          >>> float(model.energy(params, ej.spins_from([1, -1])))
          1.5
        """
        graph, values = graph_of_couplings(couplings)
        bias = np.zeros(graph.n_sites) if field is None else np.asarray(field)
        if bias.shape != graph.shape:
            raise ValueError(f"h has shape {bias.shape}; expected ({graph.n_sites},), one field a site")
        params = IsingParams(jnp.asarray(bias, float), jnp.asarray(values, float))
        check_finite("params", params)
        return cls(graph), params

    def init(self, key: Key, *, scale: float = 0.01) -> IsingParams:
        """Draws float32 couplings from N(0, scale²); biases are zero."""
        struct = self.params_struct()
        check_params_fit(struct)
        coupling = scale * jax.random.normal(key, struct.coupling.shape, jnp.float32)
        return IsingParams(jnp.zeros(struct.bias.shape, jnp.float32), coupling)

    def energy(self, params: IsingParams, x: Bool[Array, "*sites"]) -> Float[Array, ""]:
        """Returns E(x) = −Σ bᵢsᵢ − Σ J_ij sᵢsⱼ; raises ValueError when shapes or dtypes do not fit."""
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        check_struct("x", x, self.position_struct())
        return self._energy_of_spins(params, _spins(x, params.bias.dtype))

    def energy_relaxed(self, params: IsingParams, one_hot: Float[Array, "*sites 2"]) -> Float[Array, ""]:
        """Returns E with every spin replaced by p₁ − p₀ of its row (p₀, p₁): E(x) where rows are one-hot."""
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        return self._energy_of_spins(params, one_hot[..., 1] - one_hot[..., 0])

    def _energy_of_spins(self, params: IsingParams, spin: Float[Array, "*sites"]) -> Float[Array, ""]:
        bias, coupling = params
        total = weighted_sum(bias, spin)
        for values, first, second in pairwise.edge_values(self.graph, str(self.coupling), coupling, spin):
            total = total + weighted_sum(values, first * second)
        return -total

    def mean_energy(
        self, params: IsingParams, x: Bool[Array, "n *sites"], field: Float[Array, "n *biases"] | None = None
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
        n, dtype, planes = len(x), params.bias.dtype, counts.level_planes(x, 2)

        def mean_product(first: Array, second: Array) -> Array:
            return 2 * counts.share_of_equal_ends(first, second, n, dtype) - 1

        spins = 2 * counts.share(planes[..., 0, :], n, dtype) - 1
        products = counts.edge_means(self.graph, str(self.coupling), planes, mean_product)
        spins = spins if self.bias == "site" else jnp.sum(spins)
        return counts.mean_field_energy(self, params, field, x) + counts.minus_product(
            params, IsingParams(spins, products.astype(params.coupling.dtype))
        )

    def conditional_logits(self, params: IsingParams, x: Bool[Array, "*sites"]) -> Float[Array, "*sites 2"]:
        """Returns (−hᵢ, hᵢ) with hᵢ = bᵢ + Σⱼ J_ij sⱼ: p(sᵢ = +1 | rest) = σ(2 β hᵢ)."""
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        check_struct("x", x, self.position_struct())
        bias, coupling = params
        spin = _spins(x, bias.dtype)
        bias = jnp.broadcast_to(bias, spin.shape)
        field = pairwise.add_at_sites(
            self.graph, str(self.coupling), coupling, spin, bias, lambda w, s: w * s, lambda w, s: w * s
        )
        return jnp.stack([-field, field], axis=-1)

    def params_struct(self) -> IsingParams:
        """Returns the shapes of the parameters, float32."""
        shape = pairwise.coupling_shape(self.graph, str(self.coupling), 2)
        struct: Any = jax.ShapeDtypeStruct
        bias = self.graph.shape if self.bias == "site" else ()
        return IsingParams(struct(bias, jnp.float32), struct(shape, jnp.float32))

    def from_levels(self, levels: Int[Array, " n_sites"]) -> Bool[Array, "*sites"]:
        """The inverse of `levels`: spins from levels 0 (−1) and 1 (+1)."""
        return (levels != 0).reshape(self.graph.shape)


def _spins(x: Bool[Array, "*sites"], dtype: Any) -> Float[Array, "*sites"]:
    return jnp.where(x, 1, -1).astype(dtype)
