"""What all suites share: the command line, the device, power, timing in turns, and the report of promises."""

import argparse
import math
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.methods import Absent, median

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "jax",
    "jaxlib",
    "thrml",
    "hamon",
    "torch",
    "numba",
    "numpy",
    "blackjax",
    "torchebm",
    "rbms",
    "ebmkit",
    "scikit-learn",
)
SUITES = ("gibbs", "samplers", "training", "neural", "objectives")
SMALLER_IS_BETTER = {"bytes_beyond_state", "error_nats"}
BUDGET = {"cpu": math.inf, "gpu": 540.0}
ROUND_SECONDS = {"cpu": 0.0, "gpu": 0.5}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Runs a benchmark suite.")
    parser.add_argument("--suite", choices=[*SUITES, "all"], default="gibbs")
    parser.add_argument("--tasks", nargs="*", help="names of tasks (default: all)")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds (default 7)")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="the part of every task's chains (of a single chain: of its sites) to run, over 0 to 1. Below 1 it is a "
        "dry run, which writes no results and runs the GPU's tasks on the CPU where there is no GPU",
    )
    parser.add_argument(
        "--budget", type=float, help="seconds after which no task begins (default: 540 on a GPU)"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    args = parser.parse_args(argv)
    if not 0 < args.scale <= 1:
        parser.error(f"--scale is {args.scale}; give a part, over 0 to 1")
    if args.rounds < 1:
        parser.error(f"--rounds is {args.rounds}; give at least 1")
    if args.budget is None:
        args.budget = BUDGET[args.device]
    return args


def pin_to_one_core() -> None:
    """Restricts JAX and its peers to one core and one thread. Call it before either is imported."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def settle(args: argparse.Namespace) -> str:
    """Returns the device of the run, "cpu" or "gpu", and exits if a GPU is requested and missing."""
    if args.device == "cpu":
        pin_to_one_core()
        return "cpu"
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch shares the GPU
    import jax

    try:
        found = jax.default_backend()
    except RuntimeError as error:
        found = f"none ({error})"
    if found == "gpu":
        return "gpu"
    if args.scale == 1:
        sys.exit(
            f"--device gpu: JAX finds no GPU here (its backend is {found}). Install jax[cuda12] or jax[cuda13] on a "
            "machine with one, or add --scale 0.02 for a dry run on the CPU, which writes nothing."
        )
    print("JAX finds no GPU: a dry run of the GPU's tasks on the CPU", file=sys.stderr)
    pin_to_one_core()
    return "cpu"


class Power:
    """Reads the GPU's power draw from nvidia-smi every tenth of a second and files it under the running method.

    Without nvidia-smi, or on the CPU, it records nothing.
    """

    def __init__(self, device: str) -> None:
        self.method: str | None = None
        self.watts: dict[str, list[float]] = {}
        self.process = self._start() if device == "gpu" else None
        if self.process is not None:
            threading.Thread(target=self._read, daemon=True).start()

    def _start(self):
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
        command = [
            "nvidia-smi",
            "-i",
            gpu,
            "--query-gpu=power.draw",
            "--format=csv,noheader,nounits",
            "-lms",
            "100",
        ]
        try:
            return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except OSError:
            return None

    def _read(self) -> None:
        for line in self.process.stdout:
            method = self.method
            try:
                watts = float(line)
            except ValueError:
                continue
            if method is not None:
                self.watts.setdefault(method, []).append(watts)

    def mean(self, method: str) -> float | None:
        """Returns the mean power in watts while the method ran, or None if nothing was recorded."""
        known = self.watts.get(method)
        return sum(known) / len(known) if known else None

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()


def admit(label: str, name: str, prepare: Callable[[], Any], methods: dict, absent: dict) -> None:
    """Prepares a method and calls it once. If that fails, records the reason and prints it on stderr.

    Args:
      label: Name of the task, for the message.
      name: Name of the method.
      prepare: Function that returns the prepared method.
      methods: Dict to which a method that works is added.
      absent: Dict to which the reason is added otherwise.
    """
    import jax

    try:
        method = prepare()
        jax.block_until_ready(method.call())
        methods[name] = method
    except ImportError as error:
        absent[name] = f"{error.name or error} is not installed"
    except Absent as error:
        absent[name] = str(error)
    # For example the GPU is out of memory: the other methods go on.
    except RuntimeError as error:
        absent[name] = f"it failed: {str(error).splitlines()[0]}"
    if name in absent:
        print(f"{label}: without {name}: {absent[name]}", file=sys.stderr, flush=True)


def measure(methods, rounds, round_seconds=0.0, power=None, seen=None):
    """Times all methods in turn.

    Args:
      methods: Dict of prepared methods.
      rounds: Number of rounds. Every round runs every method.
      round_seconds: A round repeats a call until this time is filled, and calls at least once.
      power: A `Power`, or None.
      seen: Dict that collects the results of the calls by method, for suites that use them. None drops them.

    Returns:
      Dict of lists: the seconds per call of every round, by method.
    """
    import jax

    def seconds(name, repeats, results):
        start = time.perf_counter()
        for _ in range(repeats):
            results.append(jax.block_until_ready(methods[name].call()))
            if seen is None:
                results.clear()
        return (time.perf_counter() - start) / repeats

    repeats = dict.fromkeys(methods, 1)
    if round_seconds:
        repeats = {name: math.ceil(round_seconds / seconds(name, 1, [])) for name in methods}
    times = {name: [] for name in methods}
    for _ in range(rounds):
        for name in methods:
            if power is not None:
                power.method = name
            results = [] if seen is None else seen.setdefault(name, [])
            times[name].append(seconds(name, repeats[name], results))
            if power is not None:
                power.method = None
    return times


def ratio(times, slow, fast):
    """Returns how many times as fast `fast` is as `slow`: the median of the rounds' ratios."""
    return median(s / f for s, f in zip(times[slow], times[fast], strict=True))


def kept(name, measured, promised) -> bool | None:
    """Returns whether a promise is kept, or None if nothing was measured."""
    if measured is None:
        return None
    return measured <= promised if name in SMALLER_IS_BETTER else measured >= promised


def promised(promises, figures) -> dict[str, dict]:
    """Returns the promised and the measured value of every promise, and whether it is kept, by name."""
    return {
        name: {"promised": p, "measured": figures[name], "kept": kept(name, figures[name], p)}
        for name, p in promises.items()
    }


def tell(promises) -> None:
    """Prints which promises are kept."""
    for name, promise in promises.items():
        relation = "at most" if name in SMALLER_IS_BETTER else "at least"
        verdict = {True: "kept", False: "NOT KEPT", None: "not measured"}[promise["kept"]]
        measured = "" if promise["measured"] is None else f"{promise['measured']:.2f}, "
        print(f"    {name.replace('_', ' ')}: {measured}promised {relation} {promise['promised']}: {verdict}")


def environment(device):
    """Returns the hardware, versions and commit with which the figures were measured."""
    import jax

    import ebm_jax

    versions = {"ebm-jax": ebm_jax.__version__}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip()
    except OSError:
        commit = None
    return {
        "device": jax.devices()[0].device_kind if device == "gpu" else f"one core of {model}",
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": versions,
        "commit": commit or None,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


class Column(NamedTuple):
    """A column of the table."""

    title: str
    width: int


class Table:
    """A text table. Columns with a negative width are aligned to the left."""

    def __init__(self, *columns: tuple[str, int]) -> None:
        self.columns = tuple(Column(*c) for c in columns)

    @property
    def head(self) -> str:
        """The line of titles."""
        return self.line(*(c.title for c in self.columns))

    def line(self, *cells) -> str:
        """Returns the cells as one aligned line."""
        padded = (
            str(c).ljust(-col.width) if col.width < 0 else str(c).rjust(col.width) + " "
            for c, col in zip(cells, self.columns, strict=True)
        )
        return "".join(padded).rstrip()
