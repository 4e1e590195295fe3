"""Keeping a model and its parameters in one file, without pickle.

The file is a NumPy `.npz`: one array for each leaf of the parameters, and a JSON text that describes the structure.
Models of `ebm_jax.energies` are described (see `descriptions`). Of other models, such as functions and modules of the
user's, the file keeps the parameters alone. Loading makes these classes, graphs and blocks, and nothing else: it runs
no code from the file.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import checks, files
from ebm_jax.descriptions import FORMAT, NotDescribable, build, describe, read_structure
from ebm_jax.energies.target import target_of
from ebm_jax.types import PyTree

# Kinds of dtypes that a parameter may have.
_KINDS = "biufc"


def save(path: str | os.PathLike[str], model: Any, params: Any, *, overwrite: bool = False) -> None:
    """Writes a model and its parameters to a file, atomically.

    Args:
      path: Name of the file, taken as it is; ".npz" is customary.
      model: A model of `ebm_jax.energies`; or any other, of which only the parameters are kept, with a warning.
      params: Its parameters, or `{"params": params, **variables}` of a network with variables. Of other models: any
        pytree of arrays in dictionaries, lists, tuples and named tuples.
      overwrite: Whether an existing file may be replaced.

    Raises:
      ValueError: If the model has no energy, or the parameters do not fit it or cannot be described.
      FileExistsError: If the file exists and `overwrite` is False, or is a folder.
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
    target_of(model)
    names = _names_of_leaves(params)
    structs = _possible_structs(model)
    if structs:
        struct = next((struct for struct in structs if _names_of_leaves(struct) == names), structs[0])
        checks.check_struct("params", params, struct, dtypes=checks.FLOATS)
    arrays: dict[str, np.ndarray] = {}
    try:
        structure = {"format": FORMAT, **describe(model, arrays, "")}
    except NotDescribable as error:
        warnings.warn(
            f"{path} will hold the parameters alone, because {error}; load(path, model=model) joins them again",
            stacklevel=2,
        )
        arrays.clear()
        structure = {"format": FORMAT, "params": _skeleton(params)}
    target = Path(path)
    if target.is_dir():
        raise FileExistsError(f"{target} is a folder; name a file in it")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; choose another name, or pass overwrite=True")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target.parent} is not a folder; make it first")
    arrays |= dict(zip(names, map(np.asarray, jax.tree.leaves(params)), strict=True))
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


def load(path: str | os.PathLike[str], *, model: Any = None) -> tuple[Any, Any]:
    """Reads a file that `save` wrote.

    Args:
      path: Name of the file.
      model: The model, for files that hold parameters alone. If the file describes a model, it must be this one.

    Returns:
      `(model, params)`, the parameters as JAX arrays. If the file holds parameters alone and no model is given,
      model is None and a warning says so. A named tuple then comes back as a dictionary.

    Raises:
      FileNotFoundError: If there is no such file.
      ValueError: If the file cannot be read, is damaged or was not written by `save`, is of another model than the
        given one, or holds float64 while JAX is set to float32.

    Example:
      >>> ej.load("absent.npz")
      Traceback (most recent call last):
      FileNotFoundError: absent.npz does not exist; ebm_jax.save writes such files
    """
    target = Path(path)
    try:
        arrays, described, structs, tree = _read(target)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{target} does not exist; ebm_jax.save writes such files") from None
    # What a file describes can be wrong in every way in which classes can be called wrongly.
    except Exception as error:
        raise ValueError(
            f"{target} is damaged or was not written by ebm_jax.save ({files.reason(error)}); save it anew"
        ) from error
    if described is None and model is None:
        warnings.warn(
            f"{target} holds parameters alone, because its model could not be described; give load(path, model=model)",
            stacklevel=2,
        )
    if described is not None and model is not None and model != described:
        found, given = files.one_line(repr(described)), files.one_line(repr(model))
        raise ValueError(f"{target} holds {found}, and model is {given}; give that model, or none")
    owner = model if described is None else described
    if described is None and model is not None:
        structs = _possible_structs(model)
    params = _params_of(target, owner, structs, arrays) if structs else tree
    leaves = jax.tree.leaves(params)
    if any(leaf.dtype == np.float64 for leaf in leaves) and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            f'{target} holds float64 and JAX would cut it to float32; jax.config.update("jax_enable_x64", True) first'
        )
    return owner, jax.tree.map(jnp.asarray, params)


