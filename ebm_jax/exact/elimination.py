"""Variable elimination: sites are summed out one after the other, for models on trees, strips and other thin graphs.

With −β E(x) = Σ_f φ_f(x_f), a sum of tables φ that depend on few sites each, the sum over a site i is a new table,

    m_i(x_c) = log Σ_{x_i} exp(Σ φ_f + Σ m_j),

where the sums run over the tables and earlier results that depend on i, and c are the other sites of these (Dechter
1999, "Bucket elimination"). Its cost is that of the largest table, which the order decides: see `order`. Running the
plan backwards gives marginals (Lauritzen and Spiegelhalter 1988) and independent draws.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ebm_jax.exact.order import Plan, Step, Structure

MAX_STORED = 2**25
"""Most entries of all tables together, where they must be kept."""


class Factors(NamedTuple):
    """−β E as a sum of tables, and how to sum out the sites.

    Attributes:
      structure: The sites that each table depends on.
      plan: The steps of the elimination.
      tables: float64 tables, with an axis for every site of their scopes.
    """

    structure: Structure
    plan: Plan
    tables: Sequence[np.ndarray]


def log_partition(factors: Factors) -> float:
    """Returns log Z."""
    total = 0.0
    for _, message in _tables(factors):
        total += float(message) if message.ndim == 0 else 0.0
    return total


def marginals(factors: Factors) -> list[np.ndarray]:
    """Returns the distribution of the sites of every table.

    Args:
      factors: The tables.

    Returns:
      Probabilities shaped like `factors.tables`.

    Raises:
      ValueError: If the tables of the elimination together have more than `MAX_STORED` entries.
    """
    stored = _stored(factors)
    found: list[Any] = [None] * len(factors.tables)
    # The distributions of the cliques' sites other than the one that is summed out.
    of_others: list[Any] = [np.ones(())] * len(stored)
    for number in reversed(range(len(stored))):
        step, (table, message) = factors.plan.steps[number], stored[number]
        p = np.exp(table - _finite(message)[..., None]) * of_others[number][..., None]
        of_others[number] = stored[number] = None
        for child in step.children:
            of_others[child] = _marginal(p, step, factors.plan.steps[child].clique[:-1])
        for scope in step.scopes:
            found[scope] = _marginal(p, step, factors.structure.scopes[scope])
    return found


def sample(factors: Factors, uniforms: Float[np.ndarray, "n_samples n_sites"]) -> np.ndarray:
    """Returns levels `(n_samples, n_sites)`, one draw for each row of `uniforms`; raises as `marginals` does."""
    levels = np.zeros(uniforms.shape, np.int32)
    for step, (table, _) in zip(reversed(factors.plan.steps), reversed(_stored(factors)), strict=True):
        *others, site = step.clique
        logits = table[tuple(levels[:, other] for other in others)]
        if not others:
            logits = np.broadcast_to(logits, (len(levels), logits.size))
        weights = np.cumsum(np.exp(logits - logits.max(axis=-1, keepdims=True)), axis=-1)
        levels[:, site] = np.sum(weights[:, :-1] <= uniforms[:, site, None] * weights[:, -1:], axis=-1)
    return levels


def _stored(factors: Factors) -> list[Any]:
    """Returns the table and the result of every step."""
    if factors.plan.entries > MAX_STORED:
        raise ValueError(
            f"gradients, marginals and samples keep every table of the elimination, {factors.plan.entries:,} entries "
            f"here, and the limit is {MAX_STORED:,}; use a narrower or shorter strip, or a sampler"
        )
    return list(_tables(factors))


def _tables(factors: Factors) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the table of every step, whose last axis is the site that is summed out, and the result of the sum."""
    counts = factors.structure.level_counts
    messages: dict[int, np.ndarray] = {}
    for number, step in enumerate(factors.plan.steps):
        # Small tables are added up first: each addition to the full table takes a pass over it.
        parts = [np.zeros(counts[step.clique[-1]])]
        parts += [_spread(factors.tables[s], factors.structure.scopes[s], step.clique) for s in step.scopes]
        table = functools.reduce(np.add, parts)
        for child in step.children:
            scope = factors.plan.steps[child].clique[:-1]
            table = _spread(messages.pop(child), scope, step.clique) + table
        message = _log_sum(table)
        messages[number] = message
        yield table, message


def _spread(table: np.ndarray, scope: tuple[int, ...], clique: tuple[int, ...]) -> np.ndarray:
    """Returns a table with the axes of the clique, of length one where the table does not depend on the site."""
    axes = [clique.index(site) for site in scope]
    shape = [1] * len(clique)
    for axis, length in zip(axes, table.shape, strict=True):
        shape[axis] = length
    return table.transpose(np.argsort(axes)).reshape(shape)


def _marginal(p: np.ndarray, step: Step, scope: tuple[int, ...]) -> np.ndarray:
    """Returns the distribution of the sites `scope` in their order, from that of the step's clique."""
    axes = [step.clique.index(site) for site in scope]
    summed = p.sum(axis=tuple(axis for axis in range(p.ndim) if axis not in axes))
    return summed.transpose(np.argsort(np.argsort(axes)))


def _log_sum(table: np.ndarray) -> np.ndarray:
    """Returns log Σ exp over the last axis, which is short: a pass a level is quicker than NumPy's reduction."""
    levels = [table[..., k] for k in range(table.shape[-1])]
    # NumPy turns arrays without axes into scalars.
    largest = _finite(np.asarray(functools.reduce(np.maximum, levels)))
    total = functools.reduce(np.add, (np.exp(level - largest) for level in levels))
    with np.errstate(divide="ignore"):
        return np.asarray(largest + np.log(total))


def _finite(log_sums: np.ndarray) -> np.ndarray:
    """Returns the values with 0 for −∞: subtracting it keeps configurations of probability zero at zero."""
    return np.where(np.isneginf(log_sums), 0.0, log_sums)
