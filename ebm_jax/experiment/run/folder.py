"""The folder of a run: what it was asked to do, where, and what came of it.

config.yaml        the resolved configuration
environment.json   its hash, the command, versions, devices, git commit
metrics.jsonl      a JSON object a line, in the order of steps; no times, so that equal runs have equal files
log.txt            what happened, with times
checkpoints/       see `checkpoint`
samples/ plots/    draws and figures
model.npz          the trained model, for `ebm_jax.load`
result.json        the last metrics; a run that has it is finished
report.md          all of it, for reading
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from ebm_jax import __version__
from ebm_jax.experiment.config import Config, config_hash, dump_config, load_config
from ebm_jax.experiment.run.checkpoint import write_atomically

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
LOGGER = logging.getLogger("ebm_jax.experiment")


class RunFolderError(RuntimeError):
    """A folder that cannot be used as a run's."""


class RunFolder:
    """The folder of one run, held by this process alone until `close`."""

    def __init__(self, path: Path, lock: IO[str]) -> None:
        self.path = path
        self.config: Config = stored_config(path)
        self._lock = lock
        self._handler = logging.FileHandler(path / "log.txt", encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        LOGGER.addHandler(self._handler)

    @classmethod
    def create(cls, path: Path, config: Config, command: Sequence[str]) -> RunFolder:
        """Makes the folder of a new run; raises RunFolderError where `path` is there already."""
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            if (path / "config.yaml").is_file():
                remedy = f"go on with it by `ebm-jax resume {path}`, or give another --out"
            else:
                remedy = "give another --out"
            raise RunFolderError(f"{path} is there already, and nothing in it is overwritten: {remedy}")
        # Made beside its place and moved there whole: a run that is killed here leaves no half of a folder.
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
        """Opens the folder of a run to go on with it; raises RunFolderError where it is none, or in use."""
        check_run(path)
        lock = (path / ".lock").open("a+")
        try:
            fcntl.flock(
                lock, fcntl.LOCK_EX | fcntl.LOCK_NB
            )  # the system lets go of it however the process ends
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
        """Closes the log and lets go of the folder."""
        LOGGER.removeHandler(self._handler)
        self._handler.close()
        self._lock.close()

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.path / "result.json").is_file()

    def warn_of_versions(self) -> None:
        """Logs where versions, commit or device are other ones than when the run began: its bits may then differ."""
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
        """Adds rows to metrics.jsonl; NaN becomes null."""
        lines = [json.dumps(finite(row), ensure_ascii=False) + "\n" for row in rows]
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write("".join(lines))

    def metrics_size(self) -> int:
        """Returns the size of metrics.jsonl in bytes, its content on disk."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return 0
        with path.open("ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    def cut_metrics(self, size: int) -> None:
        """Cuts metrics.jsonl back to `size` bytes; raises RunFolderError where it is shorter."""
        path = self.path / "metrics.jsonl"
        have = path.stat().st_size if path.exists() else 0
        if have < size:
            raise RunFolderError(
                f"{path} has {have} bytes, and had {size} when the checkpoint was written: it was shortened since. "
                "Put the file back, or train anew elsewhere"
            )
        if have > size:
            os.truncate(path, size)


def check_run(path: Path) -> None:
    """Raises RunFolderError where `path` is not the folder of a run."""
    if not (path / "config.yaml").is_file():
        what = "has no config.yaml" if path.is_dir() else "is not a folder"
        raise RunFolderError(f"{path} {what}: it is no run; name a folder that `ebm-jax train` made")


def stored_config(path: Path) -> Config:
    """Returns the configuration of a run; raises RunFolderError where more than its section `evaluation` was changed
    since the run began, ConfigError where it cannot be read.
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
    """Returns the hash of what decides a run's bits: all of its configuration but how it is evaluated."""
    return config_hash(config.model_copy(update={"evaluation": type(config.evaluation)()}))


def read_environment(path: Path) -> dict[str, Any]:
    """Returns environment.json of a run."""
    try:
        return json.loads((path / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path / 'environment.json'} cannot be read: {error}") from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a run's metrics.jsonl; a last line that was cut off is left out."""
    file = path / "metrics.jsonl"
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def read_result(path: Path) -> dict[str, Any] | None:
    """Returns result.json of a run, None where it did not finish."""
    file = path / "result.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON, whole or not at all; NaN becomes null."""
    write_atomically(path, (json.dumps(finite(value), indent=2, ensure_ascii=False) + "\n").encode())


def environment(config: Config, command: Sequence[str]) -> dict[str, Any]:
    """Returns what a run depends on beside its configuration."""
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
    """The commit of the package's own checkout, with a mark where files differ from it; None where it has none."""
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
    """Returns a value that JSON can hold: NaN become null, infinities the strings that Python's `float` reads."""
    if isinstance(value, float):
        return value if value - value == 0 else None if value != value else str(value)
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def console() -> logging.Handler:
    """Sends the log to the console as well, in a form that does not break progress bars."""
    handler = _Console()
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.setLevel(logging.INFO)
    LOGGER.setLevel(logging.DEBUG)  # what is debugging to the console is for the file
    LOGGER.propagate = False
    LOGGER.addHandler(handler)
    return handler


class _Console(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)
