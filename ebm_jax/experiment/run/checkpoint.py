"""Checkpoints of a run: arrays that Orbax writes, and a manifest that is written after them.

    checkpoints/00000468/            the arrays
    checkpoints/00000468.json        the manifest: the SHA-256 of every file, the shape and dtype of every array, facts

The arrays bear the name with `.saving` until the manifest is written, and `.removing` before it is removed, so what an
interruption leaves is known by its name. Arrays without a manifest under the plain name lost it some other way: they
cannot be verified, and are set aside and never deleted. Orbax commits atomically, but it loads
flipped bits and changed dtypes silently, so every load compares digests and dtypes first. The manifest has one
canonical form and holds a digest of itself. A checkpoint holds numbers and JSON, and no code.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ebm_jax.experiment import files
from ebm_jax.experiment.run.leaves import describe, named, plain, typed
from ebm_jax.types import PyTree

_DIGITS = 8
_LEFTOVER = re.compile(r"(\d{8,})(\.saving.*|\.removing|\.json\.\d+\.tmp|\.orbax-checkpoint-tmp.*)")
_PART = re.compile(r"(\d{8,})(\.json)?")
_UNVERIFIED = "unverified-"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, or that differs from what was written."""


class Restored(NamedTuple):
    """A checkpoint that was loaded.

    Attributes:
      step: Its step.
      tree: Its arrays, in the structure asked for.
      facts: The JSON values saved with it.
      problems: What was wrong with newer checkpoints.
    """

    step: int
    tree: PyTree
    facts: dict[str, Any]
    problems: tuple[str, ...]


