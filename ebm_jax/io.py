"""Keeping a model and its parameters in one file, without pickle.

The file is a NumPy `.npz`: one array for each leaf of the parameters, and a JSON text that describes the structure.
Every frozen dataclass of `ebm_jax.energies` is described by its fields, so a new energy family needs no edit here.
Loading makes these classes, graphs and blocks, and nothing else: it runs no code from the file.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import pkgutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import checks, energies
from ebm_jax.graphs import Bipartite, Graph, Grid
from ebm_jax.graphs.blocks import Block
from ebm_jax.types import PyTree

FORMAT = 2

_GRAPHS = {"Grid": Grid, "Bipartite": Bipartite}

# What stands in the JSON text for a block, whose sites are an array of the file.
_SITES = "sites"


def save(path: str | os.PathLike[str], model: Any, params: Any, *, overwrite: bool = False) -> None:
    """Writes a model and its parameters to a file, atomically.

    Args:
      path: Name of the file, taken as it is; ".npz" is customary.
      model: A model of `ebm_jax.energies`.
      params: Its parameters.
      overwrite: Whether an existing file may be replaced.

    Raises:
      ValueError: If the parameters do not fit the model, or the model is not one that `check_savable` accepts.
      FileExistsError: If the file exists and `overwrite` is False.
      FileNotFoundError: If the folder does not exist.

    Example:
      >>> import tempfile
      >>> model = ej.RBM(3, 2)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     ej.save(f"{folder}/rbm.npz", model, model.init(jax.random.key(0)))
      ...     loaded, params = ej.load(f"{folder}/rbm.npz")
      >>> loaded == model, params.weights.shape
      (True, (3, 2))
    """
    arrays: dict[str, np.ndarray] = {}
    structure = {"format": FORMAT, **_describe_model(model, arrays, "")}
    checks.check_struct("params", params, model.params_struct(), dtypes=checks.FLOATS)
    target = Path(path)
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; choose another name, or pass overwrite=True")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target.parent} is not a folder; make it first")
    leaves = map(np.asarray, jax.tree.leaves(params))
    arrays |= dict(zip(_names_of_leaves(params), leaves, strict=True))
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=target.name, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            named: dict[str, Any] = {"structure": np.asarray(json.dumps(structure)), **arrays}
            np.savez(file, **named)
        # Temporary files are private. This one gets the rights of an ordinary new file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def load(path: str | os.PathLike[str]) -> tuple[Any, Any]:
    """Reads a file that `save` wrote.

    Args:
      path: Name of the file.

    Returns:
      `(model, params)`, the parameters as JAX arrays.

    Raises:
      FileNotFoundError: If there is no such file.
      ValueError: If the file is damaged or was not written by `save`, or holds float64 while JAX is set to float32.

    Example:
      >>> ej.load("absent.npz")
      Traceback (most recent call last):
      FileNotFoundError: absent.npz does not exist; ebm_jax.save writes such files
    """
    target = Path(path)
    if not target.exists():
        raise FileNotFoundError(f"{target} does not exist; ebm_jax.save writes such files")
    try:
        with np.load(target, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        model = _build_model(_read_structure(arrays), arrays, "")
        struct = model.params_struct()
        leaves = [arrays[name] for name in _names_of_leaves(struct)]
        params = jax.tree.unflatten(jax.tree.structure(struct), leaves)
    except (zipfile.BadZipFile, KeyError, TypeError, EOFError, OSError, ValueError) as error:
        raise ValueError(
            f"{target} is damaged or was not written by ebm_jax.save ({error}); save it anew"
        ) from error
    checks.check_struct(f"params in {target}", params, struct, dtypes=checks.FLOATS)
    if any(leaf.dtype == np.float64 for leaf in leaves) and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            f'{target} holds float64 and JAX would cut it to float32; jax.config.update("jax_enable_x64", True) first'
        )
    return model, jax.tree.map(jnp.asarray, params)


def check_savable(model: Any) -> None:
    """Checks that `save` can keep a model, for programs that want to know before they train it.

    Args:
      model: Any object.

    Raises:
      ValueError: If it is not a frozen dataclass of `ebm_jax.energies`, or if a field is neither a number, a text, a
        graph, a `Block` or such a model, nor a tuple of them.
    """
    _describe_model(model, {}, "")


def _describe_model(model: Any, arrays: dict[str, np.ndarray], prefix: str) -> dict[str, Any]:
    """Returns the JSON description of a model; arrays of its structure go to `arrays`, under `prefix`."""
    cls = type(model)
    package, _, module = cls.__module__.rpartition(".")
    if package != energies.__name__ or not _is_model_class(cls):
        raise ValueError(
            f"save keeps the models of ebm_jax.energies, e.g. Ising, Potts and RBM models, not {model!r}; use Orbax "
            "for other pytrees"
        )
    names = [field.name for field in dataclasses.fields(model)]
    fields = {name: _describe(getattr(model, name), arrays, prefix, name) for name in names}
    return {"type": cls.__name__, "module": module, "fields": fields}


def _describe(value: Any, arrays: dict[str, np.ndarray], prefix: str, name: str) -> Any:
    """Returns the JSON description of the field `name` of a model."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return [_describe(item, arrays, prefix, f"{name}.{i}") for i, item in enumerate(value)]
    if isinstance(value, Block):
        arrays[prefix + name] = value.sites
        return _SITES
    if isinstance(value, Graph):
        arrays[f"{prefix}{name}.edges"] = value.edges
        return {"type": "Graph", "n_sites": value.n_sites}
    if isinstance(value, Grid | Bipartite):
        return {"type": type(value).__name__, **dataclasses.asdict(value)}
    if _is_model_class(type(value)):
        return _describe_model(value, arrays, f"{prefix}{name}.")
    raise ValueError(
        f"the model's {name} is {value!r}, which no file can describe; use numbers, texts, graphs, blocks, models and "
        "tuples of them, or Orbax"
    )


