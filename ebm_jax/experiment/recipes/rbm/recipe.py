"""The recipe `rbm` as runs, reports and commands see it; the work is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ebm_jax.experiment.recipes.base import Experiment, Recipe, StoredRun
from ebm_jax.experiment.recipes.rbm.config import RBMConfig
from ebm_jax.experiment.recipes.rbm.metrics import METRICS

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from ebm_jax.energies.rbm import RBM, RBMParams
    from ebm_jax.training.state import TrainState


class RBMRecipe(Recipe):
    """An RBM of binary images, trained by contrastive divergence."""

    name = "rbm"
    Config = RBMConfig
    metrics = METRICS
    best = "log_likelihood_lower"
    can_skip = True

    def build(self, config: RBMConfig) -> Experiment:
        """Loads the images and returns the experiment.

        Raises:
          ConfigError: If a batch has more rows than the data.
          DataFileError, DataUnavailableError: As `ebm_jax.data.load` does.
        """
        from ebm_jax.experiment.recipes.rbm import training

        return training.build(config)

    def struct(self, config: RBMConfig) -> TrainState:
        """Returns the shapes and dtypes of the train state."""
        from ebm_jax.experiment.recipes.rbm import training

        return training.struct(config)

    def model(self, config: RBMConfig) -> RBM:
        """Returns the model, with a visible unit for each pixel."""
        from ebm_jax.experiment.recipes.rbm import data

        return data.model_of(config)

    def draw(
        self, config: RBMConfig, params: RBMParams, n: int, n_steps: int | None, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws images by Gibbs chains that start at noise; `n_steps` defaults to `evaluation.chain_steps`."""
        import jax

        from ebm_jax.experiment.recipes.rbm import data, sampling

        n_steps = config.evaluation.chain_steps if n_steps is None else n_steps
        frames, steps = sampling.draw_frames(self.model(config), params, jax.random.key(seed), n, n_steps)
        return data.as_images(frames, data.image_shape(config)), steps

    @property
    def captions(self) -> Mapping[str, str]:
        """Captions of the figures of one run."""
        from ebm_jax.experiment.recipes.rbm import figures

        return figures.captions

    def run_figures(self, run: StoredRun) -> dict[str, Figure]:
        """Returns figures of training, evaluations, weights, samples and mixing."""
        from ebm_jax.experiment.recipes.rbm import figures

        return figures.run_figures(run)

    def remarks(self, run: StoredRun) -> list[str]:
        """Returns what to know about the estimates of log Z."""
        from ebm_jax.experiment.recipes.rbm import findings

        return findings.remarks(run)

    def comparison_figures(self, runs: Mapping[str, StoredRun]) -> dict[str, Figure]:
        """Returns figures that compare runs."""
        from ebm_jax.experiment.recipes.rbm import figures

        return figures.comparison_figures(runs)

    def findings(self, runs: Mapping[str, StoredRun]) -> list[str]:
        """Returns which run is best, and what k and persistent chains change."""
        from ebm_jax.experiment.recipes.rbm import findings

        return findings.findings(runs)


RECIPE = RBMRecipe()
