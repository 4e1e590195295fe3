"""log Z by thermodynamic integration: the mean energy along a ladder of inverse temperatures.

    log Z(β_m) − log Z(β_0) = −∫ ⟨E⟩_β dβ,   d⟨E⟩_β / dβ = −Var_β E

(Kirkwood 1935; Gelman and Meng 1998), with ⟨E⟩_β from chains at every β of the ladder.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ebm_jax.diagnostics import estimators
from ebm_jax.samplers.base import check_precision

# With less than a hundred draws' worth, the error of a mean is itself a guess.
_MIN_ESS = 100.0
# Nats of correction beyond which the correction is not small.
_MAX_CURVATURE = 1.0
# Standard errors by which a mean energy, which must fall, may rise.
_RISE = 4.0


class TIResult(NamedTuple):
    """An estimate of log Z by thermodynamic integration.

    Attributes:
      log_z: The estimate at the last β.
      interval: `(low, high)`, 95 % by the chains' Monte Carlo error. It does not account for the distance between
        betas.
      bounds: `(low, high)`, what that distance leaves open. As ⟨E⟩_β falls, log Z lies between them up to the Monte
        Carlo error of the mean energies.
      warnings: Reasons not to trust the estimate, empty if there are none.
    """

    log_z: float
    interval: tuple[float, float]
    bounds: tuple[float, float]
    warnings: tuple[str, ...]


def thermodynamic_integration(betas: Any, energies: Any, log_z0: float) -> TIResult:
    """Returns log Z at the last of `betas` from energies of chains at all of them.

    With neighbouring betas h apart, mean energies Ē and variances V, the corrected trapezoid

        −∫ ⟨E⟩ dβ ≈ −h (Ē₀ + Ē₁) / 2 + h² (V₀ − V₁) / 12

    has an error of h⁵/720 times the fourth derivative. The left and the right Riemann sums, −Σ h Ē₀ and −Σ h Ē₁, are
    `bounds`. The interval comes from the one series that the estimate is the mean of. It therefore accounts for
    autocorrelation, and for correlation between betas where chains change places.

    Args:
      betas: Rising, `(n_betas,)`, of p ∝ exp(−β E).
      energies: E of draws after warm-up, `(n_samples, n_chains, n_betas)`.
      log_z0: log Z at the first β. At β = 0 it is the logarithm of the number of configurations: n log 2 for n spins.

    Returns:
      The estimate.

    Raises:
      ValueError: If betas do not rise, shapes differ, numbers are not finite, or there are under 4 samples.

    Example:
      >>> betas, energies = np.linspace(0, 1, 3), np.zeros((4, 2, 3))
      >>> ej.partition.thermodynamic_integration(betas, energies, log_z0=1.5).log_z
      1.5
    """
    betas, x = _checked(betas, energies, log_z0)
    steps, mean = np.diff(betas), x.mean(axis=(0, 1))
    squares = (x - mean) ** 2
    variance = squares.mean(axis=(0, 1))
    left, right = np.append(steps, 0.0), np.append(0.0, steps)
    series = -(x - mean) @ (left + right) / 2 + squares @ (left**2 - right**2) / 12
    estimate = log_z0 - mean @ (left + right) / 2 + variance @ (left**2 - right**2) / 12
    columns = np.concatenate([series[..., None], np.diff(x - mean, axis=-1)], axis=-1)
    errors, sizes = (np.asarray(a, np.float64) for a in _errors(jnp.asarray(columns, jnp.float32)))
    low, high = log_z0 - steps @ mean[:-1], log_z0 - steps @ mean[1:]

    warnings = []
    if not sizes[0] >= _MIN_ESS:
        warnings.append(f"the energies are worth {sizes[0]:.0f} independent draws: take longer chains")
    rises = np.flatnonzero(np.diff(mean) > _RISE * errors[1:])
    if rises.size:
        at = int(rises[0])
        warnings.append(
            f"the mean energy rises from {mean[at]:.4g} at beta = {betas[at]:.4g} to {mean[at + 1]:.4g} at "
            f"{betas[at + 1]:.4g}, which no equilibrium does: warm up longer"
        )
    curvature = float(np.sum(steps**2 * np.abs(np.diff(variance))) / 12)
    if curvature > _MAX_CURVATURE:
        warnings.append(f"corrections for curvature amount to {curvature:.1f} nats: take more betas")
    half = 1.96 * errors[0]
    return TIResult(
        float(estimate),
        (float(estimate - half), float(estimate + half)),
        (float(low), float(high)),
        tuple(warnings),
    )


@jax.jit
def _errors(columns: Float[Array, "n m k"]) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    """Returns standard errors of the means over draws and chains, and effective numbers of draws."""
    sizes = jax.vmap(estimators.ess_mean, 2)(columns)
    return jax.vmap(estimators.standard_deviation, 2)(columns) / jnp.sqrt(sizes), sizes


def _checked(betas: Any, energies: Any, log_z0: float) -> tuple[np.ndarray, np.ndarray]:
    check_precision("energies", energies)
    ladder, x = np.asarray(betas, np.float64), np.asarray(energies, np.float64)
    if ladder.ndim != 1 or ladder.size < 2 or not (np.diff(ladder) > 0).all():
        raise ValueError(f"betas is {betas!r}; give at least two values that rise, e.g. schedules.linear(20)")
    if x.ndim != 3 or x.shape[2] != ladder.size or x.shape[1] == 0:
        raise ValueError(
            f"energies has shape {x.shape}; give (n_samples, n_chains, {ladder.size}), betas last"
        )
    if x.shape[0] < 4:
        raise ValueError(f"energies has {x.shape[0]} samples a chain, shape {x.shape}; give at least 4")
    for name, values in (("betas", ladder), ("energies", x), ("log_z0", np.asarray(log_z0))):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds {values[~np.isfinite(values)].ravel()[0]}; give finite numbers")
    return ladder, x
