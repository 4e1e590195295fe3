"""Sweeps over a fake `train`: plans and seeds, what is run, resumed and skipped, failures, signals, the table."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ebm_jax.experiment.config import ConfigError, load_config
from ebm_jax.experiment.run import sweep
from ebm_jax.experiment.run.plan import Job, plan
from ebm_jax.experiment.run.sweep import Outcome, command_line, final_metrics, run_sweep, table


@pytest.fixture
def jobs(tmp_path):
    """Makes jobs of the names given; their configurations are never read."""

    def jobs(*names):
        return [Job(tmp_path / f"{name}.yaml", tmp_path / "runs" / name, ()) for name in names]

    return jobs


def write_result(folder, **metrics):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps({"metrics": metrics}))


def shell(script):
    """A command that runs a shell script; `$1` is the run's folder, `$2` train or resume."""
    return lambda job, resume: ["sh", "-c", script, "sh", str(job.folder), "resume" if resume else "train"]


SUCCEED = 'echo "$2"; mkdir -p "$1"; echo \'{"metrics": {"loss": 1.5}}\' > "$1/result.json"'


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# Planning


def test_a_plan_checks_every_file_and_names_folders(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: 1")
    (tmp_path / "b.yaml").write_text("name: other")
    first, second = plan([tmp_path / "a.yaml", tmp_path / "b.yaml"], tmp_path / "runs", ["seed=2"])
    assert (first.folder, second.folder) == (tmp_path / "runs" / "a", tmp_path / "runs" / "other")
    assert first.log == tmp_path / "runs" / "logs" / "a.log" and first.overrides == ("seed=2",)
    assert not (tmp_path / "runs").exists()


def test_a_plan_tells_the_problems_of_all_files(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: x\nhealth: 3")
    (tmp_path / "b.yaml").write_text("sed: 1")
    with pytest.raises(ConfigError) as caught:
        plan([tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "c.yaml"], tmp_path / "runs")
    files = [problem.split(": ")[0] for problem in caught.value.problems]
    assert files == [str(tmp_path / name) for name in ("a.yaml", "a.yaml", "b.yaml", "c.yaml")]


@pytest.mark.parametrize("other", ["name: a", "name: A"])
def test_two_runs_with_one_folder_are_refused(tmp_path, other):
    (tmp_path / "a.yaml").write_text("seed: 1")
    (tmp_path / "b.yaml").write_text(other)
    with pytest.raises(ConfigError, match=r"b\.yaml: its name is '[aA]', as that of .*a\.yaml"):
        plan([tmp_path / "a.yaml", tmp_path / "b.yaml"], tmp_path / "runs")


@pytest.mark.parametrize(
    ("text", "n_seeds", "seeds"), [("seeds: [2, 0]", None, [2, 0]), ("seed: 7", 3, [0, 1, 2])]
)
def test_each_seed_is_a_run(tmp_path, text, n_seeds, seeds):
    file = tmp_path / "a.yaml"
    file.write_text(text)
    jobs = plan([file], tmp_path / "runs", ["training.n_epochs=2"], n_seeds)
    assert [job.name for job in jobs] == [f"a-s{seed}" for seed in seeds]
    for job, seed in zip(jobs, seeds, strict=True):
        assert job.overrides == ("training.n_epochs=2", f"name=a-s{seed}", f"seed={seed}")
        config = load_config(job.config, job.overrides)
        assert (config.name, config.seed, config.training.n_epochs) == (job.name, seed, 2)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["a: b", "[x", "12", "#1"])
def test_a_name_that_yaml_would_misread_is_quoted(tmp_path, name):
    (tmp_path / "a.yaml").write_text(f"name: '{name}'\nseeds: [1]")
    (job,) = plan([tmp_path / "a.yaml"], tmp_path)
    assert job.name == load_config(job.config, job.overrides).name == f"{name}-s1"


@pytest.mark.parametrize(
    "value", ["[]", "[0, 0]", "[-1]", "[0, true]", "[a]", "[1.0]", "[4294967296]", "3", "null", "{a: 1}"]
)
def test_what_is_no_list_of_seeds(tmp_path, value):
    (tmp_path / "a.yaml").write_text(f"seeds: {value}")
    with pytest.raises(
        ConfigError, match=r"a\.yaml: seeds: .* was given; a list of different whole numbers from 0 to"
    ):
        plan([tmp_path / "a.yaml"], tmp_path)


@pytest.mark.parametrize(
    ("text", "overrides", "n_seeds", "said"),
    [
        ("seeds: [0, 1]", [], 2, r"seeds: \[0, 1\] was given, and --seeds 2 as well"),
        ("seeds: [0, 1]", ["seed=3"], None, "seed: an override was given, and several seeds as well"),
        ("", ["seed=3"], 2, "seed: an override was given, and several seeds as well"),
        ("seeds: [0, 1]\nseed: 3", [], None, "seed: 3 was given, and seeds as well"),
        ("seeds: [0, 1]\nsed: 3", [], None, "sed: 3 was given; there is no such key"),
    ],
)  # fmt: skip
def test_seeds_that_are_given_twice(tmp_path, text, overrides, n_seeds, said):
    (tmp_path / "a.yaml").write_text(text + "\ntraining: {n_epochs: 2}")
    with pytest.raises(ConfigError, match=said) as caught:
        plan([tmp_path / "a.yaml"], tmp_path, overrides, n_seeds)
    assert len(caught.value.problems) == 1


def test_a_run_of_a_seed_with_the_name_of_another_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("seeds: [0, 1]")
    (tmp_path / "b.yaml").write_text("name: a-s1")
    with pytest.raises(ConfigError, match=r"b\.yaml: its name is 'a-s1', as that of .*a\.yaml"):
        plan([tmp_path / "a.yaml", tmp_path / "b.yaml"], tmp_path)


def test_seeds_are_read_by_sweep_alone(tmp_path):
    (tmp_path / "a.yaml").write_text("seeds: [0, 1]")
    with pytest.raises(
        ConfigError, match=r"seeds: \[0, 1\] was given; `ebm-jax sweep` trains a run for each"
    ):
        load_config(tmp_path / "a.yaml")
    assert load_config(tmp_path / "a.yaml", ["seed=1"]).seed == 1


def test_the_command_line():
    job = Job(Path("a.yaml"), Path("runs/a"), ("seed=1", "training.n_epochs=2"))
    start = [sys.executable, "-m", "ebm_jax.cli.main"]
    overrides = ["-o", "seed=1", "-o", "training.n_epochs=2"]
    assert command_line(job, False) == [*start, "train", "a.yaml", "--out", "runs/a", *overrides]
    assert command_line(job, True) == [*start, "resume", "runs/a"]


# Running


def test_done_skipped_resumed_and_failed(jobs, capsys):
    new, complete, half, empty, broken = all_jobs = jobs("new", "complete", "half", "empty", "broken")
    write_result(complete.folder, loss=0.25)
    for job in (half, empty, broken):
        job.folder.mkdir(parents=True)
    (half.folder / "checkpoint").write_text("")
    half.log.parent.mkdir()
    half.log.write_text("before\n")
    (broken.folder / "result.json").write_text("{")
    script = f'case "$1" in */broken) echo no >&2; exit 3;; *) {SUCCEED};; esac'
    outcomes = run_sweep(all_jobs, command=shell(script))

    assert [outcome.job for outcome in outcomes] == all_jobs
    assert [outcome.status for outcome in outcomes] == [
        "done",
        "skipped",
        *["done"] * 2,
        "failed (exit code 3)",
    ]
    assert [outcome.failed for outcome in outcomes] == [False, False, False, False, True]
    assert [outcome.minutes is None for outcome in outcomes] == [False, True, False, False, False]
    assert final_metrics(complete.folder) == {"loss": 0.25} and not complete.log.exists()
    logs = {job.name: job.log.read_text() for job in (new, half, empty, broken)}
    assert logs == {"new": "train\n", "half": "before\nresume\n", "empty": "train\n", "broken": "no\n"}
    said = capsys.readouterr().out
    assert "complete: skipped" in said and "half: resumed" in said and f"see {broken.log}" in said


def test_a_run_that_leaves_no_result_has_failed(jobs):
    (outcome,) = run_sweep(jobs("a"), command=shell("exit 0"))
    assert outcome.failed and outcome.status == "failed (exit code 0, no result.json)"


def test_a_run_that_cannot_start_stops_no_other(jobs):
    first, second = jobs("a", "b")
    first.log.parent.mkdir(parents=True)
    first.log.mkdir()  # so that it cannot be written
    assert [outcome.failed for outcome in run_sweep([first, second], command=shell(SUCCEED))] == [True, False]


@pytest.mark.parametrize("n_parallel", [1, 2, 3])
def test_so_many_run_at_a_time(jobs, monkeypatch, n_parallel):
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0.005)
    seen = []

    def command(job, resume):
        seen.append(sum(not (other.folder / "result.json").exists() for other, _ in started))
        started.append((job, resume))
        return shell("sleep 0.15; " + SUCCEED)(job, resume)

    started = []
    outcomes = run_sweep(jobs("a", "b", "c", "d"), n_parallel, command)
    assert [outcome.status for outcome in outcomes] == ["done"] * 4
    # What was still running when each started.
    assert max(seen) == n_parallel - 1


