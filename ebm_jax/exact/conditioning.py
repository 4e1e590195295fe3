"""Elimination of graphs a little too wide: some sites are held at each of their levels in turn (Pearl 1988, §4.3.2).

log Z = log Σ_c Z(c), where c runs over the configurations of the cutset, the sites that are held. Each table is smaller
by their levels, so memory stays within the limit of elimination, and the time is about that of the wide tables.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from ebm_jax.exact import elimination
from ebm_jax.exact.elimination import Factors
from ebm_jax.exact.enumeration import logsumexp
from ebm_jax.exact.order import MAX_TABLE, Plan, Structure, follow, frontier_of
from ebm_jax.exact.tables import structure_of

MAX_CUTSET = 16
"""Most configurations of the held sites."""

# This many entries take about a minute.
_MAX_ENTRIES = 2**32


class Cutset(NamedTuple):
    """Sites to hold, and the elimination of the others.

    Attributes:
      sites: The held sites.
      structure: The model's structure, in which held sites have one level.
      plan: The plan of that structure.
    """

    sites: tuple[int, ...]
    structure: Structure
    plan: Plan


@functools.lru_cache(maxsize=16)
def cutset_of(model: Any, max_table: int = MAX_TABLE) -> Cutset | None:
    """Returns the sites to hold, or None where they would be too many.

    Each time the site is held that most of the tables share that are too large.

    Args:
      model: A sum of tables.
      max_table: Most entries of one table.

    Returns:
      The cutset, for the order of the graph's frontier.
    """
    structure, order = structure_of(model), frontier_of(model.graph)
    wide = follow(structure, order, MAX_CUTSET * max_table)
    if not wide.steps or wide.entries > _MAX_ENTRIES:
        return None
    counts, held = list(structure.level_counts), []
    while math.prod(structure.level_counts[site] for site in held) <= MAX_CUTSET:
        cut = Structure(tuple(counts), structure.scopes)
        plan = follow(cut, order, max_table)
        if plan.steps:
            return Cutset(tuple(held), cut, plan)
        too_large = [s.clique for s in wide.steps if math.prod(counts[site] for site in s.clique) > max_table]
        shared = Counter(site for clique in too_large for site in clique if counts[site] > 1)
        site = shared.most_common(1)[0][0]
        held.append(site)
        counts[site] = 1
    return None


def log_partition(factors: Factors, cutset: Cutset) -> float:
    """Returns log Z as the sum over the levels of the held sites."""
    counts = factors.structure.level_counts
    parts = []
    for levels in itertools.product(*(range(counts[site]) for site in cutset.sites)):
        # A held site keeps its axis, with one level.
        kept = {site: slice(level, level + 1) for site, level in zip(cutset.sites, levels)}
        tables = [
            table[tuple(kept.get(site, slice(None)) for site in scope)]
            for table, scope in zip(factors.tables, factors.structure.scopes)
        ]
        parts.append(elimination.log_partition(Factors(cutset.structure, cutset.plan, tables)))
    return float(logsumexp(np.asarray(parts)))
