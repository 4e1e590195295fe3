"""The recipe `conv` as runs, reports and commands see it; the work is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ebm_jax.experiment.recipes.base import Experiment, Recipe, StoredRun
from ebm_jax.experiment.recipes.conv.config import ConvConfig
from ebm_jax.experiment.recipes.conv.metrics import METRICS

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from ebm_jax.energies.neural import NeuralEnergy
    from ebm_jax.training.state import TrainState


class ConvRecipe(Recipe):
    """A convolutional energy of images, trained by short Langevin chains from a replay buffer."""

    name = "conv"
    Config = ConvConfig
    metrics = METRICS
    best = "share_above_0_9"
    can_skip = True

    def build(self, config: ConvConfig) -> Experiment:
        """Loads the images and returns the experiment.

        Raises:
          ConfigError: If a batch has more rows than the data.
          DataFileError, DataUnavailableError: As `ebm_jax.data.load` does.
        """
        from ebm_jax.experiment.recipes.conv import training

        return training.build(config)

    def struct(self, config: ConvConfig) -> TrainState:
        """Returns the shapes and dtypes of the train state."""
        from ebm_jax.experiment.recipes.conv import training

        return training.struct(config)

    def model(self, config: ConvConfig) -> NeuralEnergy:
        """Returns the model, whose configurations are images of floats in [-1, 1]."""
        from ebm_jax.experiment.recipes.conv import training

        return training.model_of(config)

    def draw(
        self, config: ConvConfig, params: Any, n: int, n_steps: int | None, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws images by Langevin chains that start at noise; `n_steps` defaults to `generation.n_steps`."""
        import jax

        from ebm_jax.experiment.recipes.conv import sampling

        n_steps = config.generation.n_steps if n_steps is None else n_steps
        return sampling.draw_frames(config, self.model(config), params, jax.random.key(seed), n, n_steps)

    @property
    def captions(self) -> Mapping[str, str]:
        """Captions of the figures of one run."""
        from ebm_jax.experiment.recipes.conv import figures

        return figures.captions

    def run_figures(self, run: StoredRun) -> dict[str, Figure]:
        """Returns figures of samples, chains, evaluations and training."""
        from ebm_jax.experiment.recipes.conv import figures

        return figures.run_figures(run)

    def remarks(self, run: StoredRun) -> list[str]:
        """Returns what to know about the figures of samples."""
        from ebm_jax.experiment.recipes.conv import findings

        return findings.remarks(run)

    def comparison_figures(self, runs: Mapping[str, StoredRun]) -> dict[str, Figure]:
        """Returns figures that compare runs."""
        from ebm_jax.experiment.recipes.conv import figures

        return figures.comparison_figures(runs)

    def findings(self, runs: Mapping[str, StoredRun]) -> list[str]:
        """Returns which run makes the best samples."""
        from ebm_jax.experiment.recipes.conv import findings

        return findings.findings(runs)


RECIPE = ConvRecipe()