FAKE = """
import pathlib, signal, sys, time
caught = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: caught.append(number))
pathlib.Path(sys.argv[1] + ".ready").touch()
while not caught:
    time.sleep(0.01)
time.sleep(0.3)  # a second signal, if one came, would be there by now
print(*[int(number) for number in caught], flush=True)
sys.exit(7)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_each_run_once_and_starts_no_more(jobs, number):
    first, second, third = all_jobs = jobs("a", "b", "c")
    before = signal.getsignal(number)

    def interrupt():
        wait_for(lambda: all(Path(f"{job.folder}.ready").exists() for job in (first, second)))
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    outcomes = run_sweep(
        all_jobs, 2, lambda job, resume: [sys.executable, "-I", "-S", "-c", FAKE, str(job.folder)]
    )
    thread.join()
    assert [outcome.status for outcome in outcomes] == ["stopped (exit code 7)"] * 2 + ["not started"]
    assert all(outcome.failed for outcome in outcomes)
    assert first.log.read_text() == second.log.read_text() == f"{int(number)}\n"
    assert not third.log.exists()
    assert signal.getsignal(number) is before


def test_a_signal_amid_the_starts_reaches_what_has_started(jobs):
    first, second = jobs("a", "b")

    def command(job, resume):
        os.kill(os.getpid(), signal.SIGTERM)
        return ["sleep", "60"]

    outcomes = run_sweep([first, second], 2, command)
    assert [outcome.status for outcome in outcomes] == [
        f"stopped (exit code {-signal.SIGTERM})",
        "not started",
    ]


def test_the_terminals_interrupt_reaches_each_run_once(tmp_path):
    """Ctrl-C signals the whole process group of the sweep, which the runs must not be part of."""
    code = f"""
