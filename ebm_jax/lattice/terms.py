"""The index tables of factor graphs: which rows every node reads, and which weights its terms have.

The terms that a node takes part in are sorted by what their other members are. Terms of one such signature differ in
numbers alone: they fill the slots of one padded table, from whatever factor and whatever place in it they come.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Int, UInt32

from ebm_jax.energies.factor_graph import FactorGraph
from ebm_jax.energies.nodes import NodeKind
from ebm_jax.graphs.blocks import BlockSpec
from ebm_jax.lattice.general import by_degree, padded

# Tables are built in NumPy and put on the device whole.
Host = Array | np.ndarray

# What a term reads of its other members: names and statistics, in ascending order.
Signature = tuple[tuple[str, str], ...]


class SlotTables(NamedTuple):
    """The terms of one signature of some nodes, padded to the most that any of them has.

    Attributes:
      rows: int32 `(width, n)` for each other member: the row that it has in the packed array of its kind.
      term: int32 `(width, n)`, the number of the term among all of this signature. In an empty slot it is their number,
        where a weight of zero lies.
    """

    rows: tuple[Int[Host, "width n"], ...]
    term: Int[Host, "width n"]


class PartTables(NamedTuple):
    """Nodes of one kind that are drawn together.

    Attributes:
      counter: uint32 `(n,)`, the sites, from which their random words come.
      slots: The tables by own statistic and signature, in the order of `Part.reads`.
    """

    counter: UInt32[Host, " n"]
    slots: tuple[SlotTables, ...]


class FactorTables(NamedTuple):
    """Index tables of a factor graph.

    Attributes:
      order: int32 `(n,)` of each kind: the node in each packed row.
      back: int32 `(n,)` of each kind, the inverse of `order`.
      parts: The parts of each group.
    """

    order: Mapping[str, Int[Host, " n"]]
    back: Mapping[str, Int[Host, " n"]]
    parts: tuple[tuple[PartTables, ...], ...]


@dataclass(frozen=True)
class Part:
    """Structure of nodes of one kind that are drawn together.

    Attributes:
      name: Their name.
      start: Their first row in the packed array.
      n: How many there are.
      reads: Own statistic and signature of each of their tables.
    """

    name: str
    start: int
    n: int
    reads: tuple[tuple[str, Signature], ...]


class Terms(NamedTuple):
    """All terms by which nodes of one kind, by one statistic, depend on others of one signature.

    Attributes:
      node: `(n_terms,)`, the node that is drawn.
      others: `(n_terms,)` for each other member, its node.
      sources: Which weights the terms have: number of the factor, and the order of axes that puts the node's own levels
        first and those of the others in the order of the signature.
    """

    node: np.ndarray
    others: tuple[np.ndarray, ...]
    sources: tuple[tuple[int, tuple[int, ...]], ...]


def build_tables(model: FactorGraph, spec: BlockSpec) -> tuple[tuple[tuple[Part, ...], ...], FactorTables]:
    """Returns the parts of each group and their tables, of a factor graph under blocks that fit it."""
    terms = terms_of(model)
    degree = np.zeros(model.graph.n_sites, np.int64)
    for (name, _, _), found in terms.items():
        np.add.at(degree, model.first_sites[name] + found.node, 1)
    groups = [_parts_of_group(model, sites, degree) for sites in spec.groups]
    clamped = _parts_of_group(model, spec.clamped_sites, degree)
    order: dict[str, list[np.ndarray]] = {name: [] for name, _ in model.nodes}
    starts = []
    for name, nodes in [part for group in [*groups, clamped] for part in group]:
        starts.append(sum(map(len, order[name])))
        order[name].append(nodes)
    orders = {name: np.concatenate(parts).astype(np.int32) for name, parts in order.items()}
    back = {name: np.argsort(nodes).astype(np.int32) for name, nodes in orders.items()}
    rows = {key: _by_node(model.kinds[key[0]].n, found.node) for key, found in terms.items()}
    remaining = iter(starts)
    built = [
        [_part(model, name, nodes, next(remaining), terms, rows, back) for name, nodes in group]
        for group in groups
    ]
    tables = tuple(tuple(table for _, table in group) for group in built)
    return tuple(tuple(part for part, _ in group) for group in built), FactorTables(orders, back, tables)


# Cached because compiled code asks for it again.
@functools.lru_cache(maxsize=8)
def terms_of(model: FactorGraph) -> dict[tuple[str, str, Signature], Terms]:
    """Returns the terms of the model by name and statistic of the node drawn, and signature of its other members."""
    found: dict[tuple[str, str, Signature], list[tuple[np.ndarray, list[np.ndarray], Any]]] = {}
    for number, factor in enumerate(model.factors):
        axis_of = _table_axes([model.kinds[member.name] for member in factor.members])
        for place, member in enumerate(factor.members):
            others = sorted(
                (other for other in range(len(factor.members)) if other != place),
                key=lambda other: factor.members[other][::2],
            )
            signature = tuple(
                (factor.members[other].name, factor.members[other].statistic) for other in others
            )
            axes = [axis_of[column] for column in (place, *others) if column in axis_of]
            entry = (member.index, [factor.members[other].index for other in others], (number, (0, *axes)))
            found.setdefault((member.name, member.statistic, signature), []).append(entry)
    return {
        key: Terms(
            np.concatenate([node for node, _, _ in entries]),
            tuple(
                np.concatenate(columns) for columns in zip(*(others for _, others, _ in entries), strict=True)
            ),
            tuple(source for _, _, source in entries),
        )
        for key, entries in found.items()
    }


def _table_axes(kinds: Sequence[NodeKind]) -> dict[int, int]:
    """Returns the axis of the weights that each member with a table has, by the member's place."""
    places = [place for place, kind in enumerate(kinds) if kind.is_table]
    return {place: 1 + number for number, place in enumerate(places)}


