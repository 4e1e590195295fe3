"""Runs end where an undisturbed run ends, whatever happens to them on the way."""

import functools
import hashlib
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
from ebm_jax.experiment import report
from ebm_jax.experiment.config import parse_config
from ebm_jax.experiment.recipes.base import build
from ebm_jax.experiment.run import runner
from ebm_jax.experiment.run.checkpoint import Checkpoints
from ebm_jax.experiment.run.folder import RunFolder, RunFolderError, read_metrics, read_result

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


def fingerprint(path):
    """All that must be the same in equal runs: the metrics, the last state, the draws."""
    checkpoints = Checkpoints(path / "checkpoints")
    last = checkpoints.steps()[-1]
    recipe = built(parse_config(yaml.safe_load((path / "config.yaml").read_text())))
    state = jax.tree.map(
        lambda leaf: (
            jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        ),
        checkpoints.load(last, recipe.init()).tree,
    )
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        digest.update(np.asarray(leaf).tobytes())
    draws = np.load(path / "samples" / "final.npz")
    for name in sorted(draws.files):
        digest.update(draws[name].tobytes())
    return last, digest.hexdigest(), (path / "metrics.jsonl").read_bytes()


def interrupted(monkeypatch, path, configuration, at):
    """Trains until the call after step `at`, then dies without a word, as by kill -9: nothing is saved on the way."""

    class Killed(BaseException):
        pass

    advance = runner._Run._advance

    def fatal(self, bar, writer):
        if self.step >= at:
            raise Killed
        advance(self, bar, writer)

    with monkeypatch.context() as patch:
        patch.setattr(runner._Run, "_advance", fatal)
        with pytest.raises(Killed):
            runner.train(configuration, path, ["test"])


built = functools.cache(build)  # equal runs share what was compiled; other processes are below


@pytest.fixture(scope="module", autouse=True)
def _compile_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "build", built)
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, _compile_once):
    path = tmp_path_factory.mktemp("runs") / "whole"
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
    recipe = built(config())
    state = Checkpoints(undisturbed / "checkpoints").load(24, recipe.init()).tree
    assert model == recipe.model
    jax.tree.map(np.testing.assert_array_equal, params, state.params)


def test_training_learns(tmp_path, undisturbed):
    """The exact log-likelihood rises over that of independent pixels, where training starts."""
    long = config(
        training={"n_epochs": 150, "learning_rate": 0.5}, evaluation={"every_epochs": 0, "chain_steps": 20}
    )
    runner.train(long, tmp_path / "long", ["test"])
    first = read_metrics(undisturbed)
    first = next(row for row in first if row["kind"] == "evaluation")["log_likelihood_lower"]
    exact = read_result(tmp_path / "long")["metrics"]
    assert exact["log_likelihood_lower"] == exact["log_likelihood_upper"] > first + 1
    recipe = built(long)
    state = Checkpoints(tmp_path / "long" / "checkpoints").load_latest(recipe.init()).tree
    annealed = long.evaluation.model_copy(update={"exact": False})
    estimates = recipe.evaluate(recipe.params(state), annealed, ("likelihood",))
    for side in ("forward", "reverse"):
        assert estimates[f"log_z_{side}"] == pytest.approx(exact["log_z_forward"], abs=0.3)


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
        interrupted(monkeypatch, path, config(), at)
    assert read_result(path) is None
    runner.resume(path)
    assert fingerprint(path) == fingerprint(undisturbed)


@pytest.mark.parametrize(
    "other",
    [
        {"negatives": {"method": "cd", "k": 2, "n_chains": None}},
        {"training": {"gradient": "centred", "ema_decay": 0.9}, "data": {"binarization": "static"}},
        {"training": {"optimizer": "adam", "learning_rate": 0.01, "momentum": 0.0, "schedule": "cosine"}},
        {"health": {"policy": "skip"}, "data": {"binarization": "threshold"}},
    ],
    ids=["cd", "centred average", "adam", "skip"],
)
def test_other_recipes_killed_once(tmp_path, monkeypatch, other):
    short = config(**{**other, "training": {"n_epochs": 2, **other.get("training", {})}})
    runner.train(short, tmp_path / "whole", ["test"])
    interrupted(monkeypatch, tmp_path / "run", short, 7)
    runner.resume(tmp_path / "run")
    assert fingerprint(tmp_path / "run") == fingerprint(tmp_path / "whole")


