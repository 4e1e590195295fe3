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
from ebm_jax.energies.nodes import Gaussians, NodeKind
from ebm_jax.energies.target import target_of
from ebm_jax.types import PyTree

# Eigenvalues of a matrix of so many real units take a second.
_MAX_REAL = 1024


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


def check_law(model: Any, params: PyTree) -> None:
    """Checks that real units of a factor graph have a law, where their quadratic form is the same at all levels.

    Chains would follow the ladder to an estimate of a sum that is infinite.

    Raises:
      ValueError: If the matrix of the quadratic form is not positive definite.
    """
    form = _quadratic_form(model, params) if isinstance(model, FactorGraph) else None
    if form is None:
        return
    smallest = float(np.linalg.eigvalsh(form)[0])
    if smallest <= 0:
        raise ValueError(
            f"the precisions and couplings of the real units have the eigenvalue {smallest:.3g}, so the model has no "
            "law and log Z is infinite; lower the couplings, or raise the precisions"
        )


def _quadratic_form(model: FactorGraph, params: PyTree) -> np.ndarray | None:
    """Returns A of ½ xᵀ A x, or None where it depends on other nodes, is no quadratic form, or is large."""
    real = [site for name, kind in model.nodes if isinstance(kind, Gaussians) for site in model.sites(name)]
    if not 0 < len(real) <= _MAX_REAL:
        return None
    row = np.full(model.graph.n_sites, -1)
    row[real] = np.arange(len(real))
    form = np.zeros((len(real), len(real)))
    for factor, weights in zip(model.factors, params, strict=True):
        rows = row[model.sites_of_terms(factor)].T
        is_real = np.any(rows >= 0, axis=1).tolist()
        degree = sum(
            2 if m.statistic == "square" else 1 for m, of in zip(factor.members, is_real, strict=True) if of
        )
        if degree < 2:
            continue
        if degree > 2 or not all(is_real):
            return None
        first, second = rows[0], rows[-1]
        # Two members x, y give −w x y, a square gives −w x²: twice w on the diagonal.
        np.add.at(form, (first, second), -np.asarray(weights, np.float64))
        np.add.at(form, (second, first), -np.asarray(weights, np.float64))
    return form


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
