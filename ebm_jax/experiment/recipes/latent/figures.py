"""Figures of runs of the recipe `latent`: samples, chains, and the energy on planes with a chain on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ebm_jax import plots
from ebm_jax.experiment.recipes.base import StoredRun
from ebm_jax.experiment.recipes.comparison import SeedGroup, band, group_by_seed
from ebm_jax.plots.style import COLOURS, NotebookFigure, styled

captions = {
    "samples/samples.png": "Held-out images, their reconstructions, decoded draws of one Gaussian where chains start, "
    "and the decoded ends of these chains.",
    "samples/chains.png": "Eight of these chains at increasing numbers of steps.",
    "plots/landscape.png": "The energy of two latents at a time above its least value on the plane; the others stay "
    "at the end of one chain. The line is this chain, seen along the other latents; its start is marked by a ring and "
    "its end by a dot.",
    "plots/training.png": "Training, means over at most `training.steps_per_call` updates each.",
    "plots/chains.png": "Persistent chains: the step size follows the energy, so that the acceptance stays.",
    "plots/reconstruction.png": "Training of the autoencoder.",
}
# Columns of samples/chains.png.
_N_COLUMNS = 14
# Energies further above the least one on a plane have one colour.
_DEPTH = 12.0
_CHAINS = {"acceptance": "acceptance", "step size": "step_size", "distance an update": "movement"}


def run_figures(run: StoredRun) -> dict[str, Figure]:
    """Returns the figures of one run by their paths in its folder."""
    draws = run.draws
    frames = draws["frames"]
    chosen = np.unique([0, *np.geomspace(1, len(frames) - 1, _N_COLUMNS - 1).round().astype(int)])
    panels = {
        "data": draws["data"],
        "reconstructions": draws["reconstructions"],
        "one Gaussian": frames[0],
        "samples": frames[-1],
    }
    config: Any = run.config
    first = config.autoencoder.n_epochs
    figures = {
        "samples/samples.png": plots.compare(panels),
        "samples/chains.png": plots.chain_strip(frames[chosen, :8], draws["steps"][chosen].tolist()),
        "plots/chains.png": _by_epoch({"": SeedGroup((_phase(run, first, second=True),))}, _CHAINS),
        "plots/reconstruction.png": _by_epoch(
            {"": SeedGroup((_phase(run, first, second=False),))},
            {"binary cross-entropy (nats an image)": "reconstruction"},
        ),
    }
    if len(draws["landscape"]):
        figures["plots/landscape.png"] = landscape(draws["landscape"], draws["grid"], draws["path"])
    return figures


def comparison_figures(runs: Mapping[str, StoredRun]) -> dict[str, Figure]:
    """Returns the figures that compare finished runs, by file name. Samples are those of the first seed."""
    configs: Any = {name: run.config for name, run in runs.items()}
    groups = group_by_seed(
        {name: _phase(run, configs[name].autoencoder.n_epochs, second=True) for name, run in runs.items()}
    )
    first = {name: group.runs[0].draws for name, group in groups.items()}
    return {
        "samples.png": plots.compare({name: draws["frames"][-1][:49] for name, draws in first.items()}),
        "chains.png": _by_epoch(groups, _CHAINS),
    }


@styled
def landscape(energies: Any, grid: Any, path: Any) -> Figure:
    """Draws energies on planes with a chain on them.

    Args:
      energies: `(n_planes, rows, columns)`; plane i is that of the latents 2i, along columns, and 2i + 1.
      grid: Coordinates of rows and columns.
      path: Latents of a chain, `(n_steps + 1, n_latents)`.

    Returns:
      A figure.
    """
    energies, path = np.asarray(energies), np.asarray(path)
    figure = NotebookFigure(figsize=(4.6 * len(energies) + 0.4, 4.0), layout="constrained")
    axes = figure.subplots(1, len(energies), squeeze=False)[0]
    for i, (ax, plane) in enumerate(zip(axes, energies, strict=True)):
        above = np.minimum(plane - plane.min(), _DEPTH)
        colours = ax.contourf(grid, grid, above, levels=np.linspace(0, _DEPTH, 25), cmap="Blues_r")
        x, y = path[:, 2 * i], path[:, 2 * i + 1]
        ax.plot(x, y, color=COLOURS[1], linewidth=0.7, alpha=0.8)
        ax.plot(x[0], y[0], "o", color=COLOURS[1], markerfacecolor="none")
        ax.plot(x[-1], y[-1], "o", color=COLOURS[1])
        ax.set(xlabel=f"latent {2 * i}", ylabel=f"latent {2 * i + 1}", aspect="equal")
        ax.set(xlim=(grid[0], grid[-1]), ylim=(grid[0], grid[-1]))
    figure.colorbar(colours, ax=axes, shrink=0.7, label="energy above the least (nats)")
    return figure


def _phase(run: StoredRun, n_first: int, *, second: bool) -> StoredRun:
    """Returns a run with the training rows of one phase alone: a row at epoch e is of the updates before it."""
    kept = [row for row in run.rows if row["kind"] == "train" and (row["epoch"] > n_first) == second]
    return run._replace(rows=kept)


def _by_epoch(groups: Mapping[str, SeedGroup], panels: Mapping[str, str]) -> Figure:
    """Draws quantities of metrics.jsonl over epochs, a panel each."""
    drawn: dict[str, dict[str, Any]] = {title: {} for title in panels}
    for title, key in panels.items():
        for name, group in groups.items():
            epochs, points = group.series("train", key)
            drawn[title][name] = (epochs, *band(points))
    return plots.lines(drawn, "epoch")
