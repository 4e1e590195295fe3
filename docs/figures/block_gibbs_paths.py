"""Draws how the four Gibbs paths lay configurations out: docs/images/block_gibbs_paths.png.

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
from ebm_jax.lattice import general

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


def words(axes: Any, kernel: Any) -> None:
    """A sublattice cut into tiles, and the sites that share one of its words, read off the packed array."""
    grid, layout = kernel.model.graph, kernel.layout
    (tall, wide), (rows, columns) = layout.cut, layout.size
    parity, height, width = PARITIES[0], grid.height // 2, grid.width // 2

    word = np.full((height, width), -1)  # which word and which bit hold a site of the sublattice
    bit = np.full((height, width), -1)
    for i, j in np.ndindex(height, width):
        one = np.zeros((1, *grid.shape), bool)
        one[0, 2 * i + parity[0], 2 * j + parity[1]] = True
        packed = np.asarray(layout.pack(kernel.tables, jnp.asarray(one))[0])[1:-1, 1:-1, 0]
        (row, column), *_ = np.argwhere(packed)
        word[i, j], bit[i, j] = row * columns + column, int(packed[row, column]).bit_length() - 1

    ax = axes[0]
    for (i, j), number in np.ndenumerate(word):
        colour = COLOUR[0, 0] if number == 0 else "#d5e0ec"
        cell(ax, j, i, 1, 1, colour, str(bit[i, j]) if number == 0 else "", linewidth=0.5)
    for i, j in np.ndindex(tall, wide):
        shape = (j * columns, i * rows), columns, rows
        ax.add_patch(Rectangle(*shape, fill=False, edgecolor="#222222", linewidth=1.0))
    frame(
        ax,
        f"sublattice (0, 0) of a {grid.height}×{grid.width} torus: 32 tiles.\nDark: the sites of word (0, 0)",
        width,
        height,
    )

    ax = axes[1]
    for number in range(3):
        y = 3.6 * number
        ax.text(0, y + 0.7, f"word {divmod(number, columns)}", fontsize=7, va="bottom")
        for t in range(32):
            colour = COLOUR[0, 0] if number == 0 else "#d5e0ec"
            cell(ax, t % 16, y + 0.9 + t // 16 * 1.05, 1, 1, colour, str(t), linewidth=0.4)
    ax.text(8, 11.3, "…", ha="center", va="center", fontsize=9)
    frame(ax, "bit t of a word is its site in tile t:\n32 sites of one chain in one word", 16, 11.6)

    ax = axes[2]
    planes = (("threshold T", "10110010"), ("uniform u", "10101101"))
    for row, (name, digits) in enumerate(planes):
        top = 1.0 + row * 1.5
        ax.text(-0.2, top + 0.5, name, ha="right", va="center", fontsize=7)
        for k, digit in enumerate(digits):
            decided = k > 3
            colour = GREY if decided else COLOUR[0, 0] if row == 0 else COLOUR[0, 1]
            cell(ax, k, top, 1, 1, colour, digit)
        cell(ax, 8.3, top, 3.4, 1, "#eeeeee", "16 bits more")
    for k in range(8):
        ax.text(k + 0.5, 0.8, str(k), ha="center", va="bottom", fontsize=7)
    ax.text(-0.2, 0.75, "plane", ha="right", va="bottom", fontsize=7)
    ax.text(10, 0.8, "tail", ha="center", va="bottom", fontsize=7)
    ax.text(
        -3.6,
        4.3,
        "One site of 32. Its neighbours choose T among nine;\nplane 3 decides: u < T, the spin is up.\n"
        "A plane of u is one random word for 32 sites;\n8 planes and 2 words of tails: ten words.",
        va="top",
        fontsize=7.5,
    )
    ax.set_xlim(-3.8, 12.0)
    ax.set_ylim(8.2, -0.3)
    decorate(ax, "u < T, plane by plane")


def tiles(ax: Any) -> None:
    """The hidden layer from a product in tiles of 64 chains."""
    ax.text(2.2, 1.75, "Wᵀ", ha="center", va="center", fontsize=9)
    cell(ax, 0, 2.0, 4.4, 3, GREEN, "n_hidden × n_visible")
    left = 5.6
    ax.text(5.0, 3.5, "×", ha="center", va="center", fontsize=13)
    for number, real in enumerate((2.4, 2.4, 0.75)):
        x = left + number * 2.6
        cell(ax, x, 1.3, 2.4, 4.4, GREY)
        cell(ax, x, 1.3, real, 4.4, COLOUR[0, 0])
        y = left + 8.6 + number * 2.6
        cell(ax, y, 2.0, 2.4, 3, GREY)
        cell(ax, y, 2.0, real, 3, COLOUR[0, 1])
        label = "64 chains" if number < 2 else "20 chains,\n44 columns of 0"
        ax.text(x + 1.2, 5.8, label, ha="center", va="top", fontsize=7)
        ax.text(y + 1.2, 5.1, label, ha="center", va="top", fontsize=7)
    ax.text(left + 8.1, 3.5, "=", ha="center", va="center", fontsize=13)
    ax.text(left + 3.8, 1.1, "v: a column a chain", ha="center", va="bottom", fontsize=7)
    ax.text(left + 12.4, 1.8, "Wᵀ·v: a column a chain", ha="center", va="bottom", fontsize=7)
    ax.annotate(
        "", (24.0, 3.5), (22.4, 3.5), arrowprops={"arrowstyle": "->", "color": "#222222", "linewidth": 1.1}
    )
    ax.text(
        24.2,
        3.5,
        "h = 1 where\nu < σ(β (b + Wᵀ·v)),\nu from (chain key,\nstep, site);\nthen v from W·h",
        va="center",
        fontsize=8,
    )
    ax.set_xlim(-0.3, 30.5)
    ax.set_ylim(6.9, 0.3)
    decorate(
        ax,
        "148 chains of an RBM: one product a layer, in tiles of 64 columns, so that no sum depends on how many run",
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
    """Rows in packed order, and the tables of the first block's parts."""
    order = np.asarray(kernel.tables.order)
    for row, site in enumerate(order):
        cell(ax, 0, row, 6, 1, palette[group[site]], f"site {site}: chain 0, 1, 2, …")
        ax.text(-0.15, row + 0.5, str(row), ha="right", va="center", fontsize=7)
    ax.text(3, -0.15, "packed rows, a row a site", ha="center", va="bottom", fontsize=7)
    left, first = 10.2, 0
    for number, part in enumerate(kernel.tables.parts[0]):
        table, couplings = np.asarray(part.row), np.asarray(part.coupling)
        empty = couplings == kernel.model.graph.n_edges
        top = first + 1.4 * number
        for (slot, place), row in np.ndenumerate(table):
            x, y = left + 1.5 * slot, float(top + place)
            if empty[slot, place]:
                cell(ax, x, y, 1.5, 1, GREY, "w = 0")
            else:
                cell(ax, x, y, 1.5, 1, palette[group[order[row]]], f"row {row}")
        for slot in range(table.shape[0]):
            ax.text(
                left + 1.5 * slot + 0.75, top - 0.15, f"slot {slot}", ha="center", va="bottom", fontsize=7
            )
        for place in range(table.shape[1]):
            ax.text(
                left - 0.15,
                top + place + 0.5,
                f"for row {first + place}",
                ha="right",
                va="center",
                fontsize=7,
            )
        first += table.shape[1]
    ax.text(
        left - 1.9,
        first + 2.4,
        "One gather a slot copies whole rows of chains. In a part shorter rows\nare padded: such a slot has coupling 0 "
        "and costs as much as any other.\nParts by degree: the hub's many slots widen no other site's table.",
        va="top",
        fontsize=8,
    )
    ax.set_xlim(-0.8, 20.5)
    ax.set_ylim(len(order) + 0.3, -1.1)
    decorate(
        ax,
        "sites of a block are contiguous rows; tables name the neighbours' rows (here: of the first block, in parts)",
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
    figure = Figure(figsize=(10.8, 13.6), layout="constrained")
    top, second, third, bottom = figure.subfigures(4, 1, height_ratios=[3.4, 3.0, 2.6, 3.6])
    titles = ((top, '"grid"'), (second, '"bits"'), (third, '"bipartite"'), (bottom, '"general"'))
    for part, title in titles:
        part.suptitle(title, fontsize=11, x=0.01, ha="left", fontweight="bold")

    kernel = ej.gibbs(ej.Potts(ej.Grid(6, 6, boundary="periodic"), n_levels=36))
    axes = top.subplots(1, 3, width_ratios=[6.3, 10.9, 6])
    sites(axes[0], kernel.model.graph)
    packs(axes[1], kernel)
    reads(axes[2])

    tied = ej.Ising(ej.Grid(32, 32, boundary="periodic"), bias="tied")
    words(second.subplots(1, 3, width_ratios=[6, 6.4, 6.6]), ej.gibbs(tied))

    tiles(third.subplots())

    edges = [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (0, 6), (7, 1), (7, 2), (8, 3), (8, 4), (9, 5), (1, 2)]
    outer = [(-0.2 + 0.68 * i, 1.1 + 0.12 * (i % 2)) for i in range(6)]
    place = np.array([(1.5, 0), *outer, (0.2, 2.2), (1.5, 2.2), (2.6, 2.2)])
    model = ej.Ising(ej.Graph(10, edges))
    general.SPARE_SLOTS = 0  # a graph as small as this would not be cut
    kernel = ej.gibbs(model)
    group = np.zeros(10, int)
    for number, members in enumerate(kernel.spec.groups):
        group[members] = number
    palette = [COLOUR[0, 0], COLOUR[0, 1], GREEN]
    axes = bottom.subplots(1, 2, width_ratios=[4, 13])
    graph(axes[0], model, place, group, palette)
    gather(axes[1], kernel, group, palette)
    figure.savefig(IMAGES / "block_gibbs_paths.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
