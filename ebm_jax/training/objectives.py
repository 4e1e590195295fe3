"""What a train step minimises: a loss of a batch and of negatives, and the numbers it reports beside it.

The default is maximum likelihood. The gradient of the mean negative log-likelihood of p(v) ∝ exp(−F(v; θ)) is

    E_data[∂F/∂θ] − E_model[∂F/∂θ],

where F is the free energy of the visible part, or the energy where nothing is hidden (Ackley, Hinton and Sejnowski
1985). With samples or weighted states in place of E_model this is the gradient of mean F(data) − mean F(negatives). The
value of that difference is no likelihood. It is only a number to differentiate.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ebm_jax import arrays, checks
from ebm_jax.energies.target import Target, check_rows
from ebm_jax.training import rbm_gradient
from ebm_jax.training.fields import WithField, checked_data, rows_and_field
from ebm_jax.types import Key, PyTree

Loss = Callable[..., tuple[Any, Mapping[str, Any]]]


def _batch_itself(batch: PyTree) -> PyTree:
    return batch


@dataclass(frozen=True)
class Objective:
    """A loss to minimise and what it needs. A train step also takes the bare function.

    The train step calls

        loss(params, model, batch, negatives) -> (loss, extras)

    and differentiates the loss with respect to the parameters. `params` are what the energy takes: the trained
    parameters, or `{"params": trained, **variables}` where the train state holds variables, the dictionary that a Linen
    module's `apply` takes. `model` is a `Target`: call `model.energy(params, x)`. `batch` is any pytree with a leading
    axis. `negatives` is what a source draws (`training.Negatives`), or what `draw` returns, or None without both.

    `extras` maps names to scalars. `energy_data` and `energy_model` fill the metrics of these names; every other name
    goes to `Metrics.extra`. `variables` is no scalar: it replaces the variables of the train state.

    Attributes:
      loss: The pure function.
      needs_negatives: Whether a source of negatives is required; if False, none may be given.
      takes_data: Whether a batch holds data of the model and nothing else, so that it can be checked against the model.
      data_of: Function of a batch that returns the model's data in it, at which the chains of `cd` start; by default
        the batch itself. It compares by identity.
      draw: None, or a pure function `(key, params, model, batch) -> draws` for an objective that needs random numbers
        and no source of negatives, e.g. noise. The train step calls it with a new key at every step and gives the
        draws to the loss in the place of `negatives`, as constants to differentiation.

    Raises:
      ValueError: If `draw` is given and `needs_negatives` is True.

    Example:
      >>> def sparse(params, model, batch, negatives):
      ...     loss, extras = ej.training.contrastive.loss(params, model, batch, negatives)
      ...     size = jnp.abs(params.weights).sum()
      ...     return loss + 1e-3 * size, {**extras, "size": size}
      >>> model = ej.RBM(6, 3)
      >>> source = ej.negatives.cd(ej.gibbs(model))
      >>> init, step = ej.make_train_step(model, optax.sgd(0.1), source, objective=sparse)
      >>> state, metrics = step(jax.random.key(0), init(jax.random.key(0)), np.ones((8, 6), np.uint8))
      >>> metrics.extra["size"].shape
      ()
    """

    loss: Loss
    needs_negatives: bool = True
    takes_data: bool = False
    data_of: Callable[[Any], Any] = _batch_itself
    draw: Callable[[Key, PyTree, Target, PyTree], PyTree] | None = None

    def __post_init__(self) -> None:
        """Checks that negatives come from one place."""
        if self.draw is not None and self.needs_negatives:
            raise ValueError("draw takes the place of a source of negatives; give needs_negatives=False too")

    def value_and_grad(
        self, params: PyTree, variables: Mapping[str, Any], model: Target, batch: PyTree, negatives: Any
    ) -> tuple[tuple[Array, Mapping[str, Any]], PyTree]:
        """Returns `(loss, extras)` and the gradient of the loss with respect to `params`."""

        def of_params(params: PyTree) -> tuple[Array, Mapping[str, Any]]:
            return _checked(self.loss(with_variables(params, variables), model, batch, negatives))

        return jax.value_and_grad(of_params, has_aux=True)(params)

    def checked_batch(self, name: str, model: Target, batch: PyTree) -> PyTree:
        """Returns a batch with what it holds as arrays, structure, shapes and dtypes checked.

        Only an objective that takes data says what a batch is. For any other, rows are counted and nothing else.

        Args:
          name: What error messages call the batch.
          model: The target whose data it holds.
          batch: The batch, or shapes and dtypes of one.

        Returns:
          The batch.

        Raises:
          ValueError: If it does not fit.
        """
        if self.takes_data:
            batch = checked_data(name, model, batch)
        else:
            batch = arrays.to_arrays(name, batch)
            check_rows(name, batch)
        return batch

    def check_values(self, name: str, model: Target, data: PyTree) -> None:
        """Looks at all values of data, once in a run; raises ValueError if one is not finite or no level."""
        checks.check_finite(name, data)
        if self.takes_data:
            model.check_levels(name, rows_and_field(data)[0])


@dataclass(frozen=True)
class Contrastive(Objective):
    """Maximum likelihood. The gradient of an RBM is written out, see `rbm_gradient`."""

    def value_and_grad(
        self, params: PyTree, variables: Mapping[str, Any], model: Target, batch: PyTree, negatives: Any
    ) -> tuple[tuple[Array, Mapping[str, Any]], PyTree]:
        """Returns `(loss, extras)` and the gradient of the loss with respect to `params`."""
        if not rbm_gradient.fits(model) or isinstance(batch, WithField):
            return super().value_and_grad(params, variables, model, batch, negatives)
        of_data, of_model, gradient = rbm_gradient.contrast(params, model.model, batch, negatives)
        return (of_data - of_model, {"energy_data": of_data, "energy_model": of_model}), gradient

    def checked_batch(self, name: str, model: Target, batch: PyTree) -> PyTree:
        """Returns a batch as `Objective.checked_batch` does; its error says what else an RBM takes."""
        try:
            return super().checked_batch(name, model, batch)
        except ValueError as error:
            if not (rbm_gradient.fits(model) and "grey values" in str(error)):
                raise
            raise ValueError(
                f'{error}, or take them as means by fit(..., visible="mean-field") with negatives of pcd or exact'
            ) from error


def contrastive_loss(
    params: PyTree, model: Target, batch: PyTree, negatives: Any
) -> tuple[Float[Array, ""], Mapping[str, Any]]:
    """Returns mean F(data) − Σ weight · F(negatives), whose gradient estimates that of the likelihood.

    Args:
      params: What the energy takes.
      model: The target whose data are averaged.
      batch: Data, a pytree with a leading axis of any length, or a `WithField`.
      negatives: Constants to differentiation, however they were drawn.

    Returns:
      The loss, and both means as `energy_data` and `energy_model`.
    """
    (rows, field), weights = rows_and_field(batch), jax.lax.stop_gradient(negatives.weights)
    field, positions, own = jax.lax.stop_gradient((field, negatives.positions, negatives.field))
    if model.free_energy is None and model.mean_energy is not None and weights is None:
        of_data, of_model = model.mean_energy(params, rows, field), model.mean_energy(params, positions, own)
        return of_data - of_model, {"energy_data": of_data, "energy_model": of_model}
    n = jax.tree.leaves(rows)[0].shape[0]
    # In one batch, so that a matrix of parameters is read, and its gradient written, once. Without the barrier the
    # compiler joins the conversion to floats with the concatenation, in a loop that is not vectorised.
    together = jax.lax.optimization_barrier(
        jax.tree.map(lambda *sides: jnp.concatenate(sides), rows, positions)
    )
    if field is None:
        each = jax.vmap(model.data_energy, (None, 0))(params, together)
    else:
        fields = jax.tree.map(lambda *sides: jnp.concatenate(sides), field, own)
        each = jax.vmap(lambda x, f: model.data_energy(model.add_field(params, f), x))(together, fields)
    of_data = jnp.mean(each[:n])
    of_model = jnp.mean(each[n:]) if weights is None else jnp.dot(weights, each[n:], precision="highest")
    return of_data - of_model, {"energy_data": of_data, "energy_model": of_model}


contrastive = Contrastive(contrastive_loss, takes_data=True)
"""The default objective, maximum likelihood."""


def objective_of(objective: Any, negatives: Any) -> Objective:
    """Returns the objective that a caller named, and checks that it and the source of negatives go together.

    Args:
      objective: None for `contrastive`, an `Objective`, or a loss function.
      negatives: A source of negatives or None.

    Returns:
      The objective. A bare function takes negatives or none, as given.

    Raises:
      ValueError: If the objective is none of these, or needs negatives and has none, or the reverse.
    """
    if objective is None:
        objective = contrastive
    if not (isinstance(objective, Objective) or callable(objective)):
        raise ValueError(
            f"objective is {objective!r}; give a function (params, model, batch, negatives) -> (loss, extras), "
            "or None for maximum likelihood"
        )
    if not isinstance(objective, Objective):
        loss: Any = objective
        try:
            inspect.signature(loss).bind(None, None, None, None)
        except TypeError as error:
            raise ValueError(
                f"objective {loss!r} does not take (params, model, batch, negatives): {error}"
            ) from error
        return Objective(loss, needs_negatives=negatives is not None)
    if objective.needs_negatives and negatives is None:
        raise ValueError(
            "negatives is None and the objective needs some; give e.g. negatives.pcd(gibbs(model))"
        )
    if not objective.needs_negatives and negatives is not None:
        raise ValueError(f"negatives is {negatives!r} and the objective uses none; leave negatives out")
    return objective


def _checked(found: Any) -> tuple[Array, Mapping[str, Any]]:
    """Returns what a loss function gave, if it is a scalar and a mapping of scalars."""
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], Mapping)):
        raise ValueError(
            f"the objective returned {type(found).__name__}; return (loss, extras), extras a dictionary, {{}} for none"
        )
    loss, extras = found
    for name, value in {"loss": loss, **extras}.items():
        if name != "variables" and jnp.shape(value) != ():
            raise ValueError(
                f"the objective's {name} has shape {jnp.shape(value)}; return a scalar, such as its mean"
            )
    return loss, extras


def with_variables(params: PyTree, variables: Mapping[str, Any]) -> PyTree:
    """Returns what an energy takes: the parameters, or the dictionary of a Linen module where there are variables."""
    return {"params": params, **variables} if variables else params
