"""ebm_jax: `advance` runs the updates in one compiled call, with all metrics. The data lie on the device."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ebm_jax as ej
from benchmarks.methods import Method
from benchmarks.tasks.objectives import (
    DENOISING_SIGMA,
    DISCREPANCY_SIGMA,
    LEARNING_RATE,
    N_NEGATIVES,
    WIDTHS,
    Task,
    data_of,
)
from ebm_jax import training
from ebm_jax.energies.networks import MLP
from ebm_jax.training import Plan, advance, make_train_step


def prepare(task: Task, device: str = "cpu") -> Method:
    """Prepares the task. The compile time is that of `advance`. JAX chooses the device."""
    del device
    start = time.perf_counter()
    model, objective = model_of(task)
    key = jax.random.key(0)
    state = make_train_step(model, optax.adam(LEARNING_RATE), objective=objective)[0](key)
    data = jnp.asarray(data_of(task))
    build = time.perf_counter() - start
    plan = Plan(model, task.n_batches, task.batch_size, task.n_batches, objective=objective)
    start = time.perf_counter()
    compiled = advance.lower(plan, None, None, key, state, data).compile()
    compiling = time.perf_counter() - start
    current = [state]

    def call():
        current[0], metrics = compiled(None, None, key, current[0], data)
        return metrics

    return Method(build, build, compiling, call)


def model_of(task: Task):
    """Returns the model and the objective of a task. The noise is standard normal, as that of ebmkit."""
    model = ej.NeuralEnergy(MLP(WIDTHS), (2,))
    if task.kind == "denoising":
        return model, training.denoising_score_matching(DENOISING_SIGMA)
    if task.kind == "discrepancy":
        return model, training.energy_discrepancy(DISCREPANCY_SIGMA, n_negatives=N_NEGATIVES)
    unit = np.sqrt(1.5) * np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    return training.normalized(model), training.noise_contrastive(training.gaussian_noise(unit))
