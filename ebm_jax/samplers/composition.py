"""Kernels made of kernels.

Kernels K₁ … K_m that leave one law invariant leave it so in turn (`cycle`), and when one of them is picked at random
with fixed probabilities (`mixture`; Tierney 1994, sec. 2.4). A configuration of several parts, labels and pixels say,
is updated part by part, each by a kernel for its own kind of values that leaves the part's conditional given the others
invariant (`within_gibbs`; "Metropolis within Gibbs", Müller 1991). All follow exp(−β E) at one β.

A composed state is the configuration alone. What a kernel keeps between steps (MALA and HMC their gradient) belongs to
a position that another kernel then moves, so it is computed anew at every turn.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import checks, rng
from ebm_jax.samplers.base import ChainState, Kernel, energy_of, member_keys
from ebm_jax.samplers.continuous import AdjustedKernelBase
from ebm_jax.types import Info, Key, PyTree

_PICK = 0x7069636B  # folded into a chain's key for the choice of a mixture; its kernels fold in their number


class _Composed(Kernel):
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
    def energy(self) -> Any:
        """The energy of the first kernel; all have to follow the same."""
        return energy_of(self.kernels[0])

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Raises ValueError where any of the kernels does."""
        for kernel in self.kernels:
            kernel.check(params, x, clamped)


@functools.partial(jax.tree_util.register_dataclass, data_fields=("kernels",), meta_fields=())
@dataclass(frozen=True, eq=False)
class Cycle(_Composed):
    """The kernel that `cycle` builds."""

    kernels: tuple[Any, ...]

    def step(self, key: Key, params: PyTree, beta: Any, state: ChainState) -> tuple[ChainState, Info]:
        """Takes a step of every kernel, in order."""
        keys = member_keys(key, len(self.kernels))
        position, report = state.position, Info.zero()
        for number, kernel in enumerate(self.kernels):
            position, info = _turn(kernel, keys[number], params, beta, state, position, state.clamped)
            report = report.then(info)
        return _stepped(state, position), _one_step(report)


def cycle(kernels: Sequence[Any]) -> Cycle:
    """Returns the kernel that takes a step of each of `kernels` in turn; one step is a whole round.

    kernels: of the same energy and kind of configuration; repeat one to take several of its steps. A local kernel with
    a rare global one is the classic use: `cycle([gibbs(model)] * 10 + [swendsen_wang(model)])`. The invariant law is
    theirs; a cycle of reversible kernels is not reversible itself.
    Raises ValueError on an empty sequence, on kernels of different models, and on kernels whose chains are more than a
    position (parallel tempering). That energies given as functions are the same is not looked at: a kernel of another
    energy makes the law neither's.
    """
    return Cycle(_of_one_model(_members("kernels", kernels)))


