"""Running chains: warm-up, thinning, observation, progress.

One scan serves every kernel. Chains run side by side in the kernel's packed form. Each has the key
`fold_in(key, chain_index)`, unchanged at every step, so a run cut into pieces equals the whole bit for bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from ebm_jax import checks
from ebm_jax.chains import partitions, with_automatic_axes
from ebm_jax.graphs.blocks import SamplingSchedule
from ebm_jax.progress import SampleBar, in_pieces, until_interrupted
from ebm_jax.samplers.base import Kernel
from ebm_jax.samplers.start import begin, check_kernel, check_size, pack_chains, unpack_chains
from ebm_jax.types import Info, Key, PyTree


class Samples(NamedTuple):
    """What `sample` returns.

    Attributes:
      positions: Pytree of `(n_samples, n_chains, ...)`; None with an `Observer`, which replaces stored samples.
      observed: What `observe` gave, `(n_samples, n_chains, ...)`, or the observer's results, `(n_chains, ...)`; None
        without either.
      info: Counts over all steps, `(n_chains,)` each.
      state: The states of the kernel, chain axis first. `sample(init=samples.state)` continues the chains.

    Example:
      >>> ej.Samples._fields
      ('positions', 'observed', 'info', 'state')
    """

    positions: PyTree
    observed: PyTree
    info: Info
    state: PyTree


class Observer(NamedTuple):
    """A reduction over the samples of each chain in constant memory; `sample` maps it over chains.

    Attributes:
      init: `(params, x) -> carry`, called once with the starting position, which is no sample.
      update: `(carry, params, x) -> carry`, called with every sample.
      result: `carry -> value`.

    Example:
      >>> largest = ej.Observer(
      ...     init=lambda params, x: jnp.float32(-jnp.inf),
      ...     update=lambda carry, params, x: jnp.maximum(carry, x),
      ...     result=lambda carry: carry,
      ... )
      >>> kernel = ej.mala(lambda params, x: x**2 / 2, 1.0)
      >>> run = ej.sample(
      ...     jax.random.key(0), kernel, None, jnp.zeros(4), ej.SamplingSchedule(10, 10, 10), observe=largest
      ... )
      >>> run.observed.shape
      (4,)
    """

    init: Callable[[PyTree, PyTree], PyTree]
    update: Callable[[PyTree, PyTree, PyTree], PyTree]
    result: Callable[[PyTree], PyTree]


class NonFiniteError(FloatingPointError):
    """Raised after a run of which a chain reached a NaN or infinite value.

    Attributes:
      samples: The whole run.

    Example:
      >>> kernel = ej.langevin(lambda params, x: -(x**4), 1.0, 1.0)
      >>> try:
      ...     ej.sample(jax.random.key(0), kernel, None, jnp.ones(2), ej.SamplingSchedule(50, 1))
      ... except ej.NonFiniteError as error:
      ...     error.samples.positions.shape
      (1, 2)
    """

    def __init__(self, message: str, samples: Samples) -> None:
        super().__init__(message)
        self.samples = samples


def sample(
    key: Key,
    kernel: Kernel,
    params: PyTree,
    init: PyTree,
    schedule: SamplingSchedule,
    *,
    beta: Any = 1.0,
    clamped: Any = None,
    field: PyTree = None,
    observe: Callable[[PyTree, PyTree], PyTree] | Observer | None = None,
    mesh: Any = None,
    progress: bool = False,
    on_nonfinite: str = "raise",
) -> Samples:
    """Runs chains of a kernel on p(x) ∝ exp(−β E(x; params)) and returns their samples.

    Other values of the arguments reuse the compiled program. Passing a new `observe` function compiles again. Under a
    caller's `jit` or `vmap`, shapes and dtypes are checked and values are not.

    Args:
      key: A typed key. Chain i uses `fold_in(key, i)`.
      kernel: A kernel, e.g. `gibbs(model)`.
      params: Parameters of the energy.
      init: Positions with a leading chain axis (of shape `(n,)`: n chains of scalars), or the `state` of an earlier
        run. That run goes on as if it had not stopped if the key is the same and `n_warmup` is its `steps_per_sample`.
      schedule: The first sample comes after `n_warmup` steps, the others `steps_per_sample` apart. `n_samples=0`
        returns empty arrays.
      beta: Inverse temperature: a scalar, or one value for each of the `schedule.n_steps` steps. For one a chain,
        `vmap` this function.
      clamped: `(mask, values)`, pytrees shaped like a position, with or without a chain axis. Sites under a True mask
        take the values and never move. None keeps the clamping of an earlier `state`. Pass an all-False mask to remove
        it.
      field: Only for `gibbs`: what each chain adds to the biases, floats shaped like the biases with a chain axis
        first. Chain i samples p(x) ∝ exp(−β E(x; params + fieldᵢ)); for spins this is E − Σ f s. A Potts model takes
        `(n_chains, *sites, K)`, an RBM `(visible, hidden)` with None for no field, and a model with `bias="tied"`
        `(n_chains,)`. A `FactorGraph` takes a tuple like its parameters, to all of which it may add, with None for no
        field. None keeps the field of an earlier `state`. Pass zeros to remove it.
      observe: `observe(params, x)` of one position, stacked over samples and chains, or an `Observer`.
      mesh: Only None for now.
      progress: Whether to show a bar. The run is then made in pieces, with the same bits. An interrupt (Ctrl-C) ends it
        with a warning and the samples that there are, unless there is none.
      on_nonfinite: "raise" raises `NonFiniteError` after the run if a chain left the finite numbers; "report" leaves it
        to `info`.

    Returns:
      A `Samples`.

    Raises:
      ValueError: If anything does not fit the kernel, or the samples do not fit in memory, before any step is taken.
      NonFiniteError: If a chain reached a NaN or infinite value and `on_nonfinite` is "raise".

    Example:
      >>> model = ej.Ising(ej.Grid(3, 4))
      >>> params = model.init(jax.random.key(0))
      >>> start = ej.init_chains(jax.random.key(1), model, 16)
      >>> samples = ej.sample(
      ...     jax.random.key(2), ej.gibbs(model), params, start, ej.SamplingSchedule(10, 5, 10)
      ... )
      >>> samples.positions.shape
      (5, 16, 3, 4)
    """
    checks.check_choice("on_nonfinite", on_nonfinite, ("raise", "report"))
    check_kernel(kernel)
    if mesh is not None:
        raise ValueError(f"mesh is {mesh!r}; chains run on one device: leave mesh=None")
    if not isinstance(schedule, SamplingSchedule):
        raise ValueError(
            f"schedule is {schedule!r}; give a SamplingSchedule(n_warmup, n_samples, steps_per_sample)"
        )
    params, states = begin(key, kernel, params, init, clamped, field)
    betas = _betas(beta, schedule)
    observe = _check_observer(observe)
    drive = functools.partial(_drive, schedule, observe)
    explicit = jax.sharding.get_abstract_mesh().explicit_axes
    if explicit:
        # Traced as a whole, so that the layout of chains is left to the compiler.
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
        raise_on_nonfinite(kernel, samples)
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
    check_size(kernel, params, states, schedule, observe, stored=not isinstance(observe, Observer))
    keys, packed, info = pack_chains(key, kernel, params, states)
    carry = _Carry(packed, info, None)
    if isinstance(observe, Observer):
        carry = carry._replace(
            observed=jax.vmap(observe.init, (None, 0))(params, jax.vmap(kernel.position)(states))
        )
    pieces = in_pieces(schedule) if progress else [(schedule.n_warmup, schedule.n_samples)]
    kept, taken = [], 0
    with SampleBar(progress, schedule) as advance, until_interrupted(lambda: pieces[: len(kept)]):
        for lead, n_samples in pieces:
            n_steps = lead + max(n_samples - 1, 0) * schedule.steps_per_sample
            piece = betas if betas.ndim == 0 else betas[taken : taken + n_steps]
            plan = _Plan(lead, n_samples, schedule.steps_per_sample, observe)
            new, stacked = _run(plan, kernel, keys, params, piece, carry)
            # An interrupt comes before or after this line, so samples and states belong to the same step.
            carry, kept, taken = new, [*kept, stacked], taken + n_steps
            advance(n_samples, carry)
    stacked = kept[0] if len(kept) == 1 else jax.tree.map(lambda *parts: jnp.concatenate(parts), *kept)
    positions, observed = stacked
    if isinstance(observe, Observer):
        positions, observed = None, jax.vmap(observe.result)(carry.observed)
    return Samples(positions, observed, carry.info, unpack_chains(kernel, carry.packed))


def _partitions(struct: Samples, of_states: PyTree, reduced: bool) -> Samples:
    """Returns how results lie on an explicit mesh: along their chain axis as the states do."""
    specs = [spec for spec in jax.tree.leaves(of_states, is_leaf=_is_spec) if spec]
    chains = specs[0][0] if specs else None

    def first(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda _: PartitionSpec(chains), tree)

    def second(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda _: PartitionSpec(None, chains), tree)

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
    # If the lead is long enough, its last part is the loop's first iteration, so that the loop fills the whole stack.
    # A single sample needs no loop, which would be the same steps compiled a second time.
    absorbed = plan.lead >= every and plan.n_samples > 1
    inside = plan.n_samples if absorbed else max(plan.n_samples - 1, 0)
    lead = plan.lead - every if absorbed else plan.lead

    take_steps = kernel.stepper(keys, params, betas, carry.packed)

    def advance(carry: _Carry, b: jax.Array, n: int) -> _Carry:
        packed, info = take_steps(b, carry.packed, n)
        return carry._replace(packed=packed, info=carry.info.then(info))

    def record(carry: _Carry) -> tuple[_Carry, tuple[PyTree, PyTree]]:
        positions = kernel.packed_positions(carry.packed)
        if isinstance(plan.observe, Observer):
            observed = jax.vmap(plan.observe.update, (0, None, 0))(carry.observed, params, positions)
            return carry._replace(observed=observed), (None, None)
        observed = None if plan.observe is None else jax.vmap(plan.observe, (None, 0))(params, positions)
        return carry, (positions, observed)

    def scan_body(carry: _Carry, b: jax.Array) -> tuple[_Carry, tuple[PyTree, PyTree]]:
        return record(advance(carry, b, every))

    if lead > 0:
        carry = advance(carry, betas if betas.ndim == 0 else betas[:lead], lead)
    if plan.n_samples > inside:
        carry, first = record(carry)
    if plan.n_samples == 1:
        return carry, jax.tree.map(lambda leaf: leaf[None], first)
    rest = betas if betas.ndim == 0 else betas[lead:].reshape(inside, every)
    each = jnp.broadcast_to(rest, (inside,)) if rest.ndim == 0 else rest
    carry, stacked = jax.lax.scan(scan_body, carry, each, length=inside)
    if plan.n_samples > inside:
        stacked = jax.tree.map(lambda one, many: jnp.concatenate([one[None], many]), first, stacked)
    return carry, stacked


def _betas(beta: Any, schedule: SamplingSchedule) -> jax.Array:
    if isinstance(beta, list | tuple):
        beta = np.asarray(beta) if checks.is_concrete(beta) else jnp.asarray(beta)
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


def raise_on_nonfinite(kernel: Kernel, samples: Samples, first: int = 0) -> None:
    """Raises NonFiniteError if a chain left the finite numbers; `first` is the number of the first chain."""
    # On a CPU NumPy ends the process when it reads an array that could not be allocated; waiting for it raises.
    bad = np.flatnonzero(jax.block_until_ready(samples.info.n_nonfinite))
    if bad.size:
        chain = int(bad[0])
        step = int(samples.info.first_nonfinite[chain])
        raise NonFiniteError(
            f"chain {first + chain} {kernel.nonfinite_means} after step {step} ({bad.size} of "
            f"{samples.info.n_nonfinite.size} chains did so at some step): take smaller steps, look at β, or keep what "
            'there is with on_nonfinite="report"; the whole run is in this error\'s .samples',
            samples,
        )
