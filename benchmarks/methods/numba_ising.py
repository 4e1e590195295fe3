"""Numba: the checkerboard loop that one would write by hand for a tied Ising model, on one thread.

Chains are innermost, so the compiler vectorises the two inner loops. Every chain has its own xoroshiro64* generator
(Blackman and Vigna 2018), which takes a few 32-bit operations. The probabilities are nine thresholds, indexed by the
numbers of neighbours up in the row and in the column.
"""

import time

import numba
import numpy as np

from benchmarks.methods import Absent, Method
from benchmarks.tasks.gibbs import Task, tied_coupling


def prepare(task: Task, device: str = "cpu") -> Method:
    """Prepares the task. There is nothing to build. The compile time is Numba's."""
    if device != "cpu":
        raise Absent("the Numba loop is for the CPU")
    down, across = tied_coupling(task)[::-1]
    sums = np.asarray([-2.0, 0.0, 2.0])
    field = down * sums[:, None] + across * sums[None, :]
    thresholds = np.minimum(2.0**32 / (1 + np.exp(-2 * field)), 2.0**32 - 1).astype(np.uint32).ravel()
    rng = np.random.default_rng(1)
    spins = rng.integers(0, 2, (task.side, task.side, task.n_chains)).astype(np.uint8)
    generators = rng.integers(1, 2**32, (2, task.n_chains), dtype=np.uint32)

    start = time.perf_counter()
    _sweeps(spins[:2, :2].copy(), generators.copy(), thresholds, 1)
    compiling = time.perf_counter() - start

    def call():
        _sweeps(spins, generators, thresholds, task.n_sweeps)
        return spins

    return Method(0.0, 0.0, compiling, call)


@numba.njit(fastmath=True, boundscheck=False, error_model="numpy")
def _sweeps(spins, generators, t, n_sweeps):
    height, width, n_chains = spins.shape
    first, second, words = generators[0], generators[1], np.empty(n_chains, np.uint32)
    t0, t1, t2, t3, t4, t5, t6, t7, t8 = t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7], t[8]
    for _ in range(n_sweeps):
        for colour in range(2):
            for i in range(height):
                below, above = (i + 1) % height, (i - 1) % height
                for j in range((i + colour) % 2, width, 2):
                    right, left = (j + 1) % width, (j - 1) % width
                    for c in range(n_chains):
                        s0, s1 = first[c], first[c] ^ second[c]
                        words[c] = np.uint32(s0 * np.uint32(0x9E3779BB))
                        turned = np.uint32(s0 << np.uint32(26)) | np.uint32(s0 >> np.uint32(6))
                        first[c] = turned ^ s1 ^ np.uint32(s1 << np.uint32(9))
                        second[c] = np.uint32(s1 << np.uint32(13)) | np.uint32(s1 >> np.uint32(19))
                    for c in range(n_chains):
                        # The compiler vectorises these choices, but not an index into a table.
                        d, a = spins[below, j, c] + spins[above, j, c], spins[i, right, c] + spins[i, left, c]
                        none = t0 if a == 0 else (t1 if a == 1 else t2)
                        one = t3 if a == 0 else (t4 if a == 1 else t5)
                        two = t6 if a == 0 else (t7 if a == 1 else t8)
                        spins[i, j, c] = words[c] < (none if d == 0 else (one if d == 1 else two))
