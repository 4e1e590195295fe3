"""Objectives that need no partition function and no chains of their own: one algorithm a file.

What they need at random (noise, contrasts) they draw by `Objective.draw`, so `fit` takes them without `negatives`.
"""

from ebm_jax.training.chainless.denoising import denoising_score_matching
from ebm_jax.training.chainless.denoising_chains import recovery_samples
from ebm_jax.training.chainless.discrete_energy_discrepancy import discrete_energy_discrepancy
from ebm_jax.training.chainless.energy_discrepancy import energy_discrepancy
from ebm_jax.training.chainless.gaussian_noise import gaussian_noise
from ebm_jax.training.chainless.noise_contrastive import noise_contrastive
from ebm_jax.training.chainless.normalized import NormalizedParams, normalized
from ebm_jax.training.chainless.pseudo_likelihood import pseudo_likelihood
from ebm_jax.training.chainless.ratio_matching import ratio_matching
from ebm_jax.training.chainless.recovery import recovery_likelihood
from ebm_jax.training.chainless.sliced import sliced_score_matching

__all__ = [
    "NormalizedParams",
    "denoising_score_matching",
    "discrete_energy_discrepancy",
    "energy_discrepancy",
    "gaussian_noise",
    "noise_contrastive",
    "normalized",
    "pseudo_likelihood",
    "ratio_matching",
    "recovery_likelihood",
    "recovery_samples",
    "sliced_score_matching",
]
