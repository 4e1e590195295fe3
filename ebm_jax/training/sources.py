"""What a source of negatives is, and how sources run chains."""

from __future__ import annotations

import abc
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ebm_jax.chains import chain_keys
from ebm_jax.energies.target import Target
from ebm_jax.training.rbm_gradient import HiddenInputs
from ebm_jax.types import Info, Key, PyTree


class Negatives(NamedTuple):
    """Configurations that stand for the model's distribution.

    Attributes:
      positions: Pytree with a leading axis of length n, in the form that the target's `data_energy` takes. Another
        objective may take another form.
      weights: `(n,)`, adding up to 1, or None for equal ones.
      info: Counts of the sampler, a row a chain.
      hidden_inputs: What the hidden layer of an RBM was drawn from, if the sampler computed it; see `rbm_gradient`.
      field: What each negative added to the biases when it was drawn, or None.
      figures: Scalars that the source reports of the step by name. They go to `Metrics.extra`.
    """

    positions: PyTree
    weights: Float[Array, " n"] | None
    info: Info
    hidden_inputs: HiddenInputs | None = None
    field: PyTree | None = None
    figures: Mapping[str, Array] = {}


class Source(abc.ABC):
    """A source of negatives.

    Attributes:
      takes_field: Whether `draw` draws negatives under the fields of a `WithField` batch, and returns them.
    """

    takes_field = False

    def sampled_model(self) -> Any:
        """Returns the model that is sampled, or None where the source does not know it."""
        return None

    @abc.abstractmethod
    def init(self, key: Key, target: Target, params: PyTree) -> PyTree:
        """Returns the arrays that the source carries from one step to the next; the train state keeps them."""

    @abc.abstractmethod
    def draw(
        self, key: Key, target: Target, params: PyTree, state: PyTree, batch: PyTree
    ) -> tuple[Negatives, PyTree]:
        """Draws negatives; pure, and traced in the train step.

        Args:
          key: The same at every step, perhaps. What has to change from step to step is counted in `state`.
          target: What the negatives stand for.
          params: What the energy takes.
          state: The arrays carried from the step before.
          batch: The batch of this step.

        Returns:
          The negatives, and the arrays for the next step.
        """

    def put_back(self, params: PyTree, before: PyTree, after: PyTree) -> PyTree:
        """Returns the state after a step with every chain that left the finite numbers where it stood before.

        Only train steps that skip bad updates call it. Here: the state after the step, for sources that hold no real
        numbers.
        """
        del params, before
        return after

    def check_run(self, n_steps: int) -> None:
        """Warns where a run of `n_steps` updates cannot make good use of the source."""
        del n_steps


def model_of(kernel: Any) -> Any:
    """Returns the model that a kernel samples, or None for a kernel of an energy function."""
    return getattr(kernel, "model", None)


def pack_chains(
    kernel: Any, params: PyTree, positions: PyTree, mask: PyTree = None, field: PyTree = None
) -> PyTree:
    """Returns new chains in the kernel's packed form.

    Args:
      kernel: The kernel.
      params: What the energy takes.
      positions: Where chains start, with a leading chain axis.
      mask: Bool, shaped like one position. Where it is True, chains keep their values.
      field: What each chain adds to the biases, or None.
    """

    def start(x: PyTree) -> Any:
        return kernel.init(params, x, None if mask is None else (mask, x))

    states = jax.vmap(start)(positions)
    return kernel.pack(params, states if field is None else kernel.with_field(states, field))


def run_chains(key: Key, kernel: Any, params: PyTree, packed: PyTree, n: int) -> tuple[PyTree, Info]:
    """Takes `n` steps of packed chains at β = 1; chain i has the key `fold_in(key, i)`."""
    keys = packed_chain_keys(key, kernel, packed)
    return kernel.packed_steps(keys, params, jnp.ones((), jnp.float32), kernel.refresh(params, packed), n)


def packed_chain_keys(key: Key, kernel: Any, packed: PyTree) -> Key:
    """Returns the keys of packed chains, `fold_in(key, i)`."""
    n_chains = jax.eval_shape(kernel.unpack, packed).step.shape[0]
    return chain_keys(key, n_chains)


def figures_of_chains(before: PyTree, after: PyTree) -> dict[str, Array]:
    """Returns `position_max`, the largest |x|, and `movement`, the mean Euclidean distance between two positions.

    Args:
      before: Real positions with a leading chain axis, before the steps.
      after: The same chains after them.

    Returns:
      The scalars by name.
    """
    pairs = list(zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True))
    squares = [jnp.square(b - a).reshape(len(a), -1).sum(axis=1) for a, b in pairs]
    return {
        "position_max": jnp.stack([jnp.abs(b).max() for _, b in pairs]).max(),
        "movement": jnp.sqrt(functools.reduce(jnp.add, squares)).mean(),
    }


def lost_rows(old: PyTree, new: PyTree) -> Array:
    """Returns whether each row holds a number that was finite in `old` and is not in `new`."""
    lost = [
        (jnp.isfinite(a) & ~jnp.isfinite(b)).reshape(len(b), -1).any(axis=1)
        for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
        if jnp.issubdtype(b.dtype, jnp.inexact)
    ]
    n_rows = jax.tree.leaves(new)[0].shape[0]
    return functools.reduce(jnp.logical_or, lost, jnp.zeros(n_rows, jnp.bool_))


def column(flags: Array, ndim: int) -> Array:
    """Returns flags of rows with further axes of length 1, `ndim` in all."""
    return flags.reshape(flags.shape + (1,) * (ndim - 1))
