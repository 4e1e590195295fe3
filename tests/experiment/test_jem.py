"""The recipe `jem`: a tiny joint model of 8×8 digits goes through both phases and every command."""

import json

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

import ebm_jax as ej
from ebm_jax.cli.main import app
from ebm_jax.experiment.config import ConfigError, parse_config
from ebm_jax.experiment.recipes.base import find
from ebm_jax.experiment.recipes.jem import evaluation, figures, training
from ebm_jax.experiment.run import runner
from ebm_jax.experiment.run.folder import read_metrics, read_result
from ebm_jax.training.loop import advance
from tests.experiment import runs

JEM = find("jem")
TINY = {
    "recipe": "jem",
    "name": "tiny",
    "data": {"name": "digits"},
    "model": {"features": [8]},
    "langevin": {"n_steps": 2},
    "negatives": {"n_chains": 8},
    "buffer": {"capacity": 16},
    "generation": {"n_steps": 6, "every": 2},
    "training": {
        "n_epochs": 4,
        "classifier_epochs": 2,
        "batch_size": 128,
        "ema_decay": 0.9,
        "steps_per_call": 4,
    },
    "checkpoints": {"every_epochs": 0.5},
    "evaluation": {"every_epochs": 2, "n_chains": 20, "n_strange": 50},
}


def config(**sections):
    merged = {name: {**TINY[name], **values} for name, values in sections.items()}
    return parse_config({**TINY, **merged})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole run, with its report."""
    path = tmp_path_factory.mktemp("jem") / "tiny"
    compiled = advance._cache_size()
    runner.train(config(), path, ["test"])
    # One program for each phase and length of a call (4 and 3 updates).
    assert advance._cache_size() - compiled <= 4
    return path


@pytest.mark.slow
def test_an_evaluation_measures_what_the_recipe_lists(whole):
    rows = [row for row in read_metrics(whole) if row["kind"] == "evaluation"]
    assert len(rows) == 2
    # Fashion-MNIST is compared with images of its size alone.
    assert {metric.name for metric in JEM.metrics} - set(rows[-1]) == {"auroc_fashion"}
    phases = [row["energy_gap"] for row in read_metrics(whole) if row["kind"] == "train"]
    assert all(np.isnan(gap) if gap is not None else True for gap in phases[: len(phases) // 2])
    assert all(gap is not None and np.isfinite(gap) for gap in phases[len(phases) // 2 :])
    assert rows[-1]["validation_accuracy"] > 0.2


@pytest.mark.slow
def test_the_page_shows_every_figure(whole):
    page = (whole / "report.md").read_text()
    for name in figures.captions:
        assert f"]({name})" in page and (whole / name).stat().st_size > 1000
    draws = np.load(whole / "samples" / "final.npz")
    assert draws["steps"].tolist() == [0, 2, 4, 6] and draws["classes"].shape == (100, 8, 8)


@pytest.mark.slow
@pytest.mark.parametrize("at", [1.5, 3.5], ids=["classifier", "joint"])
def test_a_killed_run_resumes_to_the_same_bits(whole, tmp_path, at):
    n_batches = read_result(whole)["step"] // 4
    runs.interrupted(tmp_path / "tiny", config(), round(at * n_batches) + 1)
    runner.resume(tmp_path / "tiny")
    assert runs.fingerprint(tmp_path / "tiny") == runs.fingerprint(whole)


@pytest.mark.slow
def test_commands(whole, tmp_path):
    def cli(*arguments):
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output

    cli("sample", whole, "--output", tmp_path / "x.npz", "--num-samples", 4)
    assert np.load(tmp_path / "x.npz")["samples"].shape == (4, 8, 8)
    cli("evaluate", whole, "--metrics", "classifier", "-o", "evaluation.split=test")
    row = json.loads((whole / "evaluations.jsonl").read_text().splitlines()[-1])["metrics"]
    model, params = ej.load(whole / "model.npz")
    test = ej.data.load("digits").test
    logits = jax.vmap(model.logits, (None, 0))(params, np.asarray(test.images, np.float32) / 127.5 - 1)
    expected = (np.asarray(logits).argmax(axis=1) == test.labels).mean()
    np.testing.assert_allclose(row["validation_accuracy"], expected, atol=1.5 / len(test.labels))
    cli("plot", whole, "--out", tmp_path / "page")
    assert "classifies best" in (tmp_path / "page" / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("start", ["uniform", "class_gaussians"])
def test_chains_of_a_class_keep_it_in_training(start):
    section = {"conditional": True, "start": start}
    experiment = JEM.build(config(negatives=section, training={"classifier_epochs": 0, "n_epochs": 1}))
    state, metrics = experiment.advance(experiment.init(), 4)
    labels = np.asarray(state.negatives.positions[1])
    assert set(np.unique(labels)) == {0, 1} and (labels.sum(axis=1) == 1).all()
    assert (metrics.n_nonfinite == 0).all() and (metrics.extra["movement"] > 0).all()


def test_the_rate_has_a_course_for_each_phase():
    section = {"n_epochs": 10, "classifier_epochs": 4, "warmup_epochs": 1.0, "learning_rate": 1.0}
    rate = training.rate_schedule(config(training={**section, "classifier_rate": 2.0, "final_rate": 0.1}), 10)
    np.testing.assert_allclose(
        [rate(s) for s in (0, 20, 40, 45, 50, 75, 100)], [2, 1.1, 0, 0.5, 1, 0.55, 0.1], atol=1e-6
    )


def test_energies_are_those_of_the_logits():
    logits = np.asarray([[800.0, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(evaluation.energies_of(logits), [-800, -np.log(2)])


def test_a_wrong_phase_is_refused():
    with pytest.raises(ConfigError, match=r"classifier_epochs: 4 was given, but n_epochs is 4"):
        config(training={"classifier_epochs": 4})
