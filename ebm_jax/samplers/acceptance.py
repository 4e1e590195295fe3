"""What kernels share that propose a configuration and accept or reject it, whatever they move."""

from __future__ import annotations

import abc
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import checks, rng
from ebm_jax.chains import select
from ebm_jax.samplers.base import Kernel, check_precision, known_energy, step_number
from ebm_jax.samplers.continuous import ContinuousKernel, check_scale, zero_where
from ebm_jax.types import Info, Key, PyTree


class CachedState(NamedTuple):
    """A chain of a kernel that accepts or rejects: its position, and what the next step needs of it.

    Attributes:
      position: The configuration.
      clamped: Bool mask shaped like it, or None.
      step: uint32 counter of steps taken.
      energy: E at the position, without β.
      gradient: ∇E at the position, without β, zero where clamped.
      digest: Two uint32 words of the parameters that energy and gradient belong to.
    """

    position: PyTree
    clamped: PyTree | None
    step: jax.Array
    energy: jax.Array
    gradient: PyTree
    digest: jax.Array


class AcceptRejectKernel(Kernel):
    """A kernel with an accept/reject rule; subclasses define `evaluate` and `step_with_acceptance`.

    A step keeps E and ∇E for the next one. A proposal whose energy or momentum is not finite is rejected and counted in
    `Info.n_nonfinite`, so that a chain that starts at finite numbers stays there. Steps have no derivatives:
    parameters, β and the kernel's numbers enter behind `stop_gradient`.

    Attributes:
      tunable: Whether the kernel has a field `step_size`, which `warm_up` tunes.
      target_acceptance: The rate of acceptance that `warm_up` aims at when the caller names none.
      largest_step_size: Where `warm_up` stops if the acceptance stays above its target.
    """

    step_size: Any
    may_diverge = False
    state_type = CachedState
    tunable = True
    target_acceptance = 0.8
    largest_step_size = float("inf")

    @abc.abstractmethod
    def evaluate(self, params: PyTree, x: PyTree, mask: PyTree | None) -> tuple[jax.Array, PyTree]:
        """Returns E(x) and its gradient, zero where `mask` is True."""

    @abc.abstractmethod
    def step_with_acceptance(
        self, key: Key, params: PyTree, beta: Any, state: CachedState
    ) -> tuple[CachedState, Info, jax.Array]:
        """Takes one step; also returns the probability with which the proposal was accepted."""

    def init(self, params: PyTree, x: PyTree, clamped: Any = None) -> CachedState:
        """Returns the state of a chain at `x`; `clamped=(mask, values)` fixes values where the mask is True."""
        position, mask, step, _ = super().init(params, x, clamped)
        return CachedState(position, mask, step, *_evaluate_with_digest(self, params, position, mask))

    def step(self, key: Key, params: PyTree, beta: Any, state: CachedState) -> tuple[CachedState, Info]:
        """Takes one step from what the state holds of the parameters: after they changed, call `refresh` first."""
        state, info, _ = self.step_with_acceptance(key, params, beta, state)
        return state, info

    def energy_at(self, params: PyTree, state: CachedState) -> jax.Array:
        """Returns the energy that the state keeps."""
        del params
        return state.energy

    def refresh(self, params: PyTree, packed: CachedState) -> CachedState:
        """Recomputes energies and gradients if the parameters are not those that they were computed with.

        Otherwise they stay, and with them the bits of a run that goes on. Energies that disagree with the position
        (another energy function, a position set by hand) are recomputed as well.
        """
        evaluate = jax.vmap(functools.partial(_evaluate_with_digest, self, params), out_axes=(0, 0, None))
        energy, gradient, digest = evaluate(packed.position, packed.clamped)
        close = jnp.isclose(packed.energy, energy, rtol=1e-3, atol=1e-3, equal_nan=True)
        keep = (packed.digest == digest[None]).all(axis=-1) & close
        return packed._replace(
            energy=select(keep, packed.energy, energy),
            gradient=select(keep, packed.gradient, gradient),
            digest=jnp.broadcast_to(digest, packed.digest.shape),
        )

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Checks the step size, positions, and that the energy is finite where chains start.

        Raises:
          ValueError: If they do not fit.
        """
        if self.tunable:
            check_scale("step_size", self.step_size, positive=True)
        super().check(params, x, clamped)
        if clamped is not None:
            x = jax.tree.map(lambda mask, value, x: jnp.where(mask, value, x), *clamped, x)
        check_energies(
            known_energy(self), params, x, "from where nothing is accepted; start where the energy is finite"
        )

    def decide(
        self,
        state: CachedState,
        word: jax.Array,
        log_ratio: jax.Array,
        proposal: tuple[PyTree, jax.Array, PyTree],
        finite: jax.Array,
        n_gradient: Any,
    ) -> tuple[CachedState, Info, jax.Array]:
        """Accepts a proposal with probability min(1, exp(log_ratio)), to 2⁻²⁴.

        Args:
          state: The chain's state.
          word: A random word.
          log_ratio: The logarithm of the ratio of acceptance.
          proposal: Position, energy and gradient.
          finite: Whether the proposal may be accepted at all.
          n_gradient: How many gradients it took.

        Returns:
          The new state, the report of the step, and the probability.
        """
        probability = jnp.where(finite, jnp.exp(jnp.minimum(log_ratio, 0.0)), 0.0)
        # Compared as logarithms: the compiler stores a logarithm, and would draw a plain uniform for each reader again.
        threshold = jnp.log(rng.uniform(word) + np.float32(2.0**-25))
        accept = finite & (threshold < log_ratio)
        position, energy, gradient = jax.tree.map(
            lambda new, old: jnp.where(accept, new, old),
            proposal,
            (state.position, state.energy, state.gradient),
        )
        step = state.step + jnp.uint32(1)
        info = Info.of(
            n_steps=1,
            n_energy=1,
            n_gradient=n_gradient,
            n_proposed=1,
            n_accepted=accept,
            n_nonfinite=~finite,
            first_nonfinite=jnp.where(finite, -1, step_number(step)),
        )
        state = CachedState(position, state.clamped, step, energy, gradient, state.digest)
        return state, info, probability


class AdjustedKernel(AcceptRejectKernel, ContinuousKernel):
    """A kernel that moves floating-point arrays along the gradient of an energy, and accepts or rejects."""

    dtypes = checks.FLOATS

    def evaluate(self, params: PyTree, x: PyTree, mask: PyTree | None) -> tuple[jax.Array, PyTree]:
        """Returns E(x) and ∇E(x), the gradient zero where `mask` is True."""
        energy, gradient = jax.value_and_grad(known_energy(self), argnums=1)(params, x)
        return energy, zero_where(mask, gradient)


@jax.jit
def _evaluate_with_digest(
    kernel: AcceptRejectKernel, params: PyTree, x: PyTree, mask: PyTree | None
) -> tuple[jax.Array, PyTree, jax.Array]:
    """Returns E, ∇E and the parameters' digest. Compiled, since drivers start chains eagerly."""
    energy, gradient = kernel.evaluate(params, x, mask)
    check_precision("energy", energy)
    return energy, gradient, digest_of(params)


