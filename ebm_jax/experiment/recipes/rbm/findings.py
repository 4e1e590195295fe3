"""What the numbers of RBM runs say, in sentences."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

from ebm_jax.experiment.recipes.base import StoredRun
from ebm_jax.experiment.recipes.comparison import (
    SeedGroup,
    Spread,
    group_by_seed,
    number,
    spread,
    varied_settings,
)
from ebm_jax.experiment.recipes.rbm.figures import ABLATED, by_k


def remarks(run: StoredRun) -> list[str]:
    """Returns what a reader must know about the estimates of a run's log-likelihood."""
    low, high = (number(run.metrics.get(f"log_likelihood_{side}")) for side in ("lower", "upper"))
    if low > high:
        return [
            f"The two estimates cross by {low - high:.1f} nats, which on average they do not: that much is "
            "noise of AIS, or chains that have not reached the model."
        ]
    if high - low > 1:
        return [
            f"The two estimates of log Z are {high - low:.1f} nats apart: the truth lies between, if the chains that "
            "the upper one starts from are draws from the model. More `evaluation.ais_betas` bring them together."
        ]
    return []


def findings(runs: Mapping[str, StoredRun]) -> list[str]:
    """Returns which run is best, and what k and persistent chains change.

    Runs that differ in seed alone count as one, by their means. A difference smaller than the width of the bounds, or
    than the spread over seeds, is reported as undecided. Runs with different test sets are not ranked: those of
    different data, and those of different seeds, by which grey levels become bits.
    """
    groups = group_by_seed(runs)
    judged = {
        name: group
        for name, group in groups.items()
        if all(run.metrics.get("log_likelihood_lower") is not None for run in group.runs)
    }
    if not judged:
        return ["No run has an estimate of its log-likelihood (evaluation.ais_betas is 0)."]
    varied = varied_settings(groups)
    data = sorted(key for key in varied if key.startswith("data.") or key == "seed")
    if data:
        return [
            f"The runs differ in {', '.join(data)}, and so in what they are judged by: they are not ranked."
        ]
    bounds = {name: _bounds(group) for name, group in judged.items()}
    sentences = [_ranking(bounds)]
    if varied - ABLATED:
        return sentences
    methods = {method: by_k(judged, method) for method in ("cd", "pcd")}
    for method, found in methods.items():
        if len(found) > 1:
            steps = [(group.config.negatives.k, spread(bounds[name].lower)) for name, group in found]
            sentences.append(_effect_of_k(method, steps))
    for (cd, one), (pcd, other) in itertools.product(methods["cd"], methods["pcd"]):
        if one.config.negatives.k == other.config.negatives.k:
            sentences.append(_effect_of_persistence(one.config.negatives.k, cd, pcd, bounds))
    return sentences


class _Bounds(NamedTuple):
    """The lower and the upper bound of the log-likelihood of each run of a group."""

    lower: list[float]
    upper: list[float]

    def __str__(self) -> str:
        return f"{spread(self.lower).text(1)} and {spread(self.upper).text(1)}"

    def lead(self, other: _Bounds) -> Spread:
        """Returns this lower bound less the upper bound of another group, seed by seed.

        Runs of the same seed share their test data, so that much of the spread over seeds cancels.
        """
        return spread([low - high for low, high in zip(self.lower, other.upper, strict=True)])


def _ranking(bounds: Mapping[str, _Bounds]) -> str:
    """Says which run is best and which is last."""
    ranked = sorted(bounds, key=lambda name: spread(bounds[name].lower).mean, reverse=True)
    first, last = ranked[0], ranked[-1]
    n_seeds = len(bounds[first].lower)
    seeds = "one seed" if n_seeds == 1 else f"mean ± standard deviation over {n_seeds} seeds"
    text = (
        f"Best by the lower bound is **{first}**: its test log-likelihood is estimated between {bounds[first]} nats "
        f"({seeds})."
    )
    if len(ranked) == 1:
        return text
    rivals = [name for name in ranked[1:] if bounds[first].lead(bounds[name]).low < 0]
    if rivals:
        within = "" if n_seeds == 1 else " within the spread over seeds"
        text += f" The bounds of {', '.join(rivals)} overlap with it{within}, so the order among them is not decided."
    else:
        by = "" if n_seeds == 1 else " by more than the spread over seeds"
        text += f" The bounds of every other run lie below it{by}."
    return text + f" Last is {last}, between {bounds[last]}."


def _effect_of_k(method: str, bounds: list[tuple[int, Spread]]) -> str:
    """Says how the lower bound of a method changes with k."""
    steps = ", ".join(f"{bound.text(1)} at k = {k}" for k, bound in bounds)
    means = [bound.mean for _, bound in bounds]
    rises = all(one <= other for one, other in itertools.pairwise(means))
    return f"{method.upper()}: the lower bound is {steps}; it {'rises' if rises else 'does not always rise'} with k."


def _effect_of_persistence(k: int, cd: str, pcd: str, bounds: Mapping[str, _Bounds]) -> str:
    """Says whether PCD is better than CD with the same k."""
    gain = spread([one - other for one, other in zip(bounds[pcd].lower, bounds[cd].lower, strict=True)])
    better, worse = (pcd, cd) if gain.mean > 0 else (cd, pcd)
    lead = bounds[better].lead(bounds[worse])
    if lead.mean <= 0:
        doubt = ", which is within the width of the bounds"
    elif lead.low <= 0:
        doubt = ", which is within the spread over seeds"
    else:
        doubt = ""
    size = Spread(abs(gain.mean), gain.deviation).text(1)
    side = "above" if gain.mean > 0 else "below"
    return f"With k = {k}, {pcd} is {size} nats {side} {cd} by the lower bounds{doubt}."


def _bounds(group: SeedGroup) -> _Bounds:
    sides = [_sides(run.metrics) for run in group.runs]
    return _Bounds([low for low, _ in sides], [high for _, high in sides])


def _sides(metrics: Mapping[str, Any]) -> tuple[float, float]:
    """Returns both estimates of the log-likelihood, widened by the bootstrap errors of log Z.

    The smaller one comes first, since noise can make them cross.
    """
    lower, upper = (float(metrics[f"log_likelihood_{side}"]) for side in ("lower", "upper"))
    if "log_z_reverse_high" in metrics:
        lower -= max(float(metrics["log_z_reverse_high"]) - float(metrics["log_z_reverse"]), 0.0)
        upper += max(float(metrics["log_z_forward"]) - float(metrics["log_z_forward_low"]), 0.0)
    return min(lower, upper), max(lower, upper)
