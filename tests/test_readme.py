"""The README's example runs and does what it says, and its links and figures are right."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import ebm_jax as ej

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")

# The tasks of the table "How fast", in its order.
MEASURED = [
    *("potts4_28_tied", "potts4_28_edge", "ising_128_tied", "ising_128_bits", "potts3_regular_10k"),
    *("rbm_784_500", "ula_ring", "mala_gaussian", "hmc_gaussian", "tempering_ising"),
    *("rbm_pcd1", "rbm_pcd10", "rbm_pcd1_batch100"),
]


@pytest.mark.slow
def test_the_example_completes_digits(tmp_path, monkeypatch):
    code = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL).group(1)
    assert len([line for line in code.splitlines() if line.strip()]) <= 22
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "README.md", "exec"), names)

    assert (tmp_path / "completed.png").stat().st_size > 0
    drawn, test, train = names["drawn"], names["test"][:50], names["train"]
    assert drawn.shape == (100, 50, 64)
    assert (drawn[:, :, :32] == test[:, :32]).all()
    # Beside pixels that know their own frequency alone, the model has seen the upper half.
    error = np.mean((drawn.mean(axis=0) - test)[:, 32:] ** 2)
    guess = np.mean((train.mean(axis=0) - test)[:, 32:] ** 2)
    assert error < 0.9 * guess


def test_it_is_short():
    assert len(TEXT.splitlines()) < 150


def test_every_name_it_mentions_is_public():
    mentioned = set(re.findall(r"\bej\.([a-z_]+(?:\.[a-z_]+)*)", TEXT, re.IGNORECASE))
    assert {"RBM", "fit", "sample", "data.load"} <= mentioned
    for dotted in mentioned:
        value = ej
        for name in dotted.split("."):
            value = getattr(value, name)


def test_what_it_links_to_is_there():
    targets = [t for t in re.findall(r"\]\(([^)#]+)", TEXT) if "://" not in t]
    assert targets
    for target in targets:
        path = ROOT / target
        assert path.exists(), target
        if path.suffix == ".png":
            assert path.stat().st_size < 200_000, target


def latest_results():
    """The newest row of every task measured on the CPU."""
    rows = {}
    for path in sorted((ROOT / "benchmarks" / "results").glob("*_cpu.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            rows[row["task"]] = row
    return rows


def rounded(value, digits):
    return f"{float(f'{value:.{digits}g}'):g}"


def measured(row):
    """Rates by method in the table's unit, and ratios of ebm_jax to each peer."""
    if "figures" in row:
        scale = 1e-6 if row["unit"].startswith("M ") else 1.0
        rates = {name: rate * scale for name, rate in row["rates"].items()}
        return rates, {row["against"]: row["figures"]["ratio"]}
    return row.get("million_updates_per_second") or row["updates_per_second"], row["ratios"]


def test_its_table_of_speed_shows_the_latest_results():
    lines = TEXT.split("## How fast")[1].split("\n## ")[0].splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    results = latest_results()
    for task, (_, _, ours, peers, ratios) in zip(MEASURED, table[2:], strict=True):
        rates, over = measured(results[task])
        said = [peer.rsplit(" ", 1) for peer in peers.split(", ")]
        assert ours == rounded(rates["ebm_jax"], 3), task
        for (peer, rate), ratio in zip(said, ratios.split(", "), strict=True):
            name = peer.lower().replace("pytorch", "torch")
            assert rate == rounded(rates[name], 3) and ratio == rounded(over[name], 2), (task, peer)
        assert "Intel Xeon at 2.80 GHz" in TEXT and "2.80GHz" in results[task]["device"]
        assert results[task]["versions"]["jax"] in TEXT
