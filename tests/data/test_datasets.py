import gzip
import os
import tarfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from ebm_jax import data
from ebm_jax.data import sources
from ebm_jax.data.specs import SPECS


def joined(dataset, field):
    splits = (dataset.train, dataset.validation, dataset.test)
    return np.concatenate([getattr(split, field) for split in splits])


def test_digits_are_the_published_ones_exactly_invertible_and_split():
    dataset = data.load()
    assert [len(split.images) for split in (dataset.train, dataset.validation, dataset.test)] == [
        1437,
        180,
        180,
    ]
    images, labels = joined(dataset, "images"), joined(dataset, "labels")
    assert images.dtype == np.uint8 and images.shape == (1797, 8, 8) and images.max() == 255
    assert labels.dtype == np.int32
    raw, target = load_digits(return_X_y=True)
    recovered = images.astype(int) * 16 // 255
    order = np.random.RandomState(0).permutation(1797)
    np.testing.assert_array_equal(recovered.reshape(-1, 64), raw[order])
    np.testing.assert_array_equal(labels, target[order])
    np.testing.assert_array_equal(data.discretize(images), np.minimum(recovered // 4, 3))
    for split in (dataset.train, dataset.validation, dataset.test):
        assert set(split.labels.tolist()) == set(range(10))


def test_loading_twice_gives_the_same_and_arrays_are_read_only():
    first, second = data.load("digits"), data.load("digits")
    np.testing.assert_array_equal(first.validation.images, second.validation.images)
    with pytest.raises(ValueError, match="read-only"):
        first.train.images[0] = 0


def test_classes():
    everything = data.load("digits")
    three = data.load("digits", classes=3)
    assert three.classes == (0, 1, 2) and set(three.train.labels.tolist()) == {0, 1, 2}
    some = data.load("digits", classes=[7, np.int64(5)])
    assert some.classes == (7, 5)
    keep = np.isin(everything.test.labels, [5, 7])
    np.testing.assert_array_equal(some.test.images, everything.test.images[keep])
    np.testing.assert_array_equal(some.test.labels, everything.test.labels[keep])
    assert len(data.load("digits", classes=10).train.images) == 1437


@pytest.mark.parametrize("classes", [0, 11, -1, True, [], [3, 3], [10], [-1], [True, 2]])
def test_bad_classes_are_refused_with_value_and_remedy(classes):
    with pytest.raises(ValueError, match=r"classes=.*0 to 9") as error:
        data.load("digits", classes=classes)
    assert repr(classes) in str(error.value)


def test_classes_of_an_unlabelled_set_are_refused():
    with pytest.raises(ValueError, match="'binarized_mnist' has no labels"):
        data.load("binarized_mnist", classes=[1])


def test_unknown_name_lists_the_names_and_the_nearest():
    with pytest.raises(ValueError, match=r"did you mean 'fashion_mnist'\?.*'cifar10'"):
        data.load("Fashion-MNIST")
    with pytest.raises(ValueError, match=r"'imagenet'\. The data sets are 'digits', 'mnist'"):
        data.load("imagenet")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("packed", [True, False])
def test_idx_files(files, name, packed):
    dataset = data.load(name, data_dir=files.write_idx(name, packed))
    assert dataset.image_shape == (28, 28)
    np.testing.assert_array_equal(dataset.train.images, files.idx_images[:40])
    np.testing.assert_array_equal(dataset.validation.images, files.idx_images[40:50])
    np.testing.assert_array_equal(dataset.test.images, files.idx_images[50:])
    np.testing.assert_array_equal(joined(dataset, "labels"), files.idx_labels)


def test_idx_files_directly_in_the_folder_are_told_apart_by_its_name(files, tmp_path):
    files.write_idx("mnist")
    files.write_idx("fashion_mnist")
    assert len(data.load("mnist", data_dir=files.folder / "mnist").train.images) == 40
    assert len(data.load("fashion_mnist", data_dir=files.folder / "fashion_mnist").train.images) == 40
    for name, folder in (("fashion_mnist", "mnist"), ("mnist", "fashion_mnist")):
        with pytest.raises(data.DataUnavailableError):
            data.load(name, data_dir=files.folder / folder)


@pytest.mark.parametrize(
    "place",
    [
        "cifar-10-batches-bin",
        "cifar10/cifar-10-batches-bin",
        "cifar-10-binary.tar.gz",
        "cifar10/cifar-10-binary.tar.gz",
    ],
)
def test_cifar10_layouts(files, place):
    folder = files.write_cifar_tar(place) if place.endswith("gz") else files.write_cifar(place)
    dataset = data.load("cifar10", data_dir=folder, classes=10)
    np.testing.assert_array_equal(joined(dataset, "images"), files.cifar_images)
    np.testing.assert_array_equal(joined(dataset, "labels"), files.cifar_labels)
    assert len(dataset.validation.images) == 10 and dataset.class_names[6] == "frog"


def test_binarized_mnist_is_shuffled_within_its_splits_only(files):
    dataset = data.load("binarized_mnist", data_dir=files.write_binarized())
    assert dataset.train.labels is None and dataset.classes is None
    parts = zip(
        (dataset.train, dataset.validation, dataset.test), np.split(files.bits, [20, 30]), strict=True
    )
    for split, published in parts:
        order = np.random.RandomState(0).permutation(len(published))
        assert split.images.dtype == np.uint8
        np.testing.assert_array_equal(split.images.reshape(-1, 784), published[order])


def test_environment_names_the_folder_and_the_argument_goes_first(files, monkeypatch, tmp_path):
    monkeypatch.setenv("EBM_JAX_DATA_DIR", str(files.write_idx()))
    assert len(data.load("mnist").test.images) == 20
    (tmp_path / "other" / "mnist").mkdir(parents=True)
    with pytest.raises(data.DataUnavailableError, match=r"data_dir .*other"):
        data.load("mnist", data_dir=tmp_path / "other")


def test_missing_folder_is_an_error(tmp_path):
    for folder in (tmp_path / "nowhere", "~nobody-of-this-name/nowhere"):
        with pytest.raises(
            data.DataFileError,
            match=r"data_dir is .*nowhere.* not a folder; it should hold mnist/train-images",
        ):
            data.load("mnist", data_dir=folder)


def test_link_to_itself_is_no_folder(tmp_path):
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    with pytest.raises(data.DataFileError, match="not a folder"):
        data.load("mnist", data_dir=tmp_path / "loop")
    with pytest.raises(
        data.DataFileError, match=r"cannot be searched \(.*too long.*it should hold mnist/train-"
    ):
        data.load("mnist", data_dir=tmp_path / ("x" * 5000))


def broken_idx(path, how):
    content = gzip.decompress(path.read_bytes())
    if how == "cut gzip":
        path.write_bytes(path.read_bytes()[:-20])
    elif how == "flipped bit":
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 4
        path.write_bytes(bytes(raw))
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "web page":
        path.write_bytes(b"<html>404</html>")
    else:
        changed = {
            "short": content[:-1],
            "long": content + b"\0",
            "wrong magic": b"\0\0\x0d" + content[3:],
            "wrong count": content[:7] + b"\x07" + content[8:],
        }[how]
        path.write_bytes(gzip.compress(changed))


@pytest.mark.parametrize(
    "how",
    [
        "cut gzip",
        "flipped bit",
        "empty",
        "web page",
        "short",
        "long",
        "wrong magic",
        "wrong count",
        "missing",
    ],
)
def test_broken_idx_file_is_named_with_its_expected_size(files, how):
    path = files.write_idx() / "mnist" / "train-images-idx3-ubyte.gz"
    if how == "missing":
        path.unlink()
    else:
        broken_idx(path, how)
    with pytest.raises(data.DataFileError) as error:
        data.load("mnist", data_dir=files.folder)
    assert isinstance(error.value, ValueError)
    assert str(path) in str(error.value)
    assert "(50, 28, 28)" in str(error.value) and f"{16 + 50 * 784:,} bytes" in str(error.value)


def test_pipe_in_place_of_a_file_is_refused(files):
    path = files.write_idx() / "mnist" / "train-images-idx3-ubyte.gz"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(
        data.DataFileError, match=r"train-images.* is not a regular file; expected an IDX file"
    ):
        data.load("mnist", data_dir=files.folder)
    with pytest.raises(data.DataFileError, match=r"cannot be read to its end \(it is a pipe or a device"):
        sources.read_idx(path, (50, 28, 28))


# 30 MB of zeros, which is many times the size of each small set.
BOMB = bytes(30_000_000)


def bomb(files, name):
    """Writes a small file in a published format that unpacks to far more than its set."""
    if name == "mnist":
        path = files.write_idx() / "mnist" / "train-images-idx3-ubyte.gz"
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + BOMB, 1))
    elif name == "binarized_mnist":
        path = files.write_binarized() / "binarized_mnist" / sources.BINARIZED_FILE
        np.savez_compressed(path, **dict(np.load(path)), more=np.frombuffer(BOMB, np.uint8))
    else:
        path = files.write_cifar_tar("cifar-10-binary.tar.gz") / "cifar-10-binary.tar.gz"
        other, size = {
            "member": ("cifar-10-batches-bin/data_batch_1.bin", 2_000_000_000_000),
            "other": ("other.bin", len(BOMB)),
            "header": ("cifar-10-batches-bin/data_batch_1.bin", len(BOMB)),
        }[name]
        info = tarfile.TarInfo(other)
        info.size = size
        if name == "header":
            info.type = tarfile.GNUTYPE_LONGNAME
        content = gzip.decompress(path.read_bytes())
        path.write_bytes(gzip.compress(info.tobuf() + BOMB + content, 1))
    return path


