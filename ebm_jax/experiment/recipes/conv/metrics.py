"""Metrics of the recipe `conv`; each group is a method of `evaluation.Evaluation`.

The figures of samples are those of `ebm_jax.metrics.samples.judge`. They come four times: of fresh chains from noise,
of the same chains before their first step, of as many training images, and of the replay buffer. The buffer is no
part of the parameters, so `Experiment.evaluate_state` measures it.
"""

from __future__ import annotations

from operator import methodcaller

from ebm_jax.experiment.recipes.base import Metric
from ebm_jax.experiment.recipes.images.figures_of_samples import of_samples

# metrics.jsonl keeps this order.
METRICS = (
    *of_samples("samples", "", "fresh chains", methodcaller("samples")),
    *of_samples("start", "start_", "their noise", methodcaller("start")),
    *of_samples("training", "training_", "training images", methodcaller("training_images")),
    Metric("energy_unseen", "energy", "energy of unseen images", 3, methodcaller("energy")),
    Metric("energy_training", "energy", "energy of training images", 3),
    Metric("energy_samples", "energy", "energy of fresh chains", 3),
    Metric("energy_noise", "energy", "energy of their noise", 3),
    *of_samples("buffer", "buffer_", "replay buffer", None),
)
