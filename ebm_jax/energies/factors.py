"""Factors: which nodes the terms of an energy multiply."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from ebm_jax.graphs.edges import freeze


class Member(NamedTuple):
    """One column of a factor: which node of a kind each of its terms reads, and by which statistic.

    Attributes:
      name: Name of the nodes.
      index: int32 `(n_terms,)`, numbers among those nodes.
      statistic: Name of the statistic; "" is the kind's first.
    """

    name: str
    index: Int[np.ndarray, " n_terms"]
    statistic: str = ""


class Factor:
    """Terms of one form, all of the same order: term t multiplies statistics of the t-th node of every member.

    Factors compare by value.

    Args:
      *members: `(name, numbers)` or `(name, numbers, statistic)`: which nodes, by their number among the nodes of that
        name. One whole number stands for the same node in every term.

    Raises:
      ValueError: If there is no member, one is not of this form, or members differ in length.

    Example:
      >>> ej.Factor(("spin", [0, 1, 2]), ("spin", [1, 2, 3]), ("class", 0))
      Factor(spin × spin × class, n_terms=3)
    """

    def __init__(self, *members: Any) -> None:
        if not members:
            raise ValueError('a factor needs a member; give e.g. Factor(("spin", [0, 1]), ("spin", [1, 2]))')
        columns = [_column(member) for member in members]
        lengths = sorted({len(column.index) for column in columns if column.index.ndim})
        if len(lengths) > 1:
            raise ValueError(
                f"members of a factor name {' and '.join(map(str, lengths))} nodes; give one each a term"
            )
        n_terms = lengths[0] if lengths else 1
        self.members = tuple(
            column._replace(index=freeze(np.broadcast_to(column.index, (n_terms,)))) for column in columns
        )
        h = hashlib.sha256()
        for name, index, statistic in self.members:
            h.update(repr((name, statistic, index.shape)).encode() + index.tobytes())
        self._digest = h.digest()

    @property
    def n_terms(self) -> int:
        """Number of terms."""
        return len(self.members[0].index)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Factor) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def __repr__(self) -> str:
        names = (m.name + (f".{m.statistic}" if m.statistic else "") for m in self.members)
        return f"Factor({' × '.join(names)}, n_terms={self.n_terms})"


def _column(member: Any) -> Member:
    remedy = "give (name, numbers) or (name, numbers, statistic)"
    if not isinstance(member, (tuple, list)) or len(member) not in (2, 3):
        raise ValueError(f"a member of a factor is {member!r}; {remedy}")
    name, numbers, *statistic = member
    index = np.asarray(numbers)
    if index.size and np.issubdtype(index.dtype, np.integer):
        largest = np.iinfo(np.int32).max
        outside = index[(index < 0) | (index > largest)]
        if outside.size:
            raise ValueError(
                f"a member of a factor names node {int(outside.flat[0])}; numbers run from 0 to {largest} at most"
            )
    is_whole = np.issubdtype(index.dtype, np.integer) and index.ndim <= 1 and index.size > 0
    if not isinstance(name, str) or not is_whole or not all(isinstance(s, str) for s in statistic):
        raise ValueError(f"a member of a factor is {member!r}; {remedy}, numbers as a list of whole numbers")
    return Member(name, index.astype(np.int32), *statistic)
