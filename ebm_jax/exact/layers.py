"""The laws of one layer of an RBM, the other layer summed or integrated out, and draws of that other layer.

At inverse temperature β, with the inputs y = b + vᵀW of the hidden units and z = a + W h of the visible ones:

- hidden units of 0 and 1 sum to Σⱼ log(1 + exp(β yⱼ)), spins to Σⱼ log 2cosh(β yⱼ), and so do visible ones with z;
- visible units of K levels sum to Σᵢ log Σ_k exp(β zᵢ[k]);
- Gaussian visible units integrate to (n/2) log(2π/β) + β (‖z‖² − ‖a‖²) / 2, which needs β > 0.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ebm_jax.energies.categorical_rbm import CategoricalRBM
from ebm_jax.energies.gaussian_rbm import GaussianRBM
from ebm_jax.energies.rbm import RBM, RBMParams
from ebm_jax.types import Key, PyTree

LAYERS = ("visible", "hidden")


def is_layered(model: Any) -> bool:
    """Returns whether the model is an RBM whose layers can be summed out."""
    return isinstance(model, (RBM, CategoricalRBM, GaussianRBM))


def level_counts(model: Any, layer: str | None) -> tuple[int | None, ...]:
    """Returns the levels of a layer's units, None for real units; without a layer, those of all kinds of sites."""
    if not is_layered(model):
        return (model.n_levels,)
    return model.level_counts if layer is None else (model.level_counts[LAYERS.index(layer)],)


def log_weight(model: Any, layer: str, params: PyTree, beta: Array | float, x: Array) -> Array:
    """Returns log Σ exp(−β E) of one configuration of a layer, summed over the other layer.

    Args:
      model: A layered model.
      layer: "visible" or "hidden".
      params: Parameters.
      beta: Inverse temperature.
      x: A configuration of the layer.

    Returns:
      A scalar.
    """
    weights, visible_bias, hidden_bias = params
    if isinstance(model, GaussianRBM):
        if layer == "visible":
            hidden_input = hidden_bias + jnp.dot(x, weights, precision="highest")
            square = jnp.sum((x - visible_bias) ** 2) / 2
            return -beta * square + jnp.sum(jax.nn.softplus(beta * hidden_input))
        h = x.astype(weights.dtype)
        shift = jnp.dot(weights, h, precision="highest")
        exponent = jnp.dot(hidden_bias, h) + jnp.dot(visible_bias + shift / 2, shift)
        return beta * exponent + model.n_visible / 2 * jnp.log(2 * jnp.pi / beta)
    # The energy of discrete units is linear in the parameters, so the sum at β is the sum at 1 of β · params.
    params = type(params)(*(beta * leaf for leaf in params))
    if layer == "visible":
        return -model.free_energy(params, x)
    if isinstance(model, CategoricalRBM):
        h = x.astype(weights.dtype)
        visible_input = params.visible_bias + jnp.dot(params.weights, h, precision="highest")
        return jnp.dot(params.hidden_bias, h) + jnp.sum(jax.nn.logsumexp(visible_input, axis=-1))
    mirrored = RBM(model.n_hidden, model.n_visible, model.spins)
    return -mirrored.free_energy(RBMParams(params.weights.T, params.hidden_bias, params.visible_bias), x)


def complete(key: Key, model: Any, layer: str, params: PyTree, beta: float, x: Array) -> tuple[Array, Array]:
    """Returns pairs `(v, h)`: given draws of one layer with draws of the other from its conditionals.

    A unit is on with probability σ(β · input), a spin is up with probability σ(2β · input), and a Gaussian unit is
    N(input, 1/β).

    Args:
      key: A random key.
      model: A layered model.
      layer: The layer that `x` holds.
      params: Parameters, NumPy float64.
      beta: Inverse temperature.
      x: Draws `(n_samples, n_units)` of the layer.

    Returns:
      Draws of both layers.
    """
    weights, visible_bias, hidden_bias = params
    if layer == "hidden" and not isinstance(model, RBM):
        visible_input = visible_bias + jnp.tensordot(
            x.astype(jnp.float64), weights, [[1], [weights.ndim - 1]]
        )
        if isinstance(model, GaussianRBM):
            noise = jax.random.normal(key, visible_input.shape, jnp.float64)
            return (visible_input + noise / np.sqrt(beta)).astype(model.visible_dtype), x
        p = jnp.cumsum(jax.nn.softmax(beta * visible_input, axis=-1), axis=-1)
        uniforms = jax.random.uniform(key, p.shape[:-1], jnp.float64)
        v = jnp.sum(p[..., :-1] <= uniforms[..., None] * p[..., -1:], axis=-1)
        return v.astype(jnp.uint8), x
    if isinstance(model, CategoricalRBM):
        units = jnp.arange(model.n_visible)
        unit_input, scale = hidden_bias + weights[units, x.astype(jnp.int32)].sum(axis=1), 1
    else:
        scale, shift = (2, 1) if model.spins else (1, 0)
        values = scale * x.astype(jnp.float64) - shift
        unit_input = (
            hidden_bias + values @ weights if layer == "visible" else visible_bias + values @ weights.T
        )
    on = jax.random.uniform(key, unit_input.shape, jnp.float64) < jax.nn.sigmoid(scale * beta * unit_input)
    other = on.astype(jnp.uint8)
    return (x, other) if layer == "visible" else (other, x)
