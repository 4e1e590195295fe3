"""Small image data sets as uint8 arrays, their discretisation, and shuffled batches.

`load` gives `digits` (no download), `mnist`, `fashion_mnist`, `cifar10` and `binarized_mnist`. scikit-learn and
TensorFlow Datasets are imported only when a data set is read through them.

Example:
  >>> images, labels = ej.data.load("digits").train
  >>> images.shape
  (1437, 8, 8)
"""

from ebm_jax.data.batching import batches
from ebm_jax.data.datasets import Dataset, Split, load
from ebm_jax.data.sources import DataFileError
from ebm_jax.data.tfds import DataUnavailableError
from ebm_jax.data.transforms import binarize, discretize, undiscretize

__all__ = [
    "DataFileError",
    "DataUnavailableError",
    "Dataset",
    "Split",
    "batches",
    "binarize",
    "discretize",
    "load",
    "undiscretize",
]
