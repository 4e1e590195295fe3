"""Figures of runs of the recipe `jem`: training, samples of images and of classes, energies of strange inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ebm_jax import plots
from ebm_jax.experiment.recipes.base import StoredRun
from ebm_jax.experiment.recipes.comparison import SeedGroup, band, group_by_seed

captions = {
    "samples/samples.png": "Unseen images, and the ends of chains that began at uniform noise.",
    "samples/classes.png": "Ends of chains that keep a class, a row each.",
    "samples/chains.png": "Eight chains at increasing numbers of steps.",
    "plots/classifier.png": "Cross-entropy and accuracy in training, on batches and on unseen images.",
    "plots/energies.png": "How often energies occur, of unseen images and of strange inputs.",
    "plots/training.png": "Training, means over at most `training.steps_per_call` updates each.",
}
_N_COLUMNS = 12
_N_BINS = 60


def run_figures(run: StoredRun) -> dict[str, Figure]:
    """Returns the figures of one run by their paths in its folder."""
    draws = run.draws
    chosen = np.unique(np.linspace(0, len(draws["steps"]) - 1, _N_COLUMNS).round().astype(int))
    return {
        "samples/samples.png": plots.compare({"data": draws["data"], "samples": draws["frames"][-1]}),
        "samples/classes.png": plots.image_grid(draws["classes"], n_columns=10),
        "samples/chains.png": plots.chain_strip(draws["frames"][chosen, :8], draws["steps"][chosen].tolist()),
        "plots/classifier.png": _classifier({"": SeedGroup((run,))}),
        "plots/energies.png": _energies(draws),
    }


def comparison_figures(runs: Mapping[str, StoredRun]) -> dict[str, Figure]:
    """Returns the figures that compare finished runs, by file name; curves are means over seeds."""
    groups = group_by_seed(runs)
    last = {name: group.runs[0].draws["frames"][-1][:49] for name, group in groups.items()}
    return {"samples.png": plots.compare(last), "classifier.png": _classifier(groups)}


def _classifier(groups: Mapping[str, SeedGroup]) -> Figure:
    panels: dict[str, dict[str, Any]] = {"cross-entropy": {}, "accuracy": {}}
    for title, of_batches, of_unseen in (
        ("cross-entropy", "cross_entropy", "validation_loss"),
        ("accuracy", "accuracy", "validation_accuracy"),
    ):
        for name, group in groups.items():
            for label, kind, key in (("batches", "train", of_batches), ("unseen", "evaluation", of_unseen)):
                epochs, points = group.series(kind, key)
                panels[title][f"{name} {label}".strip()] = (epochs, *band(points))
    return plots.lines(panels, "epoch")


def _energies(draws: Mapping[str, np.ndarray]) -> Figure:
    kinds = {name.removeprefix("energies_"): draws[name] for name in draws if name.startswith("energies_")}
    every = np.concatenate(list(kinds.values()))
    edges = np.linspace(*np.quantile(every, [0.002, 0.998]), _N_BINS + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    lines = {name: (middles, np.histogram(x, edges)[0] / len(x)) for name, x in kinds.items()}
    return plots.lines({"share of inputs": lines}, "energy E(x)")
