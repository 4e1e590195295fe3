"""A kernel that steps by an algorithm of BlackJAX."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.base import SamplingAlgorithm

from ebm_jax import checks
from ebm_jax.samplers.base import Kernel, check_precision, energy_of, step_number
from ebm_jax.samplers.continuous import ContinuousKernel
from ebm_jax.types import Info, Key, PyTree

# Fields of BlackJAX's states that its `init` makes from a position, a target and fresh randomness.
_COMPUTED = {"position", "logdensity", "logdensity_grad", "random_generator_arg"}

# Fields that stay from step to step: auxiliary variables of the chain, whatever its target.
_KEPT = ("momentum", "slice")

# Folded into a chain's key before the step, because other keys are derived from the chain's, too.
_STEP_KEY = 0x626C6A78


class BlackJAXState(NamedTuple):
    """The state of a chain.

    Attributes:
      position: The configuration.
      step: uint32 counter of steps taken.
      kept: A dict of what else the algorithm keeps, empty for most.
      drawn: bool, whether `kept` has been drawn, which the first step does.
    """

    position: PyTree
    step: jax.Array
    kept: dict[str, PyTree]
    drawn: jax.Array


class ByIdentity:
    """A value that is equal only to itself: BlackJAX's algorithms cannot be hashed."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByIdentity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)

    def __repr__(self) -> str:
        return repr(self.value)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("numbers",),
    meta_fields=("energy", "algorithm", "names", "structure", "stages", "exact"),
)
@dataclass(frozen=True, eq=False)
class BlackJAX(ContinuousKernel):
    """The kernel that `from_blackjax` builds: numbers among the settings are leaves, everything else is structure.

    Attributes:
      energy: The energy, or None if the algorithm was built before, for one target.
      algorithm: BlackJAX's algorithm.
      numbers: Leaves of the settings that are numbers, with None in place of the others.
      names: Tree structure of the settings.
      structure: The other leaves, with None in place of the numbers.
      stages: Number of gradients in an integration step.
      exact: Whether a step leaves its distribution invariant.
    """

    energy: Any
    algorithm: ByIdentity
    numbers: tuple[Any, ...]
    names: Any
    structure: tuple[Any, ...]
    stages: int
    exact: bool

    state_type = BlackJAXState

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of the algorithm besides the log density."""
        leaves = [s if n is None else n for n, s in zip(self.numbers, self.structure, strict=True)]
        return jax.tree.unflatten(self.names, leaves)

    def init(self, params: PyTree, x: PyTree, clamped: Any = None) -> BlackJAXState:
        """Returns the state of a chain at `x`. Raises ValueError on `clamped`, because BlackJAX clamps nothing."""
        _refuse_clamped(clamped)
        fields = self._struct(params, x)._asdict()
        kept = {name: fields[name] for name in _KEPT if name in fields}
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), kept)
        return BlackJAXState(x, jnp.zeros((), jnp.uint32), zeros, jnp.zeros((), jnp.bool_))

    def step(self, key: Key, params: PyTree, beta: Any, state: BlackJAXState) -> tuple[BlackJAXState, Info]:
        """Takes one step of the algorithm on p(x) ∝ exp(−β E(x; params)).

        Raises:
          ValueError: If the algorithm was built before and there are parameters or β is not 1. A traced β other than 1
            makes the position NaN, which `sample` reports.
        """
        position = state.position
        if self.energy is None:
            position = _own_target(params, beta, position)
        algorithm = self._built(params, beta)
        start_key, step_key, count_key = jax.random.split(
            jax.random.fold_in(jax.random.fold_in(key, _STEP_KEY), state.step), 3
        )
        start = algorithm.init(position, start_key)
        fresh = {name: getattr(start, name) for name in state.kept}
        kept = jax.tree.map(lambda old, new: jnp.where(state.drawn, old, new), state.kept, fresh)
        end: Any
        end, info = algorithm.step(step_key, start._replace(**kept))
        new = jax.tree.map(lambda leaf, old: jnp.asarray(leaf, old.dtype), end.position, position)
        step = state.step + jnp.uint32(1)
        finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(new)]).all()
        report = Info.of(
            n_steps=1,
            n_nonfinite=~finite,
            first_nonfinite=jnp.where(finite, -1, step_number(step)),
            **self._evaluations(start, info),
            **_acceptance(count_key, info),
        )
        kept = {name: getattr(end, name) for name in kept}
        return BlackJAXState(new, step, kept, jnp.ones((), jnp.bool_)), report

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Checks that chains `x` (leading chain axis) fit the algorithm and its energy.

        Raises:
          ValueError: If they do not fit.
        """
        _refuse_clamped(clamped)
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), x)
        if self.energy is None:
            _own_target(params, 1.0, x)
            Kernel.check(self, params, x, None)
        else:
            super().check(params, x, None)
        self._struct(params, one)

    def _built(self, params: PyTree, beta: Any) -> SamplingAlgorithm:
        """Returns BlackJAX's algorithm for the target of these parameters at this β."""
        if self.energy is None:
            return self.algorithm.value

        def logdensity(x: PyTree) -> jax.Array:
            energy = jnp.asarray(energy_of(self.energy)(params, x))
            if self.exact:
                check_precision("energy", energy)
            return (-beta * energy).astype(energy.dtype)

        return self.algorithm.value(logdensity, **self.settings)

    def _struct(self, params: PyTree, x: PyTree) -> Any:
        """Returns shapes and dtypes of the algorithm's state at `x`; raises ValueError if a kernel cannot keep it."""

        def start(params: PyTree, x: PyTree, key: Key) -> Any:
            return self._built(params, 1.0).init(x, key)

        state = jax.eval_shape(start, params, x, jax.random.key(0))
        fields = set(getattr(state, "_fields", ()))
        if "position" not in fields:
            raise ValueError(
                f"{self.algorithm!r} has states of {type(state).__name__} without a position; give an algorithm that "
                "moves one chain, e.g. blackjax.nuts"
            )
        unknown = sorted(fields - _COMPUTED - set(_KEPT))
        if unknown:
            raise ValueError(
                f"{self.algorithm!r} keeps {', '.join(unknown)} in its states, and it is not known here whether they "
                "belong to the target; run it by blackjax.util.run_inference_algorithm"
            )
        return state

    def _evaluations(self, start: Any, info: Any) -> dict[str, Any]:
        """Returns the evaluations of a step: one to start, and the gradients of its integration steps."""
        n = 1 + self.stages * getattr(info, "num_integration_steps", 1)
        return {"n_energy": n, "n_gradient": n if hasattr(start, "logdensity_grad") else 0}


