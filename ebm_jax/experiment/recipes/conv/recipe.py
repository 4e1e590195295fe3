"""The recipe `conv` as runs, reports and commands see it; the work is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ebm_jax.experiment.recipes.base import PackagedRecipe
from ebm_jax.experiment.recipes.conv.config import ConvConfig
from ebm_jax.experiment.recipes.conv.metrics import METRICS

if TYPE_CHECKING:
    import numpy as np

    from ebm_jax.energies.neural import NeuralEnergy


class ConvRecipe(PackagedRecipe):
    """A convolutional energy of images, trained by short Langevin chains from a replay buffer."""

    name = "conv"
    Config = ConvConfig
    metrics = METRICS
    best = "frechet"
    smallest_is_best = True
    memory_fields = (
        "training.batch_size",
        "buffer.capacity",
        "model.channels",
        "model.dense",
        "evaluation.n_chains",
    )
    can_skip = True

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


RECIPE = ConvRecipe()
