"""What a recipe is: a kind of experiment, with its configuration, training, metrics and figures.

Runs, reports and commands know this module and no recipe. A recipe is found by its name in the registry, which imports
its modules when they are asked for; nothing here imports JAX, pydantic or matplotlib.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from ebm_jax.experiment.config.sections import ExperimentConfig


class Metric(NamedTuple):
    """One number that a recipe measures of a trained model.

    Commands, reports and docs/configs.md list metrics in the order in which the recipe gives them.

    Attributes:
      name: Key in metrics.jsonl, result.json and evaluations.jsonl.
      group: Metrics of one group are measured together; `evaluate --metrics` takes names of groups.
      heading: What the number is, in a few words: the heading of its column in reports.
      digits: Decimals in reports. None: the number is stored and appears in no table.
      compute: Function `(context) -> {name: number}` that measures the whole group. `context` is the recipe's own and
        holds the parameters, the data, the settings and the key. Exactly one metric of a group has it.
    """

    name: str
    group: str
    heading: str
    digits: int | None = None
    compute: Callable[[Any], Mapping[str, float]] | None = None


class StoredRun(NamedTuple):
    """A run as its folder holds it, for figures and findings.

    Attributes:
      path: The folder.
      config: The configuration.
      metrics: Final metrics, from result.json. None stands for NaN.
      rows: Rows of metrics.jsonl.
      draws: Arrays of samples/final.npz.
    """

    path: Path
    config: ExperimentConfig
    metrics: Mapping[str, float | None]
    rows: Sequence[Mapping[str, Any]]
    draws: Mapping[str, np.ndarray]


def _nothing(state: Any, settings: Any, groups: Iterable[str]) -> dict[str, float]:
    del state, settings, groups
    return {}


class Experiment(NamedTuple):
    """A configured experiment with its data: functions of the train state.

    All randomness derives from the configuration's seed and the step, so equal calls give equal bits.

    Attributes:
      n_batches: Updates an epoch.
      init: `() -> state`, the state at step 0.
      advance: `(state, n) -> (state, metrics)`, `n` updates within one epoch. `metrics` is a `training.step.Metrics`
        whose arrays have a leading axis of `n`.
      learning_rate: `(state) -> float`, the rate of the latest update.
      with_rate_factor: `(state, factor) -> state`, whose learning rates are those of the schedule times `factor`.
      evaluate: `(params, settings, groups) -> {name: number}`. `settings` is a section `evaluation` of the
        configuration, `groups` a choice of `Recipe.groups`.
      draws: `(params) -> {name: array}`, what samples/final.npz holds: `frames` and `steps` as `Recipe.draw` returns
        them, and what else the recipe's figures are made of.
      evaluate_state: `(state, settings, groups) -> {name: number}`, what is measured of a train state beside its
        parameters, such as persistent chains. By default nothing.
      groups_due: `(step) -> groups`, the groups of metrics that an evaluation after `step` updates measures. None: all.
      snapshot: `(params, step) -> {name: array}`, samples that an evaluation stores as samples/step_<step>.npz, or an
        empty mapping. None: none are stored.
      data_digest: Digest of the data (`recipes.digest`). A run resumes on data of its digest alone. None: not known.
    """

    n_batches: int
    init: Callable[[], Any]
    advance: Callable[[Any, int], tuple[Any, Any]]
    learning_rate: Callable[[Any], float]
    with_rate_factor: Callable[[Any, float], Any]
    evaluate: Callable[[Any, Any, Iterable[str]], dict[str, float]]
    draws: Callable[[Any], dict[str, np.ndarray]]
    evaluate_state: Callable[[Any, Any, Iterable[str]], dict[str, float]] = _nothing
    groups_due: Callable[[int], Sequence[str]] | None = None
    snapshot: Callable[[Any, int], dict[str, np.ndarray]] | None = None
    data_digest: str | None = None


class Recipe(abc.ABC):
    """A kind of experiment. Of its methods only `build` loads data.

    Attributes:
      name: Value of the key `recipe` of a configuration.
      Config: Its configuration, a subclass of `config.sections.ExperimentConfig`.
      metrics: What it measures, in the order of reports.
      best: Name of the metric by which checkpoints are compared; an evaluation may lack it.
      smallest_is_best: Whether a smaller value of that metric is the better one.
      captions: Caption of each figure of `run_figures`, by its name.
      memory_fields: Fields of the configuration that scale its memory, as dotted paths. An error of memory names them.
      can_skip: Whether its train step skips failed updates, which `health.policy: skip` asks for.
    """

    name: ClassVar[str]
    Config: ClassVar[type[ExperimentConfig]]
    metrics: ClassVar[tuple[Metric, ...]]
    best: ClassVar[str]
    smallest_is_best: ClassVar[bool] = False
    captions: ClassVar[Mapping[str, str]] = {}
    memory_fields: ClassVar[tuple[str, ...]] = ("training.batch_size",)
    can_skip: ClassVar[bool] = False

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups of metrics, in the order of `metrics`."""
        return tuple(dict.fromkeys(metric.group for metric in self.metrics))

    @abc.abstractmethod
    def build(self, config: Any) -> Experiment:
        """Loads the data and returns the experiment that `config` describes.

        Raises:
          ConfigError: If the configuration does not fit the data.
        """

    @abc.abstractmethod
    def model(self, config: Any) -> Any:
        """Returns the model that `config` describes."""

    @abc.abstractmethod
    def draw(
        self, config: Any, params: Any, n: int, n_steps: int | None, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws samples by chains that start at noise.

        Args:
          config: The configuration.
          params: Parameters of the model.
          n: Number of chains.
          n_steps: Steps of each chain. None: as many as the configuration says.
          seed: Seed of the chains.

        Returns:
          `(frames, steps)`: pictures along the chains, uint8 `(n_frames, n, height, width)`, and their steps.
        """

    def struct(self, config: Any) -> Any:
        """Returns the shapes and dtypes of the train state (`jax.ShapeDtypeStruct`).

        A recipe whose `build` loads data overrides this, so that samples can be drawn without the data.
        """
        import jax

        return jax.eval_shape(self.build(config).init)

    def params(self, config: Any, state: Any) -> Any:
        """Returns the parameters that are judged and kept: the moving average with `ema_decay`, else the latest."""
        from ebm_jax.experiment.recipes import optimiser

        return optimiser.judged_params(config.training, state)

    def save(self, path: Path, config: Any, params: Any) -> None:
        """Writes the trained model to the file `path`, replacing it, by `ebm_jax.save`.

        A recipe whose model `ebm_jax.save` does not know overrides this and `restore`. A run tries both at its start.
        """
        from ebm_jax import io

        io.save(path, self.model(config), params, overwrite=True)

    def restore(self, path: Path) -> tuple[Any, Any]:
        """Returns `(model, params)` from a file that `save` wrote."""
        from ebm_jax import io

        return io.load(path)

    def run_figures(self, run: StoredRun) -> dict[str, Figure]:
        """Returns figures of one run by their place in its folder, such as "plots/filters.png"."""
        del run
        return {}

    def remarks(self, run: StoredRun) -> list[str]:
        """Returns sentences for the page of one run."""
        del run
        return []

    def comparison_figures(self, runs: Mapping[str, StoredRun]) -> dict[str, Figure]:
        """Returns figures that compare runs of this recipe, by file name."""
        del runs
        return {}

    def findings(self, runs: Mapping[str, StoredRun]) -> list[str]:
        """Returns what a comparison of runs of this recipe shows, in sentences."""
        del runs
        return []


class PackagedRecipe(Recipe):
    """A recipe whose package has the modules `training`, `figures` and `findings`, imported when they are asked for.

    `training` has `build` and `struct`, `figures` has `captions`, `run_figures` and `comparison_figures`, and
    `findings` has `remarks` and `findings`, with the arguments of the methods.
    """

    def _module(self, name: str) -> Any:
        package = type(self).__module__.rpartition(".")[0]
        return import_module(f"{package}.{name}")

    def build(self, config: Any) -> Experiment:
        """Loads the data and returns the experiment.

        Raises:
          ConfigError: If a batch has more rows than the data.
          DataFileError, DataUnavailableError: As `ebm_jax.data.load` does.
        """
        return self._module("training").build(config)

    def struct(self, config: Any) -> Any:
        """Returns the shapes and dtypes of the train state, without data."""
        return self._module("training").struct(config)

    @property
    def captions(self) -> Mapping[str, str]:
        """Captions of the figures of one run."""
        return self._module("figures").captions

    def run_figures(self, run: StoredRun) -> dict[str, Figure]:
        """Returns figures of one run by their place in its folder."""
        return self._module("figures").run_figures(run)

    def remarks(self, run: StoredRun) -> list[str]:
        """Returns sentences for the page of one run."""
        return self._module("findings").remarks(run)

    def comparison_figures(self, runs: Mapping[str, StoredRun]) -> dict[str, Figure]:
        """Returns figures that compare runs, by file name."""
        return self._module("figures").comparison_figures(runs)

    def findings(self, runs: Mapping[str, StoredRun]) -> list[str]:
        """Returns what a comparison of runs shows, in sentences."""
        return self._module("findings").findings(runs)


def measure(metrics: Iterable[Metric], context: Any, groups: Iterable[str]) -> dict[str, float]:
    """Measures groups of metrics.

    Args:
      metrics: Metrics of a recipe.
      context: What their functions `compute` take.
      groups: Names of the groups to measure.

    Returns:
      The numbers by name, in the order of `metrics`.
    """
    wanted = set(groups)
    found: dict[str, float] = {}
    for metric in metrics:
        if metric.compute is not None and metric.group in wanted:
            found |= metric.compute(context)
    return found


def metrics_table(recipe: Recipe) -> str:
    """Returns the metrics of a recipe as a Markdown table: group, name, meaning."""
    lines = ["| group | name | meaning |", "| --- | --- | --- |"]
    lines += [f"| {metric.group} | `{metric.name}` | {metric.heading} |" for metric in recipe.metrics]
    return "\n".join(lines) + "\n"


# Name of a recipe: "module:object" of its configuration class and of the `Recipe`.
_REGISTRY: dict[str, tuple[str, str]] = {}


def register(name: str, config: str, recipe: str) -> None:
    """Makes a recipe known by its name.

    Args:
      name: Value of the key `recipe` of a configuration.
      config: "package.module:Class" of the configuration. The module must not import JAX.
      recipe: "package.module:OBJECT" of the `Recipe`.
    """
    _REGISTRY[name] = config, recipe


def names() -> tuple[str, ...]:
    """Returns the names of all recipes, in the order of their registration."""
    return tuple(_REGISTRY)


def config_class(name: str) -> type[Any]:
    """Returns the configuration class of a recipe; raises KeyError where no recipe has the name."""
    return _load(_REGISTRY[name][0])


def find(name: str) -> Recipe:
    """Returns a recipe by its name; raises KeyError where no recipe has it."""
    return _load(_REGISTRY[name][1])


def _load(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)


# Every recipe has one line here.
_RBM = "ebm_jax.experiment.recipes.rbm"
register("rbm", config=f"{_RBM}.config:RBMConfig", recipe=f"{_RBM}.recipe:RECIPE")
_CONV = "ebm_jax.experiment.recipes.conv"
register("conv", config=f"{_CONV}.config:ConvConfig", recipe=f"{_CONV}.recipe:RECIPE")
_JEM = "ebm_jax.experiment.recipes.jem"
register("jem", config=f"{_JEM}.config:JemConfig", recipe=f"{_JEM}.recipe:RECIPE")
_LATENT = "ebm_jax.experiment.recipes.latent"
register("latent", config=f"{_LATENT}.config:LatentConfig", recipe=f"{_LATENT}.recipe:RECIPE")
