"""Exact answers for small systems: log Z, probabilities, expectations, likelihood gradients and independent draws.

For any discrete model p(x) = exp(−β E(x; θ)) / Z(β) with Z(β) = Σ_x exp(−β E(x; θ)), by one of three sums:

- over every configuration, up to 2²² of them;
- for an RBM, over every configuration of its smaller layer, with the other layer summed in closed form: for a
  `GaussianRBM` the hidden layer is enumerated, and the real units are integrated out. So are those of a `FactorGraph`;
- for Ising and Potts models, and a `FactorGraph` without real units, on trees, strips and other thin graphs, by summing
  out site after site (variable elimination) in an order that keeps every table at 2²² entries or fewer. On a strip
  these are transfer matrices. For log Z of graphs a little wider, some sites are held at each of their levels in turn.

Parameters are converted to float64 whatever the user's default, and answers are NumPy float64. β belongs to the
sampler. With hidden units the visible marginal is therefore p(v) ∝ Σ_h exp(−β E(v, h)), which is not exp(−β F(v)).

Configurations are ordered with the last site varying fastest, as in `itertools.product`: configuration number i is i
written in base K (with a digit of K values for each site, where K differs), and site 0 is the leading digit. The sites
of an RBM are its visible units and then its hidden ones. `layer="visible"` or `"hidden"` enumerates one layer of an RBM
and works on its marginal, `layer="discrete"` that of the nodes with levels of a `FactorGraph` with real units.

Example:
  >>> model = ej.Ising(ej.Grid(2, 2))
  >>> params = ej.IsingParams(jnp.zeros((2, 2)), jnp.zeros(2))
  >>> round(float(np.exp(ej.exact.log_partition(model, params))))
  16
"""

from ebm_jax.exact.enumeration import MAX_STATES
from ebm_jax.exact.solver import (
    FactorMarginals,
    Marginals,
    expectation,
    gradient,
    log_partition,
    marginals,
    probabilities,
    sample,
    states,
)

__all__ = [
    "MAX_STATES",
    "FactorMarginals",
    "Marginals",
    "expectation",
    "gradient",
    "log_partition",
    "marginals",
    "probabilities",
    "sample",
    "states",
]
