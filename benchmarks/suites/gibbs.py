"""Runs a task of the block Gibbs suite, and prints its row."""

import functools
import importlib

import jax

from benchmarks.common import Power, Table, admit, measure, promised, ratio, tell
from benchmarks.methods import median, ours_gibbs
from benchmarks.tasks.gibbs import CPU_TASKS, GPU_TASKS

TASKS = {"cpu": CPU_TASKS, "gpu": GPU_TASKS}
MODULES = {"thrml": "thrml_gibbs", "hamon": "hamon_gibbs", "numba": "numba_ising", "torch": "torch_{kind}"}
# Updates per ns of a hand-written CUDA multi-spin code on an H100.
PUBLISHED_PER_NS = 900


def prepared(task, device):
    """Returns the prepared methods, each called once, and the reasons of the peers that do not take part."""
    methods = {"ebm_jax": ours_gibbs.prepare(task, device)}
    for form in task.forms:
        methods[form] = ours_gibbs.prepare(task, device, form)
    for method in methods.values():
        jax.block_until_ready(method.call())
    absent = {}
    kind = "rbm" if task.kind == "rbm" else "potts"
    modules = MODULES | ({"numba": "numba_dense"} if task.kind == "dense" else {})
    for peer in task.peers:
        admit(
            task.name,
            peer,
            functools.partial(_prepare, modules[peer].format(kind=kind), task, device),
            methods,
            absent,
        )
    return methods, absent


def _prepare(module, task, device):
    return importlib.import_module(f"benchmarks.methods.{module}").prepare(task, device)


def row_of(task, methods, absent, times, power, about) -> dict:
    """Returns the row of a task that is written to the results."""
    ours, main = methods["ebm_jax"], task.peers[0] if task.peers else None
    seconds = {name: median(t) for name, t in times.items()}
    per_ns = task.work / seconds["ebm_jax"] / 1e9
    watts = {name: power.mean(name) for name in methods}
    figures = {
        "ratio": ratio(times, main, "ebm_jax") if main in times else None,
        "vmap_against_batched": ratio(times, "batched10", "vmap10") if "vmap10" in times else None,
        "field_against_shared": ratio(times, "ebm_jax", "field") if "field" in times else None,
        "field_against_vmap": ratio(times, "vmapped_parameters", "field") if "field" in times else None,
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
        "promises": promised(task.promises, figures),
        "rounds": len(times["ebm_jax"]),
        **about,
    }


def run_task(task, device, rounds, about, round_seconds=0.0) -> dict:
    """Prepares and measures a task and returns its row."""
    methods, absent = prepared(task, device)
    power = Power(device)
    try:
        times = measure(methods, rounds, round_seconds, power)
    finally:
        power.stop()
    return row_of(task, methods, absent, times, power, about)


TABLE = Table(
    ("task", -20), ("path", -11), ("ebm_jax", 10), ("peer", 10), ("", -8), ("ratio", 8), ("promised", 10)
)
HEAD = TABLE.head + "   (M site updates/s)"


def show(row) -> None:
    """Prints a row of results: one line per peer, then the promises."""
    rates = row["million_updates_per_second"]
    first = (row["task"], row["path"], f"{rates['ebm_jax']:.1f}")
    for peer in [*row["ratios"], *row["absent"]] or [""]:
        promise = row["promises"].get("ratio") if peer == row["peer"] else None
        if peer in rates:
            figures = f"{rates[peer]:.1f}", peer, f"{row['ratios'][peer]:.2f}"
        else:
            figures = ("absent" if peer else ""), peer, ""
        print(TABLE.line(*first, *figures, promise["promised"] if promise else ""))
        first = "", "", ""
    tell(row["promises"])
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
