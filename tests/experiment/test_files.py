"""A folder from someone else: nothing outside it is written, and what it holds cannot block or garble a command."""

import json
import os
import re
import shutil
import sys
import types
from pathlib import Path

import pytest
from matplotlib.figure import Figure

import ebm_jax
from ebm_jax.experiment import files, report
from ebm_jax.experiment.run import runner, trained
from ebm_jax.experiment.run.folder import RunFolderError, read_metrics, read_result
from ebm_jax.experiment.run.plan import Job
from ebm_jax.experiment.run.process import event_writer
from ebm_jax.experiment.run.sweep import run_sweep

PACKAGE = Path(ebm_jax.__file__).parent
pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture
def run(tmp_path, undisturbed):
    """A copy of a run that was stopped after its last checkpoint."""
    shutil.copytree(undisturbed, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    return tmp_path / "run"


@pytest.fixture
def outside(tmp_path):
    """A file and a folder of the user."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "final.npz").write_text("mine")
    (tmp_path / "home" / ".bashrc").write_text("mine")
    return tmp_path / "home"


def link(path, target):
    """Replaces what is at `path` by a link."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(target)


def unchanged(outside):
    return sorted((path.name, path.read_text()) for path in outside.iterdir()) == [
        (".bashrc", "mine"),
        ("final.npz", "mine"),
    ]


@pytest.mark.parametrize("name", ["log.txt", ".lock", "metrics.jsonl", "config.yaml", "environment.json"])
def test_a_file_that_is_a_link_is_refused(run, outside, name):
    link(run / name, outside / ".bashrc")
    with pytest.raises(files.UnsafeFileError, match=f"{name} is a symbolic link, and is not opened"):
        runner.resume(run)
    assert unchanged(outside)


@pytest.mark.parametrize("name", ["samples", "plots", "checkpoints"])
def test_a_folder_that_is_a_link_is_refused(run, outside, monkeypatch, with_report, name):
    if name == "plots":
        figure = Figure()
        monkeypatch.setattr(
            report, "write_run", lambda path, _: report.common.save_figures({"plots/x.png": figure}, path)
        )
    link(run / name, outside)
    # A link in place of the checkpoints hides them, so the run starts again and cannot write any.
    with pytest.raises(Exception, match=f"{name} is a symbolic link, and is not opened"):
        runner.resume(run)
    assert unchanged(outside)


def test_links_in_place_of_results_are_replaced(run, outside, with_report):
    names = ["samples/final.npz", "samples/chains.gif", "plots/training.png", "model.npz", "report.md"]
    for name in [*names, "result.json"]:
        link(run / name, outside / ".bashrc")
    runner.resume(run)
    assert unchanged(outside) and read_result(run)["step"] == 24
    assert all((run / name).is_file() and not (run / name).is_symlink() for name in names)


def test_evaluations_and_comparisons_write_inside_alone(run, undisturbed, outside, tmp_path):
    link(run / "evaluations.jsonl", outside / ".bashrc")
    with pytest.raises(files.UnsafeFileError, match=r"evaluations\.jsonl is a symbolic link"):
        trained.judge(trained.open_run(run), run, ("reconstruction",))
    (tmp_path / "out").mkdir()
    link(tmp_path / "out" / "report.md", outside / ".bashrc")
    with pytest.raises(files.UnsafeFileError, match=r"report\.md is a symbolic link"):
        report.compare_runs([undisturbed], tmp_path / "out")
    link(tmp_path / "x.npz", outside / ".bashrc")
    trained.draw(trained.open_run(run), 8, None, 0, tmp_path / "x.npz", None)
    assert unchanged(outside) and not (tmp_path / "x.npz").is_symlink()


def test_sweeps_and_events_write_inside_alone(tmp_path, run, outside, monkeypatch):
    link(run / "logs", outside)
    with pytest.raises(files.UnsafeFileError, match="logs is a symbolic link"):
        run_sweep([Job(tmp_path / "tiny.yaml", run / "tiny", ())])
    link(run / "tensorboard", outside)
    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=None))
    with pytest.raises(files.UnsafeFileError, match="tensorboard is a symbolic link"), event_writer(run, 0):
        pass
    assert unchanged(outside)