def test_a_finished_run_resumes_to_nothing(undisturbed):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file()}
    runner.resume(undisturbed)
    changed = {path.name for path, when in before.items() if path.stat().st_mtime_ns != when}
    assert changed <= {"log.txt", ".lock"}


def test_a_corrupt_checkpoint_is_passed_over_and_told(tmp_path, monkeypatch, undisturbed):
    path = tmp_path / "run"
    interrupted(monkeypatch, path, config(), 13)
    newest = max(path.glob("checkpoints/*/"))
    victim = max((file for file in newest.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    whole = bytearray(victim.read_bytes())
    whole[len(whole) // 2] ^= 4
    victim.write_bytes(whole)
    runner.resume(path)
    assert fingerprint(path) == fingerprint(undisturbed)
    log = (path / "log.txt").read_text()
    assert "is corrupt" in log and "falling back to the checkpoint of step 12" in log


def test_a_folder_that_exists_is_never_written_to(tmp_path, undisturbed):
    before = (undisturbed / "metrics.jsonl").read_bytes()
    with pytest.raises(RunFolderError, match="ebm-jax resume"):
        runner.train(config(), undisturbed, ["test"])
    assert (undisturbed / "metrics.jsonl").read_bytes() == before
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(RunFolderError, match="is there already"):
        runner.train(config(), tmp_path, ["test"])


def test_two_processes_do_not_write_one_folder(tmp_path):
    held = RunFolder.create(tmp_path / "run", config(), ["test"])
    command = [sys.executable, "-m", "ebm_jax.cli.main", "resume", str(tmp_path / "run")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    held.close()
    assert run.returncode == 2 and f"in use by process {os.getpid()}" in run.stderr


def test_a_changed_configuration_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "run"
    interrupted(monkeypatch, path, config(), 7)
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace("momentum: 0.5", "momentum: 0.6"))
    with pytest.raises(RunFolderError, match=r"config\.yaml was changed since the run began"):
        runner.resume(path)


def test_how_a_run_is_evaluated_may_change(tmp_path, monkeypatch):
    path = tmp_path / "run"
    interrupted(monkeypatch, path, config(), 13)
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace("chain_steps: 20", "chain_steps: 30"))
    runner.resume(path)
    assert read_result(path)["step"] == 24


def test_a_shortened_metrics_file_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "run"
    interrupted(monkeypatch, path, config(), 7)
    (path / "metrics.jsonl").write_text("")
    with pytest.raises(RunFolderError, match="was shortened"):
        runner.resume(path)


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


def sick(monkeypatch, at):
    """Makes the update of step `at` find an infinity, as often as it is taken at the full learning rate."""

    def spoiled(configuration):
        recipe = built(configuration)

        def advance(state, n):
            new, metrics = recipe.advance(state, n)
            factor = float(next(x.factor for x in state.opt_state if hasattr(x, "factor")))
            step = int(state.step)
            if step < at <= step + n and factor == 1:
                counts = np.array(metrics.n_nonfinite)
                counts[at - step - 1] = 3
                metrics = metrics._replace(n_nonfinite=counts)
            return new, metrics

        return recipe._replace(advance=advance)

    monkeypatch.setattr(runner, "build", spoiled)


def test_a_sick_run_stops_and_names_the_step(tmp_path, monkeypatch):
    sick(monkeypatch, 11)
    with pytest.raises(
        runner.RunFailed, match=r"step 11: 3 values are NaN or infinite.*checkpoint of step 9 is whole"
    ):
        runner.train(config(), tmp_path / "run", ["test"])
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps()[-1] == 9
    assert "step 11: 3 values are NaN or infinite" in (tmp_path / "run" / "log.txt").read_text()


def test_a_rollback_past_a_corrupt_checkpoint_writes_it_anew(tmp_path, monkeypatch):
    """The newest checkpoint is spoiled just before the run goes back; what is saved there later is the new state."""
    sick(monkeypatch, 11)
    treat = runner._Run._treat

    def spoil(self, step, reason):
        self.checkpoints.wait()
        newest = tmp_path / "run" / "checkpoints" / "00000009"
        victim = max(
            (file for file in newest.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size
        )
        victim.write_bytes(victim.read_bytes()[::-1])
        treat(self, step, reason)

    monkeypatch.setattr(runner._Run, "_treat", spoil)
    runner.train(config(health={"policy": "rollback"}, checkpoints={"keep": 20}), tmp_path / "run", ["test"])
    (event,) = [row for row in read_metrics(tmp_path / "run") if row["kind"] == "rollback"]
    assert event["step"] == 6
    assert "falling back to the checkpoint of step 6" in (tmp_path / "run" / "log.txt").read_text()
    recipe = built(config(health={"policy": "rollback"}, checkpoints={"keep": 20}))
    state = Checkpoints(tmp_path / "run" / "checkpoints").load(9, recipe.init()).tree
    assert recipe.learning_rate(state) == pytest.approx(0.05 * (1 - 8 / 24), rel=1e-5)


def test_an_infinite_gradient_norm_is_sick():
    from ebm_jax.experiment.config import HealthConfig
    from ebm_jax.training.step import Metrics

    fields = dict.fromkeys(Metrics._fields, np.zeros(3, np.float32))
    metrics = Metrics(**fields | {"gradient_norm": np.asarray([1, np.inf, 1], np.float32)})
    step, reason = runner._sickness(metrics, HealthConfig())
    assert step == 1 and "gradient_norm is inf" in reason
    assert runner._sickness(Metrics(**fields), HealthConfig()) is None


def test_a_sick_run_goes_back_with_a_lower_rate(tmp_path, monkeypatch):
    rollback = config(health={"policy": "rollback", "rollback_factor": 0.25})
    sick(monkeypatch, 11)
    runner.train(rollback, tmp_path / "run", ["test"])
    rows = read_metrics(tmp_path / "run")
    (event,) = [row for row in rows if row["kind"] == "rollback"]
    assert (event["step"], event["sick_step"], event["rate_factor"]) == (9, 11, 0.25)
    rates = {row["step"]: row["learning_rate"] for row in rows if row["kind"] == "train"}
    assert rates[12] == pytest.approx(0.25 * 0.1 * (1 - 11 / 24), rel=1e-5)
    assert rates[9] == pytest.approx(0.1 * (1 - 8 / 24), rel=1e-5)
    assert "At step 11 3 values are NaN or infinite" in (tmp_path / "run" / "report.md").read_text()
    interrupted(monkeypatch, tmp_path / "again", rollback, 15)
    runner.resume(tmp_path / "again")
    assert fingerprint(tmp_path / "again") == fingerprint(tmp_path / "run")


def test_rollbacks_have_an_end(tmp_path, monkeypatch):
    limit = config(health={"policy": "rollback", "max_gradient_norm": 1e-6, "max_rollbacks": 2})
    with pytest.raises(runner.RunFailed, match=r"over health\.max_gradient_norm=1e-06, after 2 rollbacks"):
        runner.train(limit, tmp_path / "run", ["test"])
    events = [row for row in read_metrics(tmp_path / "run") if row["kind"] == "rollback"]
    assert [event["rate_factor"] for event in events] == [0.5, 0.25]


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
    runner.train(config(training={"n_epochs": 1}), tmp_path / "run", ["test"])
    assert written[0] == (str(tmp_path / "run" / "tensorboard"), 1) and written[-1] == "closed"
    scalars = {(name, step): value for name, value, step in written[1:-1]}
    (first, *_) = read_metrics(tmp_path / "run")
    assert scalars["train/energy_gap", 3] == first["energy_gap"]
    assert ("evaluation/log_likelihood_lower", 6) in scalars and ("train/acceptance", 3) not in scalars


def test_skipped_updates_are_counted_and_told(tmp_path):
    limit = config(
        health={"policy": "skip", "max_gradient_norm": 1e-6}, training={"n_epochs": 1, "momentum": 0.0}
    )
    runner.train(limit, tmp_path / "run", ["test"])
    rows = [row for row in read_metrics(tmp_path / "run") if row["kind"] == "train"]
    assert sum(row["n_skipped"] for row in rows) == 6
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.1, 0.1])  # the schedule stands still
    assert "skipped 3 updates" in (tmp_path / "run" / "log.txt").read_text()
    assert "6 updates were skipped" in (tmp_path / "run" / "report.md").read_text()


KILLER = """
# Loads everything once, and then forks a process a run: JAX starts anew in each, from what was compiled before.
import os, random, signal, sys, time
from pathlib import Path
import sklearn.datasets
import ebm_jax.experiment.run.checkpoint as checkpoint
from ebm_jax.experiment.run import runner
from ebm_jax.experiment.config import load_config

checkpoint._orbax()
file, whole, run = map(Path, sys.argv[1:])

def start(path):
    process = os.fork()
    if process == 0:
        if path.exists():
            runner.resume(path)
        else:
            runner.train(load_config(file), path, ["test"])
        os._exit(0)
    return process

assert os.waitpid(start(whole), 0)[1] == 0
chance = random.Random(0)
rows = run / "metrics.jsonl"
for kill in range(20):
    process = start(run)
    if kill % 7 == 3:  # as it starts
        time.sleep(chance.uniform(0, 1))
    else:  # some calls on, within an update or a save
        size = rows.stat().st_size if rows.exists() else 0
        further = chance.randint(1, 8) * 250
        while not rows.exists() or rows.stat().st_size - size < further:
            assert os.waitpid(process, os.WNOHANG) == (0, 0), f"ended by itself, {kill} kills in"
            time.sleep(0.002)
            if rows.exists() and rows.stat().st_size < size:
                size = rows.stat().st_size
        time.sleep(chance.uniform(0, 0.05))
    os.kill(process, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
assert os.waitpid(start(run), 0)[1] == 0
"""


def test_killed_twenty_times_at_random_moments(tmp_path):
    """kill -9 from outside, wherever it falls: as JAX starts, within an update, within a save."""
    long = config(
        training={"n_epochs": 50, "momentum": 0.0},
        evaluation={"every_epochs": 0, "ais_betas": 0, "chain_steps": 20},
    )
    file = tmp_path / "long.yaml"
    file.write_text(yaml.safe_dump(long.model_dump()))
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    arguments = [str(tmp_path / name) for name in ("long.yaml", "whole", "run")]
    killer = subprocess.run(
        [sys.executable, "-c", KILLER, *arguments],
        env=environment, timeout=600, capture_output=True, text=True,
    )  # fmt: skip
    assert killer.returncode == 0, killer.stderr
    assert fingerprint(tmp_path / "run") == fingerprint(tmp_path / "whole")
    assert "removed checkpoints/" in (tmp_path / "run" / "log.txt").read_text()  # some fell within a save


def test_runs_are_compared(tmp_path, undisturbed):
    other = config(name="more", negatives={"method": "pcd", "k": 3})
    runner.train(other, tmp_path / "more", ["test"])
    report.compare_runs([undisturbed, tmp_path / "more"], tmp_path / "out")
    page = (tmp_path / "out" / "report.md").read_text()
    assert "| run | `negatives.k` |" in page and "| more | 3 |" in page
    assert "PCD: the lower bound is" in page
    assert (tmp_path / "out" / "likelihood_by_k.png").stat().st_size > 1000
    with pytest.raises(RunFolderError, match="holds a run"):
        report.compare_runs([undisturbed], tmp_path / "more")
    (undisturbed / "result.json").rename(undisturbed / "hidden.json")
    try:
        with pytest.raises(RunFolderError, match="did not finish"):
            report.compare_runs([undisturbed], tmp_path / "out")
    finally:
        (undisturbed / "hidden.json").rename(undisturbed / "result.json")
