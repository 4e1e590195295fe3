"""Notebooks run with small sizes, and what is committed is what their sources give at full size."""

import json
import runpy
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(p for p in (ROOT / "notebooks").glob("*.py") if not p.name.startswith("_"))

pytestmark = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def code_cells(source):
    cells = json.loads(source.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.slow
def test_the_source_runs(source, tmp_path, monkeypatch, quick_compilation):
    """In this process, so that notebooks share what other tests have loaded and compiled."""
    monkeypatch.setenv("EBM_JAX_SMALL", "1")
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("Agg")
    with warnings.catch_warnings():
        names = runpy.run_path(str(source), run_name=source.stem)
    plt.close("all")
    assert names.get("SMALL", True), "the notebook reads EBM_JAX_SMALL"
    assert not list(tmp_path.iterdir()), "a notebook leaves no files"


def test_the_notebook_is_its_source(source):
    jupytext = pytest.importorskip("jupytext")
    written = json.loads(source.with_suffix(".ipynb").read_text(encoding="utf-8"))
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in written["cells"]]
    wanted = [(cell.cell_type, cell.source) for cell in jupytext.read(source).cells]
    assert cells == wanted, "run `make notebooks`"


def test_the_notebook_was_executed_from_top_to_bottom(source):
    cells = code_cells(source)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"], "a warning was shown"
    for cell in cells:
        text = "".join(cell["source"])
        if "print(" in text or "subplots(" in text or "ej.plots." in text:
            assert cell["outputs"], text


def test_the_notebook_is_small_and_shows_pictures(source):
    assert source.with_suffix(".ipynb").stat().st_size < 1_500_000
    outputs = [output for cell in code_cells(source) for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
