"""Comparisons of runs, of one seed and of several: groups, tables, findings, bands; and the page of one run."""

import types
from pathlib import Path

import numpy as np
import pytest

from ebm_jax.experiment import report
from ebm_jax.experiment.config import parse_config
from ebm_jax.experiment.recipes import comparison
from ebm_jax.experiment.recipes.base import StoredRun, find
from ebm_jax.experiment.recipes.comparison import Spread, group_by_seed, varied_settings
from ebm_jax.experiment.report import common, compare, page
from ebm_jax.experiment.run.folder import RunFolderError

STUDY = Path(__file__).parents[2] / "docs" / "studies" / "cd_vs_pcd"
RBM = find("rbm")


def stored(name, seed=0, lower=-80.0, width=0.5, scale=1.0, **negatives):
    """A finished run with two evaluations; `scale` multiplies its training curve."""
    config = parse_config({"name": name, "seed": seed, "data": {"name": "digits"}, "negatives": negatives})
    metrics = {"log_likelihood_lower": lower, "log_likelihood_upper": lower + width, "r_hat": None}
    rows = []
    for epoch in (1, 2):
        train = {"energy_gap": scale * epoch, "gradient_norm": 1.0, "learning_rate": 0.1}
        rows.append({"kind": "train", "epoch": epoch} | train)
        rows.append({"kind": "evaluation", "epoch": epoch} | metrics)
    images = np.full((2, 4, 3, 3), 255, np.uint8)
    curve = scale * np.linspace(1, 0, 30)
    draws = {
        "frames": images,
        "steps": np.arange(2),
        "data": images[0],
        "weights": np.ones((3, 3, 2), np.float32),
    }
    return StoredRun(Path(name), config, metrics, rows, draws | {"autocorrelation": curve})


def named(*runs):
    return {run.config.name: run for run in runs}


def lines(figure, panel=0):
    """Lines of a panel as `{label: y}`, and its bands as `[(lowest, highest)]`."""
    ax = figure.axes[panel]
    bands = [band.get_paths()[0].vertices[:, 1] for band in ax.collections]
    return (
        {line.get_label(): list(line.get_ydata()) for line in ax.get_lines()},
        [(band.min(), band.max()) for band in bands],
    )