def _refuse_clamped(clamped: Any) -> None:
    """Raises ValueError unless nothing is clamped."""
    if clamped is not None:
        raise ValueError(
            "BlackJAX's algorithms move every element of a position, clamped ones too; give an energy of the others, "
            "e.g. lambda params, x: energy(params, complete(x)), or take mala or hmc of this package"
        )


def _own_target(params: PyTree, beta: Any, position: PyTree) -> PyTree:
    """Returns the position for an algorithm that was built before; NaN if a traced β asks for another target."""
    if jax.tree.leaves(params):
        raise ValueError(
            "the algorithm was built for one target, which no parameters change; run it with params=None, or build "
            "the kernel from an energy: from_blackjax(blackjax.nuts, energy, ...)"
        )
    if checks.is_concrete(beta):
        if (np.asarray(beta) != 1).any():
            raise ValueError(
                f"beta is {beta}; the algorithm was built for one target: leave beta=1, or build the kernel from an "
                "energy"
            )
        return position
    return jax.tree.map(lambda leaf: jnp.where(beta == 1, leaf, jnp.full((), jnp.nan, leaf.dtype)), position)


def _acceptance(key: Key, info: Any) -> dict[str, Any]:
    """Returns how many proposals a step made and accepted, as far as BlackJAX reports them."""
    if hasattr(info, "is_accepted"):
        accepted = jnp.asarray(info.is_accepted)
        return {"n_proposed": accepted.size, "n_accepted": accepted.sum()}
    # NUTS reports a mean over the states of its trajectory, one of which it takes.
    if hasattr(info, "acceptance_rate"):
        n = jnp.asarray(info.num_integration_steps)
        return {"n_proposed": n, "n_accepted": jnp.floor(info.acceptance_rate * n + jax.random.uniform(key))}
    return {}
