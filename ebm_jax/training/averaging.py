"""Exponential moving averages of parameters, kept by the optimiser.

    m_t = Σ_s (1 − d) dᵗ⁻ˢ θ_s / (1 − dᵗ),   s = 1 … t,

the average of the parameters after each update with the weight of the start divided out (Polyak and Juditsky 1992
average evenly; Kingma and Ba 2015, §7.2, in this way). Averaged parameters are often the better model, since those of
the last step carry the noise of its batch and its chains.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from ebm_jax.types import PyTree


class AverageState(NamedTuple):
    """State of `average`.

    Attributes:
      count: int32, updates so far.
      mean: The average; before the first update, the initial parameters.
    """

    count: Int[Array, ""]
    mean: PyTree


def average(decay: float) -> optax.GradientTransformation:
    """Returns an Optax transformation that passes updates on and averages the parameters they lead to.

    It goes last in a chain, `optax.chain(optax.adam(1e-3), average(0.999))`, where updates are what is added to the
    parameters. `averaged(state.opt_state)` reads the average.

    Args:
      decay: d in [0, 1); about 1/(1 − d) updates count.

    Returns:
      The transformation. Its update raises ValueError if no parameters are given.

    Raises:
      ValueError: If `decay` lies outside [0, 1).
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay is {decay!r}; give a number from 0 up to but not 1, e.g. 0.999")

    def init(params: PyTree) -> AverageState:
        return AverageState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.asarray, params))

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, AverageState]:
        if params is None:
            raise ValueError("average needs the parameters; call tx.update(updates, state, params)")
        count = jnp.asarray(optax.safe_increment(state.count))
        weight = running_weight(1 - decay, count)
        new = optax.apply_updates(params, updates)
        mean = jax.tree.map(lambda m, p: m + (weight * (p - m)).astype(m.dtype), state.mean, new)
        return updates, AverageState(count, mean)

    return optax.GradientTransformation(init, update)


def averaged(opt_state: PyTree) -> PyTree:
    """Returns the average that `average` keeps, wherever it is in a state of Optax.

    Args:
      opt_state: The state of a chain with one `average`.

    Returns:
      The averaged parameters; at step 0, the initial ones.

    Raises:
      ValueError: If the state holds no average, or more than one.
    """

    def is_average(node: Any) -> bool:
        return isinstance(node, AverageState)

    found = [leaf for leaf in jax.tree.leaves(opt_state, is_leaf=is_average) if is_average(leaf)]
    if len(found) != 1:
        raise ValueError(
            f"opt_state holds {len(found)} averages; give the opt_state of a chain that ends with one average(decay)"
        )
    return found[0].mean


def running_weight(rate: float, count: Int[Array, ""]) -> Float[Array, ""]:
    """Returns the weight of value number `count` in a running average without the bias of its start.

    It is rate / (1 − (1 − rate)^count): 1 for the first value, 1/count while count is small, `rate` in the long run.
    """
    count = count.astype(jnp.float32)
    return rate / -jnp.expm1(count * jnp.log1p(-jnp.float32(rate)))
