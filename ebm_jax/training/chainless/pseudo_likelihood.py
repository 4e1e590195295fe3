"""Pseudo-likelihood of discrete models: −E Σᵢ log p(xᵢ | all other xⱼ) (Besag 1975, Statistician 24:179)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ebm_jax.energies.conditionals import check_conditionals, log_pseudo_likelihood
from ebm_jax.energies.target import Target
from ebm_jax.training.objectives import Objective
from ebm_jax.types import PyTree


def _loss(params: PyTree, model: Target, batch: PyTree, negatives: Any) -> Any:
    del negatives
    check_conditionals(model)
    return -jnp.mean(jax.vmap(lambda v: log_pseudo_likelihood(model, params, v))(batch)), {}


_PSEUDO_LIKELIHOOD = Objective(_loss, needs_negatives=False, takes_data=True)


def pseudo_likelihood() -> Objective:
    """Maximum pseudo-likelihood: −E Σᵢ log p(xᵢ | all other xⱼ), exact conditionals without log Z (Besag 1975).

    If the data come from the model, its parameters converge to the true ones. For other data the fit differs from that
    of maximum likelihood. `metrics.pseudo_log_likelihood` measures the same sum.

    Returns:
      The objective. It takes no negatives. Models: an RBM of binary units, or Ising and Potts models without hidden
      sites.

    Example:
      >>> model, data = ej.Ising(ej.Grid(2, 2)), np.ones((8, 2, 2), bool)
      >>> fitted = ej.fit(jax.random.key(0), model, data, tx=optax.sgd(0.1), n_epochs=3, batch_size=4,
      ...                 objective=ej.training.pseudo_likelihood(), progress=False)
      >>> bool((fitted.state.params.bias > 0).all())
      True
    """
    return _PSEUDO_LIKELIHOOD
