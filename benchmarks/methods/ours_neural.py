"""ebm_jax: `advance` runs the updates in one compiled call, with all metrics. The data lie on the device."""

import time

import jax
import jax.numpy as jnp
import optax

import ebm_jax as ej
from benchmarks.methods import Method
from benchmarks.tasks.neural import (
    CHANNELS,
    KERNEL_SIZES,
    LATENT_HIDDEN,
    PADDINGS,
    STRIDES,
    Task,
    data_of,
    shape_of,
)
from ebm_jax.energies.networks import MLP, ConvNet
from ebm_jax.training import Plan, advance, joint, make_train_step, negatives, regularized


class Latent(MLP):
    """½|z|² plus a perceptron."""

    def __call__(self, z):
        return 0.5 * z @ z + super().__call__(z)


def prepare(task: Task, device: str = "cpu") -> Method:
    """Prepares the task. The compile time is that of `advance`. JAX chooses the device."""
    del device
    start = time.perf_counter()
    model, objective = model_of(task)
    bounds = None if task.bounds is None else (-task.bounds, task.bounds)
    kernel = ej.langevin(
        model, task.step_size, task.noise_scale, clip=task.clip, clip_by="value", bounds=bounds
    )
    noise = negatives.starts.uniform(shape_of(task))
    if task.capacity:
        source = negatives.replay(kernel, task.k, task.batch_size, capacity=task.capacity, start=noise)
    else:
        source = negatives.short_run(kernel, task.k, task.batch_size, start=noise)
    key = jax.random.key(0)
    tx = optax.adam(task.learning_rate)
    state = make_train_step(model, tx, source, objective=objective)[0](key)
    rows, labels = map(jnp.asarray, data_of(task))
    data = (rows, labels) if task.kind == "joint" else rows
    build = time.perf_counter() - start
    plan = Plan(model, task.n_batches, task.batch_size, task.n_batches, objective=objective)
    start = time.perf_counter()
    compiled = advance.lower(plan, source, None, key, state, data).compile()
    compiling = time.perf_counter() - start
    current = [state]

    def call():
        current[0], metrics = compiled(source, None, key, current[0], data)
        return metrics

    return Method(build, build, compiling, call)


def model_of(task: Task):
    """Returns the model and the objective of a task."""
    if task.kind == "joint":
        return ej.JointEnergy(MLP((512, 512, 512), n_outputs=10), (784,), 10), joint(1.0, task.l2)
    if task.kind == "latent":
        return ej.NeuralEnergy(Latent((LATENT_HIDDEN,)), shape_of(task)), regularized(task.l2)
    net = ConvNet(CHANNELS, KERNEL_SIZES, STRIDES, PADDINGS)
    return ej.NeuralEnergy(net, shape_of(task)), regularized(task.l2)
