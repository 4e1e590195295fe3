"""Figures of images: mosaics, chains over time, weights, animations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ebm_jax.plots.style import NotebookFigure, check_finite_array, check_mapping, styled

# Greys around and between images, on the scale from black 0 to white 1.
_PAPER, _GAP = 1.0, 0.86


def image_grid(
    images: Any,
    n_columns: int | None = None,
    *,
    title: str = "",
    n_levels: int | None = None,
    cmap: str = "gray_r",
) -> Figure:
    """Draws a mosaic of images, row by row.

    Args:
      images: Images as the package describes them.
      n_columns: Number of images in a row; by default the mosaic is about as wide as high.
      title: Title of the figure.
      n_levels: K, if images are levels.
      cmap: A matplotlib colour map.

    Returns:
      A figure.

    Raises:
      ValueError: If the images or `n_columns` do not fit.
    """
    return compare({title: images}, n_columns, n_levels=n_levels, cmap=cmap)


@styled
def compare(
    panels: Mapping[str, Any],
    n_columns: int | None = None,
    *,
    n_levels: int | None = None,
    cmap: str = "gray_r",
) -> Figure:
    """Draws mosaics side by side under their names, e.g. `compare({"data": x, "samples": y}, n_levels=4)`.

    Args:
      panels: A mapping of names to images.
      n_columns: Number of images in a row; by default each mosaic is about as wide as high.
      n_levels: K, if images are levels.
      cmap: A matplotlib colour map.

    Returns:
      A figure.

    Raises:
      ValueError: If there are no panels, or the images or `n_columns` do not fit.
    """
    mosaics = {}
    for name, images in check_mapping("panels", panels).items():
        values = _intensities(name or "images", images, n_levels)
        mosaics[name] = _mosaic(values, _columns(n_columns, len(values)), cmap)
    ratios = [m.shape[1] / m.shape[0] for m in mosaics.values()]
    height = min(4.0, 14 / sum(ratios))
    figure = NotebookFigure(figsize=(height * sum(ratios) + 0.2, height + 0.4), layout="constrained")
    axes = figure.subplots(1, len(mosaics), squeeze=False, width_ratios=ratios)[0]
    for ax, (name, mosaic) in zip(axes, mosaics.items(), strict=True):
        _show(ax, mosaic, name)
    return figure


@styled
def chain_strip(
    frames: Any,
    steps: Sequence[int] | None = None,
    *,
    title: str = "",
    n_levels: int | None = None,
    cmap: str = "gray_r",
) -> Figure:
    """Draws chains as they evolve: a row for each chain, a column for each moment.

    Args:
      frames: Images `(n_frames, n_chains, height, width)`, as `sample` stacks positions.
      steps: The step of each frame, written above its column.
      title: Title of the figure.
      n_levels: K, if images are levels.
      cmap: A matplotlib colour map.

    Returns:
      A figure.

    Raises:
      ValueError: If the frames do not fit, or `steps` has another length.
    """
    stack = _frames(frames)
    n_frames = len(stack)
    if steps is not None and len(steps) != n_frames:
        raise ValueError(f"steps names {len(steps)} moments for {n_frames} frames; give one step a frame")
    rows = _intensities("frames", np.swapaxes(stack, 0, 1).reshape(-1, *stack.shape[2:]), n_levels)
    mosaic = _mosaic(rows, n_frames, cmap)
    width = 0.62 * n_frames
    height = width * mosaic.shape[0] / mosaic.shape[1]
    figure = NotebookFigure(figsize=(width + 0.3, height + 0.6), layout="constrained")
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


@styled
def rbm_filters(
    weights: Any, shape: tuple[int, int], n_columns: int | None = None, *, title: str = ""
) -> Figure:
    """Draws the weights of every hidden unit as an image, on one colour scale around zero.

    Args:
      weights: `(n_visible, n_hidden)`, as in `RBMParams`.
      shape: `(height, width)` with height · width = n_visible.
      n_columns: Number of images in a row; by default the mosaic is about as wide as high.
      title: Title of the figure.

    Returns:
      A figure.

    Raises:
      ValueError: If the shapes do not fit, or a weight is not finite.
    """
    table = np.asarray(weights, np.float64)
    if table.ndim != 2 or table.size == 0 or len(shape) != 2 or math.prod(shape) != table.shape[0]:
        raise ValueError(f"weights has shape {table.shape}; give (n_visible, n_hidden), images being {shape}")
    limit = max(float(np.quantile(np.abs(check_finite_array("weights", table)), 0.995)), 1e-12)
    images = np.clip(table.T.reshape(-1, *shape) / (2 * limit) + 0.5, 0, 1)
    mosaic = _mosaic(images, _columns(n_columns, len(images)), "RdBu_r")
    figure = NotebookFigure(
        figsize=(4.9 * mosaic.shape[1] / mosaic.shape[0] + 0.6, 4.9), layout="constrained"
    )
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
    """Writes changing images as an endless GIF.

    Args:
      frames: Images `(n_frames, n_images, height, width)`.
      path: Name of the file.
      n_columns: Number of images in a row; by default the mosaic is about as wide as high.
      n_levels: K, if images are levels.
      milliseconds: How long a frame stays, or such a number for each frame.
      cmap: A matplotlib colour map.

    Returns:
      The path of the file.

    Raises:
      ValueError: If the frames or `n_columns` do not fit.
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
    """Returns frames as an array; raises ValueError on other shapes."""
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
    is_integer = np.issubdtype(x.dtype, np.integer)
    top = 1
    if is_integer:
        top = 255 if n_levels is None else n_levels - 1
    # Written like this, the condition refuses NaN.
    if not (x.min() >= 0 and x.max() <= top):
        remedy = f"{x.dtype} images lie in 0 … {top}" + ("; for levels pass n_levels" if is_integer else "")
        raise ValueError(f"{name} runs from {x.min()} to {x.max()}; {remedy}")
    return x.astype(np.float32) / np.float32(max(top, 1))


def _columns(n_columns: int | None, n: int) -> int:
    """Returns how many of n images are in a row."""
    if n_columns is not None and n_columns < 1:
        raise ValueError(f"n_columns is {n_columns}; give at least 1")
    return math.ceil(math.sqrt(n)) if n_columns is None else min(n_columns, n)


def _mosaic(values: np.ndarray, n_columns: int, cmap: str) -> np.ndarray:
    """Tiles intensities into one RGB picture. Pixels are enlarged so that gaps can be thinner than a pixel."""
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
    """Shows a mosaic without axes."""
    ax.imshow(mosaic, interpolation="nearest", extent=(0, mosaic.shape[1], mosaic.shape[0], 0))
    ax.set_axis_off()
    ax.set_title(title)
