"""Draws how the three Gibbs paths lay configurations out: docs/images/block_gibbs_paths.png.

The sublattices, words and index tables are read off the kernels, so that the picture shows what runs.

    python docs/figures/block_gibbs_paths.py
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from common import IMAGES
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import ebm_jax as ej

PARITIES = ((0, 0), (1, 1), (0, 1), (1, 0))
COLOUR = {(0, 0): "#1f4e79", (1, 1): "#86a9cc", (0, 1): "#c8553d", (1, 0): "#eeb3a2"}
PAPER, EDGE, GREY, GREEN = "#ffffff", "#666666", "#dddddd", "#3c8d5a"


def cell(ax: Any, x: float, y: float, w: float, h: float, colour: str, text: str = "", **kwargs: Any) -> None:
    """Draws a rectangle with its upper left corner at (x, y), and a word in it."""
    ax.add_patch(
        Rectangle((x, y), w, h, facecolor=colour, **{"edgecolor": PAPER, "linewidth": 1.2, **kwargs})
    )
    if text:
        dark = sum(matplotlib.colors.to_rgb(colour)) < 1.7 and "alpha" not in kwargs
        ax.text(
            x + w / 2,
            y + h / 2,
            text,
            ha="center",
            va="center",
            fontsize=7,
            color=PAPER if dark else "#222222",
        )


def sites(ax: Any, grid: ej.Grid) -> None:
    """The grid, each site in the colour of its sublattice."""
    for site in range(grid.n_sites):
        row, column = divmod(site, grid.width)
        cell(ax, column, row, 1, 1, COLOUR[row % 2, column % 2], str(site))
    frame(ax, "a periodic 6×6 grid: four sublattices\nby parity of row and column", grid.width, grid.height)


def packs(ax: Any, kernel: Any) -> None:
    """The two arrays as they lie in memory, border included: which site each byte holds."""
    grid = kernel.model.graph
    numbers = jnp.arange(grid.n_sites, dtype=jnp.uint8).reshape(1, *grid.shape)
    arrays = [np.asarray(array)[..., 0] for array in kernel.layout.pack(kernel.tables, numbers)]
    for number, (array, pair) in enumerate(zip(arrays, kernel.layout.packs)):
        left = number * 5.6
        for (row, column), word in np.ndenumerate(array):
            inner = 1 <= row <= 3 and 1 <= column <= 3
            for half, parity in enumerate(pair):
                style = {} if inner else {"alpha": 0.35}
                value = int(word) >> 8 * half & 255
                cell(
                    ax,
                    left + column + half * 0.5,
                    row,
                    0.5,
                    1,
                    COLOUR[parity],
                    str(value),
                    linewidth=0.5,
                    **style,
                )
            ax.add_patch(Rectangle((left + column, row), 1, 1, fill=False, edgecolor=PAPER, linewidth=2))
        ax.add_patch(Rectangle((left + 1, 1), 3, 3, fill=False, edgecolor="#222222", linewidth=1.6))
    frame(
        ax,
        "packed: two sites share a word, a byte each; pale: the border,\na copy of the opposite side",
        10.6,
        5,
    )


def reads(ax: Any) -> None:
    """The four reads that update sublattice (0, 0)."""
    shifts = (
        ("right", (0, 1), 0, 0),
        ("left", (0, 1), 0, -1),
        ("below", (1, 0), 0, 0),
        ("above", (1, 0), -1, 0),
    )
    for number, (name, parity, down, right) in enumerate(shifts):
        left, top = number % 2 * 3.1, number // 2 * 3.1
        for row in range(5):
            for column in range(5):
                taken = 1 + down <= row < 4 + down and 1 + right <= column < 4 + right
                colour = COLOUR[parity] if taken else GREY
                cell(ax, left + column / 2, top + row / 2, 0.5, 0.5, colour, linewidth=0.6)
        ax.add_patch(
            Rectangle((left + 0.5, top + 0.5), 1.5, 1.5, fill=False, edgecolor="#222222", linewidth=1.6)
        )
        ax.text(left + 1.25, top + 2.56, f"{name}: {parity}", ha="center", va="top", fontsize=7)
    frame(ax, "the neighbours of (0, 0): four slices,\nshifted by at most one", 5.6, 6)


def tiles(ax: Any) -> None:
    """The hidden layer from a product in tiles of 64 chains."""
    for number, real in enumerate((2.0, 2.0, 0.8)):
        top = number * 2.3
        cell(ax, 0, top, 4.4, 2, GREY)
        cell(ax, 0, top, 4.4, real, COLOUR[0, 0])
        cell(ax, 9.6, top, 3, 2, GREY)
        cell(ax, 9.6, top, 3, real, COLOUR[0, 1])
        for x in (4.9, 9.0):
            ax.text(x, top + 1, "×" if x < 5.5 else "=", ha="center", va="center", fontsize=13)
        label = "64 chains" if number < 2 else "20 chains,\n44 rows of 0"
        ax.text(-0.2, top + 1, label, ha="right", va="center", fontsize=7)
        cell(ax, 5.4, top - 0.1, 3, 2.2, GREEN, "W" if number == 0 else "W again")
    ax.text(2.2, -0.2, "v: a row a chain", ha="center", va="bottom", fontsize=7)
    ax.text(6.9, -0.35, "n_visible × n_hidden", ha="center", va="bottom", fontsize=7)
    ax.text(11.1, -0.2, "vW, a row a chain", ha="center", va="bottom", fontsize=7)
    ax.annotate(
        "", (14.4, 3.3), (12.8, 3.3), arrowprops={"arrowstyle": "->", "color": "#222222", "linewidth": 1.1}
    )
    ax.text(
        14.6, 3.3, "h = 1 where\nu < σ(β (b + vW)),\nu from (chain key,\nstep, site)", va="center", fontsize=8
    )
    ax.set_xlim(-2.6, 18.6)
    ax.set_ylim(7.0, -1.1)
    decorate(
        ax,
        "148 chains of an RBM: one product a layer, in tiles of 64 rows, so that no sum depends on how many run",
    )


def graph(ax: Any, model: ej.Ising, place: np.ndarray, group: np.ndarray, palette: list[str]) -> None:
    """The graph, coloured by block."""
    for first, second in model.graph.edges:
        ax.plot(*place[[first, second]].T, color=EDGE, linewidth=1, zorder=1)
    for site, (x, y) in enumerate(place):
        ax.scatter(x, y, s=210, color=palette[group[site]], zorder=2)
        dark = sum(matplotlib.colors.to_rgb(palette[group[site]])) < 1.7
        ax.text(
            x,
            y,
            str(site),
            ha="center",
            va="center",
            fontsize=8,
            color=PAPER if dark else "#222222",
            zorder=3,
        )
    ax.set_xlim(-0.4, 3.4)
    ax.set_ylim(2.5, -0.5)
    decorate(ax, "a graph, coloured into blocks")


def gather(ax: Any, kernel: Any, group: np.ndarray, palette: list[str]) -> None:
    """Rows in packed order, and the table of the first block."""
    order = np.asarray(kernel.tables.order)
    table, couplings = np.asarray(kernel.tables.groups[0].row), np.asarray(kernel.tables.groups[0].coupling)
    empty = couplings == kernel.model.graph.n_edges
    for row, site in enumerate(order):
        cell(ax, 0, row, 6, 1, palette[group[site]], f"site {site}: chain 0, 1, 2, …")
        ax.text(-0.15, row + 0.5, str(row), ha="right", va="center", fontsize=7)
    ax.text(3, -0.15, "packed rows, a row a site", ha="center", va="bottom", fontsize=7)
    left, size = 10.2, table.shape[1]
    for (slot, place), row in np.ndenumerate(table):
        x, y = left + 1.5 * slot, float(place)
        if empty[slot, place]:
            cell(ax, x, y, 1.5, 1, GREY, "w = 0")
            continue
        cell(ax, x, y, 1.5, 1, palette[group[order[row]]], f"row {row}")
    for slot in range(table.shape[0]):
        ax.text(left + 1.5 * slot + 0.75, -0.15, f"slot {slot}", ha="center", va="bottom", fontsize=7)
    for place in range(size):
        ax.text(left - 0.15, place + 0.5, f"for row {place}", ha="right", va="center", fontsize=7)
    x, y = left, size + 0.6
    ax.text(
        x - 1.9,
        y,
        "One gather a slot copies whole rows of chains.\nRows with fewer neighbours than the widest are\n"
        "padded: such a slot has coupling 0 and costs\nas much as any other.",
        va="top",
        fontsize=8,
    )
    ax.set_xlim(-0.8, 17.5)
    ax.set_ylim(len(order) + 0.3, -1.1)
    decorate(
        ax,
        "sites of a block are contiguous rows; a table names the neighbours' rows (here: of the first block)",
    )


def frame(ax: Any, title: str, width: float, height: float) -> None:
    ax.set_xlim(-0.15, width + 0.15)
    ax.set_ylim(height + 0.15, -0.15)
    decorate(ax, title)


def decorate(ax: Any, title: str) -> None:
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.set_title(title, fontsize=9, loc="left")


def main() -> None:
    """Draws the figure."""
    figure = Figure(figsize=(10.4, 9.6), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=[3.3, 2.9, 3.0])
    titles = ((top, '"grid"'), (middle, '"bipartite"'), (bottom, '"general"'))
    for part, title in titles:
        part.suptitle(title, fontsize=11, x=0.01, ha="left", fontweight="bold")

    kernel = ej.gibbs(ej.Potts(ej.Grid(6, 6, boundary="periodic"), n_levels=36))
    axes = top.subplots(1, 3, width_ratios=[6.3, 10.9, 6])
    sites(axes[0], kernel.model.graph)
    packs(axes[1], kernel)
    reads(axes[2])

    tiles(middle.subplots())

    edges = [(0, 1), (0, 4), (1, 2), (1, 5), (2, 3), (2, 6), (4, 5), (5, 6), (3, 6), (1, 4)]
    place = np.array([(0, 0), (1, 0), (2, 0.2), (3, 0.4), (0.2, 1.6), (1.3, 1.8), (2.6, 1.8)])
    model = ej.Ising(ej.Graph(7, edges))
    kernel = ej.gibbs(model)
    group = np.zeros(7, int)
    for number, members in enumerate(kernel.spec.groups):
        group[members] = number
    palette = [COLOUR[0, 0], COLOUR[0, 1], GREEN]
    axes = bottom.subplots(1, 2, width_ratios=[4, 11])
    graph(axes[0], model, place, group, palette)
    gather(axes[1], kernel, group, palette)
    figure.savefig(IMAGES / "block_gibbs_paths.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
