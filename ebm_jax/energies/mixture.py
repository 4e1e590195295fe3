"""Mixtures of models: sums of their laws.

    E(x) = −log Σᵢ exp(aᵢ − Eᵢ(x)),    p = Σ πᵢ pᵢ where aᵢ = log πᵢ − log Zᵢ

(Du, Li and Mordatch 2020, who leave aᵢ = 0.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ebm_jax import checks
from ebm_jax.energies.composition import Composition, checked_models
from ebm_jax.types import Key, PyTree


class MixtureParams(NamedTuple):
    """Parameters of a `Mixture`.

    Attributes:
      models: Those of each model.
      log_weights: aᵢ = log πᵢ − log Zᵢ, `(n_models,)`.

    Example:
      >>> ej.MixtureParams.of([None], shares=[1.0], log_z=[2.0]).log_weights
      Array([-2.], dtype=float32)
    """

    models: tuple[PyTree, ...]
    log_weights: Float[Array, " n_models"]

    @classmethod
    def of(cls, models: Sequence[PyTree], shares: Any, log_z: Any) -> MixtureParams:
        """Returns the parameters of p = Σ πᵢ pᵢ.

        Args:
          models: The parameters of each model.
          shares: πᵢ > 0, `(n_models,)`, which add up to 1.
          log_z: log Zᵢ of each model at β = 1, `(n_models,)`, from `exact.log_partition` or `partition.ais`. An error
            of log Zᵢ multiplies the odds of model i by its exponential.

        Returns:
          The parameters.

        Raises:
          ValueError: If the shares are not greater than 0, or do not add up to 1.
        """
        if checks.is_concrete(shares):
            values = np.asarray(shares, np.float64)
            if not (values > 0).all() or abs(values.sum() - 1) > 1e-5:
                raise ValueError(f"shares is {values.tolist()}; give numbers greater than 0 that add up to 1")
        return cls(tuple(models), jnp.log(jnp.asarray(shares, float)) - jnp.asarray(log_z, float))


@dataclass(frozen=True)
class Mixture(Composition):
    """The energy E(x) = −log Σᵢ exp(aᵢ − Eᵢ(x)): x is likely where any member finds it likely.

    Parameters are `MixtureParams`. If aᵢ = log πᵢ − log Zᵢ with Σ πᵢ = 1, the law is Σ πᵢ pᵢ, and its log Z is 0. How
    much of each model a mixture holds cannot be said without the log Zᵢ: with aᵢ = 0 the shares are Zᵢ / Σ Zⱼ, where
    log Zᵢ may differ by hundreds. `MixtureParams.of` makes aᵢ from πᵢ and log Zᵢ. Training moves aᵢ like any parameter,
    and the shares are unknown from then on. At another β the law is ∝ exp(−β E), not a mixture of tempered members.

    Do not confuse it with `mixture`, a kernel that picks one of several kernels.

    Args:
      models: Models of the same configurations.

    Raises:
      ValueError: If there are no models, or they take different configurations.

    Example:
      >>> ising = ej.Ising(ej.Graph(1, []))
      >>> of_models = [ej.IsingParams(jnp.full(1, b), jnp.zeros(0)) for b in (1.0, -1.0)]
      >>> log_z = [ej.exact.log_partition(ising, params) for params in of_models]
      >>> params = ej.MixtureParams.of(of_models, shares=(0.75, 0.25), log_z=log_z)
      >>> round(float(jnp.exp(-ej.Mixture((ising, ising)).energy(params, jnp.array([True])))), 3)
      0.69
    """

    models: tuple[Any, ...]

    def __post_init__(self) -> None:
        """Checks the fields."""
        object.__setattr__(self, "models", checked_models(self.models))

    def init(self, key: Key) -> MixtureParams:
        """Draws the parameters of each model; all aᵢ are 0."""
        return MixtureParams(super().init(key), jnp.zeros(len(self.models), jnp.float32))

    def params_struct(self) -> MixtureParams:
        """Returns the shapes and dtypes of the parameters."""
        log_weights: Any = jax.ShapeDtypeStruct((len(self.models),), jnp.float32)
        return MixtureParams(super().params_struct(), log_weights)

    def responsibilities(self, params: MixtureParams, x: PyTree) -> Float[Array, " n_models"]:
        """Returns p(model i | x) at β = 1."""
        return jax.nn.softmax(params.log_weights - self._each("energy", params.models, x))

    def _composed(self, method: str, params: MixtureParams, x: PyTree) -> Float[Array, ""]:
        return -jax.nn.logsumexp(params.log_weights - self._each(method, params.models, x))
