"""The benchmark runner: what a row of results holds, peers and data that are missing, and a GPU that is."""

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
        "field_against_shared",
        "field_against_vmap",
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


pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def runner(monkeypatch):
    """The runner as a module; what it does to the search path is undone."""
    monkeypatch.setattr(sys, "path", [str(RUN.parent.parent), *sys.path])
    spec = importlib.util.spec_from_file_location("benchmark_runner", RUN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_row_has_its_keys_and_tells_a_missing_peer(runner, monkeypatch, capsys):
    from benchmarks.common import environment
    from benchmarks.suites import gibbs
    from benchmarks.tasks.gibbs import Task

    monkeypatch.setitem(gibbs.MODULES, "torch", "of_nobody")
    promises = {"ratio": 2, "bytes_beyond_state": 1e9, "vmap_against_batched": 0}
    forms = ("vmap10", "batched10")
    task = Task("mini", "rbm", 3, 10, ("torch",), promises, forms=forms, n_visible=12, n_hidden=8)
    row = gibbs.run_task(task, "cpu", 2, environment("cpu"))
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
    gibbs.show(row)
    table = capsys.readouterr().out
    assert "absent" in table and "ratio: promised at least 2: not measured" in table


def test_a_promise_is_judged_in_its_direction(runner, capsys):
    from benchmarks.common import kept, promised, tell

    assert kept("ratio", 3, 2) and not kept("ratio", 1, 2)
    assert kept("bytes_beyond_state", 1, 2) and not kept("bytes_beyond_state", 3, 2)
    assert kept("error_nats", 0.1, 0.3) and not kept("error_nats", 0.4, 0.3)
    assert kept("ratio", None, 2) is None
    tell(promised({"ratio": 20, "error_nats": 0.3}, {"ratio": 4.5, "error_nats": 0.1}))
    told = capsys.readouterr().out
    assert "ratio: 4.50, promised at least 20: NOT KEPT" in told
    assert "error nats: 0.10, promised at most 0.3: kept" in told


def test_samplers_run_without_peers_and_data(runner, monkeypatch, capsys, tmp_path):
    """Of a dry run nothing is written; a row whose data are missing says so."""
    from benchmarks.methods import Absent
    from benchmarks.suites import samplers as suite
    from benchmarks.tasks import samplers

    def no_data(*_):
        raise Absent("MNIST is not here")

    monkeypatch.setattr(samplers, "digits_rbm", no_data)
    tasks = [task.scaled(0.01) for task in suite.TASKS["cpu"]]
    assert all(task.name == full.name for task, full in zip(tasks, suite.TASKS["cpu"], strict=True))
    chosen = [t._replace(others=dict.fromkeys(t.others, "of_nobody")) for t in tasks]
    chosen = [t for t in chosen if t.name in ("ula_mixture", "informed_rbm")]
    monkeypatch.setattr(suite, "TASKS", {"cpu": chosen})
    monkeypatch.setattr(runner, "settle", lambda args: "cpu")
    runner.main(
        ["--suite", "samplers", "--scale", "0.01", "--rounds", "2", "--out", str(tmp_path / "results")]
    )
    out, err = capsys.readouterr()
    assert not (tmp_path / "results").exists()
    assert "torchebm: benchmarks.methods.of_nobody is not installed" in out
    assert "dmala: MNIST is not here" in out and "informed_rbm: without dmala" in err
    assert "dmala ratio: promised at least 20: not measured" in out
    assert out.count("not measured") == 3 and "M steps/s" in out


def test_rates_and_promises_come_from_what_the_calls_gave(runner):
    import numpy as np

    from benchmarks.suites import samplers as suite

    tasks = {task.name: task for task in suite.TASKS["cpu"]}
    counted = {"ebm_jax": [np.int32(60), np.int32(40)], "hamon": [np.int32(5), np.int32(5)]}
    times = {"ebm_jax": [1.0, 3.0], "hamon": [2.0, 3.0]}
    rates, figures, notes = suite._figures(tasks["tempering_ising"], counted, times)
    assert rates == {"ebm_jax": 25, "hamon": 2} and figures["ratio"] == 12.5
    assert notes["round_trips"] == {"ebm_jax": 100, "hamon": 10}
    rates, figures, _ = suite._figures(tasks["ais_rbm"], {"ebm_jax": [0.1, 0.4]}, {"ebm_jax": [2.0, 2.0]})
    assert rates == {"ebm_jax": 0.5} and figures["error_nats"] == 0.4  # the worst of them
    rng = np.random.default_rng(0)
    draws = {"swendsen_wang": rng.normal(size=(300, 32)), "gibbs": rng.normal(size=(500, 32))}
    seen = {name: [{"energy": x}] for name, x in draws.items()}
    one_second = {name: [1.0] for name in draws}
    _, figures, notes = suite._figures(tasks["cluster_ising"], seen, one_second)
    tau = notes["steps_of_autocorrelation"]
    assert abs(tau["swendsen_wang"] - 1) < 0.2 and abs(tau["gibbs"] - 20) < 4  # a look every 20 steps
    assert abs(figures["times_shorter"] - 20) < 5


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


def test_training_runs_without_peers(runner, monkeypatch, capsys, tmp_path):
    """All tasks of both devices, small; k and units are cut, promises are not."""
    from benchmarks.suites import training as suite

    tasks = [task.scaled(0.01) for task in suite.TASKS["cpu"]]
    assert [t.promises for t in tasks] == [t.promises for t in suite.TASKS["cpu"]]
    chosen = [t._replace(batch_size=5, peers=dict.fromkeys(t.peers, "of_nobody")) for t in tasks[:2]]
    monkeypatch.setattr(suite, "TASKS", {"cpu": chosen})
    monkeypatch.setattr(runner, "settle", lambda args: "cpu")
    runner.main(["--suite", "training", "--rounds", "2", "--out", str(tmp_path)])
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in (tmp_path / "training_cpu.jsonl").read_text().splitlines()]
    assert [row["task"] for row in rows] == ["rbm_pcd1", "rbm_pcd10"] and rows[0]["suite"] == "training"
    assert all(row["updates_per_second"]["ebm_jax"] > 0 and row["ratios"] == {} for row in rows)
    assert "ratio: promised at least 3: not measured" in out and "without rbms" in err


