"""Conditionals of the sites of a datum, which need no partition function: log p(xᵢ | all other xⱼ) and its ratios."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ebm_jax.energies.target import Target
from ebm_jax.types import PyTree


def check_conditionals(target: Target) -> None:
    """Checks that all sites of a datum have conditionals.

    Raises:
      ValueError: If they have not.
    """
    has_levels = bool(target.level_counts) and None not in target.level_counts
    of_sites = has_levels and target.free_energy is None and not target.has_hidden_sites
    if target.flip_differences is None and not (of_sites and target.conditional_logits is not None):
        raise ValueError(
            f"{target.model!r} has no conditionals of the sites of a datum; give an RBM of binary units, an Ising or "
            "Potts model without hidden sites, or a FactorGraph without real units"
        )


def log_pseudo_likelihood(target: Target, params: PyTree, v: PyTree) -> Float[Array, ""]:
    """Returns Σᵢ log p(vᵢ | all other vⱼ) of one datum at β = 1.

    Args:
      target: A target that passes `check_conditionals`.
      params: What the energy takes.
      v: One datum.
    """
    if target.flip_differences is not None:
        # p(vᵢ | rest) = 1 / (1 + exp(F(v) − F(v with i flipped))).
        return -jnp.sum(jax.nn.softplus(-target.flip_differences(params, v)))
    logits = jax.tree.leaves(target.conditional_logits(params, v))
    each = [
        jnp.take_along_axis(jax.nn.log_softmax(of), level.astype(jnp.int32)[..., None], axis=-1)
        for of, level in zip(logits, jax.tree.leaves(v), strict=True)
    ]
    return functools.reduce(jnp.add, [jnp.sum(part) for part in each])


def log_ratios(target: Target, params: PyTree, v: PyTree) -> list[Float[Array, "..."]]:
    """Returns log p(v with vᵢ = k) − log p(v) of one datum for every site i and every other level k.

    Args:
      target: A target that passes `check_conditionals`.
      params: What the energy takes.
      v: One datum.

    Returns:
      Arrays `(*sites, levels)`, one a leaf of `v`; −∞ at the level that a site has.
    """
    if target.flip_differences is not None:
        return [-target.flip_differences(params, v)[..., None]]

    def of_leaf(logits: Array, level: Array) -> Array:
        index = level.astype(jnp.int32)[..., None]
        ratios = logits - jnp.take_along_axis(logits, index, axis=-1)
        levels = jnp.arange(logits.shape[-1]).reshape((1,) * (logits.ndim - 1) + (-1,))
        return jnp.where(levels == index, -jnp.inf, ratios)

    logits = target.conditional_logits(params, v)
    return jax.tree.leaves(jax.tree.map(of_leaf, logits, v))
