"""The restricted Boltzmann machine of Gaussian visible units, for real data.

E(v, h) = ½ ‖v − a‖² − b·h − vᵀ W h with v real and h in {0, 1} (Welling, Rosen-Zvi and Hinton 2004; Hinton 2012, "A
practical guide", §13.2): visible units have unit variance, so data should be standardised. Summing h out gives the free
energy F(v) = ½ ‖v − a‖² − Σⱼ softplus(bⱼ + (vᵀW)ⱼ), with p(v) ∝ exp(−F(v)) at β = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from ebm_jax.checks import FLOATS, check_integer, check_struct
from ebm_jax.energies.rbm import RBMParams
from ebm_jax.graphs.blocks import BlockSpec, default_spec
from ebm_jax.graphs.grids import Bipartite
from ebm_jax.types import Key

Visible = Float[Array, " n_visible"]
Hidden = UInt8[Array, " n_hidden"]


@dataclass(frozen=True)
class GaussianRBM:
    """`n_visible` real units joined to `n_hidden` binary ones. Raises ValueError when either is under 1.

    A configuration is the pair `(v, h)` of a float32 array of shape `(n_visible,)` and a uint8 one of shape
    `(n_hidden,)`; parameters are `RBMParams`. At inverse temperature β, v given h is N(a + W h, 1/β), drawn by
    inverting the distribution function at 24 bits (so within 5.4 standard deviations), and hⱼ given v is on with
    probability σ(β (bⱼ + (vᵀW)ⱼ)). Sites are numbered visible first; a Gibbs sweep draws the hidden layer, then the
    visible one.
    """

    n_visible: int
    n_hidden: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_visible", check_integer("n_visible", self.n_visible, 1))
        object.__setattr__(self, "n_hidden", check_integer("n_hidden", self.n_hidden, 1))

    units = ("gaussian", "binary")
    position_dtypes = None

    @property
    def level_counts(self) -> tuple[None, int]:
        """None for the real units, and the levels of a hidden one."""
        return None, 2

    @property
    def graph(self) -> Bipartite:
        """The complete bipartite graph of visible (left) and hidden (right) units."""
        return Bipartite(self.n_visible, self.n_hidden)

    def init(self, key: Key, *, scale: float = 0.01) -> RBMParams:
        """Draws weights from N(0, scale²), float32; biases are zero."""
        weights = scale * jax.random.normal(key, (self.n_visible, self.n_hidden), jnp.float32)
        zeros = (jnp.zeros(n, jnp.float32) for n in (self.n_visible, self.n_hidden))
        return RBMParams(weights, *zeros)

    def draw_position(self, key: Key) -> tuple[Visible, Hidden]:
        """Draws a configuration: v from N(0, 1), h uniformly."""
        for_v, for_h = jax.random.split(key)
        h = jax.random.bernoulli(for_h, 0.5, (self.n_hidden,))
        return jax.random.normal(for_v, (self.n_visible,), jnp.float32), h.astype(jnp.uint8)

    def energy(self, params: RBMParams, x: tuple[Visible, Hidden]) -> Float[Array, ""]:
        """Returns E(v, h) = ½ ‖v − a‖² − b·h − vᵀWh; raises ValueError when shapes or dtypes do not fit."""
        check_struct("x", x, self.position_struct())
        square, hidden_input = self._inputs(params, x[0])
        return square - jnp.sum(hidden_input * x[1].astype(hidden_input.dtype))

    def free_energy(self, params: RBMParams, v: Visible) -> Float[Array, ""]:
        """Returns F(v) = ½ ‖v − a‖² − Σ softplus(b + vᵀW) = −log Σ_h exp(−E(v, h)), at β = 1."""
        square, hidden_input = self._inputs(params, v)
        return square - jnp.sum(jax.nn.softplus(hidden_input))

    def visible(self, x: tuple[Visible, Hidden]) -> Visible:
        """Returns the visible part of a configuration."""
        return x[0]

    def complete(self, v: Visible) -> tuple[Visible, Hidden]:
        """Returns a configuration with visible part `v` and all hidden units off (a sweep draws them first)."""
        return v, jnp.zeros((self.n_hidden,), jnp.uint8)

    def default_spec(self) -> BlockSpec:
        """The hidden layer, then the visible one."""
        return default_spec(self.graph)

    def position_struct(self) -> tuple[Any, Any]:
        """float32 and uint8 pair `(v, h)`."""
        struct: Any = jax.ShapeDtypeStruct
        return struct((self.n_visible,), jnp.float32), struct((self.n_hidden,), jnp.uint8)

    def params_struct(self) -> RBMParams:
        """Shapes of the parameters, float32."""
        shapes = (self.n_visible, self.n_hidden), (self.n_visible,), (self.n_hidden,)
        struct: Any = jax.ShapeDtypeStruct
        return RBMParams(*(struct(shape, jnp.float32) for shape in shapes))

    def _inputs(self, params: RBMParams, v: Visible) -> tuple[Array, Array]:
        """Returns ½ ‖v − a‖² and b + vᵀW."""
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        check_struct("v", v, self.position_struct()[0], dtypes=FLOATS)
        hidden_input = params.hidden_bias + jnp.dot(v, params.weights, precision="highest")
        return jnp.sum((v - params.visible_bias) ** 2) / 2, hidden_input
