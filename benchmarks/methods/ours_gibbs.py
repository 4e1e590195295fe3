"""ebm_jax: the form of many chains that `sample` uses, and `vmap(kernel.steps)` as an embedding program calls it.

Chains with biases of their own run in two forms: with fields, and with `vmap` over parameters, the way without them.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

import ebm_jax as ej
from benchmarks.methods import Method, timed_builds
from benchmarks.tasks.gibbs import FIELDS, Task, system, tied_coupling
from ebm_jax import blocks, graphs


def model_of(task: Task, edges=None):
    """Returns the model on a new graph."""
    if task.kind == "rbm":
        return ej.RBM(task.n_visible, task.n_hidden)
    if task.kind in ("graph", "dense"):
        graph = ej.Graph(task.n_sites, edges)
    else:
        graph = ej.Grid(task.side, task.side, "periodic" if task.periodic else "free")
    if task.n_levels == 2:
        return ej.Ising(graph, task.coupling, bias=task.bias)
    return ej.Potts(graph, task.n_levels, task.coupling)


def params_of(task: Task, model, given):
    """Returns the parameters of the task in the shapes of the model."""
    if task.kind == "rbm":
        return model.init(jax.random.key(0), scale=0.1)
    if task.bias == "tied":
        return ej.IsingParams(jnp.float32(0), jnp.asarray(tied_coupling(task), jnp.float32))
    coupling = jnp.asarray(given.weights if given.tied is None else given.tied, jnp.float32)
    shape = model.graph.shape if task.n_levels == 2 else (*model.graph.shape, task.n_levels)
    kind = ej.IsingParams if task.n_levels == 2 else ej.PottsParams
    return kind(jnp.asarray(given.bias.reshape(shape), jnp.float32), coupling)


def fields_of(model, n_chains):
    """Returns a field for each chain."""
    rng = np.random.default_rng(3)
    return jax.tree.map(
        lambda s: jnp.asarray(rng.normal(0, 0.3, (n_chains, *s.shape)), jnp.float32), model.field_struct()
    )


def prepare(task: Task, device: str = "cpu", form: str = "batched") -> Method:
    """Prepares the task.

    The build is what a user waits for before compilation: the graph with its checks, the kernel, its blocks and tables.
    JAX chooses the device.
    """
    del device
    systems = {}
    # The edges of a huge grid would be too many.
    for size in (task, task.small()):
        systems[size.sites] = None if task.kind == "rbm" or task.bias == "tied" else system(size)
    given = systems[task.sites]

    def build(task):
        given = systems[task.sites]
        # Without this the second build would reuse the results of the first.
        blocks.default_spec.cache_clear()
        graphs.neighbours.cache_clear()
        model = model_of(task, None if given is None else given.edges)
        kernel = ej.gibbs(model, path=task.path)
        jax.block_until_ready(kernel.tables)
        return model, kernel

    (model, kernel), first, again = timed_builds(build, task)
    params = params_of(task, model, given)
    chains = ej.init_chains(jax.random.key(1), model, task.n_chains)
    states = jax.vmap(lambda x: kernel.init(params, x))(chains)
    keys = jax.random.split(jax.random.key(2), task.n_chains)
    if form in FIELDS:
        field = fields_of(model, task.n_chains)
        if form == "field":
            states = kernel.with_field(states, field)
        else:
            params = jax.jit(jax.vmap(model.add_field, (None, 0)))(params, field)

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

    def vmapped_parameters(kernel, keys, params, states):
        return jax.vmap(lambda k, p, s: kernel.steps(k, p, 1.0, s, task.n_sweeps)[0])(keys, params, states)

    forms = {
        "batched": batched,
        "field": batched,
        "vmapped_parameters": vmapped_parameters,
        "vmap10": lambda *args: ten_at_a_time(*args, vmapped),
        "batched10": lambda *args: ten_at_a_time(*args, batched_ten),
    }
    start = time.perf_counter()
    compiled = jax.jit(forms[form]).lower(kernel, keys, params, states).compile()
    compiling = time.perf_counter() - start
    memory = compiled.memory_analysis()
    beyond = None if memory is None else memory.temp_size_in_bytes / (task.work / task.n_sweeps)

    def call():
        return compiled(kernel, keys, params, states)

    return Method(first, again, compiling, call, beyond, kernel.path)
