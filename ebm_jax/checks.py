"""Eager validation: every error is a `ValueError` that shows the value and the remedy.

Values are checked only where they are concrete. Inside a caller's `jit` or `vmap`, shapes and dtypes are checked, and
kernels report non-finite values in their `Info`.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ebm_jax import arrays, functions
from ebm_jax.types import PyTree

FLOATS = frozenset({"float32", "float64"})
"""Names of the dtypes that parameters may have. Narrower ones cannot hold a draw's resolution."""

# What is smaller, in bytes, fits wherever JAX itself runs, and is not compared.
_ALWAYS_FITS = 2**27


class TooLargeError(ValueError, MemoryError):
    """A result that no memory of this machine can hold. The message names its bytes and what to lower."""


def is_concrete(tree: PyTree) -> bool:
    """Returns whether no leaf is being traced."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def check_not_traced(name: str, tree: PyTree) -> None:
    """Raises if a leaf is being traced, for the function `name`, whose result is made of NumPy's numbers."""
    if not is_concrete(tree):
        raise ValueError(
            f"{name} is called inside jit, grad or vmap, and NumPy sums its result; call it outside"
        )


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
    if arrays.is_foreign(leaf):
        return type(leaf).__name__
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
        if isinstance(tree, list) and jax.tree_util.treedef_is_leaf(want):
            raise ValueError(f"{name} is a list; expected one array: use np.asarray")
        if isinstance(tree, list) and jax.tree.structure(tuple(tree)) == want:
            raise ValueError(f"{name} is a list; expected a tuple: use tuple(…)")
        makers = {"params": ", e.g. made by the model's init", "init": ", e.g. made by init_chains"}
        raise ValueError(
            f"{name} has the structure {_short(got)}; expected {_short(want)}{makers.get(name, '')}"
        )
    for (path, leaf), spec in zip(_with_paths(tree, name), jax.tree.leaves(struct), strict=True):
        if arrays.is_foreign(leaf) or not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            wanted = f"{spec.dtype}{list(spec.shape)}"
            raise ValueError(f"{path} is {_describe(leaf)}; expected an array {wanted}: use np.asarray")
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
            raise ValueError(f"{path} has dtype {leaf.dtype}; expected {names}: {_remedy(leaf, allowed)}")


def _short(structure: Any) -> str:
    """Returns a structure in words, cut where it is as long as the data."""
    text = str(structure)
    return text if len(text) < 300 else f"{text[:300]}…"


def _remedy(leaf: Any, allowed: Any) -> str:
    """Returns how numbers of another dtype become one of those that are allowed."""
    is_number = jnp.issubdtype(leaf.dtype, np.number) and not jnp.iscomplexobj(leaf)
    if is_number and is_concrete(leaf) and not allowed & FLOATS:
        # `.astype` would make both spins True, and most grey values 0.
        values = np.asarray(leaf)
        if "bool" in allowed and np.any(values == -1):
            return "convert -1 and +1 with ebm_jax.spins_from"
        if np.any(values < 0):
            return "levels run from 0 on"
        if np.any((values != np.floor(values)) | (values > 255)) or (
            "bool" in allowed and np.any(values > 1)
        ):
            convert = "binarize" if "bool" in allowed else "discretize"
            return f"convert grey values, 0 to 1 or uint8, with ebm_jax.data.{convert}"
    return "convert it with .astype"


def check_finite(name: str, tree: PyTree) -> None:
    """Raises if a concrete floating leaf holds a NaN or an infinity; the message names the first one."""
    for path, leaf in _with_paths(tree, name):
        functions.check_is_array(path, leaf)
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
                f"{path} holds level {outside[0]}; levels run from 0 to {n_levels - 1}: use "
                f"ebm_jax.data.{'binarize' if n_levels == 2 else 'discretize'}, or a model with more levels"
            )


def check_fits(what: str, n_bytes: int, remedy: str) -> None:
    """Raises if an array that is about to be made cannot fit in memory.

    On a CPU XLA may end the process when an allocation fails, and the system ends it when more is used than there is.
    The limit is the larger of the host's physical memory and that of the devices together: XLA itself reports what is
    too large for one device alone. Nothing is refused while a function is traced, because `jax.eval_shape` makes no
    arrays and the compiler drops those that nothing reads.

    Args:
      what: What the array holds, for the message.
      n_bytes: Its size.
      remedy: What to lower, for the message.

    Raises:
      TooLargeError: If it does not fit.
    """
    if n_bytes <= _ALWAYS_FITS or n_bytes <= (limit := memory_size()):
        return
    # An array that is made while something is traced is traced itself.
    if is_concrete(jnp.zeros(())):
        raise TooLargeError(
            f"{what} would take {n_bytes:.3g} bytes, and there are {limit:.3g} bytes of memory: {remedy}"
        )


def check_chains_fit(n_chains: int, struct: PyTree, name: str = "n_chains") -> None:
    """Raises TooLargeError if `n_chains` configurations, given the shapes of one, cannot fit in memory."""
    check_fits(f"configurations for {name}={n_chains}", n_chains * count_bytes(struct), f"lower {name}")


def check_params_fit(struct: PyTree) -> None:
    """Raises TooLargeError if parameters of these shapes cannot fit in memory."""
    check_fits("the parameters", count_bytes(struct), "make the model smaller")


def count_bytes(struct: PyTree) -> int:
    """Returns the size of a tree of arrays, or of their shapes, in bytes."""
    leaves = jax.tree.leaves(struct)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


@functools.cache
def memory_size() -> float:
    """Returns the larger of the host's memory and that of the devices together, in bytes; ∞ if it is not known."""
    stats = [device.memory_stats() for device in jax.local_devices() if device.platform != "cpu"]
    if any(not found or "bytes_limit" not in found for found in stats):
        return math.inf
    on_devices = float(sum(found["bytes_limit"] for found in stats))
    return max(_host_memory(), on_devices) * jax.process_count()


def _host_memory() -> float:
    """Returns the physical memory, or the limit of a control group if that is less; ∞ if it is not known."""
    try:
        size = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        # Windows has no sysconf.
        return math.inf
    return min([size, *_group_limits()]) if size > 0 else math.inf


def _group_limits(
    proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> Iterator[float]:
    """Yields the limits of memory of the control groups that this process is in, of Linux's versions 1 and 2."""
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if "memory" in controllers.split(","):
            top, name = root / "memory", "memory.limit_in_bytes"
        elif controllers == "":
            top, name = root, "memory.max"
        else:
            continue
        below = Path(group.lstrip("/"))
        # A container may show the group's path from outside, and its limit at the top.
        for folder in {top, *(top / part for part in [below, *below.parents])}:
            try:
                # "max" is no limit, and no number.
                yield float(int((folder / name).read_text()))
            except (OSError, ValueError):
                continue


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
                f"{name} has the structure {_short(jax.tree.structure(tree))}; a position has "
                f"{_short(jax.tree.structure(x))}"
            )
        for (path, leaf), chains in zip(_with_paths(tree, name), jax.tree.leaves(x), strict=True):
            dtype = jnp.dtype(jnp.bool_) if name == "clamped mask" else chains.dtype
            if getattr(leaf, "shape", None) not in (chains.shape, chains.shape[1:]):
                shape = getattr(leaf, "shape", type(leaf).__name__)
                raise ValueError(f"{path} has shape {shape}; expected {chains.shape[1:]} or {chains.shape}")
            if leaf.dtype != dtype:
                remedy = _remedy(leaf, {str(dtype)})
                raise ValueError(f"{path} has dtype {leaf.dtype}; expected {dtype}: {remedy}")
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
