"""Images as uint8 on the device, which become floats in [-1, 1] at every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import data as datasets
from ebm_jax.data.specs import SPECS
from ebm_jax.experiment.recipes.digest import digest
from ebm_jax.experiment.recipes.images.config import ImageDataConfig
from ebm_jax.types import Key

# Streams of the seed; 0 is not used.
RUN, EVALUATION, DRAWS = range(1, 4)


class Images(NamedTuple):
    """Images of the classes that a configuration keeps, uint8 `(n, height, width)`.

    Attributes:
      train: Images to train on.
      validation: Images by which settings are chosen.
      test: Images for final figures.
      labels: Their classes in the same order, int32 `(n,)`, numbered as `kept_classes` lists them.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    labels: tuple[np.ndarray, np.ndarray, np.ndarray]

    @property
    def digest(self) -> str:
        """Digest of images and labels."""
        return digest(self.train, self.validation, self.test, *self.labels)


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
    rows = (slice(config.n_train), slice(None), slice(None))
    images, labels = [], []
    for split, few in zip((found.train, found.validation, found.test), rows, strict=True):
        classes = np.asarray(split.labels)
        kept = np.isin(classes, wanted)
        images.append(np.asarray(split.images)[kept][few])
        labels.append(np.searchsorted(wanted, classes[kept][few]).astype(np.int32))
    train, validation, test = images
    return Images(train, validation, test, tuple(labels))


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
