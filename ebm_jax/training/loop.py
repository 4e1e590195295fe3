"""Training over a data set that lies on the device: steps in one compiled scan, and epochs of them."""

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
from ebm_jax.training.step import BATCHES, SHUFFLES, Limits, Metrics, check_data, make_train_step, update
from ebm_jax.types import Key, PyTree


class FitResult(NamedTuple):
    """What `fit` returns: the last state, and metrics as NumPy arrays `(n_epochs, n_batches)`."""

    state: TrainState
    metrics: Metrics


class Plan(NamedTuple):
    """Structure of a run of steps, for `advance`; hashable, so that equal plans share one compilation.

    model: what is trained. n_batches: batches of an epoch. batch_size: rows of a batch. n_steps: how many steps one
    call takes, up to `n_batches`. prepare: None, or a pure function `(key, rows) -> batch` that every gathered batch
    goes through, with a key of its own at every step, e.g. `training.binarize_batch`; compared by identity. skip:
    leaves out updates that are not finite or exceed limits, see `advance`.
    """

    model: Any
    n_batches: int
    batch_size: int
    n_steps: int
    prepare: Callable[[Key, PyTree], PyTree] | None = None
    skip: bool = False


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
    plan = Plan(model, n // batch_size, batch_size, n // batch_size)
    data = jax.device_put(data)
    kept = []
    with _bar(n_epochs, progress) as bar:
        for _ in range(n_epochs):
            # The state is not donated: it may be the caller's, and one copy an epoch costs nothing that shows.
            current, metrics = advance(plan, negatives, positives, key, current, data)
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
def advance(
    plan: Plan,
    negatives: Any,
    positives: Any,
    key: Key,
    state: TrainState,
    data: PyTree,
    limits: Limits | None = None,
) -> tuple[TrainState, Metrics]:
    """Takes `plan.n_steps` updates from `state.step` on, in one compiled scan; metrics `(n_steps,)`.

    Step s visits batch s mod n_batches of epoch ⌊s / n_batches⌋, whose order is drawn from the key and the epoch's
    number. All steps of a call lie in one epoch, which the caller sees to: they start at its own first steps
    otherwise. data: as for `fit`, on the device, checked by nobody; with `plan.prepare`, whatever that takes.
    negatives, positives: as for `make_train_step`. key: the run's, the same at every call.

    limits: bounds of the gradient norm and the energy gap, traced. With `plan.skip` an update that exceeds one, or
    whose energies, gradient or new parameters are not finite, leaves parameters and optimiser as they were and counts
    in `Metrics.n_skipped`; steps and negatives go on, but chains that left the finite numbers stand where they were.

    Pieces of one length, of two steps or more, have the bits of any other such cut, resumed ones included: lengths are
    a matter of configuration, never of timing. (The compiler takes the loop away from a single step, and may round it
    another way.) Raises ValueError on more steps than batches, and on limits without `plan.skip`.
    """
    if not 1 <= plan.n_steps <= plan.n_batches:
        raise ValueError(
            f"n_steps is {plan.n_steps} and an epoch has {plan.n_batches} batches; take 1 to {plan.n_batches} a call"
        )
    if limits is not None and not plan.skip:
        raise ValueError("limits are given and plan.skip is False; set skip=True, or leave limits out")
    if plan.skip and limits is None:
        limits = Limits()
    n = jax.tree.leaves(data)[0].shape[0]
    number = state.step // plan.n_batches
    order = jax.random.permutation(jax.random.fold_in(jax.random.fold_in(key, SHUFFLES), number), n)
    rows = order[: plan.n_batches * plan.batch_size].reshape(plan.n_batches, plan.batch_size)
    rows = jax.lax.dynamic_slice_in_dim(rows, state.step % plan.n_batches, plan.n_steps)

    def body(state: TrainState, rows: jax.Array) -> tuple[TrainState, Metrics]:
        batch = jax.tree.map(lambda leaf: leaf.at[rows].get(mode="promise_in_bounds"), data)
        if plan.prepare is not None:
            batch = plan.prepare(jax.random.fold_in(jax.random.fold_in(key, BATCHES), state.step), batch)
        return update(plan.model, negatives, positives, key, state, batch, limits)

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
    dtypes = [np.int32 if name.startswith("n_") else np.float32 for name in Metrics._fields]
    return Metrics(*(np.zeros((0, n_batches), dtype) for dtype in dtypes))


def _bar(n_epochs: int, show: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=n_epochs, unit="epoch", disable=not show)
