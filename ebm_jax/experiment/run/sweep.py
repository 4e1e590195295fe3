"""Several configurations, each run by a process of its own: the work behind `ebm-jax sweep`.

A process that dies, whatever of, takes no other with it, and each starts with a fresh JAX. A run that is done is
skipped and one that was interrupted is resumed, so a sweep may be started again as often as it takes.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ebm_jax.experiment.config import ConfigError, load_config

RESULT = "result.json"
POLL_SECONDS = 0.1

Command = Callable[["Job", bool], list[str]]


@dataclass(frozen=True)
class Job:
    """One run: its configuration file, its folder, and the overrides."""

    config: Path
    folder: Path
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """The run's name, which its folder has too."""
        return self.folder.name

    @property
    def log(self) -> Path:
        """The file that takes what the run prints."""
        return self.folder.parent / "logs" / f"{self.name}.log"


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `failed` counts a run that was stopped or never started, too."""

    job: Job
    status: str
    failed: bool
    minutes: float | None = None


@dataclass
class _Children:
    """Processes that run now, signals that came and have yet to be passed on to them, and whether any ever came."""

    running: dict[Job, tuple[subprocess.Popen, float]] = field(default_factory=dict)
    signals: list[int] = field(default_factory=list)
    stopped: bool = False


def command_line(job: Job, resume: bool) -> list[str]:
    """The command that trains a run from its start, or goes on with it."""
    command = [sys.executable, "-m", "ebm_jax.cli.main"]
    if resume:
        return [*command, "resume", str(job.folder)]
    overrides = [part for text in job.overrides for part in ("-o", text)]
    return [*command, "train", str(job.config), "--out", str(job.folder), *overrides]


def plan(configs: Sequence[Path], out: Path, overrides: Sequence[str] = ()) -> list[Job]:
    """Checks all configurations and names their folders; raises ConfigError with the problems of all of them."""
    jobs: dict[str, Job] = {}
    problems = []
    for path in configs:
        try:
            name = load_config(path, overrides).name
        except ConfigError as error:
            problems += [f"{error.source}: {problem}" for problem in error.problems]
            continue
        job = Job(path, out / name, tuple(overrides))
        # Some file systems take names that differ in case for one.
        other = jobs.setdefault(name.casefold(), job)
        if other is not job:
            problems.append(
                f"{path}: its name is {name!r}, as that of {other.config}: give each a `name` of its own"
            )
    if problems:
        raise ConfigError("nothing was started, since configurations are wrong", problems)
    return list(jobs.values())


def run_sweep(jobs: Sequence[Job], n_parallel: int = 1, command: Command = command_line) -> list[Outcome]:
    """Runs jobs, at most `n_parallel` at a time, and returns how each ended, in their order.

    A run with a result is skipped, one whose folder holds files but no result is resumed, and one whose folder holds
    another configuration fails. SIGINT and SIGTERM are
    passed on to the processes; what has not started by then does not start. Raises OSError when the folder of the
    runs cannot be made.
    """
    outcomes: dict[Job, Outcome] = {}
    waiting = list(jobs)
    for folder in {job.log.parent for job in jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    with _passed_on() as children:
        while waiting or children.running:
            while waiting and len(children.running) < n_parallel and not children.stopped:
                job = waiting.pop(0)
                outcome = _start(job, children, command)
                if outcome is not None:
                    outcomes[job] = outcome
            # Here and not in the handler: each process gets each signal once, however a start and a signal interleave.
            while children.signals:
                number = children.signals.pop(0)
                for process, _ in children.running.values():
                    process.send_signal(number)
            if children.stopped:
                outcomes.update({job: Outcome(job, "not started", True) for job in waiting})
                waiting.clear()
            ended = [job for job, (process, _) in children.running.items() if process.poll() is not None]
            for job in ended:
                outcomes[job] = _end(job, children)
            if children.running and not ended:
                time.sleep(POLL_SECONDS)
    return [outcomes[job] for job in jobs]


def read_result(folder: Path) -> dict[str, Any] | None:
    """The metrics of a run that is complete; None for one that is not."""
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    metrics = result.get("metrics") if isinstance(result, dict) else None
    return metrics if isinstance(metrics, dict) else None


def table(outcomes: Sequence[Outcome]) -> str:
    """How each run ended, with its final metrics."""
    results = [read_result(outcome.job.folder) or {} for outcome in outcomes]
    names = list(dict.fromkeys(name for result in results for name in result))
    rows = [["name", "status", "minutes", *names]]
    for outcome, result in zip(outcomes, results, strict=True):
        minutes = "" if outcome.minutes is None else f"{outcome.minutes:.1f}"
        rows.append(
            [outcome.job.name, outcome.status, minutes, *(_number(result.get(name)) for name in names)]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        left = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join([*left, *right]).rstrip())
    return "\n".join(lines)


def _start(job: Job, children: _Children, command: Command) -> Outcome | None:
    """Starts a run; returns its outcome when there is nothing to wait for."""
    stored = job.folder / "config.yaml"
    try:
        other = stored.is_file() and load_config(stored) != load_config(job.config, job.overrides)
    except ConfigError as error:
        _say(f"{job.name}: failed, {error}")
        return Outcome(job, "failed (config.yaml)", True)
    if other:
        _say(f"{job.name}: failed, {job.folder} holds a run of another configuration; give another --out")
        return Outcome(job, "failed (another configuration)", True)
    if read_result(job.folder) is not None:
        _say(f"{job.name}: skipped, it is complete")
        return Outcome(job, "skipped", False)
    resume = job.folder.is_dir() and any(job.folder.iterdir())
    try:
        with open(job.log, "ab") as log:
            # In a process group of its own a child does not get the terminal's Ctrl-C beside the one passed on to it.
            process = subprocess.Popen(
                command(job, resume),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
    except OSError as error:
        _say(f"{job.name}: failed to start, {error}")
        return Outcome(job, "failed to start", True)
    children.running[job] = process, time.monotonic()
    _say(f"{job.name}: {'resumed' if resume else 'started'}, its output goes to {job.log}")
    return None


def _end(job: Job, children: _Children) -> Outcome:
    process, start = children.running.pop(job)
    code, complete = process.returncode, read_result(job.folder) is not None
    if code == 0 and complete:
        status, failed = "done", False
    elif children.stopped:
        status, failed = f"stopped (exit code {code})", True
    elif code == 0:
        status, failed = f"failed (exit code 0, no {RESULT})", True
    else:
        status, failed = f"failed (exit code {code})", True
    minutes = (time.monotonic() - start) / 60
    _say(f"{job.name}: {status} after {minutes:.1f} min" + (f", see {job.log}" if failed else ""))
    return Outcome(job, status, failed, minutes)


@contextlib.contextmanager
def _passed_on() -> Iterator[_Children]:
    """Processes, and the SIGINT and SIGTERM that come here meanwhile; what is left of them at the end is terminated."""
    children = _Children()

    def pass_on(number: int, frame: Any) -> None:
        del frame
        children.signals.append(number)
        children.stopped = True

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield children
    finally:
        for process, _ in children.running.values():
            process.terminate()
        for number, handler in before.items():
            signal.signal(number, handler)


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return "-" if value is None else str(value)
    return f"{value:.5g}"


def _say(text: str) -> None:
    print(text, flush=True)
