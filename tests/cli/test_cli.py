"""What the command line prints and how it exits; the work behind the commands is tested where it lives."""

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

import ebm_jax
from ebm_jax.cli import data_sets
from ebm_jax.cli.main import app
from ebm_jax.data import DataFileError, DataUnavailableError
from ebm_jax.data.specs import SPECS
from ebm_jax.experiment.config import load_config
from ebm_jax.experiment.recipes import base
from ebm_jax.experiment.run import sweep

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def calls(monkeypatch):
    """The arguments that `demo` hands to its work, which is replaced."""
    seen = []
    work = types.ModuleType("ebm_jax.cli.demo")
    work.run_demo = lambda out, seed: seen.append((str(out), seed))
    monkeypatch.setitem(sys.modules, work.__name__, work)
    return seen


def run(*arguments):
    return CliRunner().invoke(app, arguments)


def test_version():
    result = run("--version")
    assert (result.exit_code, result.output) == (0, f"ebm-jax {ebm_jax.__version__}\n")


def test_help_shows_examples_line_by_line():
    result = run("demo", "--help")
    assert result.exit_code == 0
    assert "    ebm-jax demo --out /tmp/demo --seed 1\n" in result.output


def test_demo_passes_its_options(calls):
    assert run("demo").exit_code == 0
    assert run("demo", "--out", "elsewhere", "--seed", "3").exit_code == 0
    assert calls == [("runs/demo", 0), ("elsewhere", 3)]


@pytest.mark.parametrize("arguments", [["nothing"], ["demo", "--seed", "x"], ["demo", "--seed", "-1"]])
def test_wrong_usage_exits_with_2(arguments, calls):
    assert run(*arguments).exit_code == 2
    assert not calls


def test_out_must_not_be_a_file(calls, tmp_path):
    path = tmp_path / "taken"
    path.write_text("")
    assert run("demo", "--out", str(path)).exit_code == 2


def test_a_failed_run_exits_with_1_and_says_why(calls, monkeypatch):
    def fail(out, seed):
        raise OSError("no space left")

    monkeypatch.setattr(sys.modules["ebm_jax.cli.demo"], "run_demo", fail)
    result = run("demo")
    assert result.exit_code == 1
    assert "ebm-jax: no space left" in result.output


# config


