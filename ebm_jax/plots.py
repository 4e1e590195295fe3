"""Figures of samples, energies and training, each returned as a matplotlib `Figure`.

Nothing here touches pyplot: no window opens, no figure stays open behind the scenes, and matplotlib's settings are
the same afterwards. A notebook shows a returned figure; `figure.savefig("name.png")` writes it.

Images are arrays `(n, height, width)`, or `(n, height, width, 3)` for colour, in one of three kinds: bool; floating point
in [0, 1]; or integers, which are grey values 0 … 255 as `data.load` gives them, or levels 0 … K − 1 where `n_levels=K` is
given. Zero is white and one is black unless `cmap` says otherwise.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

__all__ = [
    "animate",
    "chain_strip",
    "compare",
    "energy_histogram",
    "image_grid",
    "rbm_filters",
    "training_curves",
]

COLOURS = ("#1f4e79", "#c8553d", "#8a8d91", "#3c8d5a", "#7b5ea7")
_GAP = 0.86  # grey between tiles, on the scale from black 0 to white 1
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#333333",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}


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
    title: str | None = None,
    n_levels: int | None = None,
    cmap: str = "gray_r",
) -> Figure:
    """Returns a mosaic of images, row by row, `n_columns` in a row (default: about as wide as high).

    Raises ValueError on an array of another shape, kind or range, or without images.
    """
    return compare({title or "": images}, n_columns, n_levels=n_levels, cmap=cmap)


def compare(
    panels: Mapping[str, Any],
    n_columns: int | None = None,
    *,
    title: str | None = None,
    n_levels: int | None = None,
    cmap: str = "gray_r",
) -> Figure:
    """Returns mosaics side by side under their names, e.g. `compare({"data": x, "samples": y}, n_levels=4)`.

    Each has `n_columns` images in a row. Raises ValueError as `image_grid`, and when `panels` is empty.
    """
    _check_mapping("panels", panels)
    mosaics = {}
    for name, images in panels.items():
        values = _intensities(name or "images", images, n_levels)
        mosaics[name] = _mosaic(values, _columns(n_columns, len(values)), cmap)
    inches = [(m.shape[1] / m.shape[0], m.shape[0]) for m in mosaics.values()]
    height = 4.2 if len(mosaics) == 1 else 3.2
    with _style():
        width = sum(min(max(ratio, 0.25), 4.0) for ratio, _ in inches) * height
        figure = _Figure(figsize=(width + 0.2, height + 0.4), layout="constrained")
        axes = figure.subplots(1, len(mosaics), squeeze=False, width_ratios=[ratio for ratio, _ in inches])[0]
        for ax, (name, mosaic) in zip(axes, mosaics.items(), strict=True):
            _show(ax, mosaic, name)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def energy_histogram(
    energies: Mapping[str, Any], *, title: str | None = None, xlabel: str = "energy", n_bins: int = 60
) -> Figure:
    """Returns histograms over common bins, e.g. `energy_histogram({"data": e, "samples": f, "noise": g})`.

    energies: a mapping of names to arrays, flattened; or of panel titles to such mappings. Heights are densities, so
    groups of different sizes compare. Raises ValueError when an array is empty or holds a NaN or infinite value.
    """
    panels = _nested("energies", energies, title)
    with _style():
        figure = _Figure(figsize=(4.4 * len(panels) + 0.4, 2.9), layout="constrained")
        for ax, (name, groups) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            values = {label: _finite(label, e) for label, e in groups.items()}
            low = min(v.min() for v in values.values())
            high = max(v.max() for v in values.values())
            bins = np.linspace(low, high if high > low else low + 1.0, n_bins + 1)
            for (label, e), colour in zip(values.items(), _cycle(len(values)), strict=True):
                ax.hist(e, bins=bins, density=True, color=colour, alpha=0.35)
                ax.hist(e, bins=bins, density=True, color=colour, histtype="step", linewidth=1.4, label=label)
            ax.set_xlabel(f"{xlabel} (low = likely)")
            ax.set_ylabel("density")
            ax.set_title(name)
            ax.legend()
    return figure


def training_curves(metrics: Any, *, title: str | None = None) -> Figure:
    """Returns the energies of data and negatives, the energy gap and the gradient norm over a run of `fit`.

    metrics: what `fit` returns, arrays `(n_epochs, n_batches)`, or `(n_steps,)` of a loop of one's own, in a NamedTuple or
    a mapping with some of `energy_data`, `energy_model`, `energy_gap`, `gradient_norm`; or a mapping of row titles to
    such metrics. Lines are means over an epoch, the pale band its lowest and highest batch. Raises ValueError when none
    of these is there, or they have no step.
    """
    rows = _rows_of_metrics(metrics, title)
    kinds = (
        ("energy", {"energy_data": "data", "energy_model": "negatives"}),
        ("energy gap (negatives − data)", {"energy_gap": ""}),
        ("gradient norm", {"gradient_norm": ""}),
    )
    kinds = [k for k in kinds if any(set(k[1]) & set(row) for row in rows.values())]
    if not kinds:
        raise ValueError(
            "metrics hold no energy_data, energy_model, energy_gap or gradient_norm; give those of fit"
        )
    with _style():
        figure = _Figure(figsize=(3.3 * len(kinds) + 0.2, 2.5 * len(rows) + 0.2), layout="constrained")
        grid = figure.subplots(len(rows), len(kinds), squeeze=False)
        for axes, (name, row) in zip(grid, rows.items(), strict=True):
            for ax, (label, series) in zip(axes, kinds, strict=True):
                for (key, who), colour in zip(series.items(), COLOURS, strict=False):
                    if key in row:
                        _curve(ax, key, row[key], who, colour)
                if label == "gradient norm":
                    ax.set_ylim(bottom=0)
                elif label != "energy":
                    ax.axhline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
                ax.set_title(f"{name}: {label}" if name else label)
                if len(series) > 1:
                    ax.legend()
    return figure


def chain_strip(
    frames: Any,
    steps: Sequence[int] | None = None,
    *,
    title: str | None = None,
    n_levels: int | None = None,
    cmap: str = "gray_r",
) -> Figure:
    """Returns chains as they evolve: a row a chain, a column a moment.

    frames: images `(n_frames, n_chains, height, width)`, as `sample` stacks positions. steps: the step each frame was
    taken at, written above its column. Raises ValueError when shapes do not fit.
    """
    stack = np.asarray(frames)
    if stack.ndim not in (4, 5) or 0 in stack.shape:
        raise ValueError(f"frames has shape {stack.shape}; give (n_frames, n_chains, height, width)")
    n_frames, n_chains = stack.shape[:2]
    if steps is not None and len(steps) != n_frames:
        raise ValueError(
            f"steps names {len(steps)} moments and frames holds {n_frames}; give one step a frame"
        )
    rows = np.swapaxes(stack, 0, 1).reshape(n_frames * n_chains, *stack.shape[2:])
    mosaic = _mosaic(_intensities("frames", rows, n_levels), n_frames, cmap)
    with _style():
        width = 0.62 * n_frames
        figure = _Figure(
            figsize=(width + 0.3, width * mosaic.shape[0] / mosaic.shape[1] + 0.6), layout="constrained"
        )
        ax = figure.subplots()
        _show(ax, mosaic, title or "")
        if steps is not None:
            ax.set_axis_on()
            ax.spines[:].set_visible(False)
            pitch = mosaic.shape[1] / n_frames
            ax.set_xticks([pitch * (i + 0.5) for i in range(n_frames)], [f"{step:,}" for step in steps])
            ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
            ax.set_yticks([])
            ax.xaxis.set_label_position("top")
            ax.set_xlabel("step")
    return figure


def rbm_filters(
    weights: Any, shape: tuple[int, int], n_columns: int | None = None, *, title: str | None = None
) -> Figure:
    """Returns the weights of every hidden unit as an image, on one colour scale around zero.

    weights: `(n_visible, n_hidden)`, as in `RBMParams`. shape: `(height, width)` of the visible layer. Raises ValueError
    when height · width is not n_visible.
    """
    table = np.asarray(weights, np.float64)
    if table.ndim != 2 or table.size == 0 or len(shape) != 2 or math.prod(shape) != table.shape[0]:
        raise ValueError(
            f"weights has shape {table.shape} and images {tuple(shape)}; need (height · width, n_hidden)"
        )
    limit = max(float(np.quantile(np.abs(_finite("weights", table)), 0.995)), 1e-12)
    images = np.clip(table.T.reshape(-1, *shape) / (2 * limit) + 0.5, 0, 1)
    mosaic = _mosaic(images, _columns(n_columns, len(images)), "RdBu_r")
    with _style():
        figure = _Figure(figsize=(4.9 * mosaic.shape[1] / mosaic.shape[0] + 0.6, 4.9), layout="constrained")
        ax = figure.subplots()
        _show(ax, mosaic, title or "")
        scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(-limit, limit), "RdBu_r")
        figure.colorbar(scale, ax=ax, shrink=0.6, label="weight").outline.set_visible(False)
    return figure


def animate(
    frames: Any,
    path: str | os.PathLike[str],
    n_columns: int | None = None,
    *,
    n_levels: int | None = None,
    milliseconds: int | Sequence[int] = 80,
    cmap: str = "gray_r",
) -> Path:
    """Writes images that change, `(n_frames, n_images, height, width)`, as an endless GIF; returns its path.

    milliseconds: how long a frame stays, or one such number a frame. Raises ValueError as `chain_strip`.
    """
    from PIL import Image

    stack = np.asarray(frames)
    if stack.ndim not in (4, 5) or 0 in stack.shape:
        raise ValueError(f"frames has shape {stack.shape}; give (n_frames, n_images, height, width)")
    columns = _columns(n_columns, stack.shape[1])
    mosaics = [_mosaic(_intensities("frames", frame, n_levels), columns, cmap) for frame in stack]
    pages = [Image.fromarray((255 * m).round().astype(np.uint8)).quantize(64) for m in mosaics]
    duration = milliseconds if isinstance(milliseconds, int) else list(milliseconds)
    pages[0].save(path, format="GIF", save_all=True, append_images=pages[1:], duration=duration, loop=0)
    return Path(path)


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(_STYLE):
        yield


def _intensities(name: str, images: Any, n_levels: int | None) -> np.ndarray:
    """Returns images as float32 in [0, 1]; raises ValueError where shape, kind or range is another."""
    x = np.asarray(images)
    if x.ndim not in (3, 4) or 0 in x.shape or (x.ndim == 4 and x.shape[-1] != 3):
        raise ValueError(
            f"{name} has shape {x.shape}; give (n, height, width), or (n, height, width, 3) for colour"
        )
    if x.dtype == np.bool_:
        return x.astype(np.float32)
    if np.issubdtype(x.dtype, np.integer):
        top, remedy = (255, "grey values are 0 … 255; for levels pass n_levels")
        if n_levels is not None:
            top, remedy = n_levels - 1, f"levels run from 0 to {n_levels - 1}"
    elif x.dtype.kind == "f" or x.dtype.name == "bfloat16":
        top, remedy = 1, "floats lie in [0, 1]"
    else:
        raise ValueError(f"{name} has dtype {x.dtype}; give bool, integers, or floats in [0, 1]")
    x = x.astype(np.float32)
    if not (x.min() >= 0 and x.max() <= top):  # false for a NaN too
        raise ValueError(f"{name} runs from {x.min()} to {x.max()}; {remedy}")
    return x / np.float32(max(top, 1))


def _columns(n_columns: int | None, n: int) -> int:
    if n_columns is None:
        return math.ceil(math.sqrt(n))
    if n_columns < 1:
        raise ValueError(f"n_columns is {n_columns}; give at least 1")
    return n_columns


def _mosaic(values: np.ndarray, n_columns: int, cmap: str) -> np.ndarray:
    """Tiles intensities into one RGB picture with thin gaps; pixels are blown up so that a gap can be thinner than one."""
    rgb = values if values.ndim == 4 else matplotlib.colormaps[cmap](values)[..., :3]
    height, width = rgb.shape[1:3]
    zoom = max(1, 48 // max(height, width))
    gap = max(1, round(0.07 * zoom * max(height, width)))
    rgb = rgb.repeat(zoom, axis=1).repeat(zoom, axis=2)
    n_rows = -(-len(rgb) // n_columns)
    cells = np.ones((n_rows * n_columns, rgb.shape[1] + gap, rgb.shape[2] + gap, 3), np.float32)
    cells[: len(rgb)] = _GAP
    cells[: len(rgb), gap // 2 : gap // 2 + rgb.shape[1], gap // 2 : gap // 2 + rgb.shape[2]] = rgb
    tiled = cells.reshape(n_rows, n_columns, *cells.shape[1:]).swapaxes(1, 2)
    return tiled.reshape(n_rows * cells.shape[1], n_columns * cells.shape[2], 3)


def _show(ax: Any, mosaic: np.ndarray, title: str) -> None:
    height, width = mosaic.shape[:2]
    ax.imshow(mosaic, interpolation="nearest", extent=(0, width, height, 0))
    ax.set_axis_off()
    ax.set_title(title)


def _curve(ax: Any, key: str, values: np.ndarray, label: str, colour: str) -> None:
    by_epoch = values.ndim == 2
    x = np.arange(1, len(values) + 1)
    if by_epoch:
        ax.fill_between(x, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.15, linewidth=0)
    ax.plot(x, values.mean(axis=1) if by_epoch else values, color=colour, linewidth=1.4, label=label or key)
    ax.set_xlabel("epoch" if by_epoch else "step")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _rows_of_metrics(metrics: Any, title: str | None) -> dict[str, dict[str, np.ndarray]]:
    as_mapping = lambda m: m._asdict() if hasattr(m, "_asdict") else m  # noqa: E731
    outer = as_mapping(metrics)
    _check_mapping("metrics", outer)
    if all(hasattr(m, "_asdict") or isinstance(m, Mapping) for m in outer.values()):
        rows = {name: as_mapping(m) for name, m in outer.items()}
    else:
        rows = {title or "": outer}
    rows = {name: {key: np.asarray(v) for key, v in row.items()} for name, row in rows.items()}
    for row in rows.values():
        for key, v in row.items():
            if v.ndim not in (1, 2) or v.size == 0:
                raise ValueError(
                    f"metrics hold {key} of shape {v.shape}; give (n_epochs, n_batches) or (n_steps,)"
                )
    return rows


def _nested(name: str, values: Any, title: str | None) -> dict[str, Any]:
    _check_mapping(name, values)
    if all(isinstance(v, Mapping) for v in values.values()):
        for inner, v in values.items():
            _check_mapping(f"{name}[{inner!r}]", v)
        return dict(values)
    return {title or "": values}


def _check_mapping(name: str, value: Any) -> None:
    if not isinstance(value, Mapping) or not value:
        raise ValueError(
            f'{name} is {type(value).__name__}; give a mapping with at least one entry, e.g. {{"data": …}}'
        )


def _finite(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values, np.float64).ravel()
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"{name} is empty or holds NaN or infinite values; give finite numbers")
    return array


def _cycle(n: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(n)]
