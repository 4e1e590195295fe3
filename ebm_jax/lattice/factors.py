"""Factor graphs: nodes of mixed kinds under terms of any order.

Nodes of a kind are renumbered so that those drawn together are contiguous rows of one array `(n, chains)`. A term of a
node reads one row for each of its other members, and a gather copies whole rows of chains.

The terms that a node takes part in are sorted by what their other members are. Terms of one such signature differ in
numbers alone: they fill the slots of one padded table, which one loop runs through, from whatever factor and whatever
place in it they come. Weights of all of them are lined up once a call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from ebm_jax import rng
from ebm_jax.chains import with_leading_axes
from ebm_jax.energies.factor_graph import FactorGraph
from ebm_jax.energies.nodes import NodeKind, Spins
from ebm_jax.graphs.blocks import BlockSpec
from ebm_jax.lattice.base import Layout
from ebm_jax.lattice.fields import SELECTED_LEVELS, UNROLLED_SLOTS
from ebm_jax.lattice.general import by_degree
from ebm_jax.types import PyTree

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


class _Terms(NamedTuple):
    """All terms by which nodes of one kind, by one statistic, see others of one signature.

    Attributes:
      node: `(n_terms,)`, the node that sees.
      others: `(n_terms,)` for each other member, the node that is seen.
      sources: Which weights the terms have: number of the factor, and the order of axes that puts the node's own levels
        first and those of the others in the order of the signature.
    """

    node: np.ndarray
    others: tuple[np.ndarray, ...]
    sources: tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True)
class FactorLayout(Layout):
    """A factor graph with any blocks.

    Attributes:
      model: The factor graph.
      parts: The parts of each group.
    """

    model: FactorGraph
    parts: tuple[tuple[Part, ...], ...]

    path = "factors"

    @property
    def may_diverge(self) -> bool:  # type: ignore[override]
        """Whether there are nodes of real values."""
        return any(kind.n_values is None for _, kind in self.model.nodes)

    @classmethod
    def obstacle(cls, model: Any, spec: BlockSpec) -> str | None:
        """Says why a model does not fit, or returns None when it does."""
        del spec
        return None if isinstance(model, FactorGraph) else "it is no FactorGraph"

    @classmethod
    def build(cls, model: FactorGraph, spec: BlockSpec) -> tuple[FactorLayout, FactorTables]:
        """Returns the layout and tables of a factor graph under blocks that fit it."""
        terms = _terms(model)
        degree = np.zeros(model.graph.n_sites, np.int64)
        for (name, _, _), found in terms.items():
            np.add.at(degree, model.first_sites[name] + found.node, 1)
        members = [_parts_of_group(model, sites, degree) for sites in spec.groups]
        held = _parts_of_group(model, spec.clamped_sites, degree)
        order: dict[str, list[np.ndarray]] = {name: [] for name, _ in model.nodes}
        starts = []
        for name, nodes in [part for group in [*members, held] for part in group]:
            starts.append(sum(map(len, order[name])))
            order[name].append(nodes)
        orders = {name: np.concatenate(parts).astype(np.int32) for name, parts in order.items()}
        back = {name: np.argsort(nodes).astype(np.int32) for name, nodes in orders.items()}
        rows = {key: _by_node(model.kinds[key[0]].n, found.node) for key, found in terms.items()}
        remaining = iter(starts)
        parts, tables = [], []
        for group in members:
            built = [_part(model, name, nodes, next(remaining), terms, rows, back) for name, nodes in group]
            parts.append(tuple(part for part, _ in built))
            tables.append(tuple(table for _, table in built))
        return cls(model, tuple(parts)), jax.device_put(FactorTables(orders, back, tuple(tables)))

    def pack(self, tables: FactorTables, x: dict[str, Array]) -> dict[str, Array]:
        """Turns `(chains, n)` of each kind into `(n, chains)` in packed order."""
        return {name: x[name].T[tables.order[name]] for name, _ in self.model.nodes}

    def unpack(self, tables: FactorTables, packed: dict[str, Array]) -> dict[str, Array]:
        """The inverse of `pack`."""
        return {name: packed[name][tables.back[name]].T for name, _ in self.model.nodes}

    def prepare(self, tables: FactorTables, params: PyTree) -> tuple[tuple[tuple[Array, ...], ...], ...]:
        """Lines up the weight of every slot, `(width, *own levels, *levels of others, n, c)`."""
        terms = _terms(self.model)

        @functools.cache
        def weights(key: tuple[str, str, Signature]) -> Array:
            lined_up = [
                jnp.transpose(params[number], (*axes, params[number].ndim - 1))
                for number, axes in terms[key].sources
            ]
            empty = jnp.zeros((1, *lined_up[0].shape[1:]), lined_up[0].dtype)
            return jnp.concatenate([*lined_up, empty])

        return tuple(
            tuple(
                tuple(
                    jnp.moveaxis(weights((part.name, *read))[slots.term], 1, -2)
                    for read, slots in zip(part.reads, table.slots, strict=True)
                )
                for part, table in zip(*group, strict=True)
            )
            for group in zip(self.parts, tables.parts, strict=True)
        )

    def weigh(self, prepared: PyTree, beta: Float[Array, " c"], odds: bool) -> PyTree:
        """Returns weights times β."""
        del odds
        return jax.tree.map(lambda w: with_leading_axes(beta, w.ndim) * w, prepared)

    def update(
        self,
        group: int,
        tables: FactorTables,
        weights: PyTree,
        odds: bool,
        words: UInt32[Array, "chains 2"],
        step: UInt32[Array, " chains"],
        packed: dict[str, Array],
        masks: dict[str, Array] | None,
    ) -> dict[str, Array]:
        """Redraws every node of a group from its conditional, except where `masks` is True."""
        del odds
        for part, table, own in zip(self.parts[group], tables.parts[group], weights[group], strict=True):
            kind, rows = self.model.kinds[part.name], packed[part.name]
            random = rng.site_words(words, step, table.counter[:, None])
            fields = _fields(self.model, part, table, own, packed, random[0].shape)
            drawn = kind.draw(fields, random)
            span = slice(part.start, part.start + part.n)
            if masks is not None:
                drawn = jnp.where(masks[part.name][span], rows[span], drawn)
            new = jax.lax.dynamic_update_slice_in_dim(rows, drawn, part.start, axis=0)
            packed = {**packed, part.name: new}
        return packed


def _fields(
    model: FactorGraph,
    part: Part,
    table: PartTables,
    weights: Sequence[Array],
    packed: dict[str, Array],
    shape: tuple[int, ...],
) -> dict[str, Any]:
    """Returns the natural parameters of the nodes by statistic; of table statistics, functions of the level."""
    kind = model.kinds[part.name]
    readers: dict[str, list[Callable[[Any], Array]]] = {}
    for (statistic, signature), slots, of_slots in zip(part.reads, table.slots, weights, strict=True):
        reader = _reader(model, signature, slots, of_slots, packed, kind.is_table, shape)
        readers.setdefault(statistic, []).append(reader)

    def total(found: list[Callable[[Any], Array]], level: Any) -> Array:
        return functools.reduce(jnp.add, [reader(level) for reader in found])

    if kind.is_table:
        zero = jnp.zeros(shape)
        return {"value": lambda level: total(readers["value"], level) if readers else zero}
    fields = {statistic: total(found, None) for statistic, found in readers.items()}
    # A node without terms is drawn from its kind's measure alone.
    return {kind.statistics[0]: jnp.zeros(shape), **fields}


def _reader(
    model: FactorGraph,
    signature: Signature,
    slots: SlotTables,
    weights: Array,
    packed: dict[str, Array],
    is_table: bool,
    shape: tuple[int, ...],
) -> Callable[[Any], Array]:
    """Returns the sum over the slots of one signature, as a function of the node's own level."""
    width = len(slots.term)

    def at(slot: Any) -> tuple[Array | None, Array | None, Array | None]:
        rows = [packed[name][row[slot]] for (name, _), row in zip(signature, slots.rows, strict=True)]
        return _statistics(model, signature, rows)

    # Read once for all levels, where slots are written out.
    read = [at(slot) for slot in range(width)] if width <= UNROLLED_SLOTS else None

    def contribution(slot: Any, level: Any) -> Array:
        is_up, place, factor = at(slot) if read is None else read[slot]
        weight = weights[slot]
        weight = weight[level] if is_table else weight
        if place is not None:
            weight = _entry(weight.reshape(-1, *weight.shape[-2:]), place)
        if factor is not None:
            weight = weight * factor
        return weight if is_up is None else jnp.where(is_up, weight, -weight)

    def total(level: Any) -> Array:
        if read is None:
            zero = jnp.zeros(shape, weights.dtype)
            return jax.lax.fori_loop(0, width, lambda slot, sum_: sum_ + contribution(slot, level), zero)
        sums = [contribution(slot, level) for slot in range(width)]
        return jnp.broadcast_to(functools.reduce(jnp.add, sums), shape)

    return total


