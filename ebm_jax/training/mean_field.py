"""Grey values as the means of visible bits: an objective for RBMs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import arrays, checks
from ebm_jax.energies.target import Target, check_rows
from ebm_jax.training import rbm_gradient
from ebm_jax.training.fields import WithField
from ebm_jax.training.objectives import Contrastive, contrastive_loss
from ebm_jax.types import PyTree


@dataclass(frozen=True)
class MeanField(Contrastive):
    """What `mean_field` is."""

    def checked_batch(self, name: str, model: Target, batch: PyTree) -> PyTree:
        """Returns means as one array, its shape and dtype checked."""
        if isinstance(batch, WithField):
            raise ValueError(f"{name} is a WithField, and mean_field takes no fields; give its rows alone")
        dtypes = frozenset({"bool", "uint8", *checks.FLOATS})
        batch = arrays.to_arrays(name, batch, jax.ShapeDtypeStruct((), jnp.float32), dtypes)
        _check_means(name, model, batch)
        return batch

    def check_values(self, name: str, model: Target, data: PyTree) -> None:
        """Checks that all means lie in 0 to 1; raises ValueError if one does not."""
        del model
        checks.check_finite(name, data)
        values = np.asarray(data)
        outside = values[(values < 0) | (values > 1)]
        if outside.size:
            raise ValueError(
                f"{name} holds {outside.flat[0]}; means of bits lie in 0 to 1: divide grey values by the largest one"
            )


mean_field = MeanField(contrastive_loss)
"""Maximum likelihood of an RBM for data m that are means of bits, real numbers in [0, 1].

The loss is mean F(m) − E_model[F(v)], with the free energy F continued to real numbers. Its gradient is that of the
ordinary objective with m in the place of v: hidden units see the mean, p(h = 1 | m) = σ(b + mᵀW).

With log Z added, F(m) is an upper bound of the expected negative log-likelihood of bits drawn from the means,
v ~ Π Bernoulli(mᵢ), because F is concave: F(m) ≥ E[F(v)]. Both are equal where all m are 0 or 1. The gradient in the
visible biases, −m, is that of drawn bits. In the weights, m σ(b + mᵀW) takes the place of E[v σ(b + vᵀW)]. Drawing bits
at every step instead has no such bias: give `fit` grey values as uint8 and `prepare=training.binarize_batch`.

scikit-learn's `BernoulliRBM` treats data in [0, 1] in this way. `cd` starts its chains at bits, so negatives come from
`pcd`. For spins, m is the probability of +1.
"""


def with_means(visible: str | None, objective: Any) -> Any:
    """Returns the objective for what `fit` calls `visible`.

    Raises:
      ValueError: If `visible` is unknown, or goes with no other objective than the default.
    """
    checks.check_choice("visible", visible, (None, "mean-field"))
    if visible is None:
        return objective
    if objective is not None:
        raise ValueError(
            'visible="mean-field" is an objective, and another one is given; leave one of them out'
        )
    return mean_field


def _check_means(name: str, model: Target, batch: Any) -> None:
    if not rbm_gradient.fits(model):
        raise ValueError(f"{model.model!r} takes no means of its visible units; give an RBM")
    check_rows(name, batch)
    n_visible = model.model.n_visible
    if getattr(batch, "shape", ())[1:] != (n_visible,):
        raise ValueError(f"{name} has shape {jnp.shape(batch)}; expected (n, {n_visible}), e.g. by .reshape")
