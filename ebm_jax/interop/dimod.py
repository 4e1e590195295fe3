"""D-Wave's binary quadratic models as Ising models, and back (https://github.com/dwavesystems/dimod).

dimod writes E(s) = Σ hᵢ sᵢ + Σ J_ij sᵢ sⱼ + offset. The signs of h and J are the opposite of those here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ebm_jax.energies.ising import Ising, IsingParams
from ebm_jax.graphs import Graph
from ebm_jax.interop.problems import IsingProblem, checked_labels, fields_and_couplings, problem_of

__all__ = ["from_bqm", "to_bqm"]


def from_bqm(bqm: Any) -> IsingProblem:
    """Returns the Ising model of a binary quadratic model.

    Args:
      bqm: A `dimod.BinaryQuadraticModel` of spins or of 0 and 1. A bool configuration is True at +1, or at 1.

    Returns:
      An `IsingProblem`: `bqm.energy(sample)` is `model.energy(params, s) + offset`. Sites are in the order of
      `bqm.variables`, edges in that of `bqm.quadratic`; interactions of zero stay edges.

    Raises:
      ValueError: If `bqm` is none, has no variable, or holds a number that is not finite.
    """
    if not hasattr(bqm, "to_ising"):
        raise ValueError(f"bqm is {bqm!r}; give a dimod.BinaryQuadraticModel (for a QUBO use interop.qubo)")
    fields, couplings, offset = bqm.to_ising()
    graph, labels = Graph.from_edges(couplings, nodes=bqm.variables)
    bias = np.asarray([-fields.get(label, 0.0) for label in labels], np.float64)
    return problem_of(graph, bias, -np.asarray(list(couplings.values()), np.float64), offset, labels)


def to_bqm(model: Ising, params: IsingParams, *, offset: float = 0.0, labels: Any = None) -> Any:
    """Returns the binary quadratic model of spins with the same energy.

    Args:
      model: An Ising model.
      params: Its parameters.
      offset: A constant that is added to the energy.
      labels: One a site. `None` means the sites' numbers.

    Returns:
      A `dimod.BinaryQuadraticModel` with vartype SPIN.

    Raises:
      ImportError: If dimod is not installed.
      ValueError: If the model is no Ising model, or parameters or labels do not fit it.
    """
    try:
        import dimod
    except ImportError as error:
        raise ImportError(
            "to_bqm needs dimod, which cannot be imported: pip install 'ebm-jax[dimod]'"
        ) from error
    bias, coupling = fields_and_couplings(model, params)
    names = checked_labels(labels, model.graph.n_sites)
    linear = dict(zip(names, (-bias).tolist()))
    edges = model.graph.edges.tolist()
    quadratic = {(names[i], names[j]): value for (i, j), value in zip(edges, (-coupling).tolist())}
    return dimod.BinaryQuadraticModel(linear, quadratic, offset, "SPIN")  # pyright: ignore[reportAttributeAccessIssue]
