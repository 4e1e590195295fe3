"""The restricted Boltzmann machine of categorical ("softmax") visible units.

The energy is

    E(v, h) = −Σᵢ aᵢ[vᵢ] − b·h − Σᵢ Wᵢ[vᵢ]·h

with vᵢ in {0, …, K−1} and h in {0, 1} (Salakhutdinov, Mnih and Hinton 2007, "Restricted Boltzmann machines for
collaborative filtering"). Summing over h gives the free energy F(v) = −Σᵢ aᵢ[vᵢ] − Σⱼ softplus(bⱼ + Σᵢ Wᵢ[vᵢ, j]), with
p(v) ∝ exp(−F(v)) at β = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from ebm_jax.checks import FLOATS, check_integer, check_struct
from ebm_jax.energies.layers import TwoLayers
from ebm_jax.energies.sums import weighted_sum
from ebm_jax.types import Key

Visible = UInt8[Array, " n_visible"]
Hidden = UInt8[Array, " n_hidden"]


class CategoricalRBMParams(NamedTuple):
    """Parameters of an RBM of categorical visible units, floating point.

    Attributes:
      weights: W, `(n_visible, K, n_hidden)`.
      visible_bias: a, `(n_visible, K)`.
      hidden_bias: b, `(n_hidden,)`.

    Example:
      >>> ej.CategoricalRBM(4, 3, n_levels=5).init(jax.random.key(0)).weights.shape
      (4, 5, 3)
    """

    weights: Float[Array, "n_visible levels n_hidden"]
    visible_bias: Float[Array, "n_visible levels"]
    hidden_bias: Float[Array, " n_hidden"]


@dataclass(frozen=True)
class CategoricalRBM(TwoLayers):
    """Visible units of several levels joined to binary hidden ones.

    A configuration is the pair `(v, h)` of uint8 arrays of shapes `(n_visible,)`, levels, and `(n_hidden,)`, 0 or 1;
    parameters are `CategoricalRBMParams`. Sites are numbered visible first. A Gibbs sweep draws the hidden layer, then
    the visible one.

    Args:
      n_visible: Number of visible units.
      n_hidden: Number of hidden units.
      n_levels: Levels of a visible unit, K, from 2 to 256.

    Raises:
      ValueError: If a layer is empty, or the number of levels is not from 2 to 256.

    Example:
      >>> model = ej.CategoricalRBM(4, 3, n_levels=5)
      >>> model.level_counts
      (5, 2)
    """

    n_visible: int
    n_hidden: int
    n_levels: int

    units = ("categorical", "binary")
    position_dtypes = frozenset({"uint8"})

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "n_levels", check_integer("n_levels", self.n_levels, 2))
        if self.n_levels > 256:
            raise ValueError(f"n_levels is {self.n_levels}; a level is stored in a byte: use at most 256")

    @property
    def level_counts(self) -> tuple[int, int]:
        """Levels of a visible and of a hidden unit."""
        return self.n_levels, 2

    def draw_position(self, key: Key) -> tuple[Visible, Hidden]:
        """Draws a configuration with independent uniform levels."""
        for_v, for_h = jax.random.split(key)
        v = jax.random.randint(for_v, (self.n_visible,), 0, self.n_levels, jnp.int32)
        h = jax.random.bernoulli(for_h, 0.5, (self.n_hidden,))
        return v.astype(jnp.uint8), h.astype(jnp.uint8)

    def energy(self, params: CategoricalRBMParams, x: tuple[Visible, Hidden]) -> Float[Array, ""]:
        """Returns E(v, h) = −Σ aᵢ[vᵢ] − b·h − Σ Wᵢ[vᵢ]·h; raises ValueError when shapes or dtypes do not fit."""
        check_struct("x", x, self.position_struct())
        bias, hidden_input = self._inputs(params, x[0])
        return -bias - jnp.sum(hidden_input * x[1].astype(hidden_input.dtype))

    def energy_relaxed(
        self,
        params: CategoricalRBMParams,
        one_hot: tuple[Float[Array, "n_visible levels"], Float[Array, "n_hidden 2"]],
    ) -> Float[Array, ""]:
        """Returns E with every visible level replaced by the weights of its row, every hidden unit by p₁ of its row.

        That is E(v, h) where rows are one-hot.
        """
        bias, hidden_input = self._inputs_of_weights(params, one_hot[0])
        return -bias - jnp.sum(hidden_input * one_hot[1][..., 1])

    def free_energy(self, params: CategoricalRBMParams, v: Visible) -> Float[Array, ""]:
        """Returns F(v) = −Σ aᵢ[vᵢ] − Σ softplus(b + Σ Wᵢ[vᵢ]) = −log Σ_h exp(−E(v, h)), at β = 1."""
        bias, hidden_input = self._inputs(params, v)
        return -bias - jnp.sum(jax.nn.softplus(hidden_input))

    def free_energy_relaxed(
        self, params: CategoricalRBMParams, one_hot: Float[Array, "n_visible levels"]
    ) -> Float[Array, ""]:
        """Returns F with every visible level replaced by the weights of its row: F(v) where rows are one-hot."""
        bias, hidden_input = self._inputs_of_weights(params, one_hot)
        return -bias - jnp.sum(jax.nn.softplus(hidden_input))

    def conditional_logits(
        self, params: CategoricalRBMParams, x: tuple[Visible, Hidden]
    ) -> tuple[Float[Array, "n_visible levels"], Float[Array, "n_hidden 2"]]:
        """Returns aᵢ[k] + Wᵢ[k]·h for every visible unit and level, and (0, input) of every hidden unit."""
        check_struct("x", x, self.position_struct())
        _, hidden_input = self._inputs(params, x[0])
        hidden = x[1].astype(params.weights.dtype)
        to_visible = params.visible_bias + jnp.dot(params.weights, hidden, precision="highest")
        return to_visible, jnp.stack([jnp.zeros_like(hidden_input), hidden_input], axis=-1)

    def params_struct(self) -> CategoricalRBMParams:
        """Returns the shapes of the parameters, float32."""
        n, k, m = self.n_visible, self.n_levels, self.n_hidden
        struct: Any = jax.ShapeDtypeStruct
        return CategoricalRBMParams(*(struct(shape, jnp.float32) for shape in ((n, k, m), (n, k), (m,))))

    def _inputs(self, params: CategoricalRBMParams, v: Visible) -> tuple[Array, Array]:
        """Returns Σ aᵢ[vᵢ] and b + Σ Wᵢ[vᵢ]."""
        check_struct("v", v, self.position_struct()[0])
        return self._inputs_of_weights(params, jax.nn.one_hot(v, self.n_levels, dtype=params.weights.dtype))

    def _inputs_of_weights(self, params: CategoricalRBMParams, chosen: Array) -> tuple[Array, Array]:
        """Returns Σ aᵢ·cᵢ and b + Σ cᵢWᵢ, where the rows cᵢ hold a weight for each level."""
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        hidden_input = jnp.tensordot(chosen, params.weights, 2, precision="highest")
        return weighted_sum(params.visible_bias, chosen), params.hidden_bias + hidden_input
