"""Runs a configuration to its end, whatever happens on the way.

A run is a sequence of calls, each of a fixed number of updates within an epoch. Between two calls the host looks at the
metrics, evaluates, writes checkpoints, and heeds signals. Where calls begin and end depends on the configuration alone,
never on time or on how the run was stopped, and everything random on (seed, step): so a run that was killed and resumed
has the bits of one that was not, its metrics file included, which a resume cuts back to what the checkpoint saw.
"""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from ebm_jax import io
from ebm_jax.experiment.config import Config
from ebm_jax.experiment.recipes.base import Recipe, build
from ebm_jax.experiment.recipes.rbm import with_rate_factor
from ebm_jax.experiment.run.checkpoint import CheckpointError, Checkpoints, Restored
from ebm_jax.experiment.run.folder import LOGGER, RunFolder, RunFolderError, console, read_metrics, write_json
from ebm_jax.training.step import Metrics


class RunFailed(RuntimeError):
    """A run that stopped before its end; the message says where, why, and what to do."""


def train(config: Config, out: Path, command: Sequence[str]) -> None:
    """Starts the run of `config` in the new folder `out`.

    Raises RunFolderError where `out` exists or is in use, RunFailed where the run stops early, CheckpointError where a
    checkpoint cannot be written.
    """
    with _logging():
        recipe = build(config)  # before there is a folder: a run that cannot begin leaves nothing behind
        folder = RunFolder.create(out, config, command)
        with _held(folder):
            _Run(folder, recipe).go()


def resume(path: Path) -> None:
    """Goes on with the run in `path` from its newest whole checkpoint; raises as `train` does.

    A run that is finished is left as it is. One that has no checkpoint yet starts afresh.
    """
    with _logging():
        folder = RunFolder.open(path)
        with _held(folder):
            if folder.finished:
                LOGGER.info("%s is finished; nothing is left to do", path)
                return
            _Run(folder, build(folder.config)).go()


