"""Energies that users bring as functions or modules: whether they can be called as `energy(params, x)`."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp

from ebm_jax import files
from ebm_jax.types import PyTree

_HOW = "give energy(params, x), parameters first"
_REMEDIES = {
    "flax.linen": "give NeuralEnergy(module, shape), or energy(params, x) such as "
    "lambda params, x: module.apply(params, x).squeeze()",
    "flax.nnx": "give energy(params, x): graph, params = nnx.split(module), and "
    "lambda params, x: nnx.merge(graph, params)(x).squeeze()",
    "equinox": "give energy(params, x): params, static = equinox.partition(module, equinox.is_array), and "
    "lambda params, x: equinox.combine(params, static)(x)",
}


def library_of_module(value: Any) -> str | None:
    """Returns "flax.linen", "flax.nnx" or "equinox" if a value is a module of that library, without loading it."""
    for parent in type(value).__mro__:
        for library in _REMEDIES:
            if parent.__name__ == "Module" and parent.__module__.startswith(library):
                return library
    return None


def check_energy_function(name: str, function: Any) -> None:
    """Checks that a function can be called as `function(params, x)` and does not name its arguments `(x, params)`.

    Raises:
      ValueError: If it cannot, or does.
    """
    library = library_of_module(function)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        # Some compiled functions have none.
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        if library is not None:
            raise ValueError(
                f"{name} is {shown(function)}, which is called as f(x); {_REMEDIES[library]}"
            ) from error
        raise ValueError(
            f"{name} is {shown(function)}, which takes {files.one_line(str(signature))}; {_HOW}: "
            "without any, lambda _, x: … and params=None"
        ) from error
    # A layer of Flax itself takes inputs, and options after them.
    if library == "flax.nnx" and type(function).__module__.startswith("flax."):
        raise ValueError(f"{name} is {shown(function)}, which is called as f(x); {_REMEDIES[library]}")
    names = [*signature.parameters][:2]
    if names[0] == "x" and names[-1] in ("params", "parameters", "theta", "θ", "p"):
        raise ValueError(
            f"{name} takes ({', '.join(names)}); {_HOW}: lambda params, x: energy(x, params) turns them round"
        )


def check_gives_scalar(energy: Any, params: PyTree, x: PyTree) -> None:
    """Checks that `energy(params, x)` is a scalar.

    Args:
      energy: The function.
      params: Its parameters.
      x: `jax.ShapeDtypeStruct`s of one configuration.

    Raises:
      ValueError: If it gives something else, or can only be called as `energy(x, params)`. Any other error of the
        function is not touched.
    """
    try:
        found = jax.eval_shape(energy, params, x)
    # An energy may raise anything.
    except Exception as error:
        if _is_scalar_of(energy, x, params):
            raise ValueError(
                f"energy fails as energy(params, x) and works as energy(x, params); {_HOW}: "
                "lambda params, x: energy(x, params) turns them round"
            ) from error
        raise
    if getattr(found, "shape", None) != ():
        shapes = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", found)
        raise ValueError(f"energy gives {shapes} for one configuration; it must give a scalar, such as a sum")


def check_is_array(path: str, leaf: Any) -> None:
    """Checks that a leaf of parameters is an array or a number.

    Raises:
      ValueError: If it is not, with the remedy where it comes from a module.
    """
    try:
        jnp.result_type(leaf)
    except (TypeError, ValueError) as error:
        library, root = library_of_module(leaf), path.split(".")[0].split("[")[0]
        if library == "flax.linen":
            remedy = "give its parameters, module.init(key, x)"
        elif callable(leaf):
            remedy = (
                f"give arrays alone; of an Equinox module {root}, static = equinox.partition(module, "
                f"equinox.is_array), with energy = lambda params, x: equinox.combine(params, static)(x)"
            )
        else:
            remedy = "give arrays and numbers alone"
        raise ValueError(f"{path} is {shown(leaf)}; {remedy}") from error


def _is_scalar_of(energy: Any, *args: Any) -> bool:
    try:
        return getattr(jax.eval_shape(energy, *args), "shape", None) == ()
    except Exception:
        return False


def shown(value: Any) -> str:
    """Returns what an error message says of a function, a model or a module, on one line."""
    library = library_of_module(value)
    if library is not None:
        return f"the {library.split('.')[0].capitalize()} module {type(value).__name__}"
    return files.one_line(repr(value))