def _statistics(
    model: FactorGraph, signature: Signature, rows: Sequence[Array]
) -> tuple[Array | None, Array | None, Array | None]:
    """Returns what multiplies a weight: whether the product of spins is +1, the place in its table, other factors."""
    is_up: Array | None = None
    place: Array | None = None
    factor: Array | None = None
    for (name, statistic), x in zip(signature, rows, strict=True):
        kind = model.kinds[name]
        if isinstance(kind, Spins):
            is_up = x if is_up is None else ~(is_up ^ x)
        elif kind.is_table:
            level = x.astype(jnp.int32)
            place = level if place is None else place * (kind.n_values or 1) + level
        else:
            value = kind.evaluate(statistic, x)
            factor = value if factor is None else factor * value
    return is_up, place, factor


def _entry(table: Float[Array, "places n c"], place: Int[Array, "n chains"]) -> Float[Array, "n chains"]:
    """Returns the entry of the table at every node's and chain's place."""
    n_places, n, c = table.shape
    if n_places <= SELECTED_LEVELS**2:
        chosen = table[0]
        for other in range(1, n_places):
            chosen = jnp.where(place == other, table[other], chosen)
        return chosen
    address = jnp.arange(n * c, dtype=jnp.int32).reshape(n, c)
    return jnp.take(table.reshape(-1), place * (n * c) + address)


