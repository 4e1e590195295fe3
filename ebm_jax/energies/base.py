"""What the toolkit asks of energies and models: protocols, so that any object of the right shape will do."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float, Int

from ebm_jax.graphs.blocks import BlockSpec
from ebm_jax.types import Key, PyTree


class Energy(Protocol):
    """A pure function of parameters and one configuration: `energy(params, x) -> scalar`."""

    def __call__(self, params: PyTree, x: PyTree, /) -> Float[Array, ""]:
        """Returns E(x; params) of one configuration."""
        ...


@runtime_checkable
class Model(Protocol):
    """A frozen, value-hashed description of structure.

    Its numbers live in `params`.

    Example:
      >>> isinstance(ej.Ising(ej.Grid(2, 2)), ej.Model)
      True
    """

    def init(self, key: Key) -> PyTree:
        """Draws parameters."""
        ...

    def energy(self, params: PyTree, x: PyTree) -> Float[Array, ""]:
        """Returns E(x; params) of one configuration."""
        ...


@runtime_checkable
class BlockModel(Model, Protocol):
    """A model whose sites are drawn in blocks from their conditionals: what Gibbs sampling needs."""

    @property
    def graph(self) -> Any:
        """Which sites interact: `Grid`, `Graph` or `Bipartite`."""
        ...

    def default_spec(self) -> BlockSpec:
        """Returns the blocks that Gibbs sampling updates together when the caller names none."""
        ...

    def position_struct(self) -> PyTree:
        """Returns the `jax.ShapeDtypeStruct`s of one configuration."""
        ...

    def params_struct(self) -> PyTree:
        """Returns the `jax.ShapeDtypeStruct`s of the parameters."""
        ...


@runtime_checkable
class PairwiseModel(BlockModel, Protocol):
    """A model with parameters `(bias, coupling)` on the sites and edges of its graph, as Ising and Potts models have.

    Attributes:
      coupling: "tied", "edge" or "matrix": one number a direction of a grid (or one for a graph), one an edge, or a
        K×K table an edge.
      spins: True where E = −Σ b s − Σ J s s with s = ±1, stored as bool; False where E = −Σ b[x] − Σ w δ(x, x) or
        −Σ w[x, x] with levels x.
      n_levels: Levels of a site, K; 2 for spins.
    """

    coupling: Any
    spins: Any
    n_levels: Any


@runtime_checkable
class LayeredModel(BlockModel, Protocol):
    """A model of two layers on a `Bipartite` graph with parameters `(weights, visible_bias, hidden_bias)`: an RBM.

    Attributes:
      units: The kinds of units, visible and hidden: "binary", "spin", "categorical" or "gaussian".
      level_counts: Levels of a visible and of a hidden unit; None for real units.
    """

    units: Any
    level_counts: Any


@runtime_checkable
class DiscreteModel(BlockModel, Protocol):
    """A model whose sites all take the same finite number of levels: what enumeration needs."""

    @property
    def n_levels(self) -> int:
        """Levels of a site, K."""
        ...

    def levels(self, x: PyTree) -> Int[Array, " n_sites"]:
        """Returns the configuration as levels 0 … K−1 in the order of the graph's sites."""
        ...

    def from_levels(self, levels: Int[Array, " n_sites"]) -> PyTree:
        """The inverse of `levels`."""
        ...

    def conditional_logits(self, params: PyTree, x: PyTree) -> PyTree:
        """Returns log p(xᵢ = k | the rest) + constᵢ at β = 1, shaped like `x` with K values a site."""
        ...


def levels_of_sites(model: Any) -> tuple[int | None, ...] | None:
    """Returns how many levels each site has, in the order of `levels`: None for a real one.

    Args:
      model: A model. Where sites differ it has `site_levels`; otherwise all have its `n_levels`.

    Returns:
      The levels of every site, or None for a model whose configurations are not made of sites.
    """
    if not (isinstance(model, BlockModel) and hasattr(model, "from_levels")):
        return None
    counts = getattr(model, "site_levels", None)
    return (getattr(model, "n_levels", None),) * model.graph.n_sites if counts is None else counts


def levels_of_leaves(model: Any, x: PyTree) -> list[Any]:
    """Returns how many levels the sites of each leaf of a configuration have: None where they are real."""
    counts = getattr(model, "level_counts", None)
    return [getattr(model, "n_levels", None)] * len(jax.tree.leaves(x)) if counts is None else list(counts)
