"""What a chain is held to: clamped sites, and a field of its own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ebm_jax import checks
from ebm_jax.types import PyTree


def check_clamped(clamped: Any, x: PyTree) -> None:
    """Checks that `clamped` is None or (mask, values), each shaped like chains `x` or like one of them.

    Raises:
      ValueError: If it is not.
    """
    if clamped is None:
        return
    if not isinstance(clamped, tuple) or len(clamped) != 2:
        raise ValueError(
            f"clamped is {type(clamped).__name__}; give (mask, values), both shaped like a position"
        )
    for name, tree in zip(("clamped mask", "clamped values"), clamped, strict=True):
        if jax.tree.structure(tree) != jax.tree.structure(x):
            raise ValueError(
                f"{name} has the structure {jax.tree.structure(tree)}; a position has {jax.tree.structure(x)}"
            )
        for leaf, chains in zip(jax.tree.leaves(tree), jax.tree.leaves(x), strict=True):
            dtype = jnp.dtype(jnp.bool_) if name == "clamped mask" else chains.dtype
            if getattr(leaf, "shape", None) not in (chains.shape, chains.shape[1:]):
                shape = getattr(leaf, "shape", type(leaf).__name__)
                raise ValueError(f"{name} has shape {shape}; expected {chains.shape[1:]} or {chains.shape}")
            if leaf.dtype != dtype:
                raise ValueError(f"{name} has dtype {leaf.dtype}; expected {dtype}: convert it with .astype")
    checks.check_finite("clamped values", clamped[1])


def check_field(field: Any, model: Any, n_chains: int) -> None:
    """Checks that `field` holds the biases that each of `n_chains` chains adds to those of a model.

    Raises:
      ValueError: If it does not.
    """
    struct = model.field_struct()
    # Each layer of an RBM may have no field.
    if isinstance(struct, tuple) and isinstance(field, tuple) and len(field) == len(struct):
        struct = tuple(None if part is None else s for part, s in zip(field, struct, strict=True))
    if getattr(struct, "shape", None) == () and jnp.ndim(field) > 1:
        raise ValueError(
            f"field has shape {jnp.shape(field)}; a model with one bias takes one number a chain, (n_chains,): for a "
            'field a site, build it with bias="site"'
        )
    checks.check_struct("field", field, struct, leading=1, dtypes=checks.FLOATS)
    lengths = sorted({leaf.shape[0] for leaf in jax.tree.leaves(field)})
    if lengths not in ([], [n_chains]):
        raise ValueError(
            f"field has leading axes {lengths} and there are {n_chains} chains; give each its own"
        )
    checks.check_finite("field", field)
