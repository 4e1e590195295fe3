"""Transfer matrices, one site at a time, for Ising and Potts models on strips and other narrow graphs.

Sites are added in an order that runs along the longer side of a grid (in their own order on other graphs). A table
holds log Σ exp(−β E) over the sites that are done with, one entry for every configuration of the frontier: the added
sites that still wait for a neighbour. Adding a site multiplies the table by K; a site is summed out once its last
neighbour is in. A strip of width w needs K^(w+1) entries (K^(w+2) with diagonals), twice the width when it closes on
itself lengthwise. The method is Kramers and Wannier's (1941) with the matrix applied site by site, or in other words
variable elimination (Dechter 1999); drawing backwards through the tables gives independent samples.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from ebm_jax.energies.ising import Ising
from ebm_jax.energies.potts import Potts
from ebm_jax.graphs import AnyGraph, Grid, neighbours

MAX_TABLE = 2**22  # entries of the largest table
MAX_STORED = 2**25  # entries of all tables together, where they must be kept


class _Step(NamedTuple):
    """Adds `site`, joined to (frontier position, edge, whether the frontier site is the edge's first), then sums out.

    removed: positions to sum out, one after the other, each counted in the frontier as it then stands; the added site
    is the last position. names: the site behind every position before each removal.
    """

    site: int
    joined: tuple[tuple[int, int, bool], ...]
    removed: tuple[int, ...]
    names: tuple[tuple[int, ...], ...]


def largest_table(model: Any) -> int | None:
    """Returns the number of entries of the largest table, None for a model that has no transfer matrix."""
    if not isinstance(model, (Ising, Potts)):
        return None
    return model.n_levels ** int(_widths(model.graph).max())


def log_partition(model: Any, params: Any, beta: float) -> float:
    """Returns log Z of float64 NumPy parameters."""
    return _eliminate(model, params, beta, None)


def gradient(model: Any, params: Any, beta: float) -> Any:
    """Returns ∂ log Z / ∂ params, running the plan backwards; raises ValueError when the tables take too much room."""
    graph, n = model.graph, model.n_levels
    of_sites, of_edges = np.zeros((graph.n_sites, n)), np.zeros((graph.n_edges, n, n))
    tables = _stored(model, params, beta)
    weight = np.ones(1)  # ∂ log Z / ∂ table: the marginal distribution of the frontier
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
    if np.ndim(bias) == 0:  # tied
        of_sites = of_sites.sum()
    return type(params)(beta * of_sites.reshape(bias.shape), beta * of_edges.reshape(coupling.shape))


def sample(model: Any, params: Any, beta: float, uniforms: np.ndarray) -> np.ndarray:
    """Returns levels `(n_samples, n_sites)`, one draw a row of uniforms; raises as `gradient` does."""
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
    """A table just before the site at `position` is summed out; `names` are the sites behind its positions."""

    table: np.ndarray
    position: int
    names: tuple[int, ...]


def _stored(model: Any, params: Any, beta: float) -> list[_Table]:
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
    """Runs the plan and returns log Z; with a list of `tables` keeps every table that a site is summed out of."""
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
    """Log Σ exp over the middle axis."""
    largest = split.max(axis=1)
    finite = np.where(np.isneginf(largest), 0.0, largest)  # a frontier of probability zero stays at −∞
    with np.errstate(divide="ignore"):
        return finite + np.log(np.exp(split - finite[:, None]).sum(axis=1))


def _log_factors(model: Any, params: Any, beta: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns −β E split over sites `(n_sites, K)` and edges `(n_edges, K, K)`."""
    graph = model.graph
    bias, coupling = params
    site_shape, edge_shape = _shapes(model)
    of_sites = (
        bias.reshape(graph.n_sites, -1) if np.ndim(bias) else np.full((graph.n_sites, 1), bias)
    )  # or tied
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
