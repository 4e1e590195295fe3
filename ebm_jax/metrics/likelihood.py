"""Measures of fit that need no partition function.

`log_likelihood_bounds` of `partition` is the measure that counts; these are cheap and cannot replace it: both can rise
while the likelihood falls.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ebm_jax import checks
from ebm_jax.types import PyTree

_ROWS = 64  # rows whose flips are in work together


def pseudo_log_likelihood(model: Any, params: PyTree, data: PyTree) -> float:
    """Returns the mean over `data` of Σᵢ log p(xᵢ | all other xⱼ) at β = 1, in nats (Besag 1975, Statistician 24:179).

    model: an `RBM`, whose hidden units are summed out, or a model whose `conditional_logits` are of all its sites
    (Ising, Potts; none hidden). data: configurations, of an RBM their visible part, with a leading axis. Exact: every
    site of every row is looked at. For an RBM that is n_visible · n_hidden softplus a row.

    Raises ValueError on another model, and on data that do not fit.
    """
    if hasattr(model, "flip_differences"):
        struct = model.position_struct()[0]
    elif hasattr(model, "conditional_logits") and hasattr(model, "levels") and not _has_hidden(model):
        struct = model.position_struct()
    else:
        raise ValueError(
            f"{model!r} has no conditionals of the sites of a datum; give an RBM of binary units, or an Ising or Potts "
            "model without hidden sites"
        )
    n = _check("data", data, struct, model)
    totals = [_pseudo(model, params, _rows(data, i)) for i in range(0, n, _ROWS)]
    return float(np.sum([np.sum(np.asarray(total), dtype=np.float64) for total in totals]) / n)


def reconstruction_error(model: Any, params: PyTree, data: PyTree) -> float:
    """Returns the mean over data and visible units of (v − E[v | E[h | v]])², for an `RBM`.

    A datum goes up and down once with means instead of draws. Small errors say that hidden units keep what they see,
    not that the model gives the data probability. Raises ValueError on another model, and on data that do not fit.
    """
    if not hasattr(model, "reconstruct"):
        raise ValueError(f"{model!r} reconstructs nothing; give an RBM of binary units")
    _check("data", data, model.position_struct()[0], model)
    return float(_reconstruction(model, params, jnp.asarray(data)))


@functools.partial(jax.jit, static_argnums=0)
def _pseudo(model: Any, params: PyTree, rows: PyTree) -> Float[Array, " n"]:
    def one(x: PyTree) -> Float[Array, ""]:
        if hasattr(model, "flip_differences"):  # p(xᵢ | rest) = 1 / (1 + exp(F(x) − F(x with i flipped)))
            return -jnp.sum(jax.nn.softplus(-model.flip_differences(params, x)))
        logits = jax.tree.leaves(model.conditional_logits(params, x))
        levels = jax.tree.leaves(x)
        each = [
            jnp.take_along_axis(jax.nn.log_softmax(of), level.astype(jnp.int32)[..., None], axis=-1)
            for of, level in zip(logits, levels, strict=True)
        ]
        return functools.reduce(jnp.add, [jnp.sum(part) for part in each])

    return jax.lax.map(one, rows, batch_size=8)


@functools.partial(jax.jit, static_argnums=0)
def _reconstruction(model: Any, params: PyTree, data: Array) -> Float[Array, ""]:
    means = jax.vmap(model.reconstruct, (None, 0))(params, data)
    return jnp.mean((data.astype(means.dtype) - means) ** 2)


def _has_hidden(model: Any) -> bool:
    return getattr(model, "hidden", None) is not None or hasattr(model, "free_energy")


def _check(name: str, data: PyTree, struct: PyTree, model: Any) -> int:
    checks.check_struct(name, data, struct, leading=1, dtypes=model.position_dtypes)
    n = jax.tree.leaves(data)[0].shape[0]
    if n == 0:
        raise ValueError(f"{name} has no rows; give at least one")
    return n


def _rows(data: PyTree, start: int) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[start : start + _ROWS]), data)
