"""Loading a data set by name: where it is looked for, how it is split, and the classes kept."""

from __future__ import annotations

import dataclasses
import itertools
import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from ebm_jax import files
from ebm_jax.data import cache, digits, sources, tfds
from ebm_jax.data.sources import Arrays
from ebm_jax.data.specs import DatasetSpec, lookup


class Split(NamedTuple):
    """One split of a data set: `images, labels = dataset.train`.

    Both are read-only NumPy arrays, memory-mapped if they come from the cache.

    Attributes:
      images: uint8, `(n, height, width)` or `(n, height, width, 3)`.
      labels: int32 `(n,)`, or None for a set without labels.
    """

    images: UInt8[np.ndarray, "n height width *channels"]
    labels: Int32[np.ndarray, " n"] | None


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A named data set in three splits.

    Attributes:
      name: Name of the set.
      train: Training images.
      validation: Validation images.
      test: Test images.
      classes: The labels that are present, in the order asked for; None for a set without labels.
      class_names: `class_names[label]` is the name of a class. Labels keep their published numbers in a subset.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[int, ...] | None
    class_names: tuple[str, ...] | None

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image: `(height, width)` or `(height, width, 3)`."""
        return self.train.images.shape[1:]

    def __repr__(self) -> str:
        sizes = ", ".join(
            f"{key}={len(getattr(self, key).images)}" for key in ("train", "validation", "test")
        )
        return f"Dataset({self.name!r}, {sizes}, image_shape={self.image_shape}, classes={self.classes})"


def load(
    name: str = "digits",
    *,
    classes: int | np.integer | Sequence[int | np.integer] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Loads a data set of small images as uint8 arrays in fixed train, validation and test splits.

    | name | images | values | train / validation / test | source |
    |---|---|---|---|---|
    | `digits` | 8×8 | 0 to 255 | 1,437 / 180 / 180 | UCI optical digits (Alpaydin and Kaynak 1998) |
    | `mnist` | 28×28 | 0 to 255 | 54,000 / 6,000 / 10,000 | LeCun, Bottou, Bengio, Haffner 1998 |
    | `fashion_mnist` | 28×28 | 0 to 255 | 54,000 / 6,000 / 10,000 | Xiao, Rasul, Vollgraf 2017 |
    | `cifar10` | 32×32×3 | 0 to 255 | 45,000 / 5,000 / 10,000 | Krizhevsky 2009 |
    | `binarized_mnist` | 28×28 | 0 and 1 | 50,000 / 10,000 / 10,000 | Salakhutdinov and Murray 2008; split and \
distribution by Larochelle and Murray 2011 |

    Images keep their published order, and the validation split is the end of the published training set. `digits` and
    `binarized_mnist` are exceptions, because they are sorted (by writer; by class in the test rows): all digits
    together, and each split of binarized MNIST, are shuffled by `np.random.RandomState(0).permutation(n)`. Nothing
    depends on a seed, or on where the files came from. The published intensities v = 0…16 of the digits are stored as
    u = ⌈255·v / 16⌉; `u.astype(int) * 16 // 255` gives them back. The 0 and 1 of `binarized_mnist` are units, not
    intensities: use `images.astype(bool)`, not `binarize`.

    `digits` needs no files. The other sets are looked for in this order: (1) the cache of prepared arrays; (2) files
    in a folder; (3) a download by TensorFlow Datasets (without TensorFlow), except for `binarized_mnist`. If the folder
    holds files of the set, only a cache entry that was made from exactly these files counts; otherwise only one with
    the published content.

    Args:
      name: One of the names above.
      classes: `None` for all; an integer k for the first k classes 0 … k−1; or the labels to keep, such as `[5, 7]`.
        Images keep their order and labels their numbers.
      data_dir: Folder of downloaded files, instead of the environment's `EBM_JAX_DATA_DIR`. It may hold `mnist/` and
        `fashion_mnist/` with the four IDX files (`train-images-idx3-ubyte.gz`, …, gzipped or not);
        `cifar-10-batches-bin/` or `cifar-10-binary.tar.gz`, alone or in `cifar10/`; and
        `binarized_mnist/binarized_mnist_packedbits.npz` (uint8 arrays `train`, `valid`, `test` of packed bits). It may
        also be the folder in which such files lie directly.
      cache_dir: Folder of prepared arrays, instead of `EBM_JAX_CACHE_DIR` or else `~/.cache/ebm_jax`
        (`$XDG_CACHE_HOME/ebm_jax`).

    Returns:
      A `Dataset` whose `train`, `validation` and `test` are `Split(images, labels)`. Arrays are read-only.

    Raises:
      ValueError: If the name is unknown, or the set does not have these classes or has no labels at all.
      DataFileError: (A ValueError.) If the folder does not exist, or a file is missing from its set, truncated,
        corrupt, or of the wrong size or kind. The message names the file and the expected size.
      DataUnavailableError: (A FileNotFoundError.) If the set is nowhere and the network does not answer. This takes a
        few seconds at most.

    Example:
      >>> digits = ej.data.load("digits", classes=[0, 1])
      >>> digits.image_shape, digits.classes, digits.train.images.dtype
      ((8, 8), (0, 1), dtype('uint8'))
    """
    spec = lookup(name)
    wanted = _wanted_classes(spec, classes)
    arrays = (
        digits.read_digits() if spec.name == "digits" else _fetch(spec, data_dir, cache.directory(cache_dir))
    )
    starts = np.cumsum((0, *spec.sizes))
    train, validation, test = (
        _split(arrays, int(start), int(stop), None if classes is None else wanted)
        for start, stop in itertools.pairwise(starts)
    )
    return Dataset(spec.name, train, validation, test, wanted, spec.class_names)


