"""The surrogate loss of maximum likelihood.

The gradient of the mean negative log-likelihood of p(v) ∝ exp(−F(v; θ)) is

    E_data[∂F/∂θ] − E_model[∂F/∂θ],

F being the free energy of the visible part, or the energy where nothing is hidden (Ackley, Hinton and Sejnowski 1985).
With samples or weighted states in place of E_model it is the gradient of mean F(data) − mean F(negatives), whose value
is no likelihood and is only a number to differentiate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ebm_jax.types import Info, PyTree


class Negatives(NamedTuple):
    """Configurations that stand for the model's distribution.

    positions: pytree with a leading axis of length n, in the form that `energy_of_data` takes. weights: `(n,)`, adding
    up to 1, or None for equal ones. info: counts of the sampler, a row a chain. seen: of an RBM, the
    visible units as columns and Wᵀ times them, `(n_visible, n)` and `(n_hidden, n)`, where the sampler had them anyway.
    """

    positions: PyTree
    weights: Float[Array, " n"] | None
    info: Info
    seen: tuple[Array, Array] | None = None


class Energies(NamedTuple):
    """Mean F over the data and over the model's negatives, scalars."""

    data: Float[Array, ""]
    model: Float[Array, ""]


@dataclass(frozen=True)
class EnergyOf:
    """`model.energy` as a function that compares by the value of the model; a bound method compares by identity."""

    model: Any

    def __call__(self, params: PyTree, x: PyTree) -> Float[Array, ""]:
        """Returns E(x; params)."""
        return self.model.energy(params, x)


@dataclass(frozen=True)
class Complete:
    """`model` with nothing to be summed out: a configuration of it is a whole one, hidden sites included."""

    model: Any

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("model", "free_energy", "visible", "complete"):
            raise AttributeError(name)
        return getattr(self.model, name)


def energy_of(model: Any) -> Callable[[PyTree, PyTree], Float[Array, ""]]:
    """Returns E(params, x) of one whole configuration, equal for equal models; `model` may be the function itself."""
    return EnergyOf(model) if hasattr(model, "energy") else model


def energy_of_data(model: Any) -> Callable[[PyTree, PyTree], Float[Array, ""]]:
    """Returns F(params, v) of one datum: the model's `free_energy` where it has one, else its energy."""
    return model.free_energy if hasattr(model, "free_energy") else energy_of(model)


def visible_part(model: Any, positions: PyTree) -> PyTree:
    """Returns what `energy_of_data` takes, of whole configurations with a leading axis."""
    return jax.vmap(model.visible)(positions) if hasattr(model, "free_energy") else positions


def whole(model: Any, data: PyTree) -> PyTree:
    """Returns whole configurations, leading axis first, from data that may be their visible part."""
    return jax.vmap(model.complete)(data) if hasattr(model, "complete") else data


def has_contrast(model: Any) -> bool:
    """Whether the model says `free_energy_contrast` of the free energy it has: a subclass may have another one."""
    owner = next((c for c in type(model).__mro__ if "free_energy" in vars(c)), None)
    return owner is not None and "free_energy_contrast" in vars(owner)


def contrast(
    params: PyTree, model: Any, data: PyTree, negatives: Negatives
) -> tuple[tuple[Float[Array, ""], Energies], PyTree]:
    """Returns `contrastive_loss` and its gradient, the model's own where it has one."""
    if not has_contrast(model):
        return jax.value_and_grad(contrastive_loss, has_aux=True)(params, model, data, negatives)
    positions, weights, seen = negatives.positions, negatives.weights, negatives.seen
    of_data, of_model, gradient = model.free_energy_contrast(params, data, positions, weights, seen)
    return (of_data - of_model, Energies(of_data, of_model)), gradient


def contrastive_loss(
    params: PyTree, model: Any, data: PyTree, negatives: Negatives
) -> tuple[Float[Array, ""], Energies]:
    """Returns mean F(data) − Σ weight · F(negatives), and both means; its gradient estimates the likelihood's.

    data: pytree with a leading axis, any length. negatives: constants to differentiation, however they were drawn.
    """
    positions, weights = jax.lax.stop_gradient((negatives.positions, negatives.weights))
    n = jax.tree.leaves(data)[0].shape[0]
    # In one batch, so that a matrix of parameters is read, and its gradient written, once. Without the barrier the
    # compiler joins the conversion to floats with the concatenation, in a loop that is not vectorised.
    together = jax.lax.optimization_barrier(
        jax.tree.map(lambda *sides: jnp.concatenate(sides), data, positions)
    )
    each = jax.vmap(energy_of_data(model), (None, 0))(params, together)
    of_data = jnp.mean(each[:n])
    of_model = jnp.mean(each[n:]) if weights is None else jnp.dot(weights, each[n:], precision="highest")
    return of_data - of_model, Energies(of_data, of_model)
