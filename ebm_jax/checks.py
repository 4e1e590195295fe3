"""Eager validation: every error is a `ValueError` that shows the value and the remedy.

Values are checked only where they are concrete. Inside a caller's `jit` or `vmap`, shapes and dtypes are checked, and
kernels report non-finite values in their `Info`.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ebm_jax.types import PyTree

FLOATS = frozenset({"float32", "float64"})
"""Names of the dtypes that parameters may have. Narrower ones cannot hold a draw's resolution."""


def is_concrete(tree: PyTree) -> bool:
    """Returns whether no leaf is being traced."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def check_not_traced(name: str, tree: PyTree) -> None:
    """Raises if a leaf is being traced, for the function `name`, whose result is made of NumPy's numbers."""
    if not is_concrete(tree):
        raise ValueError(
            f"{name} is called inside jit, grad or vmap, and NumPy sums its result; call it outside"
        )


def check_takes_params_and_x(name: str, function: Any) -> None:
    """Raises if a function cannot be called as `function(params, x)`."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        # Some compiled functions have none.
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise ValueError(
            f"{name} is {function!r}, which takes {signature}; give energy(params, x), parameters first: "
            "without any, lambda _, x: … and params=None"
        ) from error


def check_integer(name: str, value: Any, minimum: int) -> int:
    """Returns `value` as an int; raises if it is not a whole number of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise ValueError(
            f"{name} is {value!r} ({type(value).__name__}); give a whole number of at least {minimum}"
        )
    if value < minimum:
        raise ValueError(f"{name} is {value}; give a whole number of at least {minimum}")
    return int(value)


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    """Returns `value` if it is one of `choices`; raises otherwise."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(map(repr, choices))}")
    return value


def check_key(key: Any) -> jax.Array:
    """Returns `key` if it is one typed random key; raises otherwise."""
    if not (hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise ValueError(f"key is {_describe(key)}; make a typed one with jax.random.key(seed)")
    if key.shape != ():
        raise ValueError(f"key has shape {key.shape}; give a single key, e.g. keys[0]")
    return key


def _describe(leaf: Any) -> str:
    """Returns what an error message says of a value."""
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return f"{leaf.dtype}{list(leaf.shape)}"
    return repr(leaf) if len(repr(leaf)) < 60 else type(leaf).__name__


def _with_paths(tree: PyTree, root: str) -> list[tuple[str, Any]]:
    """Returns the leaves of a tree with their paths, which begin with `root`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(root + jax.tree_util.keystr(path), leaf) for path, leaf in leaves]


def check_struct(name: str, tree: PyTree, struct: PyTree, *, leading: int = 0, dtypes: Any = None) -> None:
    """Checks that a tree has the structure, shapes and dtypes that it should have.

    Args:
      name: What the error message calls the tree.
      tree: The tree to check.
      struct: A tree of `jax.ShapeDtypeStruct`.
      leading: Number of free axes in front of each shape.
      dtypes: Names of the dtypes that are allowed for every leaf, instead of those of `struct`.

    Raises:
      ValueError: If something differs.
    """
    got, want = jax.tree.structure(tree), jax.tree.structure(struct)
    if got != want:
        raise ValueError(f"{name} has the structure {got}; expected {want}, e.g. made by the model's init")
    for (path, leaf), spec in zip(_with_paths(tree, name), jax.tree.leaves(struct), strict=True):
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise ValueError(f"{path} is {_describe(leaf)}; expected an array {spec.dtype}{list(spec.shape)}")
        shape = tuple(leaf.shape)
        if len(shape) < leading or shape[leading:] != tuple(spec.shape):
            free = ["n_chains"] if leading == 1 else ["…"] * leading
            axes = [*free, *map(str, spec.shape)]
            wanted = ", ".join(axes) + ("," if len(axes) == 1 else "")
            remedy = ""
            if leading == 1 and shape and math.prod(shape[1:]) == math.prod(spec.shape):
                remedy = f": use .reshape({', '.join(map(str, (shape[0], *spec.shape)))})"
            raise ValueError(f"{path} has shape {shape}; expected ({wanted}){remedy}")
        allowed = dtypes or {str(spec.dtype)}
        if str(leaf.dtype) not in allowed:
            names = " or ".join(sorted(allowed))
            # `.astype(bool)` would make both spins True.
            is_number = jnp.issubdtype(leaf.dtype, np.number) and is_concrete(leaf)
            is_spins = "bool" in allowed and is_number and bool(np.any(np.asarray(leaf) == -1))
            remedy = "convert -1 and +1 with ebm_jax.spins_from" if is_spins else "convert it with .astype"
            raise ValueError(f"{path} has dtype {leaf.dtype}; expected {names}: {remedy}")


