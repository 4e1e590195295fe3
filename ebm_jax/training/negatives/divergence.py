"""Contrastive divergence: chains that start at the batch."""

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
from ebm_jax.training.fields import rows_and_field
from ebm_jax.training.sources import Negatives, Source, model_of, pack_chains, run_chains
from ebm_jax.types import Key, PyTree


@functools.partial(jax.tree_util.register_dataclass, data_fields=("kernel",), meta_fields=("k",))
@dataclass(frozen=True, eq=False)
class ContrastiveDivergence(Source):
    """What `cd` builds. Its state counts the steps taken, uint32."""

    kernel: Any
    k: int

    takes_field = True

    def sampled_model(self) -> Any:
        """Returns the kernel's model, or None."""
        return model_of(self.kernel)

    def init(self, key: Key, target: Target, params: PyTree) -> jax.Array:
        """Returns the counter, 0."""
        del key, target, params
        return jnp.zeros((), jnp.uint32)

    def draw(
        self, key: Key, target: Target, params: PyTree, state: jax.Array, batch: PyTree
    ) -> tuple[Negatives, jax.Array]:
        """Returns as many negatives as `batch` has rows, each `k` steps away from one of them."""
        rows, field = rows_and_field(batch)
        try:
            target.check_data("batch", rows)
        except ValueError as error:
            raise ValueError(
                f"cd starts its chains at the batch, and {error}. For batches of another form use pcd, or an "
                "Objective whose data_of returns the data of a batch"
            ) from error
        start = pack_chains(self.kernel, params, target.full_configurations(rows), field=field)
        chains, info = run_chains(jax.random.fold_in(key, state), self.kernel, params, start, self.k)
        positions = target.data_of(self.kernel.packed_positions(chains))
        return Negatives(positions, None, info, field=field), state + jnp.uint32(1)


def cd(kernel: Kernel, k: int = 1) -> ContrastiveDivergence:
    """Contrastive divergence: chains start at the batch and take `k` steps of `kernel` (Hinton 2002).

    Negatives ~ Tᵏ(· | data), as many as the batch has rows. The hidden part of a start is `model.complete(v)`. A kernel
    that draws the hidden sites first, as an RBM's default blocks do, never reads it. The gradient is biased, the less
    so the larger `k`.

    Args:
      kernel: The kernel, at least one step of which is taken.
      k: Steps of the kernel, at least 1.

    Returns:
      A source of negatives for `fit` and `make_train_step`.

    Raises:
      ValueError: If `k` is under 1, or `kernel` is no kernel.

    Example:
      >>> source = ej.negatives.cd(ej.gibbs(ej.RBM(6, 3)), k=5)
    """
    return ContrastiveDivergence(check_kernel(kernel), checks.check_integer("k", k, 1))
