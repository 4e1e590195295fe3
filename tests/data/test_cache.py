import dataclasses
import errno
import gzip
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from ebm_jax import data
from ebm_jax.data import cache, sources
from ebm_jax.data.specs import SPECS


@pytest.fixture
def reads(monkeypatch):
    """Counts how often source files are parsed."""
    counts = []
    original = sources.read_idx_set
    monkeypatch.setattr(sources, "read_idx_set", lambda *args: counts.append(1) or original(*args))
    return counts


def entry(tmp_path):
    (folder,) = (tmp_path / "cache").glob("mnist-*")
    return folder


def test_second_load_maps_the_cache_and_opens_no_source(files, reads, monkeypatch, tmp_path):
    folder = files.write_idx()
    first = data.load("mnist", data_dir=folder)

    def refuse(*args, **kwargs):
        raise AssertionError("a source file was opened")

    monkeypatch.setattr(gzip, "open", refuse)
    second = data.load("mnist", data_dir=folder)
    assert len(reads) == 1
    assert isinstance(second.train.images, np.memmap)
    np.testing.assert_array_equal(first.test.images, second.test.images)
    np.testing.assert_array_equal(second.test.images, files.idx_images[50:])
    assert not [path for path in (tmp_path / "cache").rglob("*") if ".tmp" in path.name]


def test_entry_is_named_by_its_content_wherever_the_files_lie(files, reads, tmp_path):
    folder = files.write_idx()
    dataset = data.load("mnist", data_dir=folder)
    arrays = sources.Arrays(files.idx_images, files.idx_labels.astype(np.int32))
    assert entry(tmp_path).name == f"mnist-{cache.content_digest(arrays)[:16]}"
    os.rename(folder, tmp_path / "moved")
    moved = data.load("mnist", data_dir=tmp_path / "moved")
    # Read again, stored once.
    assert len(reads) == 2 and entry(tmp_path).is_dir()
    np.testing.assert_array_equal(dataset.train.images, moved.train.images)


def test_content_digest_sees_values_shapes_dtypes_and_labels():
    images, labels = np.zeros((4, 2, 2), np.uint8), np.zeros(4, np.int32)
    changed = images.copy()
    changed[3, 1, 1] = 1
    variants = [
        sources.Arrays(images, labels),
        sources.Arrays(changed, labels),
        sources.Arrays(images.reshape(2, 2, 4), labels),
        sources.Arrays(images, labels + 1),
        sources.Arrays(images, None),
    ]
    assert len({cache.content_digest(arrays) for arrays in variants}) == len(variants)


