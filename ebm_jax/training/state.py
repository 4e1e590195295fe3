"""All that a training run carries from one step to the next, in one pytree."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import optax
from flax import struct
from flax.training import train_state

from ebm_jax.types import PyTree


class TrainState(train_state.TrainState):
    """Flax's train state with what the negative samples need beside it.

    Every leaf is an array. Two states have the same structure when `apply_fn` and `tx` are equal: energies of models
    compare by value, and Optax transformations by what they do where that can be known, else by identity.

    Attributes:
      step: int32, updates made.
      params: The trained parameters.
      opt_state: The state of the optimiser.
      apply_fn: The energy `(params, x) -> scalar`, structure.
      tx: The Optax transformation, structure.
      negatives: State of the source of negatives. For persistent chains it is the kernel's packed form, in which the
        next step goes on at once (`pcd(…).chains(state.negatives)` unpacks it). What a kernel caches of the parameters
        in it is computed anew at every step, since they move.
      key: The typed key that the latest step was given. `step(state.key, state, batch)` and
        `fit(state.key, …, state=state)` go on as if the run had not stopped.
      variables: Arrays of a network that are not trained, such as the vectors of spectral normalisation, by collection
        as Linen has them. The optimiser never sees them. The objective returns new ones.

    Example:
      >>> model = ej.RBM(6, 3)
      >>> init, step = ej.make_train_step(model, optax.sgd(0.1), ej.negatives.cd(ej.gibbs(model)))
      >>> state = init(jax.random.key(0))
      >>> int(state.step), state.params.weights.shape
      (0, (6, 3))
    """

    # Anything may stand at a leaf, as in any pytree (shapes, NumPy arrays, markers of JAX's own): Flax declares less.
    step: Any = struct.field(pytree_node=True)
    params: PyTree = struct.field(pytree_node=True)
    negatives: PyTree = struct.field(pytree_node=True)
    key: Any = struct.field(pytree_node=True)
    variables: PyTree = struct.field(pytree_node=True, default_factory=dict)

    def apply_gradients(
        self, *, grads: PyTree, extra: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> TrainState:
        """Returns the state after one update of `tx`.

        Args:
          grads: The gradient, a pytree like the parameters; an array alone will do.
          extra: Further arguments of the update, for transformations that take them
            (`optax.GradientTransformationExtraArgs`); others never see them. A train step gives `data`, the batch as
            the objective takes it, and `negatives`, the positions of the negatives.
          **kwargs: New values of other fields.

        Returns:
          The new state, one step on.
        """
        tx = optax.with_extra_args_support(self.tx)
        update = functools.partial(tx.update, **(extra or {}))
        # Flax treats some entries of its dictionaries in a way of its own.
        if isinstance(self.params, Mapping):
            bound = self.replace(tx=optax.GradientTransformation(tx.init, update))
            new: Any = train_state.TrainState.apply_gradients(bound, grads=grads, **kwargs)
            return new.replace(tx=self.tx)
        updates, opt_state = update(grads, self.opt_state, self.params)
        params = optax.apply_updates(self.params, updates)
        return self.replace(step=self.step + 1, params=params, opt_state=opt_state, **kwargs)

    @classmethod
    def create(
        cls, *, apply_fn: Callable[..., Any], params: PyTree, tx: optax.GradientTransformation, **kwargs: Any
    ) -> TrainState:
        """Returns a state at step 0.

        The counter starts as an array, so the second step does not retrace.
        """
        step = jnp.zeros((), jnp.int32)
        if isinstance(params, Mapping):
            return super().create(apply_fn=apply_fn, params=params, tx=tx, **kwargs).replace(step=step)
        return cls(step=step, apply_fn=apply_fn, params=params, tx=tx, opt_state=tx.init(params), **kwargs)
