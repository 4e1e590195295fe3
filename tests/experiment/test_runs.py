"""A run: its folder, what it measures and saves, what it refuses, and how signals end it."""

import dataclasses
import json
import math
import os
import shutil
import signal
import sys
import types

import jax
import numpy as np
import pytest

import ebm_jax as ej
from ebm_jax import data
from ebm_jax.experiment import report
from ebm_jax.experiment.run import runner, trained
from ebm_jax.experiment.run.checkpoint import Checkpoints
from ebm_jax.experiment.run.folder import RunFolder, RunFolderError, read_metrics, read_result
from tests.experiment.runs import RBM, built, config, fingerprint, interrupted, last_state

pytestmark = pytest.mark.usefixtures("quick_runs")


def test_the_folder_holds_all_that_was_promised(undisturbed):
    expected = {
        "config.yaml", "environment.json", "metrics.jsonl", "log.txt", "checkpoints", "samples", "plots", "model.npz",
        "result.json", "report.md",
    }  # fmt: skip
    assert expected <= {path.name for path in undisturbed.iterdir()}
    rows = read_metrics(undisturbed)
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(3, 25, 3))
    assert [row["step"] for row in rows if row["kind"] == "evaluation"] == [12, 24]
    assert not any("time" in key and key != "autocorrelation_time" for row in rows for key in row)
    environment = json.loads((undisturbed / "environment.json").read_text())
    assert environment["command"] == "ebm-jax train tiny.yaml -o 'a b'"
    result = read_result(undisturbed)
    assert result["step"] == 24 and math.isfinite(result["metrics"]["log_likelihood_lower"])
    page = (undisturbed / "report.md").read_text()
    for line in page.splitlines():
        if line.startswith("!["):
            assert (undisturbed / line.split("](")[1].rstrip(")")).stat().st_size > 1000


def test_the_saved_model_is_the_trained_one(undisturbed):
    model, params = ej.load(undisturbed / "model.npz")
    assert model == RBM.model(config())
    jax.tree.map(np.testing.assert_array_equal, params, last_state(undisturbed)[1].params)


def test_shapes_of_the_state_are_known_without_data(monkeypatch):
    """For every kind of state: with chains or without, with moments, means and averages."""
    others = [
        {},
        {"negatives": {"method": "cd", "n_chains": None}},
        {"training": {"gradient": "centred", "ema_decay": 0.9, "weight_decay": 1e-4}},
        {"training": {"optimizer": "adam", "momentum": 0.0, "warmup_epochs": 1}},
    ]
    experiments = [RBM.build(config(**other)) for other in others]
    monkeypatch.setattr(data, "load", None)
    for other, experiment in zip(others, experiments, strict=True):
        found, wanted = RBM.struct(config(**other)), jax.eval_shape(experiment.init)
        assert jax.tree.leaves(found) == jax.tree.leaves(wanted)


def test_samples_are_drawn_without_data(tmp_path, monkeypatch, undisturbed):
    monkeypatch.setattr(data, "load", None)
    run = trained.open_run(undisturbed, "best")
    trained.draw(run, 8, None, 0, tmp_path / "x.npz", None)
    drawn = np.load(tmp_path / "x.npz")
    assert drawn["samples"].shape == (8, 8, 8) and drawn["steps"][-1] == 20


def test_training_learns(tmp_path, undisturbed):
    """The exact log-likelihood rises over that of independent pixels, where training starts."""
    long = config(
        training={"n_epochs": 150, "learning_rate": 0.5, "steps_per_call": 6},
        evaluation={"every_epochs": 0, "chain_steps": 20},
        checkpoints={"every_epochs": 50},
    )
    runner.train(long, tmp_path / "long", ["test"])
    first = read_metrics(undisturbed)
    first = next(row for row in first if row["kind"] == "evaluation")["log_likelihood_lower"]
    exact = read_result(tmp_path / "long")["metrics"]
    assert exact["log_likelihood_lower"] == exact["log_likelihood_upper"] > first + 1
    annealed = long.evaluation.model_copy(update={"exact": False})
    params = trained.open_run(tmp_path / "long").params
    estimates = built(long).evaluate(params, annealed, ("likelihood",))
    for side in ("forward", "reverse"):
        assert estimates[f"log_z_{side}"] == pytest.approx(exact["log_z_forward"], abs=0.3)


