"""The commands that work on runs, each as a process of its own, used well and badly."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

TINY = {
    "data": {"name": "digits", "n_train": 300, "n_test": 60},
    "model": {"n_hidden": 8},
    "training": {"n_epochs": 2, "batch_size": 50, "steps_per_call": 3},
    "evaluation": {"chain_steps": 20, "n_chains": 9, "n_test": 20},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with configurations; processes that work there share what they compile."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    (folder / "wrong.yaml").write_text(yaml.safe_dump(TINY | {"traning": {}}))
    return folder


@pytest.fixture(scope="module")
def cli(place):
    """Runs `ebm-jax` with arguments: `(exit code, output, errors)`."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(place / "cache"),
        "JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def run(*arguments, start=False):
        command = [sys.executable, "-m", "ebm_jax.cli.main", *arguments]
        common = {"cwd": place, "env": environment, "text": True}
        if start:
            return subprocess.Popen(command, stderr=subprocess.PIPE, **common)
        done = subprocess.run(command, capture_output=True, timeout=300, **common)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture(scope="module")
def trained(place, cli):
    code, _, errors = cli("train", "tiny.yaml", "--override", "training.learning_rate=0.2")
    assert code == 0, errors
    assert "finished in" in errors and "Traceback" not in errors
    return place / "runs" / "tiny"


def test_train_writes_to_a_folder_of_its_name_with_the_command(trained):
    assert "training.learning_rate=0.2" in (trained / "environment.json").read_text()
    assert yaml.safe_load((trained / "config.yaml").read_text())["training"]["learning_rate"] == 0.2


def test_resume_of_a_finished_run_does_nothing(cli, trained):
    code, _, errors = cli("resume", "runs/tiny")
    assert code == 0 and "runs/tiny is finished" in errors


def test_sample(place, cli, trained):
    code, output, errors = cli(
        "sample", "runs/tiny", "--num-samples", "4", "--output", "x.png", "--frames", "x.gif", "--steps", "10"
    )
    assert code == 0 and output.split() == ["x.png", "x.gif"], errors
    assert (place / "x.png").read_bytes()[:4] == b"\x89PNG" and (place / "x.gif").read_bytes()[:3] == b"GIF"
    code, _, errors = cli("sample", "runs/tiny", "--output", "x.png")
    assert code == 2 and "x.png is there already; give another name, or --overwrite" in errors
    code, _, errors = cli(
        "sample", "runs/tiny", "--output", "x.npz", "--num-samples", "3", "--checkpoint", "best"
    )
    assert code == 0 and np.load(place / "x.npz")["samples"].shape == (3, 8, 8)


def test_evaluate(cli, trained):
    code, output, errors = cli("evaluate", "runs/tiny", "--metrics", "likelihood, reconstruction")
    assert code == 0, errors
    names = [line.split()[0] for line in output.splitlines()[1:]]
    assert "log_likelihood_lower" in names and "reconstruction_error" in names and "r_hat" not in names
    assert len((trained / "evaluations.jsonl").read_text().splitlines()) == 1


def test_sweep_and_plot(place, cli, trained):
    (place / "more.yaml").write_text(yaml.safe_dump(TINY | {"negatives": {"k": 3}}))
    code, output, errors = cli("sweep", "tiny.yaml", "more.yaml", "-o", "training.learning_rate=0.2")
    assert code == 0, errors
    assert [line.split()[:2] for line in output.splitlines()[-2:]] == [["tiny", "skipped"], ["more", "done"]]
    assert "Traceback" not in (place / "runs" / "logs" / "more.log").read_text()
    code, output, errors = cli("plot", "runs/tiny", "runs/more", "--out", "both")
    assert code == 0 and output.strip() == "both/report.md", errors
    assert "| more | 3 |" in (place / "both" / "report.md").read_text()


def test_sigterm_ends_with_a_checkpoint_and_a_line(place, cli):
    process = cli("train", "tiny.yaml", "--out", "long", "-o", "training.n_epochs=100000", start=True)
    deadline = time.monotonic() + 120
    while not (place / "long" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert (
        "stopped by SIGTERM at step" in errors
        and "ebm-jax resume long" in errors
        and "Traceback" not in errors
    )
    assert list((place / "long" / "checkpoints").glob("*.json"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("train", 2, "Missing argument"),
        ("train wrong.yaml --out new", 2, "traning: {} was given; there is no such key: did you mean training?"),
        ("train none.yaml --out new", 2, "none.yaml"),
        ("train tiny.yaml --out runs/tiny", 2, "nothing in it is overwritten"),
        ("train tiny.yaml --out tiny.yaml", 2, "is a file"),
        ("train tiny.yaml --out new -o training.batch_size=200 -o data.n_train=100", 2, "give at most"),
        ("train tiny.yaml --out /proc/new", 1, "ebm-jax: "),
        ("resume new", 2, "it is no run"),
        ("sample runs/tiny", 2, "Missing option '--output'"),
        ("sample runs/tiny --output x.jpg", 2, "ends in .png or .npz"),
        ("sample runs/tiny --output y.png --classes 3", 2, "knows no labels"),
        ("sample runs/tiny --output y.png --checkpoint 7", 1, "has no checkpoint '7'; give last, best, or one of [6,"),
        ("evaluate runs/tiny --metrics likelyhood", 2, "--metrics has 'likelyhood'"),
        ("plot new --out both", 2, "does not exist"),
    ],
)  # fmt: skip
def test_bad_uses_say_what_to_do(place, cli, trained, arguments, code, message):
    found, _, errors = cli(*arguments.split())
    assert found == code and message in errors and "Traceback" not in errors, errors
    assert not (place / "new").exists() and not (place / "y.png").exists()


def test_a_folder_that_may_not_be_written_ends_the_run(place, cli):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (place / "closed").mkdir(mode=0o500)
    code, _, errors = cli("train", "tiny.yaml", "--out", "closed/run")
    assert code == 1 and "Permission denied" in errors
