"""Measures of fit that need no partition function.

`log_likelihood_bounds` of `partition` is the measure that counts. These are cheap and cannot replace it: both can rise
while the likelihood falls.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ebm_jax.energies.conditionals import check_conditionals, log_pseudo_likelihood
from ebm_jax.energies.target import Target, target_of
from ebm_jax.types import PyTree

# Rows whose flips are computed together.
_ROWS = 64


def pseudo_log_likelihood(model: Any, params: PyTree, data: PyTree) -> float:
    """Returns the mean over `data` of Σᵢ log p(xᵢ | all other xⱼ) at β = 1, in nats (Besag 1975, Statistician 24:179).

    The value is exact: every site of every row is looked at. For an RBM that is n_visible · n_hidden softplus a row.

    Args:
      model: An `RBM`, whose hidden units are summed out, or a model whose `conditional_logits` are of all its sites
        (Ising, Potts, `FactorGraph`; none hidden or real).
      params: Its parameters.
      data: Configurations, of an RBM their visible part, with a leading axis.

    Returns:
      The mean.

    Raises:
      ValueError: If the model is another one, or the data do not fit.

    Example:
      >>> model = ej.RBM(4, 2)
      >>> uniform = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))
      >>> value = ej.metrics.pseudo_log_likelihood(model, uniform, np.zeros((3, 4), np.uint8))
      >>> round(float(value / np.log(2)), 3)
      -4.0
    """
    target = target_of(model)
    check_conditionals(target)
    data = target.as_data("data", data)
    n = target.check_data("data", data)
    totals = [_pseudo(target, params, _rows(data, i)) for i in range(0, n, _ROWS)]
    return float(np.sum([np.sum(np.asarray(total), dtype=np.float64) for total in totals]) / n)


def reconstruction_error(model: Any, params: PyTree, data: PyTree) -> float:
    """Returns the mean over data and visible units of (v − E[v | E[h | v]])², for an `RBM`.

    A datum goes up and down once with means instead of draws. A small error says that hidden units keep what they see,
    not that the model gives the data probability.

    Args:
      model: An `RBM`.
      params: Its parameters.
      data: Visible units, with a leading axis.

    Returns:
      The mean.

    Raises:
      ValueError: If the model is another one, or the data do not fit.

    Example:
      >>> model = ej.RBM(4, 2)
      >>> uniform = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))
      >>> ej.metrics.reconstruction_error(model, uniform, np.zeros((3, 4), np.uint8))
      0.25
    """
    target = target_of(model)
    if target.reconstruct is None:
        raise ValueError(f"{model!r} reconstructs nothing; give an RBM of binary units")
    data = target.as_data("data", data)
    target.check_data("data", data)
    return float(_reconstruction(target, params, jnp.asarray(data)))


@functools.partial(jax.jit, static_argnums=0)
def _pseudo(target: Target, params: PyTree, rows: PyTree) -> Float[Array, " n"]:
    return jax.lax.map(functools.partial(log_pseudo_likelihood, target, params), rows, batch_size=8)


@functools.partial(jax.jit, static_argnums=0)
def _reconstruction(target: Target, params: PyTree, data: Array) -> Float[Array, ""]:
    means = jax.vmap(target.reconstruct, (None, 0))(params, data)
    return jnp.mean((data.astype(means.dtype) - means) ** 2)


def _rows(data: PyTree, start: int) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[start : start + _ROWS]), data)
