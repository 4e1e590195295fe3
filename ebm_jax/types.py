"""The shapes that parts of the toolkit agree on: energies, models, kernels and what a step reports.

Everything else meets at these protocols: a sampler never imports an energy, nor an energy a sampler.
Sign convention, everywhere: p(x) ∝ exp(−β E(x; θ)), so a low energy is a likely configuration.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

if TYPE_CHECKING:
    from ebm_jax.blocks import BlockSpec

Key: TypeAlias = jax.Array
"""A typed random key, as `jax.random.key` makes it."""

PyTree: TypeAlias = Any
"""Any nesting of tuples, lists, dicts and registered classes with arrays as leaves."""


_FULL = np.uint32(2**32 - 1)


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


class Info(NamedTuple):
    """What a run of steps cost and how it went, a row a chain; counts add up over steps.

    n_steps: int32, steps taken. n_energy, n_gradient: int32, evaluations of the energy and of its gradient
    (Gibbs sampling needs neither). n_proposed, n_accepted: uint32, proposals of an accept/reject rule and those
    accepted; n_proposed stays at 2³² − 1 once it gets there, and the acceptance is then NaN. n_nonfinite: int32, steps
    that ended with a NaN or infinite value; of a discrete kernel, that ran with such parameters or β (of a cluster
    kernel, also with a field or with β J under 0); of MALA and HMC, that rejected a proposal for such an energy.
    first_nonfinite: int32, the chain's step counter after the first such step, −1 when there was none.
    """

    n_steps: Int[Array, "*batch"]
    n_energy: Int[Array, "*batch"]
    n_gradient: Int[Array, "*batch"]
    n_proposed: Int[Array, "*batch"]
    n_accepted: Int[Array, "*batch"]
    n_nonfinite: Int[Array, "*batch"]
    first_nonfinite: Int[Array, "*batch"]

    @classmethod
    def zero(cls) -> Info:
        """Returns the report of no step."""
        i, u = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.uint32)
        return cls(i, i, i, u, u, i, jnp.full((), -1, jnp.int32))

    @classmethod
    def of(cls, **counts: Any) -> Info:
        """Returns a report with the given counts and zero elsewhere."""
        zero = cls.zero()
        return zero._replace(**{k: jnp.asarray(v, getattr(zero, k).dtype) for k, v in counts.items()})

    @property
    def acceptance(self) -> Float[Array, "*batch"]:
        """n_accepted / n_proposed; NaN where nothing was proposed (Gibbs sampling), or 2³² − 1 times or more."""
        n = self.n_proposed
        return jnp.where((n > 0) & (n < _FULL), self.n_accepted / jnp.maximum(n, 1), jnp.nan)

    def then(self, later: Info) -> Info:
        """Returns the report of these steps followed by `later` ones."""
        first = jnp.where(self.first_nonfinite >= 0, self.first_nonfinite, later.first_nonfinite)
        summed = jax.tree.map(jnp.add, self, later)
        proposed = jnp.where(summed.n_proposed < self.n_proposed, _FULL, summed.n_proposed)
        return summed._replace(first_nonfinite=first, n_proposed=proposed)


class BoundKernel(NamedTuple):
    """A kernel with its parameters and β fixed, in the shape that BlackJAX's drivers expect."""

    init: Any
    step: Any


@runtime_checkable
class Kernel(Protocol):
    """A Markov transition on one chain, with a form for many chains side by side.

    A kernel is a frozen dataclass registered as a pytree: structure is static, numbers are leaves. A chain has one key
    that is passed unchanged at every step; its state carries the step counter, and every draw is a function of both.
    """

    @property
    def may_diverge(self) -> bool:
        """Whether a step can end with a NaN or infinite value; a driver need not look if not."""
        ...

    @property
    def exact(self) -> bool:
        """Whether a step leaves p(x) ∝ exp(−β E(x)) invariant, apart from the resolution of its draws."""
        ...

    @property
    def memoryless(self) -> bool:
        """Whether a chain may be started anew from its position at any time without changing its law."""
        ...

    def init(self, params: PyTree, x: PyTree, clamped: Any = None) -> PyTree:
        """Returns the state of a chain that stands at `x`, with `clamped=(mask, values)` applied."""
        ...

    def step(self, key: Key, params: PyTree, beta: Any, state: PyTree) -> tuple[PyTree, Info]:
        """Takes one step."""
        ...

    def steps(self, key: Key, params: PyTree, beta: Any, state: PyTree, n: int) -> tuple[PyTree, Info]:
        """Takes `n` steps; `beta` is a scalar or one value a step, shape `(n,)`."""
        ...

    def position(self, state: PyTree) -> PyTree:
        """Returns the configuration that the state holds."""
        ...

    def bind(self, params: PyTree, beta: Any = 1.0) -> BoundKernel:
        """Returns `init(x, key=None)` and `step(key, state)` with parameters and β fixed."""
        ...

    def pack(self, params: PyTree, states: PyTree) -> PyTree:
        """Turns states with a leading chain axis into the form that `packed_steps` runs on."""
        ...

    def unpack(self, packed: PyTree) -> PyTree:
        """The inverse of `pack`."""
        ...

    def packed_steps(
        self, keys: Key, params: PyTree, beta: Any, packed: PyTree, n: int
    ) -> tuple[PyTree, Info]:
        """Takes `n` steps of every chain; `keys` has a leading chain axis."""
        ...

    def packed_positions(self, packed: PyTree) -> PyTree:
        """Returns the configurations with a leading chain axis."""
        ...

    def energy_at(self, params: PyTree, state: PyTree) -> Array:
        """Returns E(x; params), without β, of the configuration that the state holds."""
        ...

    def packed_energies(self, params: PyTree, packed: PyTree) -> Array:
        """Returns E(x; params) of every chain, without β, `(n_chains,)`."""
        ...

    def stationary(self, params: PyTree, draw: Any, beta: Any) -> PyTree:
        """Returns states of chains in equilibrium, from `draw(beta)` that gives exact draws, chain axis first."""
        ...

    def clamp(self, params: PyTree, state: PyTree, clamped: Any) -> PyTree:
        """Returns the state with another clamping, at the same step."""
        ...

    def refresh(self, params: PyTree, packed: PyTree) -> PyTree:
        """Recomputes what a packed state caches of the parameters, after they have changed."""
        ...

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Raises `ValueError` where shapes, dtypes or concrete values do not fit this kernel."""
        ...


def count_parameters(params: PyTree) -> int:
    """Returns the number of scalars in a pytree of parameters.

    Example: a tied 28×28 grid of four levels has 28·28·4 + 2 = 3,138.
    """
    return sum(math.prod(getattr(leaf, "shape", ())) for leaf in jax.tree.leaves(params))
