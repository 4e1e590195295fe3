"""Distances between two sets of samples, and scores of one, on features or probabilities of a classifier.

All are computed in float64 with NumPy. Features are rows `(n, d)`: of any function of a sample, such as
`Classifier.features`. Values are comparable only between the same features, and between the same numbers of rows: the
Fréchet distance falls with both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial.distance import cdist

from ebm_jax import checks

# Rows whose kernels or distances to all others are held at once.
_ROWS = 1000


class PrecisionRecall(NamedTuple):
    """How two sets of features overlap.

    Attributes:
      precision: Share of samples that lie in the ball of some real row.
      recall: Share of real rows that lie in the ball of some sample.
      density: Mean number of balls of real rows that a sample lies in, over k. It can exceed 1.
      coverage: Share of real rows whose ball holds a sample.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def frechet_distance(a: Any, b: Any) -> float:
    """Returns the Fréchet distance between two sets of features, each taken as a Gaussian (Heusel et al. 2017).

    It is |μ_a − μ_b|² + tr(C_a + C_b − 2 (C_a C_b)^½), with the unbiased covariances C. With C_a = AᵀA and C_b = BᵀB,
    the trace of the root is the sum of the singular values of B Aᵀ, which needs no root of a matrix and also holds
    for singular covariances.

    Args:
      a: Features `(n, d)`, at least two rows.
      b: Features `(m, d)`, at least two rows.

    Returns:
      The distance. Its bias is positive and falls with n and m.

    Raises:
      ValueError: If the features do not fit.

    Example:
      >>> a = np.asarray([[0.0], [2.0]])
      >>> ej.metrics.frechet_distance(a, a + 3)
      9.0
    """
    a, b = _features(a, b)
    means = a.mean(axis=0), b.mean(axis=0)
    roots = [
        np.linalg.qr((x - mean) / np.sqrt(len(x) - 1), mode="r")
        for x, mean in zip((a, b), means, strict=True)
    ]
    traces = sum(np.sum(root**2) for root in roots)
    overlap = np.linalg.svd(roots[1] @ roots[0].T, compute_uv=False).sum()
    return float(np.sum((means[0] - means[1]) ** 2) + traces - 2 * overlap)


def kid(a: Any, b: Any) -> float:
    """Returns the kernel distance of Bińkowski et al. 2018: the squared MMD with the kernel (x·y/d + 1)³.

    Args:
      a: Features `(n, d)`, at least two rows.
      b: Features `(m, d)`, at least two rows.

    Returns:
      The unbiased estimate over all pairs of rows. It is negative about half of the time if both sets have the same
      distribution.

    Raises:
      ValueError: If the features do not fit.

    Example:
      >>> a = np.asarray([[0.0], [2.0]])
      >>> ej.metrics.kid(a, a)
      -62.0
    """
    a, b = _features(a, b)

    def cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    return _squared_mmd(cubic, a, b)


