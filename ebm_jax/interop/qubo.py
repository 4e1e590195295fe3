"""Quadratic problems of 0 and 1 (QUBO) as Ising models, and back.

With x = (1 + s) / 2 the energy Σᵢ Q_ii xᵢ + Σ_{i<j} Q_ij xᵢ xⱼ + c is −Σ hᵢ sᵢ − Σ J_ij sᵢ sⱼ + offset, where

    J_ij = −Q_ij / 4,    hᵢ = −Q_ii / 2 − Σⱼ Q_ij / 4,    offset = c + Σᵢ Q_ii / 2 + Σ_{i<j} Q_ij / 4.

A configuration x of 0 and 1 is the bool array of the spins: no value changes.

Example:
  >>> problem = ej.interop.qubo.from_qubo({("a", "a"): -1.0, ("a", "b"): 2.0})
  >>> x = jnp.array([True, True])
  >>> float(problem.model.energy(problem.params, x)) + problem.offset
  1.0
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ebm_jax.energies.couplings import matrix_entries
from ebm_jax.energies.ising import Ising, IsingParams
from ebm_jax.graphs import Graph
from ebm_jax.interop.problems import IsingProblem, checked_labels, fields_and_couplings, problem_of

__all__ = ["from_qubo", "to_qubo"]


def from_qubo(q: Any, *, offset: float = 0.0) -> IsingProblem:
    """Returns the Ising model of E(x) = Σ_ij Q_ij xᵢ xⱼ + offset over x in {0, 1}.

    Args:
      q: Q, a mapping from pairs of labels to numbers, or a square matrix, dense or SciPy-sparse: upper triangular,
        symmetric or any other, for Q_ij and Q_ji add up.
      offset: A constant.

    Returns:
      An `IsingProblem`. Labels are in the order in which `q` names them; rows of a matrix are numbers. Pairs whose sum
      is zero are no edges.

    Raises:
      ValueError: If `q` is no such mapping or matrix, or a number is not finite.
    """
    if isinstance(q, Mapping):
        entries = []
        for key, value in q.items():
            if not isinstance(key, tuple) or len(key) != 2:
                raise ValueError(f"q has the key {key!r}; give pairs of labels, (i, i) for the linear terms")
            entries.append((*key, float(value)))
        labels = tuple(dict.fromkeys(label for *pair, _ in entries for label in pair))
        site_of = {label: site for site, label in enumerate(labels)}
        triples = [(site_of[a], site_of[b], value) for a, b, value in entries]
    else:
        n, rows, columns, values = matrix_entries("q", q)
        labels = tuple(range(n))
        triples = list(zip(rows.tolist(), columns.tolist(), values.tolist()))
    if not labels:
        raise ValueError("q is empty; give at least one entry")
    linear = np.zeros(len(labels))
    pairs: dict[tuple[int, int], float] = {}
    for i, j, value in triples:
        if i == j:
            linear[i] += value
        else:
            pair = (min(i, j), max(i, j))
            pairs[pair] = pairs.get(pair, 0.0) + value
    pairs = {pair: value for pair, value in pairs.items() if value != 0}
    graph = Graph(len(labels), list(pairs))
    quadratic = np.asarray(list(pairs.values()), np.float64)
    bias = -linear / 2
    np.subtract.at(bias, graph.edges, quadratic[:, None] / 4)
    constant = offset + linear.sum() / 2 + quadratic.sum() / 4
    return problem_of(graph, bias, -quadratic / 4, constant, labels)


def to_qubo(
    model: Ising, params: IsingParams, *, offset: float = 0.0, labels: Any = None
) -> tuple[dict[tuple[Any, Any], float], float]:
    """Returns Q and the constant of the same energy over x in {0, 1}, the inverse of `from_qubo`.

    Args:
      model: An Ising model.
      params: Its parameters.
      offset: A constant of the Ising energy.
      labels: One a site. `None` means the sites' numbers.

    Returns:
      `(q, offset)`: Q as a mapping with (i, i) for every site and (i, j) for every edge, and the constant c with
      E(x) = Σ Q_ij xᵢ xⱼ + c.

    Raises:
      ValueError: If the model is no Ising model, or parameters or labels do not fit it.
    """
    bias, coupling = fields_and_couplings(model, params)
    names = checked_labels(labels, model.graph.n_sites)
    linear = -2 * bias
    np.add.at(linear, model.graph.edges, 2 * coupling[:, None])
    q = {(name, name): value for name, value in zip(names, linear.tolist())}
    for (i, j), value in zip(model.graph.edges.tolist(), (-4 * coupling).tolist()):
        q[names[i], names[j]] = value
    return q, float(offset + bias.sum() - coupling.sum())
