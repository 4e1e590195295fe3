"""Figures of samples, energies and training, each returned as a matplotlib `Figure`.

Nothing here touches pyplot: no window opens, no figure stays open behind the scenes, and matplotlib's settings are
the same afterwards. A notebook shows a returned figure; `figure.savefig("name.png")` writes it.

Images are arrays `(n, height, width)`, or `(n, height, width, 3)` for colour, in one of three kinds: bool; floating
point in [0, 1]; or integers, which are grey values 0 … 255 as `data.load` gives them, or levels 0 … K − 1 where
`n_levels=K` is given. Zero is white and one is black unless `cmap` says otherwise. Whatever does not fit is a
ValueError.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

COLOURS = ("#1f4e79", "#c8553d", "#8a8d91", "#3c8d5a", "#7b5ea7")
_PAPER, _GAP = 1.0, 0.86  # greys around and between images, on the scale from black 0 to white 1
_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
_styled = matplotlib.rc_context(_STYLE)  # as a decorator: these settings hold while a figure is made


class _Figure(Figure):
    """A Figure that a notebook shows even where pyplot was never imported."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


def image_grid(
    images: Any,
    n_columns: int | None = None,
    *,
    title: str = "",
    n_levels: int | None = None,
    cmap: str = "gray_r",
) -> Figure:
    """Returns a mosaic of images, row by row, `n_columns` in a row (default: about as wide as high)."""
    return compare({title: images}, n_columns, n_levels=n_levels, cmap=cmap)


@_styled
def compare(
    panels: Mapping[str, Any],
    n_columns: int | None = None,
    *,
    n_levels: int | None = None,
    cmap: str = "gray_r",
) -> Figure:
    """Returns mosaics side by side under their names, e.g. `compare({"data": x, "samples": y}, n_levels=4)`."""
    mosaics = {}
    for name, images in _mapping("panels", panels).items():
        values = _intensities(name or "images", images, n_levels)
        mosaics[name] = _mosaic(values, _columns(n_columns, len(values)), cmap)
    ratios = [m.shape[1] / m.shape[0] for m in mosaics.values()]
    height = min(4.0, 14 / sum(ratios))
    figure = _Figure(figsize=(height * sum(ratios) + 0.2, height + 0.4), layout="constrained")
    axes = figure.subplots(1, len(mosaics), squeeze=False, width_ratios=ratios)[0]
    for ax, (name, mosaic) in zip(axes, mosaics.items(), strict=True):
        _show(ax, mosaic, name)
    return figure


