"""Running chains: warm-up, thinning, observation, progress.

One scan serves every kernel. Chains run side by side in the form the kernel brings for many chains, and each has the
key `fold_in(key, chain_index)`, unchanged at every step, so a run cut into pieces equals the whole bit for bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from ebm_jax import checks, rng
from ebm_jax.chains import chain_keys, count_chains, strongly_typed, zero_info
from ebm_jax.energies.base import DiscreteModel
from ebm_jax.graphs.blocks import SamplingSchedule
from ebm_jax.samplers.base import Kernel, partitions, start_chains, with_automatic_axes
from ebm_jax.types import Info, Key, PyTree


class Samples(NamedTuple):
    """What `sample` returns.

    positions: pytree of `(n_samples, n_chains, ...)`; None with an `Observer`, which stands in for stored samples.
    observed: what `observe` gave, `(n_samples, n_chains, ...)`, or the observer's results, `(n_chains, ...)`; None
    without either. info: counts over all steps, `(n_chains,)` each. state: the kernel's states, chain axis first;
    `sample(init=samples.state)` continues the chains.
    """

    positions: PyTree
    observed: PyTree
    info: Info
    state: PyTree


class Observer(NamedTuple):
    """A reduction over the samples of each chain in constant memory; `sample` maps it over chains.

    init: `(params, x) -> carry`, called once with the starting position, which is no sample. update:
    `(carry, params, x) -> carry`, called with every sample. result: `carry -> value`.
    """

    init: Callable[[PyTree, PyTree], PyTree]
    update: Callable[[PyTree, PyTree, PyTree], PyTree]
    result: Callable[[PyTree], PyTree]


class NonFiniteError(FloatingPointError):
    """A chain reached a NaN or infinite value. `samples` holds the whole run."""

    def __init__(self, message: str, samples: Samples) -> None:
        super().__init__(message)
        self.samples = samples


def init_chains(key: Key, model: Any, n_chains: int) -> PyTree:
    """Returns `n_chains` configurations with independent uniform levels, chain axis first (real units: from N(0, 1)).

    Raises ValueError when the model is not discrete or `n_chains` is under 1.
    """
    checks.check_key(key)
    checks.check_integer("n_chains", n_chains, 1)
    draw = getattr(model, "draw_position", None)
    if draw is not None:
        return jax.vmap(draw)(jax.random.split(key, n_chains))
    if not isinstance(model, DiscreteModel):
        raise ValueError(f"{model!r} has no discrete levels; start its chains from arrays of your own")
    words = jax.random.bits(key, (n_chains, model.graph.n_sites), jnp.uint32)
    levels = rng.below(words, model.n_levels).astype(jnp.int32)
    return jax.vmap(model.from_levels)(levels)


def sample(
    key: Key,
    kernel: Kernel,
    params: PyTree,
    init: PyTree,
    schedule: SamplingSchedule,
    *,
    beta: Any = 1.0,
    clamped: Any = None,
    observe: Callable[[PyTree, PyTree], PyTree] | Observer | None = None,
    mesh: Any = None,
    progress: bool = False,
    on_nonfinite: str = "raise",
) -> Samples:
    """Runs chains of `kernel` on p(x) ∝ exp(−β E(x; params)) and returns their samples.

    key: a typed key; chain i uses `fold_in(key, i)`.
    init: positions with a leading chain axis (of shape `(n,)`: n chains of scalars), or the `state` of an earlier run,
    which goes on as if it had not stopped when the key is the same and `n_warmup` is the `steps_per_sample` of before.
    schedule: the first sample comes after `n_warmup` steps, the others `steps_per_sample` apart; `n_samples=0` returns
    empty arrays.
    beta: a scalar, or one value for each of the `schedule.n_steps` steps; for one a chain, `vmap` this function.
    clamped: `(mask, values)`, pytrees shaped like a position, with or without a chain axis; sites under a True mask
    take the values and never move. None leaves the clamping of a continued `state`; a mask of False releases it.
    observe: `observe(params, x)` of one position, stacked over samples and chains, or an `Observer`. A new function
    object compiles anew; new numbers never do.
    mesh: only None for now. progress: shows a bar (runs in pieces; same bits).
    on_nonfinite: "raise" raises `NonFiniteError` after the run when a chain left the finite numbers; "report" leaves it
    to `info`.

    Raises ValueError on anything that does not fit the kernel, before any step is taken. Under a caller's `jit` or
    `vmap`, shapes and dtypes are checked and values are not.
    """
    checks.check_key(key)
    checks.check_choice("on_nonfinite", on_nonfinite, ("raise", "report"))
    if not hasattr(kernel, "packed_steps"):
        raise ValueError(f"kernel is {kernel!r}; give a kernel, e.g. gibbs(model)")
    if mesh is not None:
        raise ValueError(f"mesh is {mesh!r}; chains run on one device: leave mesh=None")
    if not isinstance(schedule, SamplingSchedule):
        raise ValueError(
            f"schedule is {schedule!r}; give a SamplingSchedule(n_warmup, n_samples, steps_per_sample)"
        )
    states = start_chains(kernel, params, init, clamped)
    params = strongly_typed(params)
    betas = _betas(beta, schedule)
    observe = _check_observer(observe)
    drive = functools.partial(_drive, schedule, observe)
    explicit = jax.sharding.get_abstract_mesh().explicit_axes
    if explicit:  # traced as a whole, so that the layout of chains is left to the compiler
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (key, params, betas, states)
        )
        struct = jax.eval_shape(functools.partial(drive, False), kernel, *shapes)
        out = _partitions(struct, partitions(states), isinstance(observe, Observer))
        samples = with_automatic_axes(
            functools.partial(drive, False), out, kernel, key, params, betas, states
        )
    else:
        samples = drive(progress, kernel, key, params, betas, states)
    if on_nonfinite == "raise" and kernel.may_diverge and checks.is_concrete(samples.info):
        _raise_on_nonfinite(kernel, samples)
    return samples


def _drive(
    schedule: SamplingSchedule,
    observe: Any,
    progress: bool,
    kernel: Kernel,
    key: Key,
    params: PyTree,
    betas: jax.Array,
    states: PyTree,
) -> Samples:
    """Runs chains from checked states, a piece at a time."""
    n_chains = count_chains(states)
    carry = _Carry(kernel.refresh(params, kernel.pack(params, states)), zero_info(n_chains), None)
    if isinstance(observe, Observer):
        carry = carry._replace(
            observed=jax.vmap(observe.init, (None, 0))(params, jax.vmap(kernel.position)(states))
        )
    keys = chain_keys(key, n_chains)

    pieces = _in_pieces(schedule) if progress else [(schedule.n_warmup, schedule.n_samples)]
    kept, taken = [], 0
    with _bar(progress, schedule) as advance:
        for lead, n_samples in pieces:
            n_steps = lead + max(n_samples - 1, 0) * schedule.steps_per_sample
            piece = betas if betas.ndim == 0 else betas[taken : taken + n_steps]
            plan = _Plan(lead, n_samples, schedule.steps_per_sample, observe)
            carry, stacked = _run(plan, kernel, keys, params, piece, carry)
            kept.append(stacked)
            taken += n_steps
            advance(n_samples, carry)
    stacked = kept[0] if len(kept) == 1 else jax.tree.map(lambda *parts: jnp.concatenate(parts), *kept)
    positions, observed = stacked
    if isinstance(observe, Observer):
        positions, observed = None, jax.vmap(observe.result)(carry.observed)
    return Samples(positions, observed, carry.info, kernel.unpack(carry.packed))


def _partitions(struct: Samples, of_states: PyTree, reduced: bool) -> Samples:
    """Returns how results lie on an explicit mesh: along their chain axis as the states do."""
    specs = [spec for spec in jax.tree.leaves(of_states, is_leaf=_is_spec) if spec]
    chains = specs[0][0] if specs else None
    first = lambda tree: jax.tree.map(lambda _: PartitionSpec(chains), tree)  # noqa: E731
    second = lambda tree: jax.tree.map(lambda _: PartitionSpec(None, chains), tree)  # noqa: E731
    observed = first(struct.observed) if reduced else second(struct.observed)
    return Samples(second(struct.positions), observed, first(struct.info), first(struct.state))


def _is_spec(node: Any) -> bool:
    return isinstance(node, PartitionSpec)


class _Plan(NamedTuple):
    """Structure of a piece: steps before its first sample, samples, steps between them, what to do with each."""

    lead: int
    n_samples: int
    steps_per_sample: int
    observe: Any


class _Carry(NamedTuple):
    packed: PyTree
    info: Info
    observed: PyTree


@functools.partial(jax.jit, static_argnums=0)
def _run(
    plan: _Plan, kernel: Kernel, keys: Key, params: PyTree, betas: jax.Array, carry: _Carry
) -> tuple[_Carry, tuple[PyTree, PyTree]]:
    """Runs one piece; returns the carry and the stacked (positions, observations)."""
    every = plan.steps_per_sample
    # When the lead is long enough its last part is the loop's first turn, so that the loop fills the whole stack.
    inside = plan.n_samples if plan.lead >= every else max(plan.n_samples - 1, 0)
    lead = plan.lead - every if plan.lead >= every and plan.n_samples > 0 else plan.lead

    def advance(carry: _Carry, b: jax.Array, n: int) -> _Carry:
        packed, info = kernel.packed_steps(keys, params, b, carry.packed, n)
        return carry._replace(packed=packed, info=carry.info.then(info))

    def record(carry: _Carry) -> tuple[_Carry, tuple[PyTree, PyTree]]:
        positions = kernel.packed_positions(carry.packed)
        if isinstance(plan.observe, Observer):
            observed = jax.vmap(plan.observe.update, (0, None, 0))(carry.observed, params, positions)
            return carry._replace(observed=observed), (None, None)
        seen = None if plan.observe is None else jax.vmap(plan.observe, (None, 0))(params, positions)
        return carry, (positions, seen)

    def turn(carry: _Carry, b: jax.Array) -> tuple[_Carry, tuple[PyTree, PyTree]]:
        return record(advance(carry, b, every))

    if lead > 0:
        carry = advance(carry, betas if betas.ndim == 0 else betas[:lead], lead)
    rest = betas if betas.ndim == 0 else betas[lead:].reshape(inside, every)
    if plan.n_samples > inside:
        carry, first = record(carry)
    each = jnp.broadcast_to(rest, (inside,)) if rest.ndim == 0 else rest
    carry, stacked = jax.lax.scan(turn, carry, each, length=inside)
    if plan.n_samples > inside:
        stacked = jax.tree.map(lambda one, many: jnp.concatenate([one[None], many]), first, stacked)
    return carry, stacked


def _betas(beta: Any, schedule: SamplingSchedule) -> jax.Array:
    if not jnp.issubdtype(getattr(beta, "dtype", type(beta)), jnp.number) or jnp.iscomplexobj(beta):
        raise ValueError(f"beta is {beta!r}; give a real number or an array of them")
    betas = jnp.asarray(beta, jnp.float32)
    if betas.ndim > 0 and betas.shape != (schedule.n_steps,):
        raise ValueError(
            f"beta has shape {betas.shape}; give a scalar, or one value for each of the {schedule.n_steps} steps "
            f"(n_warmup + (n_samples − 1) · steps_per_sample), shape ({schedule.n_steps},)"
        )
    checks.check_finite("beta", betas)
    return betas


def _check_observer(observe: Any) -> Any:
    if observe is not None and not callable(observe) and not isinstance(observe, Observer):
        raise ValueError(f"observe is {observe!r}; give a function observe(params, x) or an Observer")
    return observe


def _in_pieces(schedule: SamplingSchedule, n_pieces: int = 50) -> list[tuple[int, int]]:
    """Cuts a schedule into (lead, n_samples), equal but for the first and the last: few distinct programs."""
    size = max(1, -(-schedule.n_samples // n_pieces))
    counts = [size] * (schedule.n_samples // size)
    if schedule.n_samples % size:
        counts.append(schedule.n_samples % size)
    leads = [schedule.n_warmup] + [schedule.steps_per_sample] * (len(counts) - 1)
    return list(zip(leads, counts, strict=True)) if counts else [(schedule.n_warmup, 0)]


class _bar:
    """A tqdm bar over samples, or nothing."""

    def __init__(self, show: bool, schedule: SamplingSchedule) -> None:
        self._total = schedule.n_samples if show else None

    def __enter__(self) -> Callable[[int, PyTree], None]:
        if self._total is None:
            self._tqdm = None
            return lambda n, result: None
        from tqdm.auto import tqdm

        self._tqdm = bar = tqdm(total=self._total, unit="sample")

        def advance(n: int, result: PyTree) -> None:
            jax.block_until_ready(result)
            bar.update(n)

        return advance

    def __exit__(self, *exc: object) -> None:
        if self._tqdm is not None:
            self._tqdm.close()


def _raise_on_nonfinite(kernel: Any, samples: Samples) -> None:
    bad = np.flatnonzero(np.asarray(samples.info.n_nonfinite))
    if bad.size:
        chain = int(bad[0])
        step = int(samples.info.first_nonfinite[chain])
        raise NonFiniteError(
            f"chain {chain} {kernel.nonfinite_means} after step {step} ({bad.size} of "
            f"{samples.info.n_nonfinite.size} chains did so at some step): take smaller steps, look at β, or keep what "
            'there is with on_nonfinite="report"; the whole run is in this error\'s .samples',
            samples,
        )