def _parts_of_group(
    model: FactorGraph, sites: np.ndarray, degree: np.ndarray
) -> list[tuple[str, np.ndarray]]:
    """Returns the nodes that are drawn together, by kind, and of each kind those of about the same degree."""
    parts = []
    for name, kind in model.nodes:
        first = model.first_sites[name]
        own = sites[(sites >= first) & (sites < first + kind.n)]
        if own.size:
            parts += [(name, part - first) for part in by_degree(own, degree, len(degree) // 8)]
    return parts


class _ByNode(NamedTuple):
    """Terms as compressed rows: those of node i are `order[starts[i] : starts[i + 1]]`."""

    starts: np.ndarray
    order: np.ndarray


def _by_node(n: int, node: np.ndarray) -> _ByNode:
    starts = np.concatenate([[0], np.cumsum(np.bincount(node, minlength=n))])
    return _ByNode(starts, np.argsort(node, kind="stable"))


def _part(
    model: FactorGraph,
    name: str,
    nodes: np.ndarray,
    start: int,
    terms: dict[tuple[str, str, Signature], Terms],
    rows: dict[tuple[str, str, Signature], _ByNode],
    back: dict[str, np.ndarray],
) -> tuple[Part, PartTables]:
    """Returns the structure and the tables of some nodes of one kind."""
    reads, tables = [], []
    for key, (starts, order) in rows.items():
        if key[0] != name:
            continue
        at, filled = padded(starts, nodes)
        if not filled.size:
            continue
        term = np.where(filled, order[at], 0)
        others = terms[key].others
        columns = [back[other][column[term]] for (other, _), column in zip(key[2], others, strict=True)]
        tables.append(
            SlotTables(
                tuple(np.where(filled, row, 0).astype(np.int32) for row in columns),
                np.where(filled, term, len(terms[key].node)).astype(np.int32),
            )
        )
        reads.append(key[1:])
    counter = (model.first_sites[name] + nodes).astype(np.uint32)
    return Part(name, start, len(nodes), tuple(reads)), PartTables(counter, tuple(tables))
