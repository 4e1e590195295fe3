"""Greedy colouring of a graph in breadth-first order, in waves.

Sites are visited breadth first. Each takes the smallest colour that none of its earlier neighbours has,

    c(i) = min {k ≥ 0 : c(j) ≠ k for all neighbours j visited before i}

(Welsh and Powell 1967, in another order). A site waits only for its earlier neighbours. So all sites whose earlier
neighbours have colours form a wave that is coloured at once (Jones and Plassmann 1993), with the same result as one by
one. A wave of a few sites costs more than visiting them one by one; on long thin graphs the code switches to that.
"""

from __future__ import annotations

import itertools

import numpy as np
from jaxtyping import Int

from ebm_jax.graphs.adjacency import AnyGraph, neighbours

# As many sites are visited one by one in about the time of one wave.
_NARROW = 32
# After this many narrow waves the remaining sites are visited one by one.
_PATIENCE = 100


def greedy_colours(graph: AnyGraph) -> Int[np.ndarray, " n_sites"]:
    """Returns the colour of every site, int64.

    Components start at their lowest site, and neighbours are visited in edge order. A graph gets two colours where two
    suffice, and never more than its largest degree plus one.

    Args:
      graph: Any graph.

    Returns:
      A number from 0 on for every site, `(n_sites,)`.
    """
    rows = neighbours(graph)
    order, level = _breadth_first(rows.starts, rows.sites)
    parity = level % 2
    if (parity[graph.edges[:, 0]] != parity[graph.edges[:, 1]]).all():
        # The greedy rule gives the same: all earlier neighbours lie one level up.
        return parity
    return _greedy(rows.starts, rows.sites, order)


def _breadth_first(starts: np.ndarray, sites: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sites in the order of a breadth-first visit, and the level of each in its component."""
    level = np.where(np.diff(starts) > 0, -1, 0)
    order, slots, narrow = [np.flatnonzero(level == 0)], np.empty(level.size, np.int64), 0
    rest = np.flatnonzero(level < 0)
    while rest.size:
        wave, depth = rest[:1], 0
        while wave.size:
            level[wave] = depth
            narrow += wave.size < _NARROW
            if narrow > _PATIENCE:
                return np.concatenate([*order, _breadth_first_rest(starts, sites, wave, rest, level)]), level
            order.append(wave)
            adjacent = sites[_entries(starts, wave)[0]]
            wave, depth = _without_repetitions(adjacent[level[adjacent] < 0], slots), depth + 1
        rest = rest[level[rest] < 0]
    return np.concatenate(order), level


def _breadth_first_rest(
    starts: np.ndarray, sites: np.ndarray, wave: np.ndarray, rest: np.ndarray, level: np.ndarray
) -> np.ndarray:
    """Continues one site at a time from a wave whose levels are known; fills `level` and returns the order."""
    begin, adjacent, levels = starts.tolist(), sites.tolist(), level.tolist()
    order, queue, roots = [], wave.tolist(), iter(rest.tolist())
    while queue:
        # The queue grows while it is read.
        for site in queue:
            for other in adjacent[begin[site] : begin[site + 1]]:
                if levels[other] < 0:
                    levels[other] = levels[site] + 1
                    queue.append(other)
        order += queue
        queue = list(itertools.islice((root for root in roots if levels[root] < 0), 1))
        for root in queue:
            levels[root] = 0
    level[:] = levels
    return np.asarray(order, np.int64)


def _greedy(starts: np.ndarray, sites: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Returns the greedy colours of the sites when they are visited in `order`."""
    degree = np.diff(starts)
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    owner = np.repeat(np.arange(order.size), degree)
    waits_for = np.bincount(owner[rank[sites] < rank[owner]], minlength=order.size)
    colours, slots, narrow = np.where(degree > 0, -1, 0), np.empty_like(order), 0
    wave = np.flatnonzero((degree > 0) & (waits_for == 0))
    while wave.size:
        narrow += wave.size < _NARROW
        if narrow > _PATIENCE:
            return _greedy_rest(starts, sites, order, colours)
        entries, firsts = _entries(starts, wave)
        adjacent = sites[entries]
        colours[wave] = _smallest_missing(colours[adjacent], firsts)
        # Earlier neighbours have a colour by now.
        later = adjacent[colours[adjacent] < 0]
        np.subtract.at(waits_for, later, 1)
        wave = _without_repetitions(later[waits_for[later] == 0], slots)
    return colours


def _greedy_rest(starts: np.ndarray, sites: np.ndarray, order: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Continues one site at a time where `colours` is −1."""
    begin, adjacent, found = starts.tolist(), sites.tolist(), colours.tolist()
    for site in order[colours[order] < 0].tolist():
        used = {found[other] for other in adjacent[begin[site] : begin[site + 1]]}
        colour = 0
        while colour in used:
            colour += 1
        found[site] = colour
    return np.asarray(found)


def _smallest_missing(colours: np.ndarray, firsts: np.ndarray) -> np.ndarray:
    """Returns the smallest number ≥ 0 missing in every run of `colours`; runs begin at `firsts`, −1 is no colour."""
    found = np.full(firsts.size, -1)
    # Sets of colours are words of 63 bits.
    for base in range(0, int(colours.max()) + 2, 63):
        inside = (colours >= base) & (colours < base + 63)
        bits = np.where(inside, np.left_shift(1, np.where(inside, colours - base, 0)), 0)
        used = np.bitwise_or.reduceat(bits, firsts)
        # The number of ones below the lowest zero.
        smallest = np.bitwise_count((~used & (used + 1)) - 1)
        found = np.where((found < 0) & (smallest < 63), base + smallest, found)
    return found


def _entries(starts: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns where the entries of compressed rows lie, row after row, and where each row begins among them."""
    counts = starts[rows + 1] - starts[rows]
    firsts = np.cumsum(counts) - counts
    return np.arange(counts.sum()) + np.repeat(starts[rows] - firsts, counts), firsts


def _without_repetitions(values: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """Returns `values` once each, in order of first appearance; `slots` is scratch memory, one entry a site."""
    number = np.arange(values.size)
    # Of assignments to one index the last one stays.
    slots[values[::-1]] = number[::-1]
    return values[slots[values] == number]