def cells(page):
    """The table of a page as `[{heading: cell}]`."""
    head, _, *rows = [line.strip("| ").split(" | ") for line in page if line[0] == "|"]
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_the_stored_study_is_what_its_runs_give(tmp_path):
    """The page of docs/studies, word for word, but for the order of columns. It has no picture of filters."""
    runs = [
        STUDY / "records" / f"rbm_mnist_{name}"
        for name in ("cd1", "cd5", "cd20", "cd100", "pcd1", "pcd5", "pcd20")
    ]
    report.compare_runs(runs, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    pages = (text, (STUDY / "report.md").read_text(encoding="utf-8"))
    found, expected = (
        [line for line in page.splitlines() if line and "filters" not in line] for page in pages
    )
    assert [line for line in found if line[0] != "|"] == [line for line in expected if line[0] != "|"]
    assert cells(found) == cells(expected)
    for line in text.splitlines():
        if line.startswith("!["):
            assert (tmp_path / line.split("](")[1].rstrip(")")).stat().st_size > 1000


# Groups of seeds


def test_runs_that_differ_in_seed_and_name_are_one_group():
    runs = named(stored("a-s1", 1), stored("b", 0, k=3), stored("a-s0", 0), stored("c", 5, k=3))
    groups = group_by_seed(runs)
    assert list(groups) == ["a", "b and 1 more"]
    assert [run.config.name for run in groups["a"].runs] == ["a-s0", "a-s1"]
    assert groups["a"].seeds == (0, 1) and groups["b and 1 more"].seeds == (0, 5)
    assert varied_settings(groups) == {"negatives.k", "seed"}


def test_a_seed_counts_once_in_a_group():
    groups = group_by_seed(named(stored("a-s0", 0), stored("a-s1", 1), stored("again", 0)))
    assert {name: group.seeds for name, group in groups.items()} == {"a": (0, 1), "again": (0,)}


def test_a_group_does_not_take_the_name_of_another_run():
    groups = group_by_seed(named(stored("a-s0", 0), stored("a-s1", 1), stored("a", 0, k=3)))
    assert list(groups) == ["a-s0 and 1 more", "a"]


def test_the_spread_of_numbers():
    assert comparison.spread([1.0, 2.0, 3.0]) == Spread(2.0, 1.0)
    assert comparison.spread([1.5]) == Spread(1.5, None)
    texts = [Spread(-80.04, 0.26).text(1), Spread(2.0).text(3), Spread(np.nan, np.nan).text(1)]
    assert texts == ["-80.0 ± 0.3", "2.000", "–"]


# Tables


def test_the_table_shows_mean_and_spread_over_seeds():
    runs = named(
        *(stored(f"a-s{s}", s, -80.0 - s) for s in range(3)), *(stored(f"b-s{s}", s, k=3) for s in range(3))
    )
    groups = group_by_seed(runs)
    assert compare.table(groups, RBM.metrics) == [
        "| run | `negatives.k` | log-likelihood, from below | from above | R-hat |",
        "|---|---|---|---|---|",
        "| a | 1 | -81.0 ± 1.0 | -80.5 ± 1.0 | – |",
        "| b | 3 | -80.0 ± 0.0 | -79.5 ± 0.0 | – |",
    ]
    assert "standard deviation over the seeds 0, 1, 2;" in compare._note_on_seeds(groups)[0]


def test_the_table_shows_seeds_that_differ():
    groups = group_by_seed(named(stored("a-s0", 0), stored("a-s1", 1), stored("b", 0, k=3)))
    head, _, first, second = compare.table(groups, RBM.metrics)
    assert head.startswith("| run | `negatives.k` | `seed` |")
    assert first.startswith("| a | 1 | 0, 1 | -80.0 ± 0.0 |") and second.startswith("| b | 3 | 0 | -80.0 |")
    assert "over the seeds of its row" in compare._note_on_seeds(groups)[0]
    assert compare._note_on_seeds(group_by_seed(named(stored("a"), stored("b", k=3)))) == []


def test_runs_of_two_recipes_are_not_compared():
    other = stored("b")._replace(config=types.SimpleNamespace(recipe="other"))
    with pytest.raises(RunFolderError, match="recipes other, rbm; compare runs of one recipe"):
        compare._recipe_of({"a": stored("a"), "b": other})


# Findings


def seeds_of(name, lower, **options):
    return [stored(f"{name}-s{seed}", seed, value, **options) for seed, value in enumerate(lower)]


def test_findings_of_one_seed_say_so():
    (text,) = RBM.findings(named(stored("a")))
    assert "**a**: its test log-likelihood is estimated between -80.0 and -79.5 nats (one seed)." in text


def test_findings_of_several_seeds_give_mean_spread_and_number():
    runs = named(
        *seeds_of("cd1", [-90, -91, -92], method="cd", k=1),
        *seeds_of("pcd1", [-80, -82, -81], k=1),
        *seeds_of("pcd5", [-79.8, -81.8, -80.8], k=5),
    )
    best, *effects = RBM.findings(runs)
    assert best == (
        "Best by the lower bound is **pcd5**: its test log-likelihood is estimated between -80.8 ± 1.0 and -80.3 ± 1.0 "
        "nats (mean ± standard deviation over 3 seeds). The bounds of pcd1 overlap with it within the spread over "
        "seeds, so the order among them is not decided. Last is cd1, between -91.0 ± 1.0 and -90.5 ± 1.0."
    )
    assert effects == [
        "PCD: the lower bound is -81.0 ± 1.0 at k = 1, -80.8 ± 1.0 at k = 5; it rises with k.",
        "With k = 1, pcd1 is 10.0 ± 1.0 nats above cd1 by the lower bounds.",
    ]


def test_differences_are_judged_seed_by_seed():
    """Seeds share their test data: a steady lead decides though each alone spreads widely, an unsteady one does not."""
    steady = named(*seeds_of("a", [-80, -90, -100]), *seeds_of("b", [-81, -91, -101], k=3))
    (text,) = RBM.findings(steady)[:1]
    assert "The bounds of every other run lie below it by more than the spread over seeds." in text
    unsteady = named(*seeds_of("pcd", [-80, -80, -80]), *seeds_of("cd", [-81, -86, -79], method="cd"))
    text, last = RBM.findings(unsteady)
    assert "The bounds of cd overlap with it within the spread over seeds" in text
    assert last.endswith(
        "pcd is 2.0 ± 3.6 nats above cd by the lower bounds, which is within the spread over seeds."
    )
    narrow = named(*seeds_of("pcd", [-80, -80]), *seeds_of("cd", [-80.2, -80.2], method="cd"))
    assert RBM.findings(narrow)[-1].endswith("which is within the width of the bounds.")


def test_runs_with_other_test_data_are_not_ranked():
    for runs in (
        named(stored("a-s0", 0), stored("a-s1", 1), stored("b", 0, k=3)),
        named(stored("a", 0), stored("b", 1, k=3)),
    ):
        assert RBM.findings(runs) == [
            "The runs differ in seed, and so in what they are judged by: they are not ranked."
        ]
    unknown = stored("a")._replace(metrics={"log_likelihood_lower": None})
    assert RBM.findings({"a": unknown}) == [
        "No run has an estimate of its log-likelihood (evaluation.ais_betas is 0)."
    ]


@pytest.mark.parametrize(
    ("width", "said"), [(-2.0, "cross by 2.0 nats"), (0.5, None), (3.0, "are 3.0 nats apart")]
)
def test_remarks_on_the_bounds(width, said):
    remarks = RBM.remarks(stored("a", width=width))
    assert (said is None and remarks == []) or said in remarks[0]


# Figures


def test_curves_have_a_band_over_seeds():
    group = [stored(f"a-s{seed}", seed, scale=scale) for seed, scale in enumerate((1.0, 2.0, 3.0))]
    runs = named(*group, *(stored(f"b-s{seed}", seed, scale=5.0, k=3) for seed in range(3)))
    curves, bands = lines(common.training_figure(group_by_seed(runs)))
    assert curves == {"a": [2, 4], "b": [5, 10]}
    assert bands == [(1, 6), (5, 10)]
    figures = RBM.comparison_figures(runs)
    assert set(figures) == {
        "samples.png", "autocorrelation.png", "filters.png", "likelihood.png", "likelihood_by_k.png"
    }  # fmt: skip
    curves, bands = lines(figures["autocorrelation.png"])
    assert curves["a"][0] == 2 and bands[0] == (0, 3)
    assert [ax.get_title("left") for ax in figures["samples.png"].axes] == ["a", "b"]


def test_bounds_are_widened_by_the_spread_over_seeds():
    runs = named(*seeds_of("a", [-80.0, -82.0]), *seeds_of("b", [-70.0, -70.0], k=3))
    for name, panel in (("likelihood.png", 0), ("likelihood_by_k.png", 0)):
        curves, bands = lines(RBM.comparison_figures(runs)[name], panel)
        deviation = np.sqrt(2)
        first = next(iter(curves.values()))
        assert first[0] == -81
        assert bands[0][0] == pytest.approx(-81 - deviation)
        assert bands[0][1] == pytest.approx(-80.5 + deviation if name == "likelihood.png" else -69.5)


def test_runs_of_one_seed_have_lines_without_bands():
    curves, bands = lines(common.training_figure(group_by_seed(named(stored("a"), stored("b", k=3)))))
    assert curves == {"a": [1, 2], "b": [1, 2]} and bands == []


# The page of one run


def test_a_page_says_what_happened_and_shows_every_figure():
    run = stored("a")._replace(path=STUDY / "records" / "rbm_digits_cd1")
    rollback = {"kind": "rollback", "step": 6, "sick_step": 11, "reason": "x is inf", "rate_factor": 0.5}
    run = run._replace(rows=[*run.rows, rollback, {"kind": "train", "epoch": 3, "n_skipped": 4}])
    result = {"step": 20, "best": {"step": 10, "metric": "log_likelihood_lower", "value": -79.96}}
    names = ["plots/training.png", "plots/new.png", "samples/samples.png"]
    text = "\n".join(page._page(run, RBM, result, names))
    assert "| log-likelihood, from below | -80.0 |" in text and "| R-hat | – |" in text
    assert "The best evaluation was at step 10: log_likelihood_lower -80.0. Its checkpoint is kept" in text
    assert "At step 11 x is inf: the run went back to step 6 with learning rates times 0.5." in text
    assert "4 updates were skipped" in text
    order = [text.index(f"![{name}]({name})") for name in (names[2], names[0], names[1])]
    assert order == sorted(order) and all(text.count(f"![{name}]") == 1 for name in names)
    assert "    ebm-jax train configs/rbm_digits_cd1.yaml" in text
