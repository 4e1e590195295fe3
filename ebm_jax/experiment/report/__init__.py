"""Reports of runs: figures and a page in words, from what the run folders hold.

Everything here can be made again from a folder's metrics.jsonl, samples/final.npz and config.yaml.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ebm_jax import plots
from ebm_jax.experiment.config import Config, load_config
from ebm_jax.experiment.run.folder import RunFolderError, check_run, read_metrics, read_result

DPI = 110
_ABLATED = {"negatives.method", "negatives.k"}  # what a figure and sentences about k may differ in
_LAGS = 200
_TITLE = "# Comparison of runs"
# Figures of merit as a report shows them: heading, digits, what a table says of it.
_COLUMNS = {
    "log_likelihood_lower": ("log-likelihood, from below", 1),
    "log_likelihood_upper": ("from above", 1),
    "log_likelihood_train": ("of training rows, from above", 1),
    "pseudo_log_likelihood": ("pseudo-log-likelihood", 1),
    "reconstruction_error": ("reconstruction error", 4),
    "free_energy_gap": ("free energy, test − training", 2),
    "autocorrelation_time": ("autocorrelation time (sweeps)", 1),
    "ess_per_step": ("ESS a sweep", 4),
    "r_hat": ("R-hat", 3),
}


def write_run(path: Path, result: Mapping[str, Any]) -> None:
    """Writes plots/, samples/*.png, samples/chains.gif and report.md of one run from what its folder holds."""
    config = load_config(path / "config.yaml")
    rows = read_metrics(path)
    draws = np.load(path / "samples" / "final.npz")
    (path / "plots").mkdir(exist_ok=True)
    figures = {
        "plots/training.png": training_figure({"": rows}),
        "plots/filters.png": plots.rbm_filters(
            draws["weights"].reshape(-1, draws["weights"].shape[-1]),
            draws["weights"].shape[:2],
            title="Weights",
        ),
        "plots/autocorrelation.png": autocorrelation_figure({"": draws["autocorrelation"]}),
        "samples/samples.png": plots.compare({"data": draws["data"], "samples": draws["frames"][-1]}),
        "samples/chains.png": plots.chain_strip(draws["frames"][:, :8], draws["steps"].tolist()),
    }
    likelihood = likelihood_figure({"": rows})
    if likelihood is not None:
        figures["plots/likelihood.png"] = likelihood
    for name, figure in figures.items():
        figure.savefig(path / name, dpi=DPI, metadata={"Software": None})
    stay = [600] * (len(draws["frames"]) - 1) + [3000]
    plots.animate(draws["frames"][:, :20], path / "samples" / "chains.gif", 10, milliseconds=stay)
    (path / "report.md").write_text(_page(path, config, rows, result, list(figures)), encoding="utf-8")


def compare_runs(paths: Sequence[Path], out: Path) -> None:
    """Writes figures that compare finished runs, and report.md with a table and the finding in words, to `out`.

    Raises RunFolderError where one did not finish, or two have one name.
    """
    runs = {}
    for path in paths:
        check_run(path)
        result = read_result(path)
        if result is None:
            raise RunFolderError(
                f"{path} did not finish; go on with it by `ebm-jax resume {path}`, or leave it out"
            )
        config = load_config(path / "config.yaml")
        if config.name in runs:
            raise RunFolderError(f"two runs are named {config.name}; give runs of different names")
        runs[config.name] = Run(path, config, result["metrics"], read_metrics(path))
    page = out / "report.md"
    if (out / "config.yaml").exists() or (page.exists() and not page.read_text("utf-8").startswith(_TITLE)):
        raise RunFolderError(f"{out} holds a run, or a report that is no comparison; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    draws = {name: np.load(run.path / "samples" / "final.npz") for name, run in runs.items()}
    figures = {
        "training.png": training_figure({name: run.rows for name, run in runs.items()}),
        "samples.png": plots.compare({name: of["frames"][-1][:49] for name, of in draws.items()}),
        "autocorrelation.png": autocorrelation_figure(
            {name: of["autocorrelation"] for name, of in draws.items()}
        ),
        "filters.png": plots.compare(
            {name: _filters(of["weights"]) for name, of in draws.items()}, cmap="RdBu_r"
        ),
    }
    over_time = likelihood_figure({name: run.rows for name, run in runs.items()})
    if over_time is not None:
        figures["likelihood.png"] = over_time
    by_k = steps_figure(runs)
    if by_k is not None:
        figures["likelihood_by_k.png"] = by_k
    for name, figure in figures.items():
        figure.savefig(out / name, dpi=DPI, metadata={"Software": None})
    text = [_TITLE, "", *table(runs), "", *findings(runs), ""]
    text += [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})\n" for name in figures]
    text += ["## Commands", "", *(f"- `{command_of(run.path)}`" for run in runs.values()), ""]
    page.write_text("\n".join(text), encoding="utf-8")


class Run:
    """A finished run as comparisons need it."""

    def __init__(
        self, path: Path, config: Config, metrics: Mapping[str, Any], rows: Sequence[dict[str, Any]]
    ):
        self.path = path
        self.config = config
        self.metrics = metrics
        self.rows = rows


def training_figure(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Any:
    """Returns energy gap, gradient norm and learning rate over epochs."""
    kinds = {
        "energy gap (negatives − data)": "energy_gap",
        "gradient norm": "gradient_norm",
        "learning rate": "learning_rate",
    }
    return plots.lines(
        {
            title: {name: _series(rows, "train", key) for name, rows in runs.items()}
            for title, key in kinds.items()
        },
        "epoch",
    )


def likelihood_figure(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Any:
    """Returns bounds of the log-likelihood, pseudo-log-likelihood and reconstruction error over epochs; None where
    nothing was evaluated more than once.
    """
    if all(sum(row["kind"] == "evaluation" for row in rows) < 2 for rows in runs.values()):
        return None
    panels: dict[str, dict[str, Any]] = {
        title: {name: _series(rows, "evaluation", key) for name, rows in runs.items()}
        for title, key in (
            ("pseudo-log-likelihood (nats)", "pseudo_log_likelihood"),
            ("reconstruction error", "reconstruction_error"),
        )
    }
    bounds = {
        name: (
            *_series(rows, "evaluation", "log_likelihood_lower"),
            _series(rows, "evaluation", "log_likelihood_upper")[1],
        )
        for name, rows in runs.items()
        if any("log_likelihood_lower" in row for row in rows)
    }
    if bounds:
        panels = {"log-likelihood of test data (nats), bounds": bounds} | panels
    return plots.lines(panels, "epoch", marker="o")


def autocorrelation_figure(curves: Mapping[str, np.ndarray]) -> Any:
    """Returns the autocorrelation of the free energy by lag."""
    series = {name: (np.arange(len(curve))[:_LAGS], curve[:_LAGS]) for name, curve in curves.items()}
    return plots.lines({"autocorrelation of the free energy": series}, "sweeps apart")


def steps_figure(runs: Mapping[str, Run]) -> Any:
    """Returns log-likelihood and ESS against k, a line for CD and one for PCD; None where no method has two values of
    k, or other settings differ as well.
    """
    methods = {
        method.upper(): sorted(
            (run for run in runs.values() if run.config.negatives.method == method),
            key=lambda run: run.config.negatives.k,
        )
        for method in ("cd", "pcd")
    }
    methods = {name: found for name, found in methods.items() if found}
    if max(len(found) for found in methods.values()) < 2 or len(_varied(runs) - _ABLATED):
        return None
    panels = {}
    for title, keys in (
        ("log-likelihood of test data (nats), bounds", ("log_likelihood_lower", "log_likelihood_upper")),
        ("pseudo-log-likelihood (nats)", ("pseudo_log_likelihood",)),
        ("ESS a sweep of its chains", ("ess_per_step",)),
    ):
        series = {
            name: (
                [run.config.negatives.k for run in found],
                *([_number(run.metrics.get(key)) for run in found] for key in keys),
            )
            for name, found in methods.items()
        }
        panels[title] = series
    return plots.lines(panels, "k, Gibbs steps an update", log_x=True, marker="o")


def table(runs: Mapping[str, Run]) -> list[str]:
    """Returns a Markdown table: what differs between the configurations, then the figures of merit."""
    varied = sorted(_varied(runs) - {"name"})
    shown = [key for key in _COLUMNS if any(key in run.metrics for run in runs.values())]
    heads = ["run", *(f"`{key}`" for key in varied), *(_COLUMNS[key][0] for key in shown)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, run in runs.items():
        flat = _flat(run.config.model_dump())
        cells = [name, *(str(flat.get(key, "–")) for key in varied)]
        cells += [_text(run.metrics.get(key), _COLUMNS[key][1]) for key in shown]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def findings(runs: Mapping[str, Run]) -> list[str]:
    """Returns what the numbers say, in sentences; differences smaller than the bounds' width are told as such."""
    judged = {name: run for name, run in runs.items() if run.metrics.get("log_likelihood_lower") is not None}
    if not judged:
        return ["No run has an estimate of its log-likelihood (evaluation.ais_betas is 0)."]
    data = sorted(key for key in _varied(runs) if key.startswith("data.") or key == "seed")
    if data:
        return [
            f"The runs differ in {', '.join(data)}, and so in what they are judged by: they are not ranked."
        ]
    sides = {name: _sides(run.metrics) for name, run in judged.items()}
    low, high = ({name: pair[i] for name, pair in sides.items()} for i in (0, 1))
    ranked = sorted(judged, key=lambda name: low[name], reverse=True)
    first, last = ranked[0], ranked[-1]
    out = [
        f"Best by the lower bound is **{first}**: its test log-likelihood is estimated between {low[first]:.1f} and "
        f"{high[first]:.1f} nats (one seed)."
    ]
    if len(ranked) > 1:
        rivals = [name for name in ranked[1:] if high[name] > low[first]]
        out[0] += (
            f" The bounds of {', '.join(rivals)} overlap with it, so the order among them is not decided."
            if rivals
            else " The bounds of every other run lie below it."
        )
        out[0] += f" Last is {last}, between {low[last]:.1f} and {high[last]:.1f}."
    if _varied(runs) - _ABLATED:
        return _spaced(out)
    for method in ("cd", "pcd"):
        found = sorted(
            (name for name in judged if judged[name].config.negatives.method == method),
            key=lambda name: judged[name].config.negatives.k,
        )
        if len(found) > 1:
            steps = ", ".join(f"{low[name]:.1f} at k = {judged[name].config.negatives.k}" for name in found)
            rises = all(low[a] <= low[b] for a, b in itertools.pairwise(found))
            out.append(
                f"{method.upper()}: the lower bound is {steps}; "
                f"it {'rises' if rises else 'does not always rise'} with k."
            )
    pairs = [
        (cd, pcd)
        for cd in judged
        for pcd in judged
        if judged[cd].config.negatives.method == "cd"
        and judged[pcd].config.negatives.method == "pcd"
        and judged[cd].config.negatives.k == judged[pcd].config.negatives.k
    ]
    for cd, pcd in sorted(pairs, key=lambda pair: judged[pair[0]].config.negatives.k):
        gain = low[pcd] - low[cd]
        sure = low[pcd] > high[cd] or low[cd] > high[pcd]
        out.append(
            f"With k = {judged[cd].config.negatives.k}, {pcd} is {abs(gain):.1f} nats "
            f"{'above' if gain > 0 else 'below'} {cd} by the lower bounds"
            f"{'' if sure else ', which is within the width of the bounds'}."
        )
    return _spaced(out)


def _spaced(sentences: Sequence[str]) -> list[str]:
    return [line for sentence in sentences for line in (sentence, "")][:-1]


def _sides(metrics: Mapping[str, Any]) -> tuple[float, float]:
    """Both estimates of the log-likelihood with the bootstrap errors of log Z; in order, since they may cross."""
    lower, upper = (float(metrics[f"log_likelihood_{side}"]) for side in ("lower", "upper"))
    if "log_z_reverse_high" in metrics:
        lower -= max(float(metrics["log_z_reverse_high"]) - float(metrics["log_z_reverse"]), 0.0)
        upper += max(float(metrics["log_z_forward"]) - float(metrics["log_z_forward_low"]), 0.0)
    return min(lower, upper), max(lower, upper)


def command_of(path: Path) -> str:
    """Returns the command that started the run."""
    return json.loads((path / "environment.json").read_text(encoding="utf-8"))["command"]


def _page(
    path: Path,
    config: Config,
    rows: Sequence[Mapping[str, Any]],
    result: Mapping[str, Any],
    figures: Sequence[str],
) -> str:
    environment = json.loads((path / "environment.json").read_text(encoding="utf-8"))
    metrics = result["metrics"]
    lines = [f"# {config.name}", "", f"{result['step']} updates, {config.training.n_epochs} epochs.", ""]
    lines += ["| figure | value |", "|---|---|"]
    lines += [
        f"| {_COLUMNS[key][0]} | {_text(metrics[key], _COLUMNS[key][1])} |"
        for key in _COLUMNS
        if key in metrics
    ]
    lines.append("")
    low, high = (_number(metrics.get(f"log_likelihood_{side}")) for side in ("lower", "upper"))
    if low > high:
        lines += [
            f"The two estimates cross by {low - high:.1f} nats, which on average they do not: that much is "
            "noise of AIS, or chains that have not reached the model.",
            "",
        ]
    if high - low > 1:
        lines += [
            f"The two estimates of log Z are {high - low:.1f} nats apart: the truth lies between, if the chains that "
            "the upper one starts from are draws from the model. More `evaluation.ais_betas` bring them together.",
            "",
        ]
    if result["best"] is not None and result["best"]["step"] != result["step"]:
        best = result["best"]
        lines += [
            f"The best evaluation was at step {best['step']}: {best['metric']} {best['value']:.1f}. Its checkpoint is "
            "kept; what is reported here is the last step.",
            "",
        ]
    for row in rows:
        if row["kind"] == "rollback":
            lines += [
                f"At step {row['sick_step']} {row['reason']}: the run went back to step {row['step']} with "
                f"learning rates times {row['rate_factor']:g}.",
                "",
            ]
    skipped = sum(row.get("n_skipped", 0) for row in rows)
    if skipped:
        lines += [
            f"{skipped} updates were skipped, since they were not finite or past a limit of `health`.",
            "",
        ]
    captions = {
        "samples/samples.png": "Test data, and the ends of Gibbs chains that began at noise (means of visible units).",
        "samples/chains.png": "Eight of these chains on their way; numbers are sweeps.",
        "plots/likelihood.png": "Evaluations. The band lies between the two bounds.",
        "plots/training.png": "Training, means over the updates between two looks.",
        "plots/filters.png": "Weights of the first hidden units.",
        "plots/autocorrelation.png": "How long Gibbs chains from training rows remember their free energy.",
    }
    for name, caption in captions.items():
        if name in figures:
            lines += [f"![{name}]({name})", "", caption, ""]
    lines += [
        "## How it was made",
        "",
        f"    {environment['command']}",
        "",
        f"Configuration `config.yaml`, SHA-256 {environment['config_hash'][:16]}…; "
        + ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
        + f"; {environment['device_kind']}"
        + (f"; commit {environment['git_commit'][:12]}" if environment["git_commit"] else "")
        + ".",
        "",
    ]
    return "\n".join(lines)


def _series(rows: Sequence[Mapping[str, Any]], kind: str, key: str) -> tuple[list[float], list[float]]:
    chosen = [row for row in rows if row["kind"] == kind]
    return [row["epoch"] for row in chosen], [_number(row.get(key)) for row in chosen]


def _filters(weights: np.ndarray) -> np.ndarray:
    images = np.moveaxis(weights, -1, 0)[:49]
    limit = max(float(np.quantile(np.abs(images), 0.995)), 1e-12)
    return np.clip(images / (2 * limit) + 0.5, 0, 1)


def _varied(runs: Mapping[str, Run]) -> set[str]:
    """Names of settings that are not the same in all runs, but for the name and how calls are cut."""
    flats = [_flat(run.config.model_dump()) for run in runs.values()]
    keys = {key for flat in flats for key in flat} - {"name", "training.steps_per_call"}
    return {key for key in keys if len({repr(flat.get(key)) for flat in flats}) > 1}


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, item in value.items():
        out |= _flat(item, f"{prefix}{key}.") if isinstance(item, Mapping) else {f"{prefix}{key}": item}
    return out


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _text(value: Any, digits: int) -> str:
    number = _number(value)
    return "–" if math.isnan(number) else f"{number:.{digits}f}"
