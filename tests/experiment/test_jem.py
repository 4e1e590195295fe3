"""The recipe `jem`: a tiny classifier of 8×8 digits goes through both phases and every command."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from typer.testing import CliRunner

import ebm_jax as ej
from ebm_jax.cli.main import app
from ebm_jax.experiment.config import ConfigError, parse_config
from ebm_jax.experiment.config.sections import TrainingConfig
from ebm_jax.experiment.recipes import optimiser
from ebm_jax.experiment.recipes.base import find
from ebm_jax.experiment.recipes.jem import evaluation, figures, sampling, training
from ebm_jax.experiment.run import runner
from ebm_jax.experiment.run.folder import read_metrics, read_result
from tests.experiment import runs

# Networks this small take longer to compile than to train.
pytestmark = pytest.mark.usefixtures("quick_compilation")
JEM = find("jem")
TINY = {
    "recipe": "jem",
    "name": "tiny",
    "data": {"name": "digits", "classes": [3, 5, 8], "n_train": 200, "shift": 1},
    "model": {"features": [16]},
    "langevin": {"n_steps": 2, "step_size": 0.5},
    "negatives": {"n_chains": 8, "capacity": 32, "conditional": 0.5},
    "generation": {"n_steps": 6, "every": 2, "final_step_size": 1.0},
    "training": {"n_epochs": 4, "classifier_epochs": 2, "batch_size": 20, "steps_per_call": 5},
    "checkpoints": {"every_epochs": 0.5},
    "evaluation": {"samples_every": 3, "n_chains": 20},
}
N_BATCHES = 10


def config(name="tiny"):
    return parse_config({**TINY, "name": name})


@pytest.fixture(scope="module")
def whole(tmp_path_factory, digits_classifier):
    """A whole run, with its report."""
    path = tmp_path_factory.mktemp("jem") / "tiny"
    runner.train(config(), path, ["test"])
    return path


def test_the_classifier_comes_first_and_the_energy_joins(whole):
    rows = [row for row in read_metrics(whole) if row["kind"] == "train"]
    by_phase = {phase: [row for row in rows if (row["epoch"] > 2) == phase] for phase in (False, True)}
    assert all(row["energy_gap"] is None and "age" not in row for row in by_phase[False])
    assert all(row["energy_gap"] is not None and row["movement"] > 0 for row in by_phase[True])
    # Chains keep their class or classes: after training the buffer still holds one-hot labels, and ones alone.
    _, state = runs.last_state(whole)
    _, labels = state.negatives.positions
    assert set(np.unique(labels)) == {0.0, 1.0} and set(labels.sum(axis=1)) == {1, 3}
    assert int(state.negatives.count) == 2 * N_BATCHES


def test_samples_are_judged_when_they_are_due(whole):
    rows = {row["epoch"]: row for row in read_metrics(whole) if row["kind"] == "evaluation"}
    assert sorted(rows) == [1, 2, 3, 4]
    assert [epoch for epoch in rows if "frechet" in rows[epoch]] == [3, 4]
    assert all(0 <= row["accuracy"] <= 1 and row["auroc_uniform"] is not None for row in rows.values())
    assert {metric.name for metric in JEM.metrics} <= set(rows[4])
    result = read_result(whole)["metrics"]
    assert result["n_samples"] == 20 and result["n_steps"] == 6 and result["auroc_fashion"] is None
    stored = sorted(path.stem for path in (whole / "samples").glob("step_*"))
    assert stored == ["step_00000030", "step_00000040"]


def test_the_page_shows_every_figure(whole):
    page = (whole / "report.md").read_text()
    for name in figures.captions:
        assert f"]({name})" in page and (whole / name).stat().st_size > 1000
    assert np.load(whole / "samples" / "final.npz")["classes"].shape == (3, 10, 8, 8)


def test_a_killed_run_resumes_to_the_same_bits(whole, tmp_path):
    """The buffer and the averaged parameters included; the checkpoint lies where the joint phase begins."""
    runs.interrupted(tmp_path / "tiny", config(), 2 * N_BATCHES)
    runner.resume(tmp_path / "tiny")
    assert runs.fingerprint(tmp_path / "tiny") == runs.fingerprint(whole)


def test_commands(whole, tmp_path):
    def cli(*arguments):
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output

    cli("sample", whole, "--output", tmp_path / "x.npz", "--num-samples", 4)
    assert np.load(tmp_path / "x.npz")["samples"].shape == (4, 8, 8)
    cli("evaluate", whole, "--metrics", "classifier", "-o", "evaluation.split=test")
    row = json.loads((whole / "evaluations.jsonl").read_text().splitlines()[-1])["metrics"]
    model, params = ej.load(whole / "model.npz")
    assert model == JEM.model(config())
    # The accuracy of the saved model on the three classes of the test set, computed once more.
    test = ej.data.load("digits", classes=[3, 5, 8]).test
    logits = jax.vmap(model.logits, (None, 0))(params, test.images.astype(np.float32) / 127.5 - 1)
    read = np.array([3, 5, 8])[np.asarray(logits.argmax(axis=1))]
    assert row["accuracy"] == pytest.approx((read == test.labels).mean())
    cli("plot", whole, "--out", tmp_path / "page")
    assert "classifies best" in (tmp_path / "page" / "report.md").read_text()


def test_files_of_older_runs_say_whether_all_chains_keep_a_class():
    for given, share in ((True, 1.0), (False, 0.0)):
        read = parse_config({**TINY, "negatives": {"conditional": given}})
        assert read.negatives.conditional == share


def test_step_sizes_of_generation_fall_geometrically():
    section = config().generation.model_copy(update={"step_size": 8.0, "final_step_size": 2.0})
    tiny = config().model_copy(update={"generation": section})
    kernel = sampling.generation_kernel(tiny, JEM.model(tiny), 3)
    np.testing.assert_allclose([kernel.step_size(jnp.int32(i)) for i in range(4)], [8, 4, 2, 2], rtol=1e-6)


def test_images_move_by_whole_pixels():
    image = np.arange(1, 13, dtype=np.uint8).reshape(3, 4)
    rows = jnp.tile(image, (200, 1, 1)), jnp.arange(200)
    moved, labels = training.NoisyRows(0.0, 1)(jax.random.key(0), rows)
    padded = np.pad(image, 1)
    expected = {padded[i : i + 3, j : j + 4].tobytes() for i in range(3) for j in range(3)}
    found = np.rint((np.asarray(moved) + 1) * 127.5).astype(np.uint8)
    # All nine places occur among 200 draws, except with probability 9 (8/9)^200 < 1e-9.
    assert {x.tobytes() for x in found} == expected
    np.testing.assert_array_equal(labels, rows[1])


def test_noise_is_rough_whether_grey_or_black_and_white():
    """A chain that saturates has as much contrast as a digit, and is still noise."""
    digits = np.asarray(ej.data.load("digits").test.images, np.float32) / 127.5 - 1
    grey = np.random.default_rng(0).uniform(-1, 1, digits.shape)
    np.testing.assert_allclose(evaluation.roughness(grey).mean(), 2 / 3, atol=0.02)
    half_way = (evaluation.roughness(grey).mean() + evaluation.roughness(digits).mean()) / 2
    assert (evaluation.roughness(np.sign(grey)) > half_way).all()
    np.testing.assert_array_equal(evaluation.roughness(np.array([[[0.0, 1.0], [0.0, 1.0]]])), [0.5])


def test_learning_rate():
    """Each phase has a peak and a fall of its own, and the second rises first."""
    section = config().training.model_copy(
        update={"classifier_rate": 1.0, "learning_rate": 0.5, "warmup_epochs": 1.0, "final_rate": 0.1}
    )
    rate = training.rate_schedule(section, 10)
    np.testing.assert_allclose(
        [rate(s) for s in (0, 10, 20, 25, 30, 35, 40)], [1, 0.55, 0, 0.25, 0.5, 0.275, 0.05], rtol=1e-6
    )


def test_accumulated_gradients_make_the_change_of_their_mean():
    section = TrainingConfig(optimizer="sgd", momentum=0.5, learning_rate=1.0, accumulate=2, clip_norm=2.0)
    tx = optimiser.transformation(section, optax.constant_schedule(1.0))
    params = np.zeros(2, np.float32)
    state, moved = tx.init(params), []
    for gradient in ([2.0, 0.0], [0.0, 2.0], [30.0, 0.0], [10.0, 0.0]):
        updates, state = tx.update(np.array(gradient, np.float32), state, params)
        moved.append(np.asarray(updates))
    # The mean of the second pair, 20, is scaled down to norm 2, and half of the first change goes on.
    np.testing.assert_allclose(moved, [[0, 0], [-1, -1], [0, 0], [-2.5, -0.5]], rtol=1e-6)


def test_wrong_phases_are_refused():
    with pytest.raises(ConfigError, match=r"classifier_epochs: 4 was given, but n_epochs is 4"):
        parse_config({**TINY, "training": {**TINY["training"], "classifier_epochs": 4}})