def _read(path: Path) -> tuple[dict[str, np.ndarray], Any, list[PyTree], PyTree]:
    """Returns the arrays of a file, and the model that it describes with what it takes as parameters.

    A file that describes no model has the tree of its parameters instead.
    """
    arrays = files.read_npz(path)
    structure = read_structure(arrays)
    if "params" in structure:
        return arrays, None, [], _from_skeleton(structure["params"], arrays)
    model = build(structure, arrays, "")
    return arrays, model, _possible_structs(model), None


def _possible_structs(model: Any) -> list[PyTree]:
    """Returns what a model takes as parameters: them alone, or all collections of a network; [] if it does not say."""
    names = ("params_struct", "variables_struct")
    return [getattr(model, name)() for name in names if hasattr(model, name)]


def _params_of(path: Path, model: Any, structs: list[PyTree], arrays: dict[str, np.ndarray]) -> PyTree:
    """Returns the parameters among the arrays of a file, in the containers that the model takes."""
    stored = sorted(name for name in arrays if name.split(".")[0] == "params")
    for struct in structs:
        names = _names_of_leaves(struct)
        if sorted(names) == stored:
            params = jax.tree.unflatten(jax.tree.structure(struct), [arrays[name] for name in names])
            checks.check_struct(f"params in {path}", params, struct, dtypes=checks.FLOATS)
            return params
    found, given = files.one_line(", ".join(stored)) or "no parameters", files.one_line(repr(model))
    raise ValueError(
        f"{path} holds {found}, which are not the parameters of {given}; give the model that was saved"
    )


def _skeleton(tree: Any, path: str = "params") -> Any:
    """Returns the containers of a pytree as JSON; a leaf is the name of its array."""
    if isinstance(tree, Mapping):
        if not all(isinstance(key, str) for key in tree):
            raise ValueError(f"{path} has keys {sorted(map(repr, tree))}; use texts as keys")
        return {"dict": {key: _skeleton(tree[key], f"{path}.{key}") for key in sorted(tree)}}
    if hasattr(tree, "_fields"):
        return {"dict": {key: _skeleton(getattr(tree, key), f"{path}.{key}") for key in tree._fields}}
    if isinstance(tree, list | tuple):
        return {type(tree).__name__: [_skeleton(item, f"{path}.{i}") for i, item in enumerate(tree)]}
    if not hasattr(tree, "dtype"):
        raise ValueError(
            f"{path} is {type(tree).__name__}; save keeps arrays in dictionaries, lists and tuples, e.g. "
            "jax.tree.leaves(params)"
        )
    # NumPy writes the bits of other dtypes, such as bfloat16, and cannot say what they were.
    if not isinstance(tree.dtype, np.dtype) or tree.dtype.kind not in _KINDS:
        raise ValueError(f"{path} has dtype {tree.dtype}, which files do not keep; convert it to float32")
    return path


def _from_skeleton(described: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The inverse of `_skeleton`."""
    if isinstance(described, str):
        if arrays[described].dtype.kind not in _KINDS:
            raise ValueError(f"{described} has dtype {arrays[described].dtype}")
        return arrays[described]
    ((kind, items),) = described.items()
    if kind == "dict":
        return {key: _from_skeleton(item, arrays) for key, item in items.items()}
    return {"list": list, "tuple": tuple}[kind](_from_skeleton(item, arrays) for item in items)


def _names_of_leaves(params: PyTree) -> list[str]:
    """Returns a name for each leaf of the parameters, e.g. "params.weights"."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    names = [
        ".".join(["params", *(jax.tree_util.keystr((key,), simple=True) for key in path)]) for path in paths
    ]
    if len(set(names)) != len(names):
        raise ValueError(f"params has two leaves of one name among {names}; use keys without dots")
    return names
