"""A recipe that the package does not know goes through every command: `toy` edits no file of the package."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import ebm_jax as ej
from ebm_jax.cli.main import app
from ebm_jax.experiment.config import ConfigError, load_config, parse_config
from ebm_jax.experiment.recipes import base
from ebm_jax.experiment.run import runner
from ebm_jax.experiment.run.checkpoint import Checkpoints
from ebm_jax.experiment.run.folder import read_metrics, read_result
from tests.experiment import runs

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def toy():
    """The toy's module. The toy is in the registry while these tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
        from tests.experiment import toy

        toy.register("toy", config=f"{toy.__name__}:ToyConfig", recipe=f"{toy.__name__}:RECIPE")
        yield toy


def cli(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy.yaml").write_text(yaml.safe_dump({"recipe": "toy", "checkpoints": {"every_epochs": 0.5}}))
    return folder


@pytest.fixture(scope="module")
def trained(place):
    cli("train", place / "toy.yaml", "--out", place / "toy")
    return place / "toy"


@pytest.fixture(scope="module")
def resumed(place, trained):
    """The same run by another name, killed between its checkpoints at steps 6 and 8 and resumed."""
    runs.interrupted(place / "again", load_config(place / "toy.yaml", ["name=again"]), 7)
    cli("resume", place / "again")
    return place / "again"


def test_train(trained):
    assert load_config(trained / "config.yaml").recipe == "toy"
    rows = read_metrics(trained)
    assert [row["step"] for row in rows if row["kind"] == "evaluation"] == [8, 16]
    result = read_result(trained)
    assert result["best"]["metric"] == "log_likelihood" and result["metrics"]["log_likelihood"] < 0
    model, params = ej.load(trained / "model.npz")
    assert model == ej.Ising(ej.Grid(4, 4))
    np.testing.assert_array_equal(params.coupling, runs.last_state(trained)[1].params.coupling)
    page = (trained / "report.md").read_text()
    assert (
        "| log-likelihood | " in page and "plots/last.png" in page and (trained / "plots/last.png").exists()
    )


def test_a_killed_run_resumes_to_the_same_bits(trained, resumed):
    assert "going on at step" in (resumed / "log.txt").read_text()
    assert runs.fingerprint(resumed) == runs.fingerprint(trained)


def test_sample(place, trained):
    cli("sample", trained, "--output", place / "x.npz", "--num-samples", 8, "--checkpoint", "best")
    assert np.load(place / "x.npz")["samples"].shape == (8, 4, 4)


def test_evaluate(trained):
    output = cli("evaluate", trained, "--metrics", "likelihood")
    (row,) = (json.loads(line) for line in (trained / "evaluations.jsonl").read_text().splitlines())
    assert row["metrics"] == read_result(trained)["metrics"] and "log_likelihood" in output


def test_plot(place, trained, resumed):
    cli("plot", trained, resumed, "--out", place / "both")
    assert "| run | log-likelihood |" in (place / "both" / "report.md").read_text()


def test_a_model_that_cannot_be_saved_is_refused_before_the_first_step(tmp_path, toy, trained, monkeypatch):
    config = parse_config({"recipe": "toy"}, name="new")

    def refuse(path, config, params):
        raise ValueError("no such format")

    monkeypatch.setattr(toy.RECIPE, "save", refuse)
    with pytest.raises(ConfigError, match="cannot be saved, so nothing was started: no such format"):
        runner.train(config, tmp_path / "new", ["test"])
    monkeypatch.undo()
    _, params = toy.RECIPE.restore(trained / "model.npz")
    for restored in ({}, params):
        monkeypatch.setattr(toy.RECIPE, "restore", lambda path, restored=restored: (None, restored))
        with pytest.raises(ConfigError, match="not the same after save and restore"):
            runner.train(config, tmp_path / "new", ["test"])
    assert not (tmp_path / "new").exists()


def test_a_recipe_that_skips_no_updates_is_not_run_under_that_policy(tmp_path):
    config = parse_config({"recipe": "toy", "name": "t", "health": {"policy": "skip"}})
    with pytest.raises(ConfigError, match="the recipe toy skips no updates: give stop or rollback"):
        runner.train(config, tmp_path / "run", [])
    assert not (tmp_path / "run").exists()


def test_settings_of_an_evaluation_can_be_overridden_and_no_others(trained):
    cli("evaluate", trained, "-o", "evaluation.every_epochs=7")
    row = json.loads((trained / "evaluations.jsonl").read_text().splitlines()[-1])
    assert row["evaluation"]["every_epochs"] == 7
    done = CliRunner().invoke(app, ["evaluate", str(trained), "-o", "seed=3"])
    assert done.exit_code == 2 and "no setting of the evaluation" in done.output


def test_a_resume_learns_shapes_without_a_state(toy, trained):
    """`struct` traces the first state, and runs nothing."""
    config = load_config(trained / "config.yaml")
    struct = toy.RECIPE.struct(config)
    assert Checkpoints(trained / "checkpoints").load(16, struct).step == 16
    assert not hasattr(struct.params.coupling, "devices")


def test_the_registry(toy):
    assert base.names() == ("rbm", "conv", "jem", "latent", "toy") and base.find("toy") is toy.RECIPE
    with pytest.raises(
        ConfigError, match="'tyo' was given; one of rbm, conv, jem, latent, toy is wanted: did you mean toy"
    ):
        parse_config({"recipe": "tyo"}, name="x")


def test_the_toy_fits_a_page_and_is_in_the_documentation(toy):
    source = Path(toy.__file__).read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 60
    assert source in (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
