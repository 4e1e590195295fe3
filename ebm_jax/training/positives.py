"""The data's side of the gradient where a model has hidden sites and no free energy in closed form.

E_data[∂F(v)] = E_data E_{h ~ p(h | v)}[∂E(v, h)], so it is enough to draw the hidden sites given the data.
A source of positives has one method, `draw(key, model, params, batch) -> configurations`, traced in the train step.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ebm_jax import checks
from ebm_jax.samplers.base import Kernel
from ebm_jax.training.losses import whole
from ebm_jax.training.negatives import run_chains
from ebm_jax.types import Key, PyTree


@functools.partial(jax.tree_util.register_dataclass, data_fields=("kernel", "mask"), meta_fields=("k",))
@dataclass(frozen=True, eq=False)
class ClampedChains:
    """What `clamped_gibbs` builds."""

    kernel: Any
    mask: PyTree
    k: int

    def draw(self, key: Key, model: Any, params: PyTree, batch: PyTree) -> PyTree:
        """Returns `batch` as whole configurations, with hidden sites `k` clamped steps from what it holds there."""
        start = jax.vmap(lambda x: self.kernel.init(params, x, (self.mask, x)))(whole(model, batch))
        chains, _ = run_chains(key, self.kernel, params, self.kernel.pack(params, start), self.k)
        return self.kernel.packed_positions(chains)


def clamped_gibbs(kernel: Kernel, mask: PyTree = None, k: int = 1) -> ClampedChains:
    """Fills hidden sites by `k` steps of `kernel` with the visible ones held at the data.

    mask: bool, shaped like one configuration, True at visible sites; default: the visible sites of a model that has a
    field `hidden`. A batch holds data, whose hidden sites start at False or 0, or, where the model hides nothing, whole
    configurations, which start at what they hold. One Gibbs sweep is an exact draw where no two hidden sites share an
    edge; otherwise larger `k` is less biased (Ackley, Hinton and Sejnowski 1985, with chains restarted at every step).
    Raises ValueError when `k` is under 1, there is no mask, or it does not fit the kernel's model.
    """
    checks.check_integer("k", k, 1)
    model: Any = getattr(kernel, "model", None)
    if mask is None:
        if getattr(model, "hidden", None) is None:
            raise ValueError(
                f"{model!r} does not say which sites are hidden; give a mask that is True at the visible ones, "
                "or a model with hidden=Block([…])"
            )
        mask = jnp.asarray(model.visible_mask)
    if hasattr(model, "position_struct"):
        checks.check_struct("mask", mask, model.position_struct(), dtypes={"bool"})
    return ClampedChains(kernel, mask, k)