def test_what_is_measured_is_what_the_recipe_lists(tmp_path, undisturbed):
    """Every number has an entry, every entry a number, in one order; each group alone gives its own numbers."""
    groups = {metric.name: metric.group for metric in RBM.metrics}
    exact = built(config())
    params = trained.open_run(undisturbed).params
    annealed = config().evaluation.model_copy(update={"exact": False, "ais_betas": 2, "ais_chains": 4})
    every = exact.evaluate(params, annealed, RBM.groups)
    assert sorted(every) == sorted(groups)
    row = next(row for row in read_metrics(undisturbed) if row["kind"] == "evaluation")
    assert [name for name in row if name in groups] == [name for name in groups if name in row]
    for group in RBM.groups:
        alone = exact.evaluate(params, config().evaluation, (group,))
        assert alone and {groups[name] for name in alone} == {group}
        if group != "mixing":  # whose number of chains is that of AIS when both are asked for
            assert all(row[name] is not None for name in alone)
    (lacking,) = (
        exact.evaluate(
            params, config().evaluation.model_copy(update={"exact": False, "ais_betas": 0}), [name]
        )
        for name in ["likelihood"]
    )
    assert lacking == {}


# What is refused


def test_a_folder_that_exists_is_never_written_to(tmp_path, undisturbed):
    before = (undisturbed / "metrics.jsonl").read_bytes()
    with pytest.raises(RunFolderError, match="ebm-jax resume"):
        runner.train(config(), undisturbed, ["test"])
    assert (undisturbed / "metrics.jsonl").read_bytes() == before
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(RunFolderError, match="is there already"):
        runner.train(config(), tmp_path, ["test"])


def test_comparisons_that_would_mislead_or_overwrite_are_refused(tmp_path, undisturbed):
    with pytest.raises(RunFolderError, match="holds a run"):
        report.compare_runs([undisturbed], undisturbed)
    with pytest.raises(RunFolderError, match="two runs are named tiny"):
        report.compare_runs([undisturbed, undisturbed], tmp_path / "out")
    (undisturbed / "result.json").rename(undisturbed / "hidden.json")
    try:
        with pytest.raises(RunFolderError, match="did not finish"):
            report.compare_runs([undisturbed], tmp_path / "out")
    finally:
        (undisturbed / "hidden.json").rename(undisturbed / "result.json")
    assert not (tmp_path / "out").exists()


def test_two_processes_do_not_write_one_folder(tmp_path):
    """The lock belongs to the open file, so a second one in this process stands for another process."""
    held = RunFolder.create(tmp_path / "run", config(), ["test"])
    with pytest.raises(RunFolderError, match=f"in use by process {os.getpid()}"):
        runner.resume(tmp_path / "run")
    held.close()
    RunFolder.open(tmp_path / "run").close()


def test_a_changed_configuration_is_refused_and_so_is_a_shortened_file(tmp_path):
    path = tmp_path / "run"
    interrupted(path, config(), 7)
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace("momentum: 0.5", "momentum: 0.6"))
    with pytest.raises(RunFolderError, match=r"config\.yaml was changed since the run began"):
        runner.resume(path)
    (path / "config.yaml").write_text(text)
    (path / "metrics.jsonl").write_text("")
    with pytest.raises(RunFolderError, match="was shortened"):
        runner.resume(path)


def test_a_changed_byte_of_the_metrics_is_refused(tmp_path, undisturbed):
    """A digit flipped, a byte that is no text: both are found by the digest that the checkpoint keeps."""
    path = tmp_path / "run"
    shutil.copytree(undisturbed, path)
    (path / "result.json").unlink()
    rows = (path / "metrics.jsonl").read_bytes()
    for byte in (b"\x00", b"\xff"):
        (path / "metrics.jsonl").write_bytes(rows[:100] + byte + rows[101:])
        with pytest.raises(RunFolderError, match=f"some of its first {len(rows)} bytes were changed"):
            runner.resume(path)
    # A checkpoint of a version that kept no digest; the model is written before the row is read.
    checkpoints = Checkpoints(path / "checkpoints")
    restored = checkpoints.load_latest(RBM.struct(config()))
    facts = {name: value for name, value in restored.facts.items() if name != "metrics_sha256"}
    checkpoints.save(24, restored.tree, facts)
    checkpoints.close()
    (path / "model.npz").unlink()
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl, line 1: not what a run writes"):
        runner.resume(path)
    assert (path / "model.npz").exists()
    (path / "metrics.jsonl").write_bytes(rows)
    runner.resume(path)
    assert fingerprint(path) == fingerprint(undisturbed)


