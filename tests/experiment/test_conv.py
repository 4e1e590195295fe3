"""The recipe `conv`: a tiny convolutional energy of 8×8 digits goes through every command."""

import json

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

import ebm_jax as ej
from ebm_jax.cli.main import app
from ebm_jax.experiment.config import ConfigError, parse_config
from ebm_jax.experiment.recipes.base import find
from ebm_jax.experiment.recipes.conv import figures, training
from ebm_jax.experiment.run import runner
from ebm_jax.experiment.run.folder import read_metrics, read_result
from tests.experiment import runs

# Networks this small take longer to compile than to train.
pytestmark = pytest.mark.usefixtures("quick_compilation")
CONV = find("conv")
TINY = {
    "recipe": "conv",
    "name": "tiny",
    "data": {"name": "digits", "classes": [3, 5]},
    "model": {"channels": [4], "kernel_sizes": [3], "strides": [2], "paddings": [1], "dense": [8]},
    "langevin": {"n_steps": 2},
    "buffer": {"capacity": 32},
    "generation": {"n_steps": 6, "every": 2},
    "training": {"n_epochs": 2, "batch_size": 16, "ema_decay": 0.9, "steps_per_call": 5},
    "checkpoints": {"every_epochs": 0.5},
    "evaluation": {"every_epochs": 1, "n_chains": 20},
}


def config(name="tiny"):
    return parse_config({**TINY, "name": name})


@pytest.fixture(scope="module")
def whole(tmp_path_factory, digits_classifier):
    """A whole run, with its report."""
    path = tmp_path_factory.mktemp("conv") / "tiny"
    runner.train(config(), path, ["test"])
    return path


def test_an_evaluation_measures_what_the_recipe_lists(whole):
    rows = [row for row in read_metrics(whole) if row["kind"] == "evaluation"]
    assert len(rows) == 2
    listed = {metric.name for metric in CONV.metrics}
    assert listed <= set(rows[-1])
    result = read_result(whole)["metrics"]
    assert result["n_samples"] == 20 and result["n_steps"] == 6 and result["start_n_steps"] == 0
    # Noise has the same figures whatever the parameters are.
    start = [name for name in listed if name.startswith("start_")]
    assert [rows[0][name] for name in start] == [rows[1][name] for name in start]
    assert 0 < result["buffer_n_steps"] <= 2 * read_result(whole)["step"]


def test_the_page_shows_every_figure(whole):
    page = (whole / "report.md").read_text()
    for name in figures.captions:
        assert f"]({name})" in page and (whole / name).stat().st_size > 1000
    assert (whole / "samples" / "chains.gif").exists()
    frames = np.load(whole / "samples" / "final.npz")
    assert frames["steps"].tolist() == [0, 2, 4, 6] and frames["frames"].shape[2:] == (8, 8)


def test_a_killed_run_resumes_to_the_same_bits(whole, tmp_path):
    """The buffer, its ages and the averaged parameters included."""
    n_batches = read_result(whole)["step"] // 2
    runs.interrupted(tmp_path / "tiny", config(), n_batches + n_batches // 2 + 1)
    runner.resume(tmp_path / "tiny")
    assert runs.fingerprint(tmp_path / "tiny") == runs.fingerprint(whole)


def test_commands(whole, tmp_path):
    def cli(*arguments):
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output

    cli("sample", whole, "--output", tmp_path / "x.npz", "--num-samples", 4, "--frames", tmp_path / "x.gif")
    drawn = np.load(tmp_path / "x.npz")
    assert drawn["samples"].shape == (4, 8, 8) and drawn["samples"].dtype == np.uint8
    # A changed number of chains changes what is measured of them.
    cli("evaluate", whole, "--metrics", "samples,buffer", "-o", "evaluation.n_chains=12")
    row = json.loads((whole / "evaluations.jsonl").read_text().splitlines()[-1])["metrics"]
    assert row["n_samples"] == row["buffer_n_samples"] == 12 and "start_frechet" not in row
    cli("plot", whole, "--out", tmp_path / "page")
    assert "least Fréchet distance" in (tmp_path / "page" / "report.md").read_text()


def test_the_saved_model_is_the_judged_one(whole):
    model, params = ej.load(whole / "model.npz")
    assert model == CONV.model(config())
    _, state = runs.last_state(whole)
    jax.tree.map(np.testing.assert_array_equal, params, CONV.params(config(), state))


def test_learning_rate():
    """It rises, stays, and falls to the last rate at the last update."""
    section = config().training.model_copy(
        update={"n_epochs": 10, "warmup_epochs": 1.0, "learning_rate": 1.0, "final_rate": 0.1}
    )
    rate = training.rate_schedule(section, 10)
    np.testing.assert_allclose([rate(s) for s in (5, 10, 69, 85, 100)], [0.5, 1, 1, 0.55, 0.1], rtol=1e-6)


def test_a_wrong_model_is_refused():
    with pytest.raises(ConfigError, match=r"model\.strides: \[2, 2\] was given, but model\.channels has 1"):
        parse_config({**TINY, "model": {**TINY["model"], "strides": [2, 2]}})
