"""Data as people hold them, made into arrays where that loses nothing.

Lists, DataFrames, sparse matrices and tensors of other libraries become NumPy arrays. Whole numbers take the dtype of a
model's levels, and floats its precision. What cannot be converted without a choice is left to the checks, which name
the choices. No other library is imported.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ebm_jax import files
from ebm_jax.types import PyTree


def to_arrays(name: str, tree: PyTree, struct: PyTree = None, dtypes: frozenset[str] = frozenset()) -> PyTree:
    """Returns a tree whose leaves are arrays; arrays of the right dtype stay the objects that they are.

    Whole numbers of any dtype become the integers or bools of `struct` if these can hold every one of them. Floats
    become floats of its width, rounded as `jnp.asarray` rounds them. Integers do not become floats, since nobody but
    the caller knows how grey values of 0 to 255 are to be scaled. Without `struct`, dtypes stay.

    Args:
      name: What error messages call the tree.
      tree: Arrays, lists of numbers, or containers of other libraries.
      struct: A tree of `jax.ShapeDtypeStruct`, whose structure the result takes; None leaves the structure as it is.
      dtypes: Names of further dtypes that may stay.

    Returns:
      The tree. What cannot be converted is in it unchanged.

    Raises:
      ValueError: If a container holds something else than numbers, rows of several lengths, or masked values.
    """
    if struct is None:
        is_list_of_numbers = isinstance(tree, list | tuple) and all(map(_is_number, jax.tree.leaves(tree)))
        if is_list_of_numbers and jax.tree.leaves(tree):
            return _to_array(name, tree)
        return jax.tree.map(lambda leaf: leaf if _is_number(leaf) else _to_array(name, leaf), tree)
    treedef = jax.tree.structure(struct)
    if isinstance(tree, list) and type(struct) is tuple:
        tree = tuple(tree)
    try:
        parts = treedef.flatten_up_to(tree)
    except ValueError:
        return tree
    specs = jax.tree.leaves(struct)
    arrays = [
        _with_dtype(_to_array(name, part), spec, dtypes) for part, spec in zip(parts, specs, strict=True)
    ]
    return treedef.unflatten(arrays)


def is_foreign(value: Any) -> bool:
    """Returns whether a value looks like an array and belongs to a library that JAX does not know."""
    if isinstance(value, np.ma.MaskedArray):
        return True
    return not isinstance(value, jax.Array | np.ndarray | np.generic) and any(
        hasattr(value, method) for method in ("toarray", "todense", "detach", "__array__")
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float)


def _to_array(name: str, value: Any) -> Any:
    """Returns a NumPy array of a list or of another library's container; anything else unchanged."""
    if type(value) in (list, tuple):
        leaves = jax.tree.leaves(value)
        # Elements of a traced list have no values to copy, and a tuple of arrays has parts, not rows.
        is_traced = any(isinstance(leaf, Tracer) for leaf in leaves)
        if is_traced or (type(value) is tuple and not all(map(_is_number, leaves))):
            return value
    elif not is_foreign(value):
        return value
    kind = type(value).__name__
    try:
        array = _copied(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name} is {kind} that is no array of numbers ({files.reason(error)}); give an array"
        ) from error
    if array.dtype != np.bool_ and not jnp.issubdtype(array.dtype, np.number):
        raise ValueError(f"{name} is {kind} of {array.dtype}, not of numbers alone; give an array of numbers")
    return array


def _copied(value: Any) -> np.ndarray:
    if isinstance(value, np.ma.MaskedArray):
        if np.ma.is_masked(value):
            raise ValueError("some are masked: use .filled")
        return value.data
    # SciPy's sparse matrices, then those of JAX and others.
    for method in ("toarray", "todense"):
        if hasattr(value, method):
            return np.asarray(getattr(value, method)())
    # A tensor of PyTorch, which may need a gradient or lie on another device.
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    return np.asarray(value)


def _with_dtype(value: Any, spec: Any, dtypes: frozenset[str]) -> Any:
    """Returns an array with the dtype of `spec`, if it has one of `dtypes` or cannot take it, unchanged."""
    if isinstance(value, Tracer) or not isinstance(value, np.ndarray | np.generic | jax.Array):
        return value
    given, wanted = value.dtype, spec.dtype
    if given == wanted or str(given) in dtypes or jnp.issubdtype(given, jax.dtypes.extended):
        return value
    if jnp.issubdtype(wanted, jnp.floating):
        return value.astype(wanted) if jnp.issubdtype(given, jnp.floating) else value
    if not jnp.issubdtype(given, jnp.integer) and not jnp.issubdtype(given, jnp.floating):
        return value
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return value
    numbers = np.asarray(value)
    largest = 1 if wanted == np.bool_ else jnp.iinfo(wanted).max
    if not np.all((numbers >= 0) & (numbers <= largest) & (numbers == np.floor(numbers))):
        return value
    return numbers.astype(wanted)
