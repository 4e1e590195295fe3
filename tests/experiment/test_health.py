"""Updates that fail: the run stops, goes back to a healthy state, or leaves them out."""

import math

import numpy as np
import pytest

from ebm_jax.experiment.config.sections import HealthConfig
from ebm_jax.experiment.run import runner
from ebm_jax.experiment.run.checkpoint import Checkpoints
from ebm_jax.experiment.run.folder import read_metrics
from ebm_jax.experiment.run.health import first_failure, summarize
from ebm_jax.training.health import Energies, Metrics
from tests.experiment.runs import RBM, built, config, fingerprint, interrupted, last_state

pytestmark = pytest.mark.usefixtures("quick_runs")


def fail_at(monkeypatch, at, above=0.5):
    """Makes the update of step `at` find an infinity whenever its learning rate has a factor over `above`."""

    def spoiled(configuration):
        experiment = built(configuration)

        def advance(state, n):
            new, metrics = experiment.advance(state, n)
            factor = float(next(x.factor for x in state.opt_state if hasattr(x, "factor")))
            step = int(state.step)
            if step < at <= step + n and factor > above:
                counts = np.array(metrics.n_nonfinite)
                counts[at - step - 1] = 3
                metrics = metrics._replace(n_nonfinite=counts)
            return new, metrics

        return experiment._replace(advance=advance)

    monkeypatch.setattr(RBM, "build", spoiled)


def test_a_failed_update_stops_the_run_and_is_named(tmp_path, monkeypatch):
    fail_at(monkeypatch, 11)
    with pytest.raises(
        runner.RunFailed, match=r"step 11: 3 values are NaN or infinite.*checkpoint of step 9 is intact"
    ):
        runner.train(config(), tmp_path / "run", ["test"])
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps()[-1] == 9
    assert "step 11: 3 values are NaN or infinite" in (tmp_path / "run" / "log.txt").read_text()


