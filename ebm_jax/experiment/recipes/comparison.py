"""Finished runs side by side: which settings differ, which runs are seeds of one configuration, means over seeds.

Figures and findings of several runs are made with these functions, by the general pages and by the recipes alike.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ebm_jax.experiment.recipes.base import StoredRun

# Settings that do not decide what a run is: its name, and how its updates are cut into calls.
_INCIDENTAL = {"name", "training.steps_per_call"}


class Spread(NamedTuple):
    """A quantity over seeds.

    Attributes:
      mean: Its mean.
      deviation: Its standard deviation. None: there is one seed.
    """

    mean: float
    deviation: float | None = None

    @property
    def low(self) -> float:
        """One standard deviation below the mean; with one seed, the mean."""
        return self.mean - (self.deviation or 0.0)

    @property
    def high(self) -> float:
        """One standard deviation above the mean; with one seed, the mean."""
        return self.mean + (self.deviation or 0.0)

    def text(self, digits: int | None) -> str:
        """Returns `mean ± deviation`, the mean alone for one seed, a dash for NaN.

        Args:
          digits: Decimals. None: four significant digits.
        """
        form = ".4g" if digits is None else f".{digits}f"
        if math.isnan(self.mean):
            return "–"
        mean = f"{self.mean:{form}}"
        return mean if self.deviation is None else f"{mean} ± {self.deviation:{form}}"


class SeedGroup(NamedTuple):
    """Runs whose configurations differ in their seed and name alone.

    Attributes:
      runs: The runs, in the order of their seeds.
    """

    runs: tuple[StoredRun, ...]

    @property
    def config(self) -> Any:
        """The configuration of the first run."""
        return self.runs[0].config

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in increasing order."""
        return tuple(run.config.seed for run in self.runs)

    def values(self, metric: str) -> list[float]:
        """Returns a final metric of each run; NaN where it is missing."""
        return [number(run.metrics.get(metric)) for run in self.runs]

    def spread(self, metric: str) -> Spread:
        """Returns the mean and standard deviation of a final metric; NaN where a run lacks it."""
        return spread(self.values(metric))

    def settings(self) -> dict[str, Any]:
        """Returns the settings by dotted path, as `settings_of`; `seed` is the tuple of seeds if there are several."""
        flat = settings_of(self.config)
        return flat if len(self.runs) == 1 else flat | {"seed": self.seeds}

    def series(self, kind: str, key: str) -> tuple[list[float], list[Spread]]:
        """Returns a quantity of metrics.jsonl over epochs.

        Args:
          kind: Kind of row, `"train"` or `"evaluation"`.
          key: Name of the quantity.

        Returns:
          The epochs that all runs have rows of, and the spread at each.
        """
        tables = [
            {float(row["epoch"]): number(row.get(key)) for row in run.rows if row["kind"] == kind}
            for run in self.runs
        ]
        epochs = [epoch for epoch in tables[0] if all(epoch in table for table in tables)]
        return epochs, [spread([table[epoch] for table in tables]) for epoch in epochs]


def group_by_seed(runs: Mapping[str, StoredRun]) -> dict[str, SeedGroup]:
    """Groups runs that differ in seed and name alone.

    Args:
      runs: Runs by name.

    Returns:
      Groups in the order of their first runs, each with its runs in the order of seeds. A run without others keeps its
      name. Runs NAME-s0, NAME-s1, … have the name NAME together.
    """
    found: dict[tuple[str, int], dict[int, str]] = {}
    for name, run in runs.items():
        same = repr(run.config.model_copy(update={"name": "", "seed": 0}))
        # A seed counts once in a group: a second run of it opens a further group.
        copy = next(i for i in itertools.count() if run.config.seed not in found.get((same, i), {}))
        found.setdefault((same, copy), {})[run.config.seed] = name
    groups: dict[str, SeedGroup] = {}
    for by_seed in found.values():
        names = list(by_seed.values())
        members = [runs[by_seed[seed]] for seed in sorted(by_seed)]
        title = _shared_name(names, runs)
        # A run of another configuration may have this name.
        if title in groups or (title in runs and title not in names):
            title = f"{names[0]} and {len(names) - 1} more"
        groups[title] = SeedGroup(tuple(members))
    return groups


def varied_settings(groups: Mapping[str, SeedGroup]) -> set[str]:
    """Returns the dotted paths of settings that differ between groups, `seed` among them if their seeds differ."""
    tables = [group.settings() for group in groups.values()]
    keys = {key for table in tables for key in table} - _INCIDENTAL
    return {key for key in keys if len({repr(table.get(key)) for table in tables}) > 1}


def settings_of(config: Any) -> dict[str, Any]:
    """Returns all settings of a configuration by dotted path, such as `training.n_epochs`."""
    return _flat(config.model_dump(), "")


def spread(values: Sequence[float]) -> Spread:
    """Returns mean and standard deviation (with n − 1 in the denominator) of a number for each seed."""
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)


def number(value: Any) -> float:
    """Returns a number that JSON held: NaN where it is missing or null."""
    return math.nan if value is None else float(value)


def band(points: Sequence[Spread]) -> tuple[list[float], ...]:
    """Returns a line for `plots.lines`: `(mean,)` for one seed, `(low, high, mean)` for several.

    The band between `low` and `high` reaches one standard deviation to each side of the mean.
    """
    means = [point.mean for point in points]
    if all(point.deviation is None for point in points):
        return (means,)
    return [point.low for point in points], [point.high for point in points], means


def _shared_name(names: Sequence[str], runs: Mapping[str, StoredRun]) -> str:
    if len(names) == 1:
        return names[0]
    stems = {name.removesuffix(f"-s{runs[name].config.seed}") for name in names}
    return stems.pop() if len(stems) == 1 else f"{names[0]} and {len(names) - 1} more"


def _flat(value: Mapping[str, Any], above: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, item in value.items():
        out |= _flat(item, f"{above}{key}.") if isinstance(item, Mapping) else {f"{above}{key}": item}
    return out
