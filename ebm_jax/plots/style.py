"""How all figures look, and checks of what they are given."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

COLOURS = ("#1f4e79", "#c8553d", "#8a8d91", "#3c8d5a", "#7b5ea7")
"""Colours of the series of a figure, in order."""

_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}

# As a decorator: the settings hold while a figure is made.
styled = matplotlib.rc_context(_STYLE)


class NotebookFigure(Figure):
    """A Figure that a notebook shows even where pyplot was never imported."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


def check_mapping(name: str, value: Any) -> dict[str, Any]:
    """Returns a mapping or NamedTuple as a dict; raises ValueError on anything else, and on an empty one."""
    if hasattr(value, "figures"):
        value = value.figures()
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f"{name} is {type(value).__name__}; give a mapping of names with at least one entry")
    return dict(value)


def nested_mappings(name: str, value: Any, title: str) -> dict[str, dict[str, Any]]:
    """Returns a mapping of titles to mappings; a single mapping gets `title`."""
    outer = check_mapping(name, value)
    if all(hasattr(v, "_asdict") or isinstance(v, Mapping) for v in outer.values()):
        return {inner: check_mapping(f"{name} of {inner}", v) for inner, v in outer.items()}
    return {title: outer}


def check_finite_array(name: str, values: Any) -> np.ndarray:
    """Returns values as a flat float64 array; raises ValueError if there are none or one is not finite."""
    array = np.asarray(values, np.float64).ravel()
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"{name} is empty or holds NaN or infinite values; give finite numbers")
    return array
