"""Figures of runs of the recipe `conv`: samples, chains, and how the figures of samples change in training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ebm_jax import plots
from ebm_jax.experiment.recipes.base import StoredRun
from ebm_jax.experiment.recipes.comparison import SeedGroup, band, group_by_seed

captions = {
    "samples/samples.png": "Unseen images, and the ends of chains that began at noise.",
    "samples/chains.png": "Eight of these chains at increasing numbers of steps.",
    "plots/samples.png": "Figures of fresh chains in training.",
    "plots/training.png": "Training, means over at most `training.steps_per_call` updates each.",
    "plots/chains.png": "Chains of the replay buffer: how far an update moves them, and how old they are.",
}
# Columns of samples/chains.png.
_N_COLUMNS = 14
_QUALITY = {
    "read with a confidence above 0.9": "share_above_0_9",
    "Fréchet distance": "frechet",
    "share of the rarest class": "rarest_class",
}
_CHAINS = {"distance an update (Euclidean)": "movement", "age (steps)": "age"}


def run_figures(run: StoredRun) -> dict[str, Figure]:
    """Returns the figures of one run by their paths in its folder."""
    draws = run.draws
    groups = {"": SeedGroup((run,))}
    chosen = strip_frames(len(draws["steps"]))
    figures = {
        "samples/samples.png": plots.compare({"data": draws["data"], "samples": draws["frames"][-1]}),
        "samples/chains.png": plots.chain_strip(draws["frames"][chosen, :8], draws["steps"][chosen].tolist()),
        "plots/chains.png": _by_epoch(groups, "train", _CHAINS),
    }
    if _n_evaluations(run) > 1:
        figures["plots/samples.png"] = _by_epoch(groups, "evaluation", _QUALITY, marker="o")
    return figures


def comparison_figures(runs: Mapping[str, StoredRun]) -> dict[str, Figure]:
    """Returns the figures that compare finished runs, by file name.

    Curves are means over the runs that differ in seed alone, with a band of one standard deviation. Samples are those
    of the first seed.
    """
    groups = group_by_seed(runs)
    first = {name: group.runs[0].draws for name, group in groups.items()}
    figures = {
        "samples.png": plots.compare({name: draws["frames"][-1][:49] for name, draws in first.items()}),
        "chains.png": _by_epoch(groups, "train", _CHAINS),
    }
    if all(_n_evaluations(run) > 1 for run in runs.values()):
        figures["quality.png"] = _by_epoch(groups, "evaluation", _QUALITY, marker="o")
    return figures


def strip_frames(n: int) -> np.ndarray:
    """Returns which of n frames a strip shows: the first, the last, and others ever further apart."""
    return np.unique([0, *np.geomspace(1, n - 1, _N_COLUMNS - 1).round().astype(int)])


def _n_evaluations(run: StoredRun) -> int:
    return sum(row["kind"] == "evaluation" for row in run.rows)


def _by_epoch(groups: Mapping[str, SeedGroup], kind: str, panels: Mapping[str, str], **style: Any) -> Figure:
    """Draws quantities of metrics.jsonl over epochs, a panel each."""
    drawn: dict[str, dict[str, Any]] = {title: {} for title in panels}
    for title, key in panels.items():
        for name, group in groups.items():
            epochs, points = group.series(kind, key)
            drawn[title][name] = (epochs, *band(points))
    return plots.lines(drawn, "epoch", **style)
