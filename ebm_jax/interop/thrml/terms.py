"""The terms of a THRML model: its factors, or the interactions of its sampling program.

THRML's factors are E = −Σ_b s_1 … s_M W_b[c_1, …, c_N] for spins s = ±1 and categories c, so a term's weight is minus
an energy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import thrml
from thrml import models


class Term(NamedTuple):
    """Weights of nodes that stand beside each other in groups: one node of each group makes a product.

    A program holds a product once for the update of each of its free nodes. Its terms carry that part of the weight.

    Attributes:
      groups: Nodes, `n` in each group. Groups of spins come first.
      n_spins: How many groups are spins.
      weights: float64, `(n, K, …)` with an axis for each group of categories.
      dtype: Dtype in which THRML keeps the weights.
      drawn: Number of the group whose update the term belongs to, for terms of a program.
    """

    groups: tuple[Sequence[Any], ...]
    n_spins: int
    weights: np.ndarray
    dtype: Any
    drawn: int | None = None

    @property
    def levels(self) -> tuple[int | None, ...]:
        """The number of categories of each group, None for spins."""
        return (None,) * self.n_spins + self.weights.shape[1:]


def read_terms(source: Any, beta: float) -> list[Term]:
    """Returns the terms of −E_thrml / beta; raises ValueError if it is no sum of THRML's own factors."""
    scale = 1 / beta
    if isinstance(source, thrml.BlockSamplingProgram):
        terms = list(_terms_of_program(source))
    elif isinstance(source, models.IsingEBM):
        scale = float(source.beta) / beta
        terms = [_term([source.nodes], 1, source.biases)]
        if source.edges:
            terms.append(_term(list(zip(*source.edges)), 2, source.weights))
    else:
        terms = [_term_of_factor(factor) for factor in factors_of(source)]
    return [term._replace(weights=term.weights * scale) for term in terms]


def factors_of(source: Any) -> Sequence[Any]:
    """Returns the factors of an EBM, or of a sequence of factors."""
    factors = source.factors if isinstance(source, models.AbstractFactorizedEBM) else source
    if not isinstance(factors, (list, tuple)) or not factors:
        raise ValueError(
            f"from_thrml got {source!r}; give an IsingEBM, a FactorizedEBM, a list of factors, or a sampling program"
        )
    return factors


def levels_of_nodes(terms: Sequence[Term], nodes: Iterable[Any]) -> dict[Any, int | None]:
    """Returns the number of categories of every node, None for spins.

    A node that is in no term is taken to be like those of its type.

    Raises:
      ValueError: If a node is used in two ways, or its number of categories is unknown.
    """
    known: dict[Any, int | None] = {}
    for term in terms:
        for group, levels in zip(term.groups, term.levels, strict=True):
            for node in group:
                if known.setdefault(node, levels) != levels:
                    uses = " and as ".join(_described(each) for each in (known[node], levels))
                    raise ValueError(f"node {node!r} is used as {uses}; give it one use in every factor")
    of_type: dict[type, set[int | None]] = {}
    for node, levels in known.items():
        of_type.setdefault(type(node), set()).add(levels)
    found = {}
    for node in nodes:
        default: set[int | None] = {None} if isinstance(node, thrml.SpinNode) else set()
        choices = {known[node]} if node in known else of_type.get(type(node), default)
        if len(choices) != 1:
            raise ValueError(
                f"node {node!r} is in no factor, so its number of categories is unknown; give it a bias of zeros"
            )
        (found[node],) = choices
    return found


def _described(levels: int | None) -> str:
    return "a spin" if levels is None else f"one of {levels} categories"


def _term_of_factor(factor: Any) -> Term:
    if not isinstance(factor, models.DiscreteEBMFactor):
        raise ValueError(
            f"factor {type(factor).__name__} is neither of spins nor of categories, so its form is unknown; build a "
            "FactorGraph of its terms"
        )
    groups = [*factor.spin_node_groups, *factor.categorical_node_groups]
    return _term([group.nodes for group in groups], len(factor.spin_node_groups), factor.weights)


def _term(groups: Sequence[Sequence[Any]], n_spins: int, weights: Any, drawn: int | None = None) -> Term:
    return Term(tuple(groups), n_spins, np.asarray(weights, np.float64), weights.dtype, drawn)


def _terms_of_program(program: Any) -> Iterator[Term]:
    """Yields the terms of a program.

    Each interaction of a block has weights `(n, m, …)` and, for every other node that it reads, places `(n, m)`. The
    levels of the block's own node come before those of the others.
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
            groups = [
                [node_at[kind, p] for p in np.asarray(place)[row, column].tolist()]
                for kind, place in zip(kinds, places)
            ]
            is_spin = weights.ndim - 1 == len(places) - interaction.n_spin
            drawn = 0 if is_spin else interaction.n_spin
            groups.insert(drawn, [block.nodes[i] for i in row.tolist()])
            n_free = np.array([sum(node in free for node in nodes) for nodes in zip(*groups)])
            term = _term(groups, interaction.n_spin + is_spin, weights, drawn)
            yield term._replace(weights=term.weights / n_free.reshape(-1, *[1] * (weights.ndim - 1)))
