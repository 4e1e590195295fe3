"""The cache of prepared arrays: memory-mapped `.npy` files under a name that holds the hash of their content.

```
CACHE/mnist-1f0c…/images.npy  labels.npy  manifest.json     one prepared data set, named by its content
CACHE/sources/mnist-77ab….json                              "these source files give that content"
```

An entry is written in a temporary folder and moved into place in one step, so that no reader and no second writer sees
half of it. A link from source files to content is keyed by their paths, sizes and times: files that change are read
again, and files that do not are never opened. The manifest keeps the sizes and times of the entry's own files. Where
they differ, the files are hashed, once in a process, and an entry with other content is made anew.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ebm_jax import files
from ebm_jax.data.sources import Arrays
from ebm_jax.data.specs import DatasetSpec

# Raise this when the layout of entries or the meaning of their arrays changes.
FORMAT = 1
_MANIFEST = "manifest.json"
# Longest manifest or link, in bytes. They take a few hundred.
_LONGEST_TEXT = 100_000

# Entries that this process has hashed and found right: folder, digest and stamps.
_verified: set[tuple[Path, str, str]] = set()


def directory(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Returns the folder of the cache.

    It is the argument, else `EBM_JAX_CACHE_DIR`, else `ebm_jax` in the user's cache folder.
    """
    if cache_dir is not None:
        return files.expand_user(cache_dir)
    if os.environ.get("EBM_JAX_CACHE_DIR"):
        return files.expand_user(os.environ["EBM_JAX_CACHE_DIR"])
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ebm_jax"


def content_digest(arrays: Iterable[np.ndarray | None]) -> str:
    """Returns the SHA-256 of the format version and, for each array, of its dtype, shape and bytes."""
    digest = hashlib.sha256(f"ebm_jax data {FORMAT}".encode())
    for array in arrays:
        if array is not None:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def source_fingerprint(paths: Iterable[Path]) -> str:
    """Returns a hash of the paths, sizes and times of source files. The files are not opened."""
    facts: list[object] = [FORMAT]
    for path in paths:
        facts.append([os.path.realpath(path), *_stamp(path)])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def read_link(root: Path, spec: DatasetSpec, fingerprint: str) -> str | None:
    """Returns the digest of the content that the source files with this fingerprint gave; None if it is unknown."""
    try:
        digest = _read_json(_link_path(root, spec, fingerprint))["digest"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return digest if isinstance(digest, str) else None


def write_link(root: Path, spec: DatasetSpec, fingerprint: str, digest: str) -> None:
    """Records which content the source files with this fingerprint give."""
    path = _link_path(root, spec, fingerprint)
    temporary = path.with_name(_temporary_name())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"digest": digest}))
        os.replace(temporary, path)
    except OSError as error:
        _warn_unwritable(root, error)


def read_entry(root: Path, spec: DatasetSpec, digest: str | None) -> Arrays | None:
    """Opens a prepared data set as read-only memory maps.

    The content is hashed if the files are not those that were stored, by their sizes and times, unless this process has
    done it before.

    Returns:
      The arrays; None if the entry is absent, incomplete or of another format, or (with a warning) if its content
      differs.
    """
    if digest is None:
        return None
    folder = _entry_path(root, spec, digest)
    try:
        manifest = _read_json(folder / _MANIFEST)
        if manifest["format"] != FORMAT or manifest["digest"] != digest:
            return None
        stamps = _stamps(folder, spec)
        images = files.map_npy(folder / "images.npy")
        labels = None if spec.class_names is None else files.map_npy(folder / "labels.npy")
        if images.shape != (spec.n_images, *spec.image_shape) or images.dtype != np.uint8:
            return None
        if labels is not None and (labels.shape != (spec.n_images,) or labels.dtype != np.int32):
            return None
        if manifest["files"] != stamps and not _verify(folder, spec, digest, stamps):
            return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return Arrays(images, labels)


