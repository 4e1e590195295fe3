"""Figures of samples beside unseen images."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ebm_jax.experiment.recipes.images.config import ImageDataConfig
from ebm_jax.experiment.recipes.images.data import kept_classes
from ebm_jax.metrics import classifier
from ebm_jax.metrics.samples import judge


class Judge:
    """Compares samples with real images by the package's classifier of the data set.

    Args:
      config: The section `data` of the configuration.
      real: Real images in [-1, 1], `(n, height, width)`.
    """

    def __init__(self, config: ImageDataConfig, real: np.ndarray) -> None:
        self.classes = kept_classes(config)
        self.real = real
        self.classifier = load_classifier(config.name)

    def figures(self, samples: np.ndarray, origin: str, n_steps: int, prefix: str = "") -> dict[str, Any]:
        """Returns the figures of samples.

        Args:
          samples: Images in [-1, 1].
          origin: Where their chains start, such as "noise".
          n_steps: Steps of these chains.
          prefix: Beginning of the names.

        Returns:
          The figures by name.
        """
        found = judge(
            self.classifier, samples, self.real, origin=origin, n_steps=n_steps, classes=self.classes
        )
        return found.as_dict(prefix)


@functools.cache
def load_classifier(name: str) -> classifier.Classifier:
    """Returns the classifier of a data set, which is trained if the cache has none. A process reads it once."""
    return classifier.load(name)
