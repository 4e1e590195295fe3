"""Draws in the form of ArviZ: an `xarray.DataTree` with chain and draw first (https://www.arviz.org).

    samples = sample(key, model_kernel, params, init, schedule, observe=model.energy)
    tree = to_datatree(samples, observed="energy")
    arviz_stats.summary(tree)

Draws are `(n_samples, n_chains, ...)` here and `(chain, draw, ...)` in ArviZ's groups. Dtypes stay: spins are bool and
levels uint8 there, too. Only `arviz-base` is needed; statistics and figures are in `arviz-stats` and `arviz-plots`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ebm_jax import __version__
from ebm_jax.run import Samples
from ebm_jax.types import Info, PyTree

try:
    import arviz_base
    import xarray
except ImportError as error:
    raise ImportError(
        "ebm_jax.interop.arviz needs arviz-base, which cannot be imported here: pip install 'ebm-jax[arviz]'"
    ) from error

__all__ = ["to_datatree"]


def to_datatree(
    samples: Samples | PyTree,
    *,
    name: str = "x",
    observed: str = "observed",
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
) -> xarray.DataTree:
    """Returns draws as a DataTree: positions in the group `posterior`, observations in `sample_stats`.

    Leaves of a pytree are named by their dict keys and field names, joined by "_". Elements of tuples and lists are
    named by their number, with `name` or `observed` before it if nothing else is: an RBM's `(v, h)` gives `x_0` and
    `x_1`.

    The counts of `Samples.info` belong to whole runs, not to draws. They become attributes of `posterior`: lists with a
    number for each chain (`acceptance_rate`, NaN without proposals, `n_steps`, `n_energy`, `n_gradient`, …).

    Args:
      samples: What `sample` returned, or draws alone, a pytree of `(n_samples, n_chains, ...)`.
      name: Name of the variable if positions are a single array.
      observed: Name of the variable if the observation is a single array, e.g. "energy".
      coords: Values along the axes after chain and draw, as for `arviz_base.from_dict`.
      dims: Names of these axes for each variable: `dims={"x": ["row", "column"]}`.

    Returns:
      A DataTree.

    Raises:
      ValueError: If an `Observer` has reduced the samples, leaves differ in n_samples or n_chains, or two leaves have
        the same name or the name of an axis.
    """
    attributes = {"inference_library": "ebm_jax", "inference_library_version": __version__}
    positions, observations = samples, None
    if isinstance(samples, Samples):
        if samples.positions is None:
            raise ValueError(
                "samples hold no draws, an Observer reduced them: see samples.observed, or sample with observe=fn"
            )
        positions, observations = samples.positions, samples.observed
        attributes |= _counts(samples.info)
    posterior, stats = _variables(positions, name), _variables(observations, observed)
    if not posterior:
        raise ValueError(f"samples are {positions!r}; give arrays (n_samples, n_chains, ...)")
    shapes = {leaf.shape[:2] for leaf in (*posterior.values(), *stats.values())}
    if len(shapes) > 1:
        raise ValueError(
            f"samples begin with {sorted(shapes)}; give every leaf the same (n_samples, n_chains)"
        )
    groups = {"posterior": posterior} | ({"sample_stats": stats} if stats else {})
    return arviz_base.from_dict(
        {group: {k: leaf.swapaxes(0, 1) for k, leaf in leaves.items()} for group, leaves in groups.items()},
        sample_dims=["chain", "draw"],
        coords=dict(coords or {}),
        dims={variable: list(axes) for variable, axes in (dims or {}).items()},
        attrs={"posterior": attributes},
    )


def _variables(tree: PyTree, root: str) -> dict[str, np.ndarray]:
    """Returns the leaves of a pytree as NumPy arrays, named by their paths."""
    variables: dict[str, np.ndarray] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        variable = _name_of(path, root)
        if variable in variables or variable in ("chain", "draw"):
            raise ValueError(
                f"{jax.tree_util.keystr(path)} has the name {variable!r}, which is taken; rename it"
            )
        if len(getattr(leaf, "shape", ())) < 2:
            shape = getattr(leaf, "shape", type(leaf).__name__)
            raise ValueError(f"{variable} has shape {shape}; give (n_samples, n_chains, ...)")
        variables[variable] = np.asarray(leaf)
    return variables


def _name_of(path: tuple[Any, ...], root: str) -> str:
    """Returns the variable's name of a leaf."""
    parts = []
    for entry in path:
        # A field, or a key of a dict.
        named = getattr(entry, "name", getattr(entry, "key", None))
        if not parts and (named is None or isinstance(named, int)):
            parts.append(root)
        parts.append(str(entry.idx if named is None else named))
    return "_".join(parts) or root


def _counts(info: Info) -> dict[str, list[float]]:
    """Returns the counts of a run as lists, which every file format can hold as attributes."""
    counts = {"acceptance_rate": info.acceptance, **info._asdict()}
    return {key: np.atleast_1d(np.asarray(value)).tolist() for key, value in counts.items()}
