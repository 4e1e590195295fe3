"""One whole run of the demonstration: what it writes, what it prints, and whether the digits are digits."""

import jax
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import ebm_jax as ej
from ebm_jax.cli import demo
from ebm_jax.cli.main import app


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder and the output of `ebm-jax demo`."""
    out = tmp_path_factory.mktemp("demo") / "runs" / "demo"
    result = CliRunner().invoke(app, ["demo", "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out, result.stdout


@pytest.fixture(scope="module")
def digits():
    loaded = ej.data.load("digits")
    return tuple(ej.data.discretize(split.images) for split in (loaded.train, loaded.test))


def near(images, digits):
    """The share of images no farther from a training digit than 95 % of held-out digits are."""
    train, test = digits
    limit = np.quantile(demo.nearest(test, train)[0], 0.95)
    return np.mean(demo.nearest(images, train)[0] <= limit)


def draw(path, key, n_chains=100):
    """Images that a saved model draws from noise, by chains that have nothing to do with the demonstration's."""
    model, params = ej.load(path)
    start = ej.init_chains(jax.random.fold_in(key, 0), model, n_chains)
    schedule = ej.SamplingSchedule(500, 1)
    positions = ej.sample(jax.random.fold_in(key, 1), ej.gibbs(model), params, start, schedule).positions
    return np.asarray(positions[0])[0] if isinstance(model, ej.RBM) else np.asarray(positions)[0]


@pytest.mark.slow
def test_every_file_is_there_and_a_picture_is_a_picture(run):
    out, _ = run
    assert {path.name for path in out.iterdir()} == {*demo.FILES, demo.MARKER}
    for path in [*out.glob("*.png"), *out.glob("*.gif")]:
        with Image.open(path) as image:
            image.verify()
            assert min(image.size) > 100
        assert path.stat().st_size < 200_000, path


@pytest.mark.slow
def test_the_table_says_what_was_done(run):
    _, text = run
    for words in (
        "parameters",
        "258",
        "49,600",
        "compiling",
        "training",
        "mean energy",
        "held-out digits",
        "Done in",
    ):
        assert words in text
    for name in demo.FILES:
        assert name in text


@pytest.mark.slow
def test_the_rbm_draws_digits_and_the_potts_grid_does_not(run, digits):
    out, _ = run
    key = jax.random.key(123)
    drawn = demo.from_thermometer(draw(out / "rbm.npz", key))
    noise = np.random.default_rng(0).integers(0, 4, drawn.shape, dtype=np.uint8)
    rbm, potts = near(drawn, digits), near(draw(out / "potts.npz", key), digits)
    assert rbm > 0.85  # 0.95 by definition for real digits
    assert potts < 0.3 and near(noise, digits) == 0
    # Not one digit again and again, and not the training set by heart.
    distance, row = demo.nearest(drawn, digits[0])
    classes = np.bincount(ej.data.load("digits").train.labels[row], minlength=10)
    assert np.count_nonzero(classes) >= 9 and classes.max() < 50
    assert np.mean(distance == 0) < 0.1


def test_equal_results_write_equal_files(tmp_path):
    """Training and sampling repeat themselves under one key; files must not add a date, a version or an order."""
    settings = demo.Settings(n_hidden=8, n_steps=70)
    models = ej.Potts(ej.Grid(8, 8), 4), ej.RBM(192, 8)
    numbers = np.random.default_rng(0)
    frames = numbers.integers(0, 4, (demo.WATCHED + 2, 20, 8, 8), dtype=np.uint8)
    metrics = {"energy_gap": numbers.normal(size=(3, 4))}
    energies = {"data": numbers.normal(size=9), "samples": numbers.normal(size=9)}
    trained = [
        demo.Result(model, model.init(jax.random.key(1)), metrics, frames, energies, 1.0, 1.0, 1.0)
        for model in models
    ]
    for name in ("first", "second"):
        demo._claim(tmp_path / name)
        demo._write(tmp_path / name, frames[0], *trained, settings)
    for name in demo.FILES:
        first, second = ((tmp_path / run / name).read_bytes() for run in ("first", "second"))
        assert first == second, name


def test_a_folder_of_other_files_is_not_touched(tmp_path):
    (tmp_path / "rbm.npz").write_text("mine")
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "holds files that no demo wrote" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["rbm.npz"]
    assert (tmp_path / "rbm.npz").read_text() == "mine"


def test_a_marked_folder_is_taken_again_and_other_files_stay(tmp_path):
    demo._claim(tmp_path / "new")
    (tmp_path / "new" / "notes.txt").write_text("mine")
    demo._claim(tmp_path / "new")
    assert (tmp_path / "new" / "notes.txt").read_text() == "mine"


def test_a_thermometer_counts_levels():
    levels = np.arange(4, dtype=np.uint8).repeat(16).reshape(1, 8, 8)
    bits = demo.thermometer(levels)
    assert bits.shape == (1, 192)
    np.testing.assert_array_equal(
        bits.reshape(8, 8, 3)[[0, 2, 4, 6], 0], [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]
    )
    np.testing.assert_array_equal(demo.from_thermometer(bits), levels)


def test_nearest_counts_differences_of_levels(digits):
    train, test = digits
    distance, row = demo.nearest(test[:20], train[:300])
    direct = np.abs(test[:20, None].astype(int) - train[None, :300]).sum(axis=(2, 3))
    np.testing.assert_array_equal(distance, direct.min(axis=1))
    np.testing.assert_array_equal(direct[np.arange(20), row], distance)
