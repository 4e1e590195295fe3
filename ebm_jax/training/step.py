"""One update of the parameters, as one jitted function on the device.

    θ ← tx(θ, ∇ objective),   by default ∇ = E_data[∂F] − E_model[∂F]

A step's key gives one stream of random numbers to the negatives, which count their own steps. It gives one to the
positives and one to what the objective draws, numbered by the train state's counter. So the same key may be given at
every step, or a fresh one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ebm_jax import checks
from ebm_jax.chains import strongly_typed
from ebm_jax.energies.target import Target, target_of
from ebm_jax.training.equal_transformations import comparable
from ebm_jax.training.fields import WithField, rows_and_field
from ebm_jax.training.health import Limits, Metrics, measure, within
from ebm_jax.training.objectives import Objective, objective_of, with_variables
from ebm_jax.training.sources import Source
from ebm_jax.training.state import TrainState
from ebm_jax.types import Info, Key, PyTree

# Streams of a run's key.
_PARAMS, _CHAINS, _NEGATIVES, _POSITIVES, SHUFFLES, BATCHES, _OBJECTIVE = range(7)


def make_train_step(
    model: Any,
    tx: optax.GradientTransformation | optax.MultiSteps,
    negatives: Source | None = None,
    positives: Any = None,
    *,
    objective: Any = None,
) -> tuple[Callable[..., TrainState], Callable[[Key, TrainState, PyTree], tuple[TrainState, Metrics]]]:
    """Builds the functions that start training and make one update.

    `step` is one call of one compiled function, the same for every key, state and batch of equal shapes, and for every
    equal model and negatives of equal structure. It may be called within the caller's own `jit` or `scan`.

    Args:
      model: Has `energy` and `init`, or is itself a function `energy(params, x)`. If it has a `free_energy`, that is
        what is averaged.
      tx: An Optax transformation. One that is built again from the same numbers reuses the compiled program, unless
        it holds objects that do not compare by value. For a learning rate that changes use a schedule, or
        `optax.inject_hyperparams`.
      negatives: A source of `ebm_jax.training.negatives` (`cd`, `pcd`, `replay`, `short_run`, `exact`), or None for an
        objective that needs none.
      positives: None, or `clamped_gibbs` of `ebm_jax.training.positives` for hidden sites without a free energy. Full
        configurations are then compared on both sides. A model with the field `hidden` needs them.
      objective: What to minimise: None for maximum likelihood, a function
        `(params, model, batch, negatives) -> (loss, extras)`, or a `training.Objective`. The `model` that it receives
        is a `Target`: `model.energy(params, x)` is the energy of a configuration, `model.data_energy(params, v)` that
        of a datum (the free energy, if the model has one). `negatives` has `positions` with a leading axis, `weights`
        that add up to 1 (or None for equal ones) and the sampler's `info`; it is None without a source. `extras` maps
        names to scalars, which `Metrics.extra` reports.

    Returns:
      `init(key, params=None, variables=None) -> state`, which draws parameters unless they are given, and
      `step(key, state, batch) -> (state, metrics)`. A batch is data (where sites are hidden, their visible part) with a
      leading axis, `training.WithField` for a conditional model, or whatever the objective takes. `step` checks its
      shapes and dtypes, and levels only in NumPy arrays: a look into an array on the device would wait for it. So
      does an array there whose dtype is not the model's, which is copied to the host and back. `fit`
      checks all of its data once.

    Raises:
      ValueError: If negatives or positives are of another model, hidden sites have no positives, or objective and
        negatives do not go together. `init`: if parameters do not fit or are not finite. `step`: if a batch does not
        fit.

    Example:
      >>> model = ej.RBM(6, 3)
      >>> init, step = ej.make_train_step(model, optax.sgd(0.1), ej.negatives.cd(ej.gibbs(model)))
      >>> key = jax.random.key(0)
      >>> state, metrics = step(key, init(key), np.ones((8, 6), np.uint8))
      >>> int(state.step), int(metrics.n_nonfinite)
      (1, 0)
    """
    if not (hasattr(tx, "init") and hasattr(tx, "update")):
        raise ValueError(f"tx is {tx!r}; give an Optax transformation, e.g. optax.adam(1e-3)")
    if negatives is not None and not isinstance(negatives, Source):
        raise ValueError(f"negatives is {negatives!r}; give e.g. negatives.pcd(gibbs(model))")
    if positives is not None and not hasattr(positives, "draw"):
        raise ValueError(
            f"positives is {positives!r}; give e.g. positives.clamped_gibbs(kernel, mask), or None"
        )
    target, objective = target_of(model), objective_of(objective, negatives)
    if positives is None and objective.takes_data and target.has_hidden_sites:
        raise ValueError(
            f"{model!r} has hidden sites and no free energy, so its data alone give no gradient; "
            "give positives=training.positives.clamped_gibbs(kernel)"
        )
    for name, source in (("negatives", negatives), ("positives", positives)):
        sampled = None if source is None else source.sampled_model()
        if sampled is not None and sampled != target.model:
            raise ValueError(
                f"{name} sample {sampled!r}, and the model to train is {model!r}; build them for the same one"
            )

    def init(key: Key, params: PyTree = None, variables: Mapping[str, Any] | None = None) -> TrainState:
        """Returns the state at step 0, its chains drawn."""
        checks.check_key(key)
        params = _start_params(jax.random.fold_in(key, _PARAMS), target, params)
        untrained = strongly_typed(variables or {})
        chains: PyTree = ()
        if negatives is not None:
            of_source = target if positives is None else target.of_full_configurations()
            full = with_variables(params, untrained)
            chains = negatives.init(jax.random.fold_in(key, _CHAINS), of_source, full)
        return TrainState.create(
            apply_fn=target.energy,
            params=params,
            tx=comparable(tx),
            negatives=chains,
            key=key,
            variables=untrained,
        )

    def step(key: Key, state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        """Returns the state after one update and the metrics of the step."""
        checks.check_key(key)
        batch = objective.checked_batch("batch", target, batch)
        return _update_jitted(target, objective, negatives, positives, key, state, batch)

    return init, step


def update(
    target: Target,
    objective: Objective,
    negatives: Source | None,
    positives: Any,
    key: Key,
    state: TrainState,
    batch: PyTree,
    limits: Limits | None = None,
) -> tuple[TrainState, Metrics]:
    """Makes one update as a pure function, unjitted and unchecked; what `step` compiles and `advance` scans.

    Args:
      target: The model as a target.
      objective: What to minimise.
      negatives: As for `make_train_step`.
      positives: As for `make_train_step`.
      key: The step's key.
      state: The state before.
      batch: The batch.
      limits: None compiles nothing for them. With limits, an update is skipped if its energies, gradient, gradient norm
        or new parameters are not finite, or if it exceeds a limit: `params`, `opt_state` and `variables` stay as they
        were. `step` and the negatives go on, but chains that left the finite numbers in this step are put back.

    Returns:
      The state after the update, and its metrics.
    """
    field = rows_and_field(batch)[1]
    if field is not None and negatives is not None and not negatives.takes_field:
        raise ValueError(
            f"{type(negatives).__name__} draws no negatives under the fields of a batch; use negatives.cd or "
            "negatives.pcd"
        )
    constants = jax.lax.stop_gradient(with_variables(state.params, state.variables))
    if positives is not None:
        fill = jax.random.fold_in(jax.random.fold_in(key, _POSITIVES), state.step)
        filled = jax.lax.stop_gradient(positives.draw(fill, target, constants, batch))
        batch = filled if field is None else WithField(filled, field)
        target = target.of_full_configurations()
    drawn, chains, info, positions, figures = None, state.negatives, Info.zero(), None, {}
    if negatives is not None:
        draws = jax.random.fold_in(key, _NEGATIVES)
        drawn, chains = negatives.draw(draws, target, constants, state.negatives, objective.data_of(batch))
        info, positions, figures = drawn.info, drawn.positions, drawn.figures
    elif objective.draw is not None:
        draws = jax.random.fold_in(jax.random.fold_in(key, _OBJECTIVE), state.step)
        drawn = objective.draw(draws, constants, target, batch)
    (loss, extras), grads = objective.value_and_grad(state.params, state.variables, target, batch, drawn)
    extras = {**figures, **extras}
    variables = _updated(state.variables, extras.pop("variables", {}))
    of_optimiser = {"data": rows_and_field(batch)[0], "negatives": positions}
    new = state.apply_gradients(
        grads=grads, extra=of_optimiser, negatives=chains, key=key, variables=variables
    )
    metrics, finite = measure(loss, extras, grads, (new.params, variables), info)
    if limits is None:
        return new, metrics
    sound = finite & within(limits, metrics, state.step)
    kept = new.replace(params=state.params, opt_state=state.opt_state, variables=state.variables)
    new = jax.tree.map(functools.partial(jnp.where, sound), new, kept)
    if negatives is not None:
        new = new.replace(negatives=negatives.put_back(constants, state.negatives, chains))
    return new, metrics._replace(n_skipped=(~sound).astype(jnp.int32))


_update_jitted = jax.jit(update, static_argnums=(0, 1))


def _updated(variables: Mapping[str, Any], new: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the variables with those collections replaced that an objective returned."""
    unknown = sorted(set(new) - set(variables))
    if unknown:
        raise ValueError(
            f"the objective returned variables {unknown}, and the train state has {sorted(variables)}; give "
            "`variables` to init or fit"
        )
    for name in new:
        struct = jax.tree.map(jax.typeof, variables[name])
        checks.check_struct(f"variables[{name!r}]", new[name], struct)
    return {**variables, **new}


def _start_params(key: Key, target: Target, params: PyTree) -> PyTree:
    if params is None:
        if target.init is None:
            raise ValueError(f"{target.model!r} draws no parameters of its own; give them: init(key, params)")
        params = _draw_params(target.init, key)
    if target.params_struct is not None:
        checks.check_struct("params", params, target.params_struct, dtypes=checks.FLOATS)
    checks.check_finite("params", params)
    return strongly_typed(params)


@functools.partial(jax.jit, static_argnums=0)
def _draw_params(draw: Callable[[Key], PyTree], key: Key) -> PyTree:
    return draw(key)
