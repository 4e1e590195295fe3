"""Energy discrepancy: data against points from which the same perturbed point could have come.

A datum x is perturbed to y, and y is perturbed back to x₁ … x_M, each step by the same symmetric kernel. The loss is

    J(θ) = E log [(w + Σⱼ exp(E(x; θ) − E(xⱼ; θ))) / M]

(Schröder, Ou, Lim, Li, Vollmer and Duncan 2023, "Energy discrepancies: a score-independent loss for energy-based
models"). For w = 1 and every M, J is least where exp(−E) is proportional to the law of the data: given y, the loss is
the cross-entropy of which of x, x₁ … x_M is the datum. Real data take Gaussian steps, y = x + σz.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import checks
from ebm_jax.energies.target import Method, Target
from ebm_jax.samplers.continuous import check_scale
from ebm_jax.training.chainless import draws
from ebm_jax.training.objectives import Objective
from ebm_jax.types import Key, PyTree


@dataclass(frozen=True)
class _Gaussian:
    sigma: float

    def __call__(self, key: Key, model: Target, batch: PyTree, m: int) -> PyTree:
        """Returns x + σ(z₀ + zⱼ), `(m, n, …)`."""
        del model
        draws.check_real(batch)
        return jax.tree.map(
            lambda x, z: x[None] + self.sigma * (z[:1] + z[1:]), batch, draws.normals(key, batch, m + 1)
        )


@dataclass(frozen=True)
class EnergyDiscrepancy:
    """The loss of a perturbation, a function `(key, model, batch, m) -> (m, n, …)`."""

    perturb: Any
    n_negatives: int
    stabilizer: float

    def draw(self, key: Key, params: PyTree, model: Target, batch: PyTree) -> PyTree:
        """Returns x₁ … x_M of every row, `(M, n, …)`."""
        del params
        return self.perturb(key, model, batch, self.n_negatives)

    def __call__(self, params: PyTree, model: Target, batch: PyTree, drawn: PyTree) -> Any:
        """Returns the loss, and no figures."""
        m = self.n_negatives
        together = jax.tree.map(
            lambda x, y: jnp.concatenate([x[None], y]).reshape(-1, *x.shape[1:]), batch, drawn
        )
        energies = jax.vmap(model.data_energy, (None, 0))(params, together).reshape(m + 1, -1)
        differences = energies[:1] - energies[1:]
        if self.stabilizer > 0:
            constant = jnp.full_like(differences[:1], np.log(self.stabilizer))
            differences = jnp.concatenate([differences, constant])
        return jnp.mean(jax.nn.logsumexp(differences, axis=0)) - np.float32(np.log(m)), {}


def energy_discrepancy(sigma: float, *, n_negatives: int = 16, stabilizer: float = 1.0) -> Objective:
    """Energy discrepancy of real data, with Gaussian perturbations (Schröder et al. 2023).

    Neither scores nor chains: M + 1 energies a datum. A larger σ sees modes that lie further apart, at more variance.

    Args:
      sigma: σ > 0, √t in the paper.
      n_negatives: M, at least 1.
      stabilizer: w ≥ 0. With 1 the law of the data minimises the loss for every M; others do so as M → ∞.

    Returns:
      The objective. It takes no negatives.

    Raises:
      ValueError: If a number is out of range.

    Example:
      >>> objective = ej.training.energy_discrepancy(0.5, n_negatives=4)
      >>> model = ej.NeuralEnergy(ej.energies.networks.MLP((8,)), shape=(2,))
      >>> fitted = ej.fit(jax.random.key(0), model, np.ones((8, 2), np.float32), tx=optax.adam(0.01),
      ...                 objective=objective, n_epochs=3, batch_size=4, progress=False)
      >>> fitted.metrics.loss.shape
      (3, 2)
    """
    check_scale("sigma", sigma, positive=True)
    return discrepancy(_Gaussian(float(sigma)), n_negatives, stabilizer)


def discrepancy(perturb: Any, n_negatives: int, stabilizer: float) -> Objective:
    """Returns the objective of a perturbation; raises ValueError where a number is out of range."""
    checks.check_integer("n_negatives", n_negatives, 1)
    check_scale("stabilizer", stabilizer)
    loss = EnergyDiscrepancy(perturb, n_negatives, float(stabilizer))
    return Objective(loss, needs_negatives=False, takes_data=True, draw=Method(loss, "draw"))
