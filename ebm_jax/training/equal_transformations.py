"""Optax transformations that compare by what they do, so that one built again does not compile again.

Optax makes a transformation of closures, and closures compare by identity. Two of them do the same if their code is the
same and all that they refer to is: numbers, texts, small arrays, other such functions, and objects of Optax. A function
that refers to anything else, such as an object of the user's that may change, is equal to itself alone.
"""

from __future__ import annotations

import enum
import functools
import types
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ebm_jax import checks

# The globals of these packages do not change while a process runs.
_LIBRARIES = ("builtins", "ebm_jax", "jax", "jaxlib", "numpy", "optax")
_MAX_ARRAY = 2**16
_MAX_VALUES = 5_000
_PLAIN = (bool, int, float, complex, str, bytes, np.dtype, np.generic)


class ComparableTransformation(optax.GradientTransformationExtraArgs):
    """A transformation with the functions of another, equal to every one that does the same."""

    def __eq__(self, other: Any) -> bool:
        """Whether the other does the same."""
        if not isinstance(other, ComparableTransformation):
            return False
        return tuple(self) == tuple(other) or self.fingerprint == other.fingerprint

    def __ne__(self, other: Any) -> bool:
        """Whether the other does something else, or may do so."""
        # A tuple has its own.
        return not self == other

    def __hash__(self) -> int:
        """Returns the hash of what it does."""
        return self._hash

    @functools.cached_property
    def fingerprint(self) -> Any:
        """What the transformation does, as nested tuples that compare by value."""
        return tuple(_Reader().read(function) for function in self)

    @functools.cached_property
    def _hash(self) -> int:
        return hash(self.fingerprint)


def comparable(tx: optax.GradientTransformation | optax.MultiSteps) -> ComparableTransformation:
    """Returns a transformation with the functions of `tx` that compares by what they do."""
    if isinstance(tx, ComparableTransformation):
        return tx
    transformation: Any = tx
    return ComparableTransformation(*optax.with_extra_args_support(transformation))


class _UnknownError(Exception):
    """Raised where two values cannot be known to do the same."""


class _Identity:
    """An object that is equal to itself alone. Holding the object keeps its address from being used again."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, _Identity) and self.held is other.held

    def __hash__(self) -> int:
        return id(self.held)


class _Reader:
    """Reads functions into nested tuples that are equal for functions that do the same."""

    def __init__(self) -> None:
        self.within: set[int] = set()
        self.n_values = 0

    def read(self, value: Any) -> Any:
        """Returns the tuples of one value; raises _UnknownError unless it is a function or made of known values."""
        self.n_values += 1
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return self._method(value)
        if value is None or isinstance(value, _PLAIN):
            # In Python 1, 1.0 and True are equal, and so are −0.0 and 0.0.
            return type(value), repr(value)
        if isinstance(value, tuple | list):
            return type(value), tuple(map(self.read, value))
        if type(value) is dict:
            return dict, tuple((self.read(name), self.read(held)) for name, held in value.items())
        if isinstance(value, functools.partial):
            return "partial", self.read(value.func), self.read(value.args), self.read(value.keywords)
        if isinstance(value, np.ndarray | jax.Array) and _is_small(value):
            array = np.asarray(value)
            return "array", type(value), str(array.dtype), array.shape, array.tobytes()
        if _root(type(value).__module__) == "optax" and hasattr(value, "__dict__"):
            return "object", type(value), self.read(vars(value))
        if _is_constant(value):
            return _Identity(value)
        raise _UnknownError

    def _function(self, value: types.FunctionType) -> Any:
        # A function that leads back to itself is not compared.
        if id(value) in self.within or self.n_values > _MAX_VALUES:
            return _Identity(value)
        self.within.add(id(value))
        try:
            held = (
                self.read(value.__defaults__),
                self.read(value.__kwdefaults__),
                tuple(self.read(_content(cell)) for cell in value.__closure__ or ()),
                self._globals(value),
            )
            return "function", value.__code__, held
        except _UnknownError:
            return _Identity(value)
        finally:
            self.within.remove(id(value))

    def _method(self, value: types.MethodType) -> Any:
        function = self._function(value.__func__)
        try:
            return "method", function, self.read(value.__self__)
        except _UnknownError:
            return "method", function, _Identity(value.__self__)

    def _globals(self, function: types.FunctionType) -> Any:
        """Returns what a function of the user's finds under the global names in its code."""
        found = function.__globals__
        if _root(found.get("__name__")) in _LIBRARIES:
            return id(found)
        names = tuple(_names(function.__code__))
        return id(found), tuple(
            (name, self._module(found[name], names) if _is_module(found[name]) else self.read(found[name]))
            for name in names
            if name in found
        )

    def _module(self, module: types.ModuleType, names: Iterable[str]) -> Any:
        """Returns a module with those of its attributes that a function may read, `settings.rate` for instance."""
        if _root(module.__name__) in _LIBRARIES:
            return _Identity(module)
        return _Identity(module), tuple(
            (name, self.read(vars(module)[name])) for name in names if name in vars(module)
        )


def _names(code: types.CodeType) -> dict[str, None]:
    """Returns the global names and attributes in a code, and in that of functions within it, in order."""
    names = dict.fromkeys(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names


def _root(name: str | None) -> str:
    return (name or "").partition(".")[0]


def _is_module(value: Any) -> bool:
    return isinstance(value, types.ModuleType)


def _is_constant(value: Any) -> bool:
    """Returns whether an object behaves the same for as long as it lives."""
    if isinstance(value, type | enum.Enum | jax.Array) or _is_module(value):
        return True
    if isinstance(value, types.BuiltinFunctionType):
        return value.__self__ is None or _is_module(value.__self__)
    return _root(type(value).__module__) in _LIBRARIES and not isinstance(value, np.ndarray | types.CellType)


def _is_small(value: Any) -> bool:
    if not checks.is_concrete(value) or value.size > _MAX_ARRAY:
        return False
    return not jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError as error:
        # A variable that has no value yet.
        raise _UnknownError from error
