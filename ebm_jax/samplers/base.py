"""What every kernel has: many steps as a scan, a form for many chains, binding, and validation.

A kernel file defines `step`; the rest follows. A kernel with a faster way to run many steps of many chains
overrides `pack`, `unpack`, `packed_steps` and `packed_positions` instead of the driver knowing about it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from ebm_jax import checks
from ebm_jax.chains import chain_keys
from ebm_jax.types import Info, Key, PyTree

_MEMBERS = 0x6D656D62  # folded into a chain's key for the keys of a kernel's members


class ChainState(NamedTuple):
    """position: the configuration; clamped: bool mask shaped like it, or None; step: uint32 counter of steps taken."""

    position: PyTree
    clamped: PyTree | None
    step: jax.Array


class BoundKernel(NamedTuple):
    """A kernel with its parameters and β fixed, in the shape that BlackJAX's drivers expect."""

    init: Any
    step: Any


class Kernel:
    """Defaults of the `Kernel` protocol. States have a field `step`, the chain's uint32 step counter."""

    may_diverge = True
    """Whether a step can end with a NaN or infinite value; a driver need not look if not."""
    needs_model = False
    """Whether it asks more of its energy than to be a function."""
    memoryless = True
    """Whether a chain may be started anew from its position (and step) at any time without changing its law."""
    exact = True
    """Whether a step leaves p(x) ∝ exp(−β E(x)) invariant, apart from the resolution of its draws."""
    nonfinite_means = "held a NaN or infinite value"
    """What a step that `Info.n_nonfinite` counts did, for the error that reports it."""
    state_type: type | None = None
    """The class of the kernel's states; None where a run does not look."""

    def init(self, params: PyTree, x: PyTree, clamped: Any = None) -> ChainState:
        """Returns the state of a chain at `x`; `clamped=(mask, values)` fixes values where the mask is True."""
        del params
        position, mask = x, None
        if clamped is not None:
            mask, values = clamped
            position = jax.tree.map(jnp.where, mask, values, x)
        return ChainState(position, mask, jnp.zeros((), jnp.uint32))

    def step(self, key: Key, params: PyTree, beta: Any, state: Any) -> tuple[Any, Info]:
        """Takes one step; a kernel file defines it."""
        return self.steps(key, params, beta, state, 1)

    def steps(self, key: Key, params: PyTree, beta: Any, state: Any, n: int) -> tuple[Any, Info]:
        """Takes `n` steps as a scan of `step`; `beta` is a scalar or `(n,)`. Info adds up over the steps."""
        betas = jnp.broadcast_to(beta, (n,))

        def body(carry: tuple[Any, Info], b: jax.Array) -> tuple[tuple[Any, Info], None]:
            state, info = carry
            state, new = self.step(key, params, b, state)
            return (state, info.then(new)), None

        return jax.lax.scan(body, (state, Info.zero()), betas)[0]

    def position(self, state: Any) -> PyTree:
        """Returns the configuration that a state holds."""
        return state.position

    def energy_at(self, params: PyTree, state: Any) -> jax.Array:
        """Returns E(x; params), without β, of the configuration that a state holds."""
        return energy_of(self)(params, self.position(state))

    def check_state(self, state: Any) -> None:
        """Raises ValueError where a state with a chain axis is not one of this kernel's."""
        if jnp.ndim(state.step) != 1:
            raise ValueError(
                f"init is the state of chains of shape {jnp.shape(state.step)}; give states with one leading chain axis"
            )
        if self.state_type is not None and not isinstance(state, self.state_type):
            raise ValueError(
                f"init is a {type(state).__name__}, of another kernel; {type(self).__name__} goes on from a "
                f"{self.state_type.__name__}: give positions, or the state of a run of such a kernel"
            )

    def stationary(self, params: PyTree, draw: Callable[[Any], PyTree], beta: Any) -> Any:
        """Returns states of chains that are in equilibrium at `beta`; `draw(beta)` gives exact draws, chain axis
        first.
        """
        return jax.vmap(functools.partial(self.init, params))(draw(beta))

    def clamp(self, params: PyTree, state: Any, clamped: Any) -> Any:
        """Returns the state with `clamped=(mask, values)` in place of what was clamped, at the same step."""
        return self.init(params, self.position(state), clamped)._replace(step=state.step)

    def bind(self, params: PyTree, beta: Any = 1.0) -> BoundKernel:
        """Fixes parameters and β: returns `init(x, key=None) -> state` and `step(key, state) -> (state, info)`."""

        def init(x: PyTree, key: Key | None = None) -> Any:
            del key
            return self.init(params, x)

        def step(key: Key, state: Any) -> tuple[Any, Info]:
            return self.step(key, params, beta, state)

        return BoundKernel(init, step)

    def pack(self, params: PyTree, states: Any) -> Any:
        """Turns states with a leading chain axis into the form `packed_steps` runs on; here, themselves."""
        del params
        return states

    def unpack(self, packed: Any) -> Any:
        """The inverse of `pack`."""
        return packed

    def packed_steps(self, keys: Key, params: PyTree, beta: Any, packed: Any, n: int) -> tuple[Any, Info]:
        """Takes `n` steps of every chain; `beta` is a scalar, `(n,)`, or `(n, n_chains)`."""
        per_chain = 1 if jnp.ndim(beta) == 2 else None
        steps = lambda key, b, state: self.steps(key, params, b, state, n)  # noqa: E731
        return jax.vmap(steps, in_axes=(0, per_chain, 0))(keys, beta, packed)

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
        """Raises ValueError where parameters, chains `x` (leading chain axis) or clamping do not fit."""
        checks.check_finite("params", params)
        checks.check_finite("init", x)
        check_clamped(clamped, x)


