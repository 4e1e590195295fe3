"""Exchanges between the rungs of parallel tempering: the state of a chain, and which replicas change places."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ebm_jax import rng
from ebm_jax.types import PyTree


class SwapStatistics(NamedTuple):
    """Running means over the steps of one chain with R rungs.

    Attributes:
      rejection: Mean probability of rejecting an exchange of rungs k and k + 1, `(R − 1,)`.
      n_tried: Exchanges tried, `(R − 1,)` int32.
      energy: Mean energy at each rung, `(R,)`.
      n_steps: Steps, `()` int32.
      n_round_trips: How often a replica went from the last rung to the first and back, `()` int32.
    """

    rejection: Float[Array, "*batch pairs"]
    n_tried: Array
    energy: Float[Array, "*batch rungs"]
    n_steps: Array
    n_round_trips: Array


class TemperingState(NamedTuple):
    """A chain of parallel tempering with R rungs.

    Attributes:
      replicas: States of the inner kernel, leading axis R. In packed form, the replicas of all chains in the packed
        form of the inner kernel.
      rung: Where each replica is, `(R,)` int32.
      trip: 0 for a replica that has not been at the last rung, 1 for one that has, 2 for one that has been at the first
        since, `(R,)` int8.
      statistics: `SwapStatistics`.
      step: uint32 counter of steps taken.
    """

    replicas: PyTree
    rung: Int[Array, "*batch rungs"]
    trip: Array
    statistics: SwapStatistics
    step: Array


def exchange(
    ladder: Array, swaps: str, word: Array, beta: Array, energies: Array, state: TemperingState
) -> TemperingState:
    """Lets neighbouring rungs of one chain exchange replicas.

    Args:
      ladder: Inverse temperatures of the rungs, `(R,)`.
      swaps: "even_odd" or "random".
      word: The two cipher-key words of the chain's exchanges.
      beta: Inverse temperature, which multiplies the ladder's.
      energies: Energies of the replicas, `(R,)`.
      state: The chain.

    Returns:
      The chain with other rungs and further statistics.
    """
    n = ladder.shape[0]
    pair = jnp.arange(n - 1)
    holder = jnp.zeros(n, jnp.int32).at[state.rung].set(jnp.arange(n, dtype=jnp.int32))
    by_rung = energies[holder]
    log_ratio = beta * jnp.diff(ladder) * jnp.diff(by_rung).astype(jnp.float32)
    by_rung = by_rung.astype(jnp.float32)
    # NaN, of an energy that is no number, is never accepted.
    probability = jnp.where(jnp.isnan(log_ratio), 0.0, jnp.exp(jnp.minimum(log_ratio, 0.0)))
    first, second = rng.threefry2x32(word[0], word[1], state.step, pair.astype(jnp.uint32) + state.step)
    parity = state.step if swaps == "even_odd" else second[0]
    tried = (pair % 2) == (parity & jnp.uint32(1)).astype(jnp.int32)
    accepted = tried & (rng.uniform(first) < probability)
    none = jnp.zeros(1, jnp.int32)
    up = jnp.concatenate([accepted.astype(jnp.int32), none])
    down = jnp.concatenate([none, accepted.astype(jnp.int32)])
    rung = state.rung + up[state.rung] - down[state.rung]
    back = (rung == n - 1) & (state.trip == 2)
    trip = jnp.where(rung == n - 1, 1, jnp.where((rung == 0) & (state.trip == 1), 2, state.trip))
    old = state.statistics
    n_tried, n_steps = old.n_tried + tried.astype(jnp.int32), old.n_steps + jnp.int32(1)
    share = jnp.where(tried, 1 / jnp.maximum(n_tried, 1).astype(jnp.float32), 0.0)
    statistics = SwapStatistics(
        old.rejection + share * (1 - probability - old.rejection),
        n_tried,
        old.energy + (by_rung - old.energy) / n_steps.astype(jnp.float32),
        n_steps,
        old.n_round_trips + back.sum(dtype=jnp.int32),
    )
    return state._replace(rung=rung, trip=trip.astype(jnp.int8), statistics=statistics)


def no_statistics(n: int) -> SwapStatistics:
    """Returns the statistics of no step of a chain with n rungs."""
    zero = jnp.zeros((), jnp.int32)
    return SwapStatistics(
        jnp.zeros(n - 1, jnp.float32), jnp.zeros(n - 1, jnp.int32), jnp.zeros(n, jnp.float32), zero, zero
    )
