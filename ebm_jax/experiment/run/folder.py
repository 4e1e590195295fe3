"""The folder of a run: its configuration, environment, metrics, checkpoints and results.

config.yaml        the resolved configuration
environment.json   its hash, the command, versions, devices, git commit
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
import json
import logging
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import numpy as np

from ebm_jax import __version__
from ebm_jax.experiment.config import Config, config_hash, dump_config, load_config
from ebm_jax.experiment.run.checkpoint import write_atomically

MODEL = "model.npz"
DRAWS = "samples/final.npz"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
LOGGER = logging.getLogger("ebm_jax.experiment")


class RunFolderError(RuntimeError):
    """A folder that is not a run, or that this run cannot use."""


class RunFolder:
    """The folder of one run, locked by this process until `close`."""

    def __init__(self, path: Path, lock: IO[str]) -> None:
        self.path = path
        self.config: Config = stored_config(path)
        self._lock = lock
        self._handler = logging.FileHandler(path / "log.txt", encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        LOGGER.addHandler(self._handler)

    @classmethod
    def create(cls, path: Path, config: Config, command: Sequence[str]) -> RunFolder:
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
        (draft / "config.yaml").write_text(dump_config(config), encoding="utf-8")
        write_json(draft / "environment.json", environment(config, command))
        try:
            draft.rename(place)
        except OSError as error:
            for file in draft.iterdir():
                file.unlink()
            draft.rmdir()
            raise RunFolderError(
                f"{path} was made by another process meanwhile; give another --out"
            ) from error
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Opens the folder of a run to resume it; raises RunFolderError if it is not a run, or is in use."""
        check_run(path)
        lock = (path / ".lock").open("a+")
        try:
            # The system releases the lock however the process ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            lock.close()
            raise RunFolderError(f"{path} is in use by process {owner}; wait for it, or stop it") from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        return cls(path, lock)

    def close(self) -> None:
        """Closes the log and releases the folder."""
        LOGGER.removeHandler(self._handler)
        self._handler.close()
        self._lock.close()

    @property
    def finished(self) -> bool:
        """Whether the run has a result."""
        return (self.path / "result.json").is_file()

    def warn_of_versions(self) -> None:
        """Warns if versions, commit or device differ from those at the start of the run, since bits may then differ."""
        began, now = read_environment(self.path), environment(self.config, [])
        pairs = [(name, began["packages"].get(name), version) for name, version in now["packages"].items()]
        pairs += [(name, began[name], now[name]) for name in ("git_commit", "device_kind")]
        for name, before, after in pairs:
            if before != after:
                LOGGER.warning(
                    "the run began with %s %s and goes on with %s: bits may differ from those of an undisturbed run",
                    name, before, after,
                )  # fmt: skip

    def append_metrics(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends rows to metrics.jsonl; NaN becomes null."""
        lines = [json.dumps(finite(row), ensure_ascii=False) + "\n" for row in rows]
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write("".join(lines))

    def metrics_size(self) -> int:
        """Flushes metrics.jsonl to disk and returns its size in bytes."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return 0
        with path.open("ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    def cut_metrics(self, size: int) -> None:
        """Cuts metrics.jsonl back to `size` bytes; raises RunFolderError if it is shorter."""
        path = self.path / "metrics.jsonl"
        have = path.stat().st_size if path.exists() else 0
        if have < size:
            raise RunFolderError(
                f"{path} has {have} bytes, and had {size} when the checkpoint was written: it was shortened since. "
                "Put the file back, or train again elsewhere"
            )
        if have > size:
            os.truncate(path, size)


def check_run(path: Path) -> None:
    """Raises RunFolderError if `path` is not the folder of a run."""
    if not (path / "config.yaml").is_file():
        what = "has no config.yaml" if path.is_dir() else "is not a folder"
        raise RunFolderError(f"{path} {what}: it is no run; name a folder that `ebm-jax train` made")


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
    config = load_config(path / "config.yaml")
    if run_hash(config) != read_environment(path)["run_hash"]:
        raise RunFolderError(
            f"{path / 'config.yaml'} was changed since the run began, and not in its section evaluation alone; put it "
            "back as it was, or train the new configuration elsewhere"
        )
    return config


def run_hash(config: Config) -> str:
    """Returns the hash of what determines a run's bits: all of its configuration except the section `evaluation`."""
    return config_hash(config.model_copy(update={"evaluation": type(config.evaluation)()}))


def read_environment(path: Path) -> dict[str, Any]:
    """Returns environment.json of a run."""
    try:
        return json.loads((path / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path / 'environment.json'} cannot be read: {error}") from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a run's metrics.jsonl without an incomplete last line."""
    file = path / "metrics.jsonl"
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def read_result(path: Path) -> dict[str, Any] | None:
    """Returns result.json of a run, or None if it did not finish."""
    file = path / "result.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON, atomically; NaN becomes null."""
    write_atomically(path, (json.dumps(finite(value), indent=2, ensure_ascii=False) + "\n").encode())


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays to a compressed `.npz` file, and makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    named: Any = dict(arrays)
    np.savez_compressed(path, **named)


def environment(config: Config, command: Sequence[str]) -> dict[str, Any]:
    """Returns what a run depends on besides its configuration."""
    import jax

    return {
        "config_hash": config_hash(config),
        "run_hash": run_hash(config),
        "command": shlex.join(command),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {"ebm-jax": __version__} | {name: _version(name) for name in PACKAGES},
        "devices": [str(device) for device in jax.devices()],
        "device_kind": jax.devices()[0].device_kind,
        "git_commit": _git_commit(),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Returns the commit of the package's checkout, with "-dirty" if files differ from it; None without a checkout."""
    home = Path(__file__).resolve().parent
    try:
        run = [
            subprocess.run(
                ["git", "-C", str(home), *rest], capture_output=True, text=True, timeout=10, check=True
            )
            for rest in (
                ["ls-files", "--error-unmatch", "folder.py"],
                ["rev-parse", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no"],
            )
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return run[1].stdout.strip() + ("-dirty" if run[2].stdout.strip() else "")


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


@contextmanager
def console() -> Iterator[None]:
    """Sends the log to the console as well, without breaking progress bars."""
    handler = _Console()
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.setLevel(logging.INFO)
    # Messages of level DEBUG go to the file alone.
    LOGGER.setLevel(logging.DEBUG)
    LOGGER.propagate = False
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)


class _Console(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)
