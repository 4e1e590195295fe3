"""Centred gradients of an RBM, as an Optax transformation.

An RBM whose units are measured from offsets μ (visible) and λ (hidden), E = −(v−μ)ᵀa − (h−λ)ᵀb − (v−μ)ᵀW(h−λ), is the
same family in other coordinates. Its gradient, carried back to W, a, b, is a better direction: it does not change when
bits of the data are flipped (Montavon and Müller 2012; Melchior, Fischer and Wiskott 2016, "How to center
deep Boltzmann machines", JMLR 17:99, whose "enhanced gradient" and "centered RBM" are choices of the offsets).
With ∇W, ∇a, ∇b the plain gradient:

    ∇ᶜW = ∇W − ∇a λᵀ − μ ∇bᵀ,   ∇ᶜa = ∇a − ∇ᶜW λ,   ∇ᶜb = ∇b − ∇ᶜWᵀ μ.

It is linear in the plain gradient and vanishes where that does. It holds for spins as for units 0 and 1: μ and λ are
means of the values.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from ebm_jax.energies.rbm import RBM, RBMParams
from ebm_jax.training.averaging import running_weight
from ebm_jax.types import PyTree


class CentredState(NamedTuple):
    """State of `centred`.

    Attributes:
      count: int32, updates so far.
      visible: The offset μ of visible units.
      hidden: The offset λ of hidden units.
    """

    count: Int[Array, ""]
    visible: Float[Array, " n_visible"]
    hidden: Float[Array, " n_hidden"]


def centred(model: RBM, rate: float = 0.01) -> optax.GradientTransformationExtraArgs:
    """Returns an Optax transformation that turns the plain gradient of `model` into the centred one.

    It goes first in a chain, `optax.chain(centred(model), optax.sgd(0.05))`, where it sees the gradient itself. Offsets
    are running averages of ½ (mean under the data + mean under the model), this step's included, without the bias of
    their start. Means under the data come from the batch, which the train step passes to the optimiser. Means under the
    model are those of the data plus the gradient of the biases.

    Args:
      model: An `RBM`, of units 0 and 1 or of spins.
      rate: Weight of the newest means in the running averages, in (0, 1].

    Returns:
      The transformation. Its update raises ValueError unless it is given parameters and `data`.

    Raises:
      ValueError: If the model is another one, or `rate` lies outside (0, 1].
    """
    if not isinstance(model, RBM):
        raise ValueError(
            f"model is {model!r}; centred gradients are those of an RBM of binary units or spins"
        )
    if not 0 < rate <= 1:
        raise ValueError(f"rate is {rate!r}; give a number above 0 and at most 1, e.g. 0.01")

    def init(params: Any) -> CentredState:
        return CentredState(
            jnp.zeros((), jnp.int32), jnp.zeros_like(params.visible_bias), jnp.zeros_like(params.hidden_bias)
        )

    def update(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        data: PyTree = None,
        **extra: Any,
    ) -> tuple[Any, CentredState]:
        del extra
        if params is None or data is None:
            raise ValueError(
                "centred needs the parameters and the batch; call tx.update(grads, state, params, data=batch), "
                "as the train step does"
            )
        count = jnp.asarray(optax.safe_increment(state.count))
        weight = running_weight(rate, count)
        visible, hidden = (
            old + (weight * (mean + grad / 2 - old)).astype(old.dtype)
            for old, mean, grad in zip(
                state[1:],
                _means(model, params, data),
                (updates.visible_bias, updates.hidden_bias),
                strict=True,
            )
        )
        return centre(updates, visible, hidden), CentredState(count, visible, hidden)

    return optax.GradientTransformationExtraArgs(init, update)


def centre(
    gradient: RBMParams, visible: Float[Array, " n_visible"], hidden: Float[Array, " n_hidden"]
) -> RBMParams:
    """Returns the centred gradient ∇ᶜ of a plain one, at offsets μ = `visible` and λ = `hidden`."""
    weights, of_visible, of_hidden = gradient
    weights = weights - of_visible[:, None] * hidden - visible[:, None] * of_hidden
    return RBMParams(
        weights,
        of_visible - jnp.dot(weights, hidden, precision="highest"),
        of_hidden - jnp.dot(visible, weights, precision="highest"),
    )


def _means(
    model: RBM, params: RBMParams, data: PyTree
) -> tuple[Float[Array, " n_visible"], Float[Array, " n_hidden"]]:
    """Returns means of the visible units under the data, and of the hidden ones given them: −∂F/∂a and −∂F/∂b."""

    def mean_energy(biases: tuple[Array, Array]) -> Float[Array, ""]:
        shifted = RBMParams(params.weights, *biases)
        return -jnp.mean(jax.vmap(model.free_energy, (None, 0))(shifted, data))

    return jax.grad(mean_energy)((params.visible_bias, params.hidden_bias))
