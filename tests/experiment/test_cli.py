"""What the command line prints and how it exits; the work behind the commands is tested where it lives."""

import sys
import types

import pytest
from typer.testing import CliRunner

import ebm_jax
from ebm_jax.experiment.cli import app


@pytest.fixture
def calls(monkeypatch):
    """The arguments that `demo` hands to its work, which is replaced."""
    seen = []
    work = types.ModuleType("ebm_jax.experiment.demo")
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

    monkeypatch.setattr(sys.modules["ebm_jax.experiment.demo"], "run_demo", fail)
    result = run("demo")
    assert result.exit_code == 1
    assert "ebm-jax: no space left" in result.output
