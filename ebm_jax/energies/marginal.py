"""The visible units of an RBM alone, the hidden ones summed out.

The energy is

    E(v) = F(v) = −log Σ_h exp(−E(v, h)),

so that p(v) ∝ exp(−β F(v)). At β = 1 this is the law of the RBM's visible units. At another β it is not, because the
sum over h is taken at β = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array, Float

from ebm_jax.types import Key, PyTree


@dataclass(frozen=True)
class Marginal:
    """The visible units of an RBM.

    Parameters are the RBM's, and a configuration is its visible part. At β = 1 the law is that of the RBM's visible
    units. At another β it is proportional to exp(−β F), which is another law: tempered and annealed chains of the two
    models differ on the way.

    Args:
      model: An RBM with binary, ±1 or categorical visible units.

    Raises:
      ValueError: If the model has no `free_energy_relaxed`.

    Example:
      >>> rbm = ej.RBM(4, 3)
      >>> params, v = rbm.init(jax.random.key(0)), jnp.ones(4, jnp.uint8)
      >>> bool(ej.Marginal(rbm).energy(params, v) == rbm.free_energy(params, v))
      True
    """

    model: Any

    def __post_init__(self) -> None:
        if not hasattr(self.model, "free_energy_relaxed"):
            raise ValueError(f"model is {self.model!r}; give an RBM or a CategoricalRBM")

    @property
    def n_levels(self) -> int:
        """Levels of a visible unit."""
        return self.model.n_levels

    @property
    def position_dtypes(self) -> frozenset[str]:
        """Dtypes that a configuration may have."""
        return self.model.position_dtypes

    def init(self, key: Key) -> PyTree:
        """Draws the RBM's parameters."""
        return self.model.init(key)

    def draw_position(self, key: Key) -> Array:
        """Draws a configuration with independent uniform levels."""
        struct = self.position_struct()
        return jax.random.randint(key, struct.shape, 0, self.n_levels).astype(struct.dtype)

    def energy(self, params: PyTree, v: Array) -> Float[Array, ""]:
        """Returns F(v)."""
        return self.model.free_energy(params, v)

    def energy_relaxed(self, params: PyTree, one_hot: Float[Array, "n_visible levels"]) -> Float[Array, ""]:
        """Returns F at weights of the levels: F(v) where rows are one-hot."""
        return self.model.free_energy_relaxed(params, one_hot)

    def position_struct(self) -> Any:
        """Returns the shape and dtype of the visible part."""
        return self.model.position_struct()[0]

    def params_struct(self) -> Any:
        """Returns the structure of the RBM's parameters."""
        return self.model.params_struct()
