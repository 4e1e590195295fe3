"""Transfer matrices, one site at a time, for Ising and Potts models on strips and other narrow graphs.

Sites are added in an order that runs along the longer side of a grid; on other graphs, in the order of their numbers.
The frontier is the set of added sites that still wait for a neighbour. A table has one entry for every configuration of
the frontier: log Σ exp(−β E) over all sites that were added and have left it. Adding a site makes the table K times as
large. A site is summed out once its last neighbour has been added. A strip of width w needs K^(w+1) entries (K^(w+2)
with diagonals), or those of twice the width if it closes on itself lengthwise.

The method is Kramers and Wannier's (1941) with the matrix applied site by site; a more general name is variable
elimination (Dechter 1999). Drawing backwards through the tables gives independent samples.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from ebm_jax.energies.ising import Ising
from ebm_jax.energies.potts import Potts
from ebm_jax.graphs import AnyGraph, Grid, neighbours

MAX_TABLE = 2**22
"""Most entries of one table."""

MAX_STORED = 2**25
"""Most entries of all tables together, where they must be kept."""


class _Step(NamedTuple):
    """One step: a site joins the frontier, then sites without open edges are summed out.

    Attributes:
      site: The site that is added. It takes the last position of the frontier.
      joined: For each edge to the frontier: the position of the neighbour, the number of the edge, and whether the
        neighbour is the first site of the edge.
      removed: Positions to sum out one after the other, each counted in the frontier as it stands then.
      names: Before each removal, the sites at all positions.
    """

    site: int
    joined: tuple[tuple[int, int, bool], ...]
    removed: tuple[int, ...]
    names: tuple[tuple[int, ...], ...]


def largest_table(model: Any) -> int | None:
    """Returns the number of entries of the largest table, or None for a model that has no transfer matrix."""
    if not isinstance(model, (Ising, Potts)):
        return None
    return model.n_levels ** int(_widths(model.graph).max())


def log_partition(model: Any, params: Any, beta: float) -> float:
    """Returns log Z. Parameters are NumPy float64."""
    return _eliminate(model, params, beta, None)


def gradient(model: Any, params: Any, beta: float) -> Any:
    """Returns ∂ log Z / ∂ params, running the plan backwards.

    Raises:
      ValueError: If the tables together have more than `MAX_STORED` entries.
    """
    graph, n = model.graph, model.n_levels
    of_sites, of_edges = np.zeros((graph.n_sites, n)), np.zeros((graph.n_edges, n, n))
    tables = _stored(model, params, beta)
    # ∂ log Z / ∂ table, which is the marginal distribution of the frontier.
    weight = np.ones(1)
    for step in reversed(_plan(graph)):
        for position in reversed(step.removed):
            split = tables.pop().table.reshape(n**position, n, -1)
            share = np.exp(split - _logsumexp(split)[:, None])
            weight = (weight.reshape(n**position, 1, -1) * share).reshape(-1)
        for position, edge, forward in step.joined:
            pair = weight.reshape(n**position, n, -1, n).sum(axis=(0, 2))
            of_edges[edge] = pair if forward else pair.T
        of_sites[step.site] = weight.reshape(-1, n).sum(axis=0)
        weight = weight.reshape(-1, n).sum(axis=1)
    site_shape, edge_shape = _shapes(model)
    if site_shape is not None:
        of_sites = of_sites @ site_shape
    if edge_shape is not None:
        of_edges = np.sum(of_edges * edge_shape, axis=(1, 2))
    if model.coupling == "tied":
        of_edges = np.bincount(_kinds(graph), of_edges, minlength=params.coupling.size)
    bias, coupling = params
    bias_is_tied = np.ndim(bias) == 0
    if bias_is_tied:
        of_sites = of_sites.sum()
    return type(params)(beta * of_sites.reshape(bias.shape), beta * of_edges.reshape(coupling.shape))


def sample(model: Any, params: Any, beta: float, uniforms: np.ndarray) -> np.ndarray:
    """Returns levels `(n_samples, n_sites)`, one draw for each row of `uniforms`; raises as `gradient` does."""
    levels = np.zeros(uniforms.shape, np.int32)
    for table, position, names in reversed(_stored(model, params, beta)):
        cube = np.moveaxis(table.reshape((model.n_levels,) * len(names)), position, -1)
        others = [levels[:, site] for i, site in enumerate(names) if i != position]
        logits = cube[tuple(others)] if others else np.broadcast_to(cube, (len(levels), model.n_levels))
        weights = np.cumsum(np.exp(logits - logits.max(axis=-1, keepdims=True)), axis=-1)
        site = names[position]
        levels[:, site] = np.sum(weights[:, :-1] <= uniforms[:, site, None] * weights[:, -1:], axis=-1)
    return levels


class _Table(NamedTuple):
    """A table just before the site at `position` is summed out; `names` are the sites at all positions."""

    table: np.ndarray
    position: int
    names: tuple[int, ...]


def _stored(model: Any, params: Any, beta: float) -> list[_Table]:
    """Returns every table that a site is summed out of, in order."""
    entries = sum(model.n_levels ** int(width) for width in _widths(model.graph))
    if entries > MAX_STORED:
        raise ValueError(
            f"gradients and samples keep every transfer table, {entries:,} entries here, and the limit is "
            f"{MAX_STORED:,}; use a narrower or shorter strip, or a sampler"
        )
    tables: list[_Table] = []
    _eliminate(model, params, beta, tables)
    return tables


def _eliminate(model: Any, params: Any, beta: float, tables: list[_Table] | None) -> float:
    """Runs the plan and returns log Z. Appends every table that a site is summed out of to `tables`, if given."""
    n = model.n_levels
    of_sites, of_edges = _log_factors(model, params, beta)
    table = np.zeros(1)
    for step in _plan(model.graph):
        table = (table[:, None] + of_sites[step.site]).reshape(-1)
        for position, edge, forward in step.joined:
            term = of_edges[edge] if forward else of_edges[edge].T
            table.reshape(n**position, n, -1, n)[...] += term[None, :, None, :]
        for position, names in zip(step.removed, step.names, strict=True):
            if tables is not None:
                tables.append(_Table(table, position, names))
            table = _logsumexp(table.reshape(n**position, n, -1)).reshape(-1)
    return float(table[0])


def _logsumexp(split: np.ndarray) -> np.ndarray:
    """Returns log Σ exp over the middle axis."""
    largest = split.max(axis=1)
    # A frontier of probability zero stays at −∞.
    finite = np.where(np.isneginf(largest), 0.0, largest)
    with np.errstate(divide="ignore"):
        return finite + np.log(np.exp(split - finite[:, None]).sum(axis=1))


def _log_factors(model: Any, params: Any, beta: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns −β E split over sites `(n_sites, K)` and edges `(n_edges, K, K)`."""
    graph = model.graph
    bias, coupling = params
    site_shape, edge_shape = _shapes(model)
    bias_is_tied = np.ndim(bias) == 0
    of_sites = np.full((graph.n_sites, 1), bias) if bias_is_tied else bias.reshape(graph.n_sites, -1)
    if site_shape is not None:
        of_sites = of_sites * site_shape
    if model.coupling == "tied":
        coupling = coupling.reshape(-1)[_kinds(graph)]
    of_edges = coupling if edge_shape is None else coupling[:, None, None] * edge_shape
    return beta * of_sites, beta * of_edges


