"""Runs end where an undisturbed run ends, whatever happens to them on the way."""

import functools
import json
import math
import os
import signal
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
import yaml

import ebm_jax as ej
from ebm_jax import data
from ebm_jax.experiment import report
from ebm_jax.experiment.config import parse_config
from ebm_jax.experiment.config.sections import HealthConfig
from ebm_jax.experiment.recipes.base import find
from ebm_jax.experiment.run import runner, trained
from ebm_jax.experiment.run.checkpoint import Checkpoints
from ebm_jax.experiment.run.folder import RunFolder, RunFolderError, read_metrics, read_result
from ebm_jax.training.step import Metrics
from tests.experiment.runs import fingerprint, interrupted, last_state

RBM = find("rbm")
TINY = {
    "name": "tiny",
    "data": {"name": "digits", "n_train": 300, "n_test": 60},
    "model": {"n_hidden": 8},
    "negatives": {"method": "pcd", "n_chains": 16},
    "training": {"n_epochs": 4, "batch_size": 50, "steps_per_call": 3, "momentum": 0.5},
    "checkpoints": {"every_epochs": 0.5},
    "evaluation": {"every_epochs": 2, "chain_steps": 20, "n_chains": 8, "n_test": 20},
}


def config(**sections):
    merged = {key: dict(value) if isinstance(value, dict) else value for key, value in TINY.items()}
    for name, values in sections.items():
        merged[name] = {**merged.get(name, {}), **values} if isinstance(values, dict) else values
    return parse_config(merged)


# Equal configurations share one experiment, and so what was compiled. A run builds its own otherwise.
built = functools.cache(RBM.build)
written = report.write_run


