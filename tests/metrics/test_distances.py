"""Distances of features against closed forms, loops and other packages; each fails for a mutant named beside it."""

import numpy as np
import pytest
import scipy.linalg

from ebm_jax import metrics
from ebm_jax.metrics import distances

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(40, 3)), RNG.normal(1.0, 2.0, size=(30, 3)) @ RNG.normal(size=(3, 3))


def test_frechet_distance_is_the_formula_with_a_matrix_root():
    of_a, of_b = np.cov(A.T), np.cov(B.T)
    root = scipy.linalg.sqrtm(of_a @ of_b).real
    expected = ((A.mean(0) - B.mean(0)) ** 2).sum() + np.trace(of_a + of_b - 2 * root)
    np.testing.assert_allclose(metrics.frechet_distance(A, B), expected, rtol=1e-9)
    np.testing.assert_allclose(metrics.frechet_distance(B, A), expected, rtol=1e-9)
    assert metrics.frechet_distance(A, A) < 1e-9
    # Fewer rows than features, so that covariances are singular: standard deviations 1 and 3 in one direction.
    line = np.zeros((3, 5))
    line[:, 0] = [-1, 0, 1]
    np.testing.assert_allclose(metrics.frechet_distance(line, 3 * line), 4.0)


def test_kernel_distances_are_their_double_sums():
    for found, kernel in (
        (metrics.kid(A, B), lambda x, y: (x @ y / 3 + 1) ** 3),
        (metrics.mmd(A, B, 1.5), lambda x, y: np.exp(-((x - y) ** 2).sum() / (2 * 1.5**2))),
    ):
        within = [
            np.mean([kernel(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j])
            for s in (A, B)
        ]
        across = np.mean([kernel(x, y) for x in A for y in B])
        np.testing.assert_allclose(found, sum(within) - 2 * across, rtol=1e-9)


def test_pieces_change_nothing(monkeypatch):
    measures = (metrics.kid, lambda a, b: metrics.mmd(a, b, 1.5), metrics.precision_recall)
    whole = [measure(A, B) for measure in measures]
    monkeypatch.setattr(distances, "_ROWS", 7)
    for measure, expected in zip(measures, whole, strict=True):
        np.testing.assert_allclose(measure(A, B), expected, rtol=1e-12)


def test_kernel_distances_are_unbiased():
    """The mean over 400 pairs of samples of one distribution lies within 4.5 standard errors of 0: rate 1e-5."""
    for distance in (metrics.kid, lambda a, b: metrics.mmd(a, b, 1.0)):
        found = [distance(*RNG.normal(size=(2, 6, 2))) for _ in range(400)]
        assert abs(np.mean(found)) < 4.5 * np.std(found) / 20


def test_precision_recall_is_its_definition():
    found = metrics.precision_recall(A, B, k=3)

    def radius(rows, i):
        return np.sort(np.linalg.norm(rows - rows[i], axis=1))[3]  # the 0th is the row itself

    in_real = np.asarray([[np.linalg.norm(x - A[i]) <= radius(A, i) for i in range(40)] for x in B])
    in_samples = np.asarray([[np.linalg.norm(x - B[i]) <= radius(B, i) for i in range(30)] for x in A])
    np.testing.assert_allclose(found.precision, in_real.any(axis=1).mean())
    np.testing.assert_allclose(found.recall, in_samples.any(axis=1).mean())
    np.testing.assert_allclose(found.density, in_real.sum(axis=1).mean() / 3)
    np.testing.assert_allclose(found.coverage, in_real.any(axis=0).mean())
    far = metrics.precision_recall(A, A + 100.0)
    assert far == (0, 0, 0, 0)
    assert metrics.precision_recall(A, A)[:2] == (1, 1)


def test_inception_score_is_its_formula():
    p = np.asarray([[0.5, 0.5, 0], [0.1, 0.2, 0.7]])
    marginal = p.mean(axis=0)
    kl = [sum(a * np.log(a / m) for a, m in zip(row, marginal) if a > 0) for row in p]
    np.testing.assert_allclose(metrics.inception_score(p), np.exp(np.mean(kl)), rtol=1e-10)
    assert metrics.inception_score(np.full((5, 4), 0.25)) == 1.0


def test_calibration_error_is_its_definition():
    p = RNG.dirichlet(np.ones(4), 200)
    labels = RNG.integers(0, 4, 200)
    confidence, correct = p.max(axis=1), p.argmax(axis=1) == labels
    expected = 0.0
    for low in np.arange(10) / 10:
        rows = (confidence > low) & (confidence <= low + 0.1)
        if rows.any():
            expected += rows.mean() * abs(correct[rows].mean() - confidence[rows].mean())
    np.testing.assert_allclose(metrics.expected_calibration_error(p, labels, 10), expected, rtol=1e-9)


def test_auroc_counts_pairs():
    low, high = RNG.integers(0, 5, 30), RNG.integers(1, 7, 20)
    expected = np.mean([[(h > x) + 0.5 * (h == x) for h in high] for x in low])
    np.testing.assert_allclose(metrics.auroc(low, high), expected)
    sklearn = pytest.importorskip("sklearn.metrics")
    truth = np.repeat([0, 1], [30, 20])
    np.testing.assert_allclose(expected, sklearn.roc_auc_score(truth, np.concatenate([low, high])))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.frechet_distance(A, B[:, :2]), r"shapes \(40, 3\) and \(30, 2\)"),
        (lambda: metrics.frechet_distance(A, B[:1]), "give at least 2 of each"),
        (lambda: metrics.kid(A, np.full((5, 3), np.nan)), "second features hold nan"),
        (lambda: metrics.mmd(A, B, 0.0), "bandwidth is 0.0"),
        (lambda: metrics.precision_recall(A, B[:5], k=5), "give at least 6 of each"),
        (lambda: metrics.inception_score([[0.4, 0.4]]), r"row 0 of probabilities .*apply softmax"),
        (lambda: metrics.expected_calibration_error([[0.5, 0.5]], [2]), "classes from 0 to 1"),
        (lambda: metrics.auroc([], [1.0]), "low holds 0 scores"),
        (lambda: metrics.implied_temperature(0.0, 1.0), "step_size is 0.0"),
    ],
)
def test_errors_name_the_value(call, words):
    with pytest.raises(ValueError, match=words):
        call()
