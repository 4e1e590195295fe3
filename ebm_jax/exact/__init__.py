"""Exact answers for small systems: log Z, probabilities, expectations, likelihood gradients and independent draws.

Z(β) = Σ_x exp(−β E(x; θ)), p(x) = exp(−β E(x; θ)) / Z(β), for any discrete model, by one of three sums:

- every configuration, up to 2²² of them;
- for an RBM every configuration of its smaller layer, the larger one summed in closed form;
- for Ising and Potts models on strips, and on other narrow graphs whose sites are numbered along them, a transfer
  matrix (Kramers and Wannier 1941) applied site by site.

Parameters are converted to float64 whatever the user's default, and answers are NumPy float64. β belongs to the
sampler: with hidden units the visible marginal is p(v) ∝ Σ_h exp(−β E(v, h)), which is not exp(−β F(v)).

Order of configurations: the last site varies fastest (as in `itertools.product`), so configuration number i is i
written in base K, site 0 being the leading digit. An RBM's sites are its visible units and then its hidden ones.
`layer="visible"` or `"hidden"` enumerates one layer of an RBM and works on its marginal.
"""

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
from ebm_jax.exact.enumeration import MAX_STATES, Enumeration, logsumexp, smallest, total
from ebm_jax.types import Key, PyTree

__all__ = ["MAX_STATES", "expectation", "gradient", "log_partition", "probabilities", "sample", "states"]

_QUICK = 2**16  # enumeration takes well under a second up to here; past it the transfer matrix is tried first


def states(model: DiscreteModel, *, layer: str | None = None) -> PyTree:
    """Returns every configuration, stacked along a new first axis in the order that the module describes.

    With a `layer` the array `(n_states, n_units)`, uint8. Raises ValueError past 2²² configurations.
    """
    with jax.enable_x64(True):
        parts = [chunk.x for chunk in Enumeration(model, layer).chunks()]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def log_partition(model: DiscreteModel, params: PyTree, *, beta: float = 1.0) -> float:
    """Returns log Z = log Σ_x exp(−β E(x; params)) by whichever of the three sums is quick.

    Raises ValueError when all of them are too large, when `params` do not fit the model or are being traced, or when
    `beta` is not one number.
    """
    params, beta = _prepare(model, params, beta)
    if _by_transfer(model):
        return transfer.log_partition(model, params, beta)
    with jax.enable_x64(True):
        return float(logsumexp(smallest(model).log_weights(params, beta)))


def probabilities(
    model: DiscreteModel, params: PyTree, *, beta: float = 1.0, layer: str | None = None
) -> Float[np.ndarray, " n_states"]:
    """Returns p(x) of every configuration in the order of `states`.

    Raises ValueError past 2²² configurations and on `params` or `beta` as `log_partition` does.
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
    """Returns E[fn(x)] = Σ_x p(x) fn(x) as a pytree of NumPy float64 arrays (complex128 for complex values).

    `fn` maps one configuration (of `layer`, if given) to a pytree of arrays; it is vmapped, and traced with 64-bit
    types on. Raises as `probabilities` does.
    """
    p = probabilities(model, params, beta=beta, layer=layer)

    @jax.jit
    def weighted_sum(x: PyTree, weights: Array) -> PyTree:
        def one(values: Array) -> Array:
            return jnp.tensordot(weights, values.astype(jnp.result_type(values.dtype, jnp.float64)), 1)

        return jax.tree.map(one, jax.vmap(fn)(x))

    with jax.enable_x64(True):
        chunks = Enumeration(model, layer).chunks()
        return jax.tree.map(np.asarray, total(weighted_sum(c.x, p[c.start : c.stop]) for c in chunks))


def gradient(model: DiscreteModel, params: PyTree, data: PyTree, *, beta: float = 1.0) -> PyTree:
    """Returns the gradient in `params` of the mean negative log-likelihood of `data`: NumPy float64, like `params`.

    β (E_data[∂E] − E_model[∂E]), where each configuration along the first axis of `data` counts alike. For an RBM,
    whose `data` are visible configurations, E_data also runs over p(h | v). Raises ValueError when `data` is empty or
    does not fit the model, and as `log_partition` does.
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
    """Returns independent draws from p(x), stacked along a new first axis and typed as configurations of the model.

    By inverting the distribution function of what is enumerated; an RBM's larger layer is drawn given its smaller one,
    narrow graphs site by site against their transfer matrices. Uniforms have 52 random bits. Raises as `log_partition`
    does, on a key that is not a single typed one, and on transfer matrices too large to keep.
    """
    check_key(key)
    check_integer("n_samples", n_samples, 0)
    params, beta = _prepare(model, params, beta)
    Enumeration(model, layer)  # refuses a layer that is not there
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
    """Draws the other layer of an RBM: each unit is on with probability σ(β · input), a spin up with σ(2β · input)."""
    weights, visible_bias, hidden_bias = params
    scale, shift = (2, 1) if drawn.model.spins else (1, 0)
    values = scale * x.astype(jnp.float64) - shift
    field = hidden_bias + values @ weights if drawn.layer == "visible" else visible_bias + values @ weights.T
    on = jax.random.uniform(key, field.shape, jnp.float64) < jax.nn.sigmoid(scale * beta * field)
    other = on.astype(jnp.uint8)
    return (x, other) if drawn.layer == "visible" else (other, x)


def _by_transfer(model: DiscreteModel) -> bool:
    """True when the transfer matrix is the cheaper sum; raises ValueError when neither sum is possible."""
    whole = smallest(model)
    if whole.n_states > _QUICK:
        entries = transfer.largest_table(model)
        if entries is not None and entries <= min(whole.n_states, transfer.MAX_TABLE):
            return True
    whole.check_size()
    return False


def _prepare(model: DiscreteModel, params: PyTree, beta: Any) -> tuple[PyTree, float]:
    if not is_concrete((params, beta)):
        raise ValueError(
            "params or beta are being traced, and exact answers are numbers; call this outside jit"
        )
    if not hasattr(model, "from_levels"):
        raise ValueError(f"model is {model!r}; exact answers need an Ising, Potts or RBM model")
    check_struct("params", params, model.params_struct(), dtypes=FLOATS)
    check_finite("params", params)
    is_real = np.isrealobj(beta) and np.issubdtype(np.asarray(beta).dtype, np.number)
    if np.shape(beta) != () or not is_real or not np.isfinite(beta):
        raise ValueError(f"beta is {beta!r}; give one finite number, the inverse temperature")
    return jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float64), params), float(beta)