@_styled
def energy_histogram(energies: Mapping[str, Any], *, title: str = "", xlabel: str = "energy") -> Figure:
    """Returns histograms over common bins, e.g. `energy_histogram({"data": e, "samples": f, "noise": g})`.

    energies: a mapping of names to arrays of finite numbers; or of panel titles to such mappings. Heights are
    densities, so groups of different sizes compare.
    """
    panels = _nested("energies", energies, title)
    figure = _Figure(figsize=(4.4 * len(panels) + 0.4, 2.9), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (name, groups) in zip(axes, panels.items(), strict=True):
        values = {label: _finite(label, e) for label, e in groups.items()}
        low, high = min(v.min() for v in values.values()), max(v.max() for v in values.values())
        bins = np.linspace(low, high if high > low else low + 1.0, 101)
        for (label, e), colour in zip(values.items(), itertools.cycle(COLOURS), strict=False):
            ax.hist(e, bins=bins, density=True, color=colour, alpha=0.35)
            ax.hist(e, bins=bins, density=True, color=colour, histtype="step", label=label)
        ax.set(title=name, xlabel=f"{xlabel} (low = likely)", ylabel="density")
        ax.legend()
    return figure


@_styled
def training_curves(metrics: Any, *, title: str = "") -> Figure:
    """Returns the energies of data and negatives, the energy gap and the gradient norm over a run of `fit`.

    metrics: what `fit` returns, arrays `(n_epochs, n_batches)`, or `(n_steps,)` of a loop of one's own, in a NamedTuple
    or a mapping with some of `energy_data`, `energy_model`, `energy_gap`, `gradient_norm`; or a mapping of row titles
    to such metrics. Lines are means over an epoch, the pale band its lowest and highest batch.
    """
    rows = _nested("metrics", metrics, title)
    kinds = (
        ("energy", {"energy_data": "data", "energy_model": "negatives"}),
        ("energy gap (negatives − data)", {"energy_gap": ""}),
        ("gradient norm", {"gradient_norm": ""}),
    )
    kinds = [k for k in kinds if any(set(k[1]) & set(row) for row in rows.values())]
    if not kinds:
        raise ValueError(f"metrics hold {sorted(next(iter(rows.values())))}; give those of fit")
    figure = _Figure(figsize=(3.3 * len(kinds) + 0.2, 2.5 * len(rows) + 0.2), layout="constrained")
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


@_styled
def lines(
    panels: Mapping[str, Mapping[str, Any]],
    xlabel: str,
    *,
    log_x: bool = False,
    marker: str | None = None,
) -> Figure:
    """Returns lines in panels side by side, e.g. `lines({"log-likelihood": {"CD": (k, low, high)}}, "k")`.

    panels: of each title, labels to `(x, y)`, or to `(x, low, high)` for a band with a line along its lower edge, or to
    `(x, low, high, y)` for a band with a line at y. NaN leave gaps. log_x: x by factors, every value of it with a tick.
    More than four labels have one legend, beside them.
    """
    figure = _Figure(figsize=(4.2 * len(_mapping("panels", panels)) + 0.2, 3.1), layout="constrained")
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
    if len(labels) > 4:  # more would lie on the lines
        handles = {line.get_label(): line for ax in axes for line in ax.get_lines()}
        figure.legend(handles.values(), handles.keys(), loc="outside right upper")
    elif list(labels) != [""]:
        for ax in axes:
            ax.legend()
    return figure


@_styled
def chain_strip(
    frames: Any,
    steps: Sequence[int] | None = None,
    *,
    title: str = "",
    n_levels: int | None = None,
    cmap: str = "gray_r",
) -> Figure:
    """Returns chains as they evolve: a row a chain, a column a moment.

    frames: images `(n_frames, n_chains, height, width)`, as `sample` stacks positions. steps: the step each frame was
    taken at, written above its column.
    """
    stack = _frames(frames)
    n_frames = len(stack)
    if steps is not None and len(steps) != n_frames:
        raise ValueError(f"steps names {len(steps)} moments for {n_frames} frames; give one step a frame")
    rows = _intensities("frames", np.swapaxes(stack, 0, 1).reshape(-1, *stack.shape[2:]), n_levels)
    mosaic = _mosaic(rows, n_frames, cmap)
    width = 0.62 * n_frames
    height = width * mosaic.shape[0] / mosaic.shape[1]
    figure = _Figure(figsize=(width + 0.3, height + 0.6), layout="constrained")
    ax = figure.subplots()
    _show(ax, mosaic, title)
    if steps is not None:
        ax.set_axis_on()
        ax.spines[:].set_visible(False)
        centres = (np.arange(n_frames) + 0.5) * mosaic.shape[1] / n_frames
        ax.set_xticks(centres, [f"{step:,}" for step in steps])
        ax.tick_params(length=0, labeltop=True, labelbottom=False)
        ax.xaxis.set_label_position("top")
        ax.set(xlabel="step", yticks=[])
    return figure


@_styled
def rbm_filters(
    weights: Any, shape: tuple[int, int], n_columns: int | None = None, *, title: str = ""
) -> Figure:
    """Returns the weights of every hidden unit as an image, on one colour scale around zero.

    weights: `(n_visible, n_hidden)`, as in `RBMParams`. shape: `(height, width)`, together n_visible.
    """
    table = np.asarray(weights, np.float64)
    if table.ndim != 2 or table.size == 0 or len(shape) != 2 or math.prod(shape) != table.shape[0]:
        raise ValueError(f"weights has shape {table.shape}; give (n_visible, n_hidden), images being {shape}")
    limit = max(float(np.quantile(np.abs(_finite("weights", table)), 0.995)), 1e-12)
    images = np.clip(table.T.reshape(-1, *shape) / (2 * limit) + 0.5, 0, 1)
    mosaic = _mosaic(images, _columns(n_columns, len(images)), "RdBu_r")
    figure = _Figure(figsize=(4.9 * mosaic.shape[1] / mosaic.shape[0] + 0.6, 4.9), layout="constrained")
    ax = figure.subplots()
    _show(ax, mosaic, title)
    scale = ScalarMappable(Normalize(-limit, limit), "RdBu_r")
    figure.colorbar(scale, ax=ax, shrink=0.6, label="weight").outline.set_visible(False)
    return figure


def animate(
    frames: Any,
    path: str | Path,
    n_columns: int | None = None,
    *,
    n_levels: int | None = None,
    milliseconds: int | list[int] = 80,
    cmap: str = "gray_r",
) -> Path:
    """Writes images that change, `(n_frames, n_images, height, width)`, as an endless GIF; returns its path.

    milliseconds: how long a frame stays, or one such number a frame.
    """
    from PIL import Image

    stack = _frames(frames)
    columns = _columns(n_columns, stack.shape[1])
    mosaics = [_mosaic(_intensities("frames", frame, n_levels), columns, cmap) for frame in stack]
    colours = 256 if stack.ndim == 5 or n_levels is None else min(n_levels + 2, 256)
    pages = [Image.fromarray((255 * m).round().astype(np.uint8)).quantize(colours) for m in mosaics]
    pages[0].save(path, format="GIF", save_all=True, append_images=pages[1:], duration=milliseconds, loop=0)
    return Path(path)


def _frames(frames: Any) -> np.ndarray:
    stack = np.asarray(frames)
    if stack.ndim not in (4, 5) or 0 in stack.shape:
        raise ValueError(f"frames has shape {stack.shape}; give (n_frames, n_images, height, width)")
    return stack


def _intensities(name: str, images: Any, n_levels: int | None) -> np.ndarray:
    """Returns images as float32 in [0, 1]."""
    x = np.asarray(images)
    if x.ndim not in (3, 4) or 0 in x.shape or (x.ndim == 4 and x.shape[-1] != 3):
        raise ValueError(f"{name} has shape {x.shape}; give (n, height, width), or (n, height, width, 3)")
    if x.dtype != np.bool_ and not np.issubdtype(x.dtype, np.number):
        raise ValueError(f"{name} has dtype {x.dtype}; give bool, integers, or floats in [0, 1]")
    whole = np.issubdtype(x.dtype, np.integer)
    top = (255 if n_levels is None else n_levels - 1) if whole else 1
    if not (x.min() >= 0 and x.max() <= top):  # so written, a NaN does not pass
        remedy = f"{x.dtype} images lie in 0 … {top}" + ("; for levels pass n_levels" if whole else "")
        raise ValueError(f"{name} runs from {x.min()} to {x.max()}; {remedy}")
    return x.astype(np.float32) / np.float32(max(top, 1))


def _columns(n_columns: int | None, n: int) -> int:
    if n_columns is not None and n_columns < 1:
        raise ValueError(f"n_columns is {n_columns}; give at least 1")
    return math.ceil(math.sqrt(n)) if n_columns is None else min(n_columns, n)


def _mosaic(values: np.ndarray, n_columns: int, cmap: str) -> np.ndarray:
    """Tiles intensities into one RGB picture; pixels are blown up so that the gaps can be thinner than a pixel."""
    rgb = values if values.ndim == 4 else matplotlib.colormaps[cmap](values)[..., :3]
    zoom = max(1, 48 // max(rgb.shape[1:3]))
    rgb = rgb.repeat(zoom, axis=1).repeat(zoom, axis=2)
    (n, height, width), gap = rgb.shape[:3], max(1, round(0.07 * max(rgb.shape[1:3])))
    n_rows = -(-n // n_columns)
    cells = np.full((n_rows * n_columns, height + gap, width + gap, 3), _PAPER, np.float32)
    cells[:n] = _GAP
    cells[:n, gap // 2 : gap // 2 + height, gap // 2 : gap // 2 + width] = rgb
    tiled = cells.reshape(n_rows, n_columns, height + gap, width + gap, 3).swapaxes(1, 2)
    return tiled.reshape(n_rows * (height + gap), n_columns * (width + gap), 3)


def _show(ax: Any, mosaic: np.ndarray, title: str) -> None:
    ax.imshow(mosaic, interpolation="nearest", extent=(0, mosaic.shape[1], mosaic.shape[0], 0))
    ax.set_axis_off()
    ax.set_title(title)


def _curve(ax: Any, key: str, values: np.ndarray, label: str, colour: str) -> None:
    if values.ndim not in (1, 2) or values.size == 0:
        raise ValueError(f"{key} has shape {values.shape}; give (n_epochs, n_batches) or (n_steps,)")
    x = np.arange(1, len(values) + 1)
    if values.ndim == 2:
        ax.fill_between(x, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.15, linewidth=0)
    ax.plot(x, values.mean(axis=1) if values.ndim == 2 else values, color=colour, label=label or key)
    ax.set_xlabel("epoch" if values.ndim == 2 else "step")
    ax.locator_params(axis="x", nbins=5, integer=True)


def _mapping(name: str, value: Any) -> dict[str, Any]:
    value = value._asdict() if hasattr(value, "_asdict") else value
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f"{name} is {type(value).__name__}; give a mapping of names with at least one entry")
    return dict(value)


def _nested(name: str, value: Any, title: str) -> dict[str, dict[str, Any]]:
    """Returns a mapping of titles to mappings, from one such or from a single mapping."""
    outer = _mapping(name, value)
    if all(hasattr(v, "_asdict") or isinstance(v, Mapping) for v in outer.values()):
        return {inner: _mapping(f"{name} of {inner}", v) for inner, v in outer.items()}
    return {title: outer}


def _finite(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values, np.float64).ravel()
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"{name} is empty or holds NaN or infinite values; give finite numbers")
    return array
