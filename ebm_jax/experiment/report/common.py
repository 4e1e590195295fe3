"""What the page of one run and a comparison share: reading a folder, training curves, writing figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ebm_jax import plots
from ebm_jax.experiment import files
from ebm_jax.experiment.config import load_stored_config
from ebm_jax.experiment.recipes.base import StoredRun
from ebm_jax.experiment.recipes.comparison import SeedGroup, band
from ebm_jax.experiment.run.folder import DRAWS, read_arrays, read_metrics

DPI = 110
_CURVES = {
    "energy gap (negatives − data)": "energy_gap",
    "gradient norm": "gradient_norm",
    "learning rate": "learning_rate",
}


def read_run(path: Path, metrics: Mapping[str, Any]) -> StoredRun:
    """Returns a run as its folder holds it, with the final metrics given."""
    config = load_stored_config(path)
    return StoredRun(path, config, metrics, read_metrics(path), read_arrays(path, DRAWS))


def training_figure(groups: Mapping[str, SeedGroup]) -> Figure:
    """Draws energy gap, gradient norm and learning rate over epochs."""
    panels: dict[str, dict[str, Any]] = {title: {} for title in _CURVES}
    for title, key in _CURVES.items():
        for name, group in groups.items():
            epochs, points = group.series("train", key)
            panels[title][name] = (epochs, *band(points))
    return plots.lines(panels, "epoch")


def save_figures(figures: Mapping[str, Figure], folder: Path) -> None:
    """Writes figures below `folder`, by their names. Equal figures give equal files: no version is written to them."""
    for name, figure in figures.items():
        with files.written(folder, name) as path:
            figure.savefig(path, dpi=DPI, metadata={"Software": None})
