"""Finding a step size: dual averaging towards a rate of acceptance, over many chains at once.

After step t of a warm-up, with a_t the mean over chains of the probability of acceptance and δ the target,

    h_t = (1 − 1/(t + t₀)) h_{t−1} + (δ − a_t) / (t + t₀),   log ε_{t+1} = μ − (√t / γ) h_t,
    log ε̄_t = t^{−κ} log ε_t + (1 − t^{−κ}) log ε̄_{t−1}

(Hoffman and Gelman 2014, sec. 3.2; γ = 0.05, t₀ = 10, κ = 0.75, μ = log 10ε₁). The warm-up runs with ε_t and returns
ε̄. Its steps do not leave the law invariant, since ε_t depends on the chains: they are no samples.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ebm_jax import checks
from ebm_jax.samplers.acceptance import AcceptRejectKernel
from ebm_jax.samplers.continuous import check_scale
from ebm_jax.samplers.start import begin, pack_chains
from ebm_jax.types import Key, PyTree

GAMMA, T0, KAPPA = 0.05, 10.0, 0.75


class _Average(NamedTuple):
    """Dual averaging: t steps so far, their running shortfall h, log ε of the next step, log ε̄, and μ."""

    t: jax.Array
    shortfall: jax.Array
    log_size: jax.Array
    log_average: jax.Array
    centre: jax.Array


def warm_up(
    key: Key,
    kernel: Any,
    params: PyTree,
    init: PyTree,
    n_steps: int,
    *,
    beta: Any = 1.0,
    clamped: Any = None,
    target_acceptance: float | None = None,
) -> tuple[Any, PyTree]:
    """Tunes the step size of a kernel on many chains, by dual averaging (Hoffman and Gelman 2014, sec. 3.2).

    It compiles once for a kind of kernel and shapes: new numbers, `n_steps` among them, do not compile anew.

    Args:
      key: A typed key. Chain i uses `fold_in(key, i)`, as in `sample`, which may go on from the states with the same
        key.
      kernel: A kernel of `mala`, `hmc` or `dmala`. Its step size is where the search starts.
      params: Parameters of the energy.
      init: Positions with a leading chain axis, or states of an earlier run.
      n_steps: Some hundreds. 0 changes nothing.
      beta: Inverse temperature: a scalar, or one value a chain, `(n_chains,)`. All chains get one step size.
      clamped: `(mask, values)` as for `sample`.
      target_acceptance: The mean over chains and steps to reach, between 0 and 1. None takes the kernel's own: 0.574
        for `mala` and `dmala`, 0.8 for `hmc`.

    Returns:
      The tuned kernel, and the states of the chains.

    Raises:
      ValueError: If anything does not fit, before any step is taken.

    Example:
      >>> kernel = ej.mala(lambda params, x: (x**2).sum() / 2, step_size=10.0)
      >>> kernel, states = ej.warm_up(jax.random.key(0), kernel, None, jnp.zeros((64, 3)), n_steps=200)
      >>> bool(1.0 < kernel.step_size < 3.0)
      True
    """
    n_steps = checks.check_integer("n_steps", n_steps, 0)
    if not isinstance(kernel, AcceptRejectKernel) or not kernel.tunable:
        raise ValueError(
            f"kernel is a {type(kernel).__name__}; give one that accepts or rejects and has a step size: of mala, hmc "
            "or dmala"
        )
    target = kernel.target_acceptance if target_acceptance is None else target_acceptance
    check_scale("target_acceptance", target, positive=True)
    if checks.is_concrete(target) and not target < 1:
        raise ValueError(f"target_acceptance is {target}; give a number between 0 and 1")
    params, states = begin(key, kernel, params, init, clamped)
    n_chains = states.step.shape[0]
    betas = jnp.asarray(beta, jnp.float32)
    if betas.shape not in ((), (n_chains,)):
        raise ValueError(f"beta has shape {betas.shape}; give a scalar or one value a chain, ({n_chains},)")
    checks.check_finite("beta", betas)
    betas = jnp.broadcast_to(betas, (n_chains,))
    numbers = jnp.asarray(target, jnp.float32), jnp.asarray(n_steps, jnp.int32)
    return _run(kernel, key, params, betas, states, *numbers)


@jax.jit
def _run(
    kernel: Any,
    key: Key,
    params: PyTree,
    betas: jax.Array,
    states: PyTree,
    target: jax.Array,
    n_steps: jax.Array,
) -> tuple[Any, PyTree]:
    keys, states, _ = pack_chains(key, kernel, params, states)

    def sized(log_size: jax.Array) -> Any:
        return dataclasses.replace(kernel, step_size=jnp.exp(log_size).astype(kernel.step_size.dtype))

    def loop_body(_: jax.Array, carry: tuple[PyTree, _Average]) -> tuple[PyTree, _Average]:
        states, average = carry
        step = sized(average.log_size).step_with_acceptance
        states, _, acceptance = jax.vmap(step, in_axes=(0, None, 0, 0))(keys, params, betas, states)
        average = _updated(average, acceptance.mean(), target)
        return states, average._replace(
            log_size=jnp.minimum(average.log_size, largest),
            log_average=jnp.minimum(average.log_average, largest),
        )

    log_size = jnp.log(kernel.step_size)
    largest = jnp.log(jnp.asarray(kernel.largest_step_size, log_size.dtype))
    zero = jnp.zeros((), log_size.dtype)
    start = _Average(zero, zero, log_size, log_size, log_size + jnp.log(10.0).astype(log_size.dtype))
    states, average = jax.lax.fori_loop(0, n_steps, loop_body, (states, start))
    found = jnp.minimum(jnp.exp(average.log_average), kernel.largest_step_size)
    tuned = jnp.where(n_steps > 0, found, kernel.step_size)
    return dataclasses.replace(kernel, step_size=tuned.astype(kernel.step_size.dtype)), states


def _updated(average: _Average, acceptance: jax.Array, target: jax.Array) -> _Average:
    t = average.t + 1
    weight = 1 / (t + T0)
    shortfall = (1 - weight) * average.shortfall + weight * (target - acceptance)
    log_size = average.centre - jnp.sqrt(t) / GAMMA * shortfall
    eta = t**-KAPPA
    log_average = eta * log_size + (1 - eta) * average.log_average
    new = _Average(t, shortfall, log_size, log_average, average.centre)
    return jax.tree.map(lambda value: value.astype(average.t.dtype), new)
