"""THRML: `sample_states` of its own block-Gibbs program, mapped over chains in one compiled call.

`sample_states` returns observations rather than the state; with one sample, all sweeps as warm-up and every free block
observed it returns the final state and does no other work.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import thrml
from thrml import models

import ebm_jax as ej
from benchmarks.tasks.gibbs import Task, system


def prepare(task: Task):
    """Returns build and compile seconds and `call()`. Build is nodes, factors and program."""
    given = system(task)
    n_sites = len(given.bias)
    colours = [np.asarray(list(b)) for b in ej.colour(ej.Graph(n_sites, given.edges))]
    start = time.perf_counter()
    program = _ising(given, n_sites, colours) if task.n_levels == 2 else _potts(task, given, n_sites, colours)
    jax.block_until_ready(jax.tree.leaves(program.per_block_interactions))
    build = time.perf_counter() - start

    schedule = thrml.SamplingSchedule(n_warmup=task.n_sweeps, n_samples=1, steps_per_sample=1)
    free = program.gibbs_spec.free_blocks
    rng = np.random.default_rng(1)
    dtype = np.bool_ if task.n_levels == 2 else np.uint8
    state = [jnp.asarray(rng.integers(0, task.n_levels, (task.n_chains, len(b))).astype(dtype)) for b in free]
    keys = jax.random.split(jax.random.key(2), task.n_chains)

    def one(key, state):
        return [x[0] for x in thrml.sample_states(key, program, schedule, list(state), [], free)]

    start = time.perf_counter()
    compiled = jax.jit(jax.vmap(one)).lower(keys, state).compile()
    return build, time.perf_counter() - start, lambda: compiled(keys, state), None


def _ising(given, n_sites, colours):
    nodes = [thrml.SpinNode() for _ in range(n_sites)]
    pairs = [(nodes[i], nodes[j]) for i, j in given.edges.tolist()]
    bias, weights = (jnp.asarray(a, jnp.float32) for a in (given.bias, given.weights))
    ebm = models.IsingEBM(nodes, pairs, bias, weights, jnp.array(1.0, jnp.float32))
    return models.IsingSamplingProgram(ebm, [thrml.Block([nodes[i] for i in c]) for c in colours], [])


def _potts(task, given, n_sites, colours):
    nodes = [thrml.CategoricalNode() for _ in range(n_sites)]
    first, second = ([nodes[i] for i in column] for column in given.edges.T.tolist())
    tables = jnp.asarray(given.weights, jnp.float32)[:, None, None] * jnp.eye(task.n_levels)
    factors = [
        models.SquareCategoricalEBMFactor([thrml.Block(nodes)], jnp.asarray(given.bias, jnp.float32)),
        models.SquareCategoricalEBMFactor([thrml.Block(first), thrml.Block(second)], tables),
    ]
    free = [thrml.Block([nodes[i] for i in c]) for c in colours]
    draws = [models.CategoricalGibbsConditional(task.n_levels) for _ in free]
    return thrml.FactorSamplingProgram(thrml.BlockGibbsSpec(free, []), draws, factors, [])
