"""Keeping a model and its parameters in one file, without pickle.

The file is a NumPy `.npz`: one array a parameter and a JSON text that describes the structure. Loading runs no code
from the file.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import checks
from ebm_jax.energies.categorical_rbm import CategoricalRBM, CategoricalRBMParams
from ebm_jax.energies.gaussian_rbm import GaussianRBM
from ebm_jax.energies.ising import Ising, IsingParams
from ebm_jax.energies.potts import Potts, PottsParams
from ebm_jax.energies.rbm import RBM, RBMParams
from ebm_jax.graphs import Bipartite, Graph, Grid
from ebm_jax.graphs.blocks import Block

FORMAT = 1

_PARAMS: dict[type, type] = {
    Ising: IsingParams,
    Potts: PottsParams,
    RBM: RBMParams,
    CategoricalRBM: CategoricalRBMParams,
    GaussianRBM: RBMParams,
}
_MODELS = {cls.__name__: cls for cls in _PARAMS}
_GRAPHS = {"Grid": Grid, "Bipartite": Bipartite}


def save(path: str | os.PathLike[str], model: Any, params: Any, *, overwrite: bool = False) -> None:
    """Writes an Ising, Potts or RBM model and its parameters to `path`, atomically.

    The name is taken as it is; ".npz" is customary. Raises ValueError when the parameters do not fit the model or the
    model is of another kind, FileExistsError when the file is there and `overwrite` is False.
    """
    if type(model) not in _PARAMS:
        raise ValueError(
            f"save keeps Ising, Potts and RBM models, not {model!r}; use Orbax for other pytrees"
        )
    checks.check_struct("params", params, model.params_struct(), dtypes=checks.FLOATS)
    target = Path(path)
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; choose another name, or pass overwrite=True")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target.parent} is not a folder; make it first")
    structure, arrays = {"format": FORMAT, "model": type(model).__name__}, {}
    for field in dataclasses.fields(model):
        value = getattr(model, field.name)
        if field.name == "graph":
            value = _describe_graph(value, arrays)
        elif field.name == "hidden" and value is not None:
            arrays["hidden"], value = value.sites, "sites"
        structure[field.name] = value
    arrays |= {f"params.{name}": np.asarray(value) for name, value in params._asdict().items()}
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=target.name, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, structure=np.asarray(json.dumps(structure)), **arrays)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # as an ordinary new file, not private as temporary ones are
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def load(path: str | os.PathLike[str]) -> tuple[Any, Any]:
    """Returns `(model, params)` from a file that `save` wrote.

    Raises FileNotFoundError when there is none, ValueError when it is not such a file or is damaged.
    """
    target = Path(path)
    if not target.exists():
        raise FileNotFoundError(f"{target} does not exist; ebm_jax.save writes such files")
    try:
        with np.load(target, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        structure = json.loads(str(arrays.pop("structure")))
        if structure.pop("format") != FORMAT:
            raise KeyError("format")
        cls = _MODELS[structure.pop("model")]
        if "graph" in structure:
            structure["graph"] = _build_graph(structure["graph"], arrays)
        if structure.get("hidden") is not None:
            structure["hidden"] = Block(arrays["hidden"])
        model = cls(**structure)
        names = _PARAMS[cls]._fields
        params = _PARAMS[cls](*(arrays[f"params.{name}"] for name in names))
    except (zipfile.BadZipFile, KeyError, TypeError, EOFError, OSError, ValueError) as error:
        raise ValueError(
            f"{target} is damaged or was not written by ebm_jax.save ({error}); save it anew"
        ) from error
    checks.check_struct(f"params in {target}", params, model.params_struct(), dtypes=checks.FLOATS)
    if any(leaf.dtype == np.float64 for leaf in params) and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            f'{target} holds float64 and JAX would cut it to float32; jax.config.update("jax_enable_x64", True) first'
        )
    return model, jax.tree.map(jnp.asarray, params)


def _describe_graph(graph: Any, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    if isinstance(graph, Graph):
        arrays["edges"] = graph.edges
        return {"type": "Graph", "n_sites": graph.n_sites}
    return {"type": type(graph).__name__, **dataclasses.asdict(graph)}


def _build_graph(described: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
    fields = dict(described)
    kind = fields.pop("type")
    return Graph(fields["n_sites"], arrays["edges"]) if kind == "Graph" else _GRAPHS[kind](**fields)
