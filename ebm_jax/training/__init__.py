"""Training by maximum likelihood: negatives, the surrogate loss, one train step, and the loop around it."""

from ebm_jax.training import negatives, positives
from ebm_jax.training.averaging import average, averaged
from ebm_jax.training.centring import centred
from ebm_jax.training.loop import FitResult, Plan, advance, fit
from ebm_jax.training.prepare import binarize_batch
from ebm_jax.training.state import TrainState
from ebm_jax.training.step import Limits, Metrics, make_train_step

__all__ = [
    "FitResult",
    "Limits",
    "Metrics",
    "Plan",
    "TrainState",
    "advance",
    "average",
    "averaged",
    "binarize_batch",
    "centred",
    "fit",
    "make_train_step",
    "negatives",
    "positives",
]
