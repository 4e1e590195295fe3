"""Runs a benchmark suite: every task with ebm_jax and its peers in turn, in one process.

    python benchmarks/run.py --suite gibbs|samplers|training|neural|objectives|all
        [--tasks potts4_28_tied …] [--rounds 7] [--device cpu|gpu] [--scale 0.02]

Methods take turns, round by round, so a busy machine slows all of them alike. A figure is the median of the rounds, and
a ratio the median of the rounds' ratios, except where a task says otherwise. Compile times are recorded separately.
Results go to benchmarks/results as JSON lines, with hardware and versions, and to the terminal as a table. On the CPU
everything runs on one core and one thread. On a GPU a round repeats its call for half a second and records the power
that nvidia-smi reports. No task starts after nine minutes. Several suites share that time equally.
"""

import importlib
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.common import ROUND_SECONDS, SUITES, environment, parse, settle


def main(argv: list[str] | None = None) -> None:
    began = time.monotonic()
    args = parse(argv)
    device = settle(args)
    chosen = SUITES if args.suite == "all" else (args.suite,)
    suites = {name: importlib.import_module(f"benchmarks.suites.{name}") for name in chosen}
    known = [task.name for suite in suites.values() for task in suite.TASKS[args.device]]
    unknown = sorted(set(args.tasks or ()) - set(known))
    if unknown:
        sys.exit(f"no task {unknown[0]}; there are {', '.join(known)}")
    about = environment(device)
    print(f"{about['device']}, jax {about['versions']['jax']}, load {about['load']}")
    if args.scale < 1:
        print(f"a dry run at scale {args.scale}: nothing is written, and promises mean nothing")
    for number, (name, suite) in enumerate(suites.items()):
        tasks = [
            t.scaled(args.scale) for t in suite.TASKS[args.device] if not args.tasks or t.name in args.tasks
        ]
        run_suite(name, suite, tasks, device, args, about, began + args.budget * (number + 1) / len(suites))


def run_suite(name, suite, tasks, device, args, about, deadline) -> None:
    """Runs the tasks that start before the deadline, prints each, and writes their rows unless they are scaled."""
    if tasks:
        print(suite.HEAD)
    for number, task in enumerate(tasks):
        if time.monotonic() > deadline:
            left = ", ".join(t.name for t in tasks[number:])
            print(f"the time for {name} has passed; left out: {left}", file=sys.stderr)
            return
        row = {"suite": name, **suite.run_task(task, device, args.rounds, about, ROUND_SECONDS[device])}
        if args.scale == 1:
            args.out.mkdir(parents=True, exist_ok=True)
            with (args.out / f"{name}_{device}.jsonl").open("a") as results:
                results.write(json.dumps(row) + "\n")
        suite.show(row)


if __name__ == "__main__":
    main()
