"""Images as uint8 on the device, which become floats in [-1, 1] at every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import data as datasets
from ebm_jax.data.specs import SPECS
from ebm_jax.experiment.recipes.images.config import ImageDataConfig
from ebm_jax.types import Key

# Streams of the seed; 0 is not used.
RUN, EVALUATION, DRAWS = range(1, 4)


class Images(NamedTuple):
    """Images of the classes that a configuration keeps, uint8 `(n, height, width)`, and their labels, int32 `(n,)`.

    Attributes:
      train: Images to train on.
      validation: Images by which settings are chosen.
      test: Images for final figures.
      train_labels: Labels of `train`.
      validation_labels: Labels of `validation`.
      test_labels: Labels of `test`.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray
    validation_labels: np.ndarray
    test_labels: np.ndarray


def image_shape(config: ImageDataConfig) -> tuple[int, int]:
    """Returns height and width of an image, without its data."""
    height, width = SPECS[config.name].image_shape[:2]
    return height, width


def kept_classes(config: ImageDataConfig) -> tuple[int, ...]:
    """Returns the classes that are kept, in increasing order."""
    if config.classes is None:
        return tuple(range(len(SPECS[config.name].class_names or ())))
    return (config.classes,) if isinstance(config.classes, int) else tuple(sorted(config.classes))


def load_images(config: ImageDataConfig) -> Images:
    """Loads the images of the classes that are kept.

    Args:
      config: The section of the configuration.

    Returns:
      The images.
    """
    found = datasets.load(config.name)
    wanted = kept_classes(config)
    limits = (config.n_train, None, None)
    images, labels = [], []
    for split, limit in zip((found.train, found.validation, found.test), limits, strict=True):
        rows = np.flatnonzero(np.isin(split.labels, wanted))[:limit]
        images.append(np.asarray(split.images)[rows])
        labels.append(np.asarray(split.labels)[rows])
    return Images(*images, *labels)


def as_floats(pixels: Any) -> Any:
    """Returns grey values 0 … 255 as floats in [-1, 1]."""
    return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)


def as_pixels(x: Any) -> np.ndarray:
    """Returns floats in [-1, 1] as grey values 0 … 255, uint8."""
    return np.rint((np.asarray(x) + 1) * 127.5).clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class NoisyPixels:
    """A function for `Plan.prepare`: grey values become floats with normal noise, clamped to [-1, 1].

    Attributes:
      scale: Standard deviation of the noise.
    """

    scale: float

    def __call__(self, key: Key, pixels: jax.Array) -> jax.Array:
        """Returns a batch of floats from a batch of uint8."""
        x = as_floats(pixels)
        return jnp.clip(x + self.scale * jax.random.normal(key, x.shape), -1, 1)
