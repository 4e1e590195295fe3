"""Numba: the loop over sites that one would write by hand for three-body terms on a torus, on one thread.

Chains are innermost, so the compiler vectorises the two inner loops. Every chain has its own xoroshiro64* generator
(Blackman and Vigna 2018), which takes a few 32-bit operations. The odds of a spin are a product of exp(±2w) over its
three terms, which are computed once, so a draw takes no exponential of its own.
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
    weights = system(task).weights.astype(np.float32).reshape(task.side, task.side)
    odds = np.exp(np.stack([2 * weights, -2 * weights]))
    rng = np.random.default_rng(1)
    spins = rng.integers(0, 2, (task.side, task.side, task.n_chains)).astype(np.uint8)
    generators = rng.integers(1, 2**32, (2, task.n_chains), dtype=np.uint32)

    start = time.perf_counter()
    _sweeps(spins.copy(), generators.copy(), odds[0], odds[1], 1)
    compiling = time.perf_counter() - start

    def call():
        _sweeps(spins, generators, odds[0], odds[1], task.n_sweeps)
        return spins

    return Method(0.0, 0.0, compiling, call)


@numba.njit(fastmath=True, boundscheck=False, error_model="numpy")
def _sweeps(spins, generators, up, down, n_sweeps):
    height, width, n_chains = spins.shape
    first, second, uniforms = generators[0], generators[1], np.empty(n_chains, np.float32)
    for _ in range(n_sweeps):
        for i in range(height):
            below, above = (i + 1) % height, (i - 1) % height
            for j in range(width):
                right, left = (j + 1) % width, (j - 1) % width
                # The site is the corner of one term, right of the corner of another and below that of a third.
                u0, u1, u2 = up[i, j], up[i, left], up[above, j]
                d0, d1, d2 = down[i, j], down[i, left], down[above, j]
                for c in range(n_chains):
                    s0, s1 = first[c], first[c] ^ second[c]
                    word = np.uint32(s0 * np.uint32(0x9E3779BB))
                    uniforms[c] = np.float32(word >> np.uint32(8)) * np.float32(2.0**-24)
                    turned = np.uint32(s0 << np.uint32(26)) | np.uint32(s0 >> np.uint32(6))
                    first[c] = turned ^ s1 ^ np.uint32(s1 << np.uint32(9))
                    second[c] = np.uint32(s1 << np.uint32(13)) | np.uint32(s1 >> np.uint32(19))
                for c in range(n_chains):
                    odds = u0 if spins[i, right, c] == spins[below, j, c] else d0
                    odds *= u1 if spins[i, left, c] == spins[below, left, c] else d1
                    odds *= u2 if spins[above, j, c] == spins[above, right, c] else d2
                    spins[i, j, c] = uniforms[c] * (np.float32(1) + odds) < odds
