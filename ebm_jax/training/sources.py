"""What a source of negatives is, and how sources run chains."""

from __future__ import annotations

import abc
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
    """

    positions: PyTree
    weights: Float[Array, " n"] | None
    info: Info
    hidden_inputs: HiddenInputs | None = None


class Source(abc.ABC):
    """A source of negatives."""

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


def model_of(kernel: Any) -> Any:
    """Returns the model that a kernel samples, or None for a kernel of an energy function."""
    return getattr(kernel, "model", None)


def pack_chains(kernel: Any, params: PyTree, positions: PyTree) -> PyTree:
    """Returns new chains at `positions` (leading chain axis) in the kernel's packed form."""
    return kernel.pack(params, jax.vmap(lambda x: kernel.init(params, x))(positions))


def run_chains(key: Key, kernel: Any, params: PyTree, packed: PyTree, n: int) -> tuple[PyTree, Info]:
    """Takes `n` steps of packed chains at β = 1; chain i has the key `fold_in(key, i)`."""
    keys = packed_chain_keys(key, kernel, packed)
    return kernel.packed_steps(keys, params, jnp.ones((), jnp.float32), kernel.refresh(params, packed), n)


def packed_chain_keys(key: Key, kernel: Any, packed: PyTree) -> Key:
    """Returns the keys of packed chains, `fold_in(key, i)`."""
    n_chains = jax.eval_shape(kernel.unpack, packed).step.shape[0]
    return chain_keys(key, n_chains)
