"""THRML's factors of any order, over spins and categories, as factor graphs, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import thrml
from thrml import models

from ebm_jax.energies.factor_graph import Factor, FactorGraph
from ebm_jax.energies.nodes import Categories, NodeKind, Spins
from ebm_jax.graphs.blocks import Block, BlockSpec
from ebm_jax.interop.thrml.sites import as_array, block_spec, check_drawn, clamped_in, site_index, sites_of
from ebm_jax.interop.thrml.terms import Term


class _Rows(NamedTuple):
    """The terms of one factor, or all of a program on nodes of the same names.

    Attributes:
      sites: `(n, order)`.
      weights: float64, `(n, K, …)`.
      dtype: Dtype in which THRML keeps the weights.
    """

    sites: np.ndarray
    weights: np.ndarray
    dtype: Any


def factor_graph(
    terms: Sequence[Term],
    named: Mapping[str, np.ndarray],
    levels: Mapping[Any, int | None],
    program: Any,
    free_blocks: Sequence[Any] | None,
    clamped_blocks: Sequence[Any],
) -> tuple[FactorGraph, tuple[jax.Array, ...], BlockSpec]:
    """Returns the factor graph of some terms, with its parameters and blocks.

    Args:
      terms: What `read_terms` returned.
      named: The nodes by name.
      levels: The number of categories of every node, None for spins.
      program: The sampling program that the terms were read from, or None.
      free_blocks: THRML blocks, or None for a colouring.
      clamped_blocks: THRML blocks.
    """
    kinds = {name: _kind(name, nodes.ravel().tolist(), levels) for name, nodes in named.items()}
    names, sizes = list(kinds), [kind.n for kind in kinds.values()]
    name_of, first = np.repeat(np.arange(len(sizes)), sizes), np.cumsum([0, *sizes])
    index = site_index(dict(named))
    sites = [np.stack([sites_of(group, index) for group in term.groups], axis=1) for term in terms]
    if program is None:
        fixed = np.zeros(len(index), bool)
        tables = [_Rows(each, term.weights, term.dtype) for each, term in zip(sites, terms, strict=True)]
    else:
        fixed = clamped_in(program, index)
        tables = _merge(terms, sites, name_of, ~fixed)
    factors, params = [], []
    for table in tables:
        for own, rows in _groups_of_rows(name_of[table.sites]):
            columns = zip(own, table.sites[rows].T, strict=True)
            factors.append(Factor(*((names[name], column - first[name]) for name, column in columns)))
            params.append(jnp.asarray(table.weights[rows], jnp.result_type(jnp.float32, table.dtype)))
    model = FactorGraph(kinds, factors)
    spec = block_spec(free_blocks, clamped_blocks, index, model.graph)
    check_drawn(fixed, spec)
    return model, tuple(params), spec


def _kind(name: str, nodes: Sequence[Any], levels: Mapping[Any, int | None]) -> NodeKind:
    found = {levels[node] for node in nodes}
    if len(found) != 1:
        raise ValueError(
            f"the nodes {name!r} are of {len(found)} kinds; give a name to spins, and one to categories of each number"
        )
    (n_levels,) = found
    return Spins(len(nodes)) if n_levels is None else Categories(len(nodes), n_levels)


def _groups_of_rows(table: np.ndarray) -> list[tuple[tuple[int, ...], np.ndarray]]:
    """Returns the distinct rows as they first appear, and the numbers of the rows that are equal to each."""
    rows, where, inverse = np.unique(table, axis=0, return_index=True, return_inverse=True)
    inverse = inverse.ravel()
    return [(tuple(rows[i].tolist()), np.flatnonzero(inverse == i)) for i in np.argsort(where)]


def _merge(
    terms: Sequence[Term], sites: Sequence[np.ndarray], name_of: np.ndarray, free: np.ndarray
) -> list[_Rows]:
    """Adds up the terms of a program that are on the same sites.

    Raises:
      ValueError: If the updates of two sites give a term different weights, so that no energy has them.
    """
    found: dict[tuple[int, ...], list[tuple[_Rows, np.ndarray]]] = {}
    for term, columns in zip(terms, sites, strict=True):
        m = term.n_spins
        # Spins by their sites, and then categories by theirs.
        order = np.concatenate([np.argsort(columns[:, :m]), m + np.argsort(columns[:, m:])], axis=1)
        for places, rows in _groups_of_rows(order):
            weights = term.weights[rows].transpose(0, *(1 + place - m for place in places[m:]))
            ordered, drawn = columns[rows][:, places], places.index(term.drawn)
            for names, own in _groups_of_rows(name_of[ordered]):
                part = _Rows(ordered[own], weights[own], term.dtype)
                found.setdefault(names, []).append((part, np.full(len(own), drawn)))
    return [
        _sum([rows for rows, _ in parts], [drawn for _, drawn in parts], free) for parts in found.values()
    ]


def _sum(parts: Sequence[_Rows], drawn: Sequence[np.ndarray], free: np.ndarray) -> _Rows:
    """Returns each row of sites once, as they first appear, with its weights added up."""
    weights = np.concatenate([part.weights for part in parts])
    sites, where, number = np.unique(
        np.concatenate([part.sites for part in parts]), axis=0, return_index=True, return_inverse=True
    )
    # What the update of each of the sites adds.
    added = np.zeros((*sites.shape, *weights.shape[1:]))
    np.add.at(added, (number.ravel(), np.concatenate(drawn)), weights)
    total, is_free = added.sum(axis=1), free[sites]
    share = total / is_free.sum(axis=1).reshape(-1, *[1] * (total.ndim - 1))
    expected = np.broadcast_to(share[:, None], added.shape)
    if not np.allclose(added[is_free], expected[is_free], rtol=1e-5, atol=1e-6):
        raise ValueError(
            "the program's interactions are not the same for all nodes of a term, so it samples from no energy; build "
            "it from factors"
        )
    order = np.argsort(where)
    return _Rows(sites[order], total[order], jnp.result_type(*(part.dtype for part in parts)))


def thrml_factors(
    model: FactorGraph, params: Sequence[jax.Array], spec: BlockSpec, beta: Any
) -> tuple[Any, Any, list[Any], list[Any], dict[str, np.ndarray]]:
    """Returns what `ThrmlModel` holds of a factor graph of spins and categories.

    Raises:
      ValueError: If there are nodes of another kind.
    """
    for name, kind in model.nodes:
        if type(kind) not in (Spins, Categories):
            raise ValueError(
                f"the nodes {name!r} are {type(kind).__name__}, for which THRML has no factor class; its users write "
                "their own"
            )
    nodes = {
        name: as_array(
            [thrml.SpinNode() if isinstance(kind, Spins) else thrml.CategoricalNode() for _ in range(kind.n)]
        )
        for name, kind in model.nodes
    }
    node_of_site = [node for each in nodes.values() for node in each.tolist()]
    name_of = np.repeat(np.arange(len(nodes)), [kind.n for _, kind in model.nodes])

    def by_name(block: Block) -> list[Any]:
        parts = [block.sites[name_of[block.sites] == name] for name in range(len(nodes))]
        return [thrml.Block([node_of_site[site] for site in part]) for part in parts if part.size]

    groups = [[part for block in group for part in by_name(block)] for group in spec.free]
    free = [group[0] if len(group) == 1 else tuple(group) for group in groups]
    clamped = [part for block in spec.clamped for part in by_name(block)]
    factors = [_thrml_factor(model, nodes, *each, beta) for each in zip(model.factors, params, strict=True)]
    ebm = models.FactorizedEBM(factors)
    blocks = thrml.BlockGibbsSpec(free, clamped, ebm.node_shape_dtypes)
    kind_of = {node: model.kinds[name] for name, each in nodes.items() for node in each.tolist()}
    samplers = [_sampler(kind_of[block[0]]) for block in blocks.free_blocks]
    return ebm, thrml.FactorSamplingProgram(blocks, samplers, factors, []), free, clamped, nodes


def _sampler(kind: NodeKind) -> Any:
    if isinstance(kind, Categories):
        return models.CategoricalGibbsConditional(kind.n_levels)
    return models.SpinGibbsConditional()


def _thrml_factor(
    model: FactorGraph, nodes: Mapping[str, np.ndarray], factor: Factor, weights: jax.Array, beta: Any
) -> Any:
    spins, categories = [], []
    for member in factor.members:
        group = thrml.Block(nodes[member.name][member.index].tolist())
        (categories if model.kinds[member.name].is_table else spins).append(group)
    weights = jnp.asarray(beta, weights.dtype) * weights
    if not categories:
        return models.SpinEBMFactor(spins, weights)
    # THRML merges the updates of tables that have the same size along every axis.
    is_square = len(set(weights.shape[1:])) == 1
    if spins:
        kind = models.SquareDiscreteEBMFactor if is_square else models.DiscreteEBMFactor
        return kind(spins, categories, weights)
    kind = models.SquareCategoricalEBMFactor if is_square else models.CategoricalEBMFactor
    return kind(categories, weights)
