"""The README's example runs and does what it says; what the README points at is there."""

import re
from pathlib import Path

import numpy as np
import pytest

import ebm_jax as ej

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


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


def test_every_name_it_mentions_is_public():
    mentioned = set(re.findall(r"\bej\.([a-z_]+(?:\.[a-z_]+)*)", TEXT, re.IGNORECASE))
    assert {"RBM", "fit", "sample", "data.load"} <= mentioned
    for dotted in mentioned:
        value = ej
        for name in dotted.split("."):
            value = getattr(value, name)


def test_what_it_links_to_is_there():
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in t]
    assert targets
    for target in targets:
        path = ROOT / target
        assert path.exists(), target
        if path.suffix == ".png":
            assert path.stat().st_size < 200_000, target
