"""The folder of a run: its configuration, environment, metrics, checkpoints and results.

config.yaml        the resolved configuration
environment.json   its hash, the command, versions, devices, git commit, the data's digest, whether x64 was on
metrics.jsonl      a JSON object a line, in the order of steps; no times, so that equal runs have equal files
log.txt            what happened, with times
checkpoints/       see `checkpoint`
samples/ plots/    draws and figures
model.npz          the trained model, as the recipe saves it
result.json        the last metrics; a run that has it is finished
report.md          a page about the run
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import logging
import math
import os
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ebm_jax.experiment import files
from ebm_jax.experiment.config import Config, config_hash, dump_config, load_stored_config
from ebm_jax.experiment.files import printable
from ebm_jax.experiment.run.console import LOGGER, Formatter
from ebm_jax.experiment.run.environment import environment, run_hash, x64_enabled

MODEL = "model.npz"
METRICS = "metrics.jsonl"
RESULT = "result.json"
DRAWS = "samples/final.npz"
CHECKPOINTS = "checkpoints"


class RunFolderError(RuntimeError):
    """A folder that is not a run, or that this run cannot use."""


class RunFolder:
    """The folder of one run, locked by this process until `close`."""

    def __init__(self, path: Path, lock: BinaryIO) -> None:
        self.path = path
        self.config: Config = stored_config(path)
        self._lock = lock
        self._log = io.TextIOWrapper(files.open_to_append(path, "log.txt"), encoding="utf-8")
        self._handler = logging.StreamHandler(self._log)
        self._handler.setFormatter(Formatter("%(asctime)s %(levelname)s %(message)s"))
        LOGGER.addHandler(self._handler)

    @classmethod
    def create(
        cls, path: Path, config: Config, command: Sequence[str], data_digest: str | None = None
    ) -> RunFolder:
        """Makes the folder of a new run; raises RunFolderError if `path` exists and is not empty."""
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            if (path / "config.yaml").is_file():
                remedy = f"go on with it by `ebm-jax resume {path}`, or give another --out"
            else:
                remedy = "give another --out"
            raise RunFolderError(f"{path} is there already, and nothing in it is overwritten: {remedy}")
        # The folder is made elsewhere and then renamed, so that a run that is killed here leaves no half of it.
        path.parent.mkdir(parents=True, exist_ok=True)
        place = path.resolve()
        draft = place.with_name(f".{place.name}.{os.getpid()}.new")
        draft.mkdir()
        # It is there from the start, so that a run whose checkpoints were deleted does not look like a new one.
        (draft / CHECKPOINTS).mkdir()
        files.write(draft, "config.yaml", dump_config(config).encode())
        write_json(draft / "environment.json", environment(config, command, data_digest))
        try:
            draft.rename(place)
        except OSError as error:
            shutil.rmtree(draft)
            raise RunFolderError(
                f"{path} was made by another process meanwhile; give another --out"
            ) from error
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Opens the folder of a run to resume it; raises RunFolderError if it is not a run, or is in use."""
        check_run(path)
        lock = files.open_to_append(path, ".lock")
        try:
            # The system releases the lock however the process ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            owner = printable(lock.read(20).decode("ascii", "replace").strip()) or "unknown"
            lock.close()
            raise RunFolderError(f"{path} is in use by process {owner}; wait for it, or stop it") from None
        try:
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n".encode())
            lock.flush()
            return cls(path, lock)
        except BaseException:
            lock.close()
            raise

    def close(self) -> None:
        """Closes the log and releases the folder."""
        LOGGER.removeHandler(self._handler)
        self._handler.close()
        self._log.close()
        self._lock.close()

    @property
    def finished(self) -> bool:
        """Whether the run has a result."""
        return files.is_file(self.path, "result.json")

    def warn_of_versions(self) -> None:
        """Warns if versions, commit or device differ from those at the start of the run, since bits may then differ."""
        began, now = read_environment(self.path), environment(self.config, [])
        pairs = [(name, began["packages"].get(name), version) for name, version in now["packages"].items()]
        pairs += [(name, began.get(name), now[name]) for name in ("git_commit", "device_kind")]
        for name, before, after in pairs:
            if before != after:
                LOGGER.warning(
                    "the run began with %s %s and goes on with %s: bits may differ from those of an undisturbed run",
                    name, printable(before), after,
                )  # fmt: skip

    def check_conditions(self, data_digest: str | None) -> None:
        """Raises RunFolderError if the data or JAX's x64 mode are not those with which the run began.

        Runs of versions that recorded neither are not checked, and the log says so.
        """
        began = read_environment(self.path)
        check_data(self.path, data_digest)
        now = x64_enabled()
        if "x64" not in began or "data_sha256" not in began:
            LOGGER.warning(
                "%s is of a version that recorded neither data nor x64: they are not compared with today's",
                self.path / "environment.json",
            )
        elif began["x64"] != now:
            raise RunFolderError(
                f"{self.path} began with jax_enable_x64={began['x64']}, and JAX now has jax_enable_x64={now}: set "
                f"JAX_ENABLE_X64={int(bool(began['x64']))}, or train again elsewhere"
            )

    def append_metrics(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends rows to metrics.jsonl; NaN becomes null."""
        lines = [json.dumps(finite(row), ensure_ascii=False) + "\n" for row in rows]
        with files.open_to_append(self.path, METRICS) as file:
            file.write("".join(lines).encode())

    def metrics_facts(self) -> dict[str, Any]:
        """Flushes metrics.jsonl to disk and returns its size and SHA-256, as a checkpoint keeps them."""
        with files.open_to_append(self.path, METRICS) as file:
            os.fsync(file.fileno())
            size = file.tell()
            file.seek(0)
            return {"metrics_bytes": size, "metrics_sha256": hashlib.sha256(file.read()).hexdigest()}

    def cut_metrics(self, size: int, digest: str | None = None) -> None:
        """Cuts metrics.jsonl back to what it was at a checkpoint.

        Args:
          size: Its size then, in bytes.
          digest: Its SHA-256 then. None, from a checkpoint of a version that kept none: only the size is compared.

        Raises:
          RunFolderError: If it is shorter, or differs from what it was.
        """
        with files.open_to_append(self.path, METRICS) as file:
            have = file.tell()
            if have < size:
                raise RunFolderError(
                    f"{self.path / METRICS} has {have} bytes, and had {size} when the checkpoint was written: it was "
                    "shortened since. Put the file back, or train again elsewhere"
                )
            file.seek(0)
            if digest is not None and hashlib.sha256(file.read(size)).hexdigest() != digest:
                raise RunFolderError(
                    f"{self.path / METRICS} is not what it was when the checkpoint was written: some of its first "
                    f"{size} bytes were changed since. Put the file back, or train again elsewhere"
                )
            file.truncate(size)


def check_run(path: Path) -> None:
    """Raises RunFolderError if `path` is not the folder of a run."""
    if not (path / "config.yaml").is_file():
        what = "has no config.yaml" if path.is_dir() else "is not a folder"
        raise RunFolderError(f"{path} {what}: it is no run; name a folder that `ebm-jax train` made")


def check_data(path: Path, data_digest: str | None) -> None:
    """Raises RunFolderError if a run began on other data, by their digests. None stands for unknown data."""
    began = read_environment(path).get("data_sha256")
    if began is not None and data_digest is not None and began != data_digest:
        place = os.environ.get("EBM_JAX_DATA_DIR")
        where = "is not set" if place is None else f"is {place}"
        raise RunFolderError(
            f"{path} began on data with SHA-256 {printable(began)}, and the data set now has {data_digest} "
            f"(EBM_JAX_DATA_DIR {where}): set it to the folder of the first data, or train again elsewhere"
        )


def stored_config(path: Path) -> Config:
    """Returns the configuration of a run.

    Args:
      path: The folder.

    Returns:
      The configuration.

    Raises:
      RunFolderError: If `path` is not a run, or more than its section `evaluation` was changed since the run began.
      ConfigError: If the configuration cannot be read.
    """
    check_run(path)
    config = load_stored_config(path)
    began = read_environment(path)
    # The first version kept the hash of the whole configuration alone.
    kept, now = began.get("run_hash"), run_hash(config)
    if (now != kept) if kept is not None else (config_hash(config) != began["config_hash"]):
        raise RunFolderError(
            f"{path / 'config.yaml'} was changed since the run began, and not in its section evaluation alone; put it "
            "back as it was, or train the new configuration elsewhere"
        )
    return config


def read_environment(path: Path) -> dict[str, Any]:
    """Returns environment.json of a run; raises RunFolderError if it is not what a run writes."""
    texts = dict.fromkeys(("config_hash", "command", "device_kind"), str)
    return _read_object(path, "environment.json", texts | {"packages": dict})


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of metrics.jsonl without an incomplete last line; raises RunFolderError at a damaged line."""
    try:
        lines = files.read(path, METRICS).split(b"\n")
    except FileNotFoundError:
        return []
    rows = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not {"kind", "epoch"} <= row.keys():
                raise ValueError("it has no kind and epoch")
            rows.append(row)
        except (ValueError, RecursionError) as error:
            raise RunFolderError(
                f"{path / METRICS}, line {number}: not what a run writes ({printable(error)}); put the file back"
            ) from error
    return rows


def read_result(path: Path) -> dict[str, Any] | None:
    """Returns result.json of a run, or None if it did not finish."""
    if not (path / RESULT).exists():
        return None
    return _read_object(path, RESULT, {"step": int, "metrics": dict})


def read_arrays(path: Path, name: str) -> dict[str, np.ndarray]:
    """Returns the arrays of an `.npz` file of a run; raises RunFolderError if it cannot be read."""
    try:
        with np.load(io.BytesIO(files.read(path, name)), allow_pickle=False) as stored:
            return dict(stored)
    except files.UnsafeFileError:
        raise
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise RunFolderError(f"{path / name} cannot be read: {printable(error)}") from error


def _read_object(path: Path, name: str, kinds: Mapping[str, type]) -> dict[str, Any]:
    """Returns a JSON object of a run; raises RunFolderError if it lacks a key of `kinds` with a value of that kind."""
    try:
        value = json.loads(files.read(path, name))
    except files.UnsafeFileError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{path / name} cannot be read: {printable(error)}") from error
    for key, kind in kinds.items():
        if not isinstance(value, dict) or not isinstance(value.get(key), kind):
            raise RunFolderError(
                f"{path / name} is not what a run writes: its {key} is missing or of another kind"
            )
    return value


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON, atomically; NaN becomes null."""
    content = json.dumps(finite(value), indent=2, ensure_ascii=False) + "\n"
    files.write(path.parent, path.name, content.encode())


def write_arrays(folder: Path, name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays to a compressed `.npz` file in a folder, atomically."""
    named: Any = dict(arrays)
    with files.written(folder, name) as path:
        np.savez_compressed(path, **named)


def finite(value: Any) -> Any:
    """Returns a value that JSON can hold: NaN becomes None, an infinity the string that `float` reads."""
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value