def test_a_rollback_past_a_corrupt_checkpoint_writes_it_anew(tmp_path, monkeypatch):
    """The newest checkpoint is spoiled just before the run goes back; what is saved there later is the new state."""
    fail_at(monkeypatch, 11)
    reject = runner.Run._reject

    def spoil(self, step, reason):
        self.checkpoints.wait()
        newest = tmp_path / "run" / "checkpoints" / "00000009"
        victim = max(
            (file for file in newest.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size
        )
        victim.write_bytes(victim.read_bytes()[::-1])
        reject(self, step, reason)

    monkeypatch.setattr(runner.Run, "_reject", spoil)
    rollback = config(health={"policy": "rollback"}, checkpoints={"keep": 20})
    runner.train(rollback, tmp_path / "run", ["test"])
    (event,) = [row for row in read_metrics(tmp_path / "run") if row["kind"] == "rollback"]
    assert event["step"] == 6
    assert "falling back to the checkpoint of step 6" in (tmp_path / "run" / "log.txt").read_text()
    state = last_state(tmp_path / "run", 9)[1]
    assert built(rollback).learning_rate(state) == pytest.approx(0.05 * (1 - 8 / 24), rel=1e-5)


def metrics_of(n, **fields):
    """Metrics of `n` updates without energies, of which every one accepted 2 of 4 proposals."""
    zeros, counts = np.zeros(n, np.float32), np.zeros(n, np.int32)
    proposed = np.full(n, 4, np.uint32)
    return Metrics(zeros, None, zeros, proposed, proposed // 2, counts, counts, counts)._replace(**fields)


def test_an_infinite_gradient_norm_is_a_failure():
    fields = dict.fromkeys(Metrics._fields, np.zeros(3, np.float32)) | {"energies": None, "extra": {}}
    metrics = Metrics(**fields | {"gradient_norm": np.asarray([1, np.inf, 1], np.float32)})
    step, reason = first_failure(metrics, HealthConfig())
    assert step == 1 and "gradient_norm is inf" in reason
    assert first_failure(Metrics(**fields), HealthConfig()) is None


def test_a_failed_run_goes_back_with_a_lower_rate(tmp_path, monkeypatch, with_report):
    rollback = config(health={"policy": "rollback", "rollback_factor": 0.25})
    fail_at(monkeypatch, 11)
    runner.train(rollback, tmp_path / "run", ["test"])
    rows = read_metrics(tmp_path / "run")
    (event,) = [row for row in rows if row["kind"] == "rollback"]
    assert (event["step"], event["sick_step"], event["rate_factor"]) == (9, 11, 0.25)
    rates = {row["step"]: row["learning_rate"] for row in rows if row["kind"] == "train"}
    assert rates[12] == pytest.approx(0.25 * 0.1 * (1 - 11 / 24), rel=1e-5)
    assert rates[9] == pytest.approx(0.1 * (1 - 8 / 24), rel=1e-5)
    assert "At step 11 3 values are NaN or infinite" in (tmp_path / "run" / "report.md").read_text()
    interrupted(tmp_path / "again", rollback, 15)
    runner.resume(tmp_path / "again")
    assert fingerprint(tmp_path / "again") == fingerprint(tmp_path / "run")


def test_every_rollback_goes_one_checkpoint_further_back(tmp_path, monkeypatch):
    """Checkpoints lie at steps 3, 6, 9, …; the update of step 11 fails until the rate has been lowered three times."""
    rollback = config(health={"policy": "rollback"})
    fail_at(monkeypatch, 11, above=0.125)
    runner.train(rollback, tmp_path / "run", ["test"])
    events = [row for row in read_metrics(tmp_path / "run") if row["kind"] == "rollback"]
    # Two checkpoints are kept, so the third rollback goes no further than the second.
    assert [(event["step"], event["rate_factor"]) for event in events] == [(9, 0.5), (6, 0.25), (6, 0.125)]
    # A run that is killed at the third repeats all of them.
    restore = runner.Run._restore

    class Killed(BaseException):
        pass

    def fatal(self, restored):
        if len(self.rollbacks) == 2:
            raise Killed
        restore(self, restored)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(runner.Run, "_restore", fatal)
        runner.train(rollback, tmp_path / "again", ["test"])
    runner.resume(tmp_path / "again")
    assert fingerprint(tmp_path / "again") == fingerprint(tmp_path / "run")


def test_rollbacks_have_an_end(tmp_path):
    limit = config(health={"policy": "rollback", "max_gradient_norm": 1e-6, "max_rollbacks": 2})
    with pytest.raises(runner.RunFailed, match=r"over health\.max_gradient_norm=1e-06, after 2 rollbacks"):
        runner.train(limit, tmp_path / "run", ["test"])
    events = [row for row in read_metrics(tmp_path / "run") if row["kind"] == "rollback"]
    assert [event["rate_factor"] for event in events] == [0.5, 0.25]


def test_a_run_stops_after_ten_updates_that_are_skipped_in_a_row(tmp_path):
    """A call makes three, so it stops after the fourth."""
    limit = config(health={"policy": "skip", "max_gradient_norm": 1e-6}, training={"momentum": 0.0})
    said = r"steps 1 to 12: every update was skipped \(gradient_norm is .*, over .*checkpoint of step 9 is intact"
    with pytest.raises(runner.RunFailed, match=said):
        runner.train(limit, tmp_path / "run", ["test"])
    row = [row for row in read_metrics(tmp_path / "run") if row["kind"] == "train"][-1]
    # The schedule stands still.
    assert row["step"] == 12 and row["n_skipped"] == 3 and row["learning_rate"] == pytest.approx(0.1)
    assert "skipped 3 updates" in (tmp_path / "run" / "log.txt").read_text()


def changed(monkeypatch, change):
    """Passes the state and the metrics after each call through a function."""
    monkeypatch.setattr(
        RBM,
        "build",
        lambda configuration: (experiment := built(configuration))._replace(
            advance=lambda state, n: change(*experiment.advance(state, n))
        ),
    )


def test_skipped_updates_are_counted_and_told(tmp_path, monkeypatch, with_report):
    """A call that is skipped as a whole does not stop the run."""

    def skip(state, metrics):
        skipped = [1, 1, 1] if int(state.step) == 3 else [0, 1, 0]
        return state, metrics._replace(n_skipped=np.array(skipped, np.int32))

    changed(monkeypatch, skip)
    runner.train(config(training={"n_epochs": 1}), tmp_path / "run", ["test"])
    assert "4 updates were skipped" in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.parametrize("name", ["weights", "visible_bias"])
def test_parameters_that_are_not_finite_are_never_saved(tmp_path, monkeypatch, name):
    """They appear at step 9, unnoticed by the metrics; what was saved before stays."""

    def spoil(state, metrics):
        params = state.params
        if int(state.step) == 9:
            leaf = getattr(params, name)
            params = params._replace(**{name: leaf.at[(1,) * leaf.ndim].set(np.nan)})
        return state.replace(params=params), metrics

    changed(monkeypatch, spoil)
    with pytest.raises(
        runner.RunFailed,
        match=f"step 9: the parameters {name} are not finite.*checkpoint of step 6 is intact",
    ):
        runner.train(config(checkpoints={"keep": 1}), tmp_path / "run", ["test"])
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == [6]
    assert not (tmp_path / "run" / "model.npz").exists()


def test_figures_of_an_objective_are_means_and_its_counts_sums():
    extra = {"n_effective": np.array([1.0, np.nan], np.float32), "hits": np.array([3, 4], np.int32)}
    row = summarize(metrics_of(2, extra=extra))
    assert math.isnan(row["n_effective"]) and row["hits"] == 7 and type(row["hits"]) is int
    assert math.isnan(row["energy_gap"]) and row["acceptance"] == 0.5


def test_an_objective_without_energies_has_no_gap_to_fail_by():
    metrics, two = metrics_of(2), np.full(2, 2, np.float32)
    health = HealthConfig(max_energy_gap=1.0)
    assert first_failure(metrics, health) is None
    assert first_failure(metrics._replace(energies=Energies(two, two, two)), health) is not None


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ({"max_gradient_norm": 1.0}, r"gradient_norm is 2, over health.max_gradient_norm=1"),
        ({"max_position": 1.5}, r"position is 3, over health.max_position=1.5"),
        ({"min_movement": 0.5}, r"movement is 0.25, under health.min_movement=0.5"),
        ({"min_acceptance": 0.2}, r"acceptance is 0.125, under health.min_acceptance=0.2"),
    ],
)
def test_limits_hold_after_the_grace_period(limit, reason):
    """Every figure is past its limit at all of four updates, the first of which is the third of the run."""

    def four(value):
        return np.full(4, value, np.float32)

    extra = {"position_max": four(3.0), "movement": four(0.25)}
    metrics = metrics_of(4, gradient_norm=four(2.0), n_proposed=np.full(4, 16, np.uint32), extra=extra)
    assert first_failure(metrics, HealthConfig(**limit), before=2) == (0, reason)
    assert first_failure(metrics, HealthConfig(**limit, grace_steps=5), before=2) == (3, reason)
    assert first_failure(metrics, HealthConfig(**limit, grace_steps=6), before=2) is None
    assert first_failure(metrics, HealthConfig()) is None
    broken = metrics._replace(n_nonfinite=np.array([0, 2, 0, 0]))
    assert first_failure(broken, HealthConfig(**limit, grace_steps=9)) == (1, "2 values are NaN or infinite")
