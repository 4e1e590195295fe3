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
# Halving the steps divides the error of the rule by 16 where the ladder resolves the curve; by this, at least.
_LEAST_GAIN = 4.0
# Share of the estimate's variance from which a β counts among those that need draws.
_LARGE_SHARE = 0.1


class TIResult(NamedTuple):
    """An estimate of log Z by thermodynamic integration.

    Attributes:
      log_z: The estimate at the last β.
      interval: `(low, high)`, 95 % by the chains' Monte Carlo error, and wider by what skipping every other β changes,
        which bounds the error of the quadrature.
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
    `bounds`. The interval takes the larger of two standard errors. That of the one series that the estimate is the mean
    of accounts for correlation between betas, where chains change places. That of independent betas, each with its own
    autocorrelation, accounts for slow chains at a few betas, which the fast ones hide in the sum. A quarter of what the
    estimate changes without every other β is added for the quadrature.

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
    terms = -(x - mean) * (left + right) / 2 + squares * (left**2 - right**2) / 12
    estimate = log_z0 - mean @ (left + right) / 2 + variance @ (left**2 - right**2) / 12
    columns = np.concatenate([terms.sum(axis=-1)[..., None], terms, np.diff(x - mean, axis=-1)], axis=-1)
    errors, sizes = (np.asarray(a, np.float64) for a in _errors(jnp.asarray(columns, jnp.float32)))
    of_betas, of_differences = errors[1 : 1 + betas.size], errors[1 + betas.size :]
    independent = np.sqrt(np.nansum(of_betas**2))
    error = max(errors[0], independent)
    low, high = log_z0 - steps @ mean[:-1], log_z0 - steps @ mean[1:]

    warnings = []
    counted = of_betas**2 > _LARGE_SHARE * independent**2
    size = min([sizes[0], *sizes[1 : 1 + betas.size][counted]])
    if not size >= _MIN_ESS:
        warnings.append(f"the energies are worth {size:.0f} independent draws: take longer chains")
    rises = np.flatnonzero(np.diff(mean) > _RISE * of_differences)
    if rises.size:
        at = int(rises[0])
        warnings.append(
            f"the mean energy rises from {mean[at]:.4g} at beta = {betas[at]:.4g} to {mean[at + 1]:.4g} at "
            f"{betas[at + 1]:.4g}, which no equilibrium does: warm up longer"
        )
    curvature = float(np.sum(steps**2 * np.abs(np.diff(variance))) / 12)
    if curvature > _MAX_CURVATURE:
        warnings.append(f"corrections for curvature amount to {curvature:.1f} nats: take more betas")
    half = 1.96 * error + _quadrature_error(steps, mean, variance)
    return TIResult(
        float(estimate),
        (float(estimate - half), float(estimate + half)),
        (float(low), float(high)),
        tuple(warnings),
    )


def _quadrature_error(steps: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> float:
    """Returns a bound for the error of the corrected trapezoid, from what it gives with every other β left out."""

    def pieces(h: np.ndarray, every: int) -> np.ndarray:
        return -h * (mean[:-every] + mean[every:]) / 2 + h**2 * (variance[:-every] - variance[every:]) / 12

    if steps.size < 2:
        return float(np.abs(steps**2 * np.diff(variance)).sum() / 12)
    fine, coarse = pieces(steps, 1), pieces(steps[:-1] + steps[1:], 2)
    difference = coarse - (fine[:-1] + fine[1:])
    return float(max(abs(difference[::2].sum()), abs(difference[1::2].sum())) / _LEAST_GAIN)


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
