"""Figures of RBM runs: samples, weights, bounds of the log-likelihood, mixing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ebm_jax import plots
from ebm_jax.experiment.recipes.base import StoredRun
from ebm_jax.experiment.recipes.comparison import (
    SeedGroup,
    Spread,
    band,
    group_by_seed,
    spread,
    varied_settings,
)

# The settings in which runs may differ that a figure or a sentence compares by k.
ABLATED = {"negatives.method", "negatives.k"}
captions = {
    "samples/samples.png": "Test data, and the ends of Gibbs chains that began at noise (means of visible units).",
    "samples/chains.png": "Eight of these chains at increasing numbers of sweeps.",
    "plots/likelihood.png": "Evaluations. The band lies between the two bounds.",
    "plots/training.png": "Training, means over at most `training.steps_per_call` updates each.",
    "plots/filters.png": "Weights of the first hidden units.",
    "plots/autocorrelation.png": "How long Gibbs chains from training rows remember their free energy.",
}
_N_LAGS = 200
_BOUNDS = "log-likelihood of test data (nats), bounds"


def run_figures(run: StoredRun) -> dict[str, Figure]:
    """Returns the figures of one run by their paths in its folder."""
    draws = run.draws
    weights = draws["weights"]
    groups = {"": SeedGroup((run,))}
    figures = {
        "plots/filters.png": plots.rbm_filters(
            weights.reshape(-1, weights.shape[-1]), weights.shape[:2], title="Weights"
        ),
        "plots/autocorrelation.png": _autocorrelation(groups),
        "samples/samples.png": plots.compare({"data": draws["data"], "samples": draws["frames"][-1]}),
        "samples/chains.png": plots.chain_strip(draws["frames"][:, :8], draws["steps"].tolist()),
    }
    likelihood = _likelihood_by_epoch(groups)
    if likelihood is not None:
        figures["plots/likelihood.png"] = likelihood
    return figures


def comparison_figures(runs: Mapping[str, StoredRun]) -> dict[str, Figure]:
    """Returns the figures that compare finished runs, by file name.

    Curves are means over the runs that differ in seed alone, with a band of one standard deviation. Samples and weights
    are those of the first seed.
    """
    groups = group_by_seed(runs)
    first = {name: group.runs[0].draws for name, group in groups.items()}
    figures = {
        "samples.png": plots.compare({name: draws["frames"][-1][:49] for name, draws in first.items()}),
        "autocorrelation.png": _autocorrelation(groups),
        "filters.png": plots.compare(
            {name: _filter_images(draws["weights"]) for name, draws in first.items()}, cmap="RdBu_r"
        ),
    }
    optional = {
        "likelihood.png": _likelihood_by_epoch(groups),
        "likelihood_by_k.png": _likelihood_by_k(groups),
    }
    return figures | {name: figure for name, figure in optional.items() if figure is not None}


def _autocorrelation(groups: Mapping[str, SeedGroup]) -> Figure:
    """Draws the autocorrelation of the free energy by lag."""
    series = {}
    for name, group in groups.items():
        curves = [run.draws["autocorrelation"][:_N_LAGS].tolist() for run in group.runs]
        points = [spread(values) for values in zip(*curves, strict=True)]
        series[name] = (np.arange(len(points)), *band(points))
    return plots.lines({"autocorrelation of the free energy": series}, "sweeps apart")


def _likelihood_by_epoch(groups: Mapping[str, SeedGroup]) -> Figure | None:
    """Draws bounds of the log-likelihood, pseudo-log-likelihood and reconstruction error over epochs.

    Returns None if no run was evaluated more than once.
    """
    runs = [run for group in groups.values() for run in group.runs]
    if all(sum(row["kind"] == "evaluation" for row in run.rows) < 2 for run in runs):
        return None
    bounds = {}
    for name, group in groups.items():
        if any("log_likelihood_lower" in row for run in group.runs for row in run.rows):
            epochs, lower = group.series("evaluation", "log_likelihood_lower")
            _, upper = group.series("evaluation", "log_likelihood_upper")
            bounds[name] = (epochs, *_between(lower, upper))
    panels: dict[str, dict[str, Any]] = {_BOUNDS: bounds} if bounds else {}
    for title, key in (
        ("pseudo-log-likelihood (nats)", "pseudo_log_likelihood"),
        ("reconstruction error", "reconstruction_error"),
    ):
        panels[title] = {}
        for name, group in groups.items():
            epochs, points = group.series("evaluation", key)
            panels[title][name] = (epochs, *band(points))
    return plots.lines(panels, "epoch", marker="o")


def _likelihood_by_k(groups: Mapping[str, SeedGroup]) -> Figure | None:
    """Draws log-likelihood and effective sample size against k, with a line for CD and one for PCD.

    Returns None if no method has two values of k, or if other settings differ as well.
    """
    methods = {
        method.upper(): [group for _, group in by_k(groups, method)]
        for method in ("cd", "pcd")
        if by_k(groups, method)
    }
    if max(len(found) for found in methods.values()) < 2 or varied_settings(groups) - ABLATED:
        return None
    panels: dict[str, dict[str, Any]] = {
        _BOUNDS: {},
        "pseudo-log-likelihood (nats)": {},
        "ESS a sweep of its chains": {},
    }
    for method, found in methods.items():
        ks = [group.config.negatives.k for group in found]
        lower, upper, pseudo, ess = (
            [group.spread(metric) for group in found]
            for metric in (
                "log_likelihood_lower",
                "log_likelihood_upper",
                "pseudo_log_likelihood",
                "ess_per_step",
            )
        )
        for title, line in zip(panels, (_between(lower, upper), band(pseudo), band(ess)), strict=True):
            panels[title][method] = (ks, *line)
    return plots.lines(panels, "k, Gibbs steps an update", log_x=True, marker="o")


def by_k(groups: Mapping[str, SeedGroup], method: str) -> list[tuple[str, SeedGroup]]:
    """Returns the groups that train by a method, `"cd"` or `"pcd"`, in the order of k."""
    found = [(name, group) for name, group in groups.items() if group.config.negatives.method == method]
    return sorted(found, key=lambda item: item[1].config.negatives.k)


def _between(lower: Sequence[Spread], upper: Sequence[Spread]) -> tuple[list[float], ...]:
    """Returns a band between two bounds, each widened by its standard deviation over seeds.

    The line runs along the mean of the lower bound.
    """
    edges = [point.low for point in lower], [point.high for point in upper]
    return *edges, [point.mean for point in lower]


def _filter_images(weights: np.ndarray) -> np.ndarray:
    """Returns the weights of 49 hidden units as images in [0, 1], with 1/2 for zero."""
    images = np.moveaxis(weights, -1, 0)[:49]
    limit = max(float(np.quantile(np.abs(images), 0.995)), 1e-12)
    return np.clip(images / (2 * limit) + 0.5, 0, 1)
