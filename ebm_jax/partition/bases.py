"""Models without couplings: their sites are independent and log Z is known, so annealing begins there.

With the natural parameters η of a site, log Z₀ sums over sites log Σ_x exp(η·T(x)), where x runs over the levels; for
a real unit with the precision a and the field η it is η²/(2a) + ½ log(2π/a).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.energies.factor_graph import FactorGraph
from ebm_jax.energies.nodes import NodeKind
from ebm_jax.energies.target import target_of
from ebm_jax.types import PyTree


def without_couplings(model: Any, params: PyTree) -> PyTree:
    """Returns the parameters with all couplings at zero; those of a factor graph are factors of several members."""
    if isinstance(model, FactorGraph):
        factors = zip(model.factors, params, strict=True)
        return tuple(w if len(factor.members) == 1 else jnp.zeros_like(w) for factor, w in factors)
    name = _coupled(model)
    return params._replace(**{name: jnp.zeros_like(getattr(params, name))})


def check_uncoupled(model: Any, base: PyTree) -> None:
    """Checks that parameters have no couplings.

    Raises:
      ValueError: If they have.
    """
    if isinstance(model, FactorGraph):
        factors = enumerate(zip(model.factors, base, strict=True))
        coupled = {f"weight of factor {i}, {f!r}": w for i, (f, w) in factors if len(f.members) > 1}
    else:
        coupled = {_coupled(model): getattr(base, _coupled(model))}
    for name, values in coupled.items():
        if np.any(np.asarray(values)):
            raise ValueError(
                f"base has a {name} that is not zero, and its log Z is not known; set it to zero"
            )


def log_z_uncoupled(model: Any, base: PyTree) -> float:
    """Returns log Z of independent sites, from the biases of `base`.

    Raises:
      ValueError: If nodes of a factor graph are of a kind whose sum is not known, or real units have no precision.
    """
    base = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), base)
    if isinstance(model, FactorGraph):
        return sum(_log_z_of_nodes(model, base, name, kind) for name, kind in model.nodes)
    if target_of(model).free_energy is None:
        kind = "spin" if model.spins else "categorical"
        return float(np.sum(np.broadcast_to(_log_z_of_units(kind, base.bias), model.graph.shape)))
    visible, hidden = model.units
    of_visible = _log_z_of_units(visible, base.visible_bias)
    return float(np.sum(of_visible) + np.sum(_log_z_of_units(hidden, base.hidden_bias)))


def _coupled(model: Any) -> str:
    return "coupling" if target_of(model).free_energy is None else "weights"


def _log_z_of_units(kind: str, bias: np.ndarray) -> np.ndarray:
    """Returns log Σ exp(bias · x) over the values of each unit."""
    if kind == "gaussian":
        return np.full(bias.shape, np.log(2 * np.pi) / 2)
    if kind == "categorical":
        return np.asarray(np.logaddexp.reduce(bias, axis=-1))
    return np.asarray(np.logaddexp(-bias if kind == "spin" else 0, bias))


def _log_z_of_nodes(model: FactorGraph, base: PyTree, name: str, kind: NodeKind) -> float:
    """Returns log Z of the nodes of one name, from factors of one member."""
    shape = (kind.n, kind.n_values or 1) if kind.is_table else (kind.n,)
    fields = {statistic: np.zeros(shape) for statistic in kind.statistics}
    for factor, weights in zip(model.factors, base, strict=True):
        member = factor.members[0]
        if len(factor.members) == 1 and member.name == name:
            np.add.at(fields[member.statistic], member.index, weights)
    try:
        log_sums = kind.log_sum(fields)
    except NotImplementedError as error:
        raise ValueError(
            f"the nodes {name!r} are {kind!r}, which takes infinitely many values and whose sum is not known; define "
            "its log_sum, or give a base=Base(sample, energy, log_z) and a kernel"
        ) from error
    if not np.isfinite(log_sums).all():
        node = int(np.flatnonzero(~np.isfinite(log_sums))[0])
        given = ", ".join(f"{value[node]:g} for its {statistic}" for statistic, value in fields.items())
        raise ValueError(
            f"node {node} of {name!r} has the weights {given} in base, so the base has no law; give a base "
            "whose sum is finite, such as negative weights of squares"
        )
    return float(np.sum(log_sums))