@functools.partial(jax.tree_util.register_dataclass, data_fields=("kernels", "probabilities"), meta_fields=())
@dataclass(frozen=True, eq=False)
class Mixture(_Composed):
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
        turns = [
            functools.partial(_turn, kernel, keys[number], params, beta, state)
            for number, kernel in enumerate(self.kernels)
        ]
        # All are taken and one is kept: a `switch` on each chain's own number would map parameters and tables, too.
        taken = [turn(state.position, state.clamped) for turn in turns]
        keep = lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves])[pick]  # noqa: E731
        position, info = jax.tree.map(keep, *taken)
        return _stepped(state, position), _one_step(info)

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Raises ValueError where any of the kernels does, or the probabilities are none."""
        _check_probabilities(self.probabilities, len(self.kernels))
        super().check(params, x, clamped)


def mixture(kernels: Sequence[Any], probabilities: Any) -> Mixture:
    """Returns the kernel that takes a step of one of `kernels`, number i with probability `probabilities[i]`.

    The choice is each chain's own, to 2⁻²⁴, and does not look at the configuration; reversible kernels make a
    reversible mixture. Chains that run side by side compute all kernels and keep one's result each: a mixture costs as
    much as a `cycle`. probabilities: `(len(kernels),)`, sum 1; a leaf, so new ones do not compile anew.
    Raises ValueError on probabilities that are none, and where `cycle` does.
    """
    members = _of_one_model(_members("kernels", kernels))
    numbers = jnp.asarray(probabilities, jnp.float32)
    _check_probabilities(numbers, len(members))
    return Mixture(members, numbers)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("kernels",), meta_fields=("parts", "parameters")
)
@dataclass(frozen=True, eq=False)
class WithinGibbs(_Composed):
    """The kernel that `within_gibbs` builds. parts: names of the parts, in order; parameters: for each the function
    that gives its kernel's parameters, or None where the kernel follows the joint energy.
    """

    kernels: tuple[Any, ...]
    parts: tuple[Any, ...]
    parameters: tuple[Callable[[PyTree, PyTree], PyTree] | None, ...]

    @property
    def energy(self) -> Any:
        """The joint energy: that of the first part whose kernel follows it."""
        for kernel, own in zip(self.kernels, self.parameters, strict=True):
            if own is None:
                return energy_of(kernel)
        return None

    def step(self, key: Key, params: PyTree, beta: Any, state: ChainState) -> tuple[ChainState, Info]:
        """Takes a step of every part's kernel, in order, the other parts as they stand."""
        keys = member_keys(key, len(self.kernels))
        x, report = state.position, Info.zero()
        for number, part in enumerate(self.parts):
            kernel, given = self._conditional(number, params, x)
            mask = None if state.clamped is None else _get(state.clamped, part)
            new, info = _turn(kernel, keys[number], given, beta, state, _get(x, part), mask)
            x, report = _put(x, part, new), report.then(info)
        return _stepped(state, x), _one_step(report)

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Raises ValueError where a part is missing, or does not fit its kernel."""
        first = lambda leaf: leaf[0]  # noqa: E731
        one = jax.tree.map(first, x)
        for number, part in enumerate(self.parts):
            kernel, given = self._conditional(number, params, one)
            held = None if clamped is None else (_get(clamped[0], part), _get(clamped[1], part))
            alone = _get(x, part)
            if isinstance(
                kernel, AdjustedKernelBase
            ):  # looks at energies, which are those of the first chain here
                alone = jax.tree.map(lambda leaf: leaf[:1], alone)
                if held is not None and jax.tree.leaves(held)[0].ndim == jax.tree.leaves(alone)[0].ndim:
                    held = jax.tree.map(lambda leaf: leaf[:1], held)
            kernel.check(given, alone, held)
        Kernel.check(self, params, x, clamped)
        self._check_energies(params, x)

    def _conditional(self, number: int, params: PyTree, x: PyTree) -> tuple[Any, PyTree]:
        """Returns the kernel of a part and its parameters, given the other parts of `x`."""
        kernel, own, part = self.kernels[number], self.parameters[number], self.parts[number]
        _get(x, part)
        if own is not None:
            return kernel, own(params, x)
        return replace(kernel, energy=_Conditional(energy_of(kernel), part)), (params, x)

    def _check_energies(self, params: PyTree, x: PyTree) -> None:
        if self.energy is None or not checks.is_concrete((params, x)):
            return
        energies = np.asarray(jax.vmap(self.energy, (None, 0))(params, x))
        bad = np.flatnonzero(~np.isfinite(energies))
        if bad.size:
            raise ValueError(
                f"chain {bad[0]} starts where its energy is {energies[bad[0]]} ({bad.size} of {energies.size} chains "
                "do so); start where the energy is finite"
            )


def within_gibbs(kernels: Mapping[Any, Any]) -> WithinGibbs:
    """Returns the kernel that updates the parts of a configuration in turn, each with a kernel of its own.

    kernels: what updates which part, in order: keys of a dict, fields of a NamedTuple or indices of a tuple. A value is

    - a kernel of the joint energy, `energy(params, x)` with x whole (ula, langevin, mala, hmc, categorical_gibbs): it
      moves its part and sees the others as they stand: `within_gibbs({"label": categorical_gibbs(energy, 10),
      "pixels": langevin(energy, 10.0, 0.005)})`;
    - or a pair `(kernel, parameters)` of a kernel of a model (gibbs, metropolis, …) for the part alone and the function
      `parameters(params, x)` that gives that model's parameters from the other parts, such that the model's law is the
      part's conditional at every β.

    Parts that are not named stay as they are. Raises ValueError on an empty mapping, a kernel of a model without
    parameters, and kernels whose chains are more than a position.
    """
    if not isinstance(kernels, Mapping) or not kernels:
        raise ValueError(f'kernels is {kernels!r}; give at least one part and its kernel, {{"part": kernel}}')
    own = {part: value[1] if isinstance(value, tuple) else None for part, value in kernels.items()}
    members = _members(
        "kernels", [value[0] if isinstance(value, tuple) else value for value in kernels.values()]
    )
    for (part, parameters), kernel in zip(own.items(), members, strict=True):
        if parameters is None and isinstance(kernel, _Composed):
            raise ValueError(
                f"the kernel of part {part!r} is a {type(kernel).__name__}; name the part of several kernels instead: "
                "cycle([within_gibbs({part: one}), within_gibbs({part: other})])"
            )
        if parameters is None and (
            kernel.needs_model or "energy" not in getattr(kernel, "__dataclass_fields__", {})
        ):
            raise ValueError(
                f"the kernel of part {part!r} is a {type(kernel).__name__} of a model of its own; give "
                "(kernel, parameters) with parameters(params, x) from the other parts"
            )
        if parameters is not None and not callable(parameters):
            raise ValueError(
                f"the parameters of part {part!r} are {parameters!r}; give a function (params, x)"
            )
    return WithinGibbs(members, tuple(own), tuple(own.values()))


@dataclass(frozen=True)
class _Conditional:
    """The joint energy as a function of one part; its parameters are the pair (params, whole configuration)."""

    joint: Any  # not `energy`: that would make it look like a model
    part: Any

    def __call__(self, given: tuple[PyTree, PyTree], value: PyTree) -> jax.Array:
        params, x = given
        return self.joint(params, _put(x, self.part, value))


def _turn(
    kernel: Any, key: Key, params: PyTree, beta: Any, state: ChainState, x: PyTree, mask: PyTree
) -> tuple[PyTree, Info]:
    """Returns where one step of `kernel` leads from `x`."""
    start = kernel.init(params, x, None if mask is None else (mask, x))._replace(step=state.step)
    end, info = kernel.step(key, params, beta, start)
    return kernel.position(end), info


def _stepped(state: ChainState, position: PyTree) -> ChainState:
    return ChainState(position, state.clamped, state.step + jnp.uint32(1))


def _one_step(report: Info) -> Info:
    """Returns a report of several kernels' steps as that of one step."""
    bad = (report.n_nonfinite > 0).astype(jnp.int32)
    return report._replace(n_steps=jnp.ones((), jnp.int32), n_nonfinite=bad)