def test_config_prints_what_reads_back(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("data: {name: digits}")
    result = run("config", str(path), "-o", "seed=3", "--override", "training.n_epochs=2")
    assert result.exit_code == 0
    path.write_text(result.stdout)
    config = load_config(path)
    assert (config.name, config.seed, config.training.n_epochs, config.data.name) == ("run", 3, 2, "digits")


def test_a_wrong_configuration_exits_with_2_and_says_all(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("seed: x\nmdel: {}")
    result = run("config", str(path), "-o", "n_epochs=2")
    assert (result.exit_code, result.stdout) == (2, "")
    lines = result.stderr.splitlines()
    assert lines[0] == f"ebm-jax: {path}:" and len(lines) == 4
    assert run("config", str(tmp_path / "none.yaml")).exit_code == 2


# evaluate


def test_the_help_of_evaluate_lists_the_groups_of_every_recipe():
    text = " ".join(run("evaluate", "--help").output.split())
    for name in base.names():
        assert f"Groups of the recipe {name}: {', '.join(base.find(name).groups)}." in text


# sweep


@pytest.fixture
def configs(tmp_path, monkeypatch):
    """Two configurations in the working folder, and the jobs of sweeps, whose runs are replaced."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text("seed: 1")
    seen = []

    def run_sweep(jobs, n_parallel):
        seen.extend((job.name, str(job.folder), job.overrides, n_parallel) for job in jobs)
        return [sweep.Outcome(job, "failed" if job.name == "b" else "done", job.name == "b") for job in jobs]

    monkeypatch.setattr(sweep, "run_sweep", run_sweep)
    return seen


def test_sweep_passes_its_options_and_prints_a_table(configs):
    result = run("sweep", "a.yaml", "--jobs", "2", "--out", "out", "-o", "seed=2")
    assert result.exit_code == 0
    assert configs == [("a", "out/a", ("seed=2",), 2)]
    assert re.search(r"^a +done$", result.stdout, re.MULTILINE)


def test_sweep_trains_a_run_for_each_seed(configs):
    assert run("sweep", "a.yaml", "--seeds", "2", "-o", "seed=2").exit_code == 2
    assert not configs
    assert run("sweep", "a.yaml", "--seeds", "2").exit_code == 0
    assert [(name, folder) for name, folder, *_ in configs] == [
        ("a-s0", "runs/a-s0"),
        ("a-s1", "runs/a-s1"),
    ]


def test_sweep_exits_with_1_when_a_run_failed(configs):
    assert run("sweep", "a.yaml", "b.yaml").exit_code == 1
    assert configs == [("a", "runs/a", (), 1), ("b", "runs/b", (), 1)]


@pytest.mark.parametrize(
    "arguments",
    [
        ["sweep"],
        ["sweep", "a.yaml", "none.yaml"],
        ["sweep", "a.yaml", "--jobs", "0"],
        ["sweep", "a.yaml", "--seeds", "0"],
    ],
)
def test_a_wrong_sweep_exits_with_2_and_starts_nothing(configs, arguments):
    assert run(*arguments).exit_code == 2
    assert not configs


def test_a_sweep_into_a_folder_that_cannot_be_made_exits_with_1(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: 1")
    (tmp_path / "taken").write_text("")
    result = run("sweep", str(tmp_path / "a.yaml"), "--out", str(tmp_path / "taken" / "runs"))
    assert result.exit_code == 1 and result.stderr.startswith("ebm-jax: ")


# data and doctor


def test_a_folder_that_cannot_be_named_is_one_line(monkeypatch):
    monkeypatch.setenv("EBM_JAX_CACHE_DIR", "/" + "a" * 5000)
    result = run("data", "list")
    assert result.exit_code == 1 and result.stderr.startswith("ebm-jax: [Errno 36]") and not result.stdout


def test_data_list_shows_every_set():
    result = run("data", "list")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["name", *SPECS]


def test_data_prepare():
    result = run("data", "prepare", "digits")
    assert result.exit_code == 0 and "from: comes with scikit-learn" in result.stdout
    result = run("data", "prepare", "minst")
    assert result.exit_code == 2 and "did you mean 'mnist'?" in result.stderr


@pytest.mark.parametrize(
    "error", [DataFileError("broken.gz is short"), DataUnavailableError("it is nowhere")]
)
def test_data_that_cannot_be_loaded_exit_with_1(monkeypatch, error):
    def fail(name):
        raise error

    monkeypatch.setattr(data_sets, "load", fail)
    result = run("data", "prepare", "mnist")
    assert (result.exit_code, result.stderr) == (1, f"ebm-jax: {error}\n")


def test_data_folder_that_does_not_exist_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("EBM_JAX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("EBM_JAX_DATA_DIR", str(tmp_path / "nowhere"))
    folder = tmp_path / "run"
    result = run("train", str(CONFIGS / "rbm_mnist_pcd1.yaml"), "--out", str(folder))
    assert result.exit_code == 1 and not folder.exists()
    assert result.stderr.startswith(
        f"ebm-jax: EBM_JAX_DATA_DIR is '{tmp_path}/nowhere', which is not a folder"
    )
    assert result.stderr.count("\n") == 1
    monkeypatch.setenv("EBM_JAX_DATA_DIR", "~nobody-of-this-name/data")
    assert run("data", "list").exit_code == 0


def test_doctor():
    result = run("doctor")
    assert result.exit_code == 0 and result.stdout.startswith("Versions\n")


# As processes


def process(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "ebm_jax.cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def test_a_process_tells_a_wrong_file_and_exits_with_2(tmp_path):
    (tmp_path / "a.yaml").write_text("sed: 1")
    done = process("config", str(tmp_path / "a.yaml"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"ebm-jax: {tmp_path / 'a.yaml'}:\n  sed: 1 was given; there is no such key: did you mean seed?\n"
    )


def test_the_doctor_survives_a_backend_that_fails():
    done = process("doctor", JAX_PLATFORMS="bogus")
    assert done.returncode == 0 and "JAX found no device (JAX_PLATFORMS is 'bogus')" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
