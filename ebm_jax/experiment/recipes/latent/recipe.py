"""The recipe `latent` as runs, reports and commands see it; the work is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ebm_jax.experiment.recipes.base import Experiment, Recipe, StoredRun
from ebm_jax.experiment.recipes.latent.config import LatentConfig
from ebm_jax.experiment.recipes.latent.metrics import METRICS

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from ebm_jax.energies.latent import LatentModel, LatentParams
    from ebm_jax.experiment.recipes.latent.training import LatentState


class LatentRecipe(Recipe):
    """An energy of the latents of an autoencoder, trained by persistent MALA chains."""

    name = "latent"
    Config = LatentConfig
    metrics = METRICS
    best = "gain"
    can_skip = True

    def build(self, config: LatentConfig) -> Experiment:
        """Loads the images and returns the experiment.

        Raises:
          ConfigError: If a batch has more rows than the data.
          DataFileError, DataUnavailableError: As `ebm_jax.data.load` does.
        """
        from ebm_jax.experiment.recipes.latent import training

        return training.build(config)

    def struct(self, config: LatentConfig) -> LatentState:
        """Returns the shapes and dtypes of the state."""
        from ebm_jax.experiment.recipes.latent import training

        return training.struct(config)

    def model(self, config: LatentConfig) -> LatentModel:
        """Returns the model, whose configurations are whitened latents."""
        from ebm_jax.experiment.recipes.latent import training

        return training.model_of(config)

    def params(self, config: LatentConfig, state: LatentState) -> LatentParams:
        """Returns the parameters that are judged and kept, those of the energy averaged with `ema_decay`."""
        from ebm_jax.experiment.recipes.latent import training

        return training.params_of(config, state)

    def draw(
        self, config: LatentConfig, params: Any, n: int, n_steps: int | None, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws latents by MALA chains from N(0, I) and decodes them; `n_steps` defaults to `generation.n_steps`."""
        import jax

        from ebm_jax.experiment.recipes.latent import sampling

        n_steps = config.generation.n_steps if n_steps is None else n_steps
        return sampling.draw_frames(config, self.model(config), params, jax.random.key(seed), n, n_steps)

    @property
    def captions(self) -> Mapping[str, str]:
        """Captions of the figures of one run."""
        from ebm_jax.experiment.recipes.latent import figures

        return figures.captions

    def run_figures(self, run: StoredRun) -> dict[str, Figure]:
        """Returns figures of training, samples, chains and the energy."""
        from ebm_jax.experiment.recipes.latent import figures

        return figures.run_figures(run)

    def remarks(self, run: StoredRun) -> list[str]:
        """Returns what the likelihood and the samples are worth."""
        from ebm_jax.experiment.recipes.latent import findings

        return findings.remarks(run)

    def comparison_figures(self, runs: Mapping[str, StoredRun]) -> dict[str, Figure]:
        """Returns figures that compare runs."""
        from ebm_jax.experiment.recipes.latent import figures

        return figures.comparison_figures(runs)

    def findings(self, runs: Mapping[str, StoredRun]) -> list[str]:
        """Returns which run has the best samples."""
        from ebm_jax.experiment.recipes.latent import findings

        return findings.findings(runs)


RECIPE = LatentRecipe()
