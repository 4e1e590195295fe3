"""A run in progress: calls of updates, and what the host does between them.

A run is a sequence of calls, each of a fixed number of updates within an epoch. Between two calls the host checks the
metrics, evaluates, writes checkpoints, and handles signals. Where calls begin and end depends only on the
configuration, and all randomness only on the seed and the step. So a run that was killed and resumed has the same bits
as one that was not. That includes its metrics file, which a resume cuts back to its length at the checkpoint.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm.auto import tqdm

from ebm_jax.experiment import files
from ebm_jax.experiment.recipes.base import Experiment, Recipe
from ebm_jax.experiment.run.checkpoint import CheckpointError, Checkpoints, Restored
from ebm_jax.experiment.run.console import LOGGER
from ebm_jax.experiment.run.folder import (
    CHECKPOINTS,
    DRAWS,
    MODEL,
    RESULT,
    RunFolder,
    read_metrics,
    write_arrays,
    write_json,
)
from ebm_jax.experiment.run.health import first_failure, summarize
from ebm_jax.experiment.run.leaves import named
from ebm_jax.experiment.run.process import collected_signals, event_writer

# A run ends when so many updates in a row are skipped, for it learns nothing. A few that fail now and then do no harm.
_MOST_SKIPPED = 10


class RunFailed(RuntimeError):
    """A run that stopped before its end. The message says where, why, and what to do."""


class Run:
    """A run in progress: its train state, and what the host knows of it."""

    def __init__(
        self, folder: RunFolder, recipe: Recipe, experiment: Experiment, restart: bool = False
    ) -> None:
        self.folder = folder
        self.restart = restart
        self.config = folder.config
        self.recipe = recipe
        self.experiment = experiment
        self.checkpoints = Checkpoints(folder.path / CHECKPOINTS, self.config.checkpoints.keep)
        self.struct = jax.eval_shape(experiment.init)
        self.n_steps = self.config.training.n_epochs * experiment.n_batches
        self.saved: int | None = None
        self.best: dict[str, Any] | None = None
        self.rollbacks: list[dict[str, Any]] = []
        self.state: Any = None
        self.step = 0
        # Updates of the latest calls in a row that were skipped as a whole.
        self.skipped = 0

    def go(self) -> None:
        """Trains to the end and writes what is made of the result."""
        began = time.perf_counter()
        with collected_signals() as received:
            try:
                self._restore(self._newest())
                if self.step == 0:
                    LOGGER.info("%s: %d updates, in %s", self.config.name, self.n_steps, self.folder.path)
                hidden = not sys.stderr.isatty()
                with (
                    event_writer(self.folder.path, self.step) as writer,
                    tqdm(total=self.n_steps, initial=self.step, unit="update", disable=hidden) as bar,
                ):
                    while self.step < self.n_steps:
                        self._advance(bar, writer)
                        if received:
                            self._stop(received[0])
                self.checkpoints.wait()
            finally:
                self.checkpoints.close()
        self._check_finite()
        params = self._params()
        # The model comes first, so that no trouble with the rest keeps it from being written.
        with files.written(self.folder.path, MODEL) as path:
            self.recipe.save(path, self.config, params)
        write_arrays(self.folder.path, DRAWS, self.experiment.draws(params))
        result = {
            "step": self.step,
            "n_rollbacks": len(self.rollbacks),
            "best": self.best,
            "metrics": self._last_evaluation(),
        }
        # Matplotlib takes a while to load, and only a finished run needs it.
        from ebm_jax.experiment import report

        report.write_run(self.folder.path, result)
        write_json(self.folder.path / RESULT, result)
        LOGGER.info("finished in %.0f s: %s", time.perf_counter() - began, self.folder.path / "report.md")

    def _advance(self, bar: Any, writer: Any) -> None:
        """Makes one call of updates, and what is due after it."""
        n = self._next_call()
        state, metrics = self.experiment.advance(self.state, n)
        metrics = jax.device_get(jax.block_until_ready(metrics))
        failure = first_failure(metrics, self.config.health, self.step)
        if failure is not None and self.config.health.policy != "skip":
            self._reject(self.step + failure[0] + 1, failure[1])
            bar.n = self.step
            return
        self.state, before, self.step = state, self.step, self.step + n
        learning_rate = self.experiment.learning_rate(state)
        row, figures = self._row("train"), summarize(metrics)
        taken = sorted({*row, "learning_rate"} & set(figures))
        if taken:
            raise RunFailed(
                f"the objective reports {taken}, names that metrics.jsonl has already; rename them"
            )
        row |= figures | {"learning_rate": learning_rate}
        if row["n_skipped"]:
            LOGGER.warning("steps %d to %d: skipped %d updates", before + 1, self.step, row["n_skipped"])
        self._record(row, writer)
        self.skipped = self.skipped + n if row["n_skipped"] == n else 0
        if self.skipped >= min(_MOST_SKIPPED, self.n_steps):
            reason = "" if failure is None else f" ({failure[1]})"
            raise RunFailed(
                f"steps {self.step - self.skipped + 1} to {self.step}: every update was skipped{reason}, so nothing is "
                f"learned; {self._kept()} is intact. Train again with a lower training.learning_rate, or with wider "
                "limits in health"
            )
        bar.set_postfix(energy_gap=f"{row['energy_gap']:.3g}", refresh=False)
        bar.update(n)
        last = self.step == self.n_steps
        if last or self._due(self.config.evaluation.every_epochs, before):
            self._evaluate(writer)
        if last or self._due(self.config.checkpoints.every_epochs, before):
            self._save()

    def _next_call(self) -> int:
        """Returns the updates of the next call: an epoch in equal parts, none longer than `steps_per_call`."""
        n_batches = self.experiment.n_batches
        n_calls = math.ceil(n_batches / self.config.training.steps_per_call)
        within = self.step % n_batches
        ends = [n_batches * (i + 1) // n_calls for i in range(n_calls)]
        return next(end for end in ends if end > within) - within

    def _due(self, every_epochs: float, before: int) -> bool:
        """Whether a multiple of `every_epochs` lies between the steps `before` and now."""
        if every_epochs == 0:
            return False
        period = every_epochs * self.experiment.n_batches
        return math.floor(self.step / period + 1e-9) > math.floor(before / period + 1e-9)

    def _evaluate(self, writer: Any) -> None:
        began = time.perf_counter()
        due = self.experiment.groups_due
        groups = self.recipe.groups if due is None else due(self.step)
        settings = self.config.evaluation
        params = self._params()
        found = self.experiment.evaluate(params, settings, groups)
        found |= self.experiment.evaluate_state(self.state, settings, groups)
        value = found.get(self.recipe.best)
        if value is not None and math.isfinite(value) and self._is_best(value):
            self.best = {"step": self.step, "metric": self.recipe.best, "value": value}
        self._record(self._row("evaluation") | found, writer)
        if self.experiment.snapshot is not None and (drawn := self.experiment.snapshot(params, self.step)):
            write_arrays(self.folder.path, f"samples/step_{self.step:08d}.npz", drawn)
        shown = ", ".join(f"{name} {found[name]:.4g}" for name in list(found)[:4])
        LOGGER.info("step %d: %s (%.1f s)", self.step, shown, time.perf_counter() - began)
        if self.best is not None and self.best["step"] == self.step:
            self._save()

    def _is_best(self, value: float) -> bool:
        if self.best is None:
            return True
        before = self.best["value"]
        return value < before if self.recipe.smallest_is_best else value > before

    def _save(self) -> None:
        if self.saved == self.step:
            return
        self._check_finite()
        facts = self.folder.metrics_facts() | {"best": self.best, "rollbacks": self.rollbacks}
        self.checkpoints.save(self.step, self.state, facts)
        self.saved = self.step

    def _check_finite(self) -> None:
        """Raises RunFailed if parameters are not finite, so that they take the place of no healthy ones."""
        for name, leaf in named(self._params()).items():
            if jnp.issubdtype(leaf.dtype, jnp.inexact) and not np.isfinite(np.asarray(leaf)).all():
                self.checkpoints.wait()
                raise RunFailed(
                    f"step {self.step}: the parameters {name} are not finite, and nothing is saved; {self._kept()} is "
                    "intact. Train again with a lower training.learning_rate"
                )

    def _kept(self) -> str:
        return f"the checkpoint of step {self.saved}" if self.saved else "the start"

    def _stop(self, number: int) -> None:
        self._save()
        self.checkpoints.wait()
        raise RunFailed(
            f"stopped by {signal.Signals(number).name} at step {self.step} of {self.n_steps}, with a checkpoint there; "
            f"go on with: ebm-jax resume {self.folder.path}"
        )

    def _reject(self, step: int, reason: str) -> None:
        """Does what the policy says after a failed call, none of whose updates are kept."""
        health = self.config.health
        self.checkpoints.wait()
        if health.policy == "stop":
            raise RunFailed(
                f"step {step}: {reason}. The run stops (health.policy is stop); {self._kept()} is intact. Train again "
                "with a lower training.learning_rate, or with health.policy=rollback"
            )
        if len(self.rollbacks) >= health.max_rollbacks:
            raise RunFailed(
                f"step {step}: {reason}, after {len(self.rollbacks)} rollbacks (health.max_rollbacks). Train again "
                "with a lower training.learning_rate"
            )
        rollbacks = self.rollbacks
        # A slow instability is older than the newest checkpoint, so each rollback goes one checkpoint further back.
        self.checkpoints.remove_newest(len(rollbacks))
        self._restore(self.checkpoints.load_latest(self.struct))
        n_recorded = len(self.rollbacks)
        factor = health.rollback_factor ** (len(rollbacks) + 1)
        row = self._row("rollback") | {"sick_step": step, "reason": reason, "rate_factor": factor}
        self.rollbacks = [*rollbacks, row]
        self.folder.append_metrics(self.rollbacks[n_recorded:])
        self.state = self.experiment.with_rate_factor(self.state, factor)
        LOGGER.warning(
            "step %d: %s; back to step %d, learning rates times %g (rollback %d of %d)",
            step, reason, self.step, factor, len(self.rollbacks), health.max_rollbacks,
        )  # fmt: skip

    def _newest(self) -> Restored | None:
        for name in self.checkpoints.clean():
            LOGGER.info("removed checkpoints/%s, left by an interrupted save", name)
        path, restored = self.folder.path, None
        if not self.checkpoints.folder.is_dir() and not self.restart:
            raise RunFailed(
                f"{path} has no folder checkpoints, which a run has from its start: put it back, or "
                f"`ebm-jax resume {path} --restart` trains from the start"
            )
        aside = self.checkpoints.set_aside()
        try:
            restored = self.checkpoints.load_latest(self.struct)
        except CheckpointError as error:
            if not self.restart:
                again = f"`ebm-jax resume {path} --restart` sets them aside and trains from the start"
                raise CheckpointError(f"{error}\n  {again}") from error
            aside = self.checkpoints.set_aside(everything=True)
        if aside:
            LOGGER.warning("checkpoints/%s cannot be verified and is not loaded", ", ".join(aside))
        if restored is None:
            if aside and not self.restart:
                raise RunFailed(
                    f"{path} has no checkpoint that can be verified: arrays or manifests are missing beside "
                    f"{', '.join(aside)} in its folder checkpoints. Put what is missing there, and take 'unverified-' "
                    f"from the names; or `ebm-jax resume {path} --restart` trains from the start"
                )
            return None
        self.folder.warn_of_versions()
        LOGGER.info("%s: going on at step %d of %d", self.config.name, restored.step, self.n_steps)
        return restored

    def _restore(self, restored: Restored | None) -> None:
        """Takes the state of a checkpoint, or the first state, with what the host knew then."""
        if restored is None:
            self.folder.cut_metrics(0)
            self.state, self.step, self.saved = self.experiment.init(), 0, None
            self.best, self.rollbacks = None, []
            return
        facts = restored.facts
        self.folder.cut_metrics(facts["metrics_bytes"], facts.get("metrics_sha256"))
        for problem in restored.problems:
            LOGGER.warning("%s; falling back to the checkpoint of step %d", problem, restored.step)
        self.checkpoints.remove_after(restored.step)
        self.state, self.step, self.saved = jax.device_put(restored.tree), restored.step, restored.step
        self.best, self.rollbacks = facts["best"], facts["rollbacks"]

    def _params(self) -> Any:
        """Returns the parameters that are judged and kept."""
        return self.recipe.params(self.config, self.state)

    def _last_evaluation(self) -> dict[str, float]:
        """Returns the last evaluation in metrics.jsonl."""
        rows = [row for row in read_metrics(self.folder.path) if row["kind"] == "evaluation"]
        return {name: value for name, value in rows[-1].items() if name not in ("kind", "step", "epoch")}

    def _row(self, kind: str) -> dict[str, Any]:
        return {"kind": kind, "step": self.step, "epoch": round(self.step / self.experiment.n_batches, 6)}

    def _record(self, row: dict[str, Any], writer: Any) -> None:
        self.folder.append_metrics([row])
        if writer is not None:
            for name, value in row.items():
                if isinstance(value, float) and math.isfinite(value) and name != "epoch":
                    writer.add_scalar(f"{row['kind']}/{name}", value, self.step)
