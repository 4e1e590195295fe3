"""The page of one run: report.md with its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ebm_jax import plots
from ebm_jax.experiment import files
from ebm_jax.experiment.files import printable
from ebm_jax.experiment.recipes.base import Recipe, StoredRun, find
from ebm_jax.experiment.recipes.comparison import SeedGroup, number, spread
from ebm_jax.experiment.report.common import read_run, save_figures, training_figure
from ebm_jax.experiment.run.folder import read_environment

_TRAINING = "plots/training.png"


def write_run(path: Path, result: Mapping[str, Any]) -> None:
    """Writes the report of a run: figures below plots/ and samples/, and report.md.

    Args:
      path: Folder of the run, with config.yaml, environment.json, metrics.jsonl and samples/final.npz.
      result: What result.json holds: `step`, `best` and the final `metrics`.
    """
    run = read_run(path, result["metrics"])
    recipe = find(run.config.recipe)
    figures = {_TRAINING: training_figure({"": SeedGroup((run,))})} | recipe.run_figures(run)
    save_figures(figures, path)
    frames = run.draws["frames"]
    durations = [600] * (len(frames) - 1) + [3000]
    with files.written(path, "samples/chains.gif") as file:
        plots.animate(frames[:, :20], file, 10, milliseconds=durations)
    text = "\n".join(_page(run, recipe, result, list(figures)))
    files.write(path, "report.md", printable(text, newlines=True).encode())


def _page(run: StoredRun, recipe: Recipe, result: Mapping[str, Any], figures: Sequence[str]) -> list[str]:
    """Returns the lines of report.md."""
    config = run.config
    lines = [f"# {config.name}", "", f"{result['step']} updates, {config.training.n_epochs} epochs.", ""]
    lines += _table(run, recipe)
    for sentence in [*recipe.remarks(run), *_events(run, recipe, result)]:
        lines += [sentence, ""]
    # Figures come in the order of their captions; figures without a caption follow.
    captions = {name: text for name, text in recipe.captions.items() if name in figures}
    for name in captions | dict.fromkeys(figures):
        lines += [f"![{name}]({name})", ""]
        lines += [captions[name], ""] if name in captions else []
    return lines + _origin(run.path)


def _table(run: StoredRun, recipe: Recipe) -> list[str]:
    rows = [
        f"| {metric.heading} | {spread([number(run.metrics[metric.name])]).text(metric.digits)} |"
        for metric in recipe.metrics
        if metric.digits is not None and metric.name in run.metrics
    ]
    return ["| figure | value |", "|---|---|", *rows, ""]


def _events(run: StoredRun, recipe: Recipe, result: Mapping[str, Any]) -> list[str]:
    """Says what happened on the way: an earlier best evaluation, rollbacks, skipped updates."""
    sentences = []
    best = result["best"]
    if best is not None and best["step"] != result["step"]:
        (digits,) = (metric.digits for metric in recipe.metrics if metric.name == best["metric"])
        value = spread([best["value"]]).text(digits)
        sentences.append(
            f"The best evaluation was at step {best['step']}: {best['metric']} {value}. Its checkpoint is kept; what "
            "is reported here is the last step."
        )
    sentences += [
        f"At step {row['sick_step']} {row['reason']}: the run went back to step {row['step']} with learning rates "
        f"times {row['rate_factor']:g}."
        for row in run.rows
        if row["kind"] == "rollback"
    ]
    skipped = sum(row.get("n_skipped", 0) for row in run.rows)
    if skipped:
        sentences.append(
            f"{skipped} updates were skipped, since they were not finite or past a limit of `health`."
        )
    return sentences


def _origin(path: Path) -> list[str]:
    """Says how the run was made: its command, configuration, versions and device."""
    environment = read_environment(path)
    facts = [
        f"Configuration `config.yaml`, SHA-256 {environment['config_hash'][:16]}…",
        ", ".join(f"{name} {version}" for name, version in environment["packages"].items()),
        environment["device_kind"],
    ]
    if environment.get("git_commit"):
        facts.append(f"commit {str(environment['git_commit'])[:12]}")
    command = printable(environment["command"])
    return ["## How it was made", "", f"    {command}", "", printable("; ".join(facts)) + ".", ""]