def write_entry(root: Path, spec: DatasetSpec, arrays: Arrays, digest: str) -> Arrays:
    """Stores prepared arrays and opens them as memory maps.

    Returns:
      The memory maps. If the folder cannot be written, it warns and returns the arrays in memory.
    """
    temporary = root / _temporary_name()
    try:
        temporary.mkdir(parents=True)
        try:
            for key, array in arrays._asdict().items():
                if array is not None:
                    np.save(temporary / f"{key}.npy", array, allow_pickle=False)
            _write_manifest(temporary, spec, digest, _stamps(temporary, spec))
            _publish(temporary, root, spec, digest)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        _warn_unwritable(root, error)
    stored = read_entry(root, spec, digest)
    return arrays if stored is None else stored


def _publish(temporary: Path, root: Path, spec: DatasetSpec, digest: str) -> None:
    """Moves a finished entry into place, unless another process has put the same one there."""
    target = _entry_path(root, spec, digest)
    for _ in range(10):
        try:
            os.replace(temporary, target)
            return
        except OSError as error:
            # Another process may have moved the entry that was in the way since: then this one tries again.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) and not target.exists():
                raise
        # Another process may have been first; its content is the same.
        if read_entry(root, spec, digest) is not None:
            return
        # A damaged entry is moved aside before it is deleted: renaming a folder is one step, deleting it is not.
        damaged = root / _temporary_name()
        try:
            os.replace(target, damaged)
        except FileNotFoundError:
            continue
        shutil.rmtree(damaged, ignore_errors=True)
    raise OSError(f"{target} could not be replaced: other processes keep writing it")


def _verify(folder: Path, spec: DatasetSpec, digest: str, stamps: dict[str, list[int]]) -> bool:
    """Returns whether the files of an entry have its content; if so, its manifest gets their stamps."""
    checked = (folder, digest, json.dumps(stamps))
    if checked in _verified:
        return True
    # They are read, not mapped: a process that reads a map of a file is killed when another one shortens the file.
    found = content_digest([files.read_npy(folder / name) for name in stamps])
    if found != digest:
        warnings.warn(
            f"{folder} was changed after it was stored (SHA-256 {found[:16]}…); the data are read from their source",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    _verified.add(checked)
    # Without this, as in a folder that cannot be written, every process hashes the files again.
    with contextlib.suppress(OSError):
        _write_manifest(folder, spec, digest, stamps)
    return True


def _stamp(path: Path) -> list[int]:
    """Returns size, modification time and change time of a file, which is not opened.

    The change time is there because tar, cp -p and rsync set the modification time.
    """
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _stamps(folder: Path, spec: DatasetSpec) -> dict[str, list[int]]:
    """Returns the stamps of an entry's arrays by the names of their files."""
    keys = Arrays._fields if spec.class_names is not None else Arrays._fields[:1]
    return {f"{key}.npy": _stamp(folder / f"{key}.npy") for key in keys}


def _write_manifest(folder: Path, spec: DatasetSpec, digest: str, stamps: dict[str, list[int]]) -> None:
    manifest = {"format": FORMAT, "name": spec.name, "digest": digest, "files": stamps}
    temporary = folder / _temporary_name()
    temporary.write_text(json.dumps(manifest, indent=1))
    os.replace(temporary, folder / _MANIFEST)


def _read_json(path: Path) -> Any:
    return json.loads(files.read_bytes(path, _LONGEST_TEXT))


def _entry_path(root: Path, spec: DatasetSpec, digest: str) -> Path:
    return root / f"{spec.name}-{digest[:16]}"


def _link_path(root: Path, spec: DatasetSpec, fingerprint: str) -> Path:
    return root / "sources" / f"{spec.name}-{fingerprint[:32]}.json"


def _temporary_name() -> str:
    return f".tmp-{os.getpid()}-{secrets.token_hex(6)}"


def _warn_unwritable(root: Path, error: OSError) -> None:
    warnings.warn(
        f"prepared data is not kept, because the cache {root} cannot be written ({error}); "
        "set EBM_JAX_CACHE_DIR or pass cache_dir to a folder that can",
        RuntimeWarning,
        stacklevel=2,
    )
