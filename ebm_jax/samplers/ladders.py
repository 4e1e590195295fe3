"""Ladders of parallel tempering: what exchanges came to, and rungs that all reject alike."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from scipy.interpolate import PchipInterpolator

from ebm_jax import checks
from ebm_jax.samplers.start import begin, pack_chains
from ebm_jax.samplers.tempering import ParallelTempering, TemperingState
from ebm_jax.types import Key, PyTree


class SwapReport(NamedTuple):
    """What the exchanges of all chains came to, since the chains began or since `tune_ladder` handed them back.

    Attributes:
      betas: The ladder, `(R,)`.
      rejection: Mean probability of rejecting an exchange, `(R − 1,)`; NaN where none was tried.
      barrier: Λ, the sum of the rejections.
      n_round_trips: Round trips of all replicas of all chains.
      round_trip_rate: Round trips per chain and step.
      best_rate: 1 / (2 + 2Λ), the rate that well-mixing replicas of a fine ladder reach.
      energy: Mean energy at each rung, `(R,)`.
    """

    betas: np.ndarray
    rejection: np.ndarray
    barrier: float
    n_round_trips: int
    round_trip_rate: float
    best_rate: float
    energy: np.ndarray


def swap_report(kernel: ParallelTempering, state: TemperingState) -> SwapReport:
    """Sums up the exchanges of a run of parallel tempering.

    Args:
      kernel: The kernel that `parallel_tempering` built.
      state: The states of a run, with a leading chain axis or without.

    Returns:
      A `SwapReport`.

    Raises:
      ValueError: If `state` is not of such a kernel, or has another number of rungs.

    Example:
      >>> model = ej.Ising(ej.Grid(3, 4))
      >>> kernel = ej.parallel_tempering(ej.gibbs(model), [0.2, 0.5, 1.0])
      >>> start = ej.init_chains(jax.random.key(0), model, 2)
      >>> params = model.init(jax.random.key(1))
      >>> run = ej.sample(jax.random.key(2), kernel, params, start, ej.SamplingSchedule(10, 5, 10))
      >>> ej.swap_report(kernel, run.state).rejection.shape
      (2,)
    """
    if not isinstance(state, TemperingState):
        raise ValueError(
            f"state is a {type(state).__name__}; give that of a run of parallel_tempering, samples.state"
        )
    if state.rung.shape[-1] != kernel.betas.shape[0]:
        raise ValueError(f"state has {state.rung.shape[-1]} rungs and the kernel {kernel.betas.shape[0]}")
    statistics = jax.tree.map(np.asarray, state.statistics)
    n_chains = statistics.n_steps.size

    def by_chain(leaf: np.ndarray) -> np.ndarray:
        return leaf.reshape(n_chains, leaf.shape[-1]).astype(np.float64)

    tried, steps = by_chain(statistics.n_tried), statistics.n_steps.reshape(-1, 1).astype(np.float64)
    with np.errstate(invalid="ignore"):
        rejection = (by_chain(statistics.rejection) * tried).sum(axis=0) / tried.sum(axis=0)
        energy = (by_chain(statistics.energy) * steps).sum(axis=0) / steps.sum()
        trips = int(statistics.n_round_trips.sum())
        rate = float(np.float64(trips) / steps.sum())
    barrier = float(rejection.sum())
    return SwapReport(
        np.asarray(kernel.betas), rejection, barrier, trips, rate, 1 / (2 + 2 * barrier), energy
    )


def tune_ladder(
    key: Key,
    kernel: ParallelTempering,
    params: PyTree,
    init: PyTree,
    n_steps: int,
    *,
    n_rounds: int = 6,
    beta: Any = 1.0,
    clamped: Any = None,
) -> tuple[ParallelTempering, TemperingState]:
    """Moves the inner rungs of a ladder until all neighbours reject alike.

    A round estimates the barrier Λ(β), the running sum of the rejection probabilities, interpolates it monotonically
    between rungs (Fritsch and Carlson 1980) and puts rungs at equal parts of it (Syed et al. 2022, algorithms 2 and 3).
    The first and the last rung stay. Since rungs move, the steps leave no law invariant: they are a warm-up. It runs on
    the host between rounds, so not under `jit`.

    Args:
      key: A typed key. Chain i uses `fold_in(key, i)`, as in `sample`, which may go on from the states with the same
        key.
      kernel: A kernel that `parallel_tempering` built.
      params: Parameters of the energy.
      init: Positions with a leading chain axis, or states of an earlier run.
      n_steps: Steps of each chain, in rounds each twice as long as the one before; rounded down to a multiple of
        2ⁿ − 1 for n rounds.
      n_rounds: Rounds.
      beta: Inverse temperature, a scalar.
      clamped: `(mask, values)` as for `sample`.

    Returns:
      The kernel with the new ladder, and the states of the chains with their statistics empty.

    Raises:
      ValueError: If anything does not fit, or there are fewer than 2ⁿ − 1 steps for n rounds.
      FloatingPointError: If the energies of a rung are not finite, from which no ladder follows.

    Example:
      >>> model = ej.Ising(ej.Grid(3, 4))
      >>> kernel = ej.parallel_tempering(ej.gibbs(model), [0.2, 0.3, 1.0])
      >>> start = ej.init_chains(jax.random.key(0), model, 2)
      >>> params = model.init(jax.random.key(1))
      >>> tuned, states = ej.tune_ladder(jax.random.key(2), kernel, params, start, n_steps=70, n_rounds=3)
      >>> tuned.betas.shape
      (3,)
    """
    if not isinstance(kernel, ParallelTempering):
        raise ValueError(f"kernel is a {type(kernel).__name__}; give one of parallel_tempering")
    checks.check_integer("n_rounds", n_rounds, 1)
    n_steps = checks.check_integer("n_steps", n_steps, 0)
    if n_steps < 2**n_rounds - 1:
        raise ValueError(
            f"n_steps is {n_steps}; {n_rounds} rounds need {2**n_rounds - 1}: take more, or a smaller n_rounds"
        )
    beta = jnp.asarray(beta, jnp.float32)
    if beta.ndim:
        raise ValueError(f"beta has shape {beta.shape}; one ladder needs one beta: give a scalar")
    params, states = begin(key, kernel, params, init, clamped)
    # One program serves all rounds, called 1, 2, 4, … times.
    unit = n_steps // (2**n_rounds - 1)
    for round_number in range(n_rounds):
        states = _without_statistics(states)
        for _ in range(2**round_number):
            states = _advance(kernel, key, params, beta, states, unit)
        report = swap_report(kernel, states)
        bad = np.flatnonzero(~np.isfinite(report.energy)) if report.betas.size > 1 else []
        if len(bad):
            raise FloatingPointError(
                f"the mean energy at β = {report.betas[bad[0]]:g} is {report.energy[bad[0]]}: leave that rung out, or "
                "take smaller steps"
            )
        betas = _equalise(np.asarray(kernel.betas), report.rejection)
        kernel = replace(kernel, betas=jnp.asarray(betas, jnp.float32))
    return kernel, _without_statistics(states)


@functools.partial(jax.jit, static_argnums=5)
def _advance(
    kernel: ParallelTempering, key: Key, params: PyTree, beta: Array, states: TemperingState, n: int
) -> TemperingState:
    keys, packed, _ = pack_chains(key, kernel, params, states)
    return kernel.unpack(kernel.packed_steps(keys, params, beta, packed, n)[0])


def _equalise(betas: np.ndarray, rejection: np.ndarray) -> np.ndarray:
    """Returns rungs at equal parts of the barrier, where a pair that never failed counts for little.

    The ladder stays as it is if some pair was never tried, or if new rungs fall together.
    """
    if betas.size < 3 or np.isnan(rejection).any():
        return betas
    least = 1e-3 / (betas.size - 1)
    barrier = np.concatenate([[0.0], np.cumsum(np.maximum(rejection, least))])
    rungs = PchipInterpolator(barrier, betas.astype(np.float64))(np.linspace(0, barrier[-1], betas.size))
    new = np.concatenate([betas[:1], rungs[1:-1], betas[-1:]]).astype(np.float32)
    return new if (np.diff(new) > 0).all() else betas


def _without_statistics(states: TemperingState) -> TemperingState:
    return states._replace(statistics=jax.tree.map(jnp.zeros_like, states.statistics))
