"""Kernels made of kernels.

Kernels K₁ … K_m that leave one law invariant leave it so in turn (`cycle`), and when one of them is picked at random
with fixed probabilities (`mixture`; Tierney 1994, sec. 2.4). All follow exp(−β E) at one β.

A composed state is the configuration alone. What a kernel keeps between steps (MALA and HMC their gradient) belongs to
a position that another kernel then moves, so it is computed anew at every step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import checks, rng
from ebm_jax.samplers.base import ChainState, Kernel, member_keys
from ebm_jax.samplers.discrete import DiscreteKernel
from ebm_jax.samplers.start import check_kernel
from ebm_jax.types import Info, Key, PyTree

# Folded into a chain's key for the choice of a mixture; its kernels fold in their number.
_PICK = 0x7069636B


class ComposedKernel(Kernel):
    """What compositions share: members, and a state that is a position."""

    kernels: tuple[Any, ...]
    state_type = ChainState

    @property
    def may_diverge(self) -> bool:
        """Whether any of the kernels may."""
        return any(kernel.may_diverge for kernel in self.kernels)

    @property
    def exact(self) -> bool:
        """Whether all of the kernels are."""
        return all(kernel.exact for kernel in self.kernels)

    @property
    def energy_function(self) -> Callable[[PyTree, PyTree], jax.Array] | None:
        """The energy of the first kernel; all have to follow the same."""
        return self.kernels[0].energy_function

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Checks the arguments by each of the kernels.

        Raises:
          ValueError: If any of them does.
        """
        for kernel in self.kernels:
            kernel.check(params, x, clamped)


@functools.partial(jax.tree_util.register_dataclass, data_fields=("kernels",), meta_fields=())
@dataclass(frozen=True, eq=False)
class Cycle(ComposedKernel):
    """The kernel that `cycle` builds."""

    kernels: tuple[Any, ...]

    def step(self, key: Key, params: PyTree, beta: Any, state: ChainState) -> tuple[ChainState, Info]:
        """Takes a step of every kernel, in order."""
        keys = member_keys(key, len(self.kernels))
        position, report = state.position, Info.zero()
        for number, kernel in enumerate(self.kernels):
            position, info = step_from(kernel, keys[number], params, beta, state, position, state.clamped)
            report = report.then(info)
        return stepped(state, position), as_one_step(report)


def cycle(kernels: Sequence[Any]) -> Cycle:
    """Builds the kernel that takes a step of each of several kernels in turn.

    One step is a whole round. It leaves the law invariant that all kernels leave invariant (Tierney 1994); a cycle of
    reversible kernels is not reversible itself. A local kernel with a rare global one is the classic use:
    `cycle([gibbs(model)] * 10 + [swendsen_wang(model)])`.

    Args:
      kernels: Kernels of the same energy and kind of configuration. Repeat one to take several of its steps. Energies
        given as functions are not compared: if they differ, the invariant law is none of theirs.

    Returns:
      A `Kernel` for `sample`.

    Raises:
      ValueError: If there is no kernel, kernels have different models, or the chains of one are more than a position
        (parallel tempering).

    Example:
      >>> model = ej.Ising(ej.Grid(3, 4))
      >>> kernel = ej.cycle([ej.gibbs(model), ej.metropolis(model)])
      >>> start = ej.init_chains(jax.random.key(0), model, 2)
      >>> params = model.init(jax.random.key(1))
      >>> ej.sample(jax.random.key(2), kernel, params, start, ej.SamplingSchedule(10, 1)).info.n_proposed
      Array([120, 120], dtype=uint32)
    """
    return Cycle(_of_one_model(checked_members("kernels", kernels)))


