"""Files of a folder that may come from someone else, such as a run that was downloaded.

A name is opened part by part, each relative to the open folder above it, and no symbolic link on the way is followed.
So neither a link of the folder nor one that another process makes meanwhile leads outside. Only regular files are
opened, so no pipe or device blocks the program. The folder itself is the user's choice, and a link may lead to it.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

# What opening a symbolic link, a file in place of a folder, or a pipe or socket that nobody reads gives.
_NOT_REGULAR = (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.EMLINK)


class UnsafeFileError(OSError):
    """A name in a folder that is no regular file there, such as a symbolic link."""


def read(root: Path, name: str) -> bytes:
    """Returns the content of a regular file.

    Args:
      root: The folder.
      name: The file, relative to the folder, with "/" between its parts.

    Returns:
      The content.

    Raises:
      FileNotFoundError: If there is no such file.
      UnsafeFileError: If the name is not that of a regular file inside the folder.
    """
    with _open(root, name, os.O_RDONLY, "rb") as file:
        return file.read()


def is_file(root: Path, name: str) -> bool:
    """Whether the name is that of a regular file inside the folder."""
    try:
        _open(root, name, os.O_RDONLY, "rb").close()
    except OSError:
        return False
    return True


def write(root: Path, name: str, content: bytes) -> None:
    """Writes a file atomically, and makes the folders above it. It is on disk when this returns.

    What has the name already is replaced and never written to, so a link is replaced as well.

    Args:
      root: The folder.
      name: The file, relative to the folder.
      content: All of its content.

    Raises:
      UnsafeFileError: If a part above the file is no folder inside `root`.
      OSError: If it cannot be written.
    """
    with folder_of(root, name, make=True) as (folder, last):
        temporary = f"{last}.{os.getpid()}.tmp"
        # A process of the same number may have left one.
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            with os.fdopen(os.open(temporary, flags, 0o666, dir_fd=folder), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, last, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
            raise


@contextmanager
def written(root: Path, name: str) -> Iterator[Path]:
    """Yields a path in a private folder; what is there at the end becomes the file `name`, as by `write`.

    Libraries that want the path of a file write through this.
    """
    with tempfile.TemporaryDirectory(prefix="ebm_jax_") as scratch:
        path = Path(scratch) / PurePosixPath(name).name
        yield path
        write(root, name, path.read_bytes())


def open_to_append(root: Path, name: str) -> BinaryIO:
    """Opens a regular file to read it and to append to it, and makes it and the folders above it if need be.

    Args:
      root: The folder.
      name: The file, relative to the folder.

    Returns:
      The file. All writing goes to its end.

    Raises:
      UnsafeFileError: If the name is not that of a regular file inside the folder, or the file has a second name.
    """
    return _open(root, name, os.O_RDWR | os.O_CREAT | os.O_APPEND, "ab+")


def make_folder(root: Path, name: str) -> None:
    """Makes a folder, and those above it; raises UnsafeFileError if anything else has such a name."""
    with folder_of(root, f"{name}/x", make=True):
        pass


def remove(root: Path, name: str) -> None:
    """Removes a file, or a folder with all that is in it. A link is removed, and not what it points to."""
    with folder_of(root, name) as (folder, last), suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(last, dir_fd=folder, follow_symlinks=False).st_mode):
            shutil.rmtree(last, dir_fd=folder)
        else:
            os.unlink(last, dir_fd=folder)


def rename(root: Path, name: str, last: str) -> None:
    """Gives a file or folder another last part of its name; what has that name is replaced if it is a file."""
    with folder_of(root, name) as (folder, before):
        os.replace(before, last, src_dir_fd=folder, dst_dir_fd=folder)


@contextmanager
def folder_of(root: Path, name: str, make: bool = False) -> Iterator[tuple[int, str]]:
    """Opens the folder that a name lies in.

    Args:
      root: The folder that the name is relative to.
      name: Parts with "/" between them.
      make: Whether folders on the way are made where they are missing, `root` included.

    Yields:
      The descriptor of the folder, and the last part of the name.

    Raises:
      UnsafeFileError: If a part on the way is no folder, but a symbolic link or a file.
    """
    *above, last = PurePosixPath(name).parts
    if make:
        root.mkdir(parents=True, exist_ok=True)
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for depth, part in enumerate(above):
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=folder)
            with _named_errors(root.joinpath(*above[: depth + 1]), "folder"):
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = below
        yield folder, last
    finally:
        os.close(folder)


def printable(text: object, newlines: bool = False) -> str:
    """Returns a text for a terminal, a log or a page, with control characters as backslash escapes.

    Args:
      text: The text, or another value, which is converted to text.
      newlines: Whether line breaks stay.

    Returns:
      The text, in which every character can be printed.
    """
    return "".join(
        each if each.isprintable() or (newlines and each == "\n") else each.encode("unicode_escape").decode()
        for each in str(text)
    )


def _open(root: Path, name: str, flags: int, mode: str) -> BinaryIO:
    writes, path = bool(flags & os.O_RDWR), root / name
    with folder_of(root, name, make=writes) as (folder, last), _named_errors(path, "file"):
        # Without O_NONBLOCK, opening a pipe would wait for its other end.
        handle = os.open(last, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666, dir_fd=folder)
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        os.close(handle)
        raise _refusal(path, "file")
    if writes and found.st_nlink > 1:
        os.close(handle)
        raise UnsafeFileError(
            f"{path} has a second name (a hard link), under which writing would change it too: copy the folder, and "
            "use the copy"
        )
    return cast(BinaryIO, os.fdopen(handle, mode))


@contextmanager
def _named_errors(path: Path, kind: str) -> Iterator[None]:
    """Completes the errors of opening `path`: the whole path, and UnsafeFileError where it is no `kind`."""
    try:
        yield
    except OSError as error:
        if error.errno in _NOT_REGULAR:
            raise _refusal(path, kind) from error
        error.filename = str(path)
        raise


def _refusal(path: Path, kind: str) -> UnsafeFileError:
    found = "a symbolic link" if path.is_symlink() else f"no {kind}"
    return UnsafeFileError(
        f"{path} is {found}, and is not opened, since it could lead outside the folder: put a {kind} of its own there, "
        "or remove it"
    )