def _members(name: str, kernels: Any) -> tuple[Any, ...]:
    if not isinstance(kernels, Sequence) or not kernels:
        given = "empty" if isinstance(kernels, Sequence) else f"a {type(kernels).__name__}"
        raise ValueError(f"{name} is {given}; give a list of at least one kernel")
    for kernel in kernels:
        if not hasattr(kernel, "packed_steps"):
            raise ValueError(f"{name} holds {kernel!r}; give kernels, e.g. gibbs(model)")
        if not kernel.memoryless:
            raise ValueError(
                f"{type(kernel).__name__} keeps more than a position and cannot be a part of another kernel; "
                "compose what it is made of instead"
            )
    return tuple(kernels)


def _of_one_model(kernels: tuple[Any, ...]) -> tuple[Any, ...]:
    models = [kernel.model for kernel in kernels if getattr(kernel, "model", None) is not None]
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


def _get(x: PyTree, part: Any) -> PyTree:
    parts = list(x) if isinstance(x, Mapping) else list(getattr(x, "_fields", ()))
    if not parts and isinstance(x, Sequence):
        parts = list(range(len(x)))
    if part not in parts:
        raise ValueError(f"a position has no part {part!r}; its parts are {parts}")
    return getattr(x, part) if hasattr(x, "_fields") else x[part]


def _put(x: Any, part: Any, value: PyTree) -> PyTree:
    if isinstance(x, Mapping):
        return type(x)({**x, part: value})  # pyright: ignore[reportCallIssue]
    if hasattr(x, "_fields"):
        return x._replace(**{part: value})
    kind: Any = type(x)
    return kind(value if number == part else old for number, old in enumerate(x))
