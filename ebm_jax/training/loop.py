"""Epochs over a data set that lies on the device, each of them one compiled scan."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ebm_jax import checks
from ebm_jax.training.losses import energy_of
from ebm_jax.training.state import TrainState
from ebm_jax.training.step import SHUFFLES, Metrics, check_data, make_train_step, update
from ebm_jax.types import Key, PyTree


class FitResult(NamedTuple):
    """What `fit` returns: the last state, and metrics as NumPy arrays `(n_epochs, n_batches)`."""

    state: TrainState
    metrics: Metrics


class _Plan(NamedTuple):
    """Structure of an epoch."""

    model: Any
    n_batches: int
    batch_size: int


def fit(
    key: Key,
    model: Any,
    data: PyTree,
    *,
    tx: optax.GradientTransformation,
    negatives: Any,
    n_epochs: int,
    batch_size: int = 128,
    params: PyTree = None,
    state: TrainState | None = None,
    positives: Any = None,
    progress: bool = True,
    callback: Callable[[int, TrainState, Metrics], Any] | None = None,
) -> FitResult:
    """Trains a model for `n_epochs` passes over `data` in shuffled batches.

    key: a typed key; gives parameters, chains, batches and draws. data: configurations (where sites are hidden, their
    visible part) with a leading axis; copied to the device once. Each epoch visits ⌊n / batch_size⌋ · batch_size rows
    in an order drawn from the key and the epoch's number; the rest waits for another epoch. params: where to start,
    instead of `model.init`.
    state: an earlier result's state, to go on from: with the same key (`state.key`), data and batch size the bits are
    those of a run that never stopped. The epoch's number is `state.step` // n_batches. tx, negatives, positives: as for
    `make_train_step`. progress: shows a bar. callback: `callback(epoch, state, metrics)` after each epoch, metrics
    `(n_batches,)`; its states stay valid.

    An epoch is one call of one compiled function, which hands nothing to the host. Raises ValueError before any step
    on data, a batch size, parameters or a state that do not fit.
    """
    checks.check_key(key)
    checks.check_integer("n_epochs", n_epochs, 0)
    checks.check_integer("batch_size", batch_size, 1)
    n = _check_values(model, data)
    if batch_size > n:
        raise ValueError(f"batch_size is {batch_size} and data has {n} rows; give at most {n}")
    init, _ = make_train_step(model, tx, negatives, positives)
    if state is not None and params is not None:
        raise ValueError(
            "params and state are both given; a state holds its own parameters: leave params out"
        )
    current = init(key, params) if state is None else _resume(state, key, init, energy_of(model), tx)
    plan = _Plan(model, n // batch_size, batch_size)
    data = jax.device_put(data)
    kept = []
    with _bar(n_epochs, progress) as bar:
        for _ in range(n_epochs):
            # The state is not donated: it may be the caller's, and one copy an epoch costs nothing that shows.
            current, metrics = _epoch(plan, negatives, positives, key, current, data)
            kept.append(metrics)
            if progress:
                gap, norm = jax.device_get((metrics.energy_gap, metrics.gradient_norm))
                bar.set_postfix(
                    energy_gap=f"{gap.mean():.3g}", gradient_norm=f"{norm.mean():.3g}", refresh=False
                )
            if callback is not None:
                callback(int(jax.device_get(current.step)) // plan.n_batches - 1, current, metrics)
            bar.update()
    return FitResult(current, _stack(kept, plan.n_batches))


@functools.partial(jax.jit, static_argnums=0)
def _epoch(
    plan: _Plan, negatives: Any, positives: Any, key: Key, state: TrainState, data: PyTree
) -> tuple[TrainState, Metrics]:
    """One pass over the data; metrics `(n_batches,)`."""
    n = jax.tree.leaves(data)[0].shape[0]
    number = state.step // plan.n_batches
    order = jax.random.permutation(jax.random.fold_in(jax.random.fold_in(key, SHUFFLES), number), n)
    rows = order[: plan.n_batches * plan.batch_size].reshape(plan.n_batches, plan.batch_size)

    def body(state: TrainState, rows: jax.Array) -> tuple[TrainState, Metrics]:
        batch = jax.tree.map(lambda leaf: leaf.at[rows].get(mode="promise_in_bounds"), data)
        return update(plan.model, negatives, positives, key, state, batch)

    return jax.lax.scan(body, state, rows)


def _check_values(model: Any, data: PyTree) -> int:
    n = check_data("data", model, data)
    checks.check_finite("data", data)
    if hasattr(model, "n_levels"):
        checks.check_levels("data", data, model.n_levels)
    return n


def _resume(
    state: TrainState,
    key: Key,
    init: Callable[..., TrainState],
    energy: Any,
    tx: optax.GradientTransformation,
) -> TrainState:
    """Returns a state to go on from, with this run's functions; raises ValueError where its arrays do not fit."""
    if not isinstance(state, TrainState):
        raise ValueError(f"state is {type(state).__name__}; give the .state of an earlier result")
    state = state.replace(apply_fn=energy, tx=tx)
    struct = jax.eval_shape(init, key, state.params)
    for name in ("opt_state", "negatives"):
        got, want = getattr(state, name), getattr(struct, name)
        shapes = [tuple(jnp.shape(leaf)) for leaf in jax.tree.leaves(got)]
        wanted = [leaf.shape for leaf in jax.tree.leaves(want)]
        if jax.tree.structure(got) != jax.tree.structure(want) or shapes != wanted:
            raise ValueError(
                f"state.{name} has arrays of shapes {shapes}, and this tx and these negatives carry {wanted}; "
                "go on with those the state was made with"
            )
    return state


def _stack(kept: list[Metrics], n_batches: int) -> Metrics:
    if kept:
        return jax.tree.map(lambda *rows: np.stack(rows), *jax.device_get(kept))
    dtypes = [np.int32 if name == "n_nonfinite" else np.float32 for name in Metrics._fields]
    return Metrics(*(np.zeros((0, n_batches), dtype) for dtype in dtypes))


def _bar(n_epochs: int, show: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=n_epochs, unit="epoch", disable=not show)
