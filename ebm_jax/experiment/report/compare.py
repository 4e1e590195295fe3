"""The comparison of finished runs: figures, a table, and the findings in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ebm_jax.experiment import files
from ebm_jax.experiment.files import printable
from ebm_jax.experiment.recipes.base import Metric, Recipe, StoredRun, find
from ebm_jax.experiment.recipes.comparison import SeedGroup, group_by_seed, varied_settings
from ebm_jax.experiment.report.common import read_run, save_figures, training_figure
from ebm_jax.experiment.run.folder import RunFolderError, check_run, read_environment, read_result

_TITLE = "# Comparison of runs"
_PAGE = "report.md"


def compare_runs(paths: Sequence[Path], out: Path) -> None:
    """Writes the comparison of finished runs: figures and report.md.

    Runs that differ in seed (and name) alone count as one: the table shows their mean and standard deviation, the
    curves have a band. Files of an earlier comparison in the folder are replaced, others are left alone.

    Args:
      paths: Folders of the runs.
      out: Folder to write to. It is made if need be.

    Raises:
      RunFolderError: If a run did not finish, if two runs have one name, if the runs are of several recipes, or if
        `out` holds a run or another report.
    """
    runs = _read_runs(paths)
    recipe = _recipe_of(runs)
    if (out / "config.yaml").exists() or not _may_replace(out):
        raise RunFolderError(f"{out} holds a run, or a report that is no comparison; give another --out")
    groups = group_by_seed(runs)
    figures = {"training.png": training_figure(groups)} | recipe.comparison_figures(runs)
    save_figures(figures, out)
    text = [_TITLE, "", *table(groups, recipe.metrics), "", *_note_on_seeds(groups)]
    for sentence in recipe.findings(runs):
        text += [sentence, ""]
    text += [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})\n" for name in figures]
    text += [
        "## Commands",
        "",
        *(f"- `{printable(read_environment(run.path)['command'])}`" for run in runs.values()),
        "",
    ]
    files.write(out, _PAGE, printable("\n".join(text), newlines=True).encode())


def table(groups: Mapping[str, SeedGroup], metrics: Sequence[Metric]) -> list[str]:
    """Returns a Markdown table with a row for each group of seeds.

    Args:
      groups: Runs, grouped by seed.
      metrics: The metrics of the recipe. Those that no run has are left out.

    Returns:
      Lines. The columns are the settings that differ between the groups, then the metrics.
    """
    varied = sorted(varied_settings(groups))
    shown = [
        metric
        for metric in metrics
        if metric.digits is not None
        and any(metric.name in run.metrics for group in groups.values() for run in group.runs)
    ]
    heads = ["run", *(f"`{key}`" for key in varied), *(metric.heading for metric in shown)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, group in groups.items():
        settings = group.settings()
        cells = [name, *(_cell(settings.get(key, "–")) for key in varied)]
        cells += [group.spread(metric.name).text(metric.digits) for metric in shown]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _may_replace(out: Path) -> bool:
    """Whether `out` has no page, or that of a comparison."""
    try:
        return files.read(out, _PAGE).startswith(_TITLE.encode())
    except FileNotFoundError:
        return True


def _read_runs(paths: Sequence[Path]) -> dict[str, StoredRun]:
    runs: dict[str, StoredRun] = {}
    for path in paths:
        check_run(path)
        result = read_result(path)
        if result is None:
            raise RunFolderError(
                f"{path} did not finish; go on with it by `ebm-jax resume {path}`, or leave it out"
            )
        run = read_run(path, result["metrics"])
        if run.config.name in runs:
            raise RunFolderError(f"two runs are named {run.config.name}; give runs of different names")
        runs[run.config.name] = run
    return runs


def _recipe_of(runs: Mapping[str, StoredRun]) -> Recipe:
    names = sorted({run.config.recipe for run in runs.values()})
    if len(names) > 1:
        raise RunFolderError(f"the runs are of the recipes {', '.join(names)}; compare runs of one recipe")
    return find(names[0])


def _note_on_seeds(groups: Mapping[str, SeedGroup]) -> list[str]:
    """Says what ± and the bands mean, if there are several seeds."""
    if all(len(group.runs) == 1 for group in groups.values()):
        return []
    seeds = {group.seeds for group in groups.values()}
    which = f"seeds {_cell(seeds.pop())}" if len(seeds) == 1 else "seeds of its row"
    return [
        f"A number with ± is the mean and the standard deviation over the {which}; bands in the curves reach one "
        "standard deviation to each side. Pictures are of the first seed.",
        "",
    ]


def _cell(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
