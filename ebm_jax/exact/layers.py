"""The laws of one layer of a model, all other sites summed or integrated out, and draws of these.

The layers are "visible" and "hidden" of an RBM, and "discrete", the nodes with levels, of a `FactorGraph` that has real
units as well (see `mixed`). For RBMs:

At inverse temperature β, with the inputs y = b + vᵀW of the hidden units and z = a + W h of the visible ones:

- hidden units of 0 and 1 sum to Σⱼ log(1 + exp(β yⱼ)), spins to Σⱼ log 2cosh(β yⱼ), and so do visible ones with z;
- visible units of K levels sum to Σᵢ log Σ_k exp(β zᵢ[k]);
- Gaussian visible units integrate to (n/2) log(2π/β) + β (‖z‖² − ‖a‖²) / 2, which needs β > 0.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from ebm_jax.energies.base import levels_of_sites
from ebm_jax.energies.categorical_rbm import CategoricalRBM
from ebm_jax.energies.gaussian_rbm import GaussianRBM
from ebm_jax.energies.rbm import RBM, RBMParams
from ebm_jax.exact import mixed
from ebm_jax.types import Key, PyTree


def obstacle(model: Any) -> str | None:
    """Says why a model cannot be solved, whatever its size, or returns None when it can."""
    if levels_of_sites(model) is None:
        return f"model is {model!r}; exact answers need an Ising, Potts, RBM or FactorGraph model"
    return mixed.obstacle(model) if mixed.is_mixed(model) else None


def names(model: Any) -> tuple[str, ...]:
    """Returns the layers that a model has."""
    if mixed.is_mixed(model):
        return ("discrete",)
    return ("visible", "hidden") if is_layered(model) else ()


def is_layered(model: Any) -> bool:
    """Returns whether the model is an RBM whose layers can be summed out."""
    return isinstance(model, (RBM, CategoricalRBM, GaussianRBM))


def of_levels(model: Any) -> list[str | None]:
    """Returns the layers of a model whose sites all have levels; None stands for the whole model without layers."""
    found: list[str | None] = [name for name in names(model) if None not in level_counts(model, name)]
    return found or [None]


@functools.lru_cache(maxsize=32)
def level_counts(model: Any, layer: str | None) -> tuple[int | None, ...]:
    """Returns the levels of every site of a layer, or of the whole model; None for real units."""
    counts: Any = levels_of_sites(model)
    if layer == "discrete":
        return tuple(count for count in counts if count is not None)
    if layer is None:
        return counts
    return counts[: model.n_visible] if layer == "visible" else counts[model.n_visible :]


def from_levels(model: Any, layer: str | None, levels: Int[Array, " n"]) -> PyTree:
    """Returns the configuration of a layer with these levels: an array, but for the whole model."""
    if layer is None:
        return model.from_levels(levels)
    return levels if layer == "discrete" else levels.astype(jnp.uint8)


def part(model: Any, layer: str | None, x: PyTree) -> PyTree:
    """Returns the layer of stacked configurations."""
    if layer == "discrete":
        is_discrete = np.asarray([count is not None for count in level_counts(model, None)])
        return jax.vmap(model.levels)(x)[:, is_discrete]
    return x if layer is None else x[names(model).index(layer)]


def log_weight(model: Any, layer: str, params: PyTree, beta: Array | float, x: Array) -> Array:
    """Returns log Σ exp(−β E) of one configuration of a layer, summed over all other sites.

    Args:
      model: A model with layers.
      layer: One of its layers.
      params: Parameters.
      beta: Inverse temperature.
      x: A configuration of the layer.

    Returns:
      A scalar.
    """
    if layer == "discrete":
        return mixed.log_weight(model, params, beta, x)
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


def complete(key: Key, model: Any, layer: str, params: PyTree, beta: float, x: Array) -> PyTree:
    """Returns configurations: given draws of one layer with draws of the other sites from their conditionals.

    A unit is on with probability σ(β · input), a spin is up with probability σ(2β · input), and a Gaussian unit is
    N(input, 1/β).

    Args:
      key: A random key.
      model: A model with layers.
      layer: The layer that `x` holds.
      params: Parameters, NumPy float64.
      beta: Inverse temperature.
      x: Draws `(n_samples, n_units)` of the layer.

    Returns:
      Configurations stacked along a first axis.
    """
    if layer == "discrete":
        return mixed.complete(key, model, params, beta, x)
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
