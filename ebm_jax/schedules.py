"""Ladders of inverse temperatures from 0, where nothing is coupled, to 1, the model.

A ladder is a float64 NumPy array `(n,)` that rises from 0 to 1. `partition` and tempering use them.
`partition.adaptive_ladder` fits one to a model. Learning rates and step sizes are Optax schedules.

Example:
  >>> ej.schedules.linear(5)
  array([0.  , 0.25, 0.5 , 0.75, 1.  ])
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from ebm_jax.checks import check_fits, check_integer

Ladder = Float[np.ndarray, " n"]


def linear(n: int) -> Ladder:
    """Returns n values with equal steps, k / (n − 1).

    Args:
      n: Number of values.

    Returns:
      The ladder.

    Raises:
      ValueError: If n is under 2, or too large for the memory.
    """
    return np.linspace(0.0, 1.0, _check_count("n", n, 2))


def geometric(n: int, smallest: float = 1e-3) -> Ladder:
    """Returns 0 and n − 1 values from `smallest` to 1 with equal ratios.

    Args:
      n: Number of values.
      smallest: The first value above 0.

    Returns:
      The ladder.

    Raises:
      ValueError: If n is under 2 or too large for the memory, or `smallest` does not lie between 0 and 1.
    """
    _check_count("n", n, 2)
    if not 0 < smallest < 1:
        raise ValueError(f"smallest is {smallest!r}; give a number between 0 and 1, e.g. 0.001")
    return np.concatenate([[0.0], np.geomspace(smallest, 1.0, n - 1)])


def three_piece(n: int) -> Ladder:
    """Returns n values in three linear pieces that get finer towards 1.

    A 29th of the steps lies below 0.5, eight 29ths between 0.5 and 0.9, the rest above (Salakhutdinov and Murray 2008:
    500, 4,000 and 10,000 of 14,500).

    Args:
      n: Number of values.

    Returns:
      The ladder.

    Raises:
      ValueError: If n is under 4, or too large for the memory.
    """
    _check_count("n", n, 4)
    steps = n - 1
    first = max(1, round(steps / 29))
    second = max(1, round(steps * 8 / 29))
    third = steps - first - second
    pieces = (0.0, 0.5, first), (0.5, 0.9, second), (0.9, 1.0, third)
    parts = [np.linspace(start, stop, count, endpoint=False) for start, stop, count in pieces]
    return np.concatenate([*parts, [1.0]])


def check_ladder(name: str, betas: Any) -> Ladder:
    """Returns a ladder from values, or a linear one from their number.

    Args:
      name: What the error message calls it.
      betas: Values, or a number of values.

    Returns:
      The ladder.

    Raises:
      ValueError: If the values do not rise from 0 to 1, or their number is too large for the memory.
    """
    if np.ndim(betas) == 0:
        return linear(_check_count(name, betas, 2))
    ladder = np.asarray(betas, np.float64)
    if ladder.ndim != 1 or ladder.size < 2:
        raise ValueError(f"{name} has shape {ladder.shape}; give a count, or at least two values")
    if ladder[0] != 0 or ladder[-1] != 1 or not (np.diff(ladder) > 0).all():
        raise ValueError(
            f"{name} runs from {ladder[0]} to {ladder[-1]}; give values that rise from 0 to 1, "
            "e.g. schedules.linear(1000)"
        )
    return ladder


def _check_count(name: str, n: Any, minimum: int) -> int:
    """Returns the number of a ladder's values, if it is one that fits in memory."""
    n = check_integer(name, n, minimum)
    check_fits(f"a ladder of {name}={n} values", 8 * n, f"lower {name}")
    return n