def test_no_other_module_opens_files_by_itself():
    """Two exceptions: the configuration that a user names, and the new folder of a run before it gets its name."""
    direct = re.compile(
        r"(?<!def )\bopen\(|(write|read)_(text|bytes)\(|\.(unlink|mkdir|rmdir)\(|rmtree|FileHandler|os\.re"
    )
    found = [
        f"{path.name}: {line.strip()}"
        for folder in ("experiment", "cli")
        for path in sorted((PACKAGE / folder).rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if direct.search(line) and path.name != "files.py"
    ]
    allowed = (
        "reading.py: with path.open(",
        "folder.py: path.parent.mkdir(",
        "folder.py: draft.",
        "folder.py: (draft / CHECKPOINTS).",
        "folder.py: shutil.rmtree(draft)",
        "folder.py: file.unlink",
        "runner.py: folder = RunFolder.open(",
        "folder.py: return cls.open(",
        "support.py: formatter.write_text(",
    )
    assert [line for line in found if not line.startswith(allowed)] == []


def test_a_second_name_is_not_written_through(run, outside):
    (run / "log.txt").unlink()
    (run / "log.txt").hardlink_to(outside / ".bashrc")
    with pytest.raises(files.UnsafeFileError, match="a hard link"):
        runner.resume(run)
    assert unchanged(outside)


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "metrics.jsonl", "log.txt", ".lock"])
def test_a_pipe_blocks_nothing(run, name):
    (run / name).unlink()
    os.mkfifo(run / name)
    with pytest.raises((files.UnsafeFileError, RunFolderError), match=name):
        runner.resume(run)


def test_what_a_folder_says_is_logged_without_control_characters(run):
    stored = json.loads((run / "environment.json").read_text())
    stored["packages"]["jax"] = "1\x1b]0;title\x07\nrm -rf ~\ud800\u202e"
    (run / "environment.json").write_text(json.dumps(stored))
    runner.resume(run)
    log = (run / "log.txt").read_text()
    assert r"began with jax 1\x1b]0;title\x07\nrm -rf ~\ud800\u202e and goes on with" in log
    assert all(each.isprintable() for each in log.replace("\n", ""))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("environment.json", "[" * 100_000, "environment.json cannot be read"),
        ("environment.json", "[]", "its config_hash is missing"),
        ("environment.json", "{}", "its config_hash is missing"),
        ("samples/final.npz", "no archive", "final.npz cannot be read"),
        ("metrics.jsonl", "[1]\n", "metrics.jsonl, line 1: not what a run writes"),
        ("metrics.jsonl", "\xff\n", "metrics.jsonl, line 1: not what a run writes"),
        ("result.json", '{"step": 1}', "its metrics is missing"),
    ],
)
def test_damaged_files_are_named(tmp_path, undisturbed, name, content, said):
    shutil.copytree(undisturbed, tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(RunFolderError, match=said):
        report.compare_runs([tmp_path / "run"], tmp_path / "out")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    files.write(tmp_path, "a/b/x.txt", b"old")
    assert files.read(tmp_path, "a/b/x.txt") == b"old"

    def fail(*_, **__):
        raise OSError("no room")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no room"):
        patch.setattr(os, "replace", fail)
        files.write(tmp_path, "a/b/x.txt", b"new")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["x.txt"]
    assert files.read(tmp_path, "a/b/x.txt") == b"old"
    with pytest.raises(FileNotFoundError, match=r"a/c"):
        files.read(tmp_path, "a/c/x.txt")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    files.remove(tmp_path, "link")
    assert files.is_file(tmp_path, "a/b/x.txt") and not (tmp_path / "link").exists()


def test_rows_of_metrics_are_read(undisturbed):
    assert {row["kind"] for row in read_metrics(undisturbed)} == {"train", "evaluation"}
