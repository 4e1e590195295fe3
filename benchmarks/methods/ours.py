"""ebm_jax: `sample`'s own form for many chains, and `vmap(kernel.steps)` as an embedding program would call it."""

import time

import jax
import jax.numpy as jnp

import ebm_jax as ej
from benchmarks.tasks.gibbs import Task, system


def model_and_params(task: Task):
    """Returns the model and its parameters."""
    if task.kind == "rbm":
        model = ej.RBM(task.n_visible, task.n_hidden)
        return model, model.init(jax.random.key(0), scale=0.1)
    given = system(task)
    if task.kind == "graph":
        graph, shape = ej.Graph(task.n_sites, given.edges), (task.n_sites,)
    else:
        graph = ej.Grid(task.side, task.side, "periodic" if task.periodic else "free")
        shape = graph.shape
    coupling = jnp.asarray(given.weights if given.tied is None else given.tied, jnp.float32)
    if task.n_levels == 2:
        return ej.Ising(graph, task.coupling), ej.IsingParams(
            jnp.asarray(given.bias.reshape(shape), jnp.float32), coupling
        )
    model = ej.Potts(graph, task.n_levels, task.coupling)
    bias = given.bias.reshape(*shape, task.n_levels)
    return model, ej.PottsParams(jnp.asarray(bias, jnp.float32), coupling)


def prepare(task: Task, form: str = "batched"):
    """Returns build and compile seconds, `call() -> final states`, and bytes beyond the state for each site and chain.

    Build is what a user waits for before compiling: the kernel with its blocks and tables.
    """
    model, params = model_and_params(task)
    start = time.perf_counter()
    kernel = ej.gibbs(model)
    jax.block_until_ready(kernel.tables)
    build = time.perf_counter() - start
    chains = ej.init_chains(jax.random.key(1), model, task.n_chains)
    states = jax.vmap(lambda x: kernel.init(params, x))(chains)
    keys = jax.random.split(jax.random.key(2), task.n_chains)

    def batched(kernel, keys, params, states):
        packed, _ = kernel.packed_steps(keys, params, 1.0, kernel.pack(params, states), task.n_sweeps)
        return kernel.unpack(packed)

    def ten_at_a_time(kernel, keys, params, states, steps):
        return jax.lax.fori_loop(0, task.n_sweeps // 10, lambda _, s: steps(kernel, keys, params, s), states)

    def vmapped(kernel, keys, params, states):
        return jax.vmap(lambda k, s: kernel.steps(k, params, 1.0, s, 10)[0])(keys, states)

    def batched_ten(kernel, keys, params, states):
        packed, _ = kernel.packed_steps(keys, params, 1.0, kernel.pack(params, states), 10)
        return kernel.unpack(packed)

    forms = {
        "batched": batched,
        "vmap10": lambda *args: ten_at_a_time(*args, vmapped),
        "batched10": lambda *args: ten_at_a_time(*args, batched_ten),
    }
    start = time.perf_counter()
    compiled = jax.jit(forms[form]).lower(kernel, keys, params, states).compile()
    compiling = time.perf_counter() - start
    memory = compiled.memory_analysis()
    beyond = None
    if memory is not None:
        beyond = memory.temp_size_in_bytes / (task.work / task.n_sweeps)
    return build, compiling, lambda: compiled(kernel, keys, params, states), beyond
