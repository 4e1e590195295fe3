"""Metrics of the recipe `latent`; each group is a method of `evaluation.Evaluation`.

Log-likelihoods are of whitened latents of held-out images, in nats. Of one Gaussian fitted to the training latents it
is that of N(0, I), because these are whitened; gains are differences to it. Real images are thresholded as the training
images are. Samples are the decoder's probabilities.
"""

from __future__ import annotations

from operator import methodcaller

from ebm_jax.experiment.recipes.base import Metric
from ebm_jax.experiment.recipes.images.figures_of_samples import of_samples

# What is measured before the energy is trained.
AUTOENCODER_GROUPS = ("reconstruction",)
# metrics.jsonl keeps this order.
METRICS = (
    Metric("gain", "likelihood", "log-likelihood over one Gaussian", 3, methodcaller("likelihood")),
    Metric("gain_train", "likelihood", "the same of training images", 3),
    Metric("log_likelihood", "likelihood", "log-likelihood of held-out latents", 3),
    Metric("log_likelihood_gaussian", "likelihood", "of one Gaussian", 3),
    Metric(
        "log_z", "likelihood", "log Z of log_likelihood: by a grid, or the larger of both estimates by AIS"
    ),
    Metric("log_z_forward", "likelihood", "log Z by AIS", 3),
    Metric("log_z_reverse", "likelihood", "log Z by reverse AIS from ends of fresh chains", 3),
    Metric("ais_ess", "likelihood", "effective number of chains of AIS"),
    Metric("ais_spread", "likelihood", "spread of the log weights of AIS"),
    Metric("gain_gmm_10", "mixtures", "mixture of 10 Gaussians over one", 3, methodcaller("mixtures")),
    Metric("gain_gmm_50", "mixtures", "mixture of 50 over one", 3),
    Metric("gain_gmm_200", "mixtures", "mixture of 200 over one", 3),
    Metric(
        "reconstruction",
        "reconstruction",
        "binary cross-entropy of reconstructions (nats an image)",
        1,
        methodcaller("reconstruction"),
    ),
    *of_samples("samples", "", "fresh chains", methodcaller("samples")),
    Metric("generation_step_size", "samples", "step size of fresh chains"),
    Metric("generation_acceptance", "samples", "acceptance of fresh chains"),
    *of_samples("start", "start_", "one Gaussian, their start", methodcaller("start")),
    *of_samples("reconstructed", "reconstructed_", "reconstructions", methodcaller("reconstructed")),
)
