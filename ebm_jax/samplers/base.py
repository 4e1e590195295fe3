"""The contract of a kernel, and the base class of kernels that take any energy.

A kernel file defines `step`. Everything else that a driver calls has a default here. A kernel with a faster way to run
many steps of many chains overrides `pack`, `unpack`, `packed_steps` and `packed_positions`.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ebm_jax import checks, functions
from ebm_jax.chains import chain_keys
from ebm_jax.types import Info, Key, PyTree

# Folded into a chain's key for the keys of a kernel's members.
_MEMBERS = 0x6D656D62


class ChainState(NamedTuple):
    """The state of a chain of a kernel that keeps nothing but the configuration.

    Attributes:
      position: The configuration.
      clamped: Bool mask shaped like it, or None.
      step: uint32 counter of steps taken.
      field: What the chain adds to the biases, shaped like them, or None. Only Gibbs kernels take it.
    """

    position: PyTree
    clamped: PyTree | None
    step: jax.Array
    field: PyTree | None = None


class BoundKernel(NamedTuple):
    """A kernel with its parameters and β fixed, in the shape that BlackJAX's drivers expect."""

    init: Any
    step: Any


class Kernel(abc.ABC):
    """A Markov kernel: the abstract base class of everything that `sample` and the other drivers run.

    A subclass is a frozen dataclass, registered as a pytree: structure is static metadata, numbers are leaves. A state
    is a NamedTuple with a field `step`, the chain's uint32 step counter. A subclass has these duties, which
    `ej.certify` tests:

    - It defines `step`, which returns the new state and its `Info`. The new state has the counter `state.step + 1`.
    - All randomness comes from `jax.random.fold_in(key, state.step)`, or from another function of the key, the step
      and the site. Drivers pass the same key at every step.
    - Sites under the mask `state.clamped` keep their values.
    - `init` makes the state of a chain and applies the clamping. The default makes a `ChainState`. A kernel whose
      state caches more overrides it.
    - If the energy is known, `energy_function` returns it. Tempering and `anneal` need it. In a kernel of one energy,
      write `energy_function = staticmethod(energy)`. A subclass of `EnergyKernel` has the field `energy` instead.

    β and the parameters are arguments of a step, so other values of them reuse the compiled program.

    Many chains run in the kernel's packed form: `pack`, then `packed_steps`, `packed_positions` and `packed_energies`,
    then `unpack`. By default it is the states themselves, and the methods of one chain are mapped over them.

    Attributes:
      may_diverge: Whether a step can end with a NaN or infinite value. If not, drivers need not look.
      memoryless: Whether a chain can be restarted from its position and step counter at any time without changing the
        distribution of its path. Other kernels can then move the same chain.
      exact: Whether a step leaves p(x) ∝ exp(−β E(x)) invariant, apart from the resolution of its draws.
      nonfinite_means: What a step that `Info.n_nonfinite` counts did, for the error that reports it.
      state_type: The class of the kernel's states, or None if drivers shall accept any.

    Example:
      >>> isinstance(ej.gibbs(ej.Ising(ej.Grid(2, 3))), ej.Kernel)
      True
    """

    may_diverge = True
    memoryless = True
    exact = True
    nonfinite_means = "held a NaN or infinite value"
    state_type: type | None = None

    @abc.abstractmethod
    def step(self, key: Key, params: PyTree, beta: Any, state: Any) -> tuple[Any, Info]:
        """Takes one step of one chain.

        Args:
          key: The chain's key, the same at every step.
          params: Parameters of the energy.
          beta: Inverse temperature, a scalar.
          state: The chain's state.

        Returns:
          The new state and the report of the step.
        """

    @property
    def energy_function(self) -> Callable[[PyTree, PyTree], jax.Array] | None:
        """The function E(x; params) of the distribution exp(−β E) that the steps sample; None if it is not known."""
        return None

    def init(self, params: PyTree, x: PyTree, clamped: Any = None) -> Any:
        """Returns the state of a chain at `x`; `clamped=(mask, values)` fixes values where the mask is True."""
        del params
        position, mask = x, None
        if clamped is not None:
            mask, values = clamped
            position = jax.tree.map(jnp.where, mask, values, x)
        return ChainState(position, mask, jnp.zeros((), jnp.uint32))

    def steps(self, key: Key, params: PyTree, beta: Any, state: Any, n: int) -> tuple[Any, Info]:
        """Takes `n` steps as a scan of `step`; `beta` is a scalar or `(n,)`. Info adds up over the steps."""
        betas = jnp.broadcast_to(beta, (n,))

        def scan_body(carry: tuple[Any, Info], b: jax.Array) -> tuple[tuple[Any, Info], None]:
            state, info = carry
            state, new = self.step(key, params, b, state)
            return (state, info.then(new)), None

        return jax.lax.scan(scan_body, (state, Info.zero()), betas)[0]

    def position(self, state: Any) -> PyTree:
        """Returns the configuration that a state holds."""
        return state.position

    def energy_at(self, params: PyTree, state: Any) -> jax.Array:
        """Returns E(x; params), without β, of the configuration that a state holds."""
        return known_energy(self)(params, self.position(state))

    def check_state(self, state: Any) -> None:
        """Checks that states with a leading chain axis are of this kernel.

        Raises:
          ValueError: If they are not.
        """
        if jnp.ndim(state.step) != 1:
            raise ValueError(
                f"init is the state of chains of shape {jnp.shape(state.step)}; give states with one leading chain axis"
            )
        if self.state_type is not None and not isinstance(state, self.state_type):
            raise ValueError(
                f"init is a {type(state).__name__}, of another kernel; {type(self).__name__} goes on from a "
                f"{self.state_type.__name__}: give positions, or the state of a run of such a kernel"
            )
        if getattr(state, "field", None) is not None:
            self.with_field(state, state.field)

    def stationary(self, params: PyTree, draw: Callable[[Any], PyTree], beta: Any) -> Any:
        """Returns states of chains in equilibrium at `beta`; `draw(beta)` gives exact draws, chain axis first."""
        return jax.vmap(functools.partial(self.init, params))(draw(beta))

    def clamp(self, params: PyTree, state: Any, clamped: Any) -> Any:
        """Returns the state with `clamped=(mask, values)` in place of what was clamped, at the same step."""
        return self.init(params, self.position(state), clamped)._replace(step=state.step)

    def with_field(self, states: Any, field: PyTree | None) -> Any:
        """Returns states, chain axis first or packed, of chains that add a field of their own to the biases.

        Args:
          states: The states, whose fields are replaced.
          field: Shaped like the biases with a chain axis first. `None` means no field.

        Raises:
          ValueError: If the kernel takes no field (here, always), or the field does not fit.
        """
        raise ValueError(
            f"{type(self).__name__} takes no field; use gibbs(model), or give every chain parameters of its own by "
            "jax.vmap over sample"
        )

    def bind(self, params: PyTree, beta: Any = 1.0) -> BoundKernel:
        """Fixes parameters and β: returns `init(x, key=None) -> state` and `step(key, state) -> (state, info)`."""

        def init(x: PyTree, key: Key | None = None) -> Any:
            del key
            return self.init(params, x)

        def step(key: Key, state: Any) -> tuple[Any, Info]:
            return self.step(key, params, beta, state)

        return BoundKernel(init, step)

    def pack(self, params: PyTree, states: Any) -> Any:
        """Turns states with a leading chain axis into the form that `packed_steps` runs on; here, themselves."""
        del params
        return states

    def unpack(self, packed: Any) -> Any:
        """The inverse of `pack`."""
        return packed

    def packed_steps(self, keys: Key, params: PyTree, beta: Any, packed: Any, n: int) -> tuple[Any, Info]:
        """Takes `n` steps of every chain; `beta` is a scalar, `(n,)`, or `(n, n_chains)`."""
        per_chain = 1 if jnp.ndim(beta) == 2 else None

        def steps(key: Key, b: Any, state: Any) -> tuple[Any, Info]:
            return self.steps(key, params, b, state, n)

        return jax.vmap(steps, in_axes=(0, per_chain, 0))(keys, beta, packed)

    def stepper(self, keys: Key, params: PyTree, beta: jax.Array, packed: Any) -> Callable[..., Any]:
        """Returns `(beta, packed, n) -> (packed, info)`: `packed_steps` for many calls in a row of the same chains.

        A kernel may compute here once what does not change between the calls.

        Args:
          keys: A key for each chain.
          params: Parameters of the energy.
          beta: A scalar that every call is given, or an array from which each call is given some entries.
          packed: The chains before the first call.
        """
        del beta, packed
        return functools.partial(self.packed_steps, keys, params)

    def packed_positions(self, packed: Any) -> PyTree:
        """Returns the configurations with a leading chain axis."""
        return jax.vmap(self.position)(packed)

    def packed_energies(self, params: PyTree, packed: Any) -> jax.Array:
        """Returns E(x; params) of every chain, without β, `(n_chains,)`."""
        return jax.vmap(self.energy_at, (None, 0))(params, self.unpack(packed))

    def refresh(self, params: PyTree, packed: Any) -> Any:
        """Recomputes what a packed state caches of the parameters, after they have changed; here, nothing."""
        del params
        return packed

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Checks parameters, chains and clamping before a run.

        Args:
          params: Parameters of the energy.
          x: Positions with a leading chain axis.
          clamped: `(mask, values)` of the same shapes, or None.

        Raises:
          ValueError: If they do not fit the kernel.
        """
        checks.check_finite("params", params)
        checks.check_finite("init", x)
        checks.check_clamped(clamped, x)


class EnergyKernel(Kernel):
    """A kernel that takes any energy, its field `energy`: a function `energy(params, x)` or a model that has one."""

    energy: Any

    @property
    def energy_function(self) -> Callable[[PyTree, PyTree], jax.Array] | None:
        """The function E(x; params); None for a kernel that was built without one."""
        return None if self.energy is None else energy_of(self.energy)

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Checks chains `x` (leading chain axis) and clamping, and that the energy is a scalar.

        Raises:
          ValueError: If they do not fit.
        """
        super().check(params, x, clamped)
        functions.check_gives_scalar(known_energy(self), params, one_of_chains(x))


