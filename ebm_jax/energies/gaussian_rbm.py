"""The restricted Boltzmann machine of Gaussian visible units, for real data.

The energy is

    E(v, h) = ½ ‖v − a‖² − b·h − vᵀ W h

with v real and h in {0, 1} (Welling, Rosen-Zvi and Hinton 2004; Hinton 2012, "A practical guide", §13.2). Visible units
have unit variance, so data should be standardised. Summing over h gives the free energy
F(v) = ½ ‖v − a‖² − Σⱼ softplus(bⱼ + (vᵀW)ⱼ), with p(v) ∝ exp(−F(v)) at β = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from ebm_jax.checks import FLOATS, check_struct
from ebm_jax.energies.layers import TwoLayers
from ebm_jax.energies.rbm import RBMParams
from ebm_jax.types import Key

Visible = Float[Array, " n_visible"]
Hidden = UInt8[Array, " n_hidden"]


@dataclass(frozen=True)
class GaussianRBM(TwoLayers):
    """Real visible units joined to binary hidden ones.

    A configuration is the pair `(v, h)` of a float32 array of shape `(n_visible,)` and a uint8 array of shape
    `(n_hidden,)`; parameters are `RBMParams`. At inverse temperature β, v given h is N(a + W h, 1/β), drawn by
    inverting the distribution function at 24 bits (so within 5.4 standard deviations), and hⱼ given v is on with
    probability σ(β (bⱼ + (vᵀW)ⱼ)). Sites are numbered visible first. A Gibbs sweep draws the hidden layer, then the
    visible one.

    Args:
      n_visible: Number of visible units.
      n_hidden: Number of hidden units.

    Raises:
      ValueError: If a layer is empty.

    Example:
      >>> v, h = ej.GaussianRBM(4, 3).draw_position(jax.random.key(0))
      >>> v.dtype, h.shape
      (dtype('float32'), (3,))
    """

    n_visible: int
    n_hidden: int

    units = ("gaussian", "binary")
    level_counts = (None, 2)
    position_dtypes = None
    visible_dtype = jnp.float32

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

    def params_struct(self) -> RBMParams:
        """Returns the shapes of the parameters, float32."""
        shapes = (self.n_visible, self.n_hidden), (self.n_visible,), (self.n_hidden,)
        struct: Any = jax.ShapeDtypeStruct
        return RBMParams(*(struct(shape, jnp.float32) for shape in shapes))

    def _inputs(self, params: RBMParams, v: Visible) -> tuple[Array, Array]:
        """Returns ½ ‖v − a‖² and b + vᵀW."""
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        check_struct("v", v, self.position_struct()[0], dtypes=FLOATS)
        hidden_input = params.hidden_bias + jnp.dot(v, params.weights, precision="highest")
        return jnp.sum((v - params.visible_bias) ** 2) / 2, hidden_input
