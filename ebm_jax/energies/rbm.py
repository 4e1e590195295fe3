"""The Bernoulli restricted Boltzmann machine.

E(v, h) = −a·v − b·h − vᵀ W h with v, h in {0, 1} (Smolensky 1986; Hinton 2002). Summing h out gives the free energy
F(v) = −a·v − Σⱼ softplus(bⱼ + (vᵀW)ⱼ), with p(v) ∝ exp(−F(v)) at β = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from ebm_jax.blocks import BlockSpec, default_spec
from ebm_jax.checks import FLOATS, check_integer, check_struct
from ebm_jax.graphs import Bipartite
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
    """

    n_visible: int
    n_hidden: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_visible", check_integer("n_visible", self.n_visible, 1))
        object.__setattr__(self, "n_hidden", check_integer("n_hidden", self.n_hidden, 1))

    n_levels = 2
    position_dtypes = frozenset({"uint8", "bool"})

    @property
    def graph(self) -> Bipartite:
        """The complete bipartite graph of visible (left) and hidden (right) units."""
        return Bipartite(self.n_visible, self.n_hidden)

    def init(self, key: Key, *, scale: float = 0.01) -> RBMParams:
        """Draws weights from N(0, scale²), float32; biases are zero (Hinton 2012, "A practical guide", §8)."""
        weights = scale * jax.random.normal(key, (self.n_visible, self.n_hidden), jnp.float32)
        zeros = (jnp.zeros(n, jnp.float32) for n in (self.n_visible, self.n_hidden))
        return RBMParams(weights, *zeros)

    def energy(self, params: RBMParams, x: tuple[Visible, Hidden]) -> Float[Array, ""]:
        """Returns E(v, h) = −a·v − b·h − vᵀWh; raises ValueError when shapes or dtypes do not fit."""
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        check_struct("x", x, self.position_struct(), dtypes=self.position_dtypes)
        v, h = (units.astype(params.weights.dtype) for units in x)
        hidden_input = jnp.dot(v, params.weights, precision="highest")
        return -(jnp.sum(params.visible_bias * v) + jnp.sum((params.hidden_bias + hidden_input) * h))

    def free_energy(self, params: RBMParams, v: Visible) -> Float[Array, ""]:
        """Returns F(v) = −a·v − Σⱼ softplus(bⱼ + (vᵀW)ⱼ) = −log Σ_h exp(−E(v, h)), at β = 1."""
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        check_struct("v", v, self.position_struct()[0], dtypes=self.position_dtypes)
        visible = v.astype(params.weights.dtype)
        hidden_input = params.hidden_bias + jnp.dot(visible, params.weights, precision="highest")
        return -jnp.sum(params.visible_bias * visible) - jnp.sum(jax.nn.softplus(hidden_input))

    def conditional_logits(self, params: RBMParams, x: tuple[Visible, Hidden]) -> tuple[Array, Array]:
        """Returns (0, input) of every unit: a + Wh for the visible ones, b + vᵀW for the hidden ones."""
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        check_struct("x", x, self.position_struct(), dtypes=self.position_dtypes)
        v, h = (units.astype(params.weights.dtype) for units in x)
        to_visible = params.visible_bias + jnp.dot(params.weights, h, precision="highest")
        to_hidden = params.hidden_bias + jnp.dot(v, params.weights, precision="highest")
        stack = lambda field: jnp.stack([jnp.zeros_like(field), field], axis=-1)  # noqa: E731
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
