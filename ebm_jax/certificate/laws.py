"""Comparing configurations with a law: by χ² where it can be enumerated, elsewhere by means of statistics."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float
from scipy.special import gammaincc, log_ndtr

from ebm_jax import exact
from ebm_jax.exact import layers
from ebm_jax.exact.enumeration import Enumeration
from ebm_jax.samplers.base import energy_of
from ebm_jax.types import PyTree

MAX_ENUMERATED = 2**12

# Statistics are taken of at most this many sites, evenly spaced.
_MAX_SITES = 64
_MAX_LEVELS = 8

# Configurations that are expected less often share a cell of the χ² test.
_MIN_EXPECTED = 25.0


class Law(NamedTuple):
    """The law p(x) ∝ exp(−β E(x; params)) of a model or an energy function."""

    model: Any
    params: PyTree

    @property
    def enumerated(self) -> Enumeration | None:
        """All sites that have levels, where they are few and `exact` has their law; real units are integrated out."""
        if layers.obstacle(self.model) is not None:
            return None
        has_real_units = None in layers.level_counts(self.model, None)
        rows = Enumeration(self.model, layers.of_levels(self.model)[0] if has_real_units else None)
        return rows if 1 < rows.n_states <= MAX_ENUMERATED else None

    def probabilities(self, beta: float) -> np.ndarray:
        """Returns the probabilities of the levels, in the order of `exact.states`."""
        layer = None if self.enumerated is None else self.enumerated.layer
        return exact.probabilities(self.model, self.params, beta=beta, layer=layer)

    def levels(self, x: PyTree) -> np.ndarray:
        """Returns levels of all sites, `(n, n_sites)`."""
        return np.asarray(_levels(self.model, x))

    def compare(
        self, beta: float, end: PyTree, start: PyTree, rate: float, *, paired: bool = True
    ) -> tuple[bool, str]:
        """Tests whether `end` may have the law.

        Args:
          beta: Inverse temperature.
          end: Configurations to test.
          start: Draws from the law.
          rate: Rate of false positives.
          paired: Whether the chain that ends at `end[i]` started at `start[i]`.

        Returns:
          The verdict, and what was measured, in words.
        """
        if not all(np.isfinite(np.asarray(leaf, np.float64)).all() for leaf in jax.tree.leaves(end)):
            return False, "chains left the finite numbers"
        log_pvalue, largest_change = self._largest_change(end, start, paired)
        if self.enumerated is None:
            return bool(log_pvalue > np.log(rate)), largest_change
        pvalue = self.chi_square_pvalue(end, self.probabilities(beta))
        ok = bool(pvalue > rate / 2 and log_pvalue > np.log(rate / 2))
        return ok, f"χ² p = {pvalue:.2g}" + ("" if ok else f", {largest_change}")

    def chi_square_pvalue(self, x: PyTree, probabilities: np.ndarray) -> float:
        """Returns the p-value of configurations as draws from `probabilities`, in the order of `exact.states`."""
        counts = self._counts(x)
        expected = counts.sum() * probabilities
        if (counts[probabilities == 0] > 0).any():
            return 0.0
        # Rare configurations share a cell with the next likelier ones until the cell is expected often enough.
        order = np.argsort(expected, kind="stable")
        crossed = np.floor(np.cumsum(expected[order]) / _MIN_EXPECTED)
        cell = np.empty(expected.size, int)
        cell[order] = np.unique(np.concatenate([[0], crossed[:-1]]), return_inverse=True)[1]
        observed, expected = np.bincount(cell, counts), np.bincount(cell, expected)
        # With few draws, or a law that sits on one configuration, there is nothing to compare.
        if observed.size < 2:
            return 1.0
        return float(gammaincc((observed.size - 1) / 2, np.sum((observed - expected) ** 2 / expected) / 2))

    def statistics(self, x: PyTree) -> Statistics:
        """Returns the statistics of configurations.

        They are the energy and its square, indicators of levels, and of coordinates the values, the squares and the
        products of neighbours.
        """
        energy = np.asarray(energies(energy_of(self.model), self.params, x), np.float64)
        names, columns = ["the energy", "the squared energy"], [energy, energy**2]
        for path, leaf in jax.tree_util.tree_leaves_with_path(x):
            values = np.asarray(leaf).reshape(leaf.shape[0], -1)
            kept = np.unique(np.linspace(0, values.shape[1] - 1, _MAX_SITES).astype(int))
            for name, column in _of_leaf("x" + jax.tree_util.keystr(path), values[:, kept], kept):
                names.append(name)
                columns.append(column)
        return Statistics(names, np.stack(columns, axis=1))

    def _largest_change(self, end: PyTree, start: PyTree, paired: bool) -> tuple[float, str]:
        """Returns the log p-value of the largest |z| among the changes of all statistics, and that change in words."""
        before, after = self.statistics(start), self.statistics(end)
        if not np.isfinite(after.values).all():
            return -np.inf, "energies or positions that are not finite"
        mean = after.values.mean(axis=0) - before.values.mean(axis=0)
        if paired:
            variance = (after.values - before.values).var(axis=0) / len(after.values)
        else:
            variance = (after.values.var(axis=0) + before.values.var(axis=0)) / len(after.values)
        error = np.sqrt(np.maximum(variance, 1e-12 * (mean**2 + 1e-300)))
        largest = int(np.argmax(np.abs(mean) / error))
        sd = max(before.values[:, largest].std(), 1e-300)
        detail = (
            f"of {mean.size} means that of {before.names[largest]} is off most, by {mean[largest] / sd:+.2g} ± "
            f"{error[largest] / sd:.1g} sd"
        )
        z = float(np.abs(mean[largest]) / error[largest])
        return float(np.log(2 * mean.size) + log_ndtr(-z)), detail

    def _counts(self, x: PyTree) -> np.ndarray:
        """Returns how often each configuration occurs, in the order of `exact.states`."""
        rows: Any = self.enumerated
        states = exact.states(self.model, layer=rows.layer)
        if rows.layer is None:
            found, listed = self.levels(x), self.levels(states)
        else:
            found, listed = np.asarray(layers.part(self.model, rows.layer, x)), np.asarray(states)
        numbers, order = (np.ravel_multi_index(levels.T, rows.level_counts) for levels in (found, listed))
        return np.bincount(numbers, minlength=rows.n_states)[order]


class Statistics(NamedTuple):
    """Numbers that describe configurations.

    Attributes:
      names: Names of the statistics.
      values: `(n, n_statistics)`, float64.
    """

    names: list[str]
    values: np.ndarray


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the correlation of every column of `a` with that of `b`; 1 where a column does not vary."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    norm = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return np.where(norm > 0, (a * b).sum(axis=0) / np.where(norm > 0, norm, 1.0), 1.0)


def _of_leaf(name: str, values: np.ndarray, sites: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yields names and columns of the statistics of one leaf, `(n, n_kept_sites)`."""
    n = values.shape[1]
    names = [f"{name}[{site}]" if n > 1 else name for site in sites]
    if values.dtype.kind != "f":
        # The number of columns must not depend on what was drawn.
        top = 1 if values.dtype.kind == "b" else _MAX_LEVELS - 1
        for i in range(n):
            for level in range(1, top + 1):
                yield f"{names[i]} = {level}", (values[:, i] == level).astype(np.float64)
        return
    values = values.astype(np.float64)
    for i in range(n):
        yield names[i], values[:, i]
        yield f"{names[i]}²", values[:, i] ** 2
        if i + 1 < n:
            yield f"{names[i]}·{names[i + 1]}", values[:, i] * values[:, i + 1]


@functools.partial(jax.jit, static_argnums=0)
def energies(energy: Callable[..., Array], params: PyTree, x: PyTree) -> Float[Array, " n"]:
    """Returns `energy(params, x)` of stacked configurations."""
    return jax.vmap(energy, (None, 0))(params, x)


@functools.partial(jax.jit, static_argnums=0)
def _levels(model: Any, x: PyTree) -> Array:
    return jax.vmap(model.levels)(x)
