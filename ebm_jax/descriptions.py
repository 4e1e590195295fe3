"""Models as JSON texts and arrays.

Every frozen dataclass of `ebm_jax.energies` and every network of `ebm_jax.energies.networks` is described by its
fields, so a new energy family needs no edit here. Graphs, blocks, factors and kinds of nodes may be fields.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
from typing import Any

import numpy as np

from ebm_jax import energies
from ebm_jax.energies.factors import Factor
from ebm_jax.energies.nodes import Categories, Gaussians, NodeKind, Spins
from ebm_jax.graphs import Bipartite, Graph, Grid
from ebm_jax.graphs.blocks import Block

FORMAT = 2

# What its own numbers and texts describe.
_PLAIN = {cls.__name__: cls for cls in (Grid, Bipartite, Spins, Categories, Gaussians)}

_NETWORKS = f"{energies.__name__}.networks"

# Fields that Linen adds to a module.
_OF_LINEN = {"parent", "name"}

# What stands in the JSON text for a block, whose sites are an array of the file.
_SITES = "sites"


class NotDescribable(ValueError):
    """A model that no file can describe."""


def describe(model: Any, arrays: dict[str, np.ndarray], prefix: str) -> dict[str, Any]:
    """Returns the JSON description of a model; arrays of its structure go to `arrays`, under `prefix`."""
    cls = type(model)
    package, _, module = cls.__module__.rpartition(".")
    if package != energies.__name__ or not _is_model_class(cls):
        raise NotDescribable(f"{model!r} is no model of ebm_jax.energies")
    names = [field.name for field in dataclasses.fields(model) if field.name not in _OF_LINEN]
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
    if type(value) in _PLAIN.values():
        return {"type": type(value).__name__, **dataclasses.asdict(value)}
    if isinstance(value, Factor):
        arrays[prefix + name] = np.stack([member.index for member in value.members])
        return {"type": "Factor", "members": [[m.name, m.statistic] for m in value.members]}
    if isinstance(value, NodeKind):
        raise NotDescribable(f"the kind of nodes {value!r} is not one of ebm_jax")
    if _is_model_class(type(value)):
        return describe(value, arrays, f"{prefix}{name}.")
    raise NotDescribable(f"the model's {name} is {value!r}, which no file can describe")


def read_structure(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns the description of a model, of this format or of the first one, which named no module."""
    structure = json.loads(str(arrays["structure"]))
    if structure["format"] == 1:
        fields = {name: value for name, value in structure.items() if name not in ("format", "model")}
        return {"type": structure["model"], "module": None, "fields": fields}
    if structure["format"] != FORMAT:
        raise KeyError("format")
    return structure


def build(described: dict[str, Any], arrays: dict[str, np.ndarray], prefix: str) -> Any:
    """Returns the model of a description."""
    cls = _model_class(described["type"], described["module"])
    for name, value in described["fields"].items():
        # Each layer of a network has arrays, and shapes have few axes. A network of 10⁶ layers takes hours to make.
        if cls.__module__ == _NETWORKS and isinstance(value, list) and len(value) > len(arrays) + 8:
            raise ValueError(f"{name} lists {len(value):,} values, and there are {len(arrays)} arrays")
    fields = {name: _build(value, arrays, prefix, name) for name, value in described["fields"].items()}
    return cls(**fields)


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
    if described["type"] == "Factor":
        columns = zip(described["members"], arrays[prefix + name], strict=True)
        return Factor(*((of_nodes, index, statistic) for (of_nodes, statistic), index in columns))
    if described["type"] in _PLAIN:
        fields = {key: value for key, value in described.items() if key != "type"}
        return _PLAIN[described["type"]](**fields)
    return build(described, arrays, f"{prefix}{name}.")


def _is_model_class(cls: Any) -> bool:
    """Returns whether a class is a frozen dataclass that says what its parameters are."""
    traits = vars(cls).get("__dataclass_params__") if isinstance(cls, type) else None
    if traits is None:
        return False
    return cls.__module__ == _NETWORKS or (traits.frozen and hasattr(cls, "params_struct"))


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
