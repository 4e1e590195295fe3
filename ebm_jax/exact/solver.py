"""The functions of `ebm_jax.exact`: they pick the sum that is quick, and refuse what is too large."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ebm_jax.checks import (
    FLOATS,
    check_chains_fit,
    check_finite,
    check_integer,
    check_key,
    check_levels,
    check_struct,
    is_concrete,
)
from ebm_jax.energies.base import BlockModel, DiscreteModel, levels_of_leaves
from ebm_jax.energies.factor_graph import FactorGraph
from ebm_jax.exact import conditioning, elimination, layers, tables
from ebm_jax.exact.enumeration import MAX_STATES, Enumeration, logsumexp, smallest, total
from ebm_jax.types import Key, PyTree

# Up to here enumeration takes well under a second. Beyond, elimination is tried first.
_MAX_QUICK_STATES = 2**16


def states(model: BlockModel, *, layer: str | None = None) -> PyTree:
    """Returns every configuration, stacked along a new first axis in the order that the package describes.

    Args:
      model: A discrete model.
      layer: "visible" or "hidden" for one layer of an RBM; "discrete" for the nodes with levels of a `FactorGraph` that
        has real units as well.

    Returns:
      Configurations typed as the model's. Those of a layer are an array of levels `(n_states, n_units)`, uint8, but
      int32 of a `FactorGraph`, in the order of its sites.

    Raises:
      ValueError: If there are more than 2²² configurations, sites are real, or there is no such layer.
    """
    with jax.enable_x64(True):
        parts = [chunk.x for chunk in Enumeration(model, layer).chunks()]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def log_partition(model: BlockModel, params: PyTree, *, beta: float = 1.0) -> float:
    """Returns log Z = log Σ_x exp(−β E(x; params)).

    Args:
      model: A discrete model, or a `GaussianRBM` or `FactorGraph`, whose log Z integrates over its real units.
      params: Its parameters.
      beta: Inverse temperature.

    Returns:
      A Python float.

    Raises:
      ValueError: If all three sums are too large, the integral over real units is infinite or has no closed form,
        `params` do not fit the model or are being traced, or `beta` is not one finite number.
    """
    params, beta = _prepare(model, params, beta)
    cutset = _cutset(model)
    if cutset is not None:
        return conditioning.log_partition(tables.factors_of(model, params, beta), cutset)
    if _by_elimination(model):
        return elimination.log_partition(tables.factors_of(model, params, beta))
    with jax.enable_x64(True):
        return float(logsumexp(smallest(model).log_weights(params, beta)))


def probabilities(
    model: BlockModel, params: PyTree, *, beta: float = 1.0, layer: str | None = None
) -> Float[np.ndarray, " n_states"]:
    """Returns p(x) of every configuration.

    Args:
      model: A discrete model.
      params: Its parameters.
      beta: Inverse temperature.
      layer: As for `states`, for the marginal law of one layer.

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
    model: BlockModel,
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
      layer: As for `states`, for the marginal law of one layer.

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


class Marginals(NamedTuple):
    """Distributions of single sites and of the pairs that an edge joins.

    Attributes:
      sites: p(xᵢ), `(n_sites, K)`, float64.
      edges: p(xᵢ, xⱼ), `(n_edges, K, K)`, float64, with i the first column of `graph.edges`.
    """

    sites: Float[np.ndarray, "n_sites levels"]
    edges: Float[np.ndarray, "n_edges levels levels"]


class FactorMarginals(NamedTuple):
    """Distributions of single nodes and of the nodes of every term of a `FactorGraph`.

    Attributes:
      nodes: p(xᵢ) by name, `(n, K)`, float64.
      factors: p of the nodes of every term, `(n_terms, K, …)` for each factor with an axis for each member, float64.
    """

    nodes: dict[str, Float[np.ndarray, "n levels"]]
    factors: tuple[np.ndarray, ...]


