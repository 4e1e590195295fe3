"""Too little memory: the command says what to lower, and the run can be resumed."""

import jax
import pytest
import yaml
from typer.testing import CliRunner

from ebm_jax.cli.main import app
from ebm_jax.experiment import report
from ebm_jax.experiment.config.problems import leaves
from ebm_jax.experiment.recipes import base
from ebm_jax.experiment.run.checkpoint import Checkpoints
from ebm_jax.experiment.run.folder import read_result
from ebm_jax.experiment.run.memory import OutOfMemory, memory_errors

# So many images of 8×8 floats take 2.6e14 bytes, more than a process can address.
MANY = 10**12
TINY = {
    "recipe": "conv",
    "data": {"name": "digits", "classes": [3, 5]},
    "model": {"channels": [4], "kernel_sizes": [3], "strides": [2], "paddings": [1], "dense": [8]},
    "langevin": {"n_steps": 2},
    "buffer": {"capacity": 32},
    "generation": {"n_steps": 6, "every": 2},
    "training": {"n_epochs": 1, "batch_size": 16, "steps_per_call": 5},
    "checkpoints": {"every_epochs": 0.5},
    "evaluation": {"n_chains": MANY},
}


@pytest.fixture
def cli(tmp_path, monkeypatch):
    """Runs `ebm-jax` in this process, without figures: `(exit code, errors)`."""
    monkeypatch.setattr(report, "write_run", lambda path, result: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))

    def run(*arguments):
        done = CliRunner().invoke(app, arguments)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stderr

    return run


def test_the_message_names_what_to_lower_and_the_run_goes_on(tmp_path, cli):
    """The first state of a run, the chains of its evaluation and those of two commands are refused."""
    code, errors = cli("train", "tiny.yaml", "-o", f"buffer.capacity={MANY}")
    assert code == 1 and "Traceback" not in errors
    told = f"out of memory (configurations for capacity={MANY} would take 2.56e+14 bytes"
    assert told in errors and "Nothing was started" in errors
    assert f"lower some of training.batch_size (now 16), buffer.capacity (now {MANY})" in errors
    assert not (tmp_path / "runs" / "tiny").exists()

    run = tmp_path / "runs" / "tiny"
    code, errors = cli("train", "tiny.yaml")
    assert code == 1 and f"evaluation.n_chains (now {MANY}). Checkpoints are kept: `ebm-jax resume" in errors
    assert "out of memory" in (run / "log.txt").read_text()
    assert Checkpoints(run / "checkpoints").steps() and read_result(run) is None
    # As the message says, the section `evaluation` may be changed before a resume.
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(MANY), "20"))
    code, errors = cli("resume", "runs/tiny")
    assert code == 0 and "going on at step" in errors and read_result(run)["metrics"]["n_samples"] == 20

    code, errors = cli("sample", "runs/tiny", "--output", "x.png", "--num-samples", str(MANY))
    assert code == 1 and f"lower some of --num-samples (now {MANY}), --steps (now its default)" in errors
    many = f"evaluation.n_chains={MANY}"
    code, errors = cli("evaluate", "runs/tiny", "--metrics", "start", "-o", many)
    assert code == 1 and f"lower some of evaluation.n_chains (now {MANY})." in errors


def test_errors_of_numpy_are_told_and_others_are_left_alone():
    told = r"out of memory \(MemoryError\); lower some of a\.b \(now 3\)\. Then"
    with pytest.raises(OutOfMemory, match=told), memory_errors({"a.b": 3}, "Then"):
        raise MemoryError
    for error in (ValueError("out of memory"), jax.errors.JaxRuntimeError("INTERNAL: no kernel image")):
        with pytest.raises(type(error), match=str(error)), memory_errors({"a.b": 3}, "Then"):
            raise error


@pytest.mark.parametrize("name", base.names())
def test_the_fields_that_a_recipe_names_exist(name):
    recipe = base.find(name)
    known = {path for path, _ in leaves(recipe.Config)}
    assert "training.batch_size" in recipe.memory_fields
    assert set(recipe.memory_fields) <= known