def _shapes(model: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Returns what multiplies a bias `(K,)` and a coupling `(K, K)`; None where the parameter has an entry a level."""
    if isinstance(model, Ising):
        spins = np.asarray([-1.0, 1.0])
        return spins, np.outer(spins, spins)
    return None, None if model.coupling == "matrix" else np.eye(model.n_levels)


def _kinds(graph: AnyGraph) -> np.ndarray:
    """Returns which entry of tied couplings each edge has."""
    if not isinstance(graph, Grid):
        return np.zeros(graph.n_edges, np.int64)
    counts = [np.prod(graph.edge_shape(direction), dtype=int) for direction in graph.directions]
    return np.repeat(np.arange(len(counts)), counts)


def _order(graph: AnyGraph) -> np.ndarray:
    """Returns the sites in the order in which they are added."""
    sites = np.arange(graph.n_sites)
    if isinstance(graph, Grid) and graph.width > graph.height:
        return sites.reshape(graph.shape).T.reshape(-1)
    return sites


@functools.lru_cache(maxsize=16)
def _widths(graph: AnyGraph) -> np.ndarray:
    """Returns the size of the frontier, the new site counted, as each site is added."""
    rank = np.empty(graph.n_sites, np.int64)
    rank[_order(graph)] = np.arange(graph.n_sites)
    ends = rank[graph.edges]
    last = np.arange(graph.n_sites)
    np.maximum.at(last, ends.min(axis=1), ends.max(axis=1))
    # The site of rank r is in the frontier while sites r … last[r] are added.
    opened_minus_closed = np.ones(graph.n_sites, np.int64)
    np.subtract.at(opened_minus_closed, (last + 1)[last + 1 < graph.n_sites], 1)
    return np.cumsum(opened_minus_closed)


@functools.lru_cache(maxsize=16)
def _plan(graph: AnyGraph) -> tuple[_Step, ...]:
    """Returns the steps that add and sum out all sites."""
    rows = neighbours(graph)
    starts, others = rows.starts.tolist(), rows.sites.tolist()
    edges, forward = rows.edges.tolist(), rows.forward.tolist()
    waiting = np.diff(rows.starts).tolist()
    frontier: list[int] = []
    steps = []
    for site in _order(graph).tolist():
        joined = []
        for k in range(starts[site], starts[site + 1]):
            other = others[k]
            if other in frontier:
                joined.append((frontier.index(other), edges[k], not forward[k]))
                waiting[other] -= 1
                waiting[site] -= 1
        frontier.append(site)
        removed, names = [], []
        for other in [s for s in frontier if waiting[s] == 0]:
            removed.append(frontier.index(other))
            names.append(tuple(frontier))
            frontier.remove(other)
        steps.append(_Step(site, tuple(joined), tuple(removed), tuple(names)))
    return tuple(steps)
