"""Trains several configurations, each in its own process: the work behind `ebm-jax sweep`.

A process that dies does not affect the others, and each process starts JAX afresh. A finished run is skipped and an
interrupted one is resumed, so the same sweep can be started again until all runs are finished.
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

from ebm_jax.experiment import files
from ebm_jax.experiment.config import ConfigError, load_config, load_stored_config
from ebm_jax.experiment.files import printable
from ebm_jax.experiment.run.plan import LOGS, Job

RESULT = "result.json"
POLL_SECONDS = 0.1

Command = Callable[[Job, bool], list[str]]


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `failed` is also true of a run that was stopped or that never started."""

    job: Job
    status: str
    failed: bool
    minutes: float | None = None


@dataclass
class _Children:
    """The running processes, the signals still to be forwarded to them, and whether any signal has arrived."""

    running: dict[Job, tuple[subprocess.Popen, float]] = field(default_factory=dict)
    signals: list[int] = field(default_factory=list)
    stopped: bool = False


def command_line(job: Job, resume: bool) -> list[str]:
    """Returns the command that trains a run from its start, or resumes it."""
    command = [sys.executable, "-m", "ebm_jax.cli.main"]
    if resume:
        return [*command, "resume", str(job.folder)]
    overrides = [part for text in job.overrides for part in ("-o", text)]
    return [*command, "train", str(job.config), "--out", str(job.folder), *overrides]


def run_sweep(jobs: Sequence[Job], n_parallel: int = 1, command: Command = command_line) -> list[Outcome]:
    """Trains the runs of a sweep.

    A run that has a result is skipped. A run whose folder holds files but no result is resumed. A run whose folder
    holds another configuration fails. SIGINT and SIGTERM are forwarded to the processes, and runs that have not started
    by then do not start.

    Args:
      jobs: The runs.
      n_parallel: Number of processes at a time.
      command: Function `command(job, resume)` that returns the command line of a run.

    Returns:
      How each run ended, in the order of `jobs`.

    Raises:
      OSError: If the folder of the runs cannot be made.
    """
    outcomes: dict[Job, Outcome] = {}
    waiting = list(jobs)
    for folder in {job.folder.parent for job in jobs}:
        files.make_folder(folder, LOGS)
    with _forwarded_signals() as children:
        while waiting or children.running:
            while waiting and len(children.running) < n_parallel and not children.stopped:
                job = waiting.pop(0)
                outcome = _start(job, children, command)
                if outcome is not None:
                    outcomes[job] = outcome
            # Signals are forwarded here and not in the handler, so that each process gets each signal exactly once
            # even if the signal arrives while a process is being started.
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


def final_metrics(folder: Path) -> dict[str, Any] | None:
    """Returns the final metrics of a finished run, and None for a run that is not finished."""
    try:
        result = json.loads(files.read(folder, RESULT))
    except (OSError, ValueError, RecursionError):
        return None
    metrics = result.get("metrics") if isinstance(result, dict) else None
    return metrics if isinstance(metrics, dict) else None


def table(outcomes: Sequence[Outcome]) -> str:
    """Returns a text table of how each run ended, with its final metrics."""
    results = [final_metrics(outcome.job.folder) or {} for outcome in outcomes]
    names = list(dict.fromkeys(name for result in results for name in result))
    rows = [["name", "status", "minutes", *map(printable, names)]]
    for outcome, result in zip(outcomes, results, strict=True):
        minutes = "" if outcome.minutes is None else f"{outcome.minutes:.1f}"
        rows.append([outcome.job.name, outcome.status, minutes, *(_text(result.get(name)) for name in names)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        left = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join([*left, *right]).rstrip())
    return "\n".join(lines)


def _start(job: Job, children: _Children, command: Command) -> Outcome | None:
    """Starts a run. Returns None, or the outcome of a run that needs no process or could not start one."""
    try:
        stored = load_stored_config(job.folder) if (job.folder / "config.yaml").is_file() else None
        other = stored is not None and stored != load_config(job.config, job.overrides)
    except (ConfigError, files.UnsafeFileError) as error:
        _say(f"{job.name}: failed, {error}")
        return Outcome(job, "failed (config.yaml)", True)
    if other:
        _say(f"{job.name}: failed, {job.folder} holds a run of another configuration; give another --out")
        return Outcome(job, "failed (another configuration)", True)
    if final_metrics(job.folder) is not None:
        _say(f"{job.name}: skipped, it is complete")
        return Outcome(job, "skipped", False)
    resume = job.folder.is_dir() and any(job.folder.iterdir())
    try:
        with files.open_to_append(job.folder.parent, f"{LOGS}/{job.log.name}") as log:
            # The child gets its own process group. Otherwise Ctrl-C in a terminal would reach it twice.
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
    code, complete = process.returncode, final_metrics(job.folder) is not None
    if code == 0 and complete:
        status, failed = "done", False
    elif children.stopped:
        status, failed = f"stopped (exit code {code})", True
    elif code == 0:
        status, failed = f"failed (exit code 0, no {RESULT})", True
    else:
        status, failed = f"failed (exit code {code})", True
    minutes = (time.monotonic() - start) / 60
    reason = f", see {job.log}: {_last_line(job.log)}" if failed else ""
    _say(f"{job.name}: {status} after {minutes:.1f} min{reason}")
    return Outcome(job, status, failed, minutes)


@contextlib.contextmanager
def _forwarded_signals() -> Iterator[_Children]:
    """Collects SIGINT and SIGTERM while processes run. Terminates the processes that still run at the end."""
    children = _Children()

    def collect(number: int, frame: Any) -> None:
        del frame
        children.signals.append(number)
        children.stopped = True

    before = {number: signal.signal(number, collect) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield children
    finally:
        for process, _ in children.running.values():
            process.terminate()
        for number, handler in before.items():
            signal.signal(number, handler)


def _last_line(log: Path) -> str:
    """Returns the last line of a log, which says why a run failed."""
    text = files.read(log.parent.parent, f"{LOGS}/{log.name}").decode("utf-8", "replace")
    return (text.splitlines() or ["it is empty"])[-1]


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return "-" if value is None else printable(value)
    return f"{value:.5g}"


def _say(text: str) -> None:
    print(printable(text, newlines=True), flush=True)
