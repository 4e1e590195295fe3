"""What training, metrics and estimates of log Z ask of a model, as one explicit object.

Models differ in what they offer: some have a free energy, some have hidden sites, some are a bare function. `target_of`
looks at a model once and writes down what it found. Later code reads fields of a `Target` and never inspects the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ebm_jax import arrays, checks, functions
from ebm_jax.energies.base import levels_of_leaves
from ebm_jax.graphs.blocks import Block
from ebm_jax.types import PyTree


@dataclass(frozen=True)
class Method:
    """A method of a model as a function that compares by the model's value.

    Bound methods compare by the identity of their object. Compiled code that takes one as a static argument would
    compile again for an equal model.
    """

    model: Any
    name: str

    def __call__(self, *args: Any) -> Any:
        """Calls the method."""
        return getattr(self.model, self.name)(*args)


@dataclass(frozen=True)
class Target:
    """A law p(x) ∝ exp(−E(x; params)) and what is known of it. Equal models give equal targets.

    A configuration x is all that the energy takes. A datum is what data show of it: its visible part where sites or
    units are hidden, else x itself. Functions that a model does not have are None.

    Attributes:
      model: The model or the energy function that the target was made from.
      energy: `energy(params, x) -> scalar`, E of one configuration.
      mean_energy: `mean_energy(params, x, field=None) -> scalar`, the mean of E(x; params + field) over configurations
        and fields with a leading axis, where that is quicker than E of each.
      add_field: `add_field(params, field) -> params`, with a field added to the biases.
      field_struct: `field_struct()`, the shape of a field.
      free_energy: `free_energy(params, v) -> scalar`, F(v) = −log Σ_h exp(−E(v, h)) of one datum.
      visible: `visible(x) -> v`, the datum that a configuration shows.
      complete: `complete(v) -> x`, a configuration with visible part v.
      init: `init(key) -> params`.
      conditional_logits: `(params, x) -> logits`, log p(xᵢ = k | rest) + constᵢ of every site.
      flip_differences: `(params, v) -> differences`, F(v with unit i flipped) − F(v) of every visible unit.
      reconstruct: `(params, v) -> means`, E[v | h] at h = E[h | v].
      has_hidden_sites: Whether a datum shows a part of the sites alone, and no free energy sums out the others.
      level_counts: Levels of the sites of each leaf of a configuration, visible ones first; None where they are real.
      position_dtypes: Dtypes that a configuration may have; None where only the one of `position_struct` is right.
      position_struct: `jax.ShapeDtypeStruct`s of a configuration.
      params_struct: `jax.ShapeDtypeStruct`s of the parameters.
    """

    model: Any
    energy: Callable[..., Any]
    mean_energy: Any = None
    add_field: Any = None
    field_struct: Any = None
    free_energy: Any = None
    visible: Any = None
    complete: Any = None
    init: Any = None
    conditional_logits: Any = None
    flip_differences: Any = None
    reconstruct: Any = None
    has_hidden_sites: bool = False
    level_counts: tuple[int | None, ...] = ()
    position_dtypes: frozenset[str] | None = None
    # Pytrees may hold dictionaries, which have no hash; they follow from the model.
    position_struct: PyTree = dataclasses.field(default=None, compare=False)
    params_struct: PyTree = dataclasses.field(default=None, compare=False)

    @property
    def data_energy(self) -> Callable[..., Any]:
        """The energy of one datum: the free energy where there is one, else the energy."""
        return self.energy if self.free_energy is None else self.free_energy

    def of_full_configurations(self) -> Target:
        """Returns the target whose data are full configurations: nothing is summed out or filled in."""
        return dataclasses.replace(
            self, free_energy=None, visible=None, complete=None, has_hidden_sites=False
        )

    def data_of(self, positions: PyTree) -> PyTree:
        """Returns what `data_energy` takes, from configurations with a leading axis."""
        return positions if self.free_energy is None else jax.vmap(self.visible)(positions)

    def full_configurations(self, data: PyTree) -> PyTree:
        """Returns configurations from data, both with a leading axis."""
        return data if self.complete is None else jax.vmap(self.complete)(data)

    def data_struct(self) -> PyTree:
        """Returns the shapes and dtypes of one datum, or None if the model does not say."""
        if self.visible is None or self.position_struct is None:
            return self.position_struct
        return jax.eval_shape(self.visible, self.position_struct)

    def as_data(self, name: str, data: PyTree) -> PyTree:
        """Returns data as the arrays that they are meant as, see `arrays.to_arrays`; unchecked."""
        return arrays.to_arrays(name, data, self.data_struct(), self.position_dtypes or frozenset())

    def check_data(self, name: str, data: PyTree) -> int:
        """Checks shapes and dtypes of data, and levels where they are NumPy arrays.

        A look at the values of an array on the device would wait for it.

        Args:
          name: What to call the data in messages.
          data: Data with a leading axis.

        Returns:
          The number of rows.

        Raises:
          ValueError: If the data do not fit, or have no rows.
        """
        n = check_rows(name, data, self.data_struct(), self.position_dtypes)
        if all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(data)):
            self.check_levels(name, data)
        return n

    def check_levels(self, name: str, data: PyTree) -> None:
        """Checks that data hold levels that the model has.

        Raises:
          ValueError: If they do not.
        """
        paths, _ = jax.tree_util.tree_flatten_with_path(data)
        # Data may end before the hidden part does.
        for (path, leaf), count in zip(paths, self.level_counts, strict=False):
            if count is not None:
                checks.check_levels(name + jax.tree_util.keystr(path), leaf, count)


def target_of(model: Any) -> Target:
    """Looks at a model once and returns what it offers.

    Args:
      model: A model with a method `energy(params, x)`, such a function itself, or a `Target`, which is returned.

    Returns:
      The target.

    Raises:
      ValueError: If the model has no energy and is no function.
    """
    if isinstance(model, Target):
        return model
    if not hasattr(model, "energy"):
        if functions.library_of_module(model) == "flax.linen":
            raise ValueError(
                f"model is the Flax module {type(model).__name__}; give NeuralEnergy(module, shape), or "
                "JointEnergy(module, shape, n_classes) for a classifier"
            )
        if not callable(model):
            raise ValueError(f"model is {model!r}; give a function energy(params, x) or a model that has one")
        functions.check_energy_function("model", model)
        return Target(model, model)

    def method(name: str) -> Method | None:
        # A user's model may have a field of such a name, e.g. `visible`, a number of units.
        return Method(model, name) if callable(getattr(model, name, None)) else None

    def struct(name: str) -> PyTree:
        return getattr(model, name)() if hasattr(model, name) else None

    return Target(
        model,
        energy=Method(model, "energy"),
        mean_energy=method("mean_energy") if _follows(type(model), "mean_energy", "energy") else None,
        add_field=method("add_field"),
        field_struct=method("field_struct"),
        free_energy=method("free_energy"),
        visible=method("visible"),
        complete=method("complete"),
        # The `init` of a Linen module takes an input, and draws other things than parameters.
        init=None if functions.library_of_module(model) == "flax.linen" else method("init"),
        conditional_logits=method("conditional_logits"),
        flip_differences=method("flip_differences"),
        reconstruct=method("reconstruct"),
        has_hidden_sites=isinstance(getattr(model, "hidden", None), Block)
        and not hasattr(model, "free_energy"),
        level_counts=tuple(levels_of_leaves(model, struct("position_struct"))),
        position_dtypes=getattr(model, "position_dtypes", None),
        position_struct=struct("position_struct"),
        params_struct=struct("params_struct"),
    )


def _follows(kind: type, derived: str, source: str) -> bool:
    """Returns whether a method belongs to another: a subclass may override the other alone."""

    def owner(name: str) -> type:
        return next((parent for parent in kind.__mro__ if name in vars(parent)), kind)

    return issubclass(owner(derived), owner(source))


def check_rows(name: str, data: PyTree, struct: PyTree = None, dtypes: frozenset[str] | None = None) -> int:
    """Checks that all leaves of data have the same number of rows.

    Args:
      name: What to call the data in messages.
      data: Arrays with a leading axis.
      struct: Shapes and dtypes of one row. None leaves them unchecked.
      dtypes: Dtypes that a row may have instead of those of `struct`.

    Returns:
      The number of rows.

    Raises:
      ValueError: If the data do not fit, or have no rows.
    """
    leaves = jax.tree.leaves(data)
    if not leaves or any(not hasattr(leaf, "shape") or len(leaf.shape) == 0 for leaf in leaves):
        raise ValueError(
            f"{name} is {type(data).__name__} without a leading axis; give arrays of shape (n, ...)"
        )
    if struct is not None:
        checks.check_struct(name, data, struct, leading=1, dtypes=dtypes)
    lengths = sorted({leaf.shape[0] for leaf in leaves})
    if len(lengths) != 1 or lengths[0] == 0:
        raise ValueError(
            f"{name} has leading axes {lengths}; give every leaf the same number of rows, at least 1"
        )
    return lengths[0]
