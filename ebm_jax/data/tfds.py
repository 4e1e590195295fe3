"""MNIST, Fashion-MNIST and CIFAR-10 through TensorFlow Datasets, without TensorFlow.

The stock builders of TFDS need TensorFlow to prepare these sets. The builders here are subclasses with the same names,
versions, features, addresses and checksums. They parse the downloaded files with the readers of `sources` and give TFDS
PNG bytes, which it writes as ArrayRecord; `tfds.data_source` reads the result. The stock builders shuffle the examples.
These keep the published order, so that a split is the same whichever way the data came.
"""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import numpy as np

from ebm_jax import files
from ebm_jax.data import sources
from ebm_jax.data.sources import Arrays
from ebm_jax.data.specs import DatasetSpec

NAMES = ("mnist", "fashion_mnist", "cifar10")

# Longest time that the test of the network may take, name resolution included.
PROBE_SECONDS = 3.0
_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_PROBE_URLS = {
    "mnist": "https://storage.googleapis.com/cvdf-datasets/mnist/train-labels-idx1-ubyte.gz",
    "fashion_mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-labels-idx1-ubyte.gz",
    "cifar10": _CIFAR_URL,
}


class DataUnavailableError(FileNotFoundError):
    """A data set is neither cached, nor in the given folder, nor can it be downloaded."""


def fetch(spec: DatasetSpec, folder: Path, where_looked: str) -> Arrays:
    """Downloads and prepares a data set under `folder`, or reads what was prepared there before.

    Args:
      spec: The data set.
      folder: Folder of TFDS.
      where_looked: What was tried before, for the error message.

    Returns:
      The arrays of the set.

    Raises:
      DataUnavailableError: Within seconds, if the server cannot be reached or TFDS does not have the set.
      DataFileError: If the download breaks off, or what was downloaded or prepared is damaged.
    """
    if spec.name not in NAMES:
        raise DataUnavailableError(_advice(spec, f"{where_looked}, and it cannot be downloaded"))
    # Importing TFDS takes a second. An unreachable server is reported before that, where nothing is prepared.
    prepared = any((folder / spec.name).glob("*/dataset_info.json"))
    if not prepared:
        _require_network(spec, where_looked)
    _require_files(folder, spec)
    try:
        builder = make_builder(spec, folder)
        # What is prepared may belong to another version of TFDS.
        if prepared and not Path(builder.data_dir).is_dir():
            _require_network(spec, where_looked)
        builder.download_and_prepare(file_format="array_record")
        return read_prepared(spec, folder)
    except (ImportError, DataUnavailableError, sources.DataFileError):
        raise
    # TFDS and its readers raise errors of many types.
    except Exception as error:
        raise sources.DataFileError(
            f"TensorFlow Datasets cannot prepare or read {folder / spec.name} ({files.reason(error)}); delete it to "
            f"download it again, or set EBM_JAX_DATA_DIR to a folder that holds {sources.layout_help(spec)}"
        ) from error


def make_builder(spec: DatasetSpec, folder: Path) -> Any:
    """Returns a TFDS builder with the stock name and version that prepares the data set without TensorFlow."""
    from tensorflow_datasets.core import registered
    from tensorflow_datasets.image_classification import cifar, mnist

    stock: Any = {"mnist": mnist.MNIST, "fashion_mnist": mnist.FashionMNIST, "cifar10": cifar.Cifar10}[
        spec.name
    ]

    # The stock builder keeps its name in the registry of TFDS.
    with registered.skip_registration():

        class Builder(stock):
            """The stock builder, which parses with gzip and tarfile."""

            name = spec.name

            def _info(self) -> Any:
                info = super()._info()
                info.as_proto.disable_shuffling = True
                return info

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                if spec.name == "cifar10":
                    self.info.features["label"].names = list(spec.class_names or ())
                    arrays = sources.read_cifar10_tar(Path(dl_manager.download(_CIFAR_URL)), spec)
                else:
                    urls = {name: urljoin(self.URL, name) for name in sources.IDX_FILES}
                    paths = {name: Path(path) for name, path in dl_manager.download(urls).items()}
                    arrays = sources.read_idx_set(paths, spec)
                n_train = spec.sizes[0] + spec.sizes[1]
                return {
                    "train": self._generate_examples("train_", arrays, 0, n_train),
                    "test": self._generate_examples("test_", arrays, n_train, spec.n_images),
                }

            def _generate_examples(self, prefix: str, arrays: Arrays, start: int, stop: int) -> Any:
                assert arrays.labels is not None
                for index, row in enumerate(range(start, stop)):
                    example = {"image": _png(arrays.images[row]), "label": int(arrays.labels[row])}
                    if "id" in self.info.features:
                        example["id"] = f"{prefix}{index:05d}"
                    yield index, example

    return Builder(data_dir=str(folder))


