"""What the toolkit asks of energies and models: protocols, so that any object of the right shape will do."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int

from ebm_jax.graphs.blocks import BlockSpec
from ebm_jax.types import Key, PyTree


class Energy(Protocol):
    """A pure function of parameters and one configuration: `energy(params, x) -> scalar`."""

    def __call__(self, params: PyTree, x: PyTree, /) -> Float[Array, ""]: ...


@runtime_checkable
class Model(Protocol):
    """A frozen, value-hashed description of structure; its numbers live in `params`."""

    def init(self, key: Key) -> PyTree:
        """Draws parameters."""
        ...

    def energy(self, params: PyTree, x: PyTree) -> Float[Array, ""]:
        """Returns E(x; params) of one configuration."""
        ...


@runtime_checkable
class BlockModel(Model, Protocol):
    """A model whose sites are drawn in blocks from their conditionals; what Gibbs sampling needs."""

    @property
    def graph(self) -> Any:
        """Which sites interact: `Grid`, `Graph` or `Bipartite`."""
        ...

    def default_spec(self) -> BlockSpec:
        """The blocks that Gibbs sampling updates together when the caller names none."""
        ...

    def position_struct(self) -> PyTree:
        """`jax.ShapeDtypeStruct`s of one configuration."""
        ...

    def params_struct(self) -> PyTree:
        """`jax.ShapeDtypeStruct`s of the parameters."""
        ...


@runtime_checkable
class DiscreteModel(BlockModel, Protocol):
    """A model whose sites all take the same finite number of levels; what enumeration needs."""

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
