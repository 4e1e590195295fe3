"""Pictures along chains, in memory proportional to the pictures.

Chains run from one picture to the next, some at a time, and nothing in between is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import checks
from ebm_jax.chains import chain_keys, count_chains
from ebm_jax.run import Samples, raise_on_nonfinite
from ebm_jax.samplers.base import Kernel
from ebm_jax.samplers.start import begin, pack_chains, unpack_chains
from ebm_jax.types import Info, Key, PyTree

# Chains that run together. With configs/conv_mnist.yaml the program takes 110 kB a chain for the network's activations.
N_TOGETHER = 1024


class Frames(NamedTuple):
    """Pictures along chains.

    Attributes:
      frames: uint8 `(n_frames, n_chains, ...)`, the start first.
      steps: Steps before each frame, `(n_frames,)`.
    """

    frames: np.ndarray
    steps: np.ndarray


def run_frames(
    key: Key,
    kernel: Kernel,
    params: PyTree,
    start: PyTree,
    steps: Sequence[int] | np.ndarray,
    picture: Callable[[PyTree], np.ndarray],
    picture_of_start: Callable[[PyTree], np.ndarray] | None = None,
) -> Frames:
    """Runs chains and takes pictures of them.

    Chains of a kernel that decides by arithmetic per site, and those of an RBM, have the bits of `sample` however many
    run together. Chains of a network have them where all run together, and the same random words elsewhere.

    Args:
      key: A typed key. Chain i uses `fold_in(key, i)`.
      kernel: The kernel.
      params: Parameters of its energy.
      start: Positions with a leading chain axis.
      steps: Steps of the chains before each picture but that of the start, rising.
      picture: Function of some chains' positions that gives their pictures, uint8, chain axis first.
      picture_of_start: The same for the start; the default is `picture`.

    Returns:
      The pictures and their steps.

    Raises:
      ValueError: If positions do not fit the kernel, or the pictures do not fit in memory.
      NonFiniteError: If a chain reached a NaN or infinite value.
    """
    n, gaps = count_chains(start), np.diff(steps, prepend=0)
    keys, frames = chain_keys(key, n), np.zeros((0, n, 0), np.uint8)
    for first in range(0, n, N_TOGETHER):
        rows = slice(first, min(first + N_TOGETHER, n))
        few = jax.tree.map(lambda leaf, rows=rows: leaf[rows], start)
        pictures = (picture_of_start or picture)(few)
        if first == 0:
            shape = (len(gaps) + 1, n, *pictures.shape[1:])
            checks.check_fits(f"pictures of {n} chains", math.prod(shape), "take fewer chains")
            frames = np.empty(shape, np.uint8)
        frames[0, rows] = pictures
        checked, states = begin(key, kernel, params, few, None)
        _, packed, info = pack_chains(key, kernel, checked, states)
        for i, gap in enumerate(gaps):
            packed, info = _advance(kernel, keys[rows], checked, packed, info, jnp.int32(gap))
            frames[i + 1, rows] = picture(kernel.packed_positions(packed))
        if kernel.may_diverge:
            raise_on_nonfinite(kernel, Samples(None, None, info, unpack_chains(kernel, packed)), first)
    return Frames(frames, np.concatenate([[0], steps]))


@jax.jit
def _advance(
    kernel: Kernel, keys: Key, params: PyTree, packed: PyTree, info: Info, n_steps: jax.Array
) -> tuple[PyTree, Info]:
    """Takes `n_steps` steps; their number is traced, so that one program serves all of them."""

    def step(_: Any, carry: tuple[PyTree, Info]) -> tuple[PyTree, Info]:
        packed, info = carry
        packed, new = kernel.packed_steps(keys, params, jnp.float32(1), packed, 1)
        return packed, info.then(new)

    return jax.lax.fori_loop(0, n_steps, step, (packed, info))
