"""The restricted Boltzmann machine of binary units.

E(v, h) = −a·v − b·h − vᵀ W h with v, h in {0, 1} (Smolensky 1986; Hinton 2002), or in {−1, +1}, the convention of
physics. Summing h out gives the free energy F(v) = −a·v − Σⱼ log Σ_h exp(h (bⱼ + (vᵀW)ⱼ)), with p(v) ∝ exp(−F(v)) at
β = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from ebm_jax.checks import FLOATS, check_choice, check_integer, check_struct
from ebm_jax.graphs.blocks import BlockSpec, default_spec
from ebm_jax.graphs.grids import Bipartite
from ebm_jax.types import Key

Visible = UInt8[Array, " n_visible"] | Bool[Array, " n_visible"]
Hidden = UInt8[Array, " n_hidden"] | Bool[Array, " n_hidden"]


class RBMParams(NamedTuple):
    """Parameters of an RBM, floating point: weights W `(n_visible, n_hidden)`, visible_bias a, hidden_bias b."""

    weights: Float[Array, "n_visible n_hidden"]
    visible_bias: Float[Array, " n_visible"]
    hidden_bias: Float[Array, " n_hidden"]


@dataclass(frozen=True)
class RBM:
    """`n_visible` data units joined to `n_hidden` hidden ones. Raises ValueError when either is under 1.

    A configuration is the pair `(v, h)` of uint8 or bool arrays of shapes `(n_visible,)` and `(n_hidden,)`. Sites are
    numbered visible first; a Gibbs sweep draws the hidden layer, then the visible one.

    spins: False for units 0 and 1; True for units −1 and +1, stored as 0 and 1. Parameters W, a, b of spins are 4W,
    2a − 2 W·1, 2b − 2 Wᵀ·1 of units 0 and 1.
    """

    n_visible: int
    n_hidden: int
    spins: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_visible", check_integer("n_visible", self.n_visible, 1))
        object.__setattr__(self, "n_hidden", check_integer("n_hidden", self.n_hidden, 1))
        check_choice("spins", self.spins, (False, True))

    n_levels = 2
    position_dtypes = frozenset({"uint8", "bool"})

    @property
    def graph(self) -> Bipartite:
        """The complete bipartite graph of visible (left) and hidden (right) units."""
        return Bipartite(self.n_visible, self.n_hidden)

    @property
    def units(self) -> tuple[str, str]:
        """The kinds of units, visible and hidden."""
        return ("spin", "spin") if self.spins else ("binary", "binary")

    def init(self, key: Key, *, scale: float = 0.01) -> RBMParams:
        """Draws weights from N(0, scale²), float32; biases are zero (Hinton 2012, "A practical guide", §8)."""
        weights = scale * jax.random.normal(key, (self.n_visible, self.n_hidden), jnp.float32)
        zeros = (jnp.zeros(n, jnp.float32) for n in (self.n_visible, self.n_hidden))
        return RBMParams(weights, *zeros)

    def energy(self, params: RBMParams, x: tuple[Visible, Hidden]) -> Float[Array, ""]:
        """Returns E(v, h) = −a·v − b·h − vᵀWh; raises ValueError when shapes or dtypes do not fit."""
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        check_struct("x", x, self.position_struct(), dtypes=self.position_dtypes)
        return self._energy_of_values(params, *(self._values(units, params.weights.dtype) for units in x))

    def energy_relaxed(
        self, params: RBMParams, one_hot: tuple[Float[Array, "n_visible 2"], Float[Array, "n_hidden 2"]]
    ) -> Float[Array, ""]:
        """Returns E with every unit replaced by p₁ of its row (p₀, p₁), of a spin p₁ − p₀: E(v, h) where rows are
        one-hot.
        """
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        return self._energy_of_values(params, *map(self._relaxed, one_hot))

    def free_energy(self, params: RBMParams, v: Visible) -> Float[Array, ""]:
        """Returns F(v) = −log Σ_h exp(−E(v, h)) at β = 1: with inputs y = b + vᵀW of the hidden units,
        −a·v − Σ softplus(y), or of spins −a·v − Σ log 2cosh(y).
        """
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        check_struct("v", v, self.position_struct()[0], dtypes=self.position_dtypes)
        return self._free_energy_of_values(params, self._values(v, params.weights.dtype))

    def free_energy_relaxed(
        self, params: RBMParams, one_hot: Float[Array, "n_visible 2"]
    ) -> Float[Array, ""]:
        """Returns F with every visible unit replaced by p₁ of its row, of a spin p₁ − p₀: F(v) where rows are
        one-hot.
        """
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        return self._free_energy_of_values(params, self._relaxed(one_hot))

    def flip_differences(self, params: RBMParams, v: Visible) -> Float[Array, " n_visible"]:
        """Returns F(v with unit i flipped) − F(v) for every visible unit i: log p(vᵢ) − log p(1 − vᵢ) given the others.

        A flip moves the inputs of the hidden units by one row of W, so that no matrix product is needed beside v W.
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
        scale = 2.0 if self.spins else 1.0
        on = jax.nn.sigmoid
        hidden_input = params.hidden_bias + jnp.dot(
            self._values(v, params.weights.dtype), params.weights, precision="highest"
        )
        hidden = self._values(on(scale * hidden_input), params.weights.dtype)
        return on(scale * (params.visible_bias + jnp.dot(params.weights, hidden, precision="highest")))

    def _energy_of_values(self, params: RBMParams, v: Array, h: Array) -> Float[Array, ""]:
        hidden_input = jnp.dot(v, params.weights, precision="highest")
        return -(jnp.sum(params.visible_bias * v) + jnp.sum((params.hidden_bias + hidden_input) * h))

    def _free_energy_of_values(self, params: RBMParams, visible: Array) -> Float[Array, ""]:
        hidden_input = params.hidden_bias + jnp.dot(visible, params.weights, precision="highest")
        return -jnp.sum(params.visible_bias * visible) - jnp.sum(self._summed(hidden_input))

    def _summed(self, hidden_input: Array) -> Array:
        """Log Σ_h exp(h · input) of every hidden unit."""
        return jnp.logaddexp(hidden_input, -hidden_input) if self.spins else jax.nn.softplus(hidden_input)

    def conditional_logits(self, params: RBMParams, x: tuple[Visible, Hidden]) -> tuple[Array, Array]:
        """Returns (0, input) of every unit, or of a spin (−input, input): a + Wh for the visible units, b + vᵀW for the
        hidden ones.
        """
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        check_struct("x", x, self.position_struct(), dtypes=self.position_dtypes)
        v, h = (self._values(units, params.weights.dtype) for units in x)
        to_visible = params.visible_bias + jnp.dot(params.weights, h, precision="highest")
        to_hidden = params.hidden_bias + jnp.dot(v, params.weights, precision="highest")
        stack = lambda field: jnp.stack([-field if self.spins else jnp.zeros_like(field), field], axis=-1)  # noqa: E731
        return stack(to_visible), stack(to_hidden)

    def visible(self, x: tuple[Visible, Hidden]) -> Visible:
        """Returns the visible part of a configuration."""
        return x[0]

    def complete(self, v: Visible) -> tuple[Visible, Hidden]:
        """Returns a configuration with visible part `v` and all hidden units off (a sweep draws them first)."""
        return v, jnp.zeros((self.n_hidden,), v.dtype)

    def default_spec(self) -> BlockSpec:
        """The hidden layer, then the visible one."""
        return default_spec(self.graph)

    def position_struct(self) -> tuple[Any, Any]:
        """uint8 pair `(v, h)`."""
        return (
            jax.ShapeDtypeStruct((self.n_visible,), jnp.uint8),
            jax.ShapeDtypeStruct((self.n_hidden,), jnp.uint8),
        )

    def params_struct(self) -> RBMParams:
        """Shapes of the parameters, float32."""
        shapes = (self.n_visible, self.n_hidden), (self.n_visible,), (self.n_hidden,)
        struct: Any = jax.ShapeDtypeStruct
        return RBMParams(*(struct(shape, jnp.float32) for shape in shapes))

    def levels(self, x: tuple[Visible, Hidden]) -> Int[Array, " n_sites"]:
        """Visible and hidden units in one int32 row."""
        return jnp.concatenate([x[0], x[1]]).astype(jnp.int32)

    def from_levels(self, levels: Int[Array, " n_sites"]) -> tuple[Visible, Hidden]:
        """The inverse of `levels`, as uint8."""
        units = levels.astype(jnp.uint8)
        return units[: self.n_visible], units[self.n_visible :]

    def _relaxed(self, one_hot: Array) -> Array:
        return one_hot[..., 1] - one_hot[..., 0] if self.spins else one_hot[..., 1]

    def _values(self, units: Array, dtype: Any) -> Array:
        value = units.astype(dtype)
        return 2 * value - 1 if self.spins else value
