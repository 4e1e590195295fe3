"""Building kernels from BlackJAX's algorithms."""

from __future__ import annotations

import inspect
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from blackjax.base import SamplingAlgorithm
from blackjax.mcmc import integrators

from ebm_jax import checks
from ebm_jax.interop.blackjax.kernel import BlackJAX, ByIdentity
from ebm_jax.samplers.base import check_energy

# Gradients in one step of an integrator. Its isokinetic form takes as many.
_STAGES = {"velocity_verlet": 1, "mclachlan": 2, "yoshida": 3, "omelyan": 5}

# BlackJAX's algorithms that accept or reject.
_EXACT = (
    "additive_step_random_walk",
    "adjusted_mclmc",
    "adjusted_mclmc_dynamic",
    "barker",
    "barker_proposal",
    "coordinate_slice",
    "dhmc",
    "dmhmc",
    "dynamic_hmc",
    "ghmc",
    "gist_step_size",
    "gist_trajectory_length",
    "hmc",
    "irmh",
    "mala",
    "mhmc",
    "multinomial_hmc",
    "normal_random_walk",
    "nuts",
    "rmh",
    "rmhmc",
    "slice_sampling",
)


def from_blackjax(
    algorithm: Any, energy: Any = None, /, *, exact: bool | None = None, **settings: Any
) -> BlackJAX:
    """Returns a kernel that steps by an algorithm of BlackJAX on p(x) ∝ exp(−β E(x; params)).

    Its `Info` counts an energy with every gradient. `n_gradient` is 1 + integration steps × gradients in a step of the
    integrator (1 for an algorithm that was built before). `n_proposed` counts proposals, of NUTS the states of its
    trajectories; `n_accepted` counts them by their mean probability of acceptance, rounded at random. `mclmc` has none.
    What a slice sampler evaluates to find its bracket is not counted. Clamping is refused: give an energy of the
    elements that move.

    Args:
      algorithm: Called as `algorithm(logdensity_fn, **settings)`: `blackjax.nuts`, `hmc`, `mala`, `barker`, `ghmc`,
        `mclmc`, `adjusted_mclmc`, `rmh`, `slice_sampling`, `additive_step_random_walk.normal_random_walk`, … Or a
        `SamplingAlgorithm`, which is built already and comes without energy and settings. It samples the target that it
        was built for: run it with `params=None` and β = 1; everything else is refused.
      energy: `energy(params, x) -> scalar`, or a model with such a method. `x` is a pytree of float32 or float64
        arrays.
      exact: Whether the algorithm leaves its distribution invariant. By default, BlackJAX's own algorithms that accept
        or reject count as exact; all others (`mclmc`, built and wrapped ones) do not.
      **settings: Arguments of the algorithm. Floats and arrays are leaves of the kernel, so new ones do not compile
        anew. Integers, functions and everything else are structure. What `blackjax.window_adaptation` finds can be
        given as `**parameters`; it must be found again for other parameters and β.

    Returns:
      A `BlackJAX` kernel.

    Raises:
      ValueError: If `algorithm` or `energy` is none, or the target of the algorithm is another
        (`blackjax.elliptical_slice`). Once positions are known, also if its states are not those of one chain.
    """
    if isinstance(algorithm, SamplingAlgorithm):
        if energy is not None or settings:
            raise ValueError(
                "algorithm is built already and has its target; leave out energy and settings, or give what builds "
                "it, e.g. from_blackjax(blackjax.nuts, energy, step_size=0.1, ...)"
            )
        return BlackJAX(None, ByIdentity(algorithm), (), jax.tree.structure({}), (), 1, bool(exact))
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
        energy, ByIdentity(algorithm), numbers, names, structure, _stages(algorithm, settings), bool(exact)
    )


def _number(leaf: Any) -> jax.Array | None:
    """Returns a float or an array as an array of a fixed dtype, None for anything else; raises ValueError on NaN."""
    if not isinstance(leaf, (float, np.floating, np.ndarray, jax.Array)):
        return None
    dtype = jnp.result_type(float) if isinstance(leaf, float) else jax.dtypes.canonicalize_dtype(leaf.dtype)
    number = jnp.asarray(leaf, dtype)
    if checks.is_concrete(number) and np.isnan(np.asarray(number)).any():
        raise ValueError(f"a setting is {leaf}; give numbers that are not NaN")
    return number


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