def _fetch(spec: DatasetSpec, data_dir: str | os.PathLike[str] | None, root: Path) -> Arrays:
    """Returns a set from a folder of files, the cache at `root`, or a download."""
    given = data_dir if data_dir is not None else os.environ.get("EBM_JAX_DATA_DIR") or None
    folder = None if given is None else files.expand_user(given)
    label = "data_dir" if data_dir is not None else "EBM_JAX_DATA_DIR"
    found = None if folder is None else sources.find(spec, folder)
    if found is not None:
        return _from_files(spec, found, root)
    cached = cache.read_entry(root, spec, spec.digest)
    if cached is not None:
        return cached
    if folder is not None and not folder.is_dir():
        raise sources.DataFileError(
            f"{label} is {str(given)!r}, which is not a folder; it should hold {sources.layout_help(spec)}"
        )
    place = f"in {label} ({folder})" if folder is not None else "in EBM_JAX_DATA_DIR (not set)"
    arrays = tfds.fetch(spec, root / "tfds", f"is neither in the cache ({root}) nor {place}")
    digest = cache.content_digest(arrays)
    if digest != spec.digest:
        raise sources.DataFileError(
            f"{root / 'tfds' / spec.name} does not hold the published data (SHA-256 {digest}; expected {spec.digest} "
            f"for {spec.n_images:,} images of shape {spec.image_shape}); delete it to download it again"
        )
    return cache.write_entry(root, spec, arrays, digest)


def _from_files(spec: DatasetSpec, found: sources.FoundFiles, root: Path) -> Arrays:
    """Returns the content of found files, by way of the cache."""
    fingerprint = cache.source_fingerprint(found.files)
    cached = cache.read_entry(root, spec, cache.read_link(root, spec, fingerprint))
    if cached is not None:
        return cached
    arrays = found.read()
    digest = cache.content_digest(arrays)
    stored = cache.read_entry(root, spec, digest)
    if stored is None:
        stored = cache.write_entry(root, spec, arrays, digest)
    # Files that were replaced during reading are not the source of what was read.
    if cache.source_fingerprint(found.files) == fingerprint:
        cache.write_link(root, spec, fingerprint, digest)
    return stored


def _wanted_classes(
    spec: DatasetSpec, classes: int | np.integer | Sequence[int | np.integer] | None
) -> tuple[int, ...] | None:
    """Returns the labels to keep, or None for a set without labels; raises ValueError on classes it does not have."""
    if spec.class_names is None:
        if classes is not None:
            raise ValueError(f"classes={classes!r}, but {spec.name!r} has no labels; use classes=None")
        return None
    n = len(spec.class_names)
    if classes is None:
        return tuple(range(n))
    allowed = (
        f"{spec.name!r} has the classes 0 to {n - 1}: give 1 to {n} for the first ones, or a list of labels"
    )
    if isinstance(classes, (bool, np.bool_, str, bytes)):
        raise ValueError(f"classes={classes!r} is neither an integer nor a list of integers; {allowed}")
    try:
        count = operator.index(classes)  # type: ignore[arg-type]
    except TypeError:
        pass
    else:
        if not 1 <= count <= n:
            raise ValueError(f"classes={classes!r} is not a number of classes; {allowed}")
        return tuple(range(count))
    try:
        labels = tuple(operator.index(label) for label in classes)  # type: ignore[union-attr]
        if any(isinstance(label, (bool, np.bool_)) for label in classes):  # type: ignore[union-attr]
            raise TypeError
    except TypeError:
        raise ValueError(
            f"classes={classes!r} is neither an integer nor a list of integers; {allowed}"
        ) from None
    wrong = [label for label in labels if not 0 <= label < n]
    if wrong or not labels or len(set(labels)) != len(labels):
        reason = f"holds {wrong[0]}" if wrong else "holds a label twice" if labels else "is empty"
        raise ValueError(f"classes={classes!r} {reason}; {allowed}")
    return labels


def _split(arrays: Arrays, start: int, stop: int, wanted: tuple[int, ...] | None) -> Split:
    """Returns rows `start` to `stop` − 1 with the wanted labels, read-only."""
    images = arrays.images[start:stop]
    labels = None if arrays.labels is None else arrays.labels[start:stop]
    if wanted is not None and labels is not None:
        keep = np.isin(labels, wanted)
        images, labels = images[keep], labels[keep]
    for array in (images, labels):
        if array is not None:
            array.flags.writeable = False
    return Split(images, labels)
