"""Spins as numbers: configurations are stored as bool, True for +1, and other programs write −1 and +1."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Shaped

from ebm_jax.checks import is_concrete


def spins_from(values: Any) -> Bool[Array, "*sites"]:
    """Returns the bool spins of an array of −1 and +1.

    Args:
      values: Numbers −1 and +1 of any shape and real dtype.

    Returns:
      A bool array of the same shape, True where a value is +1.

    Raises:
      ValueError: If another value is among them. Inside `jit` values are not checked.

    Example:
      >>> ej.spins_from([1, -1, 1])
      Array([ True, False,  True], dtype=bool)
    """
    if is_concrete(values):
        table = np.asarray(values)
        if table.dtype == bool:
            raise ValueError("values are bool, so they are spins already; pass them on as they are")
        if not np.issubdtype(table.dtype, np.number) or np.iscomplexobj(table):
            raise ValueError(f"values have dtype {table.dtype}; give numbers -1 and +1")
        others = table[(table != 1) & (table != -1)]
        if others.size:
            remedy = (
                "levels 0 and 1 become spins by .astype(bool)" if (others == 0).all() else "give -1 and +1"
            )
            raise ValueError(f"values hold {others.flat[0]}, which is no spin; {remedy}")
    return jnp.asarray(values) > 0


def as_spins(x: Shaped[Any, "*sites"], dtype: Any = jnp.float32) -> Shaped[Array, "*sites"]:
    """Returns spins as numbers −1 and +1, the inverse of `spins_from`.

    Args:
      x: Spins, bool, or 0 and 1 of an integer dtype.
      dtype: A signed dtype for the result.

    Returns:
      An array of the same shape.

    Raises:
      ValueError: If the dtype of `x` is not bool or an integer, an integer is not 0 or 1, or `dtype` is unsigned.

    Example:
      >>> ej.as_spins(jnp.array([True, False]), jnp.int8)
      Array([ 1, -1], dtype=int8)
    """
    if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.signedinteger)):
        raise ValueError(f"dtype is {jnp.dtype(dtype)}, which has no -1; give a signed one, e.g. int8")
    kind = jnp.result_type(x)
    if kind != jnp.bool_ and not jnp.issubdtype(kind, jnp.integer):
        raise ValueError(f"x has dtype {kind}; give bool spins, or 0 and 1 as integers")
    if kind != jnp.bool_ and is_concrete(x):
        others = np.asarray(x)[~np.isin(x, (0, 1))]
        if others.size:
            raise ValueError(f"x holds {others.flat[0]}; give bool spins, or 0 and 1 as integers")
    return jnp.where(jnp.asarray(x).astype(bool), 1, -1).astype(dtype)
