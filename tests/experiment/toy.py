"""A recipe of one page: an Ising model of small pictures that are drawn in memory. docs/extending.md shows it."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

import ebm_jax as ej
from ebm_jax import exact, plots
from ebm_jax.experiment.config.sections import (
    CheckpointsConfig,
    EvaluationConfig,
    ExperimentConfig,
    HealthConfig,
    TrainingConfig,
)
from ebm_jax.experiment.recipes import optimiser
from ebm_jax.experiment.recipes.base import Experiment, Metric, Recipe, measure, register
from ebm_jax.training.loop import Plan, advance

MODEL = ej.Ising(ej.Grid(4, 4))


class ToyConfig(ExperimentConfig):
    recipe: Literal["toy"] = "toy"
    training: TrainingConfig = TrainingConfig(n_epochs=4, batch_size=16, steps_per_call=2)
    health: HealthConfig = HealthConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    evaluation: EvaluationConfig = EvaluationConfig(every_epochs=2)


def log_likelihood(context):
    params, images = context
    energies = jax.vmap(MODEL.energy, (None, 0))(params, images)
    return {"log_likelihood": -float(energies.mean()) - exact.log_partition(MODEL, params)}


class Toy(Recipe):
    name, Config, best = "toy", ToyConfig, "log_likelihood"
    metrics = (Metric("log_likelihood", "likelihood", "log-likelihood", 2, log_likelihood),)
    captions = {"plots/last.png": "Where chains end."}

    def build(self, config):
        training, key = config.training, jax.random.key(config.seed)
        images = jax.random.bernoulli(key, 0.8, (64, 4, 1)) & jnp.ones((4, 4), bool)  # rows of one colour
        n_batches = len(images) // training.batch_size
        rate = optimiser.schedule(training, n_batches)
        source = ej.negatives.pcd(ej.gibbs(MODEL), n_chains=training.batch_size)
        start, _ = ej.make_train_step(MODEL, optimiser.transformation(training, rate), source)

        def advance_state(state, n):
            return advance(Plan(MODEL, n_batches, training.batch_size, n), source, None, key, state, images)

        return Experiment(
            n_batches=n_batches,
            init=lambda: start(key),
            advance=advance_state,
            learning_rate=lambda state: optimiser.applied_rate(state, rate),
            with_rate_factor=optimiser.with_rate_factor,
            evaluate=lambda params, settings, groups: measure(self.metrics, (params, images), groups),
            draws=lambda params: dict(
                zip(("frames", "steps"), self.draw(config, params, 8, None, config.seed), strict=True)
            ),
        )

    def params(self, config, state):
        return optimiser.judged_params(config.training, state)

    def draw(self, config, params, n, n_steps, seed):
        schedule = ej.SamplingSchedule(0, n_steps or 20)
        chains = ej.sample(jax.random.key(seed), ej.gibbs(MODEL), params, schedule=schedule, n_chains=n)
        return 255 * np.asarray(chains.positions).astype(np.uint8), np.arange(1, schedule.n_samples + 1)

    def save(self, path, config, params):
        ej.save(path, MODEL, params, overwrite=True)

    def restore(self, path):
        return ej.load(path)

    def run_figures(self, run):
        return {"plots/last.png": plots.image_grid(run.draws["frames"][-1])}


register("toy", config=f"{__name__}:ToyConfig", recipe=f"{__name__}:RECIPE")
RECIPE = Toy()
