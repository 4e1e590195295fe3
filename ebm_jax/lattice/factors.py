"""Factor graphs: nodes of mixed kinds under terms of any order.

Nodes of a kind are renumbered so that those drawn together are contiguous rows of one array `(n, chains)`. A term of a
node reads one row for each of its other members, and a gather copies whole rows of chains.

Terms of one signature (see `terms`) are the slots of one loop. Their weights are lined up once a call, from whatever
factors they come.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt32

from ebm_jax import rng
from ebm_jax.chains import with_leading_axes
from ebm_jax.energies.factor_graph import FactorGraph
from ebm_jax.energies.nodes import NodeKind, Spins
from ebm_jax.graphs.blocks import BlockSpec
from ebm_jax.lattice.base import Layout
from ebm_jax.lattice.fields import UNROLLED_SLOTS, table_entry
from ebm_jax.lattice.terms import (
    FactorTables,
    Part,
    PartTables,
    Signature,
    SlotTables,
    build_tables,
    terms_of,
)
from ebm_jax.types import PyTree


class _Read(NamedTuple):
    """What a term multiplies its weight by: values of its other members, `(n, chains)` each, or None where it has none.

    Attributes:
      is_up: Whether the product of spins is +1.
      place: The place of the levels in a flat table.
      factor: The product of other statistics.
    """

    is_up: Array | None
    place: Array | None
    factor: Array | None


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
        structure, tables = build_tables(model, spec)
        return cls(model, structure), jax.device_put(tables)

    def pack(self, tables: FactorTables, x: dict[str, Array]) -> dict[str, Array]:
        """Turns `(chains, n)` of each kind into `(n, chains)` in packed order."""
        return {name: x[name].T[tables.order[name]] for name, _ in self.model.nodes}

    def unpack(self, tables: FactorTables, packed: dict[str, Array]) -> dict[str, Array]:
        """The inverse of `pack`."""
        return {name: packed[name][tables.back[name]].T for name, _ in self.model.nodes}

    def prepare(self, tables: FactorTables, params: PyTree) -> tuple[tuple[tuple[Array, ...], ...], ...]:
        """Lines up the weight of every slot, `(width, *own levels, *levels of others, n, c)`."""
        terms = terms_of(self.model)

        @functools.cache
        def weights(key: tuple[str, str, Signature]) -> Array:
            lined_up = [
                jnp.transpose(params[number], (*axes, params[number].ndim - 1))
                for number, axes in terms[key].sources
            ]
            # A field of some factors, or parameters mapped in part, give those alone a chain axis.
            n_chains = max(w.shape[-1] for w in lined_up)
            lined_up = [jnp.broadcast_to(w, (*w.shape[:-1], n_chains)) for w in lined_up]
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
            random = rng.site_words(words, step, jnp.asarray(table.counter[:, None]))
            fields = _fields(self.model, part, table, own, packed, random[0].shape)
            drawn = _checked_draw(kind, kind.draw(fields, random), random[0].shape)
            span = slice(part.start, part.start + part.n)
            if masks is not None:
                drawn = jnp.where(masks[part.name][span], rows[span], drawn)
            new = jax.lax.dynamic_update_slice_in_dim(rows, drawn, part.start, axis=0)
            packed = {**packed, part.name: new}
        return packed


def _checked_draw(kind: NodeKind, drawn: Any, shape: tuple[int, ...]) -> Array:
    """Returns what a kind drew; raises ValueError where a user's own gave something else than a value for each node."""
    given = getattr(drawn, "dtype", None), getattr(drawn, "shape", None)
    if given != (jnp.dtype(kind.dtype), shape):
        raise ValueError(
            f"{type(kind).__name__}.draw gives dtype {given[0]} and shape {given[1]}; it must give dtype "
            f"{jnp.dtype(kind.dtype)} and the shape of the words, here {shape}"
        )
    return drawn


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

    def at(slot: Any) -> _Read:
        rows = [jnp.asarray(row[slot]) for row in slots.rows]
        return _statistics(model, signature, rows, packed, weights.dtype)

    # Few slots are read all at once, and once for all levels.
    every = at(slice(None)) if width <= UNROLLED_SLOTS else None

    def contribution(slot: Any, level: Any) -> Array:
        is_up, place, factor = at(slot) if every is None else jax.tree.map(lambda x: x[slot], every)
        weight = weights[slot]
        weight = weight[level] if is_table else weight
        if place is not None:
            weight = weight.reshape(-1, *weight.shape[-2:])
            weight = table_entry(weight, place, len(weight))
        if factor is not None:
            weight = weight * factor
        return weight if is_up is None else jnp.where(is_up, weight, -weight)

    def total(level: Any) -> Array:
        if every is None:
            zero = jnp.zeros(shape, weights.dtype)
            return jax.lax.fori_loop(0, width, lambda slot, sum_: sum_ + contribution(slot, level), zero)
        sums = [contribution(slot, level) for slot in range(width)]
        return jnp.broadcast_to(functools.reduce(jnp.add, sums), shape)

    return total


def _statistics(
    model: FactorGraph, signature: Signature, rows: Sequence[Array], packed: Mapping[str, Array], dtype: Any
) -> _Read:
    """Returns what terms read from the rows of their other members."""
    spins: dict[str, list[Array]] = {}
    is_up: Array | None = None
    place: Array | None = None
    factor: Array | None = None
    for (name, statistic), row in zip(signature, rows, strict=True):
        kind = model.kinds[name]
        # A kind that inherits from spins may read them in another way.
        if type(kind) is Spins:
            spins.setdefault(name, []).append(row)
        elif kind.is_table:
            level = packed[name][row].astype(jnp.int32)
            place = level if place is None else place * (kind.n_values or 1) + level
        else:
            value = kind.evaluate(statistic, packed[name][row]).astype(dtype)
            factor = value if factor is None else factor * value
    for name, found in spins.items():
        product = _product_of_spins(packed[name], found)
        is_up = product if is_up is None else ~(is_up ^ product)
    return _Read(is_up, place, factor)


def _product_of_spins(packed: Bool[Array, "n chains"], rows: Sequence[Array]) -> Bool[Array, "*shape chains"]:
    """Returns whether the product of the spins in some rows is +1.

    It is one reduction over one gather of all slots, which XLA makes one loop. As a gather for each slot and member, a
    model of three-body terms with 64 chains took twice the time: the compiler unrolls a loop over so few chains that
    does nothing but copy, and leaves it without vector instructions.
    """
    if len(rows) == 1:
        return packed[rows[0]]
    odd = jax.lax.reduce(packed[jnp.stack(rows)], np.False_, jax.lax.bitwise_xor, (0,))
    return odd if len(rows) % 2 else ~odd