import sys
from pathlib import Path
from ebm_jax.experiment.run.plan import Job
from ebm_jax.experiment.run.sweep import run_sweep
job = Job(Path("a.yaml"), Path({str(tmp_path / "a")!r}), ())
(outcome,) = run_sweep([job], 1, lambda job, resume: [sys.executable, "-I", "-S", "-c", {FAKE!r}, str(job.folder)])
print(outcome.status)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for((tmp_path / "a.ready").exists)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=30)[0].splitlines()[-1] == "stopped (exit code 7)"
    assert (tmp_path / "logs" / "a.log").read_text() == f"{int(signal.SIGINT)}\n"


def test_an_error_of_the_sweep_leaves_no_run_behind(jobs):
    started = []

    def command(job, resume):
        if started:
            raise RuntimeError("a bug")
        started.append(job)
        return ["sh", "-c", 'echo $$ > "$0.pid"; exec sleep 60', str(job.folder)]

    first, second = jobs("a", "b")
    with pytest.raises(RuntimeError, match="a bug"):
        run_sweep([first, second], 2, command)
    time.sleep(0.1)
    path = Path(f"{first.folder}.pid")
    if path.exists() and path.read_text().strip():  # else it ended before it wrote its number
        state = Path(f"/proc/{path.read_text().strip()}/stat")
        assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


# Reading results


@pytest.mark.parametrize("text", [None, "", "{", "[]", "3", "{}", '{"metrics": 3}'])
def test_what_is_no_result(tmp_path, text):
    if text is not None:
        (tmp_path / "result.json").write_text(text)
    assert final_metrics(tmp_path) is None


def test_the_table(jobs):
    first, second, third = jobs("a", "long_name", "c")
    write_result(first.folder, log_likelihood=-84.123456, n=12345)
    write_result(second.folder, log_likelihood=float("nan"), other=None)
    outcomes = [
        Outcome(first, "done", False, 2.26),
        Outcome(second, "skipped", False),
        Outcome(third, "failed (exit code 1)", True, 0.01),
    ]
    assert table(outcomes).splitlines() == [
        "name       status                minutes  log_likelihood      n  other",
        "a          done                      2.3         -84.123  12345      -",
        "long_name  skipped                                   nan      -      -",
        "c          failed (exit code 1)      0.0               -      -      -",
    ]