def energy_of(energy: Any) -> Any:
    """Returns the function `energy(params, x)` of a model, or the function itself."""
    return getattr(energy, "energy", energy)


def check_energy(energy: Any) -> None:
    """Checks that `energy` is a function or a model.

    Raises:
      ValueError: If it is neither.
    """
    if not callable(energy_of(energy)):
        raise ValueError(f"energy is {energy!r}; give a function energy(params, x) or a model that has one")
    functions.check_energy_function("energy", energy_of(energy))


def check_precision(name: str, energy: Any) -> None:
    """Checks that an energy is precise enough for decisions that hang on differences of energies.

    Raises:
      ValueError: If its dtype is a float of fewer than 32 bits.
    """
    dtype = jnp.result_type(energy)
    if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32:
        raise ValueError(
            f"{name} has dtype {dtype}, too narrow to decide by differences of energies; sum it in float32: cast its "
            "terms with .astype(jnp.float32) before they are summed"
        )


def one_of_chains(x: PyTree) -> PyTree:
    """Returns the shapes and dtypes of one configuration, from positions with a leading chain axis."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), x)


def known_energy(kernel: Kernel) -> Callable[[PyTree, PyTree], jax.Array]:
    """Returns the energy function of a kernel.

    Raises:
      ValueError: If it has none.
    """
    if kernel.energy_function is None:
        raise ValueError(
            f"{type(kernel).__name__} holds no energy and no model that its steps follow; "
            "give the class an `energy_function`"
        )
    return kernel.energy_function


def member_keys(key: Key, n: int) -> Key:
    """Returns a key for each of n members of a kernel.

    A single member has the chain's own key, and runs as the bare kernel. Several have keys of their own: one that kept
    the chain's key would, if it had members itself, give them the same keys.
    """
    if n == 1:
        return key[None]
    return chain_keys(jax.random.fold_in(key, _MEMBERS), n)


def step_number(step: jax.Array) -> jax.Array:
    """Returns a step counter as int32, at most 2³¹ − 1."""
    return jnp.minimum(step, jnp.uint32(2**31 - 1)).astype(jnp.int32)
