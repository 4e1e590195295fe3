"""Training: an objective (maximum likelihood by default), negatives, one train step, and the loop around it."""

from ebm_jax.training import negatives, positives
from ebm_jax.training.averaging import average, averaged
from ebm_jax.training.centring import centred
from ebm_jax.training.chainless import (
    NormalizedParams,
    denoising_score_matching,
    discrete_energy_discrepancy,
    energy_discrepancy,
    gaussian_noise,
    noise_contrastive,
    normalized,
    pseudo_likelihood,
    ratio_matching,
    recovery_likelihood,
    recovery_samples,
    sliced_score_matching,
)
from ebm_jax.training.fields import WithField
from ebm_jax.training.health import Limits, Metrics
from ebm_jax.training.loop import FitResult, Plan, advance, fit
from ebm_jax.training.mean_field import mean_field
from ebm_jax.training.network_objectives import classification, improved, joint, regularized
from ebm_jax.training.objectives import Objective, contrastive
from ebm_jax.training.prepare import binarize_batch
from ebm_jax.training.sources import Negatives, Source, pack_chains, run_chains
from ebm_jax.training.state import TrainState
from ebm_jax.training.step import make_train_step

__all__ = [
    "FitResult",
    "Limits",
    "Metrics",
    "Negatives",
    "NormalizedParams",
    "Objective",
    "Plan",
    "Source",
    "TrainState",
    "WithField",
    "advance",
    "average",
    "averaged",
    "binarize_batch",
    "centred",
    "classification",
    "contrastive",
    "denoising_score_matching",
    "discrete_energy_discrepancy",
    "energy_discrepancy",
    "fit",
    "gaussian_noise",
    "improved",
    "joint",
    "make_train_step",
    "mean_field",
    "negatives",
    "noise_contrastive",
    "normalized",
    "pack_chains",
    "positives",
    "pseudo_likelihood",
    "ratio_matching",
    "recovery_likelihood",
    "recovery_samples",
    "regularized",
    "run_chains",
    "sliced_score_matching",
]
