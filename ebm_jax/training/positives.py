"""The data's side of the gradient where a model has hidden sites and no free energy in closed form.

E_data[∂F(v)] = E_data E_{h ~ p(h | v)}[∂E(v, h)], so it is enough to draw the hidden sites given the data. A source of
positives has one method, `draw(key, target, params, batch) -> configurations`, traced in the train step.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ebm_jax import checks
from ebm_jax.energies.target import Target, target_of
from ebm_jax.samplers.base import Kernel
from ebm_jax.training.fields import rows_and_field
from ebm_jax.training.sources import model_of, pack_chains, run_chains
from ebm_jax.types import Key, PyTree


@functools.partial(jax.tree_util.register_dataclass, data_fields=("kernel", "mask"), meta_fields=("k",))
@dataclass(frozen=True, eq=False)
class ClampedChains:
    """What `clamped_gibbs` builds."""

    kernel: Any
    mask: PyTree
    k: int

    def sampled_model(self) -> Any:
        """Returns the kernel's model, or None."""
        return model_of(self.kernel)

    def draw(self, key: Key, target: Target, params: PyTree, batch: PyTree) -> PyTree:
        """Returns full configurations that show the rows of `batch`, drawn with their fields.

        Hidden sites are `k` clamped steps away from what the batch holds there.
        """
        rows, field = rows_and_field(batch)
        start = pack_chains(self.kernel, params, target.full_configurations(rows), self.mask, field)
        chains, _ = run_chains(key, self.kernel, params, start, self.k)
        return self.kernel.packed_positions(chains)


def clamped_gibbs(kernel: Kernel, mask: PyTree = None, k: int = 1) -> ClampedChains:
    """Fills hidden sites by `k` steps of `kernel` with the visible ones held at the data.

    A batch holds data, whose hidden sites start at False or 0. Where the model hides nothing it holds full
    configurations, which start at what they hold. One Gibbs sweep is an exact draw where no two hidden sites share an
    edge. Otherwise larger `k` is less biased (Ackley, Hinton and Sejnowski 1985, with chains restarted at every step).

    Args:
      kernel: The kernel.
      mask: bool, shaped like one configuration, True at visible sites. By default those of the model's field `hidden`.
      k: Steps of the kernel, at least 1.

    Returns:
      A source of positives for `fit` and `make_train_step`.

    Raises:
      ValueError: If `k` is under 1, there is no mask, or it does not fit the kernel's model.
    """
    checks.check_integer("k", k, 1)
    model = model_of(kernel)
    if mask is None:
        if model is None or not target_of(model).has_hidden_sites:
            raise ValueError(
                f"{model!r} does not say which sites are hidden; give a mask that is True at the visible ones, "
                "or a model with hidden=Block([…])"
            )
        mask = jnp.asarray(model.visible_mask)
    if model is not None:
        checks.check_struct("mask", mask, model.position_struct(), dtypes={"bool"})
    return ClampedChains(kernel, mask, k)
