"""BlackJAX's algorithms as kernels of this package (https://github.com/blackjax-devs/blackjax).

    kernel = from_blackjax(blackjax.nuts, energy, step_size=0.1, inverse_mass_matrix=jnp.ones(3))
    sample(key, kernel, params, init, schedule, beta=0.5)

BlackJAX builds an algorithm from a log density and keeps it for good; a kernel here is given parameters and β at every
step. So a step builds the algorithm for

    log p(x) = −β E(x; params)

and starts it from the position alone, with a log density and a gradient of that target: nothing that a state holds can
belong to other parameters, another β or another position. This costs one evaluation a step more than BlackJAX's own
loop: of MALA's two instead of one, of NUTS one more than the integration steps. What an algorithm keeps besides
(the momentum of `mclmc` and `ghmc`) stays in the state from step to step.

The random key of a step is a function of (chain key, step), so that a run in pieces is the whole bit for bit.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import checks
from ebm_jax.samplers.base import Kernel, check_energy, energy_of, step_number
from ebm_jax.samplers.continuous import ContinuousKernel
from ebm_jax.types import Info, Key, PyTree

try:
    import blackjax
    from blackjax.base import SamplingAlgorithm
    from blackjax.mcmc import integrators
except ImportError as error:
    raise ImportError(
        "ebm_jax.interop.blackjax needs BlackJAX, which cannot be imported here: pip install 'ebm-jax[blackjax]'"
    ) from error

__all__ = ["BlackJAX", "BlackJAXState", "from_blackjax"]

_COMPUTED = {"position", "logdensity", "logdensity_grad", "random_generator_arg"}
"""Fields of BlackJAX's states that its `init` makes from a position, a target and fresh randomness."""
_KEPT = ("momentum", "slice")
"""Fields that go from step to step: auxiliary variables of the chain, whatever its target."""

_STAGES = {"velocity_verlet": 1, "mclachlan": 2, "yoshida": 3, "omelyan": 5}
"""Gradients that one step of an integrator takes; its isokinetic form takes as many."""


_EXACT = (
    *(
        "nuts",
        "hmc",
        "mhmc",
        "multinomial_hmc",
        "dhmc",
        "dynamic_hmc",
        "dmhmc",
        "ghmc",
        "rmhmc",
        "mala",
        "barker",
    ),
    *(
        "barker_proposal",
        "adjusted_mclmc",
        "adjusted_mclmc_dynamic",
        "rmh",
        "irmh",
        "additive_step_random_walk",
    ),
    *("normal_random_walk", "slice_sampling", "coordinate_slice", "gist_step_size", "gist_trajectory_length"),
)
_STEP_KEY = 0x626C6A78  # folded into a chain's key before the step: other keys are made of the chain's, too


class BlackJAXState(NamedTuple):
    """position: the configuration; step: uint32 counter of steps taken.

    kept: a dict of what the algorithm keeps besides, empty for most; drawn: bool, whether `kept` has been drawn, which
    the first step does.
    """

    position: PyTree
    step: jax.Array
    kept: dict[str, PyTree]
    drawn: jax.Array


class _Same:
    """Structure that is equal only to itself: BlackJAX's algorithms cannot be hashed."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

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
    """The kernel that `from_blackjax` builds: the numbers among the settings are leaves, everything else is structure.

    numbers: leaves of the settings that are numbers, None in place of others; structure: the others, None in place of
    numbers; names: how both lie in the settings. stages: gradients that an integration step takes. energy None says
    that the algorithm was built before, for one target.
    """

    energy: Any
    algorithm: _Same
    numbers: tuple[Any, ...]
    names: Any
    structure: tuple[Any, ...]
    stages: int
    exact: bool

    state_type = BlackJAXState

    @property
    def settings(self) -> dict[str, Any]:
        """What the algorithm is built with besides the log density."""
        leaves = [s if n is None else n for n, s in zip(self.numbers, self.structure, strict=True)]
        return jax.tree.unflatten(self.names, leaves)

    def init(self, params: PyTree, x: PyTree, clamped: Any = None) -> BlackJAXState:
        """Returns the state of a chain at `x`. Raises ValueError on `clamped`, which BlackJAX has no word for."""
        _refuse_clamped(clamped)
        fields = self._struct(params, x)._asdict()
        kept = {name: fields[name] for name in _KEPT if name in fields}
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), kept)
        return BlackJAXState(x, jnp.zeros((), jnp.uint32), zeros, jnp.zeros((), jnp.bool_))

    def step(self, key: Key, params: PyTree, beta: Any, state: BlackJAXState) -> tuple[BlackJAXState, Info]:
        """Takes one step of the algorithm on p(x) ∝ exp(−β E(x; params)).

        Raises ValueError for an algorithm with a target of its own, if there are parameters or β is not 1; a traced β
        other than 1 makes the position NaN, which `sample` reports.
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
        """Raises ValueError where chains `x` (leading chain axis) do not fit the algorithm or its energy."""
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
            return (-beta * energy).astype(energy.dtype)

        return self.algorithm.value(logdensity, **self.settings)

    def _struct(self, params: PyTree, x: PyTree) -> Any:
        """Returns shapes and dtypes of the algorithm's state at `x`; raises ValueError if it cannot be one's own."""
        start = lambda params, x, key: self._built(params, 1.0).init(x, key)  # noqa: E731
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
                f"{self.algorithm!r} keeps {', '.join(unknown)} in its states, of which it is not known here whether "
                "they belong to the target; run it by blackjax.util.run_inference_algorithm"
            )
        return state

    def _evaluations(self, start: Any, info: Any) -> dict[str, Any]:
        """Returns the evaluations of a step: one to start it, and the gradients of its integration steps."""
        n = 1 + self.stages * getattr(info, "num_integration_steps", 1)
        return {"n_energy": n, "n_gradient": n if hasattr(start, "logdensity_grad") else 0}


