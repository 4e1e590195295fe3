"""The commands that work on runs, used well and badly: most in this process, and each once as a process of its own."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from ebm_jax.cli.main import app

# The shapes and numbers of steps are those of test_runs, so that both share what they compile.
TINY = {
    "seeds": [0, 1],
    "data": {"name": "digits", "n_train": 300, "n_test": 60},
    "model": {"n_hidden": 8},
    "negatives": {"method": "pcd", "n_chains": 16},
    "training": {"n_epochs": 4, "batch_size": 50, "steps_per_call": 3, "momentum": 0.5},
    "evaluation": {"chain_steps": 20, "n_chains": 8, "n_test": 20},
}
KEEP = ("--override", "checkpoints.keep=3")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The working folder, with configurations."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    (folder / "wrong.yaml").write_text(yaml.safe_dump(TINY | {"traning": {}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def cli(place):
    """Runs `ebm-jax` with arguments in this process: `(exit code, output, errors)`."""

    def run(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["ebm-jax", *arguments])
            done = CliRunner().invoke(app, arguments)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout, done.stderr

    return run


def command(*arguments):
    return [sys.executable, "-m", "ebm_jax.cli.main", *arguments]


def process(*arguments):
    """Runs `ebm-jax` as a process of its own: `(exit code, output, errors)`."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def trained(place, cli):
    """The run of the first seed, with the overrides that a sweep gives it, in the default folder."""
    code, _, errors = cli("train", "tiny.yaml", *KEEP, "-o", "name=tiny-s0", "-o", "seed=0")
    assert code == 0, errors
    assert "finished in" in errors and "Traceback" not in errors
    return place / "runs" / "tiny-s0"


def test_train_keeps_its_command_and_configuration(trained):
    assert (
        "ebm-jax train tiny.yaml --override checkpoints.keep=3" in (trained / "environment.json").read_text()
    )
    assert yaml.safe_load((trained / "config.yaml").read_text())["checkpoints"]["keep"] == 3


def test_resume_of_a_finished_run_does_nothing(trained):
    code, _, errors = process("resume", "runs/tiny-s0")
    assert code == 0 and "runs/tiny-s0 is finished" in errors


def test_sample(place, cli, trained):
    code, output, errors = process(
        "sample", "runs/tiny-s0", "--num-samples", "8", "--output", "x.png", "--frames", "x.gif", "--steps", "20"
    )  # fmt: skip
    assert code == 0 and output.split() == ["x.png", "x.gif"], errors
    assert (place / "x.png").read_bytes()[:4] == b"\x89PNG" and (place / "x.gif").read_bytes()[:3] == b"GIF"
    code, _, errors = cli("sample", "runs/tiny-s0", "--output", "x.png")
    assert code == 2 and "x.png is there already; give another name, or --overwrite" in errors
    code, _, errors = cli(
        "sample", "runs/tiny-s0", "--output", "x.npz", "--num-samples", "8", "--checkpoint", "best", "--steps", "20"
    )  # fmt: skip
    assert code == 0 and np.load(place / "x.npz")["samples"].shape == (8, 8, 8)


def test_evaluate(trained):
    code, output, errors = process("evaluate", "runs/tiny-s0", "--metrics", "likelihood, reconstruction")
    assert code == 0, errors
    names = [line.split()[0] for line in output.splitlines()[1:]]
    assert "log_likelihood_lower" in names and "reconstruction_error" in names and "r_hat" not in names
    assert len((trained / "evaluations.jsonl").read_text().splitlines()) == 1


def test_sweep_over_seeds_and_plot(place, cli, trained):
    """The sweep skips the seed that is done and trains the other as a process."""
    code, output, errors = cli("sweep", "tiny.yaml", *KEEP)
    assert code == 0, errors
    statuses = [line.split()[:2] for line in output.splitlines()[-2:]]
    assert statuses == [["tiny-s0", "skipped"], ["tiny-s1", "done"]]
    assert "Traceback" not in (place / "runs" / "logs" / "tiny-s1.log").read_text()
    assert yaml.safe_load((place / "runs" / "tiny-s1" / "config.yaml").read_text())["seed"] == 1
    code, output, errors = process("plot", "runs/tiny-s0", "runs/tiny-s1", "--out", "both")
    assert code == 0 and output.strip() == "both/report.md", errors
    page = (place / "both" / "report.md").read_text()
    assert "| tiny | " in page and " ± " in page and "over 2 seeds" in page and "one seed" not in page


def test_sigterm_ends_with_a_checkpoint_and_a_line(place):
    long = ("--out", "long", "-o", "seed=0", "-o", "training.n_epochs=100000")
    running = subprocess.Popen(command("train", "tiny.yaml", *long), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (place / "long" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "stopped by SIGTERM at step" in errors and "ebm-jax resume long" in errors
    assert "Traceback" not in errors
    assert list((place / "long" / "checkpoints").glob("*.json"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("train", 2, "Missing argument"),
        ("train wrong.yaml --out new", 2, "traning: {} was given; there is no such key: did you mean training?"),
        ("train tiny.yaml --out new", 2, "seeds: [0, 1] was given; `ebm-jax sweep` trains a run for each of them"),
        ("train none.yaml --out new", 2, "none.yaml"),
        ("train tiny.yaml --out runs/tiny-s0 -o seed=0", 2, "nothing in it is overwritten"),
        ("train tiny.yaml --out tiny.yaml -o seed=0", 2, "is a file"),
        ("train tiny.yaml --out new -o seed=0 -o training.batch_size=200 -o data.n_train=100", 2, "give at most"),
        ("train tiny.yaml --out /proc/new -o seed=0", 1, "ebm-jax: "),
        ("resume new", 2, "it is no run"),
        ("sample runs/tiny-s0", 2, "Missing option '--output'"),
        ("sample runs/tiny-s0 --output x.jpg", 2, "ends in .png or .npz"),
        ("sample runs/tiny-s0 --output y.png --checkpoint 7", 2, "has no checkpoint '7'; give last, best, or one of ["),
        ("evaluate runs/tiny-s0 --metrics likelyhood", 2, "--metrics has 'likelyhood'"),
        ("sweep tiny.yaml --out new --seeds 2", 2, "seeds: [0, 1] was given, and --seeds 2 as well"),
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
    code, _, errors = cli("train", "tiny.yaml", "--out", "closed/run", "-o", "seed=0")
    assert code == 1 and "Permission denied" in errors