@pytest.fixture(scope="module", autouse=True)
def _compile_once():
    """Shares experiments, and leaves out the figures and the page but where a test asks for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RBM, "build", built, raising=False)
        patch.setattr(report, "write_run", lambda path, result: None)
        yield


@pytest.fixture
def with_report(monkeypatch):
    monkeypatch.setattr(report, "write_run", written)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, _compile_once):
    path = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write_run", written)
        runner.train(config(), path, ["ebm-jax", "train", "tiny.yaml", "-o", "a b"])
    return path


def test_the_folder_holds_all_that_was_promised(undisturbed):
    expected = {
        "config.yaml", "environment.json", "metrics.jsonl", "log.txt", "checkpoints", "samples", "plots", "model.npz",
        "result.json", "report.md",
    }  # fmt: skip
    assert expected <= {path.name for path in undisturbed.iterdir()}
    rows = read_metrics(undisturbed)
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(3, 25, 3))
    assert [row["step"] for row in rows if row["kind"] == "evaluation"] == [12, 24]
    assert not any("time" in key and key != "autocorrelation_time" for row in rows for key in row)
    environment = json.loads((undisturbed / "environment.json").read_text())
    assert environment["command"] == "ebm-jax train tiny.yaml -o 'a b'"
    result = read_result(undisturbed)
    assert result["step"] == 24 and math.isfinite(result["metrics"]["log_likelihood_lower"])
    page = (undisturbed / "report.md").read_text()
    for line in page.splitlines():
        if line.startswith("!["):
            assert (undisturbed / line.split("](")[1].rstrip(")")).stat().st_size > 1000


def test_the_saved_model_is_the_trained_one(undisturbed):
    model, params = ej.load(undisturbed / "model.npz")
    assert model == RBM.model(config())
    jax.tree.map(np.testing.assert_array_equal, params, last_state(undisturbed)[1].params)


def test_shapes_of_the_state_are_known_without_data(monkeypatch):
    """For every kind of state: with chains or without, with moments, means and averages."""
    others = [
        {},
        {"negatives": {"method": "cd", "n_chains": None}},
        {"training": {"gradient": "centred", "ema_decay": 0.9, "weight_decay": 1e-4}},
        {"training": {"optimizer": "adam", "momentum": 0.0, "warmup_epochs": 1}},
    ]
    experiments = [RBM.build(config(**other)) for other in others]
    monkeypatch.setattr(data, "load", None)
    for other, experiment in zip(others, experiments, strict=True):
        found, wanted = RBM.struct(config(**other)), jax.eval_shape(experiment.init)
        assert jax.tree.leaves(found) == jax.tree.leaves(wanted)


def test_samples_are_drawn_without_data(tmp_path, monkeypatch, undisturbed):
    monkeypatch.setattr(data, "load", None)
    run = trained.open_run(undisturbed, "best")
    trained.draw(run, 8, None, 0, tmp_path / "x.npz", None)
    drawn = np.load(tmp_path / "x.npz")
    assert drawn["samples"].shape == (8, 8, 8) and drawn["steps"][-1] == 20


def test_training_learns(tmp_path, undisturbed):
    """The exact log-likelihood rises over that of independent pixels, where training starts."""
    long = config(
        training={"n_epochs": 150, "learning_rate": 0.5},
        evaluation={"every_epochs": 0, "chain_steps": 20},
        checkpoints={"every_epochs": 50},
    )
    runner.train(long, tmp_path / "long", ["test"])
    first = read_metrics(undisturbed)
    first = next(row for row in first if row["kind"] == "evaluation")["log_likelihood_lower"]
    exact = read_result(tmp_path / "long")["metrics"]
    assert exact["log_likelihood_lower"] == exact["log_likelihood_upper"] > first + 1
    annealed = long.evaluation.model_copy(update={"exact": False})
    params = trained.open_run(tmp_path / "long").params
    estimates = built(long).evaluate(params, annealed, ("likelihood",))
    for side in ("forward", "reverse"):
        assert estimates[f"log_z_{side}"] == pytest.approx(exact["log_z_forward"], abs=0.3)


def test_what_is_measured_is_what_the_recipe_lists(tmp_path, undisturbed):
    """Every number has an entry, every entry a number, in one order; each group alone gives its own numbers."""
    groups = {metric.name: metric.group for metric in RBM.metrics}
    exact = built(config())
    params = trained.open_run(undisturbed).params
    annealed = config().evaluation.model_copy(update={"exact": False, "ais_betas": 2, "ais_chains": 4})
    every = exact.evaluate(params, annealed, RBM.groups)
    assert sorted(every) == sorted(groups)
    row = next(row for row in read_metrics(undisturbed) if row["kind"] == "evaluation")
    assert [name for name in row if name in groups] == [name for name in groups if name in row]
    for group in RBM.groups:
        alone = exact.evaluate(params, config().evaluation, (group,))
        assert alone and {groups[name] for name in alone} == {group}
        if group != "mixing":  # whose number of chains is that of AIS when both are asked for
            assert all(row[name] is not None for name in alone)
    (lacking,) = (
        exact.evaluate(
            params, config().evaluation.model_copy(update={"exact": False, "ais_betas": 0}), [name]
        )
        for name in ["likelihood"]
    )
    assert lacking == {}


# Killed and resumed


@pytest.mark.parametrize("at", [1, 6, 10, 13, 24])
def test_killed_and_resumed_is_undisturbed(tmp_path, monkeypatch, undisturbed, at):
    """Before the first checkpoint, at one, between two, and at the end."""
    path = tmp_path / "run"
    if at == 24:
        with monkeypatch.context() as patch:
            patch.setattr(report, "write_run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                runner.train(config(), path, ["test"])
    else:
        interrupted(path, config(), at)
    assert read_result(path) is None
    runner.resume(path)
    assert fingerprint(path) == fingerprint(undisturbed)


@pytest.mark.parametrize(
    "other",
    [
        {
            "negatives": {"method": "cd", "k": 2, "n_chains": None},
            "training": {"optimizer": "adam", "learning_rate": 0.01, "momentum": 0.0, "schedule": "cosine"},
            "data": {"binarization": "threshold"},
            "health": {"policy": "skip"},
        },
        {"training": {"gradient": "centred", "ema_decay": 0.9}, "data": {"binarization": "static"}},
    ],
    ids=["cd, adam, skip", "centred average"],
)
def test_other_configurations_killed_once(tmp_path, other):
    short = config(**{**other, "training": {"n_epochs": 2, **other.get("training", {})}})
    runner.train(short, tmp_path / "whole", ["test"])
    interrupted(tmp_path / "run", short, 7)
    runner.resume(tmp_path / "run")
    assert fingerprint(tmp_path / "run") == fingerprint(tmp_path / "whole")


def test_a_finished_run_resumes_to_nothing(undisturbed):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file()}
    runner.resume(undisturbed)
    changed = {path.name for path, when in before.items() if path.stat().st_mtime_ns != when}
    assert changed <= {"log.txt", ".lock"}


def test_a_corrupt_checkpoint_is_passed_over_and_told(tmp_path, undisturbed):
    path = tmp_path / "run"
    interrupted(path, config(), 13)
    newest = max(path.glob("checkpoints/*/"))
    victim = max((file for file in newest.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 4
    victim.write_bytes(content)
    runner.resume(path)
    assert fingerprint(path) == fingerprint(undisturbed)
    log = (path / "log.txt").read_text()
    assert "is corrupt" in log and "falling back to the checkpoint of step 12" in log


KILLER = """
# Imports everything once, and then forks a process a run: JAX starts in each, from what was compiled before.
import os, signal, sys, threading, time
from pathlib import Path
import matplotlib.pyplot, sklearn.datasets
from ebm_jax.experiment import report
from ebm_jax.experiment.config import load_config
from ebm_jax.experiment.recipes.rbm import training
from ebm_jax.experiment.recipes.rbm.evaluation import Evaluation
from ebm_jax.experiment.run import checkpoint, runner

