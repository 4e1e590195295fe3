"""Metrics of the recipe `rbm`; each group is a method of `evaluation.Evaluation`."""

from __future__ import annotations

from operator import methodcaller

from ebm_jax.experiment.recipes.base import Metric

# metrics.jsonl keeps this order.
METRICS = (
    Metric(
        "log_likelihood_lower",
        "likelihood",
        "log-likelihood, from below",
        1,
        methodcaller("likelihood"),
    ),
    Metric("log_likelihood_upper", "likelihood", "from above", 1),
    Metric("log_likelihood_train", "likelihood", "of training rows, from above", 1),
    Metric("log_z_forward", "likelihood", "log Z by AIS, or exact"),
    Metric("log_z_reverse", "likelihood", "log Z by reverse AIS, or exact"),
    Metric("log_z_forward_low", "likelihood", "lower end of the interval of log Z by AIS"),
    Metric("log_z_reverse_high", "likelihood", "upper end of the interval of log Z by reverse AIS"),
    Metric("ais_forward_spread", "likelihood", "spread of the log weights of AIS"),
    Metric("ais_reverse_spread", "likelihood", "spread of the log weights of reverse AIS"),
    Metric("ais_forward_ess", "likelihood", "effective number of chains of AIS"),
    Metric("ais_reverse_ess", "likelihood", "effective number of chains of reverse AIS"),
    Metric("autocorrelation_time", "mixing", "autocorrelation time (sweeps)", 1, methodcaller("mixing")),
    Metric("ess_per_step", "mixing", "ESS a sweep", 4),
    Metric("r_hat", "mixing", "R-hat", 3),
    Metric(
        "pseudo_log_likelihood",
        "pseudo_likelihood",
        "pseudo-log-likelihood",
        1,
        methodcaller("pseudo_likelihood"),
    ),
    Metric(
        "reconstruction_error", "reconstruction", "reconstruction error", 4, methodcaller("reconstruction")
    ),
    Metric(
        "free_energy_gap", "free_energy", "free energy, test − training", 2, methodcaller("free_energy_gap")
    ),
)
