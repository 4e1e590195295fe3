"""Preparation by TFDS is the real one; only its download step is fed from local files."""

import io
import os
import sys
import threading
import time

import numpy as np
import pytest
import requests

from ebm_jax import data
from ebm_jax.data import sources, tfds
from ebm_jax.data.specs import SPECS
from tests.test_files import never_waits  # noqa: F401

# The fixture that isolates every test replaces it.
network_problem = tfds._network_problem


class LocalDownloads:
    """Stands for the download manager of TFDS."""

    downloaded_size = 0

    def __init__(self, folder):
        self.folder = folder
        self.asked = []

    def download(self, urls):
        if isinstance(urls, str):
            self.asked.append(urls)
            return self.folder / urls.rsplit("/", 1)[1]
        self.asked.extend(urls.values())
        return {key: self.folder / url.rsplit("/", 1)[1] for key, url in urls.items()}


@pytest.fixture
def downloads(monkeypatch):
    """Lets a folder answer for the network; returns the manager in use."""
    make_builder = tfds.make_builder

    def use(folder):
        manager = LocalDownloads(folder)

        def make(spec, place):
            builder = make_builder(spec, place)
            builder._make_download_manager = lambda **kwargs: manager
            return builder

        monkeypatch.setattr(tfds, "make_builder", make)
        monkeypatch.setattr(tfds, "_network_problem", lambda url: None)
        return manager

    return use


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_downloaded_files_are_prepared_and_read_back_as_the_local_ones(
    name, files, downloads, publish, tmp_path
):
    if name == "cifar10":
        manager = downloads(files.write_cifar_tar("cifar-10-binary.tar.gz"))
        images, labels = files.cifar_images, files.cifar_labels
    else:
        manager = downloads(files.write_idx(name) / name)
        images, labels = files.idx_images, files.idx_labels
    publish(name, sources.Arrays(images, labels.astype(np.int32)))
    dataset = data.load(name)
    splits = (dataset.train, dataset.validation, dataset.test)
    np.testing.assert_array_equal(np.concatenate([split.images for split in splits]), images)
    np.testing.assert_array_equal(np.concatenate([split.labels for split in splits]), labels)
    assert "tensorflow" not in sys.modules

    # The prepared copy is the stock layout: the public function reads it by name, with its class names.
    import tensorflow_datasets

    source = tensorflow_datasets.data_source(name, split="train", data_dir=str(tmp_path / "cache" / "tfds"))
    assert len(source) == 50
    np.testing.assert_array_equal(source[3]["image"].reshape(images[3].shape), images[3])
    assert int(source[3]["label"]) == labels[3]
    if name == "cifar10":
        assert source[3]["id"] == b"train_00003"
        assert source.dataset_info.features["label"].names == list(SPECS[name].class_names)

    # Every address asked for is one whose size and SHA-256 TFDS knows, and the network probe uses one of them.
    known = tensorflow_datasets.core.download.checksums.get_all_url_infos()
    assert set(manager.asked) <= set(known) and tfds._PROBE_URLS[name] in manager.asked


def test_a_prepared_copy_needs_no_network(files, downloads, publish, monkeypatch, tmp_path):
    downloads(files.write_idx() / "mnist")
    publish("mnist", sources.Arrays(files.idx_images, files.idx_labels.astype(np.int32)))
    data.load("mnist")
    (entry,) = (tmp_path / "cache").glob("mnist-*")
    (entry / "images.npy").unlink()
    monkeypatch.setattr(tfds, "_network_problem", lambda url: pytest.fail("the network was asked"))
    np.testing.assert_array_equal(data.load("mnist").test.images, files.idx_images[50:])


def test_damaged_copy_is_named_with_what_to_do(files, downloads, publish, monkeypatch, tmp_path):
    downloads(files.write_idx() / "mnist")
    publish("mnist", sources.Arrays(files.idx_images, files.idx_labels.astype(np.int32)))
    data.load("mnist")
    (entry,) = (tmp_path / "cache").glob("mnist-*")
    (entry / "images.npy").unlink()
    place = tmp_path / "cache" / "tfds" / "mnist"
    for path in sorted(path for path in place.rglob("*") if path.suffix != ".json" or "info" in path.name):
        if path.is_file():
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2])
            with pytest.raises(
                data.DataFileError, match=r"tfds/mnist \(.*\); delete it to download it again"
            ):
                data.load("mnist")
            path.write_bytes(content)


def test_a_pipe_in_a_prepared_copy_is_refused_at_once(tmp_path):
    place = tmp_path / "cache" / "tfds" / "mnist" / "3.0.1"
    place.mkdir(parents=True)
    os.mkfifo(place / "dataset_info.json")
    with pytest.raises(data.DataFileError, match=r"dataset_info\.json is a pipe or a device"):
        data.load("mnist")


def test_content_other_than_the_published_one_is_refused(files, downloads):
    downloads(files.write_idx() / "mnist")
    with pytest.raises(data.DataFileError, match=r"tfds/mnist does not hold the published data.*70 images"):
        data.load("mnist")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_offline_the_error_says_what_to_do(name):
    with pytest.raises(data.DataUnavailableError, match="EBM_JAX_DATA_DIR") as error:
        data.load(name)
    message = str(error.value)
    assert (
        sources.layout_help(SPECS[name]) in message
        and "no network in tests" in message
        and "'digits'" in message
    )


def test_binarized_mnist_is_never_downloaded():
    with pytest.raises(
        data.DataUnavailableError, match=r"cannot be downloaded.*binarized_mnist_packedbits\.npz"
    ):
        data.load("binarized_mnist")


def test_a_network_that_never_answers_is_given_up_within_5_s(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(requests, "head", lambda *args, **kwargs: release.wait(60))
    monkeypatch.setattr(tfds, "PROBE_SECONDS", 0.5)
    start = time.perf_counter()
    problem = network_problem("https://example.org")
    release.set()
    assert time.perf_counter() - start < 2
    assert problem == "no answer within 0.5 s"


def test_limit_of_the_probe_leaves_room_within_5_s():
    assert 1 <= tfds.PROBE_SECONDS <= 4


def test_probe_reports_refusal_status_and_success(monkeypatch):
    problem = network_problem("http://127.0.0.1:9/")
    assert problem is not None and "refused" in problem

    def answer(status):
        response = requests.Response()
        response.raw = io.BytesIO()
        response.status_code = status
        monkeypatch.setattr(requests, "head", lambda *args, **kwargs: response)
        return network_problem("https://example.org")

    assert answer(403) == "HTTP status 403"
    assert answer(200) is None
