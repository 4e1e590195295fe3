"""What the recipe `jem` measures: how it classifies, what its energy finds strange, and the samples of its chains."""

from __future__ import annotations

from operator import methodcaller

from ebm_jax.experiment.recipes.base import Metric
from ebm_jax.experiment.recipes.images.figures_of_samples import of_samples

# metrics.jsonl keeps this order, and the console shows the first four.
METRICS = (
    Metric("accuracy", "classifier", "accuracy", 4, methodcaller("classifier")),
    Metric("cross_entropy", "classifier", "cross-entropy (nats)", 4),
    Metric("training_accuracy", "classifier", "accuracy on training images"),
    Metric("training_cross_entropy", "classifier", "cross-entropy on training images"),
    Metric("ece", "classifier", "expected calibration error, 15 bins", 4),
    Metric("auroc_fashion", "ood", "AUROC of E(x), Fashion-MNIST (only for MNIST)", 3, methodcaller("ood")),
    Metric("auroc_rotated", "ood", "AUROC of E(x), images rotated by 90°", 3),
    Metric("auroc_inverted", "ood", "AUROC of E(x), inverted images", 3),
    Metric("auroc_uniform", "ood", "AUROC of E(x), uniform noise", 3),
    Metric("energy_unseen", "ood", "mean E(x) of unseen images"),
    *of_samples("samples", "", "fresh chains", methodcaller("samples")),
    Metric(
        "stuck_chains",
        "samples",
        "share of fresh chains that stay noise: neighbouring pixels differ by more than midway from images to noise",
        3,
    ),
    *of_samples("start", "start_", "their noise", methodcaller("start")),
    Metric(
        "class_accuracy",
        "conditional",
        "chains that keep a class: read as it",
        3,
        methodcaller("conditional"),
    ),
    *of_samples("conditional", "conditional_", "chains that keep a class", None),
    Metric("conditional_stuck_chains", "conditional", "share of chains that keep a class and stay noise", 3),
)
