"""THRML's factors of any order, over spins and categories, as factor graphs, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import thrml
from thrml import models

from ebm_jax.energies.factor_graph import Factor, FactorGraph
from ebm_jax.energies.nodes import Categories, NodeKind, Spins
from ebm_jax.graphs.blocks import Block, BlockSpec
from ebm_jax.interop.thrml.sites import as_array, block_spec, check_drawn, site_index, sites_of
from ebm_jax.interop.thrml.terms import Term


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
    index = site_index(dict(named))
    name_of = np.repeat(np.arange(len(named)), [kind.n for kind in kinds.values()])
    first = np.cumsum([0, *(kind.n for kind in kinds.values())])
    sites = [np.stack([sites_of(group, index) for group in term.groups], axis=1) for term in terms]
    free = np.ones(len(index), bool)
    if program is not None:
        for block in program.gibbs_spec.clamped_blocks:
            free[sites_of(block, index)] = False
        terms, sites = _merge(terms, sites, name_of, free)
    names = list(kinds)
    factors, params = [], []
    for term, columns in zip(terms, sites, strict=True):
        for own, rows in _groups_of_rows(name_of[columns]):
            members = [
                (names[name], column - first[name]) for name, column in zip(own, columns[rows].T, strict=True)
            ]
            factors.append(Factor(*members))
            params.append(jnp.asarray(term.weights[rows], jnp.result_type(jnp.float32, term.dtype)))
    model = FactorGraph(kinds, factors)
    spec = block_spec(free_blocks, clamped_blocks, index, model.graph)
    if program is not None:
        check_drawn(program, spec, index)
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
) -> tuple[list[Term], list[np.ndarray]]:
    """Adds up the terms of a program that are on the same sites.

    Raises:
      ValueError: If the updates of two sites give a term different weights, so that no energy has them.
    """
    parts: dict[tuple[int, ...], list[tuple[Term, np.ndarray, np.ndarray]]] = {}
    for term, columns in zip(terms, sites, strict=True):
        assert term.drawn is not None
        m = term.n_spins
        # Spins by their sites, and then categories by theirs.
        order = np.concatenate(
            [np.argsort(columns[:, :m], axis=1), m + np.argsort(columns[:, m:], axis=1)], axis=1
        )
        for own, rows in _groups_of_rows(order):
            axes = (0, *(1 + place - m for place in own[m:]))
            weights, sorted_sites = term.weights[rows].transpose(axes), columns[rows][:, own]
            drawn = np.full(len(rows), own.index(term.drawn))
            for named, of_names in _groups_of_rows(name_of[sorted_sites]):
                found = term._replace(weights=weights[of_names])
                parts.setdefault(named, []).append((found, sorted_sites[of_names], drawn[of_names]))
    merged, merged_sites = [], []
    for found in parts.values():
        all_terms, all_sites, all_drawn = zip(*found, strict=True)
        columns, drawn = np.concatenate(all_sites), np.concatenate(all_drawn)
        weights = np.concatenate([term.weights for term in all_terms])
        unique, where, inverse = np.unique(columns, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(where)
        number = np.argsort(order)[inverse.ravel()]
        unique = unique[order]
        # The weight as the update of each of the sites has it.
        by_drawn = np.zeros((len(unique), unique.shape[1], *weights.shape[1:]))
        np.add.at(by_drawn, (number, drawn), weights)
        total, is_free = by_drawn.sum(axis=1), free[unique]
        share = total / is_free.sum(axis=1).reshape(-1, *[1] * (total.ndim - 1))
        if not np.allclose(
            by_drawn[is_free], np.broadcast_to(share[:, None], by_drawn.shape)[is_free], 1e-5, 1e-6
        ):
            raise ValueError(
                "the program's interactions are not the same for all nodes of a term, so it samples from no energy; "
                "build it from factors"
            )
        merged.append(all_terms[0]._replace(weights=total))
        merged_sites.append(unique)
    return merged, merged_sites


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
    samplers: list[Any] = []

    def by_name(block: Block) -> list[Any]:
        parts = [block.sites[name_of[block.sites] == name] for name in range(len(nodes))]
        return [thrml.Block([node_of_site[site] for site in part]) for part in parts if part.size]

    groups = [[part for block in group for part in by_name(block)] for group in spec.free]
    free = [group[0] if len(group) == 1 else tuple(group) for group in groups]
    clamped = [part for block in spec.clamped for part in by_name(block)]
    factors = [_thrml_factor(model, nodes, *each, beta) for each in zip(model.factors, params, strict=True)]
    ebm = models.FactorizedEBM(factors)
    blocks = thrml.BlockGibbsSpec(free, clamped, ebm.node_shape_dtypes)
    levels = dict(zip(node_of_site, model.site_levels, strict=True))
    for block in blocks.free_blocks:
        is_spin = isinstance(block[0], thrml.SpinNode)
        samplers.append(
            models.SpinGibbsConditional() if is_spin else models.CategoricalGibbsConditional(levels[block[0]])
        )
    return ebm, thrml.FactorSamplingProgram(blocks, samplers, factors, []), free, clamped, nodes


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
