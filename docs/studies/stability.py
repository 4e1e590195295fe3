"""Counts diverging runs of docs/studies/stability.md, prints their table, and keeps the figures of every run.

python docs/studies/stability.py runs/off runs/on --out docs/results/stability
"""

import argparse
import math
import shutil
from pathlib import Path

from ebm_jax.experiment.run.folder import read_metrics, read_result, write_json

# The limits of the runs with the policy judge all runs, by means over the 20 updates of a call.
LIMITS = {"energy_gap": 5.0, "gradient_norm": 20.0}
GRACE_STEPS = 200
N_UPDATES = 50_000


def excess(row):
    """Whether a row of metrics.jsonl lies past a limit, or holds a value that is not finite."""
    values = {name: math.nan if row[name] is None else float(row[name]) for name in LIMITS}
    return any(not abs(value) <= LIMITS[name] for name, value in values.items()) or row["n_nonfinite"] > 0


def figures(folder):
    """Returns what became of one run."""
    rows = read_metrics(folder)
    calls = [row for row in rows if row["kind"] == "train"]
    rollbacks = [row for row in rows if row["kind"] == "rollback"]
    late = [row["step"] for row in calls if row["step"] > GRACE_STEPS and excess(row)]
    finished = read_result(folder) is not None and calls[-1]["step"] == N_UPDATES
    metrics = (read_result(folder) or {}).get("metrics", {})
    return {
        "run": folder.name,
        "updates": calls[-1]["step"],
        "diverged": bool(late) or not finished,
        "first_excess": late[0] if late else None,
        "calls_past_a_limit": len(late),
        "largest_energy_gap": max(abs(float(row["energy_gap"] or "nan")) for row in calls),
        "last_energy_gap": calls[-1]["energy_gap"],
        "last_gradient_norm": calls[-1]["gradient_norm"],
        "last_rate": calls[-1]["learning_rate"],
        "rollbacks": [[row["sick_step"], row["step"]] for row in rollbacks],
        "updates_discarded": sum(row["sick_step"] - row["step"] for row in rollbacks),
        "accuracy": metrics.get("accuracy"),
    }


def main():
    """Reads two sweeps, prints a table, and writes summary.json, and a configuration and environment of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweeps", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = {}
    print(
        "| policy | seed | updates | first past a limit | largest \\|gap\\| | last gap | last norm | rollbacks | rate |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for sweep in options.sweeps:
        runs = sorted(path.parent for path in sweep.glob("*/metrics.jsonl"))
        found[sweep.name] = [figures(run) for run in runs]
        for seed, run in enumerate(found[sweep.name]):
            print(
                f"| {sweep.name} | {seed} | {run['updates']:,} | {run['first_excess'] or '–'} "
                f"| {run['largest_energy_gap']:.2g} | {run['last_energy_gap'] or math.nan:.2g} "
                f"| {run['last_gradient_norm'] or math.nan:.2g} | {len(run['rollbacks'])} | {run['last_rate']:.2g} |"
            )
        for name in ("config.yaml", "environment.json"):
            (options.out / sweep.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(runs[0] / name, options.out / sweep.name / name)
        print(f"{sweep.name}: {sum(run['diverged'] for run in found[sweep.name])} of {len(runs)} diverged")
    write_json(options.out / "summary.json", {"limits": LIMITS, **found})


if __name__ == "__main__":
    main()
