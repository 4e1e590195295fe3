"""How good samples of images are, with what the figures depend on.

No single figure judges samples. A classifier is confident of much that is no digit (uniform noise: 0.88), the Fréchet
distance compares two moments of its features, and neither notices a missing class by itself. `judge` gives them
together, and says of how many samples, after how many steps of which chains, by which classifier. Judge the chains'
untouched start beside their ends, and as many real images: the scale of the distances is that of the classifier's
features, and they grow as samples become fewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ebm_jax.metrics.distances import frechet_distance, inception_score, kid


class SampleFigures(NamedTuple):
    """Result of `judge`.

    Attributes:
      frechet: Fréchet distance to the real images in the classifier's features.
      kid: Kernel distance in the same features.
      inception_score: Of the classifier's probabilities.
      mean_confidence: Mean of the largest probability.
      share_above_0_9: Share of samples whose largest probability exceeds 0.9.
      share_of_classes: Share of samples that the classifier reads as one of `classes`.
      rarest_class: Share of samples read as the rarest of `classes`.
      n_samples: Number of samples.
      n_real: Number of real images.
      origin: Where the chains came from, such as "noise" or "buffer".
      n_steps: Steps of the chains from there.
      beta: Inverse temperature of the chains.
      classifier_sha256: Which classifier it was.
    """

    frechet: float
    kid: float
    inception_score: float
    mean_confidence: float
    share_above_0_9: float
    share_of_classes: float
    rarest_class: float
    n_samples: int
    n_real: int
    origin: str
    n_steps: int
    beta: float
    classifier_sha256: str

    def as_dict(self, prefix: str = "") -> dict[str, Any]:
        """Returns the numbers by name, each with `prefix` before it."""
        texts = ("origin", "classifier_sha256")
        return {f"{prefix}{name}": value for name, value in self._asdict().items() if name not in texts}


def judge(
    classifier: Any,
    samples: Any,
    real: Any,
    *,
    origin: str,
    n_steps: int,
    beta: float = 1.0,
    classes: Sequence[int] | None = None,
) -> SampleFigures:
    """Compares samples of images with real ones.

    Args:
      classifier: What `classifier.load` returns, or an object with its methods.
      samples: Images in [−1, 1], `(n, height, width)`, at least 2.
      real: Real images that training has not seen, `(m, height, width)`, at least 2; or their features `(m, d)`, which
        a caller with many sets of samples computes once, by `classifier.features(images)`.
      origin: Where the chains came from, such as "noise" or "buffer".
      n_steps: Steps of the chains from there.
      beta: Inverse temperature of the chains.
      classes: Classes of the real images. None: all.

    Returns:
      The figures.

    Raises:
      ValueError: If images do not fit the classifier, or a class is none of its classes.
    """
    of_samples, probabilities = classifier.read(samples)
    features = of_samples, real if np.ndim(real) == 2 else classifier.features(real)
    n_classes = probabilities.shape[1]
    wanted = np.arange(n_classes) if classes is None else np.asarray(classes, int)
    if not (len(wanted) and np.isin(wanted, np.arange(n_classes)).all()):
        raise ValueError(f"classes is {classes}; give labels from 0 to {n_classes - 1}, or None for all")
    shares = np.bincount(probabilities.argmax(axis=1), minlength=n_classes) / len(probabilities)
    confidence = probabilities.max(axis=1)
    return SampleFigures(
        frechet=frechet_distance(*features),
        kid=kid(*features),
        inception_score=inception_score(probabilities),
        mean_confidence=float(confidence.mean()),
        share_above_0_9=float((confidence > 0.9).mean()),
        share_of_classes=float(shares[wanted].sum()),
        rarest_class=float(shares[wanted].min()),
        n_samples=len(probabilities),
        n_real=len(features[1]),
        origin=origin,
        n_steps=n_steps,
        beta=beta,
        classifier_sha256=classifier.sha256,
    )


def implied_temperature(step_size: float, noise_scale: float) -> float:
    """Returns T = σ² / (2α), the temperature at which small Langevin steps x − α∇E + σz sample exp(−E / T).

    Short-run training uses far less noise than T = 1 needs: with α = 10 and σ = 0.005, T is 1.25e-6, and chains go
    downhill.

    Args:
      step_size: α > 0.
      noise_scale: σ ≥ 0.

    Returns:
      The temperature.

    Raises:
      ValueError: If a number is out of range.

    Example:
      >>> ej.metrics.implied_temperature(step_size=0.5, noise_scale=1.0)
      1.0
    """
    if not step_size > 0 or not noise_scale >= 0:
        raise ValueError(f"step_size is {step_size} and noise_scale {noise_scale}; give α > 0 and σ ≥ 0")
    return noise_scale**2 / (2 * step_size)
