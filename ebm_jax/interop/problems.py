"""What bridges return: graphs with weights, and Ising problems with the constant that a conversion leaves over."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ebm_jax.checks import FLOATS, check_finite, check_struct
from ebm_jax.energies.ising import Ising, IsingParams
from ebm_jax.graphs import Graph
from ebm_jax.graphs.grids import edge_directions


class WeightedGraph(NamedTuple):
    """A graph whose edges have weights.

    Attributes:
      graph: The graph.
      weights: float64, one an edge.
      labels: The label that each site has in the source.
    """

    graph: Graph
    weights: Float[np.ndarray, " n_edges"]
    labels: tuple[Any, ...]


class IsingProblem(NamedTuple):
    """An Ising model, so that the energy of the source is `model.energy(params, s) + offset`.

    Attributes:
      model: The model, with one coupling an edge.
      params: Its parameters.
      offset: The constant.
      labels: The label that each site has in the source.
    """

    model: Ising
    params: IsingParams
    offset: float
    labels: tuple[Any, ...]


def problem_of(graph: Graph, bias: Any, coupling: Any, offset: Any, labels: tuple[Any, ...]) -> IsingProblem:
    """Returns the problem of float64 fields and couplings; raises ValueError where a number is not finite."""
    params = IsingParams(jnp.asarray(bias, float), jnp.asarray(coupling, float))
    check_finite("params", params)
    if not np.isfinite(offset):
        raise ValueError(f"offset is {offset}; give a finite number")
    return IsingProblem(Ising(graph), params, float(offset), labels)


def fields_and_couplings(model: Ising, params: IsingParams) -> tuple[np.ndarray, np.ndarray]:
    """Returns the float64 field of every site and coupling of every edge, tied ones written out.

    Args:
      model: An Ising model.
      params: Its parameters.

    Returns:
      Arrays `(n_sites,)` and `(n_edges,)`.

    Raises:
      ValueError: If the model is no Ising model, or the parameters do not fit it.
    """
    if not isinstance(model, Ising):
        raise ValueError(f"model is {model!r}; give an Ising model")
    check_struct("params", params, model.params_struct(), dtypes=FLOATS)
    check_finite("params", params)
    bias, coupling = (np.asarray(leaf, np.float64) for leaf in params)
    if model.coupling == "tied":
        coupling = coupling.reshape(-1)[edge_directions(model.graph)]
    return np.broadcast_to(bias, model.graph.shape).reshape(-1), coupling


def checked_labels(labels: Any, n_sites: int) -> tuple[Any, ...]:
    """Returns one label a site, the sites' numbers for None; raises ValueError where they do not fit."""
    if labels is None:
        return tuple(range(n_sites))
    named = tuple(labels)
    if len(named) != n_sites or len(set(named)) != n_sites:
        raise ValueError(
            f"labels are {len(named)}, {len(set(named))} of them different; give {n_sites} different ones, one a site"
        )
    return named