# Cached because compiled code asks for it again.
@functools.lru_cache(maxsize=8)
def _terms(model: FactorGraph) -> dict[tuple[str, str, Signature], _Terms]:
    """Returns the terms of the model by name and statistic of the node that sees, and signature of what it sees."""
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
        key: _Terms(
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
    terms: dict[tuple[str, str, Signature], _Terms],
    rows: dict[tuple[str, str, Signature], _ByNode],
    back: dict[str, np.ndarray],
) -> tuple[Part, PartTables]:
    """Returns the structure and the tables of some nodes of one kind."""
    reads, tables = [], []
    for key, (starts, order) in rows.items():
        if key[0] != name:
            continue
        counts = starts[nodes + 1] - starts[nodes]
        if not counts.any():
            continue
        slot = np.arange(counts.max())[:, None]
        filled = slot < counts
        term = np.where(filled, order[np.where(filled, starts[nodes] + slot, 0)], 0)
        others = terms[key].others
        seen = [back[other][column[term]] for (other, _), column in zip(key[2], others, strict=True)]
        tables.append(
            SlotTables(
                tuple(np.where(filled, row, 0).astype(np.int32) for row in seen),
                np.where(filled, term, len(terms[key].node)).astype(np.int32),
            )
        )
        reads.append(key[1:])
    counter = (model.first_sites[name] + nodes).astype(np.uint32)
    return Part(name, start, len(nodes), tuple(reads)), PartTables(counter, tuple(tables))
