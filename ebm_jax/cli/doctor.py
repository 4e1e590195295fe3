"""The report of `ebm-jax doctor`: what is installed and what can be found.

A part that fails is reported with its error. Nothing here raises.
"""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import NamedTuple

from ebm_jax import __version__

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class Extra(NamedTuple):
    """An optional extra of the package: the distributions that it installs, and what it adds."""

    needs: tuple[str, ...]
    adds: str


EXTRAS = {
    "cuda12": Extra(("jax-cuda12-plugin",), "NVIDIA GPUs, with CUDA 12"),
    "cuda13": Extra(("jax-cuda13-plugin",), "NVIDIA GPUs, with CUDA 13"),
    "tpu": Extra(("libtpu",), "Google's TPUs"),
    "thrml": Extra(("thrml",), "the bridge to THRML's models"),
    "blackjax": Extra(("blackjax",), "BlackJAX's algorithms as kernels"),
    "networkx": Extra(("networkx",), "graphs of NetworkX as graphs, and back"),
    "dimod": Extra(("dimod",), "binary quadratic models of dimod as Ising models, and back"),
    "arviz": Extra(("arviz-base", "xarray"), "draws as a DataTree, for ArviZ"),
    "bench": Extra(
        ("thrml", "hamon", "numba", "torch", "torchebm", "blackjax", "rbms", "ebmkit"),
        "the peers of benchmarks/run.py",
    ),
    "tensorboard": Extra(("tensorboardX", "tensorboard"), "logs of training for TensorBoard"),
    "docs": Extra(("sphinx", "myst-nb", "furo", "sphinx-copybutton"), "building the documentation"),
}


def report() -> str:
    """Returns the report as text, section by section."""
    sections = {
        "Versions": [("Python", platform.python_version()), ("ebm_jax", __version__)]
        + [(name, version(name) or "not installed") for name in LIBRARIES],
        "Devices": _devices(),
        "Data": _data(),
        "Extras": _extras(),
        "Folders": _folders(),
    }
    return "\n\n".join(
        "\n".join([title, *(f"  {name:<17} {text}" for name, text in rows)])
        for title, rows in sections.items()
    )


def version(distribution: str) -> str | None:
    """Returns the installed version of a distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> list[tuple[str, str]]:
    try:
        import jax

        return [(f"{device.platform}:{device.id}", device.device_kind) for device in jax.devices()]
    # A backend may raise any exception.
    except Exception as error:
        chosen = os.environ.get("JAX_PLATFORMS")
        hint = f" (JAX_PLATFORMS is {chosen!r})" if chosen else ""
        return [("none", f"JAX found no device{hint}: {_first_line(error)}")]


def _data() -> list[tuple[str, str]]:
    try:
        from ebm_jax.cli.data_sets import locate
        from ebm_jax.data.specs import SPECS

        places = {name: locate(spec) for name, spec in SPECS.items()}
    # A broken installation may raise any exception.
    except Exception as error:
        return [("none", f"the search for data sets failed: {_first_line(error)}")]
    return [
        (name, f"{'found' if place.found else 'not found'}: {place.where}") for name, place in places.items()
    ]


def _extras() -> list[tuple[str, str]]:
    rows = []
    for name, extra in EXTRAS.items():
        missing = [need for need in extra.needs if version(need) is None]
        if not missing:
            rows.append((name, f"installed: {extra.adds}"))
            continue
        parts = f" ({', '.join(missing)} missing)" if len(missing) < len(extra.needs) else ""
        rows.append((name, f"not installed{parts}: {extra.adds}; pip install 'ebm-jax[{name}]'"))
    return rows


def _folders() -> list[tuple[str, str]]:
    given = os.environ.get("EBM_JAX_DATA_DIR")
    if not given:
        shown = "not set"
    else:
        shown = given if os.path.isdir(os.path.expanduser(given)) else f"{given}, which is not a folder"
    rows = [("EBM_JAX_DATA_DIR", shown)]
    try:
        from ebm_jax.data import cache

        rows.append(("cache", str(cache.directory())))
    except Exception as error:
        rows.append(("cache", f"unknown: {_first_line(error)}"))
    return [*rows, ("Python", sys.executable)]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
