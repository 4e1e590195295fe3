"""The recipe `jem` as runs, reports and commands see it; the work is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ebm_jax.experiment.recipes.base import PackagedRecipe
from ebm_jax.experiment.recipes.jem.config import JemConfig
from ebm_jax.experiment.recipes.jem.metrics import METRICS

if TYPE_CHECKING:
    import numpy as np

    from ebm_jax.energies.neural import JointEnergy


class JemRecipe(PackagedRecipe):
    """A classifier of images that is trained as an energy of its inputs too."""

    name = "jem"
    Config = JemConfig
    metrics = METRICS
    best = "share_above_0_9"
    memory_fields = (
        "training.batch_size",
        "negatives.n_chains",
        "negatives.capacity",
        "model.features",
        "evaluation.n_chains",
    )
    can_skip = True

    def model(self, config: JemConfig) -> JointEnergy:
        """Returns the model, whose configurations are images of floats in [-1, 1]."""
        from ebm_jax.experiment.recipes.jem import training

        return training.model_of(config)

    def draw(
        self, config: JemConfig, params: Any, n: int, n_steps: int | None, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws images by Langevin chains that start at noise; `n_steps` defaults to `generation.n_steps`."""
        import jax

        from ebm_jax.experiment.recipes.jem import sampling

        n_steps = config.generation.n_steps if n_steps is None else n_steps
        return sampling.draw_frames(config, self.model(config), params, jax.random.key(seed), n, n_steps)


RECIPE = JemRecipe()
