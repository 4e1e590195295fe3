"""What estimates of log Z and of log-likelihoods hold."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class AISResult(NamedTuple):
    """An estimate of log Z and what it is made of.

    Attributes:
      log_z: The estimate.
      interval: 95 % bootstrap interval over chains, `(low, high)`. It does not account for weights that no chain saw.
      log_weights: log Z₀ + log w of every chain (of a reverse run, log Z₀ − log(1/w)), `(n_chains,)` float64. A weight
        of zero, of a chain outside the support, is −∞ (of a reverse run, 1/w = 0 is +∞).
      spread: Standard deviation of `log_weights` where weights are not zero.
      ess: Effective number of weights, (Σw)² / Σw².
      warnings: Reasons not to trust the estimate, empty if there are none.
    """

    log_z: float
    interval: tuple[float, float]
    log_weights: np.ndarray
    spread: float
    ess: float
    warnings: tuple[str, ...]


class LogLikelihoodBounds(NamedTuple):
    """Mean log-likelihood a datum, from both sides.

    Attributes:
      lower: With the reverse estimate of log Z, conservative.
      upper: With the forward estimate of log Z, optimistic.
      forward: The forward estimate.
      reverse: The reverse estimate.
      warnings: Those of both estimates, and a gap over one nat.
    """

    lower: float
    upper: float
    forward: AISResult
    reverse: AISResult
    warnings: tuple[str, ...]
