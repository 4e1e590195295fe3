"""What the kernels of continuous energies share: checks of positions and numbers, and numbers for each element.

Positions are pytrees of floating arrays, and an energy is `energy(params, x) -> scalar` or a model that has one.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import checks
from ebm_jax.samplers.base import EnergyKernel, one_of_chains
from ebm_jax.types import PyTree


class ContinuousKernel(EnergyKernel):
    """A kernel that moves floating-point arrays.

    Attributes:
      dtypes: Names of the dtypes that positions may have; None for any floating dtype.
      elementwise: Names of fields that hold one number for all elements, an array for all leaves, or a pytree like a
        position.
    """

    dtypes: frozenset[str] | None = None
    elementwise: tuple[str, ...] = ()

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Checks positions, the energy and the numbers of the kernel.

        Raises:
          ValueError: If positions are not floating, the energy is no scalar, or values are not finite.
        """
        for path, leaf in jax.tree_util.tree_leaves_with_path(x):
            name = "init" + jax.tree_util.keystr(path)
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise ValueError(
                    f"{name} has dtype {leaf.dtype}; {type(self).__name__} moves floating-point arrays: "
                    "use .astype(float)"
                )
            if self.dtypes and str(leaf.dtype) not in self.dtypes:
                names = " or ".join(sorted(self.dtypes))
                raise ValueError(
                    f"{name} has dtype {leaf.dtype}, too narrow to accept by; use .astype({names})"
                )
        super().check(params, x, clamped)
        for name in self.elementwise:
            check_elementwise(name, getattr(self, name), one_of_chains(x))


def check_scale(name: str, value: Any, *, positive: bool = False) -> None:
    """Checks that `value` is a real scalar and, where it can be looked at, finite and ≥ 0, or > 0 if `positive`.

    Raises:
      ValueError: If it is not.
    """
    least = "greater than 0" if positive else "of at least 0"
    if jnp.shape(value) != () or not jnp.issubdtype(getattr(value, "dtype", type(value)), jnp.number):
        raise ValueError(f"{name} is {value!r}; give a single real number {least}")
    if checks.is_concrete(value):
        number = np.asarray(value)
        if not np.isfinite(number) or number < 0 or (positive and number == 0):
            raise ValueError(f"{name} is {value}; give a finite number {least}")


def as_numbers(tree: PyTree) -> PyTree:
    """Returns a pytree of floating arrays from numbers: float64 where the user has enabled it."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), tree)


def check_positive(name: str, tree: PyTree) -> None:
    """Checks that all concrete numbers of `tree` are finite and greater than 0.

    Raises:
      ValueError: If one is not.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if checks.is_concrete(leaf):
            values = np.asarray(leaf)
            bad = ~(np.isfinite(values) & (values > 0))
            if bad.any():
                where = name + jax.tree_util.keystr(path)
                raise ValueError(f"{where} holds {values[bad][0]}; give finite numbers greater than 0")


def check_elementwise(name: str, tree: PyTree, x: PyTree) -> None:
    """Checks that `tree` is None, or that its numbers fit the leaves of `x`.

    Raises:
      ValueError: If they do not.
    """
    if tree is None:
        return
    for part, leaf in zip(jax.tree.leaves(for_each_leaf(tree, x, name)), jax.tree.leaves(x), strict=True):
        shape = jnp.shape(part)
        if len(shape) > len(leaf.shape) or any(
            a not in (1, b) for a, b in zip(shape[::-1], leaf.shape[::-1])
        ):
            raise ValueError(f"{name} has shape {shape}; give a scalar or a shape that fits {leaf.shape}")


def for_each_leaf(tree: PyTree, like: PyTree, name: str = "it") -> PyTree:
    """Returns a single leaf once for every leaf of `like`; a pytree that has its structure stays as it is."""
    structure = jax.tree.structure(like)
    if jax.tree_util.treedef_is_leaf(jax.tree.structure(tree)):
        return jax.tree.unflatten(structure, [tree] * structure.num_leaves)
    if jax.tree.structure(tree) != structure:
        raise ValueError(f"{name} has the structure {jax.tree.structure(tree)}; a position has {structure}")
    return tree


def zero_where(mask: PyTree | None, tree: PyTree) -> PyTree:
    """Returns `tree` with zeros where `mask` is True."""
    if mask is None:
        return tree
    return jax.tree.map(lambda m, leaf: jnp.where(m, jnp.zeros((), leaf.dtype), leaf), mask, tree)


def total(tree: PyTree) -> jax.Array:
    """Returns the sum of all elements."""
    return sum(map(jnp.sum, jax.tree.leaves(tree)), jnp.zeros(()))
