"""A recipe in one file: an Ising model of small pictures that are drawn in memory. docs/extending.md explains it."""

import jax
import numpy as np

import ebm_jax as ej
from ebm_jax.experiment.config import sections
from ebm_jax.experiment.recipes import optimiser
from ebm_jax.experiment.recipes.base import Experiment, Metric, Recipe, measure, register
from ebm_jax.training.loop import Plan, advance


class ToyConfig(sections.ExperimentConfig):
    recipe: str = "toy"
    training: sections.TrainingConfig = sections.TrainingConfig(n_epochs=4, batch_size=16)
    health: sections.HealthConfig = sections.HealthConfig()
    checkpoints: sections.CheckpointsConfig = sections.CheckpointsConfig()
    evaluation: sections.EvaluationConfig = sections.EvaluationConfig(every_epochs=2)


def log_likelihood(context):
    model, params, images = context
    energies = jax.vmap(model.energy, (None, 0))(params, images)
    return {"log_likelihood": -float(energies.mean()) - ej.exact.log_partition(model, params)}


class Toy(Recipe):
    name, Config, best = "toy", ToyConfig, "log_likelihood"
    metrics = (Metric("log_likelihood", "likelihood", "log-likelihood", 2, log_likelihood),)

    def model(self, config):
        return ej.Ising(ej.Grid(4, 4))

    def build(self, config):
        model, n_rows, key = self.model(config), config.training.batch_size, jax.random.key(config.seed)
        images = jax.random.bernoulli(key, 0.8, (64, 4, 1)).repeat(4, axis=2)
        rate = optimiser.schedule(config.training, n_batches := len(images) // n_rows)
        source = ej.negatives.pcd(ej.gibbs(model), n_chains=n_rows)
        start, _ = ej.make_train_step(model, optimiser.transformation(config.training, rate), source)
        return Experiment(
            n_batches=n_batches,
            init=lambda: start(key),
            advance=lambda s, n: advance(Plan(model, n_batches, n_rows, n), source, None, key, s, images),
            learning_rate=lambda state: optimiser.applied_rate(state, rate),
            with_rate_factor=optimiser.with_rate_factor,
            evaluate=lambda params, settings, groups: measure(self.metrics, (model, params, images), groups),
            draws=lambda params: dict(zip(["frames", "steps"], self.draw(config, params, 8, None, 0))),
        )

    def draw(self, config, params, n, n_steps, seed):
        model, key, schedule = self.model(config), jax.random.key(seed), ej.SamplingSchedule(1, n_steps or 20)
        x = ej.sample(key, ej.gibbs(model), params, ej.init_chains(key, model, n), schedule).positions
        return 255 * np.asarray(x, np.uint8), 1 + np.arange(len(x))

    def run_figures(self, run):
        return {"plots/last.png": ej.plots.image_grid(run.draws["frames"][-1])}


RECIPE = Toy()
register("toy", config=f"{__name__}:ToyConfig", recipe=f"{__name__}:RECIPE")
