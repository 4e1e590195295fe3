"""Factor graphs with real units: the units are integrated out in closed form, whatever the other nodes are.

With all nodes of levels held at s, −E is a quadratic function of the real units,

    −E(s, x) = c(s) + b(s)·x − ½ xᵀ A(s) x,

where c, b and A sum the terms with no real member, with one, and with two or a square. For a positive definite A and
β > 0,

    ∫ exp(−β E) dx = exp(β c + β bᵀ A⁻¹ b / 2) det(β A / 2π)^(−½),

and the units follow N(A⁻¹ b, (β A)⁻¹), a conditional Gaussian law (Lauritzen and Wermuth 1989).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ebm_jax.energies.factor_graph import FactorGraph
from ebm_jax.energies.factors import Member
from ebm_jax.energies.nodes import Gaussians
from ebm_jax.types import Key, PyTree

# A pivot below this share of its diagonal entry is a zero that was rounded, for each unit.
_ROUNDING = 1e-15

# Draws that are completed at once.
_TOGETHER = 1024


class Quadratic(NamedTuple):
    """−E as a function of the real units: c + b·x − ½ xᵀ A x.

    Attributes:
      constant: c.
      linear: b.
      precision: A.
    """

    constant: Float[Array, ""]
    linear: Float[Array, " n_real"]
    precision: Float[Array, "n_real n_real"]


def is_mixed(model: Any) -> bool:
    """Returns whether the model is a factor graph with nodes that have no levels."""
    return isinstance(model, FactorGraph) and None in model.site_levels


def obstacle(model: FactorGraph) -> str | None:
    """Says why the real units cannot be integrated out, or returns None when they can."""
    for name, kind in model.nodes:
        if kind.n_values is None and not isinstance(kind, Gaussians):
            return (
                f"the nodes {name!r} are {kind!r}, which takes infinitely many values and whose sum is not known; give "
                "the kind n_values, or estimate by sampling"
            )
    for number, factor in enumerate(model.factors):
        degree = sum(2 if member.statistic == "square" else 1 for member in _real_members(model, factor))
        if degree > 2:
            return (
                f"factor {number}, {factor!r}, is of degree {degree} in real units, whose integral has no closed form "
                "beyond degree 2; estimate by sampling"
            )
    return None


def log_weight(model: FactorGraph, params: PyTree, beta: Array | float, levels: Int[Array, " n"]) -> Array:
    """Returns log ∫ exp(−β E) over the real units; NaN where the integral is infinite.

    Args:
      model: A factor graph without `obstacle`.
      params: Parameters.
      beta: Inverse temperature, positive.
      levels: Levels of the other nodes, in the order of their sites.

    Returns:
      A scalar.
    """
    constant, linear, precision = quadratic(model, params, levels)
    factor, diagonal = _cholesky(precision)
    scaled = jax.scipy.linalg.solve_triangular(factor, linear, lower=True)
    log_scale = len(linear) / 2 * jnp.log(2 * jnp.pi / beta) - jnp.sum(jnp.log(diagonal))
    return beta * (constant + jnp.sum(scaled**2) / 2) + log_scale


def complete(
    key: Key, model: FactorGraph, params: PyTree, beta: Array | float, levels: Int[Array, "n_samples n"]
) -> PyTree:
    """Returns configurations: given draws of the nodes with levels, with draws of the real units given them."""
    n_real = sum(count is None for count in model.site_levels)
    noise = jax.random.normal(key, (len(levels), n_real), jnp.float64)
    # Each draw takes a matrix of the real units while it is made.
    pieces = [
        _complete(model, params, beta, levels[start : start + _TOGETHER], noise[start : start + _TOGETHER])
        for start in range(0, max(len(levels), 1), _TOGETHER)
    ]
    return jax.tree.map(lambda *rows: jnp.concatenate(rows), *pieces)


@functools.partial(jax.jit, static_argnums=0)
def _complete(
    model: FactorGraph,
    params: PyTree,
    beta: Array | float,
    levels: Int[Array, "n_samples n"],
    noise: Float[Array, "n_samples n_real"],
) -> PyTree:
    def one(levels: Array, noise: Array) -> PyTree:
        _, linear, precision = quadratic(model, params, levels)
        factor, _ = _cholesky(precision)
        mean = jax.scipy.linalg.cho_solve((factor, True), linear)
        spread = jax.scipy.linalg.solve_triangular(factor, noise, lower=True, trans=1)
        x, real = _with_levels(model, levels), mean + spread / jnp.sqrt(beta)
        return {**x, **{name: real[_span(model, name)].astype(x[name].dtype) for name in _real_names(model)}}

    return jax.vmap(one)(levels, noise)


def quadratic(model: FactorGraph, params: PyTree, levels: Int[Array, " n"]) -> Quadratic:
    """Returns −E as a function of the real units, the other nodes at their levels."""
    # Energies are linear in the parameters, and at ones a term is its weight times its spins.
    zeros = jax.tree.map(jnp.zeros_like, params)
    slopes = jax.grad(model.energy)(zeros, _with_levels(model, levels))
    n_real = sum(count is None for count in model.site_levels)
    constant, linear, precision = jnp.zeros(()), jnp.zeros(n_real), jnp.zeros((n_real, n_real))
    for factor, weights, slope in zip(model.factors, params, slopes, strict=True):
        value = -(weights * slope).reshape(factor.n_terms, -1).sum(axis=1)
        real = _real_members(model, factor)
        units = [_span(model, member.name).start + member.index for member in real]
        if not real:
            constant = constant + value.sum()
        elif len(real) == 2:
            rows, columns = units
            precision = precision.at[rows, columns].add(-value).at[columns, rows].add(-value)
        elif real[0].statistic == "square":
            precision = precision.at[units[0], units[0]].add(-2 * value)
        else:
            linear = linear.at[units[0]].add(value)
    return Quadratic(constant, linear, precision)


def _cholesky(precision: Array) -> tuple[Array, Array]:
    """Returns the lower factor L of A = L Lᵀ and its diagonal; NaN where A is not positive definite."""
    factor = jnp.linalg.cholesky(precision)
    diagonal = jnp.diagonal(factor)
    smallest = len(diagonal) * _ROUNDING * jnp.diagonal(precision)
    return factor, jnp.where(diagonal**2 > smallest, diagonal, jnp.nan)


def _with_levels(model: FactorGraph, levels: Int[Array, " n"]) -> dict[str, Array]:
    """Returns the configuration with these levels, real units at 1."""
    is_real = np.asarray([count is None for count in model.site_levels])
    full = jnp.ones(len(is_real), jnp.int32).at[np.flatnonzero(~is_real)].set(levels.astype(jnp.int32))
    return model.from_levels(full)


def _real_names(model: FactorGraph) -> list[str]:
    return [name for name, kind in model.nodes if kind.n_values is None]


def _span(model: FactorGraph, name: str) -> slice:
    """Returns where the units of one name stand among all real units."""
    start = sum(count is None for count in model.site_levels[: model.first_sites[name]])
    return slice(start, start + model.kinds[name].n)


def _real_members(model: FactorGraph, factor: Any) -> list[Member]:
    return [member for member in factor.members if model.kinds[member.name].n_values is None]
