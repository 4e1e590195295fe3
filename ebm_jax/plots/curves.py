"""Figures with axes: histograms of energies, training curves, lines."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ebm_jax.plots.style import (
    COLOURS,
    NotebookFigure,
    check_finite_array,
    check_mapping,
    nested_mappings,
    styled,
)


@styled
def energy_histogram(energies: Mapping[str, Any], *, title: str = "", xlabel: str = "energy") -> Figure:
    """Draws histograms over common bins, e.g. `energy_histogram({"data": e, "samples": f, "noise": g})`.

    Heights are densities, so groups of different sizes can be compared.

    Args:
      energies: A mapping of names to arrays of finite numbers, or of panel titles to such mappings.
      title: Title of a single panel.
      xlabel: Name of the quantity.

    Returns:
      A figure.

    Raises:
      ValueError: If there are no energies, or one is not finite.
    """
    panels = nested_mappings("energies", energies, title)
    figure = NotebookFigure(figsize=(4.4 * len(panels) + 0.4, 2.9), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (name, groups) in zip(axes, panels.items(), strict=True):
        values = {label: check_finite_array(label, e) for label, e in groups.items()}
        low, high = min(v.min() for v in values.values()), max(v.max() for v in values.values())
        bins = np.linspace(low, high if high > low else low + 1.0, 101)
        for (label, e), colour in zip(values.items(), itertools.cycle(COLOURS), strict=False):
            ax.hist(e, bins=bins, density=True, color=colour, alpha=0.35)
            ax.hist(e, bins=bins, density=True, color=colour, histtype="step", label=label)
        ax.set(title=name, xlabel=f"{xlabel} (low = likely)", ylabel="density")
        ax.legend()
    return figure


@styled
def training_curves(metrics: Any, *, title: str = "") -> Figure:
    """Draws the energies of data and negatives, the energy gap and the gradient norm over a run of `fit`.

    Lines are means over an epoch. The pale band goes from its lowest to its highest batch.

    Args:
      metrics: What `fit` returns: a NamedTuple or a mapping with some of `energy_data`, `energy_model`, `energy_gap`
        and `gradient_norm`, arrays `(n_epochs, n_batches)`, or `(n_steps,)` from your own loop. Or a mapping of row
        titles to such metrics.
      title: Title of a single row.

    Returns:
      A figure.

    Raises:
      ValueError: If there is none of these metrics, or one has another shape.
    """
    rows = nested_mappings("metrics", metrics, title)
    kinds = (
        ("energy", {"energy_data": "data", "energy_model": "negatives"}),
        ("energy gap (negatives − data)", {"energy_gap": ""}),
        ("gradient norm", {"gradient_norm": ""}),
    )
    kinds = [k for k in kinds if any(set(k[1]) & set(row) for row in rows.values())]
    if not kinds:
        raise ValueError(f"metrics hold {sorted(next(iter(rows.values())))}; give those of fit")
    figure = NotebookFigure(figsize=(3.3 * len(kinds) + 0.2, 2.5 * len(rows) + 0.2), layout="constrained")
    grid = figure.subplots(len(rows), len(kinds), squeeze=False)
    for axes, (name, row) in zip(grid, rows.items(), strict=True):
        for ax, (kind, series) in zip(axes, kinds, strict=True):
            for (key, who), colour in zip(series.items(), COLOURS, strict=False):
                if key in row:
                    _curve(ax, key, np.asarray(row[key]), who, colour)
            ax.set_title(f"{name}: {kind}" if name else kind)
            if kind == "gradient norm":
                ax.set_ylim(bottom=0)
            elif kind == "energy":
                ax.legend()
            else:
                ax.axhline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
    return figure


@styled
def lines(
    panels: Mapping[str, Mapping[str, Any]],
    xlabel: str,
    *,
    log_x: bool = False,
    marker: str | None = None,
) -> Figure:
    """Draws lines in panels side by side, e.g. `lines({"log-likelihood": {"CD": (k, low, high)}}, "k")`.

    Up to four labels have a legend in each panel; more have one legend beside the panels.

    Args:
      panels: For each title a mapping of labels to `(x, y)`, to `(x, low, high)` for a band with a line along its lower
        edge, or to `(x, low, high, y)` for a band with a line at y. NaN leave gaps.
      xlabel: Name of x.
      log_x: Whether x is on a logarithmic scale, with a tick at every value.
      marker: A matplotlib marker for the points.

    Returns:
      A figure.

    Raises:
      ValueError: If there are no panels.
    """
    figure = NotebookFigure(
        figsize=(4.2 * len(check_mapping("panels", panels)) + 0.2, 3.1), layout="constrained"
    )
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, series) in zip(axes, panels.items(), strict=True):
        for (label, (x, low, *rest)), colour in zip(series.items(), itertools.cycle(COLOURS), strict=False):
            dashes = "-" if list(series).index(label) < len(COLOURS) else "--"
            y = rest[1] if len(rest) > 1 else low
            ax.plot(x, y, color=colour, label=label, marker=marker, markersize=4, linestyle=dashes)
            if rest:
                ax.fill_between(x, low, rest[0], color=colour, alpha=0.2, linewidth=0)
        ax.set(title=title, xlabel=xlabel)
        if log_x:
            ticks = sorted({float(value) for x, *_ in series.values() for value in x})
            ax.set_xscale("log")
            ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            ax.minorticks_off()
    labels = {label: None for series in panels.values() for label in series}
    # The entries of a longer legend would lie on the lines.
    if len(labels) > 4:
        handles = {line.get_label(): line for ax in axes for line in ax.get_lines()}
        figure.legend(handles.values(), handles.keys(), loc="outside right upper")
    elif list(labels) != [""]:
        for ax in axes:
            ax.legend()
    return figure


def _curve(ax: Any, key: str, values: np.ndarray, label: str, colour: str) -> None:
    """Draws one metric over epochs or steps."""
    if values.ndim not in (1, 2) or values.size == 0:
        raise ValueError(f"{key} has shape {values.shape}; give (n_epochs, n_batches) or (n_steps,)")
    x = np.arange(1, len(values) + 1)
    if values.ndim == 2:
        ax.fill_between(x, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.15, linewidth=0)
    ax.plot(x, values.mean(axis=1) if values.ndim == 2 else values, color=colour, label=label or key)
    ax.set_xlabel("epoch" if values.ndim == 2 else "step")
    ax.locator_params(axis="x", nbins=5, integer=True)
