"""Training of an RBM by contrastive divergence.

Visible biases start at the log-odds of the pixels' means and weights at N(0, init_scale²) (Hinton 2012, "A practical
guide to training restricted Boltzmann machines", §8). The learning rate rises for `warmup_epochs` and then follows the
schedule. Weights decay, biases do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from ebm_jax.energies.rbm import RBM, RBMParams
from ebm_jax.experiment.config import ConfigError
from ebm_jax.experiment.recipes import optimiser
from ebm_jax.experiment.recipes.base import Experiment, measure
from ebm_jax.experiment.recipes.rbm import data, sampling
from ebm_jax.experiment.recipes.rbm.config import RBMConfig, RBMEvaluationConfig
from ebm_jax.experiment.recipes.rbm.evaluation import Evaluation
from ebm_jax.experiment.recipes.rbm.metrics import METRICS
from ebm_jax.graphs.blocks import BlockSpec
from ebm_jax.samplers.gibbs import gibbs
from ebm_jax.training import centring, negatives
from ebm_jax.training.loop import Plan, advance
from ebm_jax.training.prepare import binarize_batch
from ebm_jax.training.state import TrainState
from ebm_jax.training.step import make_train_step


class _Trainer(NamedTuple):
    """What training needs beside the data."""

    model: RBM
    source: Any
    rate: optax.Schedule
    start: Callable[[jax.Array, RBMParams], TrainState]


def build(config: RBMConfig) -> Experiment:
    """Loads the data and returns the experiment.

    Raises:
      ConfigError: If a batch has more rows than the data.
    """
    key = jax.random.key(config.seed)
    run_key = jax.random.fold_in(key, data.RUN)
    bits = data.load_bits(config, key)
    n, batch_size = len(bits.train), config.training.batch_size
    if batch_size > n:
        problem = f"training.batch_size: {batch_size} was given, and there are {n} rows to train on: give at most {n}"
        raise ConfigError(config.name, [problem])
    n_batches = n // batch_size
    model, source, rate, start = _trainer(config, n_batches)
    rows = jax.device_put(bits.train)
    skip = config.health.policy == "skip"
    limits = optimiser.limits(config.health) if skip else None
    prepare = binarize_batch if bits.grey else None

    def init() -> TrainState:
        params = model.init(jax.random.fold_in(run_key, 0), scale=config.model.init_scale)
        if config.model.visible_bias == "data":
            params = params._replace(visible_bias=data.log_odds(bits.mean, n))
        return start(run_key, params)

    def advance_state(state: TrainState, n_steps: int) -> tuple[TrainState, Any]:
        plan = Plan(model, n_batches, batch_size, n_steps, prepare, skip)
        return advance(plan, source, None, run_key, state, rows, limits)

    def evaluate(params: RBMParams, settings: RBMEvaluationConfig, groups: Iterable[str]) -> dict[str, float]:
        evaluation_key = jax.random.fold_in(key, data.EVALUATION)
        context = Evaluation(model, params, bits, evaluation_key, settings, groups)
        return measure(METRICS, context, groups)

    def draws(params: RBMParams) -> dict[str, np.ndarray]:
        draws_key = jax.random.fold_in(key, data.DRAWS)
        return sampling.final_draws(config.evaluation, model, params, bits, draws_key)

    return Experiment(
        n_batches=n_batches,
        init=init,
        advance=advance_state,
        learning_rate=lambda state: optimiser.applied_rate(state, rate, config.training.accumulate),
        with_rate_factor=optimiser.with_rate_factor,
        evaluate=evaluate,
        draws=draws,
        data_digest=bits.digest,
    )


def struct(config: RBMConfig) -> TrainState:
    """Returns the shapes and dtypes of the train state, without data."""
    # They do not depend on the number of batches, which is known only with the data.
    model, _, _, start = _trainer(config, n_batches=1)
    return jax.eval_shape(lambda key: start(key, model.init(key)), jax.random.key(0))


def _trainer(config: RBMConfig, n_batches: int) -> _Trainer:
    model, training = data.model_of(config), config.training
    rate = optimiser.schedule(training, n_batches)
    before = [centring.centred(model, training.centring_rate)] if training.gradient == "centred" else []
    weights_alone: Any = RBMParams(True, False, False)  # pyright: ignore[reportArgumentType]
    tx = optimiser.transformation(training, rate, before=before, decayed=weights_alone)
    source: Any
    if config.negatives.method == "cd":
        source = negatives.cd(gibbs(model), config.negatives.k)
    else:
        # Sweeps that end with the hidden layer let the gradient reuse its inputs, which saves a matrix product.
        spec = BlockSpec(model.default_spec().free[::-1])
        n_chains = config.negatives.n_chains or training.batch_size
        source = negatives.pcd(gibbs(model, spec), config.negatives.k, n_chains)
    start, _ = make_train_step(model, tx, source)
    return _Trainer(model, source, rate, start)
