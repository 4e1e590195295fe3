"""Distances between two samples of features: Fréchet, kernel distances, and shares of the data that samples cover.

All take features, float arrays `(n, d)`, whatever made them, and compute in float64 with NumPy. A feature that
recognises nothing in common of two samples finds no difference between them, so name the features beside a figure.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

# Rows of a matrix of distances or kernels that are computed together: 10,000 rows squared take 0.8 GB.
_ROWS = 1024


class Coverage(NamedTuple):
    """Result of `precision_recall`.

    Attributes:
      precision: Share of samples within the k-nearest-neighbour ball of a real row.
      recall: Share of real rows within the ball of a sample.
      density: Mean number of real balls around a sample, divided by k. It may exceed 1.
      coverage: Share of real rows whose ball holds a sample.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def frechet_distance(a: Any, b: Any) -> float:
    """Returns the squared Fréchet distance between Gaussians of the moments of two samples.

        |m_a − m_b|² + tr(C_a + C_b − 2 (C_a C_b)^½)

    With features of an Inception network this is the FID (Heusel et al. 2017). It is biased upwards, the more so the
    fewer rows there are: two halves of one sample have a distance above 0.

    Args:
      a: Features `(n, d)`, at least 2 rows.
      b: Features `(m, d)`, at least 2 rows.

    Returns:
      The distance, at least 0.

    Raises:
      ValueError: If shapes do not fit or values are not finite.

    Example:
      >>> round(ej.metrics.frechet_distance(np.eye(4), np.eye(4) + 1.0), 6)
      4.0
    """
    a, b = _features(a, b, least=2)
    difference = a.mean(axis=0) - b.mean(axis=0)
    of_a, of_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    # The eigenvalues of C_a C_b are those of the symmetric matrix S C_b S with S the root of C_a.
    values, vectors = np.linalg.eigh(of_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ of_b @ root).clip(0)).sum()
    return max(float(difference @ difference + np.trace(of_a) + np.trace(of_b) - 2 * cross), 0.0)


def kid(a: Any, b: Any) -> float:
    """Returns the kernel distance of Bińkowski et al. 2018: the squared MMD with k(x, y) = (x·y / d + 1)³.

    The estimate is unbiased, so it is about 0, and may be negative, for samples of the same distribution.

    Args:
      a: Features `(n, d)`, at least 2 rows.
      b: Features `(m, d)`, at least 2 rows.

    Returns:
      The estimate.

    Raises:
      ValueError: If shapes do not fit or values are not finite.
    """
    a, b = _features(a, b, least=2)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    return _unbiased_mmd(kernel, a, b)


def mmd(a: Any, b: Any, bandwidth: float) -> float:
    """Returns the squared maximum mean discrepancy with k(x, y) = exp(−|x − y|² / (2 h²)) (Gretton et al. 2012).

    The estimate is unbiased, so it is about 0, and may be negative, for samples of the same distribution.

    Args:
      a: Features `(n, d)`, at least 2 rows.
      b: Features `(m, d)`, at least 2 rows.
      bandwidth: h > 0, in the units of the features.

    Returns:
      The estimate.

    Raises:
      ValueError: If shapes do not fit, values are not finite, or the bandwidth is not greater than 0.
    """
    if not bandwidth > 0:
        raise ValueError(f"bandwidth is {bandwidth}; give a number greater than 0")
    a, b = _features(a, b, least=2)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.exp(-_square_distances(x, y) / (2 * bandwidth**2))

    return _unbiased_mmd(kernel, a, b)


def inception_score(probabilities: Any) -> float:
    """Returns exp(mean KL(p(y | x) || p(y))) of a classifier on samples (Salimans et al. 2016).

    It is 1 if all samples look alike to the classifier, and the number of classes if it is certain of each and all
    classes are equally frequent. With a classifier of one's own it is no "Inception score" that others report.

    Args:
      probabilities: `(n, n_classes)`, rows adding up to 1.

    Returns:
      The score.

    Raises:
      ValueError: If rows are not probabilities.

    Example:
      >>> round(ej.metrics.inception_score(np.eye(3)), 6)
      3.0
    """
    p = checked_probabilities(probabilities)
    marginal = p.mean(axis=0)
    ratio = np.where(p > 0, p / np.where(marginal > 0, marginal, 1), 1)
    return float(np.exp((p * np.log(ratio)).sum(axis=1).mean()))