def test_networks_train_without_peers(runner, monkeypatch, tmp_path):
    """Each kind of network, with two updates of two Langevin steps."""
    from benchmarks.suites import neural as suite

    tasks = [task.scaled(0.001)._replace(batch_size=3) for task in suite.TASKS["cpu"]]
    assert {task.kind for task in tasks} == {"joint", "convolutional", "latent"}
    assert all(task.facts()["k"] == 2 for task in tasks)
    chosen = [
        t._replace(peers=dict.fromkeys(t.peers, "of_nobody"), capacity=min(t.capacity, 8)) for t in tasks
    ]
    monkeypatch.setattr(suite, "TASKS", {"cpu": chosen})
    monkeypatch.setattr(runner, "settle", lambda args: "cpu")
    runner.main(["--suite", "neural", "--rounds", "1", "--out", str(tmp_path)])
    rows = [json.loads(line) for line in (tmp_path / "neural_cpu.jsonl").read_text().splitlines()]
    assert [row["task"] for row in rows] == [task.name for task in tasks]
    assert all(row["updates_per_second"]["ebm_jax"] > 0 for row in rows)


def test_objectives_train_without_peers(runner, monkeypatch, tmp_path):
    """Each objective, with two updates."""
    from benchmarks.suites import objectives as suite

    tasks = [task.scaled(0.001)._replace(peers={"ebmkit": "of_nobody"}) for task in suite.TASKS["cpu"]]
    monkeypatch.setattr(suite, "TASKS", {"cpu": tasks})
    monkeypatch.setattr(runner, "settle", lambda args: "cpu")
    runner.main(["--suite", "objectives", "--rounds", "1", "--out", str(tmp_path)])
    rows = [json.loads(line) for line in (tmp_path / "objectives_cpu.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["denoising", "noise-contrastive", "discrepancy"]
    assert all(row["updates_per_second"]["ebm_jax"] > 0 for row in rows)


def test_scikit_learn_trains_beside(runner):
    from benchmarks.methods import Absent, sklearn_training
    from benchmarks.tasks.training import CPU_TASKS

    task = CPU_TASKS[-1].scaled(0.01)
    sklearn_training.prepare(task).call()
    with pytest.raises(Absent, match="one sweep"):
        sklearn_training.prepare(task._replace(k=2))
    with pytest.raises(Absent, match="on the CPU"):
        sklearn_training.prepare(task, "gpu")
