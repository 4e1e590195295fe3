"""Measures of how well a model fits data, of how good its samples are, and of its classifier.

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
from ebm_jax.metrics.likelihood import pseudo_log_likelihood, reconstruction_error
from ebm_jax.metrics.samples import SampleFigures, implied_temperature, judge

# It loads Flax and Optax.
__getattr__, _, _ = lazy_loader.attach(__name__, submodules=["classifier"])

__all__ = [
    "Coverage",
    "SampleFigures",
    "auroc",
    "classifier",  # pyright: ignore[reportUnsupportedDunderAll]
    "expected_calibration_error",
    "frechet_distance",
    "implied_temperature",
    "inception_score",
    "judge",
    "kid",
    "mmd",
    "precision_recall",
    "pseudo_log_likelihood",
    "reconstruction_error",
]
