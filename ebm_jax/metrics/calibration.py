"""How far a classifier's probabilities can be trusted, and how well a score tells two samples apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from ebm_jax.metrics.distances import checked_probabilities


def expected_calibration_error(probabilities: Any, labels: Any, n_bins: int = 15) -> float:
    """Returns Σ_b (n_b / n) |accuracy_b − confidence_b| over bins of equal width of the confidence (Guo et al. 2017).

    Args:
      probabilities: `(n, n_classes)`, rows adding up to 1.
      labels: `(n,)` integers, the true classes.
      n_bins: Number of bins of (0, 1].

    Returns:
      The error, 0 to 1.

    Raises:
      ValueError: If rows are not probabilities or labels do not fit.

    Example:
      >>> round(ej.metrics.expected_calibration_error([[0.8, 0.2], [0.8, 0.2]], [0, 1]), 6)
      0.3
    """
    p, labels = checked_probabilities(probabilities), np.asarray(labels)
    if labels.shape != (len(p),) or not ((labels >= 0) & (labels < p.shape[1])).all():
        raise ValueError(f"labels has shape {labels.shape}; give {len(p)} classes from 0 to {p.shape[1] - 1}")
    if n_bins < 1:
        raise ValueError(f"n_bins is {n_bins}; give at least 1")
    confidence, correct = p.max(axis=1), p.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    gaps = np.bincount(bins, weights=correct - confidence, minlength=n_bins)
    return float(abs(gaps).sum() / len(p))


def auroc(low: Any, high: Any) -> float:
    """Returns P(h > l) + ½ P(h = l) for scores l of one sample and h of another: the area under the ROC curve.

    To ask whether an energy finds strange inputs, give energies of test data as `low` and of strange inputs as `high`.

    Args:
      low: Scores `(n,)`, expected to be lower.
      high: Scores `(m,)`.

    Returns:
      The area: 1 if every score of `high` is above all of `low`, ½ if the two cannot be told apart.

    Raises:
      ValueError: If a sample is empty or holds NaN.

    Example:
      >>> ej.metrics.auroc([0.0, 1.0], [1.0, 2.0])
      0.875
    """
    low, high = np.asarray(low, np.float64).reshape(-1), np.asarray(high, np.float64).reshape(-1)
    for name, x in (("low", low), ("high", high)):
        if len(x) == 0 or np.isnan(x).any():
            raise ValueError(
                f"{name} holds {len(x)} scores, {int(np.isnan(x).sum())} of them NaN; give numbers"
            )
    ordered = np.sort(low)
    below, up_to = (np.searchsorted(ordered, high, side) for side in ("left", "right"))
    return float((below + up_to).mean() / (2 * len(low)))
