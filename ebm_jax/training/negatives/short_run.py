"""Short-run negatives: chains that start anew at every update."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ebm_jax import checks
from ebm_jax.energies.target import Target
from ebm_jax.samplers.base import Kernel
from ebm_jax.samplers.start import check_kernel
from ebm_jax.training.negatives.starts import as_start
from ebm_jax.training.sources import Negatives, Source, figures_of_chains, model_of, pack_chains, run_chains
from ebm_jax.types import Key, PyTree


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("kernel", "start", "clamped"),
    meta_fields=("k", "n_chains"),
)
@dataclass(frozen=True, eq=False)
class ShortRun(Source):
    """What `short_run` builds. Its state counts the updates, uint32."""

    kernel: Any
    start: Any
    clamped: PyTree
    k: int
    n_chains: int

    def sampled_model(self) -> Any:
        """Returns the kernel's model, or None."""
        return model_of(self.kernel)

    def init(self, key: Key, target: Target, params: PyTree) -> jax.Array:
        """Returns the counter, 0.

        Raises:
          ValueError: If the starts do not fit the kernel.
        """
        del target
        checks.check_chains_fit(self.n_chains, jax.eval_shape(lambda key: self.start(key, 1), key))
        self.kernel.check(params, self.start(key, self.n_chains), None)
        return jnp.zeros((), jnp.uint32)

    def draw(
        self, key: Key, target: Target, params: PyTree, state: jax.Array, batch: PyTree
    ) -> tuple[Negatives, jax.Array]:
        """Returns chains `k` steps away from new starts; `batch` plays no part."""
        del batch
        first, steps = jax.random.split(jax.random.fold_in(key, state))
        begin = self.start(first, self.n_chains)
        packed = pack_chains(self.kernel, params, begin, self.clamped)
        chains, info = run_chains(steps, self.kernel, params, packed, self.k)
        ends = self.kernel.packed_positions(chains)
        drawn = Negatives(target.data_of(ends), None, info, figures=figures_of_chains(begin, ends))
        return drawn, state + jnp.uint32(1)


def short_run(kernel: Kernel, k: int, n_chains: int = 128, *, start: Any, clamped: PyTree = None) -> ShortRun:
    """Chains that start at noise at every update and take `k` steps of `kernel` (Nijkamp et al. 2019).

    The model that such training gives is the sampler itself, k steps from its start. Generate with the same start,
    kernel and number of steps.

    Args:
      kernel: The kernel.
      k: Steps of the kernel, at least 1.
      n_chains: Chains of an update.
      start: Function `(key, n) -> positions`, such as those of `negatives.starts`.
      clamped: Bool, shaped like one position. Where it is True, chains keep the values of their start.

    Returns:
      A source of negatives for `fit` and `make_train_step`.

    Raises:
      ValueError: If `k` or `n_chains` is under 1, or `start` cannot be called.

    Example:
      >>> kernel = ej.langevin(lambda params, x: params * (x**2).sum(), step_size=0.1, noise_scale=0.1)
      >>> source = ej.negatives.short_run(kernel, k=20, n_chains=16, start=ej.negatives.starts.uniform((2,)))
    """
    return ShortRun(
        check_kernel(kernel),
        as_start(start),
        clamped,
        checks.check_integer("k", k, 1),
        checks.check_integer("n_chains", n_chains, 1),
    )