def marginals(model: BlockModel, params: PyTree, *, beta: float = 1.0) -> Marginals | FactorMarginals:
    """Returns the distributions of all sites and of all joined pairs, or of all terms, by elimination.

    Args:
      model: An Ising or Potts model, or a `FactorGraph` of nodes with levels.
      params: Its parameters.
      beta: Inverse temperature.

    Returns:
      A `Marginals`, or `FactorMarginals` of a `FactorGraph`.

    Raises:
      ValueError: If the model is of another kind or its tables are too large, and as `log_partition` does.

    Example:
      >>> model = ej.Ising(ej.Graph(3, [(0, 1), (1, 2)]))
      >>> pairs = ej.exact.marginals(model, ej.IsingParams(jnp.zeros(3), jnp.ones(2))).edges
      >>> round(float(pairs[0, 1, 1] - pairs[0, 0, 1]), 4), round(float(np.tanh(1) / 2), 4)
      (0.3808, 0.3808)
    """
    params, beta = _prepare(model, params, beta)
    plan = tables.plan_of(model)
    if plan is None:
        raise ValueError(
            f"model is {model!r}; marginals need an Ising or Potts model, or a FactorGraph without real units; "
            "otherwise use expectation"
        )
    if not plan.steps:
        smallest(model).check_size(plan)
    found = elimination.marginals(tables.factors_of(model, params, beta))
    if isinstance(model, FactorGraph):
        of_sites, of_terms = tables.of_sites_and_terms(model, found)
        return FactorMarginals(dict(zip(model.kinds, of_sites, strict=True)), tuple(of_terms))
    n_sites, n_levels = model.graph.n_sites, cast(DiscreteModel, model).n_levels
    edges = np.asarray(found[n_sites:]).reshape(-1, n_levels, n_levels)
    return Marginals(np.stack(found[:n_sites]), edges)


def gradient(model: BlockModel, params: PyTree, data: PyTree, *, beta: float = 1.0) -> PyTree:
    """Returns the gradient in the parameters of the mean negative log-likelihood of data.

    It is β (E_data[∂E] − E_model[∂E]). For an RBM, E_data also runs over p(h | v).

    Args:
      model: A discrete model, or a `GaussianRBM` or `FactorGraph`.
      params: Its parameters.
      data: Configurations along a first axis, each of the same weight. Of an RBM they are visible configurations.
      beta: Inverse temperature.

    Returns:
      A pytree like `params` of NumPy float64 arrays.

    Raises:
      ValueError: If `data` is empty or does not fit the model, and as `log_partition` does.
    """
    params, beta = _prepare(model, params, beta)
    layer = "visible" if layers.is_layered(model) else None
    struct = model.position_struct()
    struct = struct if layer is None else struct[0]
    check_struct("data", data, struct, leading=1, dtypes=getattr(model, "position_dtypes", None))
    check_finite("data", data)
    # The visible layer comes first.
    for leaf, count in zip(jax.tree.leaves(data), levels_of_leaves(model, data), strict=False):
        if count is not None:
            check_levels("data", leaf, count)
    n = jax.tree.leaves(data)[0].shape[0]
    if n == 0:
        raise ValueError("data holds no configuration, so its mean is undefined; give at least one row")
    rows = Enumeration(model, layer)
    by_elimination = _by_elimination(model)
    with jax.enable_x64(True):
        parts = []
        for start in range(0, n, rows.chunk_size):
            x = jax.tree.map(lambda leaf, i=start: leaf[i : i + rows.chunk_size], data)
            weights = np.full(jax.tree.leaves(x)[0].shape[0], 1 / n)
            parts.append(rows.weighted_gradient(params, beta, x, weights))
        if by_elimination:
            of_model = tables.gradient(model, params, beta)
        else:
            of_model = smallest(model).log_partition_gradient(params, beta)
        return jax.tree.map(lambda a, b: np.asarray(b) - np.asarray(a), total(parts), of_model)


