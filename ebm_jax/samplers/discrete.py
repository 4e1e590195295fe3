"""What the kernels of discrete models share: checks of shapes, dtypes and levels, and counts of bad inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ebm_jax import checks
from ebm_jax.energies.base import levels_of_leaves
from ebm_jax.samplers.base import ChainState, Kernel, step_number
from ebm_jax.types import PyTree


class DiscreteKernel(Kernel):
    """A kernel of a discrete model, its field `model`: it checks shapes, dtypes and levels."""

    model: Any
    state_type = ChainState

    @property
    def energy_function(self) -> Callable[[PyTree, PyTree], jax.Array]:
        """The energy of the model."""
        return self.model.energy

    def init(self, params: PyTree, x: PyTree, clamped: Any = None) -> Any:
        """Returns the state of a chain at `x`; `clamped=(mask, values)` fixes values where the mask is True.

        Raises:
          ValueError: If the shape or dtype of `x` does not fit the model.
        """
        self._check_positions("x", x, leading=0)
        return super().init(params, x, clamped)

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Checks parameters, chains `x` (leading chain axis) and clamping against the model.

        Raises:
          ValueError: If they do not fit.
        """
        if hasattr(self.model, "params_struct"):
            checks.check_struct("params", params, self.model.params_struct(), dtypes=checks.FLOATS)
        self._check_positions("init", x, leading=1)
        super().check(params, x, clamped)
        self._check_levels("init", x)
        if clamped is not None:
            self._check_levels("clamped values", clamped[1])

    def _check_positions(self, name: str, x: PyTree, leading: int) -> None:
        if hasattr(self.model, "position_struct"):
            struct, dtypes = self.model.position_struct(), self.model.position_dtypes
            checks.check_struct(name, x, struct, leading=leading, dtypes=dtypes)

    def _check_levels(self, name: str, x: PyTree) -> None:
        paths, _ = jax.tree_util.tree_flatten_with_path(x)
        for (path, part), count in zip(paths, levels_of_leaves(self.model, x), strict=True):
            # Units that are real numbers have no levels.
            if count is not None:
                checks.check_levels(name + jax.tree_util.keystr(path), part, count)


def check_whole_numbers(x: PyTree) -> None:
    """Checks that positions hold levels: whole numbers or bools.

    uint32 is left to the counters of a state: training tells them by it.

    Raises:
      ValueError: If a leaf has another dtype.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(x):
        is_level = jnp.issubdtype(leaf.dtype, jnp.integer) or leaf.dtype == jnp.bool_
        if not is_level or leaf.dtype == jnp.uint32:
            name = "init" + jax.tree_util.keystr(path)
            raise ValueError(
                f"{name} has dtype {leaf.dtype}; levels are whole numbers but uint32: use .astype(jnp.int32)"
            )


def count_nonfinite(step: jax.Array, n: int, *inputs: PyTree) -> dict[str, jax.Array]:
    """Returns the `Info` counts of `n` steps from `step` on, none of them finite unless all `inputs` are.

    A discrete state is never NaN. What a caller's traced parameters did wrong shows only here.
    """
    # The sum is 0 or NaN. It takes the CPU a third of the time of looking at each number.
    finite = jnp.isfinite(
        functools.reduce(jnp.add, [jnp.sum(leaf - leaf) for leaf in jax.tree.leaves(inputs)])
    )
    return {
        "n_nonfinite": jnp.where(finite, 0, n),
        "first_nonfinite": jnp.where(finite | (n == 0), -1, step_number(step + jnp.uint32(1))),
    }
