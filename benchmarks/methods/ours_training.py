"""ebm_jax: `advance` runs an epoch in one compiled call, with all metrics. Its sweeps end with the hidden layer.

The data lie on the device as bytes. Every call is a new, shuffled epoch.
"""

import time

import jax
import jax.numpy as jnp
import optax

import ebm_jax as ej
from benchmarks.methods import Method
from benchmarks.tasks.training import LEARNING_RATE, Task, data_of
from ebm_jax.training import Plan, advance, make_train_step, negatives


def prepare(task: Task, device: str = "cpu") -> Method:
    """Prepares the task.

    The build makes model, kernel and state. The compile time is that of `advance`. JAX chooses the device.
    """
    del device
    start = time.perf_counter()
    model = ej.RBM(task.n_visible, task.n_hidden)
    kernel = ej.gibbs(model, ej.BlockSpec(model.default_spec().free[::-1]))
    chains = negatives.pcd(kernel, k=task.k, n_chains=task.batch_size)
    key = jax.random.key(0)
    state = make_train_step(model, optax.sgd(LEARNING_RATE), chains)[0](key)
    data = jnp.asarray(data_of(task))
    build = time.perf_counter() - start
    plan = Plan(model, task.n_batches, task.batch_size, task.n_batches)
    start = time.perf_counter()
    compiled = advance.lower(plan, chains, None, key, state, data).compile()
    compiling = time.perf_counter() - start
    current = [state]

    def call():
        current[0], metrics = compiled(chains, None, key, current[0], data)
        return metrics

    return Method(build, build, compiling, call, path=kernel.path)
