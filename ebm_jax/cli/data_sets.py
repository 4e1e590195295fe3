"""Where the data sets are, or how to get them: the work behind `ebm-jax data` and part of `ebm-jax doctor`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from ebm_jax.data import cache, sources, tfds
from ebm_jax.data.datasets import load
from ebm_jax.data.specs import SPECS, DatasetSpec, lookup


class Place(NamedTuple):
    """Whether a data set is at hand, and where, or how to get it."""

    found: bool
    where: str


def locate(spec: DatasetSpec) -> Place:
    """Looks where `ebm_jax.data.load` does, in that order, and opens no more than the manifest of a cache entry."""
    if spec.name == "digits":
        return Place(True, "comes with scikit-learn")
    given, root = os.environ.get("EBM_JAX_DATA_DIR"), cache.directory()
    if given:
        try:
            files = sources.find(spec, Path(given).expanduser())
        except sources.DataFileError as error:
            return Place(False, str(error))
        if files is not None:
            return Place(True, f"files in {files.files[0].parent}")
    if cache.read_entry(root, spec, spec.digest) is not None:
        return Place(True, f"the cache, {root}")
    if any((root / "tfds" / spec.name).glob("*/dataset_info.json")):
        return Place(True, f"TensorFlow Datasets in {root / 'tfds'}")
    if spec.name in tfds.NAMES:
        return Place(False, f"`ebm-jax data prepare {spec.name}` downloads it; or set EBM_JAX_DATA_DIR")
    return Place(False, f"set EBM_JAX_DATA_DIR to a folder with {spec.name}/{sources.BINARIZED_FILE}")


def table() -> str:
    """All data sets: name, images of the splits, whether they are at hand."""
    lines = [f"{'name':<17}{'images':<12}{'train':>7}{'validation':>12}{'test':>8}   found"]
    for spec in SPECS.values():
        place = locate(spec)
        train, validation, test = (f"{size:,}" for size in spec.sizes)
        found = f"{'yes' if place.found else 'no'}: {place.where}"
        lines.append(f"{spec.name:<17}{_shape(spec):<12}{train:>7}{validation:>12}{test:>8}   {found}")
    return "\n".join(lines)


def check_name(name: str) -> None:
    """Raises ValueError for a data set that there is not."""
    lookup(name)


def prepare(name: str) -> str:
    """Loads a data set, so that the cache holds it, and says where it came from; raises as `ebm_jax.data.load` does."""
    spec = lookup(name)
    place = locate(spec)
    data = load(name)
    sizes = " / ".join(f"{len(split.images):,}" for split in (data.train, data.validation, data.test))
    lines = [
        f"{name}: {sizes} images of {_shape(spec)} to train, validate and test",
        f"from: {place.where if place.found else 'a download by TensorFlow Datasets'}",
    ]
    if name != "digits":  # read anew each time, in milliseconds
        lines.append(f"cache: {cache.directory()}")
    return "\n".join(lines)


def _shape(spec: DatasetSpec) -> str:
    return "×".join(map(str, spec.image_shape))