@functools.partial(jax.tree_util.register_dataclass, data_fields=("kernels", "probabilities"), meta_fields=())
@dataclass(frozen=True, eq=False)
class Mixture(ComposedKernel):
    """The kernel that `mixture` builds."""

    kernels: tuple[Any, ...]
    probabilities: Any

    def step(self, key: Key, params: PyTree, beta: Any, state: ChainState) -> tuple[ChainState, Info]:
        """Takes a step of one kernel, picked at random."""
        words = rng.chain_words(jax.random.fold_in(key, _PICK))
        word, _ = rng.threefry2x32(words[0], words[1], state.step, state.step)
        edges = jnp.cumsum(jax.lax.stop_gradient(self.probabilities))[:-1]
        pick = jnp.sum(rng.uniform(word) >= edges)
        keys = member_keys(key, len(self.kernels))
        # All steps are taken and one is kept: a `switch` on each chain's own number would map parameters and tables.
        taken = [
            step_from(kernel, keys[number], params, beta, state, state.position, state.clamped)
            for number, kernel in enumerate(self.kernels)
        ]

        def picked(*leaves: Any) -> jax.Array:
            return jnp.stack([jnp.asarray(leaf) for leaf in leaves])[pick]

        position, info = jax.tree.map(picked, *taken)
        return stepped(state, position), as_one_step(info)

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Checks the arguments by each of the kernels, and the probabilities.

        Raises:
          ValueError: If any of the kernels does, or the numbers are no probabilities.
        """
        _check_probabilities(self.probabilities, len(self.kernels))
        super().check(params, x, clamped)


def mixture(kernels: Sequence[Any], probabilities: Any) -> Mixture:
    """Builds the kernel that takes a step of one of several kernels, picked at random.

    Number i is picked with probability `probabilities[i]`, to 2⁻²⁴, for each chain and step and whatever the
    configuration (Tierney 1994). Reversible kernels make a reversible mixture. Chains that run side by side compute all
    kernels and keep one result each, so a mixture costs as much as a `cycle`.

    Args:
      kernels: As for `cycle`.
      probabilities: Shape `(len(kernels),)`, sum 1. New ones do not compile anew.

    Returns:
      A `Kernel` for `sample`.

    Raises:
      ValueError: If the numbers are no probabilities, and as for `cycle`.

    Example:
      >>> energy = lambda params, x: (x**2).sum() / 2
      >>> kernel = ej.mixture([ej.mala(energy, 1.0), ej.hmc(energy, 0.3, 4)], [0.8, 0.2])
      >>> samples = ej.sample(jax.random.key(0), kernel, None, jnp.zeros((4, 3)), ej.SamplingSchedule(10, 5, 10))
      >>> samples.positions.shape
      (5, 4, 3)
    """
    members = _of_one_model(checked_members("kernels", kernels))
    numbers = jnp.asarray(probabilities, jnp.float32)
    _check_probabilities(numbers, len(members))
    return Mixture(members, numbers)


def step_from(
    kernel: Any, key: Key, params: PyTree, beta: Any, state: ChainState, x: PyTree, mask: PyTree
) -> tuple[PyTree, Info]:
    """Returns where one step of `kernel` leads from `x`, and its report."""
    start = kernel.init(params, x, None if mask is None else (mask, x))._replace(step=state.step)
    end, info = kernel.step(key, params, beta, start)
    return kernel.position(end), info


def stepped(state: ChainState, position: PyTree) -> ChainState:
    """Returns the state one step later, at `position`."""
    return ChainState(position, state.clamped, state.step + jnp.uint32(1))


def as_one_step(report: Info) -> Info:
    """Returns a report of several kernels' steps as that of one step."""
    bad = (report.n_nonfinite > 0).astype(jnp.int32)
    return report._replace(n_steps=jnp.ones((), jnp.int32), n_nonfinite=bad)


def checked_members(name: str, kernels: Any) -> tuple[Any, ...]:
    """Returns the members of a composed kernel as a tuple.

    Raises:
      ValueError: If there is none, or one is no kernel or keeps more than a position.
    """
    if not isinstance(kernels, Sequence) or not kernels:
        given = "empty" if isinstance(kernels, Sequence) else f"a {type(kernels).__name__}"
        raise ValueError(f"{name} is {given}; give a list of at least one kernel")
    for kernel in kernels:
        check_kernel(kernel, f"a member of {name}")
        if not kernel.memoryless:
            raise ValueError(
                f"{type(kernel).__name__} keeps more than a position and cannot be a part of another kernel; "
                "compose what it is made of instead"
            )
    return tuple(kernels)


def _of_one_model(kernels: tuple[Any, ...]) -> tuple[Any, ...]:
    models = [kernel.model for kernel in kernels if isinstance(kernel, DiscreteKernel)]
    for model in models[1:]:
        if model != models[0]:
            raise ValueError(
                f"kernels follow different models, {models[0]!r} and {model!r}; no law is invariant under both"
            )
    return kernels


def _check_probabilities(probabilities: Any, n: int) -> None:
    if jnp.shape(probabilities) != (n,):
        raise ValueError(f"probabilities has shape {jnp.shape(probabilities)}; give one a kernel, ({n},)")
    if checks.is_concrete(probabilities):
        values = np.asarray(probabilities, np.float64)
        if not (values >= 0).all() or abs(values.sum() - 1) > 1e-5:
            raise ValueError(
                f"probabilities is {values.tolist()}, sum {values.sum():g}; give numbers of at least 0 that add up to 1"
            )
