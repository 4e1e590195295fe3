"""Models with log Z as a parameter, for objectives that learn it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ebm_jax.energies.target import Method, Target, target_of
from ebm_jax.types import Key, PyTree


class NormalizedParams(NamedTuple):
    """Parameters of a model and log Z, a scalar that is trained with them."""

    params: PyTree
    log_z: Float[Array, ""]


@dataclass(frozen=True)
class _Normalized:
    target: Target

    def energy(self, params: NormalizedParams, x: PyTree) -> Array:
        return self.target.data_energy(params.params, x) + params.log_z

    def init(self, key: Key) -> NormalizedParams:
        return NormalizedParams(self.target.init(key), jnp.zeros((), jnp.float32))


def normalized(model: Any) -> Target:
    """Returns the model whose energy is E(x; θ) + log Z, with log Z a parameter: −energy estimates log p(x).

    Args:
      model: A model, or a function `energy(params, x)`.

    Returns:
      What `fit` takes as its model. Parameters are `NormalizedParams(params, log_z)`; log Z starts at 0.

    Example:
      >>> model = ej.training.normalized(lambda params, x: 0.5 * jnp.sum(x**2))
      >>> float(model.energy(ej.training.NormalizedParams(None, jnp.float32(1.0)), jnp.zeros(2)))
      1.0
    """
    target = target_of(model)
    shifted = _Normalized(target)
    struct, log_z = target.params_struct, jnp.zeros((), jnp.float32)
    if struct is not None:
        struct = NormalizedParams(struct, jax.eval_shape(lambda: log_z))
    return dataclasses.replace(
        target.of_full_configurations(),
        model=shifted,
        energy=Method(shifted, "energy"),
        init=None if target.init is None else Method(shifted, "init"),
        conditional_logits=None,
        flip_differences=None,
        reconstruct=None,
        position_struct=target.data_struct(),
        params_struct=struct,
    )
