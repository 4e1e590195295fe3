"""Small files in the published layouts, and data sets scaled down to fit them."""

import dataclasses
import gzip
import os
import tarfile

import numpy as np
import pytest

from ebm_jax.data import cache, tfds
from ebm_jax.data.specs import SPECS

REAL_DATA_DIR = os.environ.get("EBM_JAX_DATA_DIR")
SIZES = {
    "mnist": (40, 10, 20),
    "fashion_mnist": (40, 10, 20),
    "cifar10": (40, 10, 8),
    "binarized_mnist": (20, 10, 12),
}


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    """No test sees the user's cache, data or network."""
    monkeypatch.delenv("EBM_JAX_DATA_DIR", raising=False)
    monkeypatch.setenv("EBM_JAX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(tfds, "_network_problem", lambda url: "no network in tests")


@pytest.fixture
def real_data_dir():
    if REAL_DATA_DIR is None:
        pytest.skip("EBM_JAX_DATA_DIR is not set")
    return REAL_DATA_DIR


@pytest.fixture
def small(monkeypatch):
    """Every data set with a few images."""
    for name, sizes in SIZES.items():
        monkeypatch.setitem(SPECS, name, dataclasses.replace(SPECS[name], sizes=sizes, digest=None))
    return SPECS


class Files:
    """Random content of each data set, written in its published layout."""

    def __init__(self, folder):
        self.folder = folder
        random = np.random.RandomState(3)
        self.idx_images = random.randint(0, 256, (70, 28, 28)).astype(np.uint8)
        self.idx_labels = np.tile(np.arange(10, dtype=np.uint8), 7)
        self.cifar_images = random.randint(0, 256, (58, 32, 32, 3)).astype(np.uint8)
        self.cifar_labels = random.randint(0, 10, 58).astype(np.uint8)
        self.bits = random.randint(0, 2, (42, 784)).astype(np.uint8)

    def write_idx(self, name="mnist", packed=True):
        place = self.folder / name
        place.mkdir(parents=True, exist_ok=True)
        for stem, rows in (("train", slice(0, 50)), ("t10k", slice(50, 70))):
            for kind, array in (
                ("images-idx3", self.idx_images[rows]),
                ("labels-idx1", self.idx_labels[rows]),
            ):
                content = (
                    bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
                )
                path = place / f"{stem}-{kind}-ubyte{'.gz' if packed else ''}"
                path.write_bytes(gzip.compress(content, 1) if packed else content)
        return self.folder

    def write_cifar(self, place):
        place = self.folder / place
        place.mkdir(parents=True, exist_ok=True)
        names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
        starts = [0, 10, 20, 30, 40, 50, 58]
        for name, start, stop in zip(names, starts[:-1], starts[1:], strict=True):
            content = b""
            for image, label in zip(
                self.cifar_images[start:stop], self.cifar_labels[start:stop], strict=True
            ):
                content += bytes([label]) + b"".join(image[:, :, channel].tobytes() for channel in range(3))
            (place / name).write_bytes(content)
        return self.folder

    def write_cifar_tar(self, path):
        self.write_cifar("unpacked/cifar-10-batches-bin")
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(self.folder / path, "w:gz", compresslevel=1) as archive:
            archive.add(self.folder / "unpacked/cifar-10-batches-bin", "cifar-10-batches-bin")
        return self.folder

    def write_binarized(self):
        place = self.folder / "binarized_mnist"
        place.mkdir(parents=True, exist_ok=True)
        packed = np.packbits(self.bits, axis=1)
        path = place / "binarized_mnist_packedbits.npz"
        np.savez(path, train=packed[:20], valid=packed[20:30], test=packed[30:])
        return self.folder


@pytest.fixture
def files(small, tmp_path):
    return Files(tmp_path / "files")


@pytest.fixture
def publish(monkeypatch):
    """Makes the content of some arrays count as the published one."""

    def publish(name, arrays):
        digest = cache.content_digest(arrays)
        monkeypatch.setitem(SPECS, name, dataclasses.replace(SPECS[name], digest=digest))

    return publish