class _Run:
    """A run under way: its train state and what the host knows of it."""

    def __init__(self, folder: RunFolder, recipe: Recipe) -> None:
        self.folder = folder
        self.config = folder.config
        self.recipe = recipe
        self.checkpoints = Checkpoints(folder.path / "checkpoints", self.config.checkpoints.keep)
        self.n_steps = self.config.training.n_epochs * recipe.n_batches
        self.saved: int | None = None
        self.best: dict[str, Any] | None = None
        self.rollbacks: list[dict[str, Any]] = []
        self.state: Any = None
        self.step = 0

    def go(self) -> None:
        """Trains to the end and writes what is made of the result."""
        began = time.perf_counter()
        with _signals() as received:
            try:
                self._restore(self._newest())
                if self.step == 0:
                    LOGGER.info("%s: %d updates, in %s", self.config.name, self.n_steps, self.folder.path)
                hidden = not sys.stderr.isatty()
                with (
                    _writer(self.folder.path, self.step) as writer,
                    tqdm(total=self.n_steps, initial=self.step, unit="update", disable=hidden) as bar,
                ):
                    while self.step < self.n_steps:
                        self._advance(bar, writer)
                        if received:
                            self._stop(received[0])
                self.checkpoints.wait()
            finally:
                self.checkpoints.close()
        metrics = self._evaluation()
        from ebm_jax.experiment import (
            report,  # brings matplotlib, which a run that is resumed need not wait for
        )

        params = self.recipe.params(self.state)
        self.recipe.write(params, self.folder.path / "samples")
        io.save(self.folder.path / "model.npz", self.recipe.model, params, overwrite=True)
        result = {
            "step": self.step,
            "n_rollbacks": len(self.rollbacks),
            "best": self.best,
            "metrics": metrics,
        }
        report.write_run(self.folder.path, result)
        write_json(self.folder.path / "result.json", result)
        LOGGER.info("finished in %.0f s: %s", time.perf_counter() - began, self.folder.path / "report.md")

    def _advance(self, bar: Any, writer: Any) -> None:
        """One call of updates, and what is due after it."""
        n = self._next_call()
        state, metrics = self.recipe.advance(self.state, n)
        metrics = jax.device_get(metrics)
        sick = _sickness(metrics, self.config.health)
        if sick is not None and self.config.health.policy != "skip":
            self._treat(self.step + sick[0] + 1, sick[1])
            bar.n = self.step
            return
        self.state, before, self.step = state, self.step, self.step + n
        row = self._row("train") | summarize(metrics) | {"learning_rate": self.recipe.learning_rate(state)}
        if row["n_skipped"]:
            LOGGER.warning("steps %d to %d: skipped %d updates", before + 1, self.step, row["n_skipped"])
        self._record(row, writer)
        bar.set_postfix(energy_gap=f"{row['energy_gap']:.3g}", refresh=False)
        bar.update(n)
        last = self.step == self.n_steps
        if last or self._due(self.config.evaluation.every_epochs, before):
            self._evaluate(writer)
        if last or self._due(self.config.checkpoints.every_epochs, before):
            self._save()

    def _next_call(self) -> int:
        """Updates until the end of the epoch in equal parts, none longer than `steps_per_call`."""
        n_batches = self.recipe.n_batches
        n_calls = math.ceil(n_batches / self.config.training.steps_per_call)
        within = self.step % n_batches
        ends = [n_batches * (i + 1) // n_calls for i in range(n_calls)]
        return next(end for end in ends if end > within) - within

    def _due(self, every_epochs: float, before: int) -> bool:
        """Whether a multiple of `every_epochs` lies between the steps `before` and now."""
        if every_epochs == 0:
            return False
        period = every_epochs * self.recipe.n_batches
        return math.floor(self.step / period + 1e-9) > math.floor(before / period + 1e-9)

    def _evaluate(self, writer: Any) -> None:
        began = time.perf_counter()
        found = self.recipe.evaluate(self.recipe.params(self.state), self.config.evaluation)
        value = found.get(self.recipe.best)
        if value is not None and math.isfinite(value) and (self.best is None or value > self.best["value"]):
            self.best = {"step": self.step, "metric": self.recipe.best, "value": value}
        self._record(self._row("evaluation") | found, writer)
        shown = ", ".join(f"{name} {found[name]:.4g}" for name in list(found)[:3])
        LOGGER.info("step %d: %s (%.1f s)", self.step, shown, time.perf_counter() - began)
        if self.best is not None and self.best["step"] == self.step:
            self._save()

    def _save(self) -> None:
        if self.saved == self.step:
            return
        facts = {
            "metrics_bytes": self.folder.metrics_size(),
            "best": self.best,
            "rollbacks": self.rollbacks,
        }
        self.checkpoints.save(self.step, self.state, facts)
        self.saved = self.step

    def _stop(self, number: int) -> None:
        self._save()
        self.checkpoints.wait()
        raise RunFailed(
            f"stopped by {signal.Signals(number).name} at step {self.step} of {self.n_steps}, with a checkpoint there; "
            f"go on with: ebm-jax resume {self.folder.path}"
        )

    def _treat(self, step: int, reason: str) -> None:
        """What the policy says of a sick call, none of whose updates are kept."""
        health = self.config.health
        self.checkpoints.wait()
        if health.policy == "stop":
            at = f"the checkpoint of step {self.saved}" if self.saved else "the start"
            raise RunFailed(
                f"step {step}: {reason}. The run stops (health.policy is stop); {at} is whole. Train anew with a lower "
                "training.learning_rate, or with health.policy=rollback"
            )
        if len(self.rollbacks) >= health.max_rollbacks:
            raise RunFailed(
                f"step {step}: {reason}, after {len(self.rollbacks)} rollbacks (health.max_rollbacks). Train anew "
                "with a lower training.learning_rate"
            )
        rollbacks = self.rollbacks
        self._restore(self.checkpoints.load_latest(self.recipe.init()))
        in_file = len(self.rollbacks)
        factor = health.rollback_factor ** (len(rollbacks) + 1)
        row = self._row("rollback") | {"sick_step": step, "reason": reason, "rate_factor": factor}
        self.rollbacks = [*rollbacks, row]
        self.folder.append_metrics(self.rollbacks[in_file:])
        self.state = with_rate_factor(self.state, factor)
        LOGGER.warning(
            "step %d: %s; back to step %d, learning rates times %g (rollback %d of %d)",
            step, reason, self.step, factor, len(self.rollbacks), health.max_rollbacks,
        )  # fmt: skip

    def _newest(self) -> Restored | None:
        for name in self.checkpoints.clean():
            LOGGER.info("removed checkpoints/%s, left by a save that was cut off", name)
        restored = self.checkpoints.load_latest(self.recipe.init())
        if restored is None:
            return None
        self.folder.warn_of_versions()
        LOGGER.info("%s: going on at step %d of %d", self.config.name, restored.step, self.n_steps)
        return restored

    def _restore(self, restored: Restored | None) -> None:
        """Takes the state of a checkpoint, or the first one, with all that the host knew then."""
        if restored is None:
            self.folder.cut_metrics(0)
            self.state, self.step, self.saved = self.recipe.init(), 0, None
            self.best, self.rollbacks = None, []
            return
        facts = restored.facts
        self.folder.cut_metrics(facts["metrics_bytes"])
        for problem in restored.problems:
            LOGGER.warning("%s; falling back to the checkpoint of step %d", problem, restored.step)
        self.checkpoints.remove_after(restored.step)
        self.state, self.step, self.saved = jax.device_put(restored.tree), restored.step, restored.step
        self.best, self.rollbacks = facts["best"], facts["rollbacks"]

    def _evaluation(self) -> dict[str, float]:
        """The last evaluation, as metrics.jsonl has it."""
        rows = [row for row in read_metrics(self.folder.path) if row["kind"] == "evaluation"]
        return {name: value for name, value in rows[-1].items() if name not in ("kind", "step", "epoch")}

    def _row(self, kind: str) -> dict[str, Any]:
        return {"kind": kind, "step": self.step, "epoch": round(self.step / self.recipe.n_batches, 6)}

    def _record(self, row: dict[str, Any], writer: Any) -> None:
        self.folder.append_metrics([row])
        if writer is not None:
            for name, value in row.items():
                if isinstance(value, float) and math.isfinite(value) and name != "epoch":
                    writer.add_scalar(f"{row['kind']}/{name}", value, self.step)


def summarize(metrics: Metrics) -> dict[str, float | int]:
    """Returns means over the updates of a call, and sums of counts."""
    out: dict[str, float | int] = {}
    figures = metrics._asdict()
    extra = figures.pop("extra")
    for name, values in {**figures, **extra}.items():
        values = np.asarray(values)
        out[name] = int(values.sum()) if name.startswith("n_") else float(np.mean(values, dtype=np.float64))
    return out


def _sickness(metrics: Metrics, health: Any) -> tuple[int, str] | None:
    """Returns the first update of a call that went wrong, counted from 0, and what was wrong with it."""
    found: list[tuple[int, str]] = []
    bad = np.flatnonzero(np.asarray(metrics.n_nonfinite) > 0)
    if len(bad):
        i = int(bad[0])
        found.append((i, f"{int(metrics.n_nonfinite[i])} values are NaN or infinite"))
    for name, values, limit in (
        ("gradient_norm", np.asarray(metrics.gradient_norm), health.max_gradient_norm),
        ("energy_gap", np.abs(np.asarray(metrics.energy_gap)), health.max_energy_gap),
    ):
        top = np.inf if limit is None else limit
        over = np.flatnonzero(~np.isfinite(values) | (values > top))
        if len(over):
            i = int(over[0])
            found.append((i, f"{name} is {float(values[i]):.4g}, over health.max_{name}={top:g}"))
    return min(found) if found else None


@contextmanager
def _held(folder: RunFolder) -> Iterator[None]:
    """Keeps the folder until the end, and why a run stopped in its log; the command tells it to the console."""
    try:
        yield
    except (RunFailed, CheckpointError, RunFolderError) as error:
        LOGGER.debug("%s", error)
        raise
    finally:
        folder.close()


@contextmanager
def _logging() -> Iterator[None]:
    handler = console()
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of dying of them; a second SIGINT interrupts at once."""
    received: list[int] = []

    def heed(number: int, frame: Any) -> None:
        del frame
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    if threading.current_thread() is not threading.main_thread():  # which alone may set handlers
        yield received
        return
    before = {number: signal.signal(number, heed) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _writer(path: Path, step: int) -> Iterator[Any]:
    """TensorBoard's events, where the extra is installed; those after `step`, of a run that is resumed, are dropped."""
    try:
        from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]
    except ImportError:
        yield None
        return
    writer = SummaryWriter(str(path / "tensorboard"), purge_step=step + 1)
    try:
        yield writer
    finally:
        writer.close()


__all__ = ["CheckpointError", "RunFailed", "RunFolderError", "resume", "train"]