def read_prepared(spec: DatasetSpec, folder: Path) -> Arrays:
    """Reads a prepared data set with `tfds.data_source`, in the published order."""
    import tensorflow_datasets as tfds

    # Decoding here takes less than half the time of decoding in TFDS.
    decoders: Any = {"image": tfds.decode.SkipDecoding()}
    images = np.empty((spec.n_images, *spec.image_shape), np.uint8)
    labels = np.empty(spec.n_images, np.int32)
    row = 0
    expected = (spec.sizes[0] + spec.sizes[1], spec.sizes[2])
    for split, size in zip(("train", "test"), expected, strict=True):
        source: Any = tfds.data_source(spec.name, split=split, data_dir=str(folder), decoders=decoders)
        if len(source) != size:
            place = folder / spec.name
            raise sources.DataFileError(
                f"{place} holds {len(source)} examples in {split!r}; expected {size}; delete it to prepare it again"
            )
        for start in range(0, size, 1024):
            for example in source.__getitems__(list(range(start, min(start + 1024, size)))):
                images[row] = _pixels(example["image"])
                labels[row] = example["label"]
                row += 1
    return Arrays(images, labels)


def _require_files(folder: Path, spec: DatasetSpec) -> None:
    """Raises DataFileError if a folder of TFDS holds a pipe or a device, for whose end TFDS would wait."""
    # NAME/VERSION/FILE, or a level more where a set has configurations.
    for pattern in ("*/*", "*/*/*", "*/*/*/*"):
        for path in folder.glob(pattern):
            if path.exists() and not (path.is_file() or path.is_dir()):
                raise sources.DataFileError(
                    f"{path} is a pipe or a device, not a regular file; delete it, and {folder / spec.name}, to "
                    "download the set again"
                )


def _require_network(spec: DatasetSpec, where_looked: str) -> None:
    """Raises DataUnavailableError if the server of a set does not answer."""
    url = _PROBE_URLS[spec.name]
    problem = _network_problem(url)
    if problem is not None:
        situation = f"{where_looked}, and {urlsplit(url).netloc} cannot be reached ({problem})"
        raise DataUnavailableError(_advice(spec, situation))


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def _pixels(png: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


def _network_problem(url: str) -> str | None:
    """Returns why an address cannot be fetched, or None if it can.

    TFDS repeats a failed download for minutes, and name resolution has no time limit, so a thread does the test. It
    uses `requests`, as TFDS does, with the same proxies and certificates.
    """
    problem: list[str | None] = [f"no answer within {PROBE_SECONDS:g} s"]

    def probe() -> None:
        import requests

        try:
            with requests.head(url, timeout=PROBE_SECONDS, allow_redirects=True) as answer:
                problem[0] = None if answer.ok else f"HTTP status {answer.status_code}"
        # Whatever happens is the reason to report.
        except Exception as error:
            cause: BaseException = error
            while cause.__context__ is not None:
                cause = cause.__context__
            problem[0] = f"{type(cause).__name__}: {cause}"

    thread = threading.Thread(target=probe, name="ebm_jax-network-probe", daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return problem[0]


def _advice(spec: DatasetSpec, situation: str) -> str:
    """Returns an error message with the ways to get the set."""
    again = "; or run this once with a network, which fills the cache" if spec.name in NAMES else ""
    return (
        f"{spec.name} {situation}. Set EBM_JAX_DATA_DIR (or pass data_dir) to a folder that holds "
        f"{sources.layout_help(spec)}{again}. The data set 'digits' comes with scikit-learn and needs no download."
    )
