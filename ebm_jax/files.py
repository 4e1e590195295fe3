"""Reading files that others may have made: regular files only, and sizes are known before memory is taken.

Opening a named pipe waits for its writer, a device may never end, and a small archive can unpack to more than the
memory holds. The functions here refuse all of these. Their errors do not name the file: the caller does, and adds the
remedy.
"""

from __future__ import annotations

import math
import os
import re
import stat
import zipfile
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

# `numpy.save` writes this text. Its own parser also takes any other Python literal, at any depth.
_HEADER = re.compile(
    rb"\{'descr': '([<|](?:b1|[iu][1248]|f[248]|c8|c16|U[1-9]\d{0,8}))', 'fortran_order': (True|False), "
    rb"'shape': \((\d{1,18}(?:, \d{1,18})*)?,?\), \} *\n"
)
_MAGIC = b"\x93NUMPY\x01\x00"
_LONGEST_HEADER = len(_MAGIC) + 2 + 0xFFFF


class _Npy(NamedTuple):
    """What the header of a `.npy` file says, and the number of bytes in front of the data."""

    dtype: np.dtype
    shape: tuple[int, ...]
    order: str
    offset: int


def expand_user(path: str | os.PathLike[str]) -> Path:
    """Returns a path with a leading ~ or ~user replaced; one of an unknown user is left as it is."""
    return Path(os.path.expanduser(path))


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a regular file for reading, without waiting.

    Raises:
      OSError: If there is no such file, or it cannot be opened.
      ValueError: If it is a named pipe, a device or another kind of file without an end.
    """
    file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise ValueError("it is a pipe or a device, not a regular file")


def read_bytes(path: str | os.PathLike[str], limit: int) -> bytes:
    """Returns the content of a regular file of at most `limit` bytes.

    Raises:
      OSError: If it cannot be read.
      ValueError: If it is not a regular file, or longer.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it holds more than {limit:,} bytes")
    return content


def read_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a `.npy` file into memory, read-only.

    Raises:
      OSError: If it cannot be read.
      ValueError: If it is not a regular file, not a `.npy` file of numbers, or longer or shorter than its shape says.
    """
    with open_regular(path) as file:
        return _parse(file.read())


def map_npy(path: str | os.PathLike[str]) -> np.memmap:
    """Maps a `.npy` file into memory, read-only. Raises what `read_npy` does."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        header = _read_header(file.read(_LONGEST_HEADER), size)
        return np.memmap(file, header.dtype, "r", header.offset, header.shape, header.order)  # type: ignore[call-overload]


def read_npz(path: str | os.PathLike[str], limit: int | None = None) -> dict[str, np.ndarray]:
    """Reads the arrays of numbers and texts of an `.npz` file.

    Args:
      path: Name of the file.
      limit: Most bytes that all members may take together when unpacked; by default the size of the file, which
        suffices for what `numpy.savez` wrote (it does not compress).

    Returns:
      The arrays by name, read-only.

    Raises:
      FileNotFoundError: If there is no such file.
      Exception: Of many types, if it is not a regular file, damaged, or holds more than the limit: the module `zipfile`
        lists none. Catch them all.
    """
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        limit = os.fstat(file.fileno()).st_size if limit is None else limit
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if total > limit:
            raise ValueError(f"its arrays unpack to {total:,} bytes; at most {limit:,} are expected")
        # Python unpacks the other kinds of compression without a bound.
        if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
            raise ValueError("its compression is not one that NumPy writes")
        return {member.filename.removesuffix(".npy"): _read_member(archive, member) for member in members}


def reason(error: BaseException) -> str:
    """Returns the message of an error, or else its type, as `one_line` does."""
    return one_line(str(error) or type(error).__name__)


def one_line(text: str) -> str:
    """Returns a text from a file as a part of a message: on one line, cut to 200 characters, all of them printable."""
    shown = " ".join(text[:1000].split())
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in shown)
    return shown if len(shown) <= 200 else f"{shown[:199]}…"


def _open_at_once(path: str, flags: int) -> int:
    # Windows has no such flag, and no named pipes among its files.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as stream:
        # A read of a given length never unpacks more, even if the archive understates the member.
        return _parse(stream.read(member.file_size + 1))


def _parse(content: bytes) -> np.ndarray:
    header = _read_header(content, len(content))
    return np.ndarray(header.shape, header.dtype, content, header.offset, order=header.order)  # type: ignore[call-overload]


def _read_header(content: bytes, size: int) -> _Npy:
    """Returns the header of a `.npy` file of `size` bytes that begins with `content`."""
    start = len(_MAGIC) + 2
    offset = start + int.from_bytes(content[len(_MAGIC) : start], "little")
    match = _HEADER.fullmatch(content[start:offset])
    if content[: len(_MAGIC)] != _MAGIC or match is None:
        raise ValueError("it holds something else than arrays of numbers as NumPy writes them")
    shape = tuple(int(n) for n in match[3].split(b", ")) if match[3] else ()
    dtype = np.dtype(match[1].decode())
    expected = offset + math.prod(shape) * dtype.itemsize
    if expected != size:
        raise ValueError(f"an array of it takes {size:,} bytes; its shape and dtype say {expected:,}")
    return _Npy(dtype, shape, "F" if match[2] == b"True" else "C", offset)
