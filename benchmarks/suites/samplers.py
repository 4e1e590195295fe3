"""Runs a task of the samplers suite, computes its figures, and prints its row.

Steps per second are those of the median round. Round trips and effective samples are counted over all rounds: a rate is
their number divided by the seconds of all calls.
"""

import functools
import importlib
import sys

import jax
import numpy as np

from benchmarks.common import Power, Table, admit, measure, promised, ratio, tell
from benchmarks.methods import median, ours_samplers
from benchmarks.tasks.samplers import CPU_TASKS, GPU_TASKS
from ebm_jax import diagnostics

TASKS = {"cpu": CPU_TASKS, "gpu": GPU_TASKS}
TABLE = Table(("task", -18), ("method", -22), ("figure", 12), ("", -12), ("first/it", 9), ("s a call", 10))
HEAD = TABLE.head


def run_task(task, device, rounds, about, round_seconds=0.0) -> dict:
    """Prepares and measures a task and returns its row. Without its data or methods nothing is measured."""
    methods, absent, times, seen = {}, {}, {}, {}
    for name in task.methods:
        admit(task.name, name, functools.partial(ours_samplers.prepare, task, device, name), methods, absent)
    for name, module in task.others.items():
        admit(task.name, name, functools.partial(_prepare, module, task, device), methods, absent)
    power = Power(device)
    try:
        times = measure(methods, rounds, round_seconds if task.kind in STEPS else 0.0, power, seen)
    finally:
        power.stop()
    seconds = {name: median(t) for name, t in times.items()}
    rates, figures, notes = _figures(task, seen, times) if methods else ({}, {}, {})
    known = dict.fromkeys(task.promises) | figures
    return {
        "task": task.name,
        "unit": task.unit,
        "n_chains": task.n_chains,
        "n_steps": task.n_steps,
        "methods": task.methods,
        "against": task.against,
        "absent": absent,
        "rates": rates,
        "figures": known,
        "notes": notes,
        "paths": {name: m.path for name, m in methods.items() if m.path},
        "seconds_a_call": seconds,
        "compile_seconds": {name: round(m.compiling, 2) for name, m in methods.items()},
        "watts": {name: power.mean(name) for name in methods},
        "promises": promised(task.promises, known),
        "rounds": rounds,
        **about,
    }


def _prepare(module, task, device):
    return importlib.import_module(f"benchmarks.methods.{module}").prepare(task, device)


def _figures(task, seen, times) -> tuple[dict, dict, dict]:
    """Returns the rates by method, the figures that promises refer to, and notes."""
    return _KINDS[task.kind](task, seen, times)


def _steps(task, seen, times):
    """Returns chain steps per second, and notes that are equal if all methods do the same work."""
    rates = {name: task.n_chains * task.n_steps / median(t) for name, t in times.items()}
    both = {"ebm_jax", task.against} <= times.keys()
    figures = {"ratio": ratio(times, task.against, "ebm_jax") if both else None}
    notes = {}
    for name, results in seen.items():
        position, acceptance = results[-1]
        notes[name] = {"mean_square": round(float(np.mean(np.asarray(position) ** 2)), 3)}
        if acceptance is not None:
            notes[name]["acceptance"] = round(float(acceptance), 3)
    return rates, figures, notes


def _trips(task, seen, times):
    """Returns round trips per second."""
    trips = {name: sum(map(int, results)) for name, results in seen.items()}
    rates = {name: n / _seconds(seen, times, name) for name, n in trips.items()}
    return rates, {"ratio": _over(rates, "ebm_jax", task.against)}, {"round_trips": trips}


def _ess(task, seen, times):
    """Returns effective samples per second, of the free energy or the median pixel, whichever has fewer."""
    sizes, rates = {}, {}
    for name, results in seen.items():
        draws = jax.tree.map(lambda *parts: np.concatenate(parts), *jax.device_get(results))
        found = jax.tree.map(lambda x: np.asarray(diagnostics.effective_sample_size(x, "mean")), draws)
        sizes[name] = {what: round(float(np.nanmedian(ess)), 1) for what, ess in found.items()}
        rates[name] = min(sizes[name].values()) / _seconds(seen, times, name)
    figures = {f"{name}_ratio": _over(rates, name, task.against) for name in rates if name != task.against}
    return rates, figures, {"ess": sizes}


def _times(task, seen, times):
    """Returns effective samples per second, and autocorrelation times of the energy in steps."""
    rates, _, notes = _ess(task, seen, times)
    steps = {name: task.n_chains * task.of(task.n_steps, name) * len(seen[name]) for name in seen}
    tau = {name: steps[name] / notes["ess"][name]["energy"] for name in seen}
    first = task.methods[0]
    figures = {
        "times_shorter": _over(tau, task.against, first),
        "ratio": _over(rates, first, task.against),
    }
    return rates, figures, {**notes, "steps_of_autocorrelation": {n: round(t, 1) for n, t in tau.items()}}


def _errors(task, seen, times):
    """Returns estimates per second and the largest error of all calls, which the promise bounds."""
    errors = [float(e) for e in seen["ebm_jax"]]
    notes = {"errors": [round(e, 4) for e in errors], "median_error": median(errors)}
    return {"ebm_jax": 1 / median(times["ebm_jax"])}, {"error_nats": max(errors)}, notes


STEPS = ("langevin", "gaussian")
_KINDS = {
    "langevin": _steps,
    "gaussian": _steps,
    "informed": _ess,
    "tempering": _trips,
    "ais": _errors,
    "cluster": _times,
}


def _seconds(seen, times, name):
    """Returns the seconds of all calls of a method."""
    return len(seen[name]) * sum(times[name]) / len(times[name])


def _over(values, above, below):
    return values[above] / values[below] if above in values and values.get(below) else None


def show(row) -> None:
    """Prints a row of results: one line per method, then the promises."""
    first = row["methods"][0]
    name = row["task"]
    for method in [*row["rates"], *row["absent"]]:
        if method in row["rates"]:
            rate = row["rates"][method] / (1e6 if row["unit"].startswith("M ") else 1)
            over = None if method == first else _over(row["rates"], first, method)
            beside = "" if over is None else f"{over:.2f}"
            cells = f"{rate:.4g}", row["unit"], beside, f"{row['seconds_a_call'][method]:.3g}"
        else:
            cells = "absent", "", "", ""
        print(TABLE.line(name, method, *cells))
        name = ""
    for what, values in row["notes"].items():
        shown = values if isinstance(values, dict) else {"": values}
        print(f"    {what.replace('_', ' ')}: " + ", ".join(f"{k} {v}".strip() for k, v in shown.items()))
    for method, why in row["absent"].items():
        print(f"    {method}: {why}")
    tell(row["promises"])
    sys.stdout.flush()
