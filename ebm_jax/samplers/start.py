"""How chains begin: positions drawn for them, checked arguments, states of positions, packed chains."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ebm_jax import arrays, checks, rng
from ebm_jax.chains import chain_keys, count_chains, strongly_typed, zero_info
from ebm_jax.energies.base import DiscreteModel
from ebm_jax.functions import shown
from ebm_jax.graphs.blocks import SamplingSchedule
from ebm_jax.samplers.base import Kernel
from ebm_jax.types import Info, Key, PyTree

# Samples of fewer bytes fit anywhere.
_WORTH_TRACING = 2**26
# `Info` counts steps in int32, and so do the loops.
_MAX_STEPS = 2**31


def init_chains(key: Key, model: Any, n_chains: int) -> PyTree:
    """Draws configurations with independent uniform levels, to start chains from.

    Args:
      key: A typed key.
      model: A discrete model. Units that are real numbers are drawn from N(0, 1).
      n_chains: At least 1.

    Returns:
      Positions with a leading chain axis.

    Raises:
      ValueError: If the model is not discrete, or `n_chains` is less than 1 or too large for the memory.

    Example:
      >>> ej.init_chains(jax.random.key(0), ej.Ising(ej.Grid(3, 4)), 16).shape
      (16, 3, 4)
    """
    checks.check_key(key)
    checks.check_integer("n_chains", n_chains, 1)
    if not hasattr(model, "draw_position") and not isinstance(model, DiscreteModel):
        raise ValueError(f"{shown(model)} has no discrete levels; start its chains from arrays of your own")
    if hasattr(model, "position_struct"):
        checks.check_chains_fit(n_chains, model.position_struct())
    return _draw_positions(model, key, n_chains)


# Compiled as a whole: its operations one by one would be a dozen programs for every shape.
@functools.partial(jax.jit, static_argnums=(0, 2))
def _draw_positions(model: Any, key: Key, n_chains: int) -> PyTree:
    if hasattr(model, "draw_position"):
        return jax.vmap(model.draw_position)(jax.random.split(key, n_chains))
    words = jax.random.bits(key, (n_chains, model.graph.n_sites), jnp.uint32)
    levels = rng.below(words, model.n_levels).astype(jnp.int32)
    return jax.vmap(model.from_levels)(levels)


def begin(
    key: Key, kernel: Any, params: PyTree, init: PyTree, clamped: Any, field: Any = None
) -> tuple[PyTree, PyTree]:
    """Checks the arguments that all drivers share, before any work is done.

    Args:
      key: A single typed key.
      kernel: A kernel.
      params: Parameters of its energy.
      init: Positions with a leading chain axis, or the states of an earlier run.
      clamped: `(mask, values)`, or None.
      field: What each chain adds to the biases, or None.

    Returns:
      Parameters and the states of the chains, in dtypes that compile once.

    Raises:
      ValueError: If anything does not fit.
    """
    checks.check_key(key)
    check_kernel(kernel)
    states = start_chains(kernel, params, init, clamped)
    states = states if field is None else kernel.with_field(states, field)
    return strongly_typed((params, states))


def pack_chains(key: Key, kernel: Kernel, params: PyTree, states: PyTree) -> tuple[Key, PyTree, Info]:
    """Returns the chains' keys, their packed states, up to date with the parameters, and reports of no step."""
    keys, info = _keys_and_info(key, count_chains(states))
    return keys, kernel.refresh(params, _pack(kernel, params, states)), info


# Compiled as a whole although no kernel compiles itself: eager operations compile one by one, forty of them for a new
# shape of chains. `refresh` stays eager, since a fused energy is rounded in another way.
@jax.jit
def _pack(kernel: Kernel, params: PyTree, states: PyTree) -> PyTree:
    return kernel.pack(params, states)


@jax.jit
def unpack_chains(kernel: Kernel, packed: PyTree) -> PyTree:
    """Returns the states of packed chains, chain axis first."""
    return kernel.unpack(packed)


@functools.partial(jax.jit, static_argnums=1)
def _keys_and_info(key: Key, n_chains: int) -> tuple[Key, Info]:
    return chain_keys(key, n_chains), zero_info(n_chains)


def check_kernel(kernel: Any, name: str = "kernel") -> Kernel:
    """Returns `kernel` if it is one.

    Raises:
      ValueError: If it is not.
    """
    if not isinstance(kernel, Kernel):
        raise ValueError(f"{name} is {kernel!r}; give a kernel, e.g. gibbs(model)")
    return kernel


def start_chains(kernel: Any, params: PyTree, init: PyTree, clamped: Any) -> PyTree:
    """Returns states with a chain axis from positions or from an earlier run's states.

    Raises:
      ValueError: If anything does not fit.
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
    else:
        init = _as_positions(kernel, init)
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
        checks.check_clamped(clamped, positions)
        clamped = jax.tree.map(
            lambda leaf, x: jnp.broadcast_to(leaf, x.shape), clamped, (positions, positions)
        )
    kernel.check(params, positions, clamped)
    if not continued:
        return jax.vmap(functools.partial(kernel.init, params))(positions, clamped)
    return init if clamped is None else jax.vmap(functools.partial(kernel.clamp, params))(init, clamped)


def _as_positions(kernel: Any, init: PyTree) -> PyTree:
    """Returns positions as the arrays that they are meant as, see `arrays.to_arrays`."""
    model: Any = getattr(kernel, "model", None)
    if not hasattr(model, "position_struct"):
        return arrays.to_arrays("init", init)
    dtypes = getattr(model, "position_dtypes", None) or frozenset()
    return arrays.to_arrays("init", init, model.position_struct(), dtypes)


def check_size(
    kernel: Kernel, params: PyTree, states: PyTree, schedule: SamplingSchedule, observe: Any, stored: bool
) -> None:
    """Checks that the samples of a run fit in memory, and that its steps can be counted.

    Args:
      kernel: The kernel.
      params: Parameters of its energy.
      states: States of the chains, chain axis first.
      schedule: The schedule.
      observe: None, or a function of the parameters and a position whose results are stored.
      stored: Whether positions and observations are stored.

    Raises:
      ValueError: If not.
    """
    # What a sample takes is known by tracing alone, which costs little beside a run of this size.
    if checks.is_concrete(states) and schedule.n_samples * checks.count_bytes(states) > _WORTH_TRACING:
        # Every sample has a β of its own in the loop.
        n_bytes = 4
        if stored:
            positions = jax.eval_shape(jax.vmap(kernel.position), states)
            n_bytes += checks.count_bytes(positions)
        if stored and observe is not None:
            n_bytes += checks.count_bytes(jax.eval_shape(jax.vmap(observe, (None, 0)), params, positions))
        what = f"{schedule.n_samples} samples of {count_chains(states)} chains"
        remedy = "lower n_samples, or reduce them by an Observer as they come"
        checks.check_fits(what, schedule.n_samples * n_bytes, remedy)
    if schedule.n_steps >= _MAX_STEPS:
        raise ValueError(
            f"the schedule has {schedule.n_steps} steps, and a run counts fewer than 2³¹: take several, each with "
            "init=samples.state of the one before"
        )


def is_state(init: Any) -> bool:
    """Returns whether chains are given as the state of an earlier run, not as positions."""
    return hasattr(init, "step") and (hasattr(init, "position") or hasattr(init, "replicas"))
