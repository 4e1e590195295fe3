"""Batches for conditional models: rows of data with a field each."""

from __future__ import annotations

from typing import Any, NamedTuple

from ebm_jax import checks
from ebm_jax.energies.target import Target
from ebm_jax.types import PyTree


class WithField(NamedTuple):
    """Data of a conditional model: rows, and what each of them adds to the biases.

    Row i is a datum of p(v) ∝ exp(−F(v; θ + fieldᵢ)), and the parameters θ are trained over all rows. `fit` and train
    steps take it in place of the rows alone. Both sides of the gradient then have the fields of the batch: `cd` and
    `clamped_gibbs` start a chain at each row with its field, and `pcd` gives the fields of each batch to its chains in
    order. No gradient goes through a field.

    Attributes:
      rows: Data with a leading axis.
      field: Floats shaped like the biases with the same leading axis, as for `sample(field=…)`.

    Example:
      >>> model = ej.RBM(6, 3)
      >>> data = ej.training.WithField(np.ones((8, 6), np.uint8), (np.zeros((8, 6), np.float32), None))
      >>> init, step = ej.make_train_step(model, optax.sgd(0.1), ej.negatives.cd(ej.gibbs(model)))
      >>> state, metrics = step(jax.random.key(0), init(jax.random.key(0)), data)
      >>> int(metrics.n_nonfinite)
      0
    """

    rows: PyTree
    field: PyTree


def rows_and_field(batch: Any) -> tuple[PyTree, PyTree | None]:
    """Returns the rows of a batch and their fields, None where it has none."""
    return (batch.rows, batch.field) if isinstance(batch, WithField) else (batch, None)


def checked_data(name: str, target: Target, batch: PyTree) -> PyTree:
    """Returns data of a model, with fields or without, as arrays that fit it.

    Raises:
      ValueError: If data or fields do not fit the model.
    """
    rows, field = rows_and_field(batch)
    rows = target.as_data(name, rows)
    n = target.check_data(name, rows)
    if field is None:
        return rows
    if target.add_field is None:
        raise ValueError(f"{target.model!r} takes no field; leave WithField out")
    checks.check_field(f"{name}.field", field, target.field_struct(), n)
    return WithField(rows, field)
