"""Training over a data set that lies on the device: steps in one compiled scan, and epochs of them."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ebm_jax import arrays, checks
from ebm_jax.energies.target import check_rows, target_of
from ebm_jax.training.equal_transformations import comparable
from ebm_jax.training.health import Limits, Metrics
from ebm_jax.training.mean_field import with_means
from ebm_jax.training.objectives import objective_of
from ebm_jax.training.sources import Source
from ebm_jax.training.state import TrainState
from ebm_jax.training.step import BATCHES, SHUFFLES, make_train_step, update
from ebm_jax.types import Key, PyTree


class FitResult(NamedTuple):
    """What `fit` returns.

    Attributes:
      state: The last state.
      metrics: NumPy arrays `(n_epochs, n_batches)`.
    """

    state: TrainState
    metrics: Metrics


class Plan(NamedTuple):
    """Structure of a run of steps, for `advance`; hashable, so that equal plans share one compilation.

    Attributes:
      model: What is trained.
      n_batches: Batches of an epoch.
      batch_size: Rows of a batch.
      n_steps: How many steps one call takes, up to `n_batches`.
      prepare: None, or a pure function `(key, rows) -> batch` that every gathered batch goes through, with a key of its
        own at every step, e.g. `training.binarize_batch`. Compared by identity.
      skip: Whether updates that are not finite or exceed limits are skipped, see `advance`.
      objective: As for `make_train_step`.
    """

    model: Any
    n_batches: int
    batch_size: int
    n_steps: int
    prepare: Callable[[Key, PyTree], PyTree] | None = None
    skip: bool = False
    objective: Any = None


def fit(
    key: Key,
    model: Any,
    data: PyTree,
    *,
    tx: optax.GradientTransformation | optax.MultiSteps,
    negatives: Source | None = None,
    n_epochs: int,
    batch_size: int = 128,
    params: PyTree = None,
    variables: Mapping[str, Any] | None = None,
    state: TrainState | None = None,
    positives: Any = None,
    objective: Any = None,
    prepare: Callable[[Key, PyTree], PyTree] | None = None,
    visible: str | None = None,
    limits: Limits | None = None,
    progress: bool = True,
    callback: Callable[[int, TrainState, Metrics], Any] | None = None,
) -> FitResult:
    """Trains a model for `n_epochs` passes over `data` in shuffled batches.

    An epoch is one call of one compiled function, which copies nothing to the host. It visits
    ⌊n / batch_size⌋ · batch_size rows in an order drawn from the key and the epoch's number. The remaining rows wait
    for another epoch.

    Args:
      key: A typed key; gives parameters, chains, batches and draws.
      model: As for `make_train_step`.
      data: Data with a leading axis (where sites are hidden, their visible part), `training.WithField` for a
        conditional model, or whatever the objective takes. Copied to the device once. Lists, DataFrames, sparse
        matrices and tensors of other libraries become arrays, and whole numbers take the dtype of the model's levels.
      tx: As for `make_train_step`.
      negatives: As for `make_train_step`.
      n_epochs: Number of epochs.
      batch_size: Rows of a batch.
      params: Where to start, instead of `model.init`.
      variables: Arrays of a network that are not trained, by collection; see `TrainState`.
      state: An earlier result's state, to go on from. With the same key (`state.key`), data and batch size the bits are
        those of a run that never stopped. The epoch's number is `state.step // n_batches`.
      positives: As for `make_train_step`.
      objective: As for `make_train_step`.
      prepare: None, or a pure function `(key, rows) -> batch` that every batch of `data` goes through on the device,
        such as one that adds noise. It gets a new key at every step.
      visible: None, or "mean-field" for an RBM whose data are means of bits, real numbers in 0 to 1 (grey values). This
        is the objective `training.mean_field`, which says what it approximates.
      limits: None, or bounds past which an update is skipped. Updates with NaN or infinities are then skipped too; see
        `advance`.
      progress: Whether to show a bar.
      callback: `callback(epoch, state, metrics)` after each epoch, metrics `(n_batches,)`. You may keep the
        state; later epochs do not overwrite it. Training stops if it returns True.

    Returns:
      The last state, and metrics `(n_epochs, n_batches)`: of fewer epochs if the callback stopped the run, or an
      interrupt (Ctrl-C), which only warns.

    Raises:
      ValueError: Before any step, if data, a batch size, parameters or a state do not fit, and as `make_train_step`.

    Example:
      >>> model = ej.RBM(6, 3)
      >>> data = np.random.default_rng(0).integers(0, 2, (64, 6)).astype(np.uint8)
      >>> source = ej.negatives.pcd(ej.gibbs(model), n_chains=8)
      >>> result = ej.fit(jax.random.key(0), model, data, tx=optax.sgd(0.1), negatives=source, n_epochs=2,
      ...                 batch_size=16, progress=False)
      >>> result.metrics.energy_gap.shape
      (2, 4)
    """
    checks.check_key(key)
    checks.check_integer("n_epochs", n_epochs, 0)
    checks.check_integer("batch_size", batch_size, 1)
    objective = with_means(visible, objective)
    init, _ = make_train_step(model, tx, negatives, positives, objective=objective)
    data = _checked(model, objective_of(objective, negatives), data, prepare)
    n = check_rows("data", data)
    if batch_size > n:
        raise ValueError(f"batch_size is {batch_size} and data has {n} rows; give at most {n}")
    if state is not None and not (params is None and variables is None):
        raise ValueError(
            f"state and {'variables' if params is None else 'params'} are both given; a state holds its own: "
            "leave params and variables out"
        )
    current = init(key, params, variables) if state is None else _resume(state, key, init, model, tx)
    n_batches = n // batch_size
    if negatives is not None:
        negatives.check_run(n_epochs * n_batches)
    plan = Plan(model, n_batches, batch_size, n_batches, prepare, limits is not None, objective)
    run_epoch = functools.partial(advance, plan, negatives, positives, key, limits=_as_arrays(limits))
    data = jax.device_put(data)
    kept = []
    with _bar(n_epochs, progress) as bar, _until_interrupted(kept, n_epochs):
        for _ in range(n_epochs):
            # The state is not donated: it may be the caller's, and one copy an epoch costs nothing that shows.
            current, metrics = run_epoch(current, data)
            kept.append(metrics)
            if progress:
                loss, norm = jax.device_get((metrics.loss, metrics.gradient_norm))
                bar.set_postfix(loss=f"{loss.mean():.3g}", gradient_norm=f"{norm.mean():.3g}", refresh=False)
            bar.update()
            if callback is not None:
                answer = callback(int(jax.device_get(current.step)) // plan.n_batches - 1, current, metrics)
                if _is_true(answer):
                    break
    if kept:
        return FitResult(current, jax.tree.map(lambda *rows: np.stack(rows), *jax.device_get(kept)))
    struct = jax.eval_shape(run_epoch, current, data)[1]
    return FitResult(current, jax.tree.map(lambda leaf: np.zeros((0, *leaf.shape), leaf.dtype), struct))


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
    """Takes `plan.n_steps` updates from `state.step` on, in one compiled scan.

    Step s visits batch s mod n_batches of epoch ⌊s / n_batches⌋, whose order is drawn from the key and the epoch's
    number. All steps of a call lie in one epoch, which the caller sees to. They start at the epoch's first steps
    otherwise.

    With `plan.skip` an update that exceeds a limit, or whose energies, gradient or new parameters are not finite,
    leaves parameters, variables and optimiser as they were and counts in `Metrics.n_skipped`. Steps and negatives go
    on, but a chain that left the finite numbers is put back where it stood.

    Pieces of one length, of two steps or more, have the bits of any other such cut, resumed ones included: lengths are
    a matter of configuration, never of timing. (The compiler takes the loop away from a single step, and may round it
    another way.)

    Args:
      plan: What to run, structure.
      negatives: As for `make_train_step`.
      positives: As for `make_train_step`.
      key: The run's key, the same at every call.
      state: The state to go on from.
      data: As for `fit`, on the device, unchecked; with `plan.prepare`, whatever that takes.
      limits: Bounds past which an update is skipped, traced; only with `plan.skip`.

    Returns:
      The new state, and metrics `(n_steps,)`.

    Raises:
      ValueError: If there are more steps than batches, or limits without `plan.skip`.
    """
    if not 1 <= plan.n_steps <= plan.n_batches:
        raise ValueError(
            f"n_steps is {plan.n_steps} and an epoch has {plan.n_batches} batches; take 1 to {plan.n_batches} a call"
        )
    if limits is not None and not plan.skip:
        raise ValueError("limits are given and plan.skip is False; set skip=True, or leave limits out")
    if plan.skip and limits is None:
        limits = Limits()
    target, objective = target_of(plan.model), objective_of(plan.objective, negatives)
    n = jax.tree.leaves(data)[0].shape[0]
    number = state.step // plan.n_batches
    order = jax.random.permutation(jax.random.fold_in(jax.random.fold_in(key, SHUFFLES), number), n)
    rows = order[: plan.n_batches * plan.batch_size].reshape(plan.n_batches, plan.batch_size)
    rows = jax.lax.dynamic_slice_in_dim(rows, state.step % plan.n_batches, plan.n_steps)

    def body(state: TrainState, rows: jax.Array) -> tuple[TrainState, Metrics]:
        batch = jax.tree.map(lambda leaf: leaf.at[rows].get(mode="promise_in_bounds"), data)
        if plan.prepare is not None:
            batch = plan.prepare(jax.random.fold_in(jax.random.fold_in(key, BATCHES), state.step), batch)
        return update(target, objective, negatives, positives, key, state, batch, limits)

    return jax.lax.scan(body, state, rows)


def _as_arrays(limits: Limits | None) -> Limits | None:
    """Returns limits as arrays, so that other numbers reuse the compiled program."""
    if limits is None:
        return None
    return Limits(*map(jnp.float32, limits[:-1]), grace=jnp.int32(limits.grace))


def _checked(model: Any, objective: Any, data: PyTree, prepare: Any) -> PyTree:
    """Returns data as arrays; raises ValueError where they do not fit the model."""
    target = target_of(model)
    if prepare is not None:
        data = arrays.to_arrays("data", data)
        check_rows("data", data)
        few = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape[1:]), leaf.dtype), data)
        objective.checked_batch("prepared data", target, jax.eval_shape(prepare, jax.random.key(0), few))
        return data
    data = objective.checked_batch("data", target, data)
    objective.check_values("data", target, data)
    return data


def _resume(state: TrainState, key: Key, init: Callable[..., TrainState], model: Any, tx: Any) -> TrainState:
    """Returns a state to go on from, with this run's functions; raises ValueError where its arrays do not fit."""
    if not isinstance(state, TrainState):
        raise ValueError(f"state is {type(state).__name__}; give the .state of an earlier result")
    state = state.replace(apply_fn=target_of(model).energy, tx=comparable(tx))
    struct = jax.eval_shape(init, key, state.params, state.variables)
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


def _is_true(answer: Any) -> bool:
    """Whether a callback returned True, of Python, NumPy or JAX; anything that is no truth value is not."""
    is_flag = isinstance(answer, bool | np.bool_) or getattr(answer, "dtype", None) == np.bool_
    return is_flag and bool(answer)


@contextlib.contextmanager
def _until_interrupted(kept: list[Metrics], n_epochs: int) -> Iterator[None]:
    """Ends a block at an interrupt with a warning that says how many epochs are there."""
    try:
        yield
    except KeyboardInterrupt:
        warnings.warn(
            f"interrupted after {len(kept)} of {n_epochs} epochs; the result holds these", stacklevel=3
        )


def _bar(n_epochs: int, show: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=n_epochs, unit="epoch", disable=not show)