@pytest.mark.parametrize("name", ["mnist", "binarized_mnist", "member", "other", "header"])
def test_files_that_unpack_to_more_than_their_set_are_refused_before_they_take_memory(files, name):
    path = bomb(files, name)
    assert path.stat().st_size < 1_000_000
    tracemalloc.start()
    try:
        with pytest.raises(data.DataFileError, match=f"{path.name}.*expected"):
            data.load(name if "mnist" in name else "cifar10", data_dir=files.folder)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_real_sizes_are_in_the_message(files, tmp_path, monkeypatch):
    # With the real specs: seventy images are not MNIST.
    monkeypatch.undo()
    monkeypatch.setenv("EBM_JAX_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(data.DataFileError, match=r"train-images.*\(60000, 28, 28\), 47,040,016 bytes"):
        data.load("mnist", data_dir=files.write_idx())


@pytest.mark.parametrize("how", ["short", "long", "label", "missing"])
def test_broken_cifar_file_is_named_with_its_expected_size(files, how):
    folder = files.write_cifar("cifar-10-batches-bin")
    path = folder / "cifar-10-batches-bin" / "data_batch_3.bin"
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {"short": content[:-1], "long": content + b"\0", "label": b"\x0a" + content[1:]}[how]
        )
    expected = "labels 0 to 9" if how == "label" else f"{10 * 3073:,} bytes"
    with pytest.raises(data.DataFileError, match=f"data_batch_3.bin.*{expected}"):
        data.load("cifar10", data_dir=folder)


