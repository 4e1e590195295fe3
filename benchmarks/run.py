"""Runs a benchmark suite: every task with the package and its peer in turn, in one process on one core.

    python benchmarks/run.py --suite gibbs [--tasks potts4_28_tied …] [--rounds 7] [--device cpu|gpu]

Methods take turns, round by round, so that a busy machine slows all of them alike; a figure is the median round, a
ratio the median of the rounds' ratios. Compile time is kept apart. Results go to benchmarks/results as JSON lines,
with the hardware and the versions that gave them, and as a table to the terminal.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", choices=["gibbs"], default="gibbs")
    parser.add_argument("--tasks", nargs="*", help="names of tasks (default: all)")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds (default 7)")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args()


def pin_to_one_core() -> None:
    """One core and one thread, for JAX and for its peers; before either is imported."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def prepared(task, device):
    """Returns the methods of a task, ready to call; a peer that is not installed is left out, and said so."""
    from benchmarks.methods import ours

    methods = {"ebm_jax": ours.prepare(task)}
    try:
        if task.peer == "thrml":
            from benchmarks.methods import thrml_gibbs

            methods["thrml"] = thrml_gibbs.prepare(task)
        else:
            from benchmarks.methods import torch_rbm

            if device == "cpu":
                methods["torch"] = torch_rbm.prepare(task)
    except ImportError as error:
        print(f"{task.name}: no peer, {error.name} is not installed", file=sys.stderr)
    if task.name == "potts4_28_tied":
        methods["vmap10"] = ours.prepare(task, "vmap10")
        methods["batched10"] = ours.prepare(task, "batched10")
    return methods


def measure(methods, rounds):
    """Returns seconds a call, a list a method, after one call each that does not count."""
    import jax

    for method in methods.values():
        jax.block_until_ready(method[2]())
    times = {name: [] for name in methods}
    for _ in range(rounds):
        for name, method in methods.items():
            start = time.perf_counter()
            jax.block_until_ready(method[2]())
            times[name].append(time.perf_counter() - start)
    return times


def ratio(times, slow, fast):
    """How many times as fast `fast` is."""
    return statistics.median(s / f for s, f in zip(times[slow], times[fast], strict=True))


def environment(device):
    """What the figures were measured on."""
    import jax

    packages = ("ebm-jax", "jax", "jaxlib", "thrml", "torch", "numpy")
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    info = Path("/proc/cpuinfo")
    model = (
        next(
            (line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), ""
        )
        if info.exists()
        else ""
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "device": jax.devices()[0].device_kind
        if device == "gpu"
        else f"one core of {model or platform.processor()}",
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": versions,
        "commit": commit.stdout.strip() or None,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def main() -> None:
    args = parse()
    if args.device == "cpu":
        pin_to_one_core()
    from benchmarks.tasks.gibbs import TASKS

    known = {task.name: task for task in TASKS}
    unknown = sorted(set(args.tasks or ()) - set(known))
    if unknown:
        sys.exit(f"no task {unknown[0]}; the suite has {', '.join(known)}")
    args.out.mkdir(parents=True, exist_ok=True)
    target = args.out / f"{args.suite}_{args.device}.jsonl"
    about = environment(args.device)
    print(f"{about['device']}, jax {about['versions']['jax']}, load {about['load']}")
    print(
        f"{'task':<20}{'ebm_jax':>10}{'peer':>10}  {'':<6}{'ratio':>8}{'promised':>10}{'compile':>9}{'bytes':>7}"
    )
    with target.open("a") as results:
        for name in args.tasks or known:
            task = known[name]
            methods = prepared(task, args.device)
            times = measure(methods, args.rounds)
            rate = {m: task.work / statistics.median(t) / 1e6 for m, t in times.items()}
            row = {
                "task": name,
                "peer": task.peer,
                "million_updates_per_second": {m: round(r, 2) for m, r in rate.items()},
                "build_seconds": {m: round(method[0], 4) for m, method in methods.items()},
                "compile_seconds": {m: round(method[1], 2) for m, method in methods.items()},
                "bytes_beyond_state": methods["ebm_jax"][3],
                "ratio": ratio(times, task.peer, "ebm_jax") if task.peer in times else None,
                "promised": task.promised,
                "rounds": args.rounds,
                **about,
            }
            if "vmap10" in times:
                row["vmap_against_batched"] = ratio(times, "batched10", "vmap10")
            results.write(json.dumps(row) + "\n")
            show(row)


def show(row) -> None:
    """Prints a row of the table."""
    rates, peer = row["million_updates_per_second"], row["peer"]
    peer_rate = f"{rates[peer]:.1f}" if peer in rates else "absent"
    shown_ratio = f"{row['ratio']:.1f}" if row["ratio"] else ""
    print(
        f"{row['task']:<20}{rates['ebm_jax']:>10.1f}{peer_rate:>10}  {peer:<6}{shown_ratio:>8}{row['promised']:>10}"
        f"{row['compile_seconds']['ebm_jax']:>9}{row['bytes_beyond_state'] or 0:>7.1f}",
        flush=True,
    )
    if row["ratio"] and row["task"].endswith("10k"):
        ours, theirs = (row["build_seconds"][name] for name in ("ebm_jax", peer))
        print(f"{'':<20}build: {ours:.3f} s against {theirs:.2f} s, {theirs / ours:.0f}×")
    if "vmap_against_batched" in row:
        relative = row["vmap_against_batched"]
        print(f"{'':<20}vmap(kernel.steps), 10 steps a call, against the batched form: {relative:.2f}×")


if __name__ == "__main__":
    main()