file, run = map(Path, sys.argv[1:])
orbax = checkpoint._orbax()

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)

def in_update():
    runner._Run._record = kill

def as_it_starts():
    threading.Timer(0.3, kill).start()

def while_orbax_writes():
    def place():
        threading.Timer(0.004, kill).start()
        return orbax
    checkpoint._orbax = place

def before_the_manifest():
    digests, write = checkpoint._digests, checkpoint.Checkpoints._write
    def watched(self, *arguments):
        checkpoint._digests = kill
        write(self, *arguments)
    checkpoint.Checkpoints._write = watched

def within_the_manifest():
    write = checkpoint.Checkpoints._write
    def watched(self, *arguments):
        checkpoint.Path = None
        Path.replace = kill
        write(self, *arguments)
    checkpoint.Checkpoints._write = watched

def in_an_evaluation():
    Evaluation.mixing = kill

def in_a_removal():
    checkpoint._remove = lambda path: kill() if path.is_dir() else None

def at_the_end():
    report.write_run = kill

def start(moment):
    process = os.fork()
    if process == 0:
        if moment is not None:
            moment()
        else:
            report.write_run = lambda path, result: None
        if run.exists():
            runner.resume(run)
        else:
            runner.train(load_config(file), run, ["test"])
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

moments = (in_update, as_it_starts, before_the_manifest, while_orbax_writes, within_the_manifest, in_an_evaluation,
           in_a_removal, at_the_end)
for moment in moments:
    began = time.monotonic()
    code = start(moment)
    assert code == -signal.SIGKILL, (moment.__name__, code)
    print(moment.__name__, round(time.monotonic() - began, 1), *sorted(os.listdir(run / "checkpoints")
          if (run / "checkpoints").exists() else []), flush=True)