def _read_structure(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns the description of a model, of this format or of the first one, which named no module."""
    structure = json.loads(str(arrays["structure"]))
    if structure["format"] == 1:
        fields = {name: value for name, value in structure.items() if name not in ("format", "model")}
        return {"type": structure["model"], "module": None, "fields": fields}
    if structure["format"] != FORMAT:
        raise KeyError("format")
    return structure


def _build_model(described: dict[str, Any], arrays: dict[str, np.ndarray], prefix: str) -> Any:
    """Returns the model of a description."""
    cls = _model_class(described["type"], described["module"])
    fields = described["fields"].items()
    return cls(**{name: _build(value, arrays, prefix, name) for name, value in fields})


def _build(described: Any, arrays: dict[str, np.ndarray], prefix: str, name: str) -> Any:
    """Returns the field `name` of a model from its description."""
    if isinstance(described, list):
        return tuple(_build(item, arrays, prefix, f"{name}.{i}") for i, item in enumerate(described))
    if described == _SITES and prefix + name in arrays:
        return Block(arrays[prefix + name])
    if not isinstance(described, dict):
        return described
    if described["type"] == "Graph":
        # Format 1 knew one graph a file.
        edges = f"{prefix}{name}.edges"
        return Graph(described["n_sites"], arrays[edges if edges in arrays else "edges"])
    if described["type"] in _GRAPHS:
        fields = {key: value for key, value in described.items() if key != "type"}
        return _GRAPHS[described["type"]](**fields)
    return _build_model(described, arrays, f"{prefix}{name}.")


def _is_model_class(cls: Any) -> bool:
    """Returns whether a class is a frozen dataclass that says what its parameters are."""
    traits = vars(cls).get("__dataclass_params__") if isinstance(cls, type) else None
    return traits is not None and traits.frozen and hasattr(cls, "params_struct")


def _model_class(name: str, module: str | None) -> type:
    """Returns the model class of this name in a module of `ebm_jax.energies`, or in any of them.

    Modules outside that package are never imported, whatever a file says.
    """
    modules = [found.name for found in pkgutil.iter_modules(energies.__path__)]
    for candidate in modules if module is None else set(modules) & {module}:
        found = importlib.import_module(f"{energies.__name__}.{candidate}")
        cls: Any = vars(found).get(name)
        if _is_model_class(cls) and cls.__module__ == found.__name__:
            return cls
    raise KeyError(f"{name} is no model of ebm_jax.energies")


def _names_of_leaves(params: PyTree) -> list[str]:
    """Returns a name for each leaf of the parameters, e.g. "params.weights"."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return [f"params.{jax.tree_util.keystr(path, simple=True, separator='.')}" for path in paths]
