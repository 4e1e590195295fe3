"""BlackJAX: MALA and HMC, all chains together in one compiled scan that keeps the last state and the mean acceptance.

Both libraries sample the same law with the same step size from the same exact start: the acceptances in the results
must agree, and say that the work is the same.
"""

import time

import blackjax
import jax
import jax.numpy as jnp

from benchmarks.methods import Method
from benchmarks.tasks.samplers import N_LEAPFROG, Task, gaussian, step_size


def prepare(task: Task, device: str = "cpu") -> Method:
    """Its MALA takes ε²/2 where ebm_jax's takes ε."""
    del device  # JAX's own
    precision, start = map(jnp.asarray, gaussian(task))
    size = step_size(task)

    def steps(key, precision, start):
        log_density = lambda x: -0.5 * jnp.dot(x, precision @ x)  # noqa: E731
        kernel = blackjax.mala(log_density, size**2 / 2)
        if task.name == "hmc_gaussian":
            kernel = blackjax.hmc(log_density, size, jnp.ones(task.dimension), N_LEAPFROG)
        states = jax.vmap(kernel.init)(start)

        def body(carry, key):
            states, acceptance = carry
            states, info = jax.vmap(kernel.step)(jax.random.split(key, task.n_chains), states)
            return (states, acceptance + info.is_accepted.mean() / task.n_steps), None

        (states, acceptance), _ = jax.lax.scan(body, (states, 0.0), jax.random.split(key, task.n_steps))
        return states.position, acceptance

    arguments = jax.random.key(0), precision, start
    began = time.perf_counter()
    compiled = jax.jit(steps).lower(*arguments).compile()
    return Method(0.0, 0.0, time.perf_counter() - began, lambda: compiled(*arguments))
