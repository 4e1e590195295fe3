"""Runs a task of a suite that trains, and prints its row."""

import functools
import importlib

from benchmarks.common import Power, Table, admit, measure, promised, ratio, tell
from benchmarks.methods import median
from benchmarks.tasks.training import CPU_TASKS, GPU_TASKS

TASKS = {"cpu": CPU_TASKS, "gpu": GPU_TASKS}
TABLE = Table(("task", -20), ("method", -14), ("updates/s", 10), ("ratio", 8), ("promised", 10))
HEAD = TABLE.head


def run_task(task, device, rounds, about, round_seconds=0.0) -> dict:
    """Prepares and measures a task and returns its row."""
    methods, absent = {}, {}
    for name, module in {"ebm_jax": task.ours, **task.peers}.items():
        admit(task.name, name, functools.partial(_prepare, module, task, device), methods, absent)
    power = Power(device)
    try:
        times = measure(methods, rounds, round_seconds, power)
    finally:
        power.stop()
    ratios = {peer: ratio(times, peer, "ebm_jax") for peer in task.peers if {peer, "ebm_jax"} <= times.keys()}
    figures = {"ratio": ratios.get(next(iter(task.peers)))}
    return {
        "task": task.name,
        **task.facts(),
        "absent": absent,
        "updates_per_second": {name: task.n_batches / median(t) for name, t in times.items()},
        "ratios": ratios,
        "compile_seconds": {name: round(m.compiling, 2) for name, m in methods.items()},
        "watts": {name: power.mean(name) for name in methods},
        "promises": promised(task.promises, figures),
        "rounds": rounds,
        **about,
    }


def _prepare(module, task, device):
    return importlib.import_module(f"benchmarks.methods.{module}").prepare(task, device)


def show(row) -> None:
    """Prints a row of results: one line per method, then the promises."""
    name = row["task"]
    promise = row["promises"].get("ratio", {}).get("promised", "")
    for method in [*row["updates_per_second"], *row["absent"]]:
        rate = row["updates_per_second"].get(method)
        over = row["ratios"].get(method)
        cells = "absent" if rate is None else f"{rate:.1f}", "" if over is None else f"{over:.2f}"
        print(TABLE.line(name, method, *cells, "" if method == "ebm_jax" else promise))
        name = ""
    tell(row["promises"])
    print(end="", flush=True)
