"""Images as rows of bits, and the model that fits them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import data as datasets
from ebm_jax.data.specs import SPECS
from ebm_jax.energies.rbm import RBM
from ebm_jax.experiment.recipes.digest import digest
from ebm_jax.experiment.recipes.rbm.config import RBMConfig

# Streams of the seed; 0 is not used.
RUN, TEST, EVALUATION, DRAWS = range(1, 5)


class Bits(NamedTuple):
    """The data.

    Attributes:
      train: Rows to train on, uint8 `(n, n_visible)`: bits, or grey values that become bits at every step.
      grey: Whether `train` holds grey values.
      train_bits: Rows of the training set to evaluate on, as bits.
      test_bits: Rows of the test set, as bits.
      mean: Mean of each pixel of the training set, `(n_visible,)` in [0, 1].
      shape: Height and width of an image.
    """

    train: np.ndarray
    grey: bool
    train_bits: np.ndarray
    test_bits: np.ndarray
    mean: np.ndarray
    shape: tuple[int, int]

    @property
    def digest(self) -> str:
        """Digest of the rows to train and to test on."""
        return digest(self.train, self.test_bits)


def image_shape(config: RBMConfig) -> tuple[int, int]:
    """Returns height and width of an image, without its data."""
    height, width = SPECS[config.data.name].image_shape[:2]
    return height, width


def as_images(rows: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Returns rows of pixels `(…, height · width)` as images `(…, height, width)`."""
    return rows.reshape(*rows.shape[:-1], *shape)


def model_of(config: RBMConfig) -> RBM:
    """Returns the model of a configuration."""
    height, width = image_shape(config)
    return RBM(height * width, config.model.n_hidden)


def load_bits(config: RBMConfig, key: jax.Array) -> Bits:
    """Loads the data set as rows of bits.

    Args:
      config: The configuration.
      key: Key of the run. Bits of the test set, and static ones of the training set, are drawn from it once.

    Returns:
      The data.
    """
    found = datasets.load(config.data.name)
    train, test = (
        np.asarray(split.images[:limit]).reshape(len(split.images[:limit]), -1)
        for split, limit in ((found.train, config.data.n_train), (found.test, config.data.n_test))
    )
    shape = image_shape(config)
    if config.data.name == "binarized_mnist":
        return Bits(train, False, train, test, train.mean(axis=0), shape)
    how: list[dict] = [{"threshold": 0.5}, {"threshold": 0.5}]
    if config.data.binarization != "threshold":
        how = [{"key": each} for each in jax.random.split(jax.random.fold_in(key, TEST))]
    train_bits, test_bits = (
        np.asarray(datasets.binarize(rows, **arguments)).astype(np.uint8)
        for rows, arguments in zip((train, test), how, strict=True)
    )
    if config.data.binarization == "stochastic":
        return Bits(train, True, train_bits, test_bits, train.mean(axis=0) / 255, shape)
    return Bits(train_bits, False, train_bits, test_bits, train_bits.mean(axis=0), shape)


def log_odds(mean: np.ndarray, n: int) -> jax.Array:
    """Returns the log-odds of pixels' means, with one count added to each level.

    Args:
      mean: Means over `n` rows, in [0, 1].
      n: Number of rows.

    Returns:
      log(p / (1 − p)) of p = (n · mean + 1) / (n + 2), float32.
    """
    mean = (mean * n + 1) / (n + 2)
    return jnp.asarray(np.log(mean / (1 - mean)), jnp.float32)
