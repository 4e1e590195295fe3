"""THRML, and hamon, a fork with the same names: `sample_states` of their block-Gibbs programs, mapped over chains.

`sample_states` returns observations instead of the state. With one sample, all sweeps as warm-up and every free block
observed, it returns the final state and does no other work. hamon's documentation has nothing faster for chains at one
temperature: its other samplers temper.

Both draw from `jax.random`. They are measured with the older layout of its counters
(`jax_threefry_partitionable=False`), which is not JAX's default. On one core they are a quarter to a half faster with
it. It is set for them alone. With JAX's "rbg" keys they were slower than with either layout.
"""

import importlib
import time

import jax
import jax.numpy as jnp
import numpy as np

import ebm_jax as ej
from benchmarks.methods import Method, ours_gibbs, timed_builds
from benchmarks.tasks.gibbs import Task, system


def prepare(task: Task, device: str = "cpu", package: str = "thrml") -> Method:
    """Prepares the task.

    The build makes nodes, factors and program. The colouring is given. JAX chooses the device.
    """
    del device
    library = importlib.import_module(package)
    importlib.import_module(f"{package}.models")
    systems = {}
    for size in (task, task.small()):
        given = system(size)
        colours = [block.sites for block in ej.colour(_graph(size, given))]
        systems[size.sites] = given, len(given.bias), colours

    def build(task):
        given, n_sites, colours = systems[task.sites]
        if task.kind == "triples":
            made = _triples(library, given, n_sites, colours)
        elif task.n_levels == 2:
            made = _ising(library, given, n_sites, colours)
        else:
            made = _potts(library, task, given, n_sites, colours)
        return jax.block_until_ready(jax.tree.leaves(made.per_block_interactions)) and made

    program, first, again = timed_builds(build, task)
    schedule = library.SamplingSchedule(n_warmup=task.n_sweeps, n_samples=1, steps_per_sample=1)
    free = program.gibbs_spec.free_blocks
    rng = np.random.default_rng(1)
    dtype = np.bool_ if task.n_levels == 2 else np.uint8
    state = [jnp.asarray(rng.integers(0, task.n_levels, (task.n_chains, len(b))).astype(dtype)) for b in free]

    def one(key, state):
        return [x[0] for x in library.sample_states(key, program, schedule, list(state), [], free)]

    with jax.threefry_partitionable(False):
        keys = jax.random.split(jax.random.key(2), task.n_chains)
        start = time.perf_counter()
        compiled = jax.jit(jax.vmap(one)).lower(keys, state).compile()
        compiling = time.perf_counter() - start
    return Method(first, again, compiling, lambda: compiled(keys, state))


def _graph(task, given):
    if task.kind == "triples":
        return ours_gibbs.model_of(task, given.edges).graph
    return ej.Graph(len(given.bias), given.edges)


def _triples(library, given, n_sites, colours):
    nodes = [library.SpinNode() for _ in range(n_sites)]
    groups = [library.Block([nodes[i] for i in column]) for column in given.edges.T.tolist()]
    factor = library.models.SpinEBMFactor(groups, jnp.asarray(given.weights, jnp.float32))
    free = [library.Block([nodes[i] for i in c]) for c in colours]
    draws = [library.models.SpinGibbsConditional() for _ in free]
    return library.FactorSamplingProgram(library.BlockGibbsSpec(free, []), draws, [factor], [])


def _ising(library, given, n_sites, colours):
    nodes = [library.SpinNode() for _ in range(n_sites)]
    pairs = [(nodes[i], nodes[j]) for i, j in given.edges.tolist()]
    bias, weights = (jnp.asarray(a, jnp.float32) for a in (given.bias, given.weights))
    ebm = library.models.IsingEBM(nodes, pairs, bias, weights, jnp.array(1.0, jnp.float32))
    blocks = [library.Block([nodes[i] for i in c]) for c in colours]
    return library.models.IsingSamplingProgram(ebm, blocks, [])


def _potts(library, task, given, n_sites, colours):
    models = library.models
    nodes = [library.CategoricalNode() for _ in range(n_sites)]
    first, second = ([nodes[i] for i in column] for column in given.edges.T.tolist())
    tables = jnp.asarray(given.weights, jnp.float32)[:, None, None] * jnp.eye(task.n_levels)
    bias = jnp.asarray(given.bias, jnp.float32)
    factors = [
        models.SquareCategoricalEBMFactor([library.Block(nodes)], bias),
        models.SquareCategoricalEBMFactor([library.Block(first), library.Block(second)], tables),
    ]
    free = [library.Block([nodes[i] for i in c]) for c in colours]
    draws = [models.CategoricalGibbsConditional(task.n_levels) for _ in free]
    return library.FactorSamplingProgram(library.BlockGibbsSpec(free, []), draws, factors, [])
