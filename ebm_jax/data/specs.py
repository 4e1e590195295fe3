"""What each named data set is: image shape, split sizes, class names, and the hash of its published content."""

from __future__ import annotations

import dataclasses
import difflib
import math


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """The fixed facts about one data set.

    Attributes:
      name: Name by which it is loaded.
      image_shape: `(height, width)` or `(height, width, 3)`.
      sizes: Number of images in the train, validation and test splits.
      class_names: A name for each label, or None for a set without labels.
      digest: SHA-256 of the arrays that the published files give (see `cache.content_digest`), or None for a set that
        is not cached.
    """

    name: str
    image_shape: tuple[int, ...]
    sizes: tuple[int, int, int]
    class_names: tuple[str, ...] | None
    digest: str | None = None

    @property
    def n_images(self) -> int:
        """Number of images in all splits together."""
        return sum(self.sizes)

    @property
    def image_bytes(self) -> int:
        """Number of bytes of one uint8 image."""
        return math.prod(self.image_shape)


_TEN_DIGITS = tuple("0123456789")

SPECS: dict[str, DatasetSpec] = {
    "digits": DatasetSpec("digits", (8, 8), (1437, 180, 180), _TEN_DIGITS),
    "mnist": DatasetSpec(
        "mnist",
        (28, 28),
        (54_000, 6_000, 10_000),
        _TEN_DIGITS,
        "04db7e526e85b80648801433181b71fe8a6a9f3041b992bd4f0685644ecc3c0e",
    ),
    "fashion_mnist": DatasetSpec(
        "fashion_mnist",
        (28, 28),
        (54_000, 6_000, 10_000),
        (
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        "81ad4e9cdcd0334ad64002fba360f3c0d8cba6d2f7ea057f9dd7d828aff79cbc",
    ),
    "cifar10": DatasetSpec(
        "cifar10",
        (32, 32, 3),
        (45_000, 5_000, 10_000),
        (
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ),
        "1cbb3e4b3b74aea14a244787dc7974a2c9fd744c3447419ef7033d514aa95afb",
    ),
    "binarized_mnist": DatasetSpec(
        "binarized_mnist",
        (28, 28),
        (50_000, 10_000, 10_000),
        None,
        "12276818e84e1e94da04fa70cc7af4078dc764e0a83e95af55c4c6adb470a5cf",
    ),
}


def lookup(name: str) -> DatasetSpec:
    """Returns the spec of a named data set.

    Raises:
      ValueError: If there is no such set; the message lists the names and the nearest one.
    """
    if isinstance(name, str) and name in SPECS:
        return SPECS[name]
    nearest = difflib.get_close_matches(str(name).lower().replace("-", "_"), SPECS, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
    raise ValueError(f"unknown data set {name!r}{hint} The data sets are {', '.join(map(repr, SPECS))}")
