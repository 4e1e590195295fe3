"""How far to trust chains: autocorrelation, effective sample size, R-hat, Monte Carlo standard errors.

Functions of stored draws take them as `sample` stores them, in `Samples.positions` or `Samples.observed`: an array
`(n_samples, n_chains, *event)` or a pytree of such arrays, bool, integer or floating. Each element of an event is a
quantity of its own. A result has the shape `event` and is float32 (float64 of float64). Energies are a good quantity
to look at: `sample(..., observe=model.energy).observed`. Everything runs under `jit`.

In all of them a NaN among the draws gives NaN. So does a quantity that never moved: chains that all stand still in one
place say nothing about how they mix (`arviz_stats` counts each such draw as independent). Chains that stand still in
different places have an infinite R-hat. Fewer than 4 draws a chain raise ValueError.

`moments`, `batch_means` and `histogram` observe a run in constant memory instead. They give a result for each chain.

Source: Vehtari, Gelman, Simpson, Carpenter and Bürkner 2021, "Rank-normalization, folding, and localization: an
improved R-hat for assessing convergence of MCMC", Bayesian Analysis 16:667. The numbers are those of arviz-stats 1.3.

Example:
  >>> rng = np.random.default_rng(0)
  >>> draws = rng.normal(size=(500, 4)).astype(np.float32)
  >>> float(ej.diagnostics.r_hat(draws)) < 1.01
  True
"""

from ebm_jax.diagnostics.stored import (
    Summary,
    autocorrelation,
    effective_sample_size,
    integrated_autocorrelation_time,
    mcse,
    potential_scale_reduction,
    r_hat,
    summarize,
)
from ebm_jax.diagnostics.streaming import BatchMeans, Histogram, Moments, batch_means, histogram, moments

__all__ = [
    "BatchMeans",
    "Histogram",
    "Moments",
    "Summary",
    "autocorrelation",
    "batch_means",
    "effective_sample_size",
    "histogram",
    "integrated_autocorrelation_time",
    "mcse",
    "moments",
    "potential_scale_reduction",
    "r_hat",
    "summarize",
]
