"""The code of the guides runs and does what they say; what they point at is there."""

import re
from pathlib import Path

import numpy as np
import pytest

import ebm_jax as ej

DOCS = Path(__file__).parents[1] / "docs"
GUIDES = (
    "block_gibbs.md",
    "examples.md",
    "log_z.md",
    "graphs.md",
    "factor_graphs.md",
    "choosing_a_sampler.md",
    "choosing_an_objective.md",
    "trust.md",
    "networks.md",
    "configs.md",
)
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def run(name, folder, monkeypatch):
    """Executes a guide's blocks one after the other in `folder`; returns the names that they define."""
    monkeypatch.chdir(folder)
    names = {}
    text = (DOCS / name).read_text(encoding="utf-8")
    for found in re.finditer(r"```python\n(.*?)```", text, re.DOTALL):
        line = text[: found.start()].count("\n") + 1
        exec(compile("\n" * line + found.group(1), str(DOCS / name), "exec"), names)
    return names


@pytest.mark.slow
def test_block_gibbs_runs(tmp_path, monkeypatch):
    names = run("block_gibbs.md", tmp_path, monkeypatch)
    assert names["samples"].positions.shape == (50, 64, 28, 28)  # the guide asserts the rest itself


def test_graphs_runs(tmp_path, monkeypatch, quick_compilation):
    for package in ("networkx", "dimod", "thrml"):
        pytest.importorskip(package)
    names = run("graphs.md", tmp_path, monkeypatch)
    assert names["draws"].shape == (100, 255)  # the guide asserts the rest itself


def test_factor_graphs_runs(tmp_path, monkeypatch, quick_compilation):
    names = run("factor_graphs.md", tmp_path, monkeypatch)
    assert names["kernel"].path == "factors"  # the guide asserts the rest itself


@pytest.mark.slow
def test_log_z_runs(tmp_path, monkeypatch, quick_compilation):
    names = run("log_z.md", tmp_path, monkeypatch)
    assert names["bounds"].forward.log_z < names["truth"] + 0.3  # the guide asserts the rest itself


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["choosing_a_sampler.md", "choosing_an_objective.md", "trust.md", "networks.md"]
)
def test_guides_to_samplers_run(name, tmp_path, monkeypatch, quick_compilation):
    run(name, tmp_path, monkeypatch)  # they assert what they say


@pytest.mark.slow
def test_examples_run(tmp_path, monkeypatch):
    names = run("examples.md", tmp_path, monkeypatch)
    shares = names["shares"]
    assert shares["bits, lower half"] < 0.85 and shares["bits, a random half"] < 0.75
    assert shares["grey levels, lower half"] < 0.9
    assert names["on_even"].sum() > 0.9
    assert names["magnetisation"][0.10] < 0.3 < 0.7 < names["magnetisation"][0.20]
    assert names["wrong_after"] < 0.65 * names["wrong_before"]
    assert names["from_all"] > 0.8 and names["from_upper"] > 0.6
    assert names["accuracy"] > 0.85 and names["learning"].shape == (20, 11)
    assert (tmp_path / "classes.png").stat().st_size > 0
    assert names["of_mixture"] > max(names["of_experts"]) + 2
    assert names["by_class"][3] > 0.9 > 0.8 > names["by_class"][0] > 0.2 > 0.1 > names["by_class"][6]

    # The nearest training digit, by pixels that differ, is mostly of the class that was asked for.
    drawn, train = names["drawn"].reshape(-1, 64), names["train"]
    nearest = np.argmin((drawn[:, None] != train).sum(axis=-1), axis=1)
    right = names["digits"].train.labels[nearest] == names["asked"]
    assert right.mean() > 0.7
    nearest = np.argmin((np.asarray(names["zeros"])[:, None] != train).sum(axis=-1), axis=1)
    assert (names["digits"].train.labels[nearest] == 0).mean() > 0.95


# A page on additions may mention names that do not exist yet.
@pytest.mark.parametrize("name", [name for name in PAGES if name != "extending.md"])
def test_every_name_they_mention_is_public(name):
    text = (DOCS / name).read_text(encoding="utf-8")
    for dotted in set(re.findall(r"\bej\.([a-z_]+(?:\.[a-z_]+)*)", text)):
        value = ej
        for part in dotted.split("."):
            value = getattr(value, part)


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def linked(page, target):
    """The file that a page's link or command names: commands are run from the root, links start at the page."""
    if not target:
        return page
    return DOCS.parent / target if target.startswith("docs/") else page.parent / target


@pytest.mark.parametrize("name", PAGES)
def test_what_they_link_to_is_there(name):
    page = DOCS / name
    text = page.read_text(encoding="utf-8")
    targets = [t for t in re.findall(r"\]\(([^)]+)\)", text) if "://" not in t]
    targets += re.findall(r"`python (docs/figures/\S+\.py)", text)
    assert targets or name not in GUIDES
    for target in targets:
        file, _, anchor = target.partition("#")
        path = linked(page, file)
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target