class DiscreteKernelBase(Kernel):
    """Validation shared by the kernels of discrete models; they have a field `model`."""

    model: Any
    state_type = ChainState

    def init(self, params: PyTree, x: PyTree, clamped: Any = None) -> ChainState:
        """Returns the state of a chain at `x`; `clamped=(mask, values)` fixes values where the mask is True.

        Raises ValueError where the shape or dtype of `x` does not fit the model.
        """
        checks.check_struct("x", x, self.model.position_struct(), dtypes=self.model.position_dtypes)
        return super().init(params, x, clamped)

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Raises ValueError where parameters, chains `x` (leading chain axis) or clamping do not fit the model."""
        checks.check_struct("params", params, self.model.params_struct(), dtypes=checks.FLOATS)
        checks.check_struct(
            "init", x, self.model.position_struct(), leading=1, dtypes=self.model.position_dtypes
        )
        super().check(params, x, clamped)
        self._check_levels("init", x)
        if clamped is not None:
            self._check_levels("clamped values", clamped[1])

    def _check_levels(self, name: str, x: PyTree) -> None:
        counts = getattr(self.model, "level_counts", None)
        if counts is None:
            checks.check_levels(name, x, self.model.n_levels)
            return
        for number, (part, count) in enumerate(zip(x, counts, strict=True)):
            if count is not None:  # None: real numbers
                checks.check_levels(f"{name}[{number}]", part, count)


def energy_of(target: Any) -> Any:
    """Returns the function `energy(params, x)` of an energy, of a model, or of a kernel that moves by either.

    Raises ValueError on a kernel that has none.
    """
    for holder in (target, getattr(target, "model", None)):
        energy = getattr(holder, "energy", None)
        if energy is not None:
            return getattr(energy, "energy", energy)
    if isinstance(target, Kernel):
        raise ValueError(f"{type(target).__name__} holds no energy and no model that its steps follow")
    return target


def is_state(init: Any) -> bool:
    """Whether chains are given as the state of an earlier run, not as positions."""
    return hasattr(init, "step") and (hasattr(init, "position") or hasattr(init, "replicas"))


def start_chains(kernel: Any, params: PyTree, init: PyTree, clamped: Any) -> PyTree:
    """Returns states with a chain axis from positions or an earlier run's states; raises ValueError on what does not
    fit, before any work is done.
    """
    if jax.tree_util.all_leaves([kernel]):
        raise ValueError(
            f"{type(kernel).__name__} is no pytree, so compiled code cannot take it; make it a frozen dataclass with "
            "@jax.tree_util.register_dataclass"
        )
    if hasattr(init, "positions") and hasattr(init, "state"):
        raise ValueError("init is the Samples of an earlier run; give its .state")
    continued = is_state(init)
    if continued:
        kernel.check_state(init)
    positions = jax.vmap(kernel.position)(init) if continued else init
    leaves = jax.tree.leaves(positions)
    if not leaves or any(not hasattr(leaf, "shape") or len(leaf.shape) == 0 for leaf in leaves):
        raise ValueError(
            f"init is {type(init).__name__} without a chain axis; give positions of shape (n_chains, ...)"
        )
    sizes = {leaf.shape[0] for leaf in leaves}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"init has leading axes of length {sorted(sizes)}; give every leaf the same n_chains ≥ 1"
        )
    if clamped is not None:
        check_clamped(clamped, positions)
        clamped = jax.tree.map(
            lambda leaf, x: jnp.broadcast_to(leaf, x.shape), clamped, (positions, positions)
        )
    kernel.check(params, positions, clamped)
    if not continued:
        return jax.vmap(functools.partial(kernel.init, params))(positions, clamped)
    return init if clamped is None else jax.vmap(functools.partial(kernel.clamp, params))(init, clamped)


def member_keys(key: Key, n: int) -> Key:
    """Returns a key for each of n members of a kernel; a single member has the chain's own, and is the bare kernel.

    Several have keys of their own: one that kept the chain's would, if it had members itself, give them the same keys.
    """
    if n == 1:
        return key[None]
    return chain_keys(jax.random.fold_in(key, _MEMBERS), n)


def check_clamped(clamped: Any, x: PyTree) -> None:
    """Raises ValueError unless `clamped` is None or (mask, values) shaped like chains `x` or one of them."""
    if clamped is None:
        return
    if not isinstance(clamped, tuple) or len(clamped) != 2:
        raise ValueError(
            f"clamped is {type(clamped).__name__}; give (mask, values), both shaped like a position"
        )
    for name, tree in zip(("clamped mask", "clamped values"), clamped, strict=True):
        if jax.tree.structure(tree) != jax.tree.structure(x):
            raise ValueError(
                f"{name} has the structure {jax.tree.structure(tree)}; a position has {jax.tree.structure(x)}"
            )
        for leaf, chains in zip(jax.tree.leaves(tree), jax.tree.leaves(x), strict=True):
            dtype = jnp.dtype(jnp.bool_) if name == "clamped mask" else chains.dtype
            if getattr(leaf, "shape", None) not in (chains.shape, chains.shape[1:]):
                shape = getattr(leaf, "shape", type(leaf).__name__)
                raise ValueError(f"{name} has shape {shape}; expected {chains.shape[1:]} or {chains.shape}")
            if leaf.dtype != dtype:
                raise ValueError(f"{name} has dtype {leaf.dtype}; expected {dtype}: convert it with .astype")
    checks.check_finite("clamped values", clamped[1])


def with_automatic_axes(fun: Callable[..., PyTree], out: PyTree, *args: PyTree) -> PyTree:
    """Returns `fun(*args)`, with mesh axes of explicit type left to the compiler inside `fun`.

    Packing reshapes and pads the chain axis, which explicit axes refuse. out: the `PartitionSpec` of every result.
    """
    if not jax.sharding.get_abstract_mesh().explicit_axes:
        return fun(*args)
    return jax.sharding.auto_axes(fun, out_sharding=out)(*args)


def partitions(tree: PyTree) -> PyTree:
    """Returns the `PartitionSpec` of every leaf; one that names no axis where nothing is known."""
    return jax.tree.map(lambda leaf: getattr(jax.typeof(leaf).sharding, "spec", PartitionSpec()), tree)


def count_nonfinite(step: jax.Array, n: int, *inputs: PyTree) -> dict[str, jax.Array]:
    """Returns the `Info` counts of `n` steps from `step` on, none of them finite unless all `inputs` are.

    A discrete state is never NaN: what a caller's traced parameters did wrong shows only here.
    """
    # Nothing or NaN: a sum takes the CPU a third of the time of a look at each number.
    finite = jnp.isfinite(
        functools.reduce(jnp.add, [jnp.sum(leaf - leaf) for leaf in jax.tree.leaves(inputs)])
    )
    return {
        "n_nonfinite": jnp.where(finite, 0, n),
        "first_nonfinite": jnp.where(finite | (n == 0), -1, step_number(step + jnp.uint32(1))),
    }


def step_number(step: jax.Array) -> jax.Array:
    """Returns a step counter as int32, at most 2³¹ − 1."""
    return jnp.minimum(step, jnp.uint32(2**31 - 1)).astype(jnp.int32)
