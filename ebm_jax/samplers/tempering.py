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
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ebm_jax import checks, rng
from ebm_jax.chains import zero_info
from ebm_jax.samplers.base import Kernel, check_precision, known_energy, member_keys, step_number
from ebm_jax.samplers.exchanges import TemperingState, exchange, no_statistics
from ebm_jax.samplers.start import check_kernel
from ebm_jax.types import Info, Key, PyTree

_SWAPS = ("even_odd", "random")
# Folded into a chain's key for the draws of exchanges; replicas fold in their number.
_SWAP_KEY = 0x73776170


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
    def energy_function(self) -> Callable[[PyTree, PyTree], Array]:
        """The energy that the replicas share."""
        return known_energy(self.kernel)

    def init(self, params: PyTree, x: PyTree, clamped: Any = None) -> TemperingState:
        """Returns a chain all of whose replicas stand at `x`, replica k at rung k."""
        n = self.betas.shape[0]
        one = self.kernel.init(params, x, clamped)
        if n > 1:
            check_precision("energy", jax.eval_shape(self.kernel.energy_at, params, one))
        replicas = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *jnp.shape(leaf))), one)
        rung = jnp.arange(n, dtype=jnp.int32)
        trip = jnp.where(rung == n - 1, 1, 0).astype(jnp.int8)
        return TemperingState(replicas, rung, trip, no_statistics(n), jnp.zeros((), jnp.uint32))

    def stationary(self, params: PyTree, draw: Callable[[Any], PyTree], beta: Any) -> TemperingState:
        """Returns states of chains all of whose replicas are in equilibrium at their rungs."""
        rungs = [draw(beta * float(b)) for b in np.asarray(self.betas)]
        x = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *rungs)
        start = jax.vmap(functools.partial(self.init, params))(rungs[0])
        return start._replace(replicas=jax.vmap(jax.vmap(functools.partial(self.kernel.init, params)))(x))

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
        """Checks that states with a leading chain axis are of such a kernel, with as many replicas.

        Raises:
          ValueError: If they are not.
        """
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

    def step(self, key: Key, params: PyTree, beta: Any, state: TemperingState) -> tuple[TemperingState, Info]:
        """Takes one step: `steps_per_swap` steps of the inner kernel at every rung, then exchanges."""
        return self.steps(key, params, beta, state, 1)

    def steps(
        self, key: Key, params: PyTree, beta: Any, state: TemperingState, n: int
    ) -> tuple[TemperingState, Info]:
        """Takes `n` steps of one chain; `beta` is a scalar or `(n,)`."""

        def advance(keys: Key, betas: Array, replicas: PyTree) -> tuple[PyTree, Info]:
            def steps(key: Key, b: Array, replica: PyTree) -> tuple[PyTree, Info]:
                return self.kernel.steps(key, params, b, replica, self.steps_per_swap)

            return jax.vmap(steps, (0, 1 if betas.ndim else None, 0))(keys, betas, replicas)

        def energies(replicas: PyTree) -> Array:
            return jax.vmap(self.kernel.energy_at, (None, 0))(params, replicas)

        # The replicas have no axis of chains: a chain alone has its replicas in the place of all chains' replicas.
        chain = jax.tree.map(lambda leaf: leaf[None], state._replace(replicas=None))
        chain = chain._replace(replicas=state.replicas)
        end, info = self._run(key[None], beta, chain, n, advance, energies)
        first = jax.tree.map(lambda leaf: leaf[0], (end._replace(replicas=None), info))
        return first[0]._replace(replicas=end.replicas), first[1]

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

        def advance(keys: Key, betas: Array, replicas: PyTree) -> tuple[PyTree, Info]:
            return self.kernel.packed_steps(keys, params, betas, replicas, self.steps_per_swap)

        energies = functools.partial(self.kernel.packed_energies, params)
        return self._run(keys, beta, packed, n, advance, energies)

    def _run(
        self,
        keys: Key,
        beta: Any,
        packed: TemperingState,
        n: int,
        advance: Callable[[Key, Array, PyTree], tuple[PyTree, Info]],
        energies: Callable[[PyTree], Array],
    ) -> tuple[TemperingState, Info]:
        """Takes `n` steps of all chains.

        Args:
          keys: Keys of the chains, `(n_chains,)`.
          beta: A scalar, `(n,)`, or `(n, n_chains)`.
          packed: States with a chain axis; replicas in the form that `advance` takes.
          n: Steps.
          advance: Takes keys and β of all replicas, `(n_chains · R,)` and a scalar or `(steps_per_swap, n_chains · R)`,
            and replicas; gives replicas `steps_per_swap` steps later, and their reports.
          energies: Gives the energies of replicas, `(n_chains · R,)`.

        Returns:
          The states and the reports of all steps, one a chain.
        """
        n_chains, n_rungs = packed.rung.shape
        replica_keys = jax.vmap(lambda key: member_keys(key, n_rungs))(keys).reshape(-1)
        words = rng.chain_words(jax.vmap(jax.random.fold_in, (0, None))(keys, _SWAP_KEY))

        def scan_body(
            carry: tuple[TemperingState, Info], beta: Array
        ) -> tuple[tuple[TemperingState, Info], None]:
            packed, info = carry
            betas = self._betas_of(beta[:, None] if beta.ndim else beta, packed.rung)
            if betas.ndim:
                betas = jnp.broadcast_to(betas.reshape(-1), (self.steps_per_swap, n_chains * n_rungs))
            replicas, infos = advance(replica_keys, betas, packed.replicas)
            if n_rungs > 1:
                by_chain = energies(replicas).reshape(packed.rung.shape)
                per_chain = functools.partial(exchange, self.betas, self.swaps)
                mapped = jax.vmap(per_chain, (0, 0 if beta.ndim else None, 0, 0))
                packed = mapped(words, beta, by_chain, packed._replace(replicas=None))
            packed = packed._replace(replicas=replicas, step=packed.step + jnp.uint32(1))
            infos = jax.tree.map(lambda leaf: leaf.reshape(n_chains, n_rungs), infos)
            return (packed, info.then(jax.vmap(self._info)(infos, packed.step))), None

        betas = jnp.asarray(beta, jnp.float32)
        betas = betas if betas.ndim == 2 else jnp.broadcast_to(betas, (n,))
        return jax.lax.scan(scan_body, (packed, zero_info(n_chains)), betas, length=n)[0]

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Checks the ladder, and the arguments by the inner kernel.

        Raises:
          ValueError: If they do not fit.
        """
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


def parallel_tempering(
    kernel: Any, betas: Any, *, swaps: str = "even_odd", steps_per_swap: int = 1
) -> ParallelTempering:
    """Builds the kernel that runs a replica at each rung of a ladder and lets neighbours exchange.

    After each step, neighbouring rungs exchange x_k and x_{k+1} with probability

        min(1, exp((β_{k+1} − β_k) (E(x_{k+1}) − E(x_k)))),

    to 2⁻²⁴ (Swendsen and Wang 1986; Geyer 1991). A step costs R steps of the kernel and R energies. Statistics gather
    in the state: `swap_report` reads them, `tune_ladder` uses them. With one rung it is the bare kernel, bit for bit.

    Args:
      kernel: Any kernel with an energy: block Gibbs, Metropolis, MALA, HMC, compositions.
      betas: The ladder, rising, `(R,)`. A replica at rung k runs at β · betas[k], β as the driver gives it. Positions
        are those at the last rung; betas[−1] = 1 gives p(x) ∝ exp(−β E(x)).
      swaps: "even_odd", the non-reversible scheme (Okabe et al. 2001), or "random", which tosses a coin for even or odd
        pairs and is reversible, and slower.
      steps_per_swap: Steps of `kernel` before each exchange.

    Returns:
      A `Kernel` for `sample`.

    Raises:
      ValueError: If the ladder does not rise or has a negative or non-finite β, or the kernel has no energy.

    Example:
      >>> model = ej.Ising(ej.Grid(3, 4))
      >>> kernel = ej.parallel_tempering(ej.gibbs(model), [0.2, 0.5, 1.0])
      >>> start = ej.init_chains(jax.random.key(0), model, 2)
      >>> params = model.init(jax.random.key(1))
      >>> ej.sample(jax.random.key(2), kernel, params, start, ej.SamplingSchedule(10, 5, 10)).positions.shape
      (5, 2, 3, 4)
    """
    check_kernel(kernel)
    if not kernel.memoryless:
        raise ValueError(
            f"{type(kernel).__name__} keeps more than a position and cannot be tempered; temper what it is made of"
        )
    known_energy(kernel)
    checks.check_choice("swaps", swaps, _SWAPS)
    ladder = jnp.asarray(betas, jnp.float32)
    if ladder.ndim != 1 or ladder.size == 0:
        raise ValueError(f"betas has shape {ladder.shape}; give a ladder of inverse temperatures, (n_rungs,)")
    _check_betas(ladder)
    n = checks.check_integer("steps_per_swap", steps_per_swap, 1)
    return ParallelTempering(kernel, ladder, swaps, n)


def _check_betas(betas: Any) -> None:
    if not checks.is_concrete(betas):
        return
    values = np.asarray(betas)
    if not (np.isfinite(values).all() and (values >= 0).all() and (np.diff(values) > 0).all()):
        raise ValueError(
            f"betas is {values.tolist()}; give finite inverse temperatures that rise from the hottest (0 or more) to "
            "the last, the one to sample"
        )
