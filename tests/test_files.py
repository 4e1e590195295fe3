"""Files that others made: pipes, devices, and archives that unpack to more than they should."""

import os
import signal
import tracemalloc
import zipfile

import numpy as np
import pytest

from ebm_jax import files

BOMB = 30_000_000


@pytest.fixture(autouse=True)
def never_waits():
    """Ends a test that waits for the writer of a pipe."""

    def give_up(*_):
        raise TimeoutError("a file was waited for")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_arrays_come_back_as_numpy_wrote_them(tmp_path):
    arrays = {
        "scalar": np.float32(3),
        "empty": np.zeros((0, 3)),
        "columns": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
        "text": np.asarray("é = 1"),
        "bits": np.array([True, False]),
        "half": np.arange(3, dtype=np.float16),
        "complex": np.array([1 + 2j]),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **arrays)
        found = files.read_npz(tmp_path / "x.npz", 10_000)
        assert list(found) == list(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array, strict=True)
    for array in arrays.values():
        np.save(tmp_path / "x.npy", array)
        np.testing.assert_array_equal(files.read_npy(tmp_path / "x.npy"), array, strict=True)
    np.save(tmp_path / "x.npy", arrays["columns"])
    mapped = files.map_npy(tmp_path / "x.npy")
    assert isinstance(mapped, np.memmap) and not mapped.flags.writeable
    np.testing.assert_array_equal(mapped, arrays["columns"], strict=True)


def test_pipes_devices_and_folders_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.symlink(tmp_path / "pipe", tmp_path / "link")
    for path in (tmp_path / "pipe", tmp_path / "link", "/dev/zero"):
        for read in (files.open_regular, files.map_npy, files.read_npy, files.read_npz):
            with pytest.raises(ValueError, match="not a regular file"):
                read(path)
    with pytest.raises(IsADirectoryError):
        files.open_regular(tmp_path)
    (tmp_path / "long").write_bytes(bytes(11))
    assert files.read_bytes(tmp_path / "long", 11) == bytes(11)
    with pytest.raises(ValueError, match="more than 10 bytes"):
        files.read_bytes(tmp_path / "long", 10)


def understate(path, content):
    """Writes an archive whose one member says that it unpacks to 200 bytes, in both of its headers."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
    size = len(content).to_bytes(4, "little")
    packed = path.read_bytes()
    assert packed.count(size) == 2
    path.write_bytes(packed.replace(size, (200).to_bytes(4, "little")))


def overstate(path):
    """Writes an archive with an array whose header claims 10¹⁵ numbers."""
    np.savez(path, x=np.zeros(1000))
    with zipfile.ZipFile(path) as archive:
        content = archive.read("x.npy").replace(b"(1000,)", b"(10000000000000000,)")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", content)


@pytest.mark.parametrize("kind", ["zeros", "understated", "overstated", "bzip2"])
def test_bombs_are_refused_before_they_take_memory(tmp_path, kind):
    path = tmp_path / "x.npz"
    if kind == "zeros":
        np.savez_compressed(path, x=np.zeros(BOMB, np.uint8))
    elif kind == "understated":
        understate(path, bytes(BOMB))
    elif kind == "overstated":
        overstate(path)
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
            archive.writestr("x.npy", bytes(1000))
    tracemalloc.start()
    try:
        with pytest.raises((ValueError, zipfile.BadZipFile)):
            files.read_npz(path, 100_000)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("array", [np.array([{}]), np.zeros(1, "M8[s]"), np.zeros(1, [("a", "f4")])], ids=str)
def test_arrays_that_are_no_numbers_are_refused(tmp_path, array):
    np.savez(tmp_path / "x.npz", x=array)
    with pytest.raises(ValueError, match="something else than arrays of numbers"):
        files.read_npz(tmp_path / "x.npz", 10_000)


def test_errors_are_told_on_one_printable_line():
    assert files.reason(ValueError("a\nb\x1b[2J")) == r"a b\x1b[2J"
    assert files.reason(EOFError()) == "EOFError"
    assert len(files.reason(ValueError("x" * 10**6))) == 200
