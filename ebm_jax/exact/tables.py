"""Models as sums of tables over few sites, −E(x) = Σ_f φ_f(x_f): what elimination takes.

The tables are linear in the parameters. Ising and Potts models have one a site and one an edge. A `FactorGraph` of
nodes with levels has one a term, with an axis for each of its members; a zero table a site is added for marginals.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.energies.base import levels_of_sites
from ebm_jax.energies.factor_graph import FactorGraph
from ebm_jax.energies.factors import Factor
from ebm_jax.energies.ising import Ising
from ebm_jax.energies.potts import Potts
from ebm_jax.exact import elimination
from ebm_jax.exact.elimination import Factors
from ebm_jax.exact.order import (
    MAX_BITS,
    QUICK_ENTRIES,
    Plan,
    Structure,
    follow,
    frontier_of,
    plan,
)
from ebm_jax.graphs import Grid
from ebm_jax.graphs.grids import edge_directions


def is_sum_of_tables(model: Any) -> bool:
    """Returns whether a model is a sum of tables over few sites, each with a finite number of levels."""
    if isinstance(model, FactorGraph):
        return None not in model.site_levels
    return isinstance(model, (Ising, Potts))


@functools.lru_cache(maxsize=16)
def structure_of(model: Any) -> Structure:
    """Returns which sites the tables depend on: one table a site, then one an edge or a term."""
    counts: Any = levels_of_sites(model)
    if isinstance(model, FactorGraph):
        pieces = [model.sites_of_terms(factor).tolist() for factor in model.factors]
    else:
        pieces = [model.graph.edges.tolist()]
    sites = [(site,) for site in range(len(counts))]
    return Structure(counts, (*sites, *map(tuple, itertools.chain.from_iterable(pieces))))


@functools.lru_cache(maxsize=16)
def plan_of(model: Any) -> Plan | None:
    """Returns the plan of a model, or None for a model that is not a sum of tables over few sites.

    A grid's frontier runs along its longer side, that of another graph along the numbers of its sites.
    """
    if not is_sum_of_tables(model):
        return None
    graph = model.graph
    if isinstance(graph, Grid):
        # The treewidth of a grid is at least its shorter side, so nothing needs to be tried.
        narrowest = min(graph.height, graph.width)
        if (narrowest + 1) * math.log2(model.n_levels) > MAX_BITS:
            return Plan((), narrowest, 0)
    structure = structure_of(model)
    frontier = follow(structure, frontier_of(graph))
    if frontier.steps and frontier.entries <= QUICK_ENTRIES:
        return frontier
    searched = plan(structure)
    is_better = searched.steps and (not frontier.steps or 4 * searched.entries < frontier.entries)
    return searched if is_better or not frontier.steps else frontier


def factors_of(model: Any, params: Any, beta: float) -> Factors:
    """Returns the tables of −β E and the plan of their elimination.

    Args:
      model: A sum of tables.
      params: NumPy float64 parameters.
      beta: Inverse temperature.

    Returns:
      The factors.
    """
    with jax.enable_x64(True):
        stacked = [beta * np.asarray(part) for part in _stacked(model, params)]
    found: Any = plan_of(model)
    return Factors(structure_of(model), found, [table for part in stacked for table in part])


def gradient(model: Any, params: Any, beta: float) -> Any:
    """Returns ∂ log Z / ∂ params, NumPy float64; raises as `elimination.marginals` does."""
    found = elimination.marginals(factors_of(model, params, beta))
    with jax.enable_x64(True):
        stacked, pull_back = jax.vjp(functools.partial(_stacked, model), params)
        (slope,) = pull_back(stack_like(stacked, found))
    return jax.tree.map(lambda leaf: beta * np.asarray(leaf), slope)


def stack_like(stacked: list[Any], tables: list[np.ndarray]) -> list[np.ndarray]:
    """Returns tables in the stacks that they came from."""
    rows = iter(tables)
    return [
        np.asarray(list(itertools.islice(rows, len(part))), np.float64).reshape(part.shape)
        for part in stacked
    ]


def of_sites_and_terms(model: FactorGraph, tables: list[np.ndarray]) -> tuple[list[Any], list[Any]]:
    """Returns tables by name of the nodes, and by factor."""
    shapes: list[Any] = [np.empty((kind.n, kind.n_values or 0)) for _, kind in model.nodes]
    for factor in model.factors:
        counts = [model.kinds[member.name].n_values or 0 for member in factor.members]
        shapes.append(np.empty((factor.n_terms, *counts)))
    found = stack_like(shapes, tables)
    return found[: len(model.nodes)], found[len(model.nodes) :]


def _stacked(model: Any, params: Any) -> list[Any]:
    """Returns the tables of −E in the order of `structure_of`, those of one kind stacked; linear in `params`."""
    if isinstance(model, FactorGraph):
        of_sites = [np.zeros((kind.n, kind.n_values or 0)) for _, kind in model.nodes]
        of_terms = [_of_terms(model, f, w) for f, w in zip(model.factors, params, strict=True)]
        return [*of_sites, *of_terms]
    graph = model.graph
    bias, coupling = params
    of_sites = bias * np.ones((graph.n_sites, 1)) if np.ndim(bias) == 0 else bias.reshape(graph.n_sites, -1)
    if model.coupling == "tied":
        coupling = coupling.reshape(-1)[edge_directions(graph)]
    if isinstance(model, Ising):
        spins = np.asarray([-1.0, 1.0])
        return [of_sites * spins, coupling[:, None, None] * np.outer(spins, spins)]
    if model.coupling == "matrix":
        return [of_sites, coupling]
    return [of_sites, coupling[:, None, None] * np.eye(model.n_levels)]


def _of_terms(model: FactorGraph, factor: Factor, weights: Any) -> Any:
    """Returns the table of every term, `(n_terms, K, …)` with an axis of levels for each member."""
    kinds = [model.kinds[member.name] for member in factor.members]
    tables = weights.reshape(-1, *(kind.n_values if kind.is_table else 1 for kind in kinds))
    for place, (member, kind) in enumerate(zip(factor.members, kinds, strict=True)):
        if not kind.is_table:
            levels = jnp.arange(kind.n_values).astype(kind.dtype)
            values = np.asarray(kind.evaluate(member.statistic, levels), np.float64)
            tables = tables * values.reshape(-1, *[1] * (len(kinds) - 1 - place))
    return tables
