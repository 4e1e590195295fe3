"""Parallel tempering: replicas at a ladder of inverse temperatures that exchange their places.

R replicas run side by side, one at every rung β₁ < … < β_R of a ladder, each by the same kernel. After every step
neighbouring rungs exchange their configurations x_k and x_{k+1} with probability

    min(1, exp((β_{k+1} − β_k) (E(x_{k+1}) − E(x_k)))),

which leaves the product of all p(x) ∝ exp(−β_k E(x)) invariant (Swendsen and Wang 1986; Geyer 1991). The last rung is
the law that is asked for; the hotter ones carry it over barriers. Replicas keep their places in memory and exchange
rungs: nothing is moved, whatever a configuration is.

Which pairs are tried alternates, even and odd (Okabe et al. 2001). The scheme is not reversible: a replica drifts
through the ladder instead of diffusing, so that the rate of its round trips tends to 1 / (2 + 2Λ) per step instead of
to 0 as rungs are added, where the communication barrier Λ is the sum of the rejection probabilities of all pairs (Syed,
Bouchard-Côté, Deligiannidis and Doucet 2022, "Non-reversible parallel tempering"). `tune_ladder` places rungs so that
all pairs reject alike, which is best for it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.interpolate import PchipInterpolator

from ebm_jax import checks, rng
from ebm_jax.chains import chain_keys, count_chains, strongly_typed, zero_info
from ebm_jax.samplers.base import Kernel, energy_of, member_keys, start_chains, step_number
from ebm_jax.types import Info, Key, PyTree

_SWAPS = ("even_odd", "random")
_SWAP_KEY = 0x73776170  # folded into a chain's key for the draws of exchanges; replicas fold in their number


class SwapStatistics(NamedTuple):
    """Running means over the steps of one chain, R rungs.

    rejection: mean probability of rejecting an exchange of rungs k and k + 1, `(R − 1,)`. n_tried: exchanges tried,
    `(R − 1,)` uint32. energy: mean energy at each rung, `(R,)`. n_steps: uint32. n_round_trips: how often a replica
    went from the last rung to the first and back, `()` uint32.
    """

    rejection: Float[Array, "*batch pairs"]
    n_tried: Array
    energy: Float[Array, "*batch rungs"]
    n_steps: Array
    n_round_trips: Array


class TemperingState(NamedTuple):
    """replicas: states of the inner kernel, leading axis R (packed: all chains' replicas in its own form). rung: where
    each replica is, `(R,)` int32. trip: 0 for a replica that has not been at the last rung, 1 for one that has, 2 for
    one that has been at the first since, `(R,)` int8. statistics, and step: uint32 counter of steps taken.
    """

    replicas: PyTree
    rung: Int[Array, "*batch rungs"]
    trip: Array
    statistics: SwapStatistics
    step: Array


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("kernel", "betas"),
    meta_fields=("swaps", "steps_per_swap"),
)
@dataclass(frozen=True, eq=False)
class ParallelTempering(Kernel):
    """The kernel that `parallel_tempering` builds; the inner kernel and the ladder are leaves."""

    kernel: Any
    betas: Float[Array, " rungs"]
    swaps: str
    steps_per_swap: int

    memoryless = False
    state_type = TemperingState

    @property
    def may_diverge(self) -> bool:
        """As the inner kernel."""
        return self.kernel.may_diverge

    @property
    def exact(self) -> bool:
        """As the inner kernel."""
        return self.kernel.exact

    @property
    def energy(self) -> Any:
        """The energy that the replicas share."""
        return energy_of(self.kernel)

    def init(self, params: PyTree, x: PyTree, clamped: Any = None) -> TemperingState:
        """Returns a chain all of whose replicas stand at `x`, replica k at rung k."""
        n = self.betas.shape[0]
        one = self.kernel.init(params, x, clamped)
        replicas = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *jnp.shape(leaf))), one)
        rung = jnp.arange(n, dtype=jnp.int32)
        trip = jnp.where(rung == n - 1, 1, 0).astype(jnp.int8)
        return TemperingState(replicas, rung, trip, _no_statistics(n), jnp.zeros((), jnp.uint32))

    def stationary(self, params: PyTree, draw: Callable[[Any], PyTree], beta: Any) -> TemperingState:
        """Returns states of chains all of whose replicas are in equilibrium at their rungs."""
        rungs = [draw(beta * float(b)) for b in np.asarray(self.betas)]
        x = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *rungs)
        one = lambda x: jax.vmap(functools.partial(self.kernel.init, params))(x)  # noqa: E731
        start = jax.vmap(functools.partial(self.init, params))(rungs[0])
        return start._replace(replicas=jax.vmap(one)(x))

    def clamp(self, params: PyTree, state: TemperingState, clamped: Any) -> TemperingState:
        """Returns the state with another clamping of every replica."""
        new = jax.vmap(lambda one: self.kernel.clamp(params, one, clamped))(state.replicas)
        return state._replace(replicas=new)

    def position(self, state: TemperingState) -> PyTree:
        """Returns the configuration at the last rung, the law that is asked for."""
        last = jnp.argmax(state.rung)
        return self.kernel.position(jax.tree.map(lambda leaf: leaf[last], state.replicas))

    @property
    def nonfinite_means(self) -> str:
        """As the inner kernel."""
        return self.kernel.nonfinite_means

    def check_state(self, state: Any) -> None:
        """Raises ValueError where a state with a chain axis is not one of as many replicas."""
        super().check_state(state)
        if state.rung.shape[-1] != self.betas.shape[0]:
            raise ValueError(
                f"init has {state.rung.shape[-1]} replicas a chain and the ladder {self.betas.shape[0]} rungs; give "
                "positions, or the state of a ladder of as many"
            )

    def positions_by_rung(self, state: TemperingState) -> PyTree:
        """Returns the configurations at all rungs of one chain, hottest first, `(R, ...)`."""
        positions = jax.vmap(self.kernel.position)(state.replicas)
        return jax.tree.map(lambda leaf: leaf[jnp.argsort(state.rung)], positions)

    def energies_by_rung(self, params: PyTree, state: TemperingState) -> Array:
        """Returns the energies at all rungs of one chain, without β, hottest first, `(R,)`."""
        return jax.vmap(self.kernel.energy_at, (None, 0))(params, state.replicas)[jnp.argsort(state.rung)]

    def energy_at(self, params: PyTree, state: TemperingState) -> Array:
        """Returns the energy at the last rung."""
        last = jnp.argmax(state.rung)
        return self.kernel.energy_at(params, jax.tree.map(lambda leaf: leaf[last], state.replicas))

    def steps(
        self, key: Key, params: PyTree, beta: Any, state: TemperingState, n: int
    ) -> tuple[TemperingState, Info]:
        """Takes `n` steps: each `steps_per_swap` steps of the inner kernel at every rung, then exchanges."""
        keys = member_keys(key, self.betas.shape[0])
        word = rng.chain_words(jax.random.fold_in(key, _SWAP_KEY))

        def advance(betas: Array, replicas: PyTree) -> tuple[PyTree, Info]:
            steps = lambda key, b, one: self.kernel.steps(key, params, b, one, self.steps_per_swap)  # noqa: E731
            return jax.vmap(steps, (0, None if betas.ndim == 0 else 0, 0))(keys, betas, replicas)

        def body(carry: tuple[TemperingState, Info], beta: Array) -> tuple[tuple[TemperingState, Info], None]:
            state, info = carry
            replicas, infos = advance(self._betas_of(beta, state.rung), state.replicas)
            state = state._replace(replicas=replicas)
            if self.betas.shape[0] > 1:
                energies = jax.vmap(self.kernel.energy_at, (None, 0))(params, replicas)
                state = self._exchange(word, beta, energies, state)
            state = state._replace(step=state.step + jnp.uint32(1))
            return (state, info.then(self._info(infos, state.step))), None

        betas = jnp.broadcast_to(jnp.asarray(beta, jnp.float32), (n,))
        return jax.lax.scan(body, (state, Info.zero()), betas)[0]

    def pack(self, params: PyTree, states: TemperingState) -> TemperingState:
        """Lays all replicas of all chains out side by side."""
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), states.replicas)
        return states._replace(replicas=self.kernel.pack(params, flat))

    def unpack(self, packed: TemperingState) -> TemperingState:
        """The inverse of `pack`."""
        return packed._replace(replicas=self._by_chain(packed, self.kernel.unpack(packed.replicas)))

    def packed_positions(self, packed: TemperingState) -> PyTree:
        """Returns the configurations at the last rung, leading chain axis."""
        positions = self._by_chain(packed, self.kernel.packed_positions(packed.replicas))
        last = jnp.argmax(packed.rung, axis=1)
        return jax.tree.map(lambda leaf: leaf[jnp.arange(last.size), last], positions)

    def packed_energies(self, params: PyTree, packed: TemperingState) -> Array:
        """Returns the energies at the last rung, `(n_chains,)`."""
        energies = self.kernel.packed_energies(params, packed.replicas).reshape(packed.rung.shape)
        return jnp.take_along_axis(energies, jnp.argmax(packed.rung, axis=1)[:, None], axis=1)[:, 0]

    def refresh(self, params: PyTree, packed: TemperingState) -> TemperingState:
        """Recomputes what the replicas cache of the parameters."""
        return packed._replace(replicas=self.kernel.refresh(params, packed.replicas))

    def packed_steps(
        self, keys: Key, params: PyTree, beta: Any, packed: TemperingState, n: int
    ) -> tuple[TemperingState, Info]:
        """Takes `n` steps of every chain; `beta` is a scalar, `(n,)`, or `(n, n_chains)`."""
        n_chains, n_rungs = packed.rung.shape
        replica_keys = jax.vmap(lambda key: member_keys(key, n_rungs))(keys).reshape(-1)
        words = rng.chain_words(jax.vmap(jax.random.fold_in, (0, None))(keys, _SWAP_KEY))

        def body(carry: tuple[TemperingState, Info], beta: Array) -> tuple[tuple[TemperingState, Info], None]:
            packed, info = carry
            betas = self._betas_of(beta[:, None] if beta.ndim else beta, packed.rung)
            if betas.ndim:
                betas = jnp.broadcast_to(betas.reshape(-1), (self.steps_per_swap, n_chains * n_rungs))
            replicas, infos = self.kernel.packed_steps(
                replica_keys, params, betas, packed.replicas, self.steps_per_swap
            )
            packed = packed._replace(replicas=replicas)
            if n_rungs > 1:
                energies = self.kernel.packed_energies(params, replicas).reshape(packed.rung.shape)
                exchange = jax.vmap(self._exchange, (0, 0 if beta.ndim else None, 0, 0))
                packed = exchange(words, beta, energies, packed._replace(replicas=None))
                packed = packed._replace(replicas=replicas)
            packed = packed._replace(step=packed.step + jnp.uint32(1))
            infos = jax.tree.map(lambda leaf: leaf.reshape(n_chains, n_rungs), infos)
            return (packed, info.then(jax.vmap(self._info)(infos, packed.step))), None

        betas = jnp.asarray(beta, jnp.float32)
        betas = betas if betas.ndim == 2 else jnp.broadcast_to(betas, (n,))
        zero = zero_info(n_chains)
        return jax.lax.scan(body, (packed, zero), betas, length=n)[0]

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Raises ValueError where the inner kernel does."""
        _check_betas(self.betas)
        self.kernel.check(params, x, clamped)

    def _by_chain(self, packed: TemperingState, flat: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: leaf.reshape(*packed.rung.shape, *leaf.shape[1:]), flat)

    def _betas_of(self, beta: Array, rung: Array) -> Array:
        """Returns β of every replica; of a single one that which was given, so that it runs as the bare kernel."""
        if self.betas.shape[0] == 1:
            return beta * self.betas[0]
        return beta * self.betas[rung]

    def _info(self, infos: Info, step: Array) -> Info:
        """Adds up what the replicas report, `(R,)` each; the exchange takes an energy of every replica."""
        n_rungs = self.betas.shape[0]
        bad = infos.n_nonfinite.sum()
        summed = jax.tree.map(lambda leaf: leaf.sum(dtype=leaf.dtype), infos)
        return summed._replace(
            n_steps=jnp.ones((), jnp.int32),
            n_energy=summed.n_energy + (0 if n_rungs == 1 else n_rungs),
            n_nonfinite=(bad > 0).astype(jnp.int32),
            first_nonfinite=jnp.where(bad > 0, step_number(step), -1),
        )

    def _exchange(self, word: Array, beta: Array, energies: Array, state: TemperingState) -> TemperingState:
        """Lets neighbouring rungs of one chain exchange replicas; `energies` are the replicas', `(R,)`."""
        n = self.betas.shape[0]
        pair = jnp.arange(n - 1)
        holder = jnp.zeros(n, jnp.int32).at[state.rung].set(jnp.arange(n, dtype=jnp.int32))
        by_rung = energies[holder]
        log_ratio = beta * jnp.diff(self.betas) * jnp.diff(by_rung).astype(jnp.float32)
        by_rung = by_rung.astype(jnp.float32)
        # NaN, of an energy that is no number, is never accepted.
        probability = jnp.where(jnp.isnan(log_ratio), 0.0, jnp.exp(jnp.minimum(log_ratio, 0.0)))
        first, second = rng.threefry2x32(word[0], word[1], state.step, pair.astype(jnp.uint32) + state.step)
        parity = state.step if self.swaps == "even_odd" else second[0]
        tried = (pair % 2) == (parity & jnp.uint32(1)).astype(jnp.int32)
        accepted = tried & (rng.uniform(first) < probability)
        none = jnp.zeros(1, jnp.int32)
        up = jnp.concatenate([accepted.astype(jnp.int32), none])
        down = jnp.concatenate([none, accepted.astype(jnp.int32)])
        rung = state.rung + up[state.rung] - down[state.rung]
        back = (rung == n - 1) & (state.trip == 2)
        trip = jnp.where(rung == n - 1, 1, jnp.where((rung == 0) & (state.trip == 1), 2, state.trip))
        old = state.statistics
        n_tried, n_steps = old.n_tried + tried, old.n_steps + jnp.uint32(1)
        share = jnp.where(tried, 1 / jnp.maximum(n_tried, 1).astype(jnp.float32), 0.0)
        statistics = SwapStatistics(
            old.rejection + share * (1 - probability - old.rejection),
            n_tried,
            old.energy + (by_rung - old.energy) / n_steps.astype(jnp.float32),
            n_steps,
            old.n_round_trips + back.sum(dtype=jnp.uint32),
        )
        return state._replace(rung=rung, trip=trip.astype(jnp.int8), statistics=statistics)


def parallel_tempering(
    kernel: Any, betas: Any, *, swaps: str = "even_odd", steps_per_swap: int = 1
) -> ParallelTempering:
    """Returns the kernel that runs a replica of `kernel` at each of `betas` and lets neighbours exchange.

    kernel: any kernel with an energy: block Gibbs, Metropolis, MALA, HMC, compositions. betas: the ladder, rising,
    `(R,)`; a replica at rung k runs at β · betas[k], β as the driver gives it, and positions are those at the last
    rung, where betas[−1] = 1 gives p(x) ∝ exp(−β E(x)). With one rung it is the bare kernel, bit for bit.
    swaps: "even_odd", the non-reversible scheme, or "random", which tosses a coin for even or odd pairs and is
    reversible (and slower). steps_per_swap: steps of `kernel` before each exchange.

    A step costs R steps of the kernel and R energies. Exchanges are decided to 2⁻²⁴. Statistics gather in the state:
    `swap_report` reads them, `tune_ladder` uses them.
    Raises ValueError on a ladder that does not rise, has a negative or non-finite β, or a kernel without an energy.
    """
    if not hasattr(kernel, "packed_energies"):
        raise ValueError(f"kernel is {kernel!r}; give a kernel, e.g. gibbs(model)")
    if not kernel.memoryless:
        raise ValueError(
            f"{type(kernel).__name__} keeps more than a position and cannot be tempered; temper what it is made of"
        )
    energy_of(kernel)
    checks.check_choice("swaps", swaps, _SWAPS)
    ladder = jnp.asarray(betas, jnp.float32)
    if ladder.ndim != 1 or ladder.size == 0:
        raise ValueError(f"betas has shape {ladder.shape}; give a ladder of inverse temperatures, (n_rungs,)")
    _check_betas(ladder)
    n = checks.check_integer("steps_per_swap", steps_per_swap, 1)
    return ParallelTempering(kernel, ladder, swaps, n)


class SwapReport(NamedTuple):
    """betas: the ladder `(R,)`. rejection: mean probability of rejecting an exchange, `(R − 1,)`, NaN where none was
    tried. barrier: Λ, their sum. n_round_trips: of all replicas of all chains. round_trip_rate: per chain and step;
    best_rate: 1 / (2 + 2Λ), what well-mixing replicas of a fine ladder reach. energy: mean at each rung. All over the
    steps since the chains began, or since `tune_ladder` handed them back.
    """

    betas: np.ndarray
    rejection: np.ndarray
    barrier: float
    n_round_trips: int
    round_trip_rate: float
    best_rate: float
    energy: np.ndarray


def swap_report(kernel: ParallelTempering, state: TemperingState) -> SwapReport:
    """Returns what the exchanges of all chains of a run came to; `state` has a leading chain axis or none.

    Raises ValueError on what is no state of such a kernel, or of another number of rungs.
    """
    if not isinstance(state, TemperingState):
        raise ValueError(
            f"state is a {type(state).__name__}; give that of a run of parallel_tempering, samples.state"
        )
    if state.rung.shape[-1] != kernel.betas.shape[0]:
        raise ValueError(f"state has {state.rung.shape[-1]} rungs and the kernel {kernel.betas.shape[0]}")
    seen = jax.tree.map(np.asarray, state.statistics)
    n_chains = seen.n_steps.size
    flat = lambda leaf: leaf.reshape(n_chains, leaf.shape[-1]).astype(np.float64)  # noqa: E731
    tried, steps = flat(seen.n_tried), seen.n_steps.reshape(-1, 1).astype(np.float64)
    with np.errstate(invalid="ignore"):
        rejection = (flat(seen.rejection) * tried).sum(axis=0) / tried.sum(axis=0)
        energy = (flat(seen.energy) * steps).sum(axis=0) / steps.sum()
        trips = int(seen.n_round_trips.sum())
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
    """Moves the inner rungs of a ladder until all neighbours reject alike; returns the kernel and the chains' states.

    key: a typed key; chain i uses `fold_in(key, i)`, as in `sample`, which may go on from the states with the same key.
    init: positions with a leading chain axis, or states. n_steps: of each chain, in `n_rounds` rounds, each twice as
    long as the one before (rounded down to a multiple of 2ⁿ − 1). A round estimates the barrier Λ(β), the running sum
    of the rejection probabilities, interpolates it monotonically between rungs (Fritsch and Carlson 1980) and puts
    rungs at equal parts of it (Syed et al. 2022, algorithms 2 and 3). The first and the last rung stay. The steps leave
    no law invariant, since rungs move: they are a warm-up, and the states come back with their statistics empty.
    Runs on the host between rounds: not to be called under `jit`.
    Raises ValueError on what does not fit, and on fewer than 2ⁿ − 1 steps of n rounds; FloatingPointError where the
    energies of a rung are not finite, from which no ladder follows.
    """
    checks.check_key(key)
    if not isinstance(kernel, ParallelTempering):
        raise ValueError(f"kernel is a {type(kernel).__name__}; give one of parallel_tempering")
    checks.check_integer("n_rounds", n_rounds, 1)
    n_steps = checks.check_integer("n_steps", n_steps, 0)
    if n_steps < 2**n_rounds - 1:
        raise ValueError(
            f"n_steps is {n_steps}; {n_rounds} rounds need {2**n_rounds - 1}: take more, or a smaller n_rounds"
        )
    params = strongly_typed(params)
    beta = jnp.asarray(beta, jnp.float32)
    if beta.ndim:
        raise ValueError(f"beta has shape {beta.shape}; one ladder needs one beta: give a scalar")
    states = start_chains(kernel, params, init, clamped)
    unit = n_steps // (2**n_rounds - 1)  # one program for all rounds, called 1, 2, 4, … times
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
        betas = _equalised(np.asarray(kernel.betas), report.rejection)
        kernel = replace(kernel, betas=jnp.asarray(betas, jnp.float32))
    return kernel, _without_statistics(states)


@functools.partial(jax.jit, static_argnums=5)
def _advance(
    kernel: ParallelTempering, key: Key, params: PyTree, beta: Array, states: TemperingState, n: int
) -> TemperingState:
    keys = chain_keys(key, count_chains(states))
    packed = kernel.refresh(params, kernel.pack(params, states))
    return kernel.unpack(kernel.packed_steps(keys, params, beta, packed, n)[0])


def _equalised(betas: np.ndarray, rejection: np.ndarray) -> np.ndarray:
    """Returns rungs at equal parts of the barrier; a pair that never failed counts for little. The old ones where some
    pair was never tried, or where new ones fall together.
    """
    if betas.size < 3 or np.isnan(rejection).any():
        return betas
    least = 1e-3 / (betas.size - 1)
    barrier = np.concatenate([[0.0], np.cumsum(np.maximum(rejection, least))])
    rungs = PchipInterpolator(barrier, betas.astype(np.float64))(np.linspace(0, barrier[-1], betas.size))
    new = np.concatenate([betas[:1], rungs[1:-1], betas[-1:]]).astype(np.float32)
    return new if (np.diff(new) > 0).all() else betas


def _no_statistics(n: int) -> SwapStatistics:
    zero = jnp.zeros((), jnp.uint32)
    return SwapStatistics(
        jnp.zeros(n - 1, jnp.float32), jnp.zeros(n - 1, jnp.uint32), jnp.zeros(n, jnp.float32), zero, zero
    )


def _without_statistics(states: TemperingState) -> TemperingState:
    return states._replace(statistics=jax.tree.map(jnp.zeros_like, states.statistics))


def _check_betas(betas: Any) -> None:
    if not checks.is_concrete(betas):
        return
    values = np.asarray(betas)
    if not (np.isfinite(values).all() and (values >= 0).all() and (np.diff(values) > 0).all()):
        raise ValueError(
            f"betas is {values.tolist()}; give finite inverse temperatures that rise from the hottest (0 or more) to "
            "the last, the one to sample"
        )
