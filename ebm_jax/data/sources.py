"""Reading the files in which the data sets are published, and finding them in a folder.

Every reader compares what it reads with the size that the data set must have. It raises `DataFileError`, which names
the file and the expected size, before it returns any array, and unpacks little more than that size.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import math
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from ebm_jax import files
from ebm_jax.data.specs import DatasetSpec

IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
CIFAR_FILES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
CIFAR_FOLDER = "cifar-10-batches-bin"
CIFAR_TAR = "cifar-10-binary.tar.gz"
BINARIZED_FILE = "binarized_mnist_packedbits.npz"

# NumPy keeps the stream of RandomState for good, that of default_rng only within a version. A split that is part of a
# published result must not change with NumPy.
SHUFFLE_SEED = 0

# What an archive may take beside the files of a set (headers, a licence, a page of explanations), in bytes.
_OVERHEAD = 1_000_000


class DataFileError(ValueError):
    """A data file is missing from its set, truncated, corrupt, or not of the expected kind."""


class Arrays(NamedTuple):
    """All images of a data set, in the order train, validation, test, with their labels if it has any."""

    images: UInt8[np.ndarray, "n_images ..."]
    labels: Int32[np.ndarray, " n_images"] | None


@dataclasses.dataclass(frozen=True)
class FoundFiles:
    """Files that hold one data set, and the function that reads them."""

    files: tuple[Path, ...]
    read: Callable[[], Arrays]


def find(spec: DatasetSpec, folder: Path) -> FoundFiles | None:
    """Looks for the files of one data set in a folder.

    Returns:
      The files, or None if there are none.

    Raises:
      DataFileError: If only some files of a set are there, or the folder cannot be searched.
    """
    try:
        return _find(spec, folder)
    except OSError as error:
        raise DataFileError(
            f"{folder} cannot be searched ({files.reason(error)}); it should hold {layout_help(spec)}"
        ) from error


def _find(spec: DatasetSpec, folder: Path) -> FoundFiles | None:
    if spec.name == "cifar10":
        return _find_cifar10(spec, folder)
    if spec.name == "binarized_mnist":
        for path in (folder / spec.name / BINARIZED_FILE, folder / BINARIZED_FILE):
            if path.is_file():
                return FoundFiles((path,), lambda path=path: read_binarized_mnist(path, spec))
        return None
    places = [folder / spec.name, folder / spec.name.replace("_", "-")]
    # MNIST and Fashion-MNIST use the same file names. Files that lie directly in the folder count as Fashion-MNIST only
    # if the folder's name says so.
    if ("fashion" in os.path.basename(os.path.realpath(folder)).lower()) == (spec.name == "fashion_mnist"):
        places.append(folder)
    for place in places:
        paths = {name: _plain_or_packed(place, name) for name in IDX_FILES}
        if any(path.is_file() for path in paths.values()):
            _require_all(paths, {name: _idx_expectation(_idx_shape(name, spec)) for name in IDX_FILES})
            return FoundFiles(tuple(paths.values()), lambda paths=paths: read_idx_set(paths, spec))
    return None


def layout_help(spec: DatasetSpec) -> str:
    """Returns in words which files a folder must hold for this data set."""
    if spec.name == "cifar10":
        return f"{CIFAR_TAR}, or the folder {CIFAR_FOLDER}/ with {', '.join(CIFAR_FILES)}"
    if spec.name == "binarized_mnist":
        rows = ", ".join(
            f"{key} ({n}, 98)" for key, n in zip(("train", "valid", "test"), spec.sizes, strict=True)
        )
        return f"{spec.name}/{BINARIZED_FILE} (np.packbits of the rows, uint8: {rows})"
    return ", ".join(f"{spec.name}/{name}" for name in IDX_FILES)


def read_idx(path: Path, shape: tuple[int, ...]) -> UInt8[np.ndarray, "..."]:
    """Reads an IDX file of unsigned bytes, gzipped or not, that must hold an array of exactly this shape.

    The format is LeCun's: two zero bytes, 0x08 for uint8, the number of axes, a big-endian uint32 for each axis, the
    data.
    """
    expected = _idx_expectation(shape)
    header = 4 + 4 * len(shape)
    size = header + math.prod(shape)
    try:
        content = _read(path, size + 1)
    # The modules that unpack raise errors of many types.
    except Exception as error:
        raise _unreadable(path, error, expected) from error
    if len(content) < header or content[:4] != bytes((0, 0, 8, len(shape))):
        raise DataFileError(
            f"{path} begins with the bytes {content[:4].hex() or 'of nothing'}; expected {expected}"
        )
    found = tuple(int(n) for n in np.frombuffer(content, ">u4", len(shape), offset=4))
    if found != shape:
        raise DataFileError(f"{path} declares the shape {found}; expected {expected}")
    _check_size(path, content, size, expected)
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def read_idx_set(paths: Mapping[str, Path], spec: DatasetSpec) -> Arrays:
    """Reads the four files of MNIST or Fashion-MNIST, in the published order."""
    parts = {name: read_idx(paths[name], _idx_shape(name, spec)) for name in IDX_FILES}
    for name in IDX_FILES[1::2]:
        _check_labels(parts[name], paths[name])
    return _join([parts[name] for name in IDX_FILES[::2]], [parts[name] for name in IDX_FILES[1::2]])


def read_cifar10(folder: Path, spec: DatasetSpec) -> Arrays:
    """Reads CIFAR-10 from its folder of binary batches, in the published order."""
    contents = []
    for name in CIFAR_FILES:
        path = folder / name
        try:
            with files.open_regular(path) as file:
                contents.append((path, file.read(_cifar_bytes(name, spec) + 1)))
        except (OSError, ValueError) as error:
            raise _unreadable(path, error, _cifar_expectation(name, spec)) from error
    return _parse_cifar10(contents, spec)


def read_cifar10_tar(path: Path, spec: DatasetSpec) -> Arrays:
    """Reads CIFAR-10 from the official archive of its binary version, in the published order."""
    contents: dict[str, bytes] = {}
    expected = (
        f"a gzipped tar with {', '.join(CIFAR_FILES)} of {_cifar_expectation(CIFAR_FILES[0], spec)} each"
    )
    limit = sum(_cifar_bytes(name, spec) for name in CIFAR_FILES) + _OVERHEAD
    try:
        # `tarfile` itself reads headers of any length, so it gets what was unpacked under the limit.
        unpacked = _read(path, limit + 1)
        if len(unpacked) > limit:
            raise ValueError(f"it unpacks to more than {limit:,} bytes")
        with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as archive:
            for member in archive:
                name = Path(member.name).name
                if name in CIFAR_FILES and member.isreg():
                    stream: Any = archive.extractfile(member)
                    # One byte more than expected tells a longer file.
                    contents[name] = stream.read(_cifar_bytes(name, spec) + 1)
    except Exception as error:
        raise _unreadable(path, error, expected) from error
    missing = [name for name in CIFAR_FILES if name not in contents]
    if missing:
        raise DataFileError(f"{path} lacks {', '.join(missing)}; expected {expected}")
    return _parse_cifar10([(path / name, contents[name]) for name in CIFAR_FILES], spec)


def read_binarized_mnist(path: Path, spec: DatasetSpec) -> Arrays:
    """Reads static binarized MNIST from packed bits.

    The published test rows are sorted by class, so any slice of them would be biased. Each split is therefore shuffled
    by the fixed permutation `np.random.RandomState(0).permutation(n)`.
    """
    keys = ("train", "valid", "test")
    width = -(-spec.image_bytes // 8)
    expected = "an .npz archive of uint8 arrays " + ", ".join(
        f"{key} of shape ({n}, {width})" for key, n in zip(keys, spec.sizes, strict=True)
    )
    try:
        parts = files.read_npz(path, spec.n_images * width + _OVERHEAD)
    except Exception as error:
        raise _unreadable(path, error, expected) from error
    images = []
    for key, n in zip(keys, spec.sizes, strict=True):
        if key not in parts:
            raise DataFileError(f"{path} lacks the array {key!r}; expected {expected}")
        if parts[key].shape != (n, width) or parts[key].dtype != np.uint8:
            found = f"{parts[key].dtype} of shape {parts[key].shape}"
            raise DataFileError(f"{path} holds {key!r} as {found}; expected {expected}")
        order = np.random.RandomState(SHUFFLE_SEED).permutation(n)
        rows = np.unpackbits(parts[key], axis=1, count=spec.image_bytes)
        images.append(rows[order].reshape(n, *spec.image_shape))
    return Arrays(np.concatenate(images), None)


def _find_cifar10(spec: DatasetSpec, folder: Path) -> FoundFiles | None:
    for base in (folder, folder / spec.name):
        for place in (base / CIFAR_FOLDER, base):
            paths = {name: place / name for name in CIFAR_FILES}
            if any(path.is_file() for path in paths.values()):
                _require_all(paths, {name: _cifar_expectation(name, spec) for name in CIFAR_FILES})
                return FoundFiles(tuple(paths.values()), lambda place=place: read_cifar10(place, spec))
        tar = base / CIFAR_TAR
        if tar.is_file():
            return FoundFiles((tar,), lambda tar=tar: read_cifar10_tar(tar, spec))
    return None


def _parse_cifar10(contents: list[tuple[Path, bytes]], spec: DatasetSpec) -> Arrays:
    images, labels = [], []
    height, width, channels = spec.image_shape
    for path, content in contents:
        _check_size(path, content, _cifar_bytes(path.name, spec), _cifar_expectation(path.name, spec))
        records = np.frombuffer(content, np.uint8).reshape(-1, 1 + spec.image_bytes)
        _check_labels(records[:, 0], path)
        labels.append(records[:, 0])
        # A record holds all red bytes, then all green ones, then all blue ones.
        images.append(records[:, 1:].reshape(-1, channels, height, width).transpose(0, 2, 3, 1))
    return _join(images, labels)


def _join(images: list[np.ndarray], labels: list[np.ndarray]) -> Arrays:
    return Arrays(np.concatenate(images), np.concatenate(labels).astype(np.int32))


def _read(path: Path, n_bytes: int) -> bytes:
    """Returns at most the first bytes of a file, unpacked if it is gzipped."""
    with files.open_regular(path) as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not packed:
            return file.read(n_bytes)
        with gzip.open(file) as stream:
            return stream.read(n_bytes)


def _unreadable(path: Path, error: Exception, expected: str) -> DataFileError:
    return DataFileError(f"{path} cannot be read to its end ({files.reason(error)}); expected {expected}")


def _check_size(path: Path, content: bytes, size: int, expected: str) -> None:
    """Raises unless the content has this size; of longer files it holds one byte more."""
    if len(content) != size:
        amount = f"only {len(content):,}" if len(content) < size else "more"
        raise DataFileError(f"{path} holds {amount} bytes; expected {expected}")


def _check_labels(labels: np.ndarray, path: Path) -> None:
    if labels.size and labels.max() > 9:
        row = int(labels.argmax())
        raise DataFileError(
            f"{path} holds the label {labels[row]} at row {row}; expected labels 0 to 9 in every row"
        )


def _require_all(paths: Mapping[str, Path], expectations: Mapping[str, str]) -> None:
    for name, path in paths.items():
        if not path.is_file():
            problem = (
                "is not a regular file" if path.exists() else "is missing beside the other files of its set"
            )
            raise DataFileError(f"{path} {problem}; expected {expectations[name]}")


def _plain_or_packed(place: Path, name: str) -> Path:
    plain = place / name.removesuffix(".gz")
    return plain if plain.is_file() and not (place / name).is_file() else place / name


def _idx_shape(name: str, spec: DatasetSpec) -> tuple[int, ...]:
    train, validation, test = spec.sizes
    n = train + validation if name.startswith("train") else test
    return (n, *spec.image_shape) if "images" in name else (n,)


def _idx_expectation(shape: tuple[int, ...]) -> str:
    size = 4 + 4 * len(shape) + math.prod(shape)
    return f"an IDX file of uint8 with shape {shape}, {size:,} bytes uncompressed"


def _cifar_rows(name: str, spec: DatasetSpec) -> int:
    train, validation, test = spec.sizes
    return test if name == CIFAR_FILES[-1] else (train + validation) // (len(CIFAR_FILES) - 1)


def _cifar_bytes(name: str, spec: DatasetSpec) -> int:
    return _cifar_rows(name, spec) * (1 + spec.image_bytes)


def _cifar_expectation(name: str, spec: DatasetSpec) -> str:
    rows = _cifar_rows(name, spec)
    return f"{_cifar_bytes(name, spec):,} bytes ({rows:,} records of {1 + spec.image_bytes:,})"
