"""Measures of how well a model fits data, of how good its samples are, and of its classifier.

`kernel_stein_discrepancy` tests draws against an energy; `mmd_test` and `classifier_two_sample_test` test them against
other draws.
`classifier` and `samples` judge images: `classifier.load("mnist")` gives features, `judge` the figures.
"""

import lazy_loader

from ebm_jax.metrics.calibration import auroc, expected_calibration_error
from ebm_jax.metrics.distances import (
    Coverage,
    frechet_distance,
    inception_score,
    kid,
    mmd,
    precision_recall,
)
from ebm_jax.metrics.kernel_sums import KernelTest
from ebm_jax.metrics.likelihood import pseudo_log_likelihood, reconstruction_error
from ebm_jax.metrics.samples import SampleFigures, implied_temperature, judge
from ebm_jax.metrics.stein import kernel_stein_discrepancy
from ebm_jax.metrics.two_sample import ClassifierTest, classifier_two_sample_test, mmd_test

# It loads Flax and Optax.
__getattr__, _, _ = lazy_loader.attach(__name__, submodules=["classifier"])

__all__ = [
    "ClassifierTest",
    "Coverage",
    "KernelTest",
    "SampleFigures",
    "auroc",
    "classifier",  # pyright: ignore[reportUnsupportedDunderAll]
    "classifier_two_sample_test",
    "expected_calibration_error",
    "frechet_distance",
    "implied_temperature",
    "inception_score",
    "judge",
    "kernel_stein_discrepancy",
    "kid",
    "mmd",
    "mmd_test",
    "precision_recall",
    "pseudo_log_likelihood",
    "reconstruction_error",
]