assert start(None) == 0
"""


def test_killed_at_every_kind_of_moment(tmp_path, undisturbed):
    """kill -9: in an update before the first checkpoint, as JAX starts, in each phase of a save, at the end."""
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(config().model_dump()))
    killer = subprocess.run(
        [sys.executable, "-c", KILLER, str(file), str(tmp_path / "run")], timeout=600, capture_output=True, text=True
    )  # fmt: skip
    assert killer.returncode == 0, killer.stdout + killer.stderr
    assert fingerprint(tmp_path / "run") == fingerprint(undisturbed)
    assert (tmp_path / "run" / "log.txt").read_text().count("left by an interrupted save") >= 3
    print(killer.stdout)


# What is refused


def test_a_folder_that_exists_is_never_written_to(tmp_path, undisturbed):
    before = (undisturbed / "metrics.jsonl").read_bytes()
    with pytest.raises(RunFolderError, match="ebm-jax resume"):
        runner.train(config(), undisturbed, ["test"])
    assert (undisturbed / "metrics.jsonl").read_bytes() == before
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(RunFolderError, match="is there already"):
        runner.train(config(), tmp_path, ["test"])


def test_two_processes_do_not_write_one_folder(tmp_path):
    """The lock belongs to the open file, so a second one in this process stands for another process."""
    held = RunFolder.create(tmp_path / "run", config(), ["test"])
    with pytest.raises(RunFolderError, match=f"in use by process {os.getpid()}"):
        runner.resume(tmp_path / "run")
    held.close()
    RunFolder.open(tmp_path / "run").close()


def test_a_changed_configuration_is_refused_and_so_is_a_shortened_file(tmp_path):
    path = tmp_path / "run"
    interrupted(path, config(), 7)
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace("momentum: 0.5", "momentum: 0.6"))
    with pytest.raises(RunFolderError, match=r"config\.yaml was changed since the run began"):
        runner.resume(path)
    (path / "config.yaml").write_text(text)
    (path / "metrics.jsonl").write_text("")
    with pytest.raises(RunFolderError, match="was shortened"):
        runner.resume(path)


def test_how_a_run_is_evaluated_may_change(tmp_path):
    path = tmp_path / "run"
    interrupted(path, config(), 13)
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace("n_test: 20\n", "n_test: 10\n"))
    runner.resume(path)
    assert read_result(path)["step"] == 24


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_with_a_checkpoint(tmp_path, monkeypatch, undisturbed, number):
    path = tmp_path / "run"
    advance = runner._Run._advance

    def signalled(self, bar, writer):
        if self.step == 9:
            os.kill(os.getpid(), number)
        advance(self, bar, writer)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(runner._Run, "_advance", signalled)
        with pytest.raises(
            runner.RunFailed, match=f"stopped by {number.name} at step 12 of 24.*ebm-jax resume"
        ):
            runner.train(config(checkpoints={"every_epochs": 100}), path, ["test"])
    assert signal.getsignal(number) is before
    assert Checkpoints(path / "checkpoints").steps() == [12]
    runner.resume(path)
    assert fingerprint(path)[1:] == fingerprint(undisturbed)[1:]


# Failed updates


def fail_at(monkeypatch, at):
    """Makes the update of step `at` find an infinity whenever it is taken at the full learning rate."""

    def spoiled(configuration):
        experiment = built(configuration)

        def advance(state, n):
            new, metrics = experiment.advance(state, n)
            factor = float(next(x.factor for x in state.opt_state if hasattr(x, "factor")))
            step = int(state.step)
            if step < at <= step + n and factor == 1:
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
    reject = runner._Run._reject

    def spoil(self, step, reason):
        self.checkpoints.wait()
        newest = tmp_path / "run" / "checkpoints" / "00000009"
        victim = max(
            (file for file in newest.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size
        )
        victim.write_bytes(victim.read_bytes()[::-1])
        reject(self, step, reason)

    monkeypatch.setattr(runner._Run, "_reject", spoil)
    rollback = config(health={"policy": "rollback"}, checkpoints={"keep": 20})
    runner.train(rollback, tmp_path / "run", ["test"])
    (event,) = [row for row in read_metrics(tmp_path / "run") if row["kind"] == "rollback"]
    assert event["step"] == 6
    assert "falling back to the checkpoint of step 6" in (tmp_path / "run" / "log.txt").read_text()
    state = last_state(tmp_path / "run", 9)[1]
    assert built(rollback).learning_rate(state) == pytest.approx(0.05 * (1 - 8 / 24), rel=1e-5)


def test_an_infinite_gradient_norm_is_a_failure():
    fields = dict.fromkeys(Metrics._fields, np.zeros(3, np.float32))
    metrics = Metrics(**fields | {"gradient_norm": np.asarray([1, np.inf, 1], np.float32)})
    step, reason = runner.first_failure(metrics, HealthConfig())
    assert step == 1 and "gradient_norm is inf" in reason
    assert runner.first_failure(Metrics(**fields), HealthConfig()) is None


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


def test_rollbacks_have_an_end(tmp_path):
    limit = config(health={"policy": "rollback", "max_gradient_norm": 1e-6, "max_rollbacks": 2})
    with pytest.raises(runner.RunFailed, match=r"over health\.max_gradient_norm=1e-06, after 2 rollbacks"):
        runner.train(limit, tmp_path / "run", ["test"])
    events = [row for row in read_metrics(tmp_path / "run") if row["kind"] == "rollback"]
    assert [event["rate_factor"] for event in events] == [0.5, 0.25]


def test_skipped_updates_are_counted_and_told(tmp_path, with_report):
    limit = config(
        health={"policy": "skip", "max_gradient_norm": 1e-6}, training={"n_epochs": 1, "momentum": 0.0}
    )
    runner.train(limit, tmp_path / "run", ["test"])
    rows = [row for row in read_metrics(tmp_path / "run") if row["kind"] == "train"]
    assert sum(row["n_skipped"] for row in rows) == 6
    # The schedule stands still.
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.1, 0.1])
    assert "skipped 3 updates" in (tmp_path / "run" / "log.txt").read_text()
    assert "6 updates were skipped" in (tmp_path / "run" / "report.md").read_text()


def test_events_go_to_tensorboard_where_it_is_installed(tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, logdir, purge_step):
            written.append((logdir, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def close(self):
            written.append("closed")

    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=SummaryWriter))
    runner.train(config(), tmp_path / "run", ["test"])
    assert written[0] == (str(tmp_path / "run" / "tensorboard"), 1) and written[-1] == "closed"
    scalars = {(name, step): value for name, value, step in written[1:-1]}
    (first, *_) = read_metrics(tmp_path / "run")
    assert scalars["train/energy_gap", 3] == first["energy_gap"]
    assert ("evaluation/log_likelihood_lower", 12) in scalars and ("train/acceptance", 3) not in scalars
