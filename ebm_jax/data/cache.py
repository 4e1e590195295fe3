"""The cache of prepared arrays: memory-mapped `.npy` files under a name that holds the hash of their content.

```
CACHE/mnist-1f0c…/images.npy  labels.npy  manifest.json     one prepared data set, named by its content
CACHE/sources/mnist-77ab….json                              "these source files give that content"
```

An entry is written in a temporary folder and moved into place in one step, so that no reader and no second writer sees
half of it. A link from source files to content is keyed by their paths, sizes and times: files that change are read
again, and files that do not are never opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ebm_jax.data.sources import Arrays
from ebm_jax.data.specs import DatasetSpec

# Raise this when the layout of entries or the meaning of their arrays changes.
FORMAT = 1
_MANIFEST = "manifest.json"


def directory(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Returns the folder of the cache.

    It is the argument, else `EBM_JAX_CACHE_DIR`, else `ebm_jax` in the user's cache folder.
    """
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    if os.environ.get("EBM_JAX_CACHE_DIR"):
        return Path(os.environ["EBM_JAX_CACHE_DIR"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ebm_jax"


def content_digest(arrays: Arrays) -> str:
    """Returns the SHA-256 of the format version and, for each array, of its dtype, shape and bytes."""
    digest = hashlib.sha256(f"ebm_jax data {FORMAT}".encode())
    for array in arrays:
        if array is not None:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def source_fingerprint(files: Iterable[Path]) -> str:
    """Returns a hash of the paths, sizes and times of source files. The files are not opened."""
    facts: list[object] = [FORMAT]
    for path in files:
        status = os.stat(path)
        # The change time is included because tar, cp -p and rsync set the modification time.
        facts.append([str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ctime_ns])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def read_link(root: Path, spec: DatasetSpec, fingerprint: str) -> str | None:
    """Returns the digest of the content that the source files with this fingerprint gave; None if it is unknown."""
    try:
        digest = json.loads(_link_path(root, spec, fingerprint).read_text())["digest"]
    except (OSError, ValueError, KeyError, TypeError):
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

    Returns:
      The arrays; None if the entry is absent, incomplete or of another format.
    """
    if digest is None:
        return None
    folder = _entry_path(root, spec, digest)
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        if manifest["format"] != FORMAT or manifest["digest"] != digest:
            return None
        files = manifest["files"]
        if any((folder / name).stat().st_size != size for name, size in files.items()):
            return None
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        labels = None
        if spec.class_names is not None:
            labels = np.load(folder / "labels.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError):
        return None
    if images.shape != (spec.n_images, *spec.image_shape) or images.dtype != np.uint8:
        return None
    if labels is not None and (labels.shape != (spec.n_images,) or labels.dtype != np.int32):
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
            sizes = {}
            for key, array in arrays._asdict().items():
                if array is not None:
                    np.save(temporary / f"{key}.npy", array, allow_pickle=False)
                    sizes[f"{key}.npy"] = (temporary / f"{key}.npy").stat().st_size
            manifest = {"format": FORMAT, "name": spec.name, "digest": digest, "files": sizes}
            (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=1))
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
        except OSError:
            if not target.exists():
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
