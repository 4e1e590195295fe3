"""The recipe `latent` as runs, reports and commands see it; the work is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ebm_jax.experiment.recipes.base import PackagedRecipe
from ebm_jax.experiment.recipes.latent.config import LatentConfig
from ebm_jax.experiment.recipes.latent.metrics import METRICS

if TYPE_CHECKING:
    import numpy as np

    from ebm_jax.energies.latent import LatentModel, LatentParams
    from ebm_jax.experiment.recipes.latent.training import LatentState


class LatentRecipe(PackagedRecipe):
    """An energy of the latents of an autoencoder, trained by persistent MALA chains."""

    name = "latent"
    Config = LatentConfig
    metrics = METRICS
    best = "gain"
    memory_fields = (
        "training.batch_size",
        "negatives.n_chains",
        "autoencoder.n_hidden",
        "model.features",
        "evaluation.n_chains",
        "evaluation.ais_chains",
    )
    can_skip = True

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


RECIPE = LatentRecipe()
