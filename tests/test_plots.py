"""Figures hold what they are given, leave no trace in matplotlib, and refuse what does not fit."""

import subprocess
import sys
from typing import NamedTuple

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageSequence

from ebm_jax import plots

RNG = np.random.default_rng(0)
LEVELS = RNG.integers(0, 4, (12, 8, 8), dtype=np.uint8)


class Record(NamedTuple):
    energy_data: np.ndarray
    energy_model: np.ndarray
    energy_gap: np.ndarray
    gradient_norm: np.ndarray
    acceptance: np.ndarray


METRICS = Record(*(RNG.normal(size=(7, 5)) for _ in Record._fields))


def picture(figure, axis=0):
    """The RGB values that an axis shows."""
    return np.asarray(figure.axes[axis].images[0].get_array())


def titles(figure):
    return [ax.get_title(loc="left") for ax in figure.axes]


def pixel(figure, n_columns, image, row, column, axis=0, size=8):
    """The shown colour in the middle of one pixel of one image."""
    mosaic = picture(figure, axis)
    zoom = 48 // size
    pitch = mosaic.shape[1] // n_columns
    gap = pitch - zoom * size
    y = image // n_columns * pitch + gap // 2 + row * zoom + zoom // 2
    x = image % n_columns * pitch + gap // 2 + column * zoom + zoom // 2
    return mosaic[y, x]


def test_a_grid_shows_every_pixel_where_it_belongs():
    figure = plots.image_grid(LEVELS, 4, title="levels", n_levels=4)
    assert isinstance(figure, Figure)
    assert titles(figure) == ["levels"]
    for image, row, column in [(0, 0, 0), (3, 7, 2), (5, 4, 6), (11, 7, 7)]:
        dark = 1 - LEVELS[image, row, column] / 3
        np.testing.assert_allclose(pixel(figure, 4, image, row, column), dark, atol=0.01)


@pytest.mark.parametrize(
    "images",
    [LEVELS * np.uint8(85), LEVELS / 3, (LEVELS / 3).astype(np.float32), (LEVELS / 3).astype(np.float16)],
    ids=["grey", "float64", "float32", "float16"],
)
def test_kinds_of_images_look_the_same(images):
    levels = picture(plots.image_grid(LEVELS, n_levels=4))
    np.testing.assert_allclose(picture(plots.image_grid(images)), levels, atol=0.01)


def test_bits_are_black_and_white():
    bits = LEVELS > 1
    np.testing.assert_array_equal(
        picture(plots.image_grid(bits)), picture(plots.image_grid(bits.astype(np.uint8), n_levels=2))
    )


def test_colour_images_keep_their_colours():
    images = RNG.integers(0, 256, (4, 6, 6, 3), dtype=np.uint8)
    figure = plots.image_grid(images, 2)
    np.testing.assert_allclose(pixel(figure, 2, 3, 2, 5, size=6), images[3, 2, 5] / 255, atol=1e-6)


def test_jax_arrays_are_taken():
    import jax.numpy as jnp

    np.testing.assert_array_equal(
        picture(plots.image_grid(jnp.asarray(LEVELS), n_levels=4)),
        picture(plots.image_grid(LEVELS, n_levels=4)),
    )


def test_columns_default_to_a_square_and_an_unfilled_place_stays_blank():
    mosaic = picture(plots.image_grid(np.ones((7, 8, 8))))
    # Three by three.
    assert mosaic.shape[0] == mosaic.shape[1]
    assert (mosaic[-10:, -10:] == 1).all()


def test_compare_puts_panels_side_by_side():
    figure = plots.compare({"data": LEVELS, "samples": LEVELS[:5]}, 4, n_levels=4)
    assert titles(figure) == ["data", "samples"]
    np.testing.assert_array_equal(picture(figure, 0), picture(plots.image_grid(LEVELS, 4, n_levels=4)))


@pytest.mark.parametrize(
    ("images", "n_levels", "words"),
    [
        (LEVELS[0], 4, "shape"),
        (LEVELS[:0], 4, "shape"),
        (LEVELS[..., None], 4, "shape"),
        (LEVELS, 3, "0 … 2"),
        (LEVELS.astype(np.int32) - 1, 4, "-1"),
        (LEVELS.astype(np.float32), None, "0 … 1"),
        (np.full((2, 3, 3), np.nan), None, "nan"),
        (np.full((2, 3, 3), "x"), None, "dtype"),
    ],
)
def test_images_that_do_not_fit_are_refused(images, n_levels, words):
    with pytest.raises(ValueError, match=words):
        plots.image_grid(images, n_levels=n_levels)


@pytest.mark.parametrize("panels", [{}, [LEVELS]])
def test_compare_wants_named_panels(panels, as_shipped):
    with pytest.raises(ValueError, match="mapping"):
        plots.compare(panels)


def test_no_columns_are_refused():
    with pytest.raises(ValueError, match="n_columns is 0"):
        plots.image_grid(LEVELS, 0, n_levels=4)