def sample(
    key: Key,
    model: BlockModel,
    params: PyTree,
    n_samples: int,
    *,
    beta: float = 1.0,
    layer: str | None = None,
) -> PyTree:
    """Returns independent draws from p(x).

    What is enumerated is drawn by inverting its distribution function. The other layer of an RBM and real units are
    drawn given what is enumerated, and thin graphs are drawn site by site from the tables of the elimination. Uniforms
    have 52 random bits.

    Args:
      key: One typed random key.
      model: A discrete model, or a `GaussianRBM` or `FactorGraph`.
      params: Its parameters.
      n_samples: Number of draws.
      beta: Inverse temperature.
      layer: As for `states`, for draws of one layer.

    Returns:
      Configurations stacked along a new first axis, typed as the model's.

    Raises:
      ValueError: If `key` is not a single typed key, or the tables of an elimination are too large to keep; and as
        `log_partition` does.
    """
    check_key(key)
    check_integer("n_samples", n_samples, 0)
    params, beta = _prepare(model, params, beta)
    check_chains_fit(n_samples, model.position_struct(), "n_samples")
    # Refuses a layer that the model does not have.
    Enumeration(model, layer)
    by_elimination, drawn = _by_elimination(model), smallest(model)
    with jax.enable_x64(True):
        first, second = jax.random.split(key)
        if by_elimination:
            uniforms = jax.random.uniform(first, (n_samples, model.graph.n_sites), jnp.float64)
            levels = elimination.sample(tables.factors_of(model, params, beta), np.asarray(uniforms))
            return jax.vmap(cast(DiscreteModel, model).from_levels)(jnp.asarray(levels, jnp.int32))
        log_weights = drawn.log_weights(params, beta)
        cumulative = np.cumsum(np.exp(log_weights - logsumexp(log_weights)))
        uniform = np.asarray(jax.random.uniform(first, (n_samples,), jnp.float64))
        index = np.searchsorted(cumulative, uniform * cumulative[-1], side="right")
        x = drawn.configurations(jnp.asarray(np.minimum(index, cumulative.size - 1)))
        if drawn.layer is None:
            return x
        return layers.part(model, layer, layers.complete(second, model, drawn.layer, params, beta, x))


def _by_elimination(model: BlockModel) -> bool:
    """True when elimination is the cheaper sum; raises ValueError when neither sum is possible."""
    enumeration = smallest(model)
    if enumeration.n_states <= _MAX_QUICK_STATES:
        return False
    plan = tables.plan_of(model)
    if plan is not None and plan.steps:
        return True
    enumeration.check_size(plan)
    return False


def _cutset(model: BlockModel) -> conditioning.Cutset | None:
    """Returns the sites to hold where enumeration and elimination are both too large, if there are few of them."""
    plan = tables.plan_of(model)
    if plan is None or plan.steps or smallest(model).n_states <= MAX_STATES:
        return None
    # The width that was met says whether a few sites will do.
    n_levels = min(smallest(model).level_counts)
    if (plan.width + 1) * math.log2(n_levels) > math.log2(conditioning.MAX_CUTSET * MAX_STATES):
        return None
    return conditioning.cutset_of(model)


def _prepare(model: BlockModel, params: PyTree, beta: Any) -> tuple[PyTree, float]:
    """Returns parameters as NumPy float64 and β as a float; raises ValueError where they do not fit."""
    if not is_concrete((params, beta)):
        raise ValueError(
            "params or beta are being traced, and exact answers are numbers; call this outside jit"
        )
    obstacle = layers.obstacle(model)
    if obstacle is not None:
        raise ValueError(obstacle)
    check_struct("params", params, model.params_struct(), dtypes=FLOATS)
    check_finite("params", params)
    is_real = np.isrealobj(beta) and np.issubdtype(np.asarray(beta).dtype, np.number)
    if np.shape(beta) != () or not is_real or not np.isfinite(beta):
        raise ValueError(f"beta is {beta!r}; give one finite number, the inverse temperature")
    if None in layers.level_counts(model, None) and beta <= 0:
        raise ValueError(f"beta is {beta}; real units have a normalised law only where beta is positive")
    return jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float64), params), float(beta)