def test_other_data_and_another_precision_are_refused(tmp_path, monkeypatch):
    """A run goes on under the conditions it began with. Where it recorded none, it goes on with a warning."""
    path = tmp_path / "run"
    interrupted(path, config(), 7)
    stored = json.loads((path / "environment.json").read_text())
    digest = built(config()).data_digest
    assert stored["x64"] is False and stored["data_sha256"] == digest and len(digest) == 64
    assert digest == RBM.build(config()).data_digest
    load = data.load

    def one_pixel_differs(name):
        found = load(name)
        images = found.train.images.copy()
        images[0, 0, 0] += 100
        return dataclasses.replace(found, train=found.train._replace(images=images))

    before = (path / "metrics.jsonl").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(data, "load", one_pixel_differs)
        patch.setenv("EBM_JAX_DATA_DIR", str(tmp_path))
        other = RBM.__class__.build(RBM, config())
        patch.setattr(RBM, "build", lambda _: other, raising=False)
        said = rf"began on data with SHA-256 {digest}, .* now has {other.data_digest} \(EBM_JAX_DATA_DIR is {tmp_path}"
        with pytest.raises(RunFolderError, match=said):
            runner.resume(path)
        with pytest.raises(RunFolderError, match=said):
            trained.judge(trained.open_run(path), path, ("reconstruction",))
    jax.config.update("jax_enable_x64", True)
    try:
        with pytest.raises(RunFolderError, match="jax_enable_x64=False, and JAX now has jax_enable_x64=True"):
            runner.resume(path)
    finally:
        jax.config.update("jax_enable_x64", False)
    assert (path / "metrics.jsonl").read_bytes() == before
    old = {name: value for name, value in stored.items() if name not in ("x64", "data_sha256")}
    (path / "environment.json").write_text(json.dumps(old))
    runner.resume(path)
    assert (
        read_result(path)["step"] == 24 and "recorded neither data nor x64" in (path / "log.txt").read_text()
    )


def test_how_a_run_is_evaluated_may_change(tmp_path):
    path = tmp_path / "run"
    interrupted(path, config(), 13)
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace("n_test: 20\n", "n_test: 10\n"))
    runner.resume(path)
    assert read_result(path)["step"] == 24


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_with_a_checkpoint(tmp_path, monkeypatch, undisturbed, number):
    path = tmp_path / "run"
    advance = runner.Run._advance

    def signalled(self, bar, writer):
        if self.step == 9:
            os.kill(os.getpid(), number)
        advance(self, bar, writer)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(runner.Run, "_advance", signalled)
        with pytest.raises(
            runner.RunFailed, match=f"stopped by {number.name} at step 12 of 24.*ebm-jax resume"
        ):
            runner.train(config(checkpoints={"every_epochs": 100}), path, ["test"])
    assert signal.getsignal(number) is before
    assert Checkpoints(path / "checkpoints").steps() == [12]
    runner.resume(path)
    assert fingerprint(path)[1:] == fingerprint(undisturbed)[1:]


def test_events_go_to_tensorboard_where_it_is_installed(tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, logdir, purge_step):
            written.append((logdir, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def close(self):
            written.append("closed")

    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=SummaryWriter))
    runner.train(config(), tmp_path / "run", ["test"])
    assert written[0] == (str(tmp_path / "run" / "tensorboard"), 1) and written[-1] == "closed"
    scalars = {(name, step): value for name, value, step in written[1:-1]}
    (first, *_) = read_metrics(tmp_path / "run")
    assert scalars["train/energy_gap", 3] == first["energy_gap"]
    assert ("evaluation/log_likelihood_lower", 12) in scalars and ("train/acceptance", 3) not in scalars
