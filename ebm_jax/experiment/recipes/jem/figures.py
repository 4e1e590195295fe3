"""Figures of runs of the recipe `jem`: training, samples, chains, and energies of strange images."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ebm_jax import plots
from ebm_jax.experiment import files
from ebm_jax.experiment.recipes.base import StoredRun
from ebm_jax.experiment.recipes.comparison import SeedGroup, band, group_by_seed

captions = {
    "samples/samples.png": "Unseen images, and the ends of chains that began at uniform noise.",
    "samples/classes.png": "Ends of chains that keep one class, a row for each class.",
    "samples/chains.png": "Eight chains from noise at increasing numbers of steps.",
    "samples/training.png": "The same chains in the course of training; above each column its update.",
    "plots/loss.png": "Loss and accuracy of training and unseen images after each evaluated epoch.",
    "plots/energies.png": "Energies of unseen and of strange images.",
    "plots/training.png": "Training, means over at most `training.steps_per_call` updates each. Classifier epochs have "
    "no negatives and so no energy gap.",
    "plots/negatives.png": "Energies and chains of the joint epochs.",
}
_N_COLUMNS = 14
_LOSS = {"cross-entropy (nats)": "cross_entropy", "accuracy": "accuracy"}
_NEGATIVES = {
    "energy of data": "energy_data",
    "energy of negatives": "energy_model",
    "distance an update (Euclidean)": "movement",
}


def run_figures(run: StoredRun) -> dict[str, Figure]:
    """Returns the figures of one run by their paths in its folder."""
    draws, classes = run.draws, run.draws["classes"]
    figures = {
        "samples/samples.png": plots.compare({"data": draws["data"], "samples": draws["frames"][-1]}),
        "samples/classes.png": plots.image_grid(classes.reshape(-1, *classes.shape[2:]), classes.shape[1]),
        "samples/chains.png": _strip(draws["frames"], draws["steps"]),
        "plots/energies.png": plots.energy_histogram(
            {key.removeprefix("energy_"): draws[key] for key in draws if key.startswith("energy_")}
        ),
        "plots/negatives.png": _by_epoch({"": SeedGroup((run,))}, "train", _NEGATIVES),
    }
    snapshots = sorted(path.stem for path in (run.path / "samples").glob("step_*.npz"))
    if len(snapshots) > 1:
        stored = [files.read(run.path, f"samples/{name}.npz") for name in snapshots]
        frames = np.stack([np.load(io.BytesIO(content))["samples"] for content in stored])
        figures["samples/training.png"] = _strip(frames, [int(name[5:]) for name in snapshots])
    if sum(row["kind"] == "evaluation" for row in run.rows) > 1:
        figures["plots/loss.png"] = _loss(run)
    return figures


def comparison_figures(runs: Mapping[str, StoredRun]) -> dict[str, Figure]:
    """Returns the figures that compare finished runs, by file name.

    Curves are means over the runs that differ in seed alone, with a band of one standard deviation. Samples are those
    of the first seed.
    """
    groups = group_by_seed(runs)
    first = {name: group.runs[0].draws for name, group in groups.items()}
    return {
        "samples.png": plots.compare({name: draws["frames"][-1][:49] for name, draws in first.items()}),
        "loss.png": _by_epoch(groups, "evaluation", _LOSS),
        "negatives.png": _by_epoch(groups, "train", _NEGATIVES),
    }


def _strip(frames: np.ndarray, steps: Any) -> Figure:
    """Draws eight chains at the first and the last moment and others ever further apart."""
    n = len(frames)
    chosen = np.unique([0, *np.geomspace(1, max(n - 1, 1), _N_COLUMNS - 1).round().astype(int)])
    return plots.chain_strip(frames[chosen, :8], np.asarray(steps)[chosen].tolist())


def _loss(run: StoredRun) -> Figure:
    group = SeedGroup((run,))
    panels: dict[str, dict[str, Any]] = {}
    for title, key in _LOSS.items():
        panels[title] = {}
        for label, name in (("training", f"training_{key}"), ("unseen", key)):
            epochs, points = group.series("evaluation", name)
            panels[title][label] = (epochs, [point.mean for point in points])
    return plots.lines(panels, "epoch")


def _by_epoch(groups: Mapping[str, SeedGroup], kind: str, panels: Mapping[str, str]) -> Figure:
    """Draws quantities of metrics.jsonl over epochs, a panel each."""
    drawn: dict[str, dict[str, Any]] = {title: {} for title in panels}
    for title, key in panels.items():
        for name, group in groups.items():
            epochs, points = group.series(kind, key)
            drawn[title][name] = (epochs, *band(points))
    return plots.lines(drawn, "epoch")
