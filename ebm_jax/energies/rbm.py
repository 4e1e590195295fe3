"""The restricted Boltzmann machine of binary units.

The energy is

    E(v, h) = −a·v − b·h − vᵀ W h

with v, h in {0, 1} (Smolensky 1986; Hinton 2002), or in {−1, +1}, the convention of physics. Summing over h gives the
free energy F(v) = −a·v − Σⱼ log Σ_h exp(h (bⱼ + (vᵀW)ⱼ)), with p(v) ∝ exp(−F(v)) at β = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from ebm_jax.checks import FLOATS, check_choice, check_struct
from ebm_jax.energies.layers import TwoLayers
from ebm_jax.energies.sums import weighted_sum

Visible = UInt8[Array, " n_visible"] | Bool[Array, " n_visible"]
Hidden = UInt8[Array, " n_hidden"] | Bool[Array, " n_hidden"]


class RBMParams(NamedTuple):
    """Parameters of an RBM, floating point.

    Attributes:
      weights: W, `(n_visible, n_hidden)`.
      visible_bias: a, `(n_visible,)`.
      hidden_bias: b, `(n_hidden,)`.

    Example:
      >>> ej.RBM(4, 3).init(jax.random.key(0)).weights.shape
      (4, 3)
    """

    weights: Float[Array, "n_visible n_hidden"]
    visible_bias: Float[Array, " n_visible"]
    hidden_bias: Float[Array, " n_hidden"]


@dataclass(frozen=True)
class RBM(TwoLayers):
    """`n_visible` data units joined to `n_hidden` hidden ones.

    A configuration is the pair `(v, h)` of uint8 or bool arrays of shapes `(n_visible,)` and `(n_hidden,)`; parameters
    are `RBMParams`. Sites are numbered visible first. A Gibbs sweep draws the hidden layer, then the visible one.

    Args:
      n_visible: Number of visible units.
      n_hidden: Number of hidden units.
      spins: False for units 0 and 1. True for units −1 and +1, stored as 0 and 1: parameters W, a, b of spins describe
        the same law as 4W, 2a − 2 W·1, 2b − 2 Wᵀ·1 of units 0 and 1.

    Raises:
      ValueError: If a layer is empty.

    Example:
      >>> model = ej.RBM(4, 3)
      >>> params = model.init(jax.random.key(0))
      >>> float(model.energy(params, (jnp.zeros(4, jnp.uint8), jnp.zeros(3, jnp.uint8))) + 0.0)
      0.0
    """

    n_visible: int
    n_hidden: int
    spins: bool = False

    n_levels = 2
    level_counts = (2, 2)
    position_dtypes = frozenset({"uint8", "bool"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("spins", self.spins, (False, True))

    @property
    def units(self) -> tuple[str, str]:
        """The kinds of units, visible and hidden."""
        return ("spin", "spin") if self.spins else ("binary", "binary")

    def energy(self, params: RBMParams, x: tuple[Visible, Hidden]) -> Float[Array, ""]:
        """Returns E(v, h) = −a·v − b·h − vᵀWh; raises ValueError when shapes or dtypes do not fit."""
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        check_struct("x", x, self.position_struct(), dtypes=self.position_dtypes)
        return self._energy_of_values(params, *(self._values(units, params.weights.dtype) for units in x))

    def energy_relaxed(
        self, params: RBMParams, one_hot: tuple[Float[Array, "n_visible 2"], Float[Array, "n_hidden 2"]]
    ) -> Float[Array, ""]:
        """Returns E with every unit replaced by p₁ of its row (p₀, p₁), or by p₁ − p₀ for spins.

        That is E(v, h) where rows are one-hot.
        """
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        return self._energy_of_values(params, *map(self._relaxed, one_hot))

    def free_energy(self, params: RBMParams, v: Visible) -> Float[Array, ""]:
        """Returns F(v) = −log Σ_h exp(−E(v, h)) at β = 1.

        With the inputs y = b + vᵀW of the hidden units, F is −a·v − Σ softplus(y), or −a·v − Σ log 2cosh(y) for spins.
        """
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        check_struct("v", v, self.position_struct()[0], dtypes=self.position_dtypes)
        return self._free_energy_of_values(params, self._values(v, params.weights.dtype))

    def free_energy_relaxed(
        self, params: RBMParams, one_hot: Float[Array, "n_visible 2"]
    ) -> Float[Array, ""]:
        """Returns F with every visible unit replaced by p₁ of its row, or by p₁ − p₀ for spins.

        That is F(v) where rows are one-hot.
        """
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        return self._free_energy_of_values(params, self._relaxed(one_hot))

    def flip_differences(self, params: RBMParams, v: Visible) -> Float[Array, " n_visible"]:
        """Returns F(v with unit i flipped) − F(v) for every visible unit i: log p(vᵢ) − log p(1 − vᵢ) given the others.

        A flip moves the inputs of the hidden units by one row of W, so vᵀW is the only matrix product.
        """
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        check_struct("v", v, self.position_struct()[0], dtypes=self.position_dtypes)
        value = self._values(v, params.weights.dtype)
        change = -2 * value if self.spins else 1 - 2 * value
        hidden_input = params.hidden_bias + jnp.dot(value, params.weights, precision="highest")
        summed = self._summed(hidden_input + change[:, None] * params.weights) - self._summed(hidden_input)
        return -params.visible_bias * change - jnp.sum(summed, axis=-1)

    def reconstruct(self, params: RBMParams, v: Visible) -> Float[Array, " n_visible"]:
        """Returns E[v | h] at h = E[h | v]: probabilities of ones, of spins means in [−1, 1] mapped to [0, 1]."""
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        check_struct("v", v, self.position_struct()[0], dtypes=self.position_dtypes)
        scale, dtype = 2.0 if self.spins else 1.0, params.weights.dtype
        to_hidden = jnp.dot(self._values(v, dtype), params.weights, precision="highest")
        hidden = self._values(jax.nn.sigmoid(scale * (params.hidden_bias + to_hidden)), dtype)
        to_visible = jnp.dot(params.weights, hidden, precision="highest")
        return jax.nn.sigmoid(scale * (params.visible_bias + to_visible))

    def _energy_of_values(self, params: RBMParams, v: Array, h: Array) -> Float[Array, ""]:
        hidden_input = jnp.dot(v, params.weights, precision="highest")
        return -(weighted_sum(params.visible_bias, v) + jnp.sum((params.hidden_bias + hidden_input) * h))

    def _free_energy_of_values(self, params: RBMParams, visible: Array) -> Float[Array, ""]:
        hidden_input = params.hidden_bias + jnp.dot(visible, params.weights, precision="highest")
        return -weighted_sum(params.visible_bias, visible) - jnp.sum(self._summed(hidden_input))

    def _summed(self, hidden_input: Array) -> Array:
        """Returns log Σ_h exp(h · input) of every hidden unit."""
        return jnp.logaddexp(hidden_input, -hidden_input) if self.spins else jax.nn.softplus(hidden_input)

    def conditional_logits(self, params: RBMParams, x: tuple[Visible, Hidden]) -> tuple[Array, Array]:
        """Returns (0, input) of every unit, or (−input, input) of every spin.

        The input of the visible units is a + Wh, that of the hidden ones b + vᵀW.
        """
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        check_struct("x", x, self.position_struct(), dtypes=self.position_dtypes)
        v, h = (self._values(units, params.weights.dtype) for units in x)
        to_visible = params.visible_bias + jnp.dot(params.weights, h, precision="highest")
        to_hidden = params.hidden_bias + jnp.dot(v, params.weights, precision="highest")

        def logits(unit_input: Array) -> Array:
            off = -unit_input if self.spins else jnp.zeros_like(unit_input)
            return jnp.stack([off, unit_input], axis=-1)

        return logits(to_visible), logits(to_hidden)

    def params_struct(self) -> RBMParams:
        """Returns the shapes of the parameters, float32."""
        shapes = (self.n_visible, self.n_hidden), (self.n_visible,), (self.n_hidden,)
        struct: Any = jax.ShapeDtypeStruct
        return RBMParams(*(struct(shape, jnp.float32) for shape in shapes))

    def _relaxed(self, one_hot: Array) -> Array:
        return one_hot[..., 1] - one_hot[..., 0] if self.spins else one_hot[..., 1]

    def _values(self, units: Array, dtype: Any) -> Array:
        value = units.astype(dtype)
        return 2 * value - 1 if self.spins else value
