"""In which order sites are summed out, and which tables that makes.

Summing out a site multiplies all tables that depend on it. The product depends on the site and on its neighbours,
which are neighbours of each other from then on; together they are a clique. An order of width w makes tables of at
most w + 1 sites. The best width is the graph's treewidth, 1 for a tree, and finding it is NP-hard. Two orders are
compared here:

- a frontier that runs along the sites in a given order: each site leaves once its last neighbour has joined. On a strip
  these are transfer matrices applied site by site (Kramers and Wannier 1941);
- min-fill: the next site is the one that makes the fewest new neighbours (Rose 1972; Koller and Friedman 2009, §9.4.3).
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ebm_jax.graphs import AnyGraph, Grid

MAX_TABLE = 2**22
"""Most entries of one table."""

# Up to here the frontier takes well under a second, and no other order is sought.
QUICK_ENTRIES = 2**20

# A sum of logarithms may exceed that of the limit by its rounding.
MAX_BITS = math.log2(MAX_TABLE) + 1e-9


class Structure(NamedTuple):
    """Which sites the tables of a model depend on.

    Attributes:
      level_counts: Levels of every site.
      scopes: The sites of every table.
    """

    level_counts: tuple[int, ...]
    scopes: tuple[tuple[int, ...], ...]


class Step(NamedTuple):
    """One site is summed out.

    Attributes:
      clique: The sites of the table, one an axis. The last one is summed out; the others leave later, the last first.
      scopes: Numbers of the model's tables that enter.
      children: Numbers of the steps whose results enter.
    """

    clique: tuple[int, ...]
    scopes: tuple[int, ...]
    children: tuple[int, ...]


class Plan(NamedTuple):
    """All steps of an elimination.

    Attributes:
      steps: The steps; empty if no order within the limit was found.
      width: Number of sites of the largest table, less one; if no order was found, of the table that is too large.
      entries: Entries of all tables together.
    """

    steps: tuple[Step, ...]
    width: int
    entries: int


def frontier_of(graph: AnyGraph) -> list[int]:
    """Returns the order in which sites leave the frontier."""
    along = np.arange(graph.n_sites)
    if isinstance(graph, Grid) and graph.width > graph.height:
        along = along.reshape(graph.shape).T.reshape(-1)
    rank = np.empty(graph.n_sites, np.int64)
    rank[along] = np.arange(graph.n_sites)
    ends = rank[graph.edges]
    last = np.arange(graph.n_sites)
    np.maximum.at(last, ends.min(axis=1), ends.max(axis=1))
    return along[np.argsort(last, kind="stable")].tolist()


def plan(structure: Structure) -> Plan:
    """Returns the plan of the min-fill order.

    Args:
      structure: Which sites the tables depend on.

    Returns:
      The plan, without steps if a table would exceed the limit.
    """
    neighbours: list[set[int]] = [set() for _ in structure.level_counts]
    for scope in structure.scopes:
        for site, other in itertools.permutations(scope, 2):
            neighbours[site].add(other)
    order, n_smallest = _min_fill(neighbours, [math.log2(count) for count in structure.level_counts])
    if n_smallest is not None:
        return Plan((), n_smallest - 1, 0)
    return follow(structure, order)


def _min_fill(neighbours: list[set[int]], bits: Sequence[float]) -> tuple[list[int], int | None]:
    """Returns the min-fill order; where all tables left exceed the limit, also the sites of the smallest of them.

    Only sites whose table is within the limit are candidates, so sites of high degree cost nothing until most of their
    neighbours are gone.
    """
    left = set(range(len(neighbours)))
    priorities: dict[int, tuple[int, float]] = {}
    heap: list[tuple[tuple[int, float], int]] = []

    def update(site: int) -> None:
        around = neighbours[site]
        priorities.pop(site, None)
        # Every site has two levels or more, so this many are too large whatever their levels.
        if len(around) >= MAX_BITS:
            return
        table_bits = bits[site] + sum(bits[other] for other in around)
        if table_bits <= MAX_BITS:
            present = sum(len(neighbours[other] & around) for other in around)
            priorities[site] = (len(around) * (len(around) - 1) - present, table_bits)
            heapq.heappush(heap, (priorities[site], site))

    for site in left:
        update(site)
    order = []
    while heap:
        priority, site = heapq.heappop(heap)
        if priorities.get(site) != priority:
            continue
        del priorities[site]
        left.remove(site)
        order.append(site)
        around = neighbours[site]
        changed = set(around)
        for other in around:
            neighbours[other].remove(site)
        for first, second in itertools.combinations(around, 2):
            if second not in neighbours[first]:
                neighbours[first].add(second)
                neighbours[second].add(first)
                changed |= neighbours[first] & neighbours[second]
        for other in changed:
            update(other)
    return order, min((len(neighbours[site]) + 1 for site in left), default=None)


def follow(structure: Structure, order: Sequence[int], max_table: int = MAX_TABLE) -> Plan:
    """Returns the plan of an order, without steps from the first table on that exceeds the limit."""
    counts, rank = structure.level_counts, [0] * len(order)
    for place, site in enumerate(order):
        rank[site] = place
    # Tables and results enter where the first of their sites is summed out.
    scopes_at: list[list[int]] = [[] for _ in order]
    for number, scope in enumerate(structure.scopes):
        scopes_at[min(rank[site] for site in scope)].append(number)
    children_at: list[list[int]] = [[] for _ in order]
    steps, width, entries = [], 0, 0
    for place, site in enumerate(order):
        members = {site}
        for number in scopes_at[place]:
            members.update(structure.scopes[number])
        for child in children_at[place]:
            members.update(steps[child].clique[:-1])
        size = math.prod(counts[member] for member in members)
        width, entries = max(width, len(members) - 1), entries + size
        if size > max_table:
            return Plan((), len(members) - 1, 0)
        clique = tuple(sorted(members, key=rank.__getitem__, reverse=True))
        steps.append(Step(clique, tuple(scopes_at[place]), tuple(children_at[place])))
        if len(clique) > 1:
            children_at[rank[clique[-2]]].append(place)
    return Plan(tuple(steps), width, entries)