def check_energies(energy: Any, params: PyTree, x: PyTree, remedy: str) -> None:
    """Checks that the energies of chains `x` are finite, where values can be looked at.

    Raises:
      ValueError: If one is not; the message ends with `remedy`.
    """
    if not checks.is_concrete((params, x)):
        return
    energies = np.asarray(jax.vmap(energy, (None, 0))(params, x))
    bad = np.flatnonzero(~np.isfinite(energies))
    if bad.size:
        raise ValueError(
            f"chain {bad[0]} starts where its energy is {energies[bad[0]]} ({bad.size} of {energies.size} chains do "
            f"so), {remedy}"
        )


def digest_of(params: PyTree) -> jax.Array:
    """Returns two words that change with the bits of the parameters: whole-number sums, the same in any order."""
    words = jnp.zeros(2, jnp.uint32)
    for number, leaf in enumerate(jax.tree.leaves(params)):
        if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        # Python's numbers count as the arrays that drivers make of them.
        leaf = jax.lax.stop_gradient(jnp.asarray(leaf, jnp.result_type(leaf))).ravel()
        if leaf.dtype == jnp.bool_:
            bits = leaf.astype(jnp.uint32)
        elif jnp.iscomplexobj(leaf):
            bits = jnp.concatenate([_bits(leaf.real), _bits(leaf.imag)])
        else:
            bits = _bits(leaf)
        place = jnp.arange(bits.size, dtype=jnp.uint32) ^ np.uint32(number * 0x9E3779B9 % 2**32)
        first = _mixed(bits ^ _mixed(place))
        second = _mixed(first + np.uint32(0x9E3779B9))
        words += jnp.stack([first.sum(dtype=jnp.uint32), second.sum(dtype=jnp.uint32)])
    return words


def _mixed(word: jax.Array) -> jax.Array:
    """Returns words every bit of which depends on every bit of the given ones (the last steps of MurmurHash3)."""
    word = (word ^ (word >> 16)) * np.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * np.uint32(0xC2B2AE35)
    return word ^ (word >> 16)


def _bits(leaf: jax.Array) -> jax.Array:
    """Returns the bits of a flat array as uint32, two words an element where it has 64."""
    width = leaf.dtype.itemsize
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(width, jnp.uint32)
    return jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32).ravel()
