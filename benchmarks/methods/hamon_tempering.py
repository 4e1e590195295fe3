"""hamon: `nrpt`, non-reversible parallel tempering, in its temperature-linear mode with one program for all rungs.

Ladder, colouring and starting states are those of ebm_jax. A step is one sweep and one exchange. `nrpt` takes one
ladder at a time. It draws from `jax.random`, with the older layout of counters as in `thrml_gibbs`.
"""

import time

import hamon
import hamon.models
import jax
import jax.numpy as jnp
import numpy as np
from hamon.nrpt import nrpt

import ebm_jax as ej
from benchmarks.methods import Method
from benchmarks.tasks.gibbs import grid_edges
from benchmarks.tasks.samplers import Task, ising, ladder


def prepare(task: Task, device: str = "cpu") -> Method:
    """Prepares the task.

    The build makes nodes and program. The compile time is that of the first call less that of a second. JAX chooses the
    device.
    """
    del device
    kernel, states = ladder(task.side, task.n_rungs, task.n_chains, task.part)
    betas = jnp.asarray(kernel.betas)
    colours = [block.sites for block in ej.colour(ising(task.side)[0].graph)]
    start = time.perf_counter()
    edges = np.concatenate(grid_edges(task.side, periodic=True))
    nodes = [hamon.SpinNode() for _ in range(task.side**2)]
    pairs = [(nodes[i], nodes[j]) for i, j in edges.tolist()]
    bias, weights = jnp.zeros(len(nodes), jnp.float32), jnp.ones(len(pairs), jnp.float32)
    ebm = hamon.models.IsingEBM(nodes, pairs, bias, weights, jnp.array(1.0, jnp.float32))
    blocks = [hamon.Block([nodes[i] for i in c]) for c in colours]
    program = hamon.models.IsingSamplingProgram(ebm, blocks, [])
    build = time.perf_counter() - start

    flat = kernel.positions_by_rung(jax.tree.map(lambda leaf: leaf[0], states)).reshape(task.n_rungs, -1)
    rungs = [[jnp.asarray(row[c]) for c in colours] for row in flat]
    key = jax.random.key(5)

    def call():
        nonlocal key, rungs
        with jax.threefry_partitionable(False):
            key, this = jax.random.split(key)
            rungs, stats = nrpt(this, ebm, program, rungs, [], task.n_steps, 1, betas=betas, device=None)
        return stats["index_state"]["round_trips"].sum()

    start = time.perf_counter()
    jax.block_until_ready(call())
    first = time.perf_counter() - start
    start = time.perf_counter()
    jax.block_until_ready(call())
    return Method(build, build, max(first - (time.perf_counter() - start), 0.0), call)
