"""Numba: the loop over spins that one would write by hand for a complete graph, on one thread.

Every chain keeps the fields of all its sites. A spin that changes adds a row of the couplings to them, and one that
stays costs nothing more. Chains follow one another, so that the fields of a chain stay in the cache. Every chain has
its own xoroshiro64* generator (Blackman and Vigna 2018).
"""

import time

import numba
import numpy as np

from benchmarks.methods import Absent, Method
from benchmarks.tasks.gibbs import Task, system


def prepare(task: Task, device: str = "cpu") -> Method:
    """Prepares the task. There is nothing to build. The compile time is Numba's."""
    if device != "cpu":
        raise Absent("the Numba loop is for the CPU")
    given = system(task)
    couplings = np.zeros((task.n_sites, task.n_sites), np.float32)
    couplings[given.edges[:, 0], given.edges[:, 1]] = given.weights
    couplings += couplings.T
    rng = np.random.default_rng(1)
    spins = rng.choice(np.array([-1, 1], np.float32), (task.n_chains, task.n_sites))
    fields = (spins @ couplings + given.bias).astype(np.float32)
    generators = rng.integers(1, 2**32, (2, task.n_chains), dtype=np.uint32)

    start = time.perf_counter()
    _sweeps(couplings, spins[:1].copy(), fields[:1].copy(), generators.copy(), 1)
    compiling = time.perf_counter() - start

    def call():
        _sweeps(couplings, spins, fields, generators, task.n_sweeps)
        return spins

    return Method(0.0, 0.0, compiling, call)


@numba.njit(fastmath=True, boundscheck=False, error_model="numpy")
def _sweeps(couplings, spins, fields, generators, n_sweeps):
    n_chains, n_sites = spins.shape
    for c in range(n_chains):
        s0, s1 = generators[0, c], generators[1, c]
        for _ in range(n_sweeps):
            for i in range(n_sites):
                word = np.uint32(s0 * np.uint32(0x9E3779BB))
                mixed = s0 ^ s1
                turned = np.uint32(s0 << np.uint32(26)) | np.uint32(s0 >> np.uint32(6))
                s0 = turned ^ mixed ^ np.uint32(mixed << np.uint32(9))
                s1 = np.uint32(mixed << np.uint32(13)) | np.uint32(mixed >> np.uint32(19))
                uniform = np.float32(word) * np.float32(2.0**-32)
                up = uniform * (np.float32(1) + np.exp(np.float32(-2) * fields[c, i])) < np.float32(1)
                new = np.float32(1) if up else np.float32(-1)
                if new != spins[c, i]:
                    change = new - spins[c, i]
                    spins[c, i] = new
                    for j in range(n_sites):
                        fields[c, j] += couplings[i, j] * change
        generators[0, c], generators[1, c] = s0, s1
