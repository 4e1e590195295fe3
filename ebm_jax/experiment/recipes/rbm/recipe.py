"""The recipe `rbm` as runs, reports and commands see it; the work is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ebm_jax.experiment.recipes.base import PackagedRecipe
from ebm_jax.experiment.recipes.rbm.config import RBMConfig
from ebm_jax.experiment.recipes.rbm.metrics import METRICS

if TYPE_CHECKING:
    import numpy as np

    from ebm_jax.energies.rbm import RBM, RBMParams


class RBMRecipe(PackagedRecipe):
    """An RBM of binary images, trained by contrastive divergence."""

    name = "rbm"
    Config = RBMConfig
    metrics = METRICS
    best = "log_likelihood_lower"
    memory_fields = (
        "training.batch_size",
        "negatives.n_chains",
        "model.n_hidden",
        "evaluation.n_test",
        "evaluation.ais_chains",
        "evaluation.n_chains",
        "evaluation.chain_steps",
    )
    can_skip = True

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


RECIPE = RBMRecipe()