def from_blackjax(
    algorithm: Any, energy: Any = None, /, *, exact: bool | None = None, **settings: Any
) -> BlackJAX:
    """Returns a kernel that steps by an algorithm of BlackJAX on p(x) ∝ exp(−β E(x; params)).

    algorithm: called as `algorithm(logdensity_fn, **settings)`: `blackjax.nuts`, `hmc`, `mala`, `barker`, `ghmc`,
    `mclmc`, `adjusted_mclmc`, `rmh`, `slice_sampling`, `additive_step_random_walk.normal_random_walk`, … energy:
    `energy(params, x) -> scalar`, or a model with such a method; x is a pytree of float32 or float64 arrays.
    settings: floats and arrays are leaves of the kernel, so that new ones do not compile anew; integers, functions and
    all else are structure. What `blackjax.window_adaptation` finds can be given as `**parameters`; it has to be found
    anew for other parameters and β.

    An algorithm that is built already, a `SamplingAlgorithm`, comes without energy and settings, and samples the target
    that it was built for: run it with `params=None` and β = 1, all else is refused.

    Its `Info` counts an energy with every gradient. n_gradient: 1 + integration steps × gradients that the integrator
    takes for one (of a built algorithm, 1). n_proposed, n_accepted: proposals, of NUTS the states of its trajectories,
    and how many of them by their mean probability of acceptance, rounded at random; none of `mclmc`. What a slice
    sampler evaluates to find its bracket is not counted.
    exact: whether it leaves its law invariant, which the kernel then says of itself; None knows it of BlackJAX's own
    algorithms that accept or reject, and takes all others (`mclmc`, built and wrapped ones) for not exact.
    Clamping is refused: give an energy of the elements that move.

    Raises ValueError on what is no algorithm or no energy, on algorithms whose target is another
    (`blackjax.elliptical_slice`), and, once positions are known, on algorithms whose states are not those of one chain.
    """
    if isinstance(algorithm, SamplingAlgorithm):
        if energy is not None or settings:
            raise ValueError(
                "algorithm is built already and has its target; leave out energy and settings, or give what builds "
                "it, e.g. from_blackjax(blackjax.nuts, energy, step_size=0.1, ...)"
            )
        return BlackJAX(None, _Same(algorithm), (), jax.tree.structure({}), (), 1, bool(exact))
    if not callable(algorithm):
        raise ValueError(f"algorithm is {algorithm!r}; give one of BlackJAX's, e.g. blackjax.nuts")
    if algorithm is blackjax.elliptical_slice:
        raise ValueError(
            "blackjax.elliptical_slice samples a likelihood times a Gaussian prior, not exp(−β E); give another "
            "algorithm, or one that is built already"
        )
    check_energy(energy)
    leaves, names = jax.tree.flatten(settings)
    numbers = tuple(_number(leaf) for leaf in leaves)
    structure = tuple(leaf if number is None else None for leaf, number in zip(leaves, numbers, strict=True))
    if exact is None:
        exact = any(algorithm is getattr(blackjax, name, None) for name in _EXACT)
    return BlackJAX(
        energy, _Same(algorithm), numbers, names, structure, _stages(algorithm, settings), bool(exact)
    )


def _number(leaf: Any) -> jax.Array | None:
    """Returns a float or an array as an array with a dtype of its own; None for all else. Raises ValueError on NaN."""
    if not isinstance(leaf, (float, np.floating, np.ndarray, jax.Array)):
        return None
    dtype = jnp.result_type(float) if isinstance(leaf, float) else jax.dtypes.canonicalize_dtype(leaf.dtype)
    number = jnp.asarray(leaf, dtype)
    if checks.is_concrete(number) and np.isnan(np.asarray(number)).any():
        raise ValueError(f"a setting is {leaf}; give numbers that are not NaN")
    return number


def _refuse_clamped(clamped: Any) -> None:
    if clamped is not None:
        raise ValueError(
            "BlackJAX's algorithms move every element of a position, clamped ones too; give an energy of the others, "
            "e.g. lambda params, x: energy(params, whole(x)), or take mala or hmc of this package"
        )


def _own_target(params: PyTree, beta: Any, position: PyTree) -> PyTree:
    """Returns the position for an algorithm with a target of its own; NaN where a traced β asks for another."""
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
    """Returns how many proposals a step made and accepted, as far as BlackJAX tells."""
    if hasattr(info, "is_accepted"):
        accepted = jnp.asarray(info.is_accepted)
        return {"n_proposed": accepted.size, "n_accepted": accepted.sum()}
    if hasattr(
        info, "acceptance_rate"
    ):  # NUTS: a mean over the states of the trajectory, of which it takes one
        n = jnp.asarray(info.num_integration_steps)
        return {"n_proposed": n, "n_accepted": jnp.floor(info.acceptance_rate * n + jax.random.uniform(key))}
    return {}


def _stages(algorithm: Any, settings: dict[str, Any]) -> int:
    """Returns how many gradients one step of the algorithm's integrator takes."""
    integrator = settings.get("integrator")
    if integrator is None:
        parameters = inspect.signature(getattr(algorithm, "differentiable", algorithm)).parameters
        integrator = getattr(parameters.get("integrator"), "default", None)
    for name, stages in _STAGES.items():
        if integrator in (getattr(integrators, name), getattr(integrators, f"isokinetic_{name}")):
            return stages
    return 1
