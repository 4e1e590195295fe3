"""The terms of a THRML model: its factors, or the interactions of its sampling program, on one or two nodes.

THRML's factors are E = −Σ_b W_b on categories and E = −Σ_b W_b s… on spins ±1, so a term's weight is minus an energy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import thrml
from thrml import models


class Term(NamedTuple):
    """Weights of nodes or of pairs of nodes.

    A program holds a pair of free nodes twice, once for the update of each. Its terms carry half the weight.

    Attributes:
      first: Nodes, or the first nodes of pairs.
      second: The second nodes of pairs, or None.
      weights: float64, `(n,)` for spins, `(n, K)` or `(n, K, K)` otherwise.
      spins: Whether nodes are spins.
      dtype: Dtype in which THRML keeps the weights.
    """

    first: Sequence[Any]
    second: Sequence[Any] | None
    weights: np.ndarray
    spins: bool
    dtype: Any


def read_terms(source: Any, beta: float) -> list[Term]:
    """Returns the terms of −E_thrml / beta; raises ValueError if it is not a sum over single nodes and pairs."""
    scale = 1 / beta
    if isinstance(source, thrml.BlockSamplingProgram):
        terms = list(_terms_of_program(source))
    elif isinstance(source, models.IsingEBM):
        scale = float(source.beta) / beta
        terms = [_term([source.nodes], source.biases, True)]
        if source.edges:
            terms.append(_term(list(zip(*source.edges)), source.weights, True))
    else:
        terms = [_term_of_factor(factor) for factor in factors_of(source)]
    if len({term.spins for term in terms}) == 2:
        raise ValueError(_MIXED)
    return [term._replace(weights=term.weights * scale) for term in terms]


def factors_of(source: Any) -> Sequence[Any]:
    """Returns the factors of an EBM, or of a sequence of factors."""
    factors = source.factors if isinstance(source, models.AbstractFactorizedEBM) else source
    if not isinstance(factors, (list, tuple)) or not factors:
        raise ValueError(
            f"from_thrml got {source!r}; give an IsingEBM, a FactorizedEBM, a list of factors, or a sampling program"
        )
    return factors


def count_levels(terms: list[Term]) -> int | None:
    """Returns K, or None for spins; raises ValueError when nodes have different numbers of categories."""
    sizes = sorted({size for term in terms for size in term.weights.shape[1:]})
    if len(sizes) > 1:
        raise ValueError(
            f"nodes have {' and '.join(map(str, sizes))} categories; a Potts model has the same number at every site: "
            "pad the smaller tables with a large negative weight, such as -1e4"
        )
    if not sizes and not (terms and terms[0].spins):
        raise ValueError("the program holds no interaction, so the number of categories is unknown")
    return sizes[0] if sizes else None


_MIXED = (
    "spins and categories in one model; a model here has sites of one kind: write spins as two categories"
)


def _term_of_factor(factor: Any) -> Term:
    if not isinstance(factor, models.DiscreteEBMFactor):
        raise ValueError(
            f"factor {type(factor).__name__} is neither of spins nor of categories; no model here has it"
        )
    spin_groups, category_groups = factor.spin_node_groups, factor.categorical_node_groups
    if spin_groups and category_groups:
        raise ValueError(_MIXED)
    return _term([group.nodes for group in factor.node_groups], factor.weights, bool(spin_groups))


def _term(groups: Sequence[Sequence[Any]], weights: Any, spins: bool) -> Term:
    if len(groups) > 2:
        raise ValueError(f"a factor joins {len(groups)} nodes; models here have terms on one or two")
    second = groups[1] if len(groups) == 2 else None
    return Term(groups[0], second, np.asarray(weights, np.float64), spins, weights.dtype)


def _terms_of_program(program: Any) -> Iterator[Term]:
    """Yields the terms of a program.

    Each interaction of a block has weights `(n, m, …)` and, for every other node that it reads, places `(n, m)`.
    """
    spec = program.gibbs_spec
    node_at = {place: node for node, place in spec.node_global_location_map.items()}
    free = {node for block in spec.free_blocks for node in block}
    rows = zip(
        spec.free_blocks,
        program.per_block_interactions,
        program.per_block_interaction_active,
        program.per_block_interaction_global_inds,
        program.per_block_interaction_global_slices,
    )
    for block, *listed in rows:
        for interaction, active, kinds, places in zip(*listed):
            if not isinstance(interaction, models.DiscreteEBMInteraction):
                raise ValueError(f"the program holds a {type(interaction).__name__}, which no model here has")
            row, column = np.nonzero(np.asarray(active))
            weights = np.asarray(interaction.weights)[row, column]
            spins = weights.ndim - 1 == len(places) - interaction.n_spin
            if interaction.n_spin != (len(places) if spins else 0):
                raise ValueError(_MIXED)
            groups = [[block.nodes[i] for i in row.tolist()]]
            for kind, place in zip(kinds, places):
                groups.append([node_at[kind, p] for p in np.asarray(place)[row, column].tolist()])
            if len(groups) == 2:
                share = np.array([0.5 if node in free else 1.0 for node in groups[1]], weights.dtype)
                weights = weights * share.reshape(-1, *[1] * (weights.ndim - 1))
            yield _term(groups, weights, spins)
