"""Runs a benchmark suite: every task with the package and its peers in turn, in one process.

    python benchmarks/run.py --suite gibbs [--tasks potts4_28_tied …] [--rounds 7] [--device cpu|gpu] [--scale 0.02]

Methods take turns, round by round, so that a busy machine slows all of them alike; a figure is the median round, a
ratio the median of the rounds' ratios. Compile time is kept apart. Results go to benchmarks/results as JSON lines,
with the hardware and the versions that gave them, and as a table to the terminal. On the CPU everything runs on one
core and one thread. On a GPU a round repeats its call for half a second, and the power that nvidia-smi tells meanwhile
is kept; tasks that would begin after nine minutes are left out.
"""

import argparse
import importlib
import json
import math
import os
import platform
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks.methods import Absent, median  # noqa: E402

PACKAGES = ("jax", "jaxlib", "thrml", "hamon", "torch", "numba", "numpy")
MODULES = {"thrml": "thrml_gibbs", "hamon": "hamon_gibbs", "numba": "numba_ising", "torch": "torch_{kind}"}
SMALLER_IS_BETTER = {"bytes_beyond_state"}
PUBLISHED_PER_NS = 900  # a hand-written CUDA multi-spin code on an H100
BUDGET = {"cpu": math.inf, "gpu": 540.0}
ROUND_SECONDS = {"cpu": 0.0, "gpu": 0.5}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", choices=["gibbs", "all"], default="gibbs")
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
    """One core and one thread, for JAX and for its peers; before either is imported."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def settle(args: argparse.Namespace) -> str:
    """Returns where the run takes place, "cpu" or "gpu"; exits where a GPU is asked for in vain."""
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


def prepared(task, device):
    """Returns the methods of a task, called once each, and why which peers do not take part (said on stderr too)."""
    import jax

    from benchmarks.methods import ours

    methods = {"ebm_jax": ours.prepare(task, device)}
    for form in task.forms:
        methods[form] = ours.prepare(task, device, form)
    for method in methods.values():
        jax.block_until_ready(method.call())
    absent = {}
    for peer in task.peers:
        kind = "rbm" if task.kind == "rbm" else "potts"
        try:
            module = importlib.import_module(f"benchmarks.methods.{MODULES[peer].format(kind=kind)}")
            method = module.prepare(task, device)
            jax.block_until_ready(method.call())
            methods[peer] = method
        except ImportError as error:
            absent[peer] = f"{error.name or error} is not installed"
        except Absent as error:
            absent[peer] = str(error)
        except RuntimeError as error:  # out of the GPU's memory, say: the others go on
            absent[peer] = f"it failed: {str(error).splitlines()[0]}"
        if peer in absent:
            print(f"{task.name}: without {peer}: {absent[peer]}", file=sys.stderr, flush=True)
    return methods, absent


class Power:
    """What nvidia-smi tells of the GPU's power draw, every tenth of a second, by the method that runs; or nothing."""

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
        """Watts while the method ran."""
        known = self.watts.get(method)
        return sum(known) / len(known) if known else None

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()


def measure(methods, rounds, round_seconds=0.0, power=None):
    """Returns seconds a call, a list a method. A round is as many calls as fill `round_seconds`, at least one."""
    import jax

    def seconds(method, repeats):
        start = time.perf_counter()
        for _ in range(repeats):
            jax.block_until_ready(method.call())
        return (time.perf_counter() - start) / repeats

    repeats = dict.fromkeys(methods, 1)
    if round_seconds:
        repeats = {name: math.ceil(round_seconds / seconds(m, 1)) for name, m in methods.items()}
    times = {name: [] for name in methods}
    for _ in range(rounds):
        for name, method in methods.items():
            if power is not None:
                power.method = name
            times[name].append(seconds(method, repeats[name]))
            if power is not None:
                power.method = None
    return times


def ratio(times, slow, fast):
    """How many times as fast `fast` is."""
    return median(s / f for s, f in zip(times[slow], times[fast], strict=True))


def row_of(task, methods, absent, times, power, about) -> dict:
    """Returns what is known of a task, as it is written to the results."""
    ours, main = methods["ebm_jax"], task.peers[0] if task.peers else None
    seconds = {name: median(t) for name, t in times.items()}
    per_ns = task.work / seconds["ebm_jax"] / 1e9
    watts = {name: power.mean(name) for name in methods}
    figures = {
        "ratio": ratio(times, main, "ebm_jax") if main in times else None,
        "vmap_against_batched": ratio(times, "batched10", "vmap10") if "vmap10" in times else None,
        "bytes_beyond_state": ours.beyond,
        "build_ratio": methods["thrml"].build / ours.build if "thrml" in methods else None,
        "rebuild_ratio": methods["thrml"].rebuild / ours.rebuild if "thrml" in methods else None,
        "updates_per_ns": per_ns,
    }
    return {
        "task": task.name,
        "path": ours.path,
        "n_chains": task.n_chains,
        "n_sweeps": task.n_sweeps,
        "n_sites": task.sites,
        "peer": main,
        "absent": absent,
        "million_updates_per_second": {m: round(task.work / s / 1e6, 2) for m, s in seconds.items()},
        "ratios": {peer: ratio(times, peer, "ebm_jax") for peer in task.peers if peer in times},
        "build_seconds": {m: round(method.build, 4) for m, method in methods.items()},
        "rebuild_seconds": {m: round(method.rebuild, 4) for m, method in methods.items()},
        "compile_seconds": {m: round(method.compiling, 2) for m, method in methods.items()},
        **figures,
        "fraction_of_published": per_ns / PUBLISHED_PER_NS if "updates_per_ns" in task.promises else None,
        "watts": watts,
        # A sample is one sweep of one chain.
        "joules_per_sample": {
            m: None if watts[m] is None else watts[m] * s * task.sites / task.work for m, s in seconds.items()
        },
        "promises": {
            name: {
                "promised": promised,
                "measured": figures[name],
                "kept": kept(name, figures[name], promised),
            }
            for name, promised in task.promises.items()
        },
        "rounds": len(times["ebm_jax"]),
        **about,
    }