def test_changed_files_of_same_size_and_modification_time_are_read_again(files):
    folder = files.write_idx(packed=False)
    path = folder / "mnist" / "train-images-idx3-ubyte"
    before = path.stat()
    data.load("mnist", data_dir=folder)
    changed = 255 - files.idx_images[:50]
    path.write_bytes(path.read_bytes()[:16] + changed.tobytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size and path.stat().st_mtime_ns == before.st_mtime_ns
    np.testing.assert_array_equal(data.load("mnist", data_dir=folder).train.images, changed[:40])


def test_files_replaced_while_read_are_not_remembered(files, monkeypatch):
    folder = files.write_idx()
    fingerprint = ["old"]
    reads = []
    read_idx_set = sources.read_idx_set

    def replaced_meanwhile(*args):
        fingerprint[0] = "new"
        reads.append(1)
        return read_idx_set(*args)

    monkeypatch.setattr(cache, "source_fingerprint", lambda paths: fingerprint[0])
    monkeypatch.setattr(sources, "read_idx_set", replaced_meanwhile)
    data.load("mnist", data_dir=folder)
    fingerprint[0] = "old"
    data.load("mnist", data_dir=folder)
    assert len(reads) == 2


@pytest.mark.parametrize("damage", ["truncated", "longer", "missing", "manifest", "no manifest"])
def test_damaged_entry_is_rebuilt(files, reads, damage, tmp_path):
    folder = files.write_idx()
    data.load("mnist", data_dir=folder)
    place = entry(tmp_path)
    if damage == "truncated":
        os.truncate(place / "images.npy", (place / "images.npy").stat().st_size - 1)
    elif damage == "longer":
        with open(place / "images.npy", "ab") as stream:
            stream.write(b"0")
    elif damage == "missing":
        (place / "labels.npy").unlink()
    elif damage == "manifest":
        (place / "manifest.json").write_text('{"format": 1')
    else:
        (place / "manifest.json").unlink()
    dataset = data.load("mnist", data_dir=folder)
    np.testing.assert_array_equal(dataset.test.images, files.idx_images[50:])
    assert len(reads) == 2
    assert isinstance(data.load("mnist", data_dir=folder).test.images, np.memmap) and len(reads) == 2
    assert not [path for path in (tmp_path / "cache").rglob("*") if ".tmp" in path.name]


@pytest.fixture
def hashes(monkeypatch):
    """Counts how often cached files are read to be hashed, as if in a fresh process."""
    counts = []
    original = cache.files.read_npy
    monkeypatch.setattr(cache.files, "read_npy", lambda path: counts.append(path.name) or original(path))
    monkeypatch.setattr(cache, "_verified", set())
    return counts


@pytest.mark.parametrize("name", ["images", "labels"])
def test_content_that_changed_in_place_is_made_anew(files, reads, hashes, name, tmp_path):
    folder = files.write_idx()
    data.load("mnist", data_dir=folder)
    data.load("mnist", data_dir=folder)
    assert not hashes
    path = entry(tmp_path) / f"{name}.npy"
    before = path.stat()
    with open(path, "r+b") as stream:
        stream.seek(-50, os.SEEK_END)
        stream.write(b"\x01" * 50)
    # Even if the modification time is set back.
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.warns(RuntimeWarning, match="was changed after it was stored"):
        dataset = data.load("mnist", data_dir=folder)
    np.testing.assert_array_equal(dataset.test.images, files.idx_images[50:])
    np.testing.assert_array_equal(dataset.test.labels, files.idx_labels[50:])
    assert len(reads) == 2
    hashes.clear()
    data.load("mnist", data_dir=folder)
    assert len(reads) == 2 and not hashes


@pytest.mark.parametrize("writable", [True, False])
def test_entry_whose_times_moved_is_hashed_once(files, reads, hashes, writable, monkeypatch, tmp_path):
    folder = files.write_idx()
    data.load("mnist", data_dir=folder)
    for path in entry(tmp_path).iterdir():
        os.utime(path)
    if not writable:

        def refuse(*args):
            raise PermissionError

        monkeypatch.setattr(cache, "_write_manifest", refuse)
    for _ in range(2):
        dataset = data.load("mnist", data_dir=folder)
        np.testing.assert_array_equal(dataset.test.images, files.idx_images[50:])
        assert hashes == ["images.npy", "labels.npy"] and len(reads) == 1
    # The manifest has the new times, so another process does not hash again.
    monkeypatch.setattr(cache, "_verified", set())
    data.load("mnist", data_dir=folder)
    assert len(hashes) == (2 if writable else 4) and len(reads) == 1


def test_manifest_of_sizes_alone_is_brought_up_to_date(files, reads, hashes, tmp_path):
    folder = files.write_idx()
    data.load("mnist", data_dir=folder)
    path = entry(tmp_path) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"] = {name: stamps[0] for name, stamps in manifest["files"].items()}
    path.write_text(json.dumps(manifest))
    for _ in range(2):
        data.load("mnist", data_dir=folder)
        assert len(hashes) == 2 and len(reads) == 1


@pytest.mark.parametrize("name", ["manifest.json", "images.npy", "labels.npy", "link"])
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_pipe_or_folder_in_place_of_a_cached_file(files, reads, name, kind, tmp_path):
    folder = files.write_idx()
    data.load("mnist", data_dir=folder)
    (link,) = (tmp_path / "cache" / "sources").iterdir()
    path = link if name == "link" else entry(tmp_path) / name
    path.unlink()
    (os.mkfifo if kind == "pipe" else os.mkdir)(path)
    with warnings.catch_warnings():
        # A folder in place of a link cannot be replaced by a link.
        warnings.filterwarnings("ignore", "prepared data is not kept")
        dataset = data.load("mnist", data_dir=folder)
    np.testing.assert_array_equal(dataset.test.images, files.idx_images[50:])
    assert len(reads) == 2


def test_without_a_folder_only_published_content_is_served(files, publish):
    folder = files.write_idx()
    data.load("mnist", data_dir=folder)
    with pytest.raises(data.DataUnavailableError):
        data.load("mnist")
    publish("mnist", sources.Arrays(files.idx_images, files.idx_labels.astype(np.int32)))
    np.testing.assert_array_equal(data.load("mnist").test.images, files.idx_images[50:])


def test_unwritable_cache_warns_and_still_loads(files, tmp_path):
    (tmp_path / "blocked").write_text("a file, not a folder")
    with pytest.warns(RuntimeWarning, match="EBM_JAX_CACHE_DIR"):
        dataset = data.load("mnist", data_dir=files.write_idx(), cache_dir=tmp_path / "blocked")
    np.testing.assert_array_equal(dataset.train.images, files.idx_images[:40])


def test_cache_folder_is_argument_then_variable_then_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.directory(tmp_path / "given") == tmp_path / "given"
    assert cache.directory() == tmp_path / "cache"
    monkeypatch.delenv("EBM_JAX_CACHE_DIR")
    assert cache.directory() == tmp_path / "xdg" / "ebm_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.directory() == tmp_path / ".cache" / "ebm_jax"
    # The home of an unknown user is no folder, and no reason to stop.
    assert str(cache.directory("~nobody-of-this-name/x")) == "~nobody-of-this-name/x"


WRITER = """
import dataclasses, os, shutil, sys
from ebm_jax.data import cache, sources
from ebm_jax.data.specs import SPECS
import numpy as np
from pathlib import Path
spec = dataclasses.replace(SPECS["mnist"], sizes=(40, 10, 20))
images = (np.arange(70 * 784) % 251).astype(np.uint8).reshape(70, 28, 28)
arrays = sources.Arrays(images, np.zeros(70, np.int32))
digest = cache.content_digest(arrays)
root = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for i in range(60):
    stored = cache.write_entry(root, spec, arrays, digest)
    assert (stored.images == arrays.images).all()
    # Damage it for the others.
    if i % 4 == 0:
        try:
            os.truncate(root / f"mnist-{digest[:16]}" / "labels.npy", 100)
        except OSError:
            pass
print("done")
"""


def test_processes_that_write_and_damage_the_same_entry_never_read_it_wrong(tmp_path):
    def start():
        command = [sys.executable, "-W", "error::RuntimeWarning", "-c", WRITER, str(tmp_path)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, text=True, **pipes)

    processes = [start(), start()]
    for process in processes:
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 0 and out == "done\n", errors
    assert not list(tmp_path.glob(".tmp*"))


def test_an_entry_that_vanishes_before_it_is_looked_at_is_written(tmp_path, monkeypatch):
    """Another process has just moved a damaged entry aside, whose folder was in the way."""
    spec = dataclasses.replace(SPECS["mnist"], sizes=(2, 1, 1))
    arrays = sources.Arrays(np.zeros((4, 28, 28), np.uint8), np.zeros(4, np.int32))
    digest = cache.content_digest(arrays)
    target, genuine, refused = tmp_path / f"mnist-{digest[:16]}", os.replace, []

    def replace(old, new):
        if Path(new) == target and not refused:
            refused.append(old)
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        genuine(old, new)

    monkeypatch.setattr(cache.os, "replace", replace)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.write_entry(tmp_path, spec, arrays, digest)
    assert refused and (target / "manifest.json").exists()


def test_full_size_mnist_loads_from_cache_within_50_ms(tmp_path):
    spec = SPECS["mnist"]
    images = np.zeros((spec.n_images, 28, 28), np.uint8)
    folder = tmp_path / "files" / "mnist"
    folder.mkdir(parents=True)
    for stem, n in (("train", 60_000), ("t10k", 10_000)):
        for kind, array in (("images-idx3", images[:n]), ("labels-idx1", images[:n, 0, 0])):
            header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
            (folder / f"{stem}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes(), 1))
    data.load("mnist", data_dir=tmp_path / "files")
    times = []
    for _ in range(3):
        start = time.perf_counter()
        dataset = data.load("mnist", data_dir=tmp_path / "files")
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05
    assert [len(split.images) for split in (dataset.train, dataset.validation, dataset.test)] == [
        54_000,
        6_000,
        10_000,
    ]
