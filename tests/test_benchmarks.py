"""The benchmark runner: what a row of results holds, peers that are missing, and a GPU that is."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parent.parent / "benchmarks" / "run.py"
KEYS = {
    *(
        "task",
        "path",
        "n_chains",
        "n_sweeps",
        "n_sites",
        "peer",
        "absent",
        "million_updates_per_second",
        "ratios",
    ),
    *(
        "build_seconds",
        "rebuild_seconds",
        "compile_seconds",
        "ratio",
        "vmap_against_batched",
        "bytes_beyond_state",
        "build_ratio",
        "rebuild_ratio",
    ),
    *(
        "updates_per_ns",
        "fraction_of_published",
        "watts",
        "joules_per_sample",
        "promises",
        "rounds",
        "device",
    ),
    *("load", "python", "versions", "commit", "time"),
}


@pytest.fixture
def runner(monkeypatch):
    """The runner as a module; what it does to the search path is undone."""
    monkeypatch.setattr(sys, "path", [str(RUN.parent.parent), *sys.path])
    spec = importlib.util.spec_from_file_location("benchmark_runner", RUN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_row_has_its_keys_and_tells_a_missing_peer(runner, monkeypatch, capsys):
    from benchmarks.tasks.gibbs import Task

    monkeypatch.setitem(runner.MODULES, "torch", "of_nobody")
    promises = {"ratio": 2, "bytes_beyond_state": 1e9, "vmap_against_batched": 0}
    forms = ("vmap10", "batched10")
    task = Task("mini", "rbm", 3, 10, ("torch",), promises, forms=forms, n_visible=12, n_hidden=8)
    row = runner.run_task(task, "cpu", 2, runner.environment("cpu"))
    assert set(row) == KEYS
    assert row == json.loads(json.dumps(row))
    assert row["path"] == "bipartite" and row["n_sites"] == 20 and row["rounds"] == 2
    assert list(row["million_updates_per_second"]) == ["ebm_jax", *forms]
    assert all(rate > 0 for rate in row["million_updates_per_second"].values())
    assert row["ratio"] is None and row["ratios"] == {} and set(row["watts"].values()) == {None}
    assert row["promises"]["ratio"] == {"promised": 2, "measured": None, "kept": None}
    assert row["promises"]["bytes_beyond_state"]["kept"] and row["promises"]["vmap_against_batched"]["kept"]
    assert "of_nobody is not installed" in row["absent"]["torch"]
    assert "mini: without torch: " in capsys.readouterr().err
    runner.show(row)
    table = capsys.readouterr().out
    assert "absent" in table and "ratio: promised at least 2: not measured" in table


def test_a_promise_is_judged_in_its_direction(runner):
    assert runner.kept("ratio", 3, 2) and not runner.kept("ratio", 1, 2)
    assert runner.kept("bytes_beyond_state", 1, 2) and not runner.kept("bytes_beyond_state", 3, 2)
    assert runner.kept("ratio", None, 2) is None


def test_scaling_cuts_chains_or_a_single_chain_s_sites(runner):
    from benchmarks.tasks.gibbs import GPU_TASKS

    for task in GPU_TASKS:
        small = task.scaled(0.02)
        assert small.sites == task.sites if task.n_chains > 1 else small.sites < 0.03 * task.sites
        assert 0 < small.work < 0.03 * task.work
        assert task.scaled(1) == task


def test_asking_for_a_gpu_in_vain_says_what_to_do(tmp_path):
    run = subprocess.run(
        [sys.executable, str(RUN), "--device", "gpu", "--out", str(tmp_path / "results")],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        check=False,
    )
    assert run.returncode == 1
    assert "JAX finds no GPU" in run.stderr and "--scale 0.02" in run.stderr
    assert not (tmp_path / "results").exists()
