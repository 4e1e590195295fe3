"""Finds the data sets on this machine: the work behind `ebm-jax data` and a part of `ebm-jax doctor`."""

from __future__ import annotations

import os
from typing import NamedTuple

from ebm_jax import files
from ebm_jax.data import cache, sources, tfds
from ebm_jax.data.datasets import load
from ebm_jax.data.specs import SPECS, DatasetSpec, lookup


class Place(NamedTuple):
    """Whether a data set was found, and where it is or how to get it."""

    found: bool
    where: str


def locate(spec: DatasetSpec) -> Place:
    """Searches the places that `ebm_jax.data.load` searches, in the same order.

    Files in a folder are not opened, so a damaged one is not noticed. Those of the cache are hashed where they changed.

    Args:
      spec: The data set.

    Returns:
      The first place that has the data set, or how to get it.
    """
    if spec.name == "digits":
        return Place(True, "comes with scikit-learn")
    given, root = os.environ.get("EBM_JAX_DATA_DIR"), cache.directory()
    if given:
        try:
            found = sources.find(spec, files.expand_user(given))
        except sources.DataFileError as error:
            return Place(False, str(error))
        if found is not None:
            return Place(True, f"files in {found.files[0].parent}")
    if cache.read_entry(root, spec, spec.digest) is not None:
        return Place(True, f"the cache, {root}")
    if any((root / "tfds" / spec.name).glob("*/dataset_info.json")):
        return Place(True, f"TensorFlow Datasets in {root / 'tfds'}")
    if spec.name in tfds.NAMES:
        return Place(False, f"`ebm-jax data prepare {spec.name}` downloads it; or set EBM_JAX_DATA_DIR")
    return Place(False, f"set EBM_JAX_DATA_DIR to a folder with {spec.name}/{sources.BINARIZED_FILE}")


def table() -> str:
    """Returns a table of all data sets: shape, number of images in each split, and where they are."""
    lines = [f"{'name':<17}{'images':<12}{'train':>7}{'validation':>12}{'test':>8}   found"]
    for spec in SPECS.values():
        place = locate(spec)
        train, validation, test = (f"{size:,}" for size in spec.sizes)
        found = f"{'yes' if place.found else 'no'}: {place.where}"
        lines.append(f"{spec.name:<17}{_shape(spec):<12}{train:>7}{validation:>12}{test:>8}   {found}")
    return "\n".join(lines)


def check_name(name: str) -> None:
    """Raises ValueError if no data set has this name."""
    lookup(name)


def prepare(name: str) -> str:
    """Loads a data set into the cache.

    Args:
      name: Name of the data set.

    Returns:
      A text that says what was loaded, from where, and where the cache is.

    Raises:
      ValueError, OSError: As `ebm_jax.data.load`.
    """
    spec = lookup(name)
    place = locate(spec)
    data = load(name)
    sizes = " / ".join(f"{len(split.images):,}" for split in (data.train, data.validation, data.test))
    lines = [
        f"{name}: {sizes} images of {_shape(spec)} to train, validate and test",
        f"from: {place.where if place.found else 'a download by TensorFlow Datasets'}",
    ]
    # The digits come with scikit-learn and are not cached.
    if name != "digits":
        lines.append(f"cache: {cache.directory()}")
    return "\n".join(lines)


def _shape(spec: DatasetSpec) -> str:
    return "×".join(map(str, spec.image_shape))
