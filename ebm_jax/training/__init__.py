"""Training by maximum likelihood: negatives, the surrogate loss, one train step, and the loop around it."""

from ebm_jax.training import negatives, positives
from ebm_jax.training.loop import FitResult, fit
from ebm_jax.training.state import TrainState
from ebm_jax.training.step import Metrics, make_train_step

__all__ = ["FitResult", "Metrics", "TrainState", "fit", "make_train_step", "negatives", "positives"]
