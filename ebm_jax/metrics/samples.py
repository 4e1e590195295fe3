"""Figures of generated images, with what they were measured on.

No figure stands alone. The mean confidence of a classifier is high even on noise; the Fréchet distance and the share of
confident samples say little about the classes; and all of them depend on how the chains started. So `judge` gives them
together with the origin of the samples. Judge the untouched start of the chains too, and some real images: they
say what a figure is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ebm_jax import checks
from ebm_jax.metrics.distances import frechet_distance, inception_score, kid

if TYPE_CHECKING:
    from ebm_jax.metrics.classifier import Classifier


class SampleFigures(NamedTuple):
    """Figures of samples beside real images, by a classifier.

    Attributes:
      frechet: Fréchet distance between the features of samples and of real images.
      kid: Kernel distance between them.
      inception_score: Inception-type score of the samples.
      mean_confidence: Mean of the largest probability of each sample.
      share_above_0_9: Share of samples whose largest probability exceeds 0.9.
      rarest_class: Share of samples that are read as the rarest of the classes.
      share_of_classes: Share of samples that are read as one of the classes.
      n_samples: Number of samples.
      n_real: Number of real images.
      origin: Where the samples come from: "noise" for chains that started there, "buffer", ...
      n_steps: Steps of each chain.
      beta: Inverse temperature of the chains.
      classifier_sha256: Hash of the classifier.
    """

    frechet: float
    kid: float
    inception_score: float
    mean_confidence: float
    share_above_0_9: float
    rarest_class: float
    share_of_classes: float
    n_samples: int
    n_real: int
    origin: str
    n_steps: int
    beta: float
    classifier_sha256: str

    def as_dict(self, prefix: str = "") -> dict[str, Any]:
        """Returns the figures by their names, each with `prefix` in front."""
        return {prefix + name: value for name, value in self._asdict().items()}


def judge(
    classifier: Classifier,
    samples: Any,
    real: Any,
    *,
    origin: str,
    n_steps: int,
    beta: float = 1.0,
    classes: Sequence[int] | None = None,
) -> SampleFigures:
    """Measures samples beside real images.

    Args:
      classifier: What reads the images, from `metrics.classifier.load`.
      samples: Images `(n, height, width)`, floats in [-1, 1], at least two.
      real: Images of the same kind, which the model was not trained on; or their features `(n, d)`, which are computed
        once by `classifier.features(images)` if many sets of samples are judged.
      origin: Where the samples come from, e.g. "noise", "buffer" or "start".
      n_steps: Steps of each chain.
      beta: Inverse temperature of the chains.
      classes: Labels of the real images; None for all.

    Returns:
      A `SampleFigures`.

    Raises:
      ValueError: If images have another shape or leave [-1, 1], or a class does not exist.
    """
    checks.check_integer("n_steps", n_steps, 0)
    features, probabilities = classifier.read(samples)
    real_features = real if np.ndim(real) == 2 else classifier.features(real)
    n_classes = probabilities.shape[1]
    wanted = list(range(n_classes)) if classes is None else [int(label) for label in classes]
    if not wanted or not set(wanted) <= set(range(n_classes)):
        raise ValueError(f"classes are {wanted}; give some of the labels 0 to {n_classes - 1}, or None")
    confidence = probabilities.max(axis=1)
    shares = np.bincount(probabilities.argmax(axis=1), minlength=n_classes)[wanted] / len(features)
    return SampleFigures(
        frechet=frechet_distance(features, real_features),
        kid=kid(features, real_features),
        inception_score=inception_score(probabilities),
        mean_confidence=float(confidence.mean()),
        share_above_0_9=float(np.mean(confidence > 0.9)),
        rarest_class=float(shares.min()),
        share_of_classes=float(shares.sum()),
        n_samples=len(features),
        n_real=len(real_features),
        origin=origin,
        n_steps=n_steps,
        beta=float(beta),
        classifier_sha256=classifier.sha256,
    )


def implied_temperature(step_size: float, noise_scale: float) -> float:
    """Returns σ² / (2α), the temperature at which Langevin steps x ← x − α ∇E + σ z sample as α → 0.

    Short-run samplers use much less noise than σ² = 2α: α = 10 and σ = 0.005 sample at 1.25e-6.

    Args:
      step_size: α.
      noise_scale: σ.

    Returns:
      The temperature, 1 / β.

    Raises:
      ValueError: If α is not positive or σ is negative.

    Example:
      >>> ej.metrics.implied_temperature(step_size=0.5, noise_scale=1.0)
      1.0
    """
    if not (np.isfinite(step_size) and step_size > 0):
        raise ValueError(f"step_size is {step_size}; give a positive number")
    if not (np.isfinite(noise_scale) and noise_scale >= 0):
        raise ValueError(f"noise_scale is {noise_scale}; give a number of at least 0")
    return float(noise_scale**2 / (2 * step_size))
