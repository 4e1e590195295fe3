"""One update of the parameters, as one jitted function on the device.

    θ ← tx(θ, E_data[∂F] − E_model[∂F])

Random numbers: a step's key gives one stream to the negatives, which count their own steps, and one to the positives,
numbered by the train state's counter. So the same key at every step is right, and so is a fresh one.

An update may be guarded (`Limits`): one that is not finite, or larger than it may be, is left out, and the run goes on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from ebm_jax import checks
from ebm_jax.chains import strongly_typed
from ebm_jax.training.losses import Complete, contrast, energy_of
from ebm_jax.training.state import TrainState
from ebm_jax.types import Info, Key, PyTree

_PARAMS, _CHAINS, _NEGATIVES, _POSITIVES, SHUFFLES, BATCHES = range(6)  # streams of a run's key


class Metrics(NamedTuple):
    """Health of a step; of a run, the same with leading axes. All before the update but the parameters' finiteness.

    loss: the surrogate, −energy_gap. energy_gap: energy_model − energy_data; positive while the model finds the data
    likelier than its own samples, near 0 at the optimum, and running away when chains no longer follow the model.
    energy_data, energy_model: mean F over the batch and over the negatives. gradient_norm: Euclidean, over all
    parameters, before `tx`. acceptance: of all proposals of the step; NaN for kernels that propose nothing.
    n_nonfinite: int32, NaN or infinite values among the energies, the gradient and the new parameters, and steps of
    chains that ended with one. n_dead: int32, chains that had proposals in this step and accepted none of them; 0 for
    kernels that propose nothing (Gibbs). n_skipped: int32, 1 where limits left the update out, else 0.
    """

    loss: Float[Array, "*batch"] | np.ndarray
    energy_gap: Float[Array, "*batch"] | np.ndarray
    energy_data: Float[Array, "*batch"] | np.ndarray
    energy_model: Float[Array, "*batch"] | np.ndarray
    gradient_norm: Float[Array, "*batch"] | np.ndarray
    acceptance: Float[Array, "*batch"] | np.ndarray
    n_nonfinite: Int[Array, "*batch"] | np.ndarray
    n_dead: Int[Array, "*batch"] | np.ndarray
    n_skipped: Int[Array, "*batch"] | np.ndarray


class Limits(NamedTuple):
    """Bounds past which an update is left out, numbers or traced scalars: of `gradient_norm` and of |`energy_gap|`."""

    gradient_norm: Float[Array, ""] | float = np.inf
    energy_gap: Float[Array, ""] | float = np.inf


def make_train_step(
    model: Any, tx: optax.GradientTransformation, negatives: Any, positives: Any = None
) -> tuple[Callable[..., TrainState], Callable[[Key, TrainState, PyTree], tuple[TrainState, Metrics]]]:
    """Returns `init(key, params=None) -> state` and `step(key, state, batch) -> (state, metrics)`.

    model: has `energy` and `init`, or is itself a function `energy(params, x)`; with a `free_energy`, that is what is
    averaged. tx: an Optax transformation; build it once a run, since a rebuilt one compiles anew (for a learning rate
    that changes use a schedule, or `optax.inject_hyperparams`). negatives: `cd`, `pcd` or `exact` of
    `ebm_jax.training.negatives`. positives: None, or `clamped_gibbs` of `ebm_jax.training.positives` for hidden sites
    without a free energy; whole configurations are then compared on both sides. A model with the field `hidden` needs
    them.

    `init` draws parameters unless they are given. `step` is one call of one compiled function, the same for every key,
    state and batch of equal shapes and for every equal model and negatives of equal structure; it may be called within
    the caller's own `jit` or `scan`. batch: configurations (where sites are hidden, their visible part) with a leading
    axis. Its shape and dtype are checked at every call, its levels only in NumPy arrays: a look into an array on the
    device would wait for it. `fit` checks all of its data once.

    Raises ValueError on negatives or positives of another model, and on hidden sites without positives; `init`, on
    parameters that do not fit or are not finite; `step`, on a batch that does not fit.
    """
    if not (hasattr(tx, "init") and hasattr(tx, "update")):
        raise ValueError(f"tx is {tx!r}; give an Optax transformation, e.g. optax.adam(1e-3)")
    if not (hasattr(negatives, "init") and hasattr(negatives, "draw")):
        raise ValueError(f"negatives is {negatives!r}; give e.g. negatives.pcd(gibbs(model))")
    if positives is not None and not hasattr(positives, "draw"):
        raise ValueError(
            f"positives is {positives!r}; give e.g. positives.clamped_gibbs(kernel, mask), or None"
        )
    if positives is None and getattr(model, "hidden", None) is not None and not hasattr(model, "free_energy"):
        raise ValueError(
            f"{model!r} has hidden sites and no free energy, so its data alone give no gradient; "
            "give positives=training.positives.clamped_gibbs(kernel)"
        )
    _check_same_model(model, "negatives", negatives)
    _check_same_model(model, "positives", positives)

    def init(key: Key, params: PyTree = None) -> TrainState:
        """Returns the state at step 0, its chains drawn."""
        checks.check_key(key)
        params = _start_params(jax.random.fold_in(key, _PARAMS), model, params)
        chains = negatives.init(jax.random.fold_in(key, _CHAINS), _target(model, positives), params)
        return TrainState.create(apply_fn=energy_of(model), params=params, tx=tx, negatives=chains, key=key)

    def step(key: Key, state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        """Returns the state after one update and the metrics of the step."""
        checks.check_key(key)
        check_data("batch", model, batch)
        return _update_jitted(model, negatives, positives, key, state, batch)

    return init, step


def update(
    model: Any,
    negatives: Any,
    positives: Any,
    key: Key,
    state: TrainState,
    batch: PyTree,
    limits: Limits | None = None,
) -> tuple[TrainState, Metrics]:
    """One step as a pure function, unjitted and unchecked; what `step` compiles and `advance` scans.

    limits: with them, an update is left out (`params` and `opt_state` stay what they were) whose energies, gradient,
    gradient norm or new parameters are not finite, or that exceeds a limit. `step` and the negatives go on, but
    negatives that left the finite numbers in this step stand where they were. Without them nothing is compiled for it.
    """
    constants = jax.lax.stop_gradient(state.params)
    target = _target(model, positives)
    if positives is not None:
        fill = jax.random.fold_in(jax.random.fold_in(key, _POSITIVES), state.step)
        batch = jax.lax.stop_gradient(positives.draw(fill, model, constants, batch))
    draws = jax.random.fold_in(key, _NEGATIVES)
    drawn, chains = negatives.draw(draws, target, constants, state.negatives, batch)
    (loss, energies), grads = contrast(state.params, target, batch, drawn)
    extra = {"data": batch, "negatives": drawn.positions}
    new = state.apply_gradients(grads=grads, extra=extra, negatives=chains, key=key)
    squares = _sum_of_squares(grads)
    n_nonfinite = _count_nonfinite((energies, grads, new.params), squares, (energies, new.params))
    metrics = Metrics(
        loss=loss,
        energy_gap=energies.model - energies.data,
        energy_data=energies.data,
        energy_model=energies.model,
        gradient_norm=jnp.sqrt(squares),
        acceptance=_acceptance(drawn.info),
        n_nonfinite=n_nonfinite + jnp.sum(drawn.info.n_nonfinite, dtype=jnp.int32),
        n_dead=_count_dead(drawn.info),
        n_skipped=jnp.zeros((), jnp.int32),
    )
    if limits is None:
        return new, metrics
    sound = (n_nonfinite == 0) & _within(limits, metrics)
    new = _where(sound, new, new.replace(params=state.params, opt_state=state.opt_state))
    new = new.replace(negatives=_finite_chains(state.negatives, chains))
    return new, metrics._replace(n_skipped=(~sound).astype(jnp.int32))


_update_jitted = jax.jit(update, static_argnums=0)


def check_data(name: str, model: Any, data: PyTree) -> int:
    """Returns the number of rows of `data`; raises ValueError where shapes or dtypes do not fit the model.

    Levels are checked in NumPy arrays alone.
    """
    leaves = jax.tree.leaves(data)
    if not leaves or any(not hasattr(leaf, "shape") or len(leaf.shape) == 0 for leaf in leaves):
        raise ValueError(
            f"{name} is {type(data).__name__} without a leading axis; give arrays of shape (n, ...)"
        )
    struct = data_struct(model)
    if struct is not None:
        checks.check_struct(name, data, struct, leading=1, dtypes=getattr(model, "position_dtypes", None))
    lengths = sorted({leaf.shape[0] for leaf in leaves})
    if len(lengths) != 1 or lengths[0] == 0:
        raise ValueError(
            f"{name} has leading axes {lengths}; give every leaf the same number of rows, at least 1"
        )
    if hasattr(model, "n_levels") and all(isinstance(leaf, np.ndarray) for leaf in leaves):
        checks.check_levels(name, data, model.n_levels)
    return lengths[0]


def data_struct(model: Any) -> PyTree:
    """Returns the shapes of one datum: of a configuration, or of its visible part; None where the model has no say."""
    if not hasattr(model, "position_struct"):
        return None
    struct = model.position_struct()
    return jax.eval_shape(model.visible, struct) if hasattr(model, "visible") else struct


def _target(model: Any, positives: Any) -> Any:
    """What the loss averages: the model, or the model of whole configurations where hidden sites are drawn."""
    return model if positives is None else Complete(model)


def _check_same_model(model: Any, name: str, source: Any) -> None:
    owner = getattr(getattr(source, "kernel", source), "model", model)
    if owner != model:
        raise ValueError(
            f"{name} sample {owner!r}, and the model to train is {model!r}; build them for the same one"
        )


def _start_params(key: Key, model: Any, params: PyTree) -> PyTree:
    if params is None:
        if not hasattr(model, "init"):
            raise ValueError(f"{model!r} draws no parameters of its own; give them: init(key, params)")
        params = _draw_params(model, key)
    if hasattr(model, "params_struct"):
        checks.check_struct("params", params, model.params_struct(), dtypes=checks.FLOATS)
    checks.check_finite("params", params)
    return strongly_typed(params)


@functools.partial(jax.jit, static_argnums=0)
def _draw_params(model: Any, key: Key) -> PyTree:
    return model.init(key)


def _sum_of_squares(tree: PyTree) -> Float[Array, ""]:
    return functools.reduce(jnp.add, [jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)])


def _acceptance(info: Info) -> Float[Array, ""]:
    proposed = jnp.sum(info.n_proposed).astype(jnp.float32)
    accepted = jnp.sum(info.n_accepted).astype(jnp.float32)
    return jnp.where(proposed > 0, accepted / proposed, jnp.nan)


def _count_dead(info: Info) -> Int[Array, ""]:
    return jnp.sum((info.n_proposed > 0) & (info.n_accepted == 0), dtype=jnp.int32)


def _within(limits: Limits, metrics: Metrics) -> Bool[Array, ""]:
    """Whether a step exceeds no limit. A norm past the largest float is no norm: squares of it end in the optimiser."""
    norm, gap = jnp.asarray(metrics.gradient_norm), jnp.abs(metrics.energy_gap)
    return jnp.isfinite(norm) & (norm <= limits.gradient_norm) & (gap <= limits.energy_gap)


def _finite_chains(old: PyTree, new: PyTree) -> PyTree:
    """Returns `new`, or `old` where a number that was finite in it no longer is.

    Counters of steps go on all the same: they number the draws, and the same draws would end in the same place.
    """
    reals = [
        (a, b)
        for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
        if jnp.issubdtype(b.dtype, jnp.inexact)
    ]
    if not reals:
        return new
    lost = functools.reduce(jnp.logical_or, [jnp.any(jnp.isfinite(a) & ~jnp.isfinite(b)) for a, b in reals])

    def choose(path: tuple[Any, ...], a: Array, b: Array) -> Array:
        return b if path and getattr(path[-1], "name", None) == "step" else _where(lost, a, b)

    return jax.tree_util.tree_map_with_path(choose, old, new)


def _where(condition: Bool[Array, ""], yes: PyTree, no: PyTree) -> PyTree:
    return jax.tree.map(functools.partial(jnp.where, condition), yes, no)


def _count_nonfinite(tree: PyTree, known: Float[Array, ""], rest: PyTree) -> Int[Array, ""]:
    """Counts NaN and infinite values of `tree`. A sum is infected by any of them, and far cheaper than the count:
    `known` is one that holds all but `rest`.
    """
    total = functools.reduce(jnp.add, [jnp.sum(leaf) for leaf in jax.tree.leaves(rest)], known)

    def count() -> Int[Array, ""]:
        return functools.reduce(
            jnp.add, [jnp.sum(~jnp.isfinite(leaf), dtype=jnp.int32) for leaf in jax.tree.leaves(tree)]
        )

    return jax.lax.cond(jnp.isfinite(total), lambda: jnp.zeros((), jnp.int32), count)