def kept(name, measured, promised) -> bool | None:
    """Whether a promise is kept, or None where nothing was measured."""
    if measured is None:
        return None
    return measured <= promised if name in SMALLER_IS_BETTER else measured >= promised


def run_task(task, device, rounds, about, round_seconds=0.0) -> dict:
    """Prepares and measures a task, and returns its row."""
    methods, absent = prepared(task, device)
    power = Power(device)
    try:
        times = measure(methods, rounds, round_seconds, power)
    finally:
        power.stop()
    return row_of(task, methods, absent, times, power, about)


def environment(device):
    """What the figures were measured on."""
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


def main(argv: list[str] | None = None) -> None:
    began = time.monotonic()
    args = parse(argv)
    device = settle(args)
    from benchmarks.tasks import gibbs

    suites = {"gibbs": {"cpu": gibbs.CPU_TASKS, "gpu": gibbs.GPU_TASKS}}
    chosen = list(suites) if args.suite == "all" else [args.suite]
    plan = [(suite, task) for suite in chosen for task in suites[suite][args.device]]
    unknown = sorted(set(args.tasks or ()) - {task.name for _, task in plan})
    if unknown:
        sys.exit(f"no task {unknown[0]}; there are {', '.join(task.name for _, task in plan)}")
    plan = [(s, task.scaled(args.scale)) for s, task in plan if not args.tasks or task.name in args.tasks]
    about = environment(device)
    print(f"{about['device']}, jax {about['versions']['jax']}, load {about['load']}")
    if args.scale < 1:
        print(f"a dry run at scale {args.scale}: nothing is written, and promises mean nothing")
    print(HEAD)
    for number, (suite, task) in enumerate(plan):
        if time.monotonic() - began > args.budget:
            left = ", ".join(t.name for _, t in plan[number:])
            print(f"{args.budget:.0f} s have passed; left out: {left}", file=sys.stderr)
            break
        row = {"suite": suite, **run_task(task, device, args.rounds, about, ROUND_SECONDS[device])}
        if args.scale == 1:
            args.out.mkdir(parents=True, exist_ok=True)
            with (args.out / f"{suite}_{device}.jsonl").open("a") as results:
                results.write(json.dumps(row) + "\n")
        show(row)


class Column(NamedTuple):
    """A column of the table."""

    title: str
    width: int


COLUMNS = tuple(
    Column(*c)
    for c in (
        ("task", -20),
        ("path", -11),
        ("ebm_jax", 10),
        ("peer", 10),
        ("", -8),
        ("ratio", 8),
        ("promised", 10),
    )
)


def line(*cells) -> str:
    """Lays out a line of the table; negative widths are to the left."""
    padded = (
        str(c).ljust(-col.width) if col.width < 0 else str(c).rjust(col.width) + " " * (col.title == "peer")
        for c, col in zip(cells, COLUMNS, strict=True)
    )
    return "".join(padded).rstrip()


HEAD = line(*(c.title for c in COLUMNS)) + "   (M site updates/s)"


def show(row) -> None:
    """Prints a row of results: a line a peer, then the promises."""
    rates = row["million_updates_per_second"]
    first = (row["task"], row["path"], f"{rates['ebm_jax']:.1f}")
    for peer in [*row["ratios"], *row["absent"]] or [""]:
        promise = row["promises"].get("ratio") if peer == row["peer"] else None
        if peer in rates:
            figures = f"{rates[peer]:.1f}", peer, f"{row['ratios'][peer]:.2f}"
        else:
            figures = ("absent" if peer else ""), peer, ""
        print(line(*first, *figures, promise["promised"] if promise else ""))
        first = "", "", ""
    for name, promise in row["promises"].items():
        relation = "at most" if name in SMALLER_IS_BETTER else "at least"
        verdict = {True: "kept", False: "NOT KEPT", None: "not measured"}[promise["kept"]]
        measured = "" if promise["measured"] is None else f"{promise['measured']:.2f}, "
        print(f"    {name.replace('_', ' ')}: {measured}promised {relation} {promise['promised']}: {verdict}")
    if row["fraction_of_published"] is not None:
        print(
            f"    {row['fraction_of_published']:.3f} of {PUBLISHED_PER_NS} updates per ns, a published CUDA code"
        )
    joules = row["joules_per_sample"]["ebm_jax"]
    if joules is not None:
        print(f"    {row['watts']['ebm_jax']:.0f} W, {joules:.3g} J a sweep of a chain")
    builds, again = row["build_seconds"], row["rebuild_seconds"]
    told = ", ".join(f"{m} {builds[m]:.4g} ({again[m]:.4g})" for m in ("ebm_jax", *row["ratios"]))
    print(f"    build (again) {told} s; compile {row['compile_seconds']['ebm_jax']} s", flush=True)


if __name__ == "__main__":
    main()