def test_broken_cifar_tar_is_named_with_its_expected_size(files):
    path = files.write_cifar_tar("cifar-10-binary.tar.gz") / "cifar-10-binary.tar.gz"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(data.DataFileError, match=r"cifar-10-binary\.tar\.gz.*30,730 bytes"):
        data.load("cifar10", data_dir=files.folder)


@pytest.mark.parametrize("how", ["cut", "key", "shape"])
def test_broken_binarized_file_is_named_with_its_expected_size(files, how):
    path = files.write_binarized() / "binarized_mnist" / sources.BINARIZED_FILE
    parts = dict(np.load(path))
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-300])
    elif how == "key":
        np.savez(path, train=parts["train"], test=parts["test"])
    else:
        np.savez(path, **{**parts, "valid": parts["valid"][:-1]})
    with pytest.raises(
        data.DataFileError, match=r"binarized_mnist_packedbits.npz.*valid of shape \(10, 98\)"
    ):
        data.load("binarized_mnist", data_dir=files.folder)


def test_wrong_label_in_an_idx_file_is_refused(files):
    files.idx_labels[7] = 10
    with pytest.raises(data.DataFileError, match=r"train-labels.* label 10 at row 7"):
        data.load("mnist", data_dir=files.write_idx())


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "binarized_mnist", "cifar10"])
def test_real_files_have_the_published_content(name, real_data_dir):
    spec = SPECS[name]
    if sources.find(spec, Path(real_data_dir)) is None:
        pytest.skip(f"EBM_JAX_DATA_DIR holds no {name}")
    dataset = data.load(name, data_dir=real_data_dir)
    assert [len(split.images) for split in (dataset.train, dataset.validation, dataset.test)] == list(
        spec.sizes
    )
    # Without the folder only an entry with the published content is served.
    start = time.perf_counter()
    again = data.load(name)
    assert time.perf_counter() - start < 0.05
    np.testing.assert_array_equal(again.test.images, dataset.test.images)
