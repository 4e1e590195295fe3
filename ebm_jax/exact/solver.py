"""The functions of `ebm_jax.exact`: they pick the sum that is quick, and refuse what is too large."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ebm_jax.checks import (
    FLOATS,
    check_finite,
    check_integer,
    check_key,
    check_levels,
    check_struct,
    is_concrete,
)
from ebm_jax.energies.base import DiscreteModel
from ebm_jax.energies.rbm import RBM, RBMParams
from ebm_jax.exact import transfer
from ebm_jax.exact.enumeration import Enumeration, logsumexp, smallest, total
from ebm_jax.types import Key, PyTree

# Up to here enumeration takes well under a second. Beyond, the transfer matrix is tried first.
_MAX_QUICK_STATES = 2**16


def states(model: DiscreteModel, *, layer: str | None = None) -> PyTree:
    """Returns every configuration, stacked along a new first axis in the order that the package describes.

    Args:
      model: A discrete model.
      layer: "visible" or "hidden" for one layer of an RBM.

    Returns:
      Configurations typed as the model's. Those of a layer are an array `(n_states, n_units)`, uint8.

    Raises:
      ValueError: If there are more than 2²² configurations, or no such layer.
    """
    with jax.enable_x64(True):
        parts = [chunk.x for chunk in Enumeration(model, layer).chunks()]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def log_partition(model: DiscreteModel, params: PyTree, *, beta: float = 1.0) -> float:
    """Returns log Z = log Σ_x exp(−β E(x; params)).

    Args:
      model: A discrete model.
      params: Its parameters.
      beta: Inverse temperature.

    Returns:
      A Python float.

    Raises:
      ValueError: If all three sums are too large, `params` do not fit the model or are being traced, or `beta` is not
        one finite number.
    """
    params, beta = _prepare(model, params, beta)
    if _by_transfer(model):
        return transfer.log_partition(model, params, beta)
    with jax.enable_x64(True):
        return float(logsumexp(smallest(model).log_weights(params, beta)))


def probabilities(
    model: DiscreteModel, params: PyTree, *, beta: float = 1.0, layer: str | None = None
) -> Float[np.ndarray, " n_states"]:
    """Returns p(x) of every configuration.

    Args:
      model: A discrete model.
      params: Its parameters.
      beta: Inverse temperature.
      layer: "visible" or "hidden" for the marginal law of one layer of an RBM.

    Returns:
      Probabilities `(n_states,)`, float64, in the order of `states`.

    Raises:
      ValueError: If there are more than 2²² configurations, or `params` or `beta` are not as `log_partition` takes
        them.
    """
    params, beta = _prepare(model, params, beta)
    with jax.enable_x64(True):
        log_weights = Enumeration(model, layer).log_weights(params, beta)
    return np.exp(log_weights - logsumexp(log_weights))


def expectation(
    model: DiscreteModel,
    params: PyTree,
    fn: Callable[[PyTree], PyTree],
    *,
    beta: float = 1.0,
    layer: str | None = None,
) -> PyTree:
    """Returns E[fn(x)] = Σ_x p(x) fn(x).

    Args:
      model: A discrete model.
      params: Its parameters.
      fn: Maps one configuration (of `layer`, if given) to a pytree of arrays. It is vmapped, and traced with 64-bit
        types on.
      beta: Inverse temperature.
      layer: "visible" or "hidden" for the marginal law of one layer of an RBM.

    Returns:
      A pytree like the result of `fn`, of NumPy float64 arrays (complex128 for complex values).

    Raises:
      ValueError: As `probabilities` does.
    """
    p = probabilities(model, params, beta=beta, layer=layer)

    @jax.jit
    def weighted_sum(x: PyTree, weights: Array) -> PyTree:
        def sum_of_leaf(values: Array) -> Array:
            return jnp.tensordot(weights, values.astype(jnp.result_type(values.dtype, jnp.float64)), 1)

        return jax.tree.map(sum_of_leaf, jax.vmap(fn)(x))

    with jax.enable_x64(True):
        chunks = Enumeration(model, layer).chunks()
        return jax.tree.map(np.asarray, total(weighted_sum(c.x, p[c.start : c.stop]) for c in chunks))


def gradient(model: DiscreteModel, params: PyTree, data: PyTree, *, beta: float = 1.0) -> PyTree:
    """Returns the gradient in the parameters of the mean negative log-likelihood of data.

    It is β (E_data[∂E] − E_model[∂E]). For an RBM, E_data also runs over p(h | v).

    Args:
      model: A discrete model.
      params: Its parameters.
      data: Configurations along a first axis, each of the same weight. Of an RBM they are visible configurations.
      beta: Inverse temperature.

    Returns:
      A pytree like `params` of NumPy float64 arrays.

    Raises:
      ValueError: If `data` is empty or does not fit the model, and as `log_partition` does.
    """
    params, beta = _prepare(model, params, beta)
    has_layers = isinstance(model, RBM)
    struct = model.position_struct()
    struct = struct[0] if has_layers else struct
    check_struct("data", data, struct, leading=1, dtypes=getattr(model, "position_dtypes", None))
    check_levels("data", data, model.n_levels)
    n = jax.tree.leaves(data)[0].shape[0]
    if n == 0:
        raise ValueError("data holds no configuration, so its mean is undefined; give at least one row")
    rows = Enumeration(model, "visible" if has_layers else None)
    by_transfer = _by_transfer(model)
    with jax.enable_x64(True):
        parts = []
        for start in range(0, n, rows.chunk_size):
            x = jax.tree.map(lambda leaf, i=start: leaf[i : i + rows.chunk_size], data)
            weights = np.full(jax.tree.leaves(x)[0].shape[0], 1 / n)
            parts.append(rows.weighted_gradient(params, beta, x, weights))
        if by_transfer:
            of_model = transfer.gradient(model, params, beta)
        else:
            of_model = smallest(model).log_partition_gradient(params, beta)
        return jax.tree.map(lambda a, b: np.asarray(b) - np.asarray(a), total(parts), of_model)


def sample(
    key: Key,
    model: DiscreteModel,
    params: PyTree,
    n_samples: int,
    *,
    beta: float = 1.0,
    layer: str | None = None,
) -> PyTree:
    """Returns independent draws from p(x).

    What is enumerated is drawn by inverting its distribution function. The larger layer of an RBM is drawn given the
    smaller one, and narrow graphs are drawn site by site from their transfer matrices. Uniforms have 52 random bits.

    Args:
      key: One typed random key.
      model: A discrete model.
      params: Its parameters.
      n_samples: Number of draws.
      beta: Inverse temperature.
      layer: "visible" or "hidden" for draws of one layer of an RBM.

    Returns:
      Configurations stacked along a new first axis, typed as the model's.

    Raises:
      ValueError: If `key` is not a single typed key, or transfer matrices are too large to keep; and as
        `log_partition` does.
    """
    check_key(key)
    check_integer("n_samples", n_samples, 0)
    params, beta = _prepare(model, params, beta)
    # Refuses a layer that the model does not have.
    Enumeration(model, layer)
    by_transfer, drawn = _by_transfer(model), smallest(model)
    with jax.enable_x64(True):
        first, second = jax.random.split(key)
        if by_transfer:
            uniforms = jax.random.uniform(first, (n_samples, model.graph.n_sites), jnp.float64)
            levels = transfer.sample(model, params, beta, np.asarray(uniforms))
            return jax.vmap(model.from_levels)(jnp.asarray(levels, jnp.int32))
        log_weights = drawn.log_weights(params, beta)
        cumulative = np.cumsum(np.exp(log_weights - logsumexp(log_weights)))
        uniform = np.asarray(jax.random.uniform(first, (n_samples,), jnp.float64))
        index = np.searchsorted(cumulative, uniform * cumulative[-1], side="right")
        x = drawn.configurations(jnp.asarray(np.minimum(index, cumulative.size - 1)))
        if not isinstance(model, RBM):
            return x
        pair = _complete(second, drawn, params, beta, x)
        return pair if layer is None else pair[0 if layer == "visible" else 1]


def _complete(key: Key, drawn: Enumeration, params: RBMParams, beta: float, x: Array) -> tuple[Array, Array]:
    """Draws the other layer of an RBM.

    A unit is on with probability σ(β · input), a spin is up with probability σ(2β · input).
    """
    weights, visible_bias, hidden_bias = params
    scale, shift = (2, 1) if drawn.model.spins else (1, 0)
    values = scale * x.astype(jnp.float64) - shift
    field = hidden_bias + values @ weights if drawn.layer == "visible" else visible_bias + values @ weights.T
    on = jax.random.uniform(key, field.shape, jnp.float64) < jax.nn.sigmoid(scale * beta * field)
    other = on.astype(jnp.uint8)
    return (x, other) if drawn.layer == "visible" else (other, x)


def _by_transfer(model: DiscreteModel) -> bool:
    """True when the transfer matrix is the cheaper sum; raises ValueError when neither sum is possible."""
    enumeration = smallest(model)
    if enumeration.n_states > _MAX_QUICK_STATES:
        entries = transfer.largest_table(model)
        if entries is not None and entries <= min(enumeration.n_states, transfer.MAX_TABLE):
            return True
    enumeration.check_size()
    return False


def _prepare(model: DiscreteModel, params: PyTree, beta: Any) -> tuple[PyTree, float]:
    """Returns parameters as NumPy float64 and β as a float; raises ValueError where they do not fit."""
    if not is_concrete((params, beta)):
        raise ValueError(
            "params or beta are being traced, and exact answers are numbers; call this outside jit"
        )
    if not isinstance(model, DiscreteModel):
        raise ValueError(f"model is {model!r}; exact answers need an Ising, Potts or RBM model")
    check_struct("params", params, model.params_struct(), dtypes=FLOATS)
    check_finite("params", params)
    is_real = np.isrealobj(beta) and np.issubdtype(np.asarray(beta).dtype, np.number)
    if np.shape(beta) != () or not is_real or not np.isfinite(beta):
        raise ValueError(f"beta is {beta!r}; give one finite number, the inverse temperature")
    return jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float64), params), float(beta)