def test_histograms_have_common_bins_and_unit_area():
    energies = {"data": RNG.normal(size=(4, 50)), "noise": RNG.normal(5.0, size=300)}
    figure = plots.energy_histogram(energies, title="E")
    (ax,) = figure.axes
    assert titles(figure) == ["E"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["data", "noise"]
    bars = [sum(bar.get_width() * bar.get_height() for bar in group) for group in ax.containers]
    np.testing.assert_allclose([area for area in bars if area > 0], 1, rtol=1e-6)


def test_histograms_of_several_models_get_a_panel_each():
    figure = plots.energy_histogram({"Potts": {"data": [1.0, 2.0]}, "RBM": {"data": [3.0, 3.0]}})
    assert titles(figure) == ["Potts", "RBM"]


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf]])
def test_energies_must_be_finite_and_there(values):
    with pytest.raises(ValueError, match="samples"):
        plots.energy_histogram({"data": [1.0], "samples": values})


def test_curves_show_the_mean_of_each_epoch():
    figure = plots.training_curves(METRICS)
    energy, gap, norm = figure.axes
    assert titles(figure) == ["energy", "energy gap (negatives − data)", "gradient norm"]
    assert [line.get_label() for line in energy.lines] == ["data", "negatives"]
    np.testing.assert_allclose(gap.lines[0].get_ydata(), METRICS.energy_gap.mean(axis=1))
    np.testing.assert_array_equal(norm.lines[0].get_xdata(), np.arange(1, 8))
    assert gap.get_xlabel() == "epoch"


def test_curves_of_a_loop_of_ones_own():
    figure = plots.training_curves({"energy_gap": np.arange(20.0)})
    assert figure.axes[0].get_xlabel() == "step"
    assert len(figure.axes) == 1


def test_curves_of_several_models_get_a_row_each():
    figure = plots.training_curves({"Potts": METRICS, "RBM": METRICS._asdict()})
    assert len(figure.axes) == 6
    assert titles(figure)[3] == "RBM: energy"


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({}, "mapping"),
        ({"acceptance": np.ones(3)}, "acceptance"),
        ({"energy_gap": np.ones((0, 5))}, "energy_gap"),
        ({"energy_gap": np.float32(1)}, "energy_gap"),
    ],
)
def test_metrics_without_a_curve_are_refused(metrics, words):
    with pytest.raises(ValueError, match=words):
        plots.training_curves(metrics)


def test_a_strip_has_a_row_a_chain_and_a_column_a_moment():
    frames = LEVELS.reshape(4, 3, 8, 8)
    figure = plots.chain_strip(frames, [0, 1, 10, 1000], title="chains", n_levels=4)
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1", "10", "1,000"]
    np.testing.assert_array_equal(
        picture(figure), picture(plots.image_grid(np.swapaxes(frames, 0, 1).reshape(12, 8, 8), 4, n_levels=4))
    )


@pytest.mark.parametrize("draw", [plots.chain_strip, lambda frames: plots.animate(frames, "unwritten.gif")])
def test_frames_need_four_axes(draw):
    with pytest.raises(ValueError, match="frames has shape"):
        draw(LEVELS)


def test_a_strip_wants_one_step_a_frame():
    with pytest.raises(ValueError, match="steps names 2"):
        plots.chain_strip(LEVELS.reshape(4, 3, 8, 8), [0, 1], n_levels=4)


def test_filters_are_white_at_zero_and_opposite_around_it():
    weights = np.zeros((64, 6))
    weights[9, 2], weights[9, 4] = 2.0, -2.0
    figure = plots.rbm_filters(weights, (8, 8), 3, title="filters")
    red, blue, zero = (pixel(figure, 3, unit, 1, 1) for unit in (2, 4, 0))
    assert red[0] > red[2] and blue[2] > blue[0]
    np.testing.assert_allclose(zero, 0.97, atol=0.02)
    assert figure.axes[1].get_ylabel() == "weight"


@pytest.mark.parametrize("shape", [(8, 9), (64, 1, 1)])
def test_filters_must_have_the_shape_of_the_images(shape, as_shipped):
    with pytest.raises(ValueError, match="weights"):
        plots.rbm_filters(np.zeros((64, 6)), shape)


def test_an_animation_shows_its_frames(tmp_path):
    frames = np.stack(
        [np.zeros((2, 8, 8), bool), np.ones((2, 8, 8), bool), np.eye(8, dtype=bool)[None].repeat(2, 0)]
    )
    path = plots.animate(frames, tmp_path / "chains.gif", 2, milliseconds=[100, 50, 200])
    with Image.open(path) as image:
        pages = [
            (page.info["duration"], np.asarray(page.convert("L"))) for page in ImageSequence.Iterator(image)
        ]
    assert [duration for duration, _ in pages] == [100, 50, 200]
    brightness = [page.mean() for _, page in pages]
    assert brightness[0] > brightness[2] > brightness[1]


def test_settings_are_left_as_they_were():
    before = dict(matplotlib.rcParams)
    plots.training_curves(METRICS)
    with pytest.raises(ValueError):
        plots.image_grid(LEVELS[0])
    assert dict(matplotlib.rcParams) == before


def test_pyplot_is_never_loaded(tmp_path):
    code = (
        "import sys, numpy as np\nfrom ebm_jax import plots\n"
        "figure = plots.image_grid(np.zeros((2, 3, 3)))\n"
        f"figure.savefig({str(tmp_path / 'a.png')!r})\n"
        "assert figure._repr_png_().startswith(b'\\x89PNG')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert (tmp_path / "a.png").stat().st_size > 0
