"""BlackJAX: MALA and HMC. One compiled scan runs all chains and keeps the last state and the mean acceptance.

Both libraries sample the same distribution with the same step size from the same exact start. The acceptance rates in
the results must therefore agree, which shows that the work is the same.
"""

import time

import blackjax
import jax
import jax.numpy as jnp

from benchmarks.methods import Method
from benchmarks.tasks.samplers import N_LEAPFROG, Task, gaussian, step_size


def prepare(task: Task, device: str = "cpu") -> Method:
    """Prepares the task. BlackJAX's MALA takes ε²/2 where that of ebm_jax takes ε. JAX chooses the device."""
    del device
    precision, start = map(jnp.asarray, gaussian(task))
    size = step_size(task)

    def steps(key, precision, start):
        def log_density(x):
            return -0.5 * jnp.dot(x, precision @ x)

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
