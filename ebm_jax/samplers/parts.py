"""Gibbs over the parts of a configuration, each updated by a kernel for its own kind of values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax

from ebm_jax.samplers.acceptance import AcceptRejectKernel, check_energies
from ebm_jax.samplers.base import ChainState, EnergyKernel, Kernel, energy_of, known_energy, member_keys
from ebm_jax.samplers.composition import ComposedKernel, as_one_step, checked_members, step_from, stepped
from ebm_jax.types import Info, Key, PyTree


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("kernels",), meta_fields=("parts", "parameters")
)
@dataclass(frozen=True, eq=False)
class WithinGibbs(ComposedKernel):
    """The kernel that `within_gibbs` builds.

    Attributes:
      kernels: The kernels, in order.
      parts: Names of the parts that they move.
      parameters: For each the function that gives its kernel's parameters; None where it follows the joint energy.
    """

    kernels: tuple[Any, ...]
    parts: tuple[Any, ...]
    parameters: tuple[Callable[[PyTree, PyTree], PyTree] | None, ...]

    @property
    def energy_function(self) -> Callable[[PyTree, PyTree], jax.Array] | None:
        """The joint energy, that of the first part whose kernel follows it; None if none does."""
        for kernel, own in zip(self.kernels, self.parameters, strict=True):
            if own is None:
                return known_energy(kernel)
        return None

    def step(self, key: Key, params: PyTree, beta: Any, state: ChainState) -> tuple[ChainState, Info]:
        """Takes a step of every part's kernel, in order, the other parts as they stand."""
        keys = member_keys(key, len(self.kernels))
        x, report = state.position, Info.zero()
        for number, part in enumerate(self.parts):
            kernel, given = self._conditional(number, params, x)
            mask = None if state.clamped is None else _get(state.clamped, part)
            new, info = step_from(kernel, keys[number], given, beta, state, _get(x, part), mask)
            x, report = _put(x, part, new), report.then(info)
        return stepped(state, x), as_one_step(report)

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Checks each part by its kernel.

        Raises:
          ValueError: If a part is missing, or does not fit its kernel.
        """
        one = jax.tree.map(lambda leaf: leaf[0], x)
        for number, part in enumerate(self.parts):
            kernel, given = self._conditional(number, params, one)
            held = None if clamped is None else (_get(clamped[0], part), _get(clamped[1], part))
            alone = _get(x, part)
            # Such a kernel looks at energies, and the parameters here are those of the first chain.
            if isinstance(kernel, AcceptRejectKernel):
                alone = jax.tree.map(lambda leaf: leaf[:1], alone)
                if held is not None and jax.tree.leaves(held)[0].ndim == jax.tree.leaves(alone)[0].ndim:
                    held = jax.tree.map(lambda leaf: leaf[:1], held)
            kernel.check(given, alone, held)
        Kernel.check(self, params, x, clamped)
        if self.energy_function is not None:
            check_energies(self.energy_function, params, x, "which no step leaves: start where it is finite")

    def _conditional(self, number: int, params: PyTree, x: PyTree) -> tuple[Any, PyTree]:
        """Returns the kernel of a part and its parameters, given the other parts of `x`."""
        kernel, own, part = self.kernels[number], self.parameters[number], self.parts[number]
        _get(x, part)
        if own is not None:
            return kernel, own(params, x)
        return replace(kernel, energy=_Conditional(kernel.energy, part)), (params, x)


def within_gibbs(kernels: Mapping[Any, Any]) -> WithinGibbs:
    """Builds the kernel that updates the parts of a configuration in turn, each with a kernel of its own.

    Each kernel leaves its part's conditional given the other parts invariant ("Metropolis within Gibbs", Müller 1991).
    Parts that are not named stay as they are.

    Args:
      kernels: What updates which part, in order. Parts are keys of a dict, fields of a NamedTuple or indices of a
        tuple. A value is one of two:

        - A kernel of the joint energy, `energy(params, x)` with x whole (ula, langevin, mala, hmc, categorical_gibbs).
          It moves its part and sees the others as they stand.
        - A pair `(kernel, parameters)`: a kernel of a model (gibbs, metropolis, …) for the part alone, and the function
          `parameters(params, x)` that gives that model's parameters from the other parts. The model's law has to be
          the part's conditional at every β.

    Returns:
      A `Kernel` for `sample`.

    Raises:
      ValueError: If the mapping is empty, a kernel of a model comes without parameters, or the chains of a kernel are
        more than a position.

    Example:
      >>> energy = lambda params, x: (x["pixels"] - x["label"]) ** 2 / 2
      >>> kernel = ej.within_gibbs({"label": ej.categorical_gibbs(energy, 3), "pixels": ej.mala(energy, 1.0)})
      >>> start = {"label": jnp.zeros(4, jnp.int32), "pixels": jnp.zeros(4)}
      >>> samples = ej.sample(jax.random.key(0), kernel, None, start, ej.SamplingSchedule(10, 5, 10))
      >>> samples.positions["label"].shape
      (5, 4)
    """
    if not isinstance(kernels, Mapping) or not kernels:
        raise ValueError(f'kernels is {kernels!r}; give at least one part and its kernel, {{"part": kernel}}')
    own = {part: value[1] if isinstance(value, tuple) else None for part, value in kernels.items()}
    members = checked_members(
        "kernels", [value[0] if isinstance(value, tuple) else value for value in kernels.values()]
    )
    for (part, parameters), kernel in zip(own.items(), members, strict=True):
        if parameters is None and isinstance(kernel, ComposedKernel):
            raise ValueError(
                f"the kernel of part {part!r} is a {type(kernel).__name__}; name the part of several kernels instead: "
                "cycle([within_gibbs({part: one}), within_gibbs({part: other})])"
            )
        if parameters is None and not isinstance(kernel, EnergyKernel):
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

    # A model or a function, which compare by value. A field `energy` would make this look like a model.
    joint: Any
    part: Any

    def __call__(self, given: tuple[PyTree, PyTree], value: PyTree) -> jax.Array:
        params, x = given
        return energy_of(self.joint)(params, _put(x, self.part, value))


def _get(x: PyTree, part: Any) -> PyTree:
    """Returns a part of a configuration.

    Raises:
      ValueError: If there is no such part.
    """
    parts = list(x) if isinstance(x, Mapping) else list(getattr(x, "_fields", ()))
    if not parts and isinstance(x, Sequence):
        parts = list(range(len(x)))
    if part not in parts:
        raise ValueError(f"a position has no part {part!r}; its parts are {parts}")
    return getattr(x, part) if hasattr(x, "_fields") else x[part]


def _put(x: Any, part: Any, value: PyTree) -> PyTree:
    """Returns the configuration with another value of a part."""
    if isinstance(x, Mapping):
        return type(x)({**x, part: value})  # pyright: ignore[reportCallIssue]
    if hasattr(x, "_fields"):
        return x._replace(**{part: value})
    kind: Any = type(x)
    return kind(value if number == part else old for number, old in enumerate(x))