def mmd(a: Any, b: Any, bandwidth: float) -> float:
    """Returns the squared maximum mean discrepancy with the kernel exp(−|x − y|² / (2h²)) (Gretton et al. 2012).

    Args:
      a: Features `(n, d)`, at least two rows.
      b: Features `(m, d)`, at least two rows.
      bandwidth: h, in units of the features, e.g. the median distance between rows.

    Returns:
      The unbiased estimate over all pairs of rows. It is negative about half of the time if both sets have the same
      distribution.

    Raises:
      ValueError: If the features do not fit, or the bandwidth is not positive.

    Example:
      >>> a = np.asarray([[0.0], [0.0]])
      >>> round(ej.metrics.mmd(a, a + 100, bandwidth=1.0), 6)
      2.0
    """
    a, b = _features(a, b)
    if not (np.isfinite(bandwidth) and bandwidth > 0):
        raise ValueError(
            f"bandwidth is {bandwidth}; give a positive number, e.g. the median distance of rows"
        )

    def gaussian(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.exp(-cdist(x, y, "sqeuclidean") / (2 * bandwidth**2))

    return _squared_mmd(gaussian, a, b)


def inception_score(probabilities: Any) -> float:
    """Returns exp(mean over samples of KL(p(y | x) ‖ p(y))), where p(y) is the mean of p(y | x) (Salimans et al. 2016).

    It is 1 if all samples are read alike and the number of classes if they are read with certainty and all classes are
    equally frequent. It does not look at real images.

    Args:
      probabilities: p(y | x) of each sample, `(n, n_classes)`.

    Returns:
      The score.

    Raises:
      ValueError: If the rows are not probabilities.

    Example:
      >>> round(ej.metrics.inception_score(np.eye(10)), 6)
      10.0
    """
    p = check_probabilities(probabilities)
    marginal = np.broadcast_to(p.mean(axis=0), p.shape)
    seen = p > 0
    return float(np.exp(np.sum(p[seen] * np.log(p[seen] / marginal[seen])) / len(p)))


def precision_recall(real: Any, samples: Any, k: int = 5) -> PrecisionRecall:
    """Returns precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    The ball of a row reaches to its k-th nearest neighbour in its own set.

    Args:
      real: Features of real images, `(n, d)`, more than k rows.
      samples: Features of samples, `(m, d)`, more than k rows.
      k: Number of the neighbour.

    Returns:
      A `PrecisionRecall`.

    Raises:
      ValueError: If the features do not fit, or there are too few rows.

    Example:
      >>> real = np.arange(4.0)[:, None]
      >>> ej.metrics.precision_recall(real, real + 100, k=1)
      PrecisionRecall(precision=0.0, recall=0.0, density=0.0, coverage=0.0)
    """
    real, samples = _features(real, samples)
    checks.check_integer("k", k, 1)
    if k >= min(len(real), len(samples)):
        raise ValueError(
            f"k is {k}, with {len(real)} real rows and {len(samples)} samples; give a smaller k or more rows"
        )
    real_radii, sample_radii = _radii(real, k), _radii(samples, k)
    in_real = np.zeros(len(samples), np.int64)
    in_sample: list[Bool[np.ndarray, " rows"]] = []
    covered: list[Bool[np.ndarray, " rows"]] = []
    for rows, distances in _distances(real, samples):
        inside = distances <= real_radii[rows, None]
        in_real += inside.sum(axis=0)
        covered.append(inside.any(axis=1))
        in_sample.append((distances <= sample_radii).any(axis=1))
    return PrecisionRecall(
        float(np.mean(in_real > 0)),
        float(np.mean(np.concatenate(in_sample))),
        float(np.mean(in_real) / k),
        float(np.mean(np.concatenate(covered))),
    )


def check_probabilities(probabilities: Any) -> Float[np.ndarray, "n n_classes"]:
    """Checks that rows are probabilities of classes.

    Args:
      probabilities: p(y | x) of each row, `(n, n_classes)`.

    Returns:
      The probabilities in float64.

    Raises:
      ValueError: If they are not `(n, n_classes)`, are negative or not finite, or do not sum to 1 within 1e-3.
    """
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or 0 in p.shape:
        raise ValueError(f"probabilities have shape {p.shape}; give (n, n_classes), at least one row")
    wrong = np.flatnonzero(~((np.abs(p.sum(axis=1) - 1) <= 1e-3) & (p >= 0).all(axis=1)))
    if len(wrong):
        i = wrong[0]
        raise ValueError(f"row {i} of the probabilities is {p[i]}; give the softmax of logits")
    return p


def _features(a: Any, b: Any) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "m d"]]:
    arrays = np.asarray(a, np.float64), np.asarray(b, np.float64)
    for array in arrays:
        if array.ndim != 2 or len(array) < 2 or not array.shape[1]:
            raise ValueError(f"features have shape {array.shape}; give (n, d) with at least two rows")
        if not np.isfinite(array).all():
            n_bad = np.sum(~np.isfinite(array).all(axis=1))
            raise ValueError(f"{n_bad} of {len(array)} rows of features are NaN or infinite; leave them out")
    if arrays[0].shape[1] != arrays[1].shape[1]:
        raise ValueError(
            f"features have shapes {arrays[0].shape} and {arrays[1].shape}; give equal numbers of columns"
        )
    return arrays


def _squared_mmd(
    kernel: Callable[[np.ndarray, np.ndarray], np.ndarray], a: np.ndarray, b: np.ndarray
) -> float:
    """Returns the mean kernel within `a` and within `b`, without the pairs of a row with itself, − 2 that across."""

    def total(x: np.ndarray, y: np.ndarray) -> float:
        return sum(float(kernel(x[i : i + _ROWS], y).sum()) for i in range(0, len(x), _ROWS))

    def within(x: np.ndarray) -> float:
        itself = sum(float(kernel(row[None], row[None])[0, 0]) for row in x)
        return (total(x, x) - itself) / (len(x) * (len(x) - 1))

    return within(a) + within(b) - 2 * total(a, b) / (len(a) * len(b))


def _distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, Float[np.ndarray, "rows m"]]]:
    """Yields the distances of some rows of `a` to all rows of `b`, with the rows that they are of."""
    for start in range(0, len(a), _ROWS):
        rows = slice(start, start + _ROWS)
        yield rows, cdist(a[rows], b)


def _radii(x: np.ndarray, k: int) -> Float[np.ndarray, " n"]:
    """Returns the distance of each row to its k-th nearest neighbour; the nearest of all is the row itself."""
    return np.concatenate([np.partition(distances, k, axis=1)[:, k] for _, distances in _distances(x, x)])
