"""Measures of how well a model fits data, and of how good its samples are.

`classifier`, whose features the distances are taken on, loads Flax and is therefore imported when it is first used.
"""

import lazy_loader

from ebm_jax.metrics.calibration import auroc, expected_calibration_error
from ebm_jax.metrics.distances import (
    PrecisionRecall,
    frechet_distance,
    inception_score,
    kid,
    mmd,
    precision_recall,
)
from ebm_jax.metrics.likelihood import pseudo_log_likelihood, reconstruction_error
from ebm_jax.metrics.samples import SampleFigures, implied_temperature, judge

__all__ = [
    "PrecisionRecall",
    "SampleFigures",
    "auroc",
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

__getattr__, __dir__, _submodules = lazy_loader.attach(__name__, submodules=["classifier"])
__all__ += _submodules