def precision_recall(real: Any, samples: Any, k: int = 5) -> Coverage:
    """Returns precision, recall, density and coverage by k nearest neighbours.

    A ball around each row reaches to its k-th nearest other row of the same sample (Kynkäänniemi et al. 2019; density
    and coverage: Naeem et al. 2020).

    Args:
      real: Features `(n, d)`, more than k rows.
      samples: Features `(m, d)`, more than k rows.
      k: Neighbours, at least 1.

    Returns:
      The four shares.

    Raises:
      ValueError: If shapes do not fit, values are not finite, or k is too large.
    """
    if k < 1:
        raise ValueError(f"k is {k}; give at least 1")
    real, samples = _features(real, samples, least=k + 1)
    real_radii, sample_radii = _radii(real, k), _radii(samples, k)
    within_real = np.zeros(len(samples), int)
    covered = np.zeros(len(real), bool)
    recalled = np.zeros(len(real), bool)
    for start in range(0, len(real), _ROWS):
        rows = slice(start, start + _ROWS)
        distances = _square_distances(real[rows], samples)
        inside = distances <= real_radii[rows, None]
        within_real += inside.sum(axis=0)
        covered[rows] = inside.any(axis=1)
        recalled[rows] = (distances <= sample_radii[None]).any(axis=1)
    return Coverage(
        precision=float((within_real > 0).mean()),
        recall=float(recalled.mean()),
        density=float(within_real.mean() / k),
        coverage=float(covered.mean()),
    )


def checked_probabilities(probabilities: Any) -> np.ndarray:
    """Returns probabilities in float64; raises ValueError where rows are not probabilities."""
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or len(p) == 0:
        raise ValueError(f"probabilities has shape {p.shape}; give (n, n_classes) with at least one row")
    bad = np.flatnonzero(~((p >= 0).all(axis=1) & (abs(p.sum(axis=1) - 1) < 1e-3)))
    if len(bad):
        raise ValueError(
            f"row {bad[0]} of probabilities is {p[bad[0]]}; rows must be at least 0 and add up to 1 (apply softmax)"
        )
    return p


def _features(a: Any, b: Any, least: int) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features have shapes {a.shape} and {b.shape}; give (n, d) and (m, d)")
    if min(len(a), len(b)) < least:
        raise ValueError(f"there are {len(a)} and {len(b)} rows of features; give at least {least} of each")
    for name, x in (("first", a), ("second", b)):
        if not np.isfinite(x).all():
            raise ValueError(f"the {name} features hold {x[~np.isfinite(x)][0]}; they must be finite")
    return a, b


def _unbiased_mmd(kernel: Any, a: np.ndarray, b: np.ndarray) -> float:
    def total(x: np.ndarray, y: np.ndarray) -> float:
        return sum(float(kernel(x[i : i + _ROWS], y).sum()) for i in range(0, len(x), _ROWS))

    def mean_of_others(x: np.ndarray) -> float:
        itself = sum(float(kernel(row[None], row[None])[0, 0]) for row in x)
        return (total(x, x) - itself) / (len(x) * (len(x) - 1))

    return mean_of_others(a) + mean_of_others(b) - 2 * total(a, b) / (len(a) * len(b))


def _square_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None] - 2 * x @ y.T
    return squares.clip(0)


def _radii(x: np.ndarray, k: int) -> np.ndarray:
    """Returns the squared distance of each row to its k-th nearest other row."""
    found = np.empty(len(x))
    for start in range(0, len(x), _ROWS):
        distances = _square_distances(x[start : start + _ROWS], x)
        rows = np.arange(len(distances))
        distances[rows, start + rows] = np.inf
        found[start : start + _ROWS] = np.partition(distances, k - 1, axis=1)[:, k - 1]
    return found