def check_finite(name: str, tree: PyTree) -> None:
    """Raises if a concrete floating leaf holds a NaN or an infinity; the message names the first one."""
    for path, leaf in _with_paths(tree, name):
        if isinstance(leaf, Tracer) or not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            continue
        # On a CPU NumPy ends the process when it reads an array that could not be allocated; waiting for it raises.
        values = np.asarray(jax.block_until_ready(leaf))
        # A float64 that JAX is about to cut to float32 may not fit.
        with np.errstate(over="ignore"):
            bad = ~np.isfinite(values.astype(jax.dtypes.canonicalize_dtype(values.dtype)))
        if bad.any():
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            value = values[where]
            raise ValueError(
                f"{path} holds {value} at index {where} ({int(bad.sum())} of {bad.size} values are not finite); "
                f"give finite numbers that fit {jax.dtypes.canonicalize_dtype(values.dtype)}"
            )


def check_levels(name: str, tree: PyTree, n_levels: int) -> None:
    """Raises if a concrete integer leaf holds a level outside 0 … n_levels − 1."""
    for path, leaf in _with_paths(tree, name):
        if isinstance(leaf, Tracer) or jnp.issubdtype(leaf.dtype, jnp.bool_) or leaf.size == 0:
            continue
        # A concrete array has values even while something else is traced.
        with jax.ensure_compile_time_eval():
            extremes = int(jnp.max(leaf)), int(jnp.min(leaf))
        outside = [level for level in extremes if not 0 <= level < n_levels]
        if outside:
            raise ValueError(
                f"{path} holds level {outside[0]}; levels run from 0 to {n_levels - 1}: "
                "use ebm_jax.data.discretize, or a model with more levels"
            )


def check_clamped(clamped: Any, x: PyTree) -> None:
    """Checks that `clamped` is None or (mask, values), each shaped like chains `x` or like one of them.

    Raises:
      ValueError: If it is not.
    """
    if clamped is None:
        return
    if not isinstance(clamped, tuple) or len(clamped) != 2:
        raise ValueError(
            f"clamped is {type(clamped).__name__}; give (mask, values), both shaped like a position"
        )
    for name, tree in zip(("clamped mask", "clamped values"), clamped, strict=True):
        if jax.tree.structure(tree) != jax.tree.structure(x):
            raise ValueError(
                f"{name} has the structure {jax.tree.structure(tree)}; a position has {jax.tree.structure(x)}"
            )
        for leaf, chains in zip(jax.tree.leaves(tree), jax.tree.leaves(x), strict=True):
            dtype = jnp.dtype(jnp.bool_) if name == "clamped mask" else chains.dtype
            if getattr(leaf, "shape", None) not in (chains.shape, chains.shape[1:]):
                shape = getattr(leaf, "shape", type(leaf).__name__)
                raise ValueError(f"{name} has shape {shape}; expected {chains.shape[1:]} or {chains.shape}")
            if leaf.dtype != dtype:
                raise ValueError(f"{name} has dtype {leaf.dtype}; expected {dtype}: convert it with .astype")
    check_finite("clamped values", clamped[1])


def check_field(name: str, field: Any, struct: PyTree, n: int) -> None:
    """Checks that a field holds, for each of n chains or rows, what it adds to the biases of a model.

    Args:
      name: What the error message calls it.
      field: The field.
      struct: What the model's `field_struct` returns.
      n: Number of chains or rows.

    Raises:
      ValueError: If it does not.
    """
    if getattr(struct, "shape", None) == () and jnp.ndim(field) > 1:
        raise ValueError(
            f"{name} has shape {jnp.shape(field)}; a model with one bias takes one number a chain, ({n},): for a field "
            'a site, build it with bias="site"'
        )
    # Each layer of an RBM may have no field.
    if isinstance(struct, tuple) and isinstance(field, tuple) and len(field) == len(struct):
        struct = tuple(None if part is None else s for part, s in zip(field, struct, strict=True))
    check_struct(name, field, struct, leading=1, dtypes=FLOATS)
    lengths = sorted({leaf.shape[0] for leaf in jax.tree.leaves(field)})
    if lengths not in ([], [n]):
        raise ValueError(
            f"{name} has leading axes {lengths}; give one field for each of the {n} chains or rows"
        )
