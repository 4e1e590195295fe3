"""Metrics of the recipe `jem`; each group is a method of `evaluation.Evaluation`."""

from __future__ import annotations

from operator import methodcaller

from ebm_jax.experiment.recipes.base import Metric
from ebm_jax.experiment.recipes.images.metrics import of_samples

_STRANGE = "AUROC of E(x), images against"

# metrics.jsonl keeps this order.
METRICS = (
    Metric("validation_loss", "classifier", "cross-entropy of unseen images", 4, methodcaller("classify")),
    Metric("validation_accuracy", "classifier", "accuracy on unseen images", 4),
    Metric("ece", "classifier", "expected calibration error", 4),
    Metric("auroc_fashion", "strange", f"{_STRANGE} Fashion-MNIST", 3, methodcaller("strange")),
    Metric("auroc_rotated", "strange", f"{_STRANGE} themselves rotated by 90°", 3),
    Metric("auroc_inverted", "strange", f"{_STRANGE} their inverse", 3),
    Metric("auroc_uniform", "strange", f"{_STRANGE} uniform noise", 3),
    Metric("energy_unseen", "strange", "energy of unseen images"),
    *of_samples("samples", "", "fresh chains", methodcaller("samples")),
    Metric("stuck_grey", "samples", "fresh chains: share without contrast", 3),
    Metric("energy_samples", "samples", "energy of fresh chains"),
    *of_samples("start", "start_", "their noise", methodcaller("start")),
    Metric(
        "conditional_accuracy",
        "conditional",
        "chains of a class: share read as that class",
        3,
        methodcaller("conditional"),
    ),
)
