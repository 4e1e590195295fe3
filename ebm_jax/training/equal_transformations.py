"""Optax transformations that compare by what they do, so that one built again does not compile again.

Optax makes a transformation of closures, and closures compare by identity. Two of them do the same if their code is the
same and all that they refer to is: numbers, texts, other such functions, and objects made of these. Where that cannot
be known, identity decides.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import jax
import numpy as np
import optax

from ebm_jax import checks

_MAX_DEPTH = 30
_MAX_ARRAY = 2**16


class ComparableTransformation(optax.GradientTransformationExtraArgs):
    """A transformation with the functions of another, equal to every one that does the same."""

    def __eq__(self, other: Any) -> bool:
        """Whether the other does the same."""
        if not isinstance(other, ComparableTransformation):
            return False
        return tuple(self) == tuple(other) or self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        """Returns the hash of what it does."""
        return hash(self.fingerprint)

    @functools.cached_property
    def fingerprint(self) -> Any:
        """What the transformation does, as nested tuples that compare by value."""
        return tuple(_fingerprint(function, 0) for function in self)


def comparable(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns a transformation with the functions of `tx` that compares by what they do."""
    if isinstance(tx, ComparableTransformation):
        return tx
    return ComparableTransformation(*optax.with_extra_args_support(tx))


class _Identity:
    """An object that is equal to itself alone. It holds the object, whose address is not given away meanwhile."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, _Identity) and self.held is other.held

    def __hash__(self) -> int:
        return id(self.held)


def _fingerprint(value: Any, depth: int) -> Any:
    """Returns something hashable that is equal for values that do the same."""
    if depth > _MAX_DEPTH:
        return _Identity(value)
    inner = functools.partial(_fingerprint, depth=depth + 1)
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | type | np.dtype):
        # 1, 1.0 and True are equal in Python, and −0.0 and 0.0.
        return type(value), repr(value) if isinstance(value, float | complex) else value
    if isinstance(value, types.FunctionType):
        cells = tuple(inner(_content(cell)) for cell in value.__closure__ or ())
        keywords = tuple((name, inner(held)) for name, held in sorted((value.__kwdefaults__ or {}).items()))
        return "function", value.__code__, id(value.__globals__), inner(value.__defaults__), keywords, cells
    if isinstance(value, functools.partial):
        return "partial", inner(value.func), inner(value.args), inner(value.keywords)
    if isinstance(value, types.MethodType):
        return "method", inner(value.__func__), inner(value.__self__)
    if isinstance(value, tuple | list):
        return type(value), tuple(inner(item) for item in value)
    if type(value) is dict and all(isinstance(name, str) for name in value):
        return dict, tuple((name, inner(held)) for name, held in sorted(value.items()))
    if (
        type(value).__eq__ is object.__eq__
        and hasattr(value, "__dict__")
        and not isinstance(value, types.ModuleType)
    ):
        slots = any("__slots__" in vars(parent) for parent in type(value).__mro__[:-1])
        if not slots and isinstance(vars(value), dict):
            return "object", type(value), inner(vars(value))
    if _is_small_array(value):
        array = np.asarray(value)
        return "array", str(array.dtype), array.shape, array.tobytes()
    return _Identity(value)


def _is_small_array(value: Any) -> bool:
    if not isinstance(value, np.ndarray | jax.Array) or not checks.is_concrete(value):
        return False
    return value.size <= _MAX_ARRAY and not jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        # A variable that has no value yet.
        return cell