class Checkpoints:
    """The checkpoints of one run.

    Saves run in a thread; `wait` returns when the latest is on disk. Only one process at a time may write.

    Args:
      folder: Where they are.
      keep: How many of the newest are kept, besides the best.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep
        self._saver = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def save(self, step: int, tree: PyTree, facts: Mapping[str, Any]) -> None:
        """Copies the arrays to the host and starts to save them.

        Args:
          step: Number of the checkpoint. One that exists is replaced.
          tree: Pytree of arrays. Typed keys are saved as their words.
          facts: JSON values. `facts["best"]["step"]`, where it is given, names a checkpoint to keep besides the newest.

        Raises:
          CheckpointError: If the previous save failed.
        """
        self.wait()
        arrays = {name: np.asarray(leaf) for name, leaf in named(jax.device_get(plain(tree))).items()}
        self._pending = self._saver.submit(self._write, step, arrays, dict(facts))

    def wait(self) -> None:
        """Waits for the save in progress; raises CheckpointError if it failed."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        # Orbax and TensorStore raise exceptions of many unrelated classes.
        except Exception as error:
            steps = self.steps()
            rest = f"the one of step {steps[-1]} is intact" if steps else "there is no earlier one"
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise CheckpointError(
                f"could not write a checkpoint to {self.folder}: {reason[0]}; {rest}. "
                "Free disk space or correct the permissions there, and resume the run"
            ) from error

    def close(self) -> None:
        """Waits for the save in progress and ends the thread."""
        self._saver.shutdown(wait=True)

    def steps(self) -> list[int]:
        """Returns the steps of checkpoints that have a manifest, in ascending order."""
        if not self.folder.is_dir():
            return []
        found = (path for path in self.folder.glob("*.json") if path.stem.isdigit())
        return sorted(int(path.stem) for path in found if (self.folder / _name(int(path.stem))).is_dir())

    def load(self, step: int, struct: PyTree) -> Restored:
        """Loads a checkpoint.

        Args:
          step: Number of the checkpoint.
          struct: Pytree of shapes and dtypes (`jax.ShapeDtypeStruct`, or arrays) to load it into.

        Returns:
          The checkpoint, with NumPy arrays and typed keys at the leaves.

        Raises:
          CheckpointError: If a file is missing, added or changed, or shapes or dtypes differ from `struct`.
        """
        manifest = self.manifest(step)
        place = self.folder / _name(step)
        found = _digests(place)
        if found != manifest["files"]:
            names = sorted(set(found.items()) ^ set(manifest["files"].items()))
            raise CheckpointError(
                f"checkpoint {place} is corrupt: {names[0][0]} is not what was saved "
                f"({len(found)} files found, {len(manifest['files'])} saved)"
            )
        wanted = named(jax.eval_shape(plain, struct))
        described = {name: describe(leaf) for name, leaf in wanted.items()}
        if described != manifest["arrays"]:
            different = sorted(
                name
                for name in {*described, *manifest["arrays"]}
                if described.get(name) != manifest["arrays"].get(name)
            )
            name = different[0]
            raise CheckpointError(
                f"checkpoint {place} holds {manifest['arrays'].get(name, 'nothing')} at {name}, and this run needs "
                f"{described.get(name, 'nothing')} ({len(different)} arrays differ); "
                "it was saved by another configuration or version"
            )
        stored = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in wanted.items() if leaf.size}
        with self._held(_name(step)) as held:
            arrays = _orbax().load(held, stored)
        leaves = [
            arrays[name] if leaf.size else np.empty(leaf.shape, leaf.dtype) for name, leaf in wanted.items()
        ]
        return Restored(step, typed(struct, leaves), manifest["facts"], ())

    def load_latest(self, struct: PyTree) -> Restored | None:
        """Loads the newest intact checkpoint.

        Args:
          struct: As for `load`.

        Returns:
          The checkpoint, with the problems of newer ones; None if there are no checkpoints.

        Raises:
          CheckpointError: If there are checkpoints and all of them are damaged.
        """
        problems: list[str] = []
        for step in reversed(self.steps()):
            try:
                return self.load(step, struct)._replace(problems=tuple(problems))
            except CheckpointError as error:
                problems.append(str(error))
        if problems:
            raise CheckpointError("no checkpoint can be loaded:\n  " + "\n  ".join(problems))
        return None

    def manifest(self, step: int) -> dict[str, Any]:
        """Returns the manifest of a checkpoint; raises CheckpointError if it is missing or was changed."""
        path = self.folder / f"{_name(step)}.json"
        try:
            raw = files.read(self.folder.parent, f"{self.folder.name}/{path.name}")
            manifest = json.loads(raw)
            intact = raw == _encode({name: value for name, value in manifest.items() if name != "sha256"})
        except FileNotFoundError:
            raise CheckpointError(
                f"{self.folder} holds no checkpoint of step {step}; there are {self.steps() or 'none'}"
            ) from None
        except OSError as error:
            raise CheckpointError(f"checkpoint manifest {path} cannot be read: {error}") from error
        except (ValueError, AttributeError, TypeError, RecursionError):
            intact = False
        if not intact or manifest["step"] != step:
            raise CheckpointError(f"checkpoint manifest {path} is corrupt: it is not what was saved")
        return manifest

    def clean(self) -> list[str]:
        """Removes what interrupted saves and removals left and returns the names; other files are left alone."""
        names = self._entries()
        leftovers = {name: found[1] for name in names if (found := _LEFTOVER.fullmatch(name))}
        complete = {_name(step) for step in self.steps()}
        manifests = {f"{stem}.json" for stem in leftovers.values() if stem not in complete} & set(names)
        for name in [*leftovers, *manifests]:
            self._remove(name)
        return sorted([*leftovers, *manifests])

    def set_aside(self, everything: bool = False) -> list[str]:
        """Renames checkpoints that lack their manifest or their arrays, so that they are kept and not loaded.

        Args:
          everything: Whether complete ones are renamed too.

        Returns:
          The names of all that was ever set aside: "unverified-" and what it was named.
        """
        complete = {} if everything else {_name(step) for step in self.steps()}
        for name in self._entries():
            found = _PART.fullmatch(name)
            if found and found[1] not in complete:
                aside, n = _UNVERIFIED + name, 1
                while (self.folder / aside).exists():
                    aside, n = f"{_UNVERIFIED}{n}-{name}", n + 1
                files.rename(self.folder.parent, f"{self.folder.name}/{name}", aside)
        return [name for name in self._entries() if name.startswith(_UNVERIFIED)]

    def remove_after(self, step: int) -> None:
        """Removes checkpoints of later steps, which a run that went back to `step` will write again."""
        for later in self.steps():
            if later > step:
                self._discard(later)

    def remove_newest(self, n: int) -> None:
        """Removes the `n` newest checkpoints, but leaves one of the `keep` newest."""
        kept = self.steps()[-self.keep :]
        for step in kept[1:][::-1][:n]:
            self._discard(step)

    def _write(self, step: int, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        # An earlier attempt may have left one.
        self._discard(step)
        # Orbax does not save empty arrays.
        stored = {name: array for name, array in arrays.items() if array.size}
        saving = f"{_name(step)}.saving"
        with self._held(saving) as held:
            _orbax().save(held, stored)
        manifest = {
            "step": step,
            "arrays": {name: describe(array) for name, array in arrays.items()},
            "facts": facts,
            "files": _digests(self.folder / saving),
        }
        files.write(self.folder.parent, f"{self.folder.name}/{_name(step)}.json", _encode(manifest))
        files.rename(self.folder.parent, f"{self.folder.name}/{saving}", _name(step))
        steps = self.steps()
        # A run may go back to any of the newest, so the best that each of them names is kept.
        bests = {(self._facts(kept).get("best") or {}).get("step") for kept in steps[-self.keep :]}
        for old in steps[: -self.keep]:
            if old not in bests:
                self._discard(old)

    def _facts(self, step: int) -> dict[str, Any]:
        try:
            return self.manifest(step)["facts"]
        except CheckpointError:
            return {}

    def _discard(self, step: int) -> None:
        name = _name(step)
        for leftover in (f"{name}.saving", f"{name}.removing"):
            self._remove(leftover)
        if (self.folder / name).exists():
            files.rename(self.folder.parent, f"{self.folder.name}/{name}", f"{name}.removing")
        self._remove(f"{name}.json")
        self._remove(f"{name}.removing")

    def _entries(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []

    def _remove(self, name: str) -> None:
        if self.folder.is_dir():
            files.remove(self.folder.parent, f"{self.folder.name}/{name}")

    @contextmanager
    def _held(self, name: str) -> Iterator[Path]:
        """Yields a path for Orbax, which stays in the folder even if a link takes the folder's place meanwhile."""
        with files.folder_of(self.folder.parent, f"{self.folder.name}/{name}", make=True) as (folder, last):
            # Linux reaches an open folder by this path.
            held = Path(f"/proc/self/fd/{folder}")
            yield (held if held.exists() else self.folder.absolute()) / last


def _name(step: int) -> str:
    return f"{step:0{_DIGITS}d}"


def _orbax() -> Any:
    """Imports Orbax when it is needed: that takes a third of the time that JAX takes."""
    import orbax.checkpoint.experimental.v1 as ocp

    return ocp


def _encode(manifest: Mapping[str, Any]) -> bytes:
    """Returns the canonical form of a manifest, with a digest of the rest."""

    def write(value: Any) -> str:
        return json.dumps(value, sort_keys=True, indent=1)

    digest = hashlib.sha256(write(manifest).encode()).hexdigest()
    return (write({**manifest, "sha256": digest}) + "\n").encode()


def _digests(place: Path) -> dict[str, str]:
    if not place.is_dir():
        raise CheckpointError(f"checkpoint {place} is missing")
    try:
        found = sorted(path for path in place.rglob("*") if path.is_symlink() or not path.is_dir())
        names = [path.relative_to(place).as_posix() for path in found]
        root, above = place.parent.parent, f"{place.parent.name}/{place.name}"
        return {name: hashlib.sha256(files.read(root, f"{above}/{name}")).hexdigest() for name in names}
    except OSError as error:
        raise CheckpointError(f"checkpoint {place} cannot be read: {error}") from error
