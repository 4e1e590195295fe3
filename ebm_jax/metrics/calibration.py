"""How well probabilities and scores of a classifier tell: calibration, and detection of other data."""

from __future__ import annotations

from typing import Any

import numpy as np

from ebm_jax import checks
from ebm_jax.metrics.distances import check_probabilities


def expected_calibration_error(probabilities: Any, labels: Any, n_bins: int = 15) -> float:
    """Returns the expected calibration error Σ_m (n_m / n) |accuracy_m − confidence_m| (Guo et al. 2017).

    The confidence of a row is its largest probability. Bin m holds the rows with confidence in (m / M, (m + 1) / M].

    Args:
      probabilities: p(y | x) of each row, `(n, n_classes)`.
      labels: The classes, integers `(n,)`.
      n_bins: M.

    Returns:
      The error, between 0 and 1.

    Raises:
      ValueError: If the rows are not probabilities or the labels do not fit them.

    Example:
      >>> ej.metrics.expected_calibration_error([[0.75, 0.25], [0.75, 0.25]], [0, 1])
      0.25
    """
    p, y = check_probabilities(probabilities), np.asarray(labels)
    checks.check_integer("n_bins", n_bins, 1)
    if y.shape != (len(p),) or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(
            f"labels are {y.dtype}{list(y.shape)}; give integers, one for each of the {len(p)} rows"
        )
    if y.min() < 0 or y.max() >= p.shape[1]:
        raise ValueError(f"labels reach from {y.min()} to {y.max()}; give 0 to {p.shape[1] - 1}")
    confidence = p.max(axis=1)
    right = p.argmax(axis=1) == y
    edges = np.linspace(0, 1, n_bins + 1)[1:-1]
    bins = np.digitize(confidence, edges, right=True)
    # n_m (accuracy_m − confidence_m) is a sum over the rows of the bin.
    return float(np.abs(np.bincount(bins, weights=right - confidence)).sum() / len(p))


def auroc(low: Any, high: Any) -> float:
    """Returns the area under the ROC curve: P(score of `high` > score of `low`) + ½ P(both are equal).

    To detect other data by the energy, `low` are the energies of test data and `high` those of the other data.

    Args:
      low: Scores `(n,)` of what should score low.
      high: Scores `(m,)` of what should score high. Scores may be infinite.

    Returns:
      The area: 1 if the scores separate the two, ½ if they say nothing.

    Raises:
      ValueError: If scores are not one-dimensional, are empty, or hold NaN.

    Example:
      >>> ej.metrics.auroc([0.0, 1.0], [1.0, 2.0])
      0.875
    """
    scores = np.asarray(low, np.float64), np.asarray(high, np.float64)
    for array in scores:
        if array.ndim != 1 or not len(array):
            raise ValueError(f"scores have shape {array.shape}; give one axis with at least one score")
        if np.isnan(array).any():
            raise ValueError(f"{np.isnan(array).sum()} of {len(array)} scores are NaN; leave them out")
    low_scores, high_scores = np.sort(scores[0]), scores[1]
    below, up_to = (np.searchsorted(low_scores, high_scores, side) for side in ("left", "right"))
    return float(np.mean(below + up_to) / (2 * len(low_scores)))
