"""Runs that are killed and resumed end with the bits of an undisturbed run."""

import shutil
import subprocess
import sys

import pytest
import yaml
from typer.testing import CliRunner

from ebm_jax.cli.main import app
from ebm_jax.experiment import report
from ebm_jax.experiment.run import runner
from ebm_jax.experiment.run.checkpoint import CheckpointError
from ebm_jax.experiment.run.folder import read_result
from tests.experiment.runs import config, fingerprint, interrupted

pytestmark = pytest.mark.usefixtures("quick_runs")


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


def test_without_manifests_nothing_is_lost_and_nothing_starts_again_unasked(tmp_path, undisturbed):
    path = tmp_path / "run"
    interrupted(path, config(), 13)
    arrays = {file.name for file in (path / "checkpoints").glob("*/")}
    for manifest in (path / "checkpoints").glob("*.json"):
        manifest.unlink()
    rows = (path / "metrics.jsonl").read_bytes()
    # The second attempt finds what the first has set aside.
    for _ in range(2):
        with pytest.raises(
            runner.RunFailed, match=r"no checkpoint that can be verified.*resume \S+ --restart"
        ):
            runner.resume(path)
        assert {file.name for file in (path / "checkpoints").iterdir()} == {
            f"unverified-{name}" for name in arrays
        }
        assert (path / "metrics.jsonl").read_bytes() == rows
    assert CliRunner().invoke(app, ["resume", str(path)]).exit_code == 1
    assert CliRunner().invoke(app, ["resume", str(path), "--restart"]).exit_code == 0
    assert fingerprint(path) == fingerprint(undisturbed)
    assert len(list((path / "checkpoints").glob("unverified-*"))) == len(arrays)
    (path / "result.json").unlink()
    for manifest in (path / "checkpoints").glob("0*.json"):
        manifest.write_text("{}")
    with pytest.raises(CheckpointError, match=r"no checkpoint can be loaded[^$]*--restart"):
        runner.resume(path)


def test_without_its_folder_of_checkpoints_a_run_does_not_start_again_unasked(tmp_path, undisturbed):
    path = tmp_path / "run"
    interrupted(path, config(), 7)
    rows = (path / "metrics.jsonl").read_bytes()
    shutil.rmtree(path / "checkpoints")
    with pytest.raises(runner.RunFailed, match=r"has no folder checkpoints.*resume \S+ --restart"):
        runner.resume(path)
    assert (path / "metrics.jsonl").read_bytes() == rows
    runner.resume(path, restart=True)
    assert fingerprint(path) == fingerprint(undisturbed)


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
checkpoint._orbax()

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)

def in_update():
    runner.Run._record = kill

def as_it_starts():
    threading.Timer(0.3, kill).start()

def while_orbax_writes():
    def kill_soon():
        while not list(run.glob("checkpoints/*orbax-checkpoint-tmp*")):
            time.sleep(0.0005)
        kill()
    threading.Thread(target=kill_soon).start()

def before_the_manifest():
    write = checkpoint.Checkpoints._write
    def watched(self, *arguments):
        checkpoint._digests = kill
        write(self, *arguments)
    checkpoint.Checkpoints._write = watched

def within_the_manifest():
    write = checkpoint.Checkpoints._write
    def watched(self, *arguments):
        replace = os.replace
        os.replace = lambda old, *a, **k: kill() if str(old).endswith(".tmp") else replace(old, *a, **k)
        write(self, *arguments)
    checkpoint.Checkpoints._write = watched

def in_an_evaluation():
    Evaluation.mixing = kill

def in_a_removal():
    discard, remove = checkpoint.Checkpoints._discard, checkpoint.files.remove
    def watched(self, step):
        checkpoint.files.remove = lambda root, name: kill() if (root / name).is_dir() else None
        discard(self, step)
        checkpoint.files.remove = remove
    checkpoint.Checkpoints._discard = watched

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
