"""Ratio matching of discrete models (Hyvärinen 2007, "Some extensions of score matching").

With r = p(x with xᵢ = k) / p(x), in which the partition function cancels,

    J(θ) = E Σᵢ Σ_{k ≠ xᵢ} g(1/r)²,   g(u) = 1 / (1 + u).

For two levels the inner sum is (1 − p(xᵢ | all other xⱼ))², which is the paper's loss up to a factor and
a constant. For more levels it compares every pair of levels in this way. Two configurations that differ at one site
contribute q(x) g(1/r)² + q(x′) (1 − g(1/r))², which is least at r = q(x′)/q(x). So J is least where p is the law q of
the data. Unlike pseudo-likelihood it is bounded: a rare datum counts at most 1 a site and level.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ebm_jax.energies.conditionals import check_conditionals, log_ratios
from ebm_jax.energies.target import Target
from ebm_jax.training.objectives import Objective
from ebm_jax.types import PyTree


def _loss(params: PyTree, model: Target, batch: PyTree, negatives: Any) -> Any:
    del negatives
    check_conditionals(model)

    def of_datum(v: PyTree) -> Any:
        parts = [jnp.sum(jnp.square(jax.nn.sigmoid(part))) for part in log_ratios(model, params, v)]
        return functools.reduce(jnp.add, parts)

    return jnp.mean(jax.vmap(of_datum)(batch)), {}


_RATIO_MATCHING = Objective(_loss, needs_negatives=False, takes_data=True)


def ratio_matching() -> Objective:
    """Ratio matching: E Σᵢ (1 − p(xᵢ | all other xⱼ))² for two levels (Hyvärinen 2007).

    Returns:
      The objective. It takes no negatives, and the models of `pseudo_likelihood`.

    Example:
      >>> model, data = ej.Ising(ej.Grid(2, 2)), np.ones((8, 2, 2), bool)
      >>> fitted = ej.fit(jax.random.key(0), model, data, tx=optax.sgd(0.1), n_epochs=3, batch_size=4,
      ...                 objective=ej.training.ratio_matching(), progress=False)
      >>> bool((fitted.state.params.bias > 0).all())
      True
    """
    return _RATIO_MATCHING
