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

    Inherited: `step`, int32, updates made; `params`; `opt_state`; and, as structure, `apply_fn`, the energy
    `(params, x) -> scalar`, and `tx`, the Optax transformation. Added:

    negatives: state of the negative sampler: for persistent chains the kernel's packed form, in which the next step
    goes on at once (`pcd(…).chains(state.negatives)` unpacks it). What a kernel caches of the parameters in it is
    computed anew at every step, since they move.
    key: the typed key that the latest step was given; `step(state.key, state, batch)` and `fit(state.key, …,
    state=state)` go on as if the run had not stopped.

    Every leaf is an array. Two states have the same structure when `apply_fn` and `tx` are equal: energies of models
    compare by value, Optax transformations by identity.
    """

    # Anything may stand at a leaf, as in any pytree (shapes, NumPy arrays, markers of JAX's own): Flax declares less.
    step: Any = struct.field(pytree_node=True)
    params: PyTree = struct.field(pytree_node=True)
    negatives: PyTree = struct.field(pytree_node=True)
    key: Any = struct.field(pytree_node=True)

    def apply_gradients(
        self, *, grads: PyTree, extra: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> TrainState:
        """Returns the state after one update of `tx`; `kwargs` replace other fields.

        extra: further arguments of the update, for transformations that take them
        (`optax.GradientTransformationExtraArgs`); others never see them. A train step gives `data`, the batch as the
        loss takes it, and `negatives`, the positions of the negatives.
        Any pytree of parameters will do, an array alone included.
        """
        tx = optax.with_extra_args_support(self.tx)
        update = functools.partial(tx.update, **(extra or {}))
        if isinstance(
            self.params, Mapping
        ):  # Flax treats some entries of its dictionaries in a way of its own
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
        """Returns a state at step 0. The counter is an array from the start, so that the first step traces no twice."""
        step = jnp.zeros((), jnp.int32)
        if isinstance(params, Mapping):
            return super().create(apply_fn=apply_fn, params=params, tx=tx, **kwargs).replace(step=step)
        return cls(step=step, apply_fn=apply_fn, params=params, tx=tx, opt_state=tx.init(params), **kwargs)
