"""The runs of a sweep: one for each configuration file, or one for each seed that a file lists.

A file may have a key `seeds: [0, 1, 2]` at its top level. A sweep then trains a run for each of them, named NAME-s0,
NAME-s1 and so on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebm_jax.experiment.config import ConfigError, load_config
from ebm_jax.experiment.config.problems import shown
from ebm_jax.experiment.config.reading import read_file, read_override

LARGEST_SEED = 2**32 - 1
# Folder of the runs' output, beside the runs.
LOGS = "logs"


@dataclass(frozen=True)
class Job:
    """A run to train: its configuration file, its folder, and the overrides of the file."""

    config: Path
    folder: Path
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the run, which is also the name of its folder."""
        return self.folder.name

    @property
    def log(self) -> Path:
        """The file that receives the output of the run."""
        return self.folder.parent / LOGS / f"{self.name}.log"


def plan(
    configs: Sequence[Path], out: Path, overrides: Sequence[str] = (), n_seeds: int | None = None
) -> list[Job]:
    """Checks all configurations and lists their runs. Nothing is written.

    Args:
      configs: YAML files.
      out: Folder in which each run gets a folder named after it.
      overrides: Overrides of every file, such as `training.learning_rate=0.01`.
      n_seeds: Trains every file with the seeds 0 … n_seeds − 1. `None` takes the seeds from the files: one run for
        each entry of `seeds`, or a single run where a file has no such key.

    Returns:
      The runs, in the order of the files and of their seeds.

    Raises:
      ConfigError: With the problems of all files: values that do not fit, seeds that are repeated or given twice, and
        runs that would share a folder.
    """
    jobs: dict[str, Job] = {}
    problems = []
    for path in configs:
        try:
            planned = _jobs_of(path, out, overrides, n_seeds)
        except ConfigError as error:
            problems += [f"{error.source}: {problem}" for problem in error.problems]
            continue
        for job in planned:
            # Some file systems do not distinguish upper and lower case.
            other = jobs.setdefault(job.name.casefold(), job)
            if other is not job:
                problems.append(
                    f"{path}: its name is {job.name!r}, as that of {other.config}: give each a `name` of its own"
                )
    if problems:
        raise ConfigError("nothing was started, since configurations are wrong", problems)
    return list(jobs.values())


def _jobs_of(path: Path, out: Path, overrides: Sequence[str], n_seeds: int | None) -> list[Job]:
    seeds = _seeds(path, overrides, n_seeds)
    if seeds is None:
        return [Job(path, out / load_config(path, overrides).name, tuple(overrides))]
    # With a seed given by an override, the reader passes over `seeds`.
    name = load_config(path, [*overrides, f"seed={seeds[0]}"]).name
    jobs = []
    for seed in seeds:
        own = (*overrides, _name_override(f"{name}-s{seed}"), f"seed={seed}")
        jobs.append(Job(path, out / load_config(path, own).name, own))
    return jobs


def _seeds(path: Path, overrides: Sequence[str], n_seeds: int | None) -> list[int] | None:
    """Returns the seeds of a file's runs; None where neither the file nor the command lists any."""
    mapping, _ = read_file(path)
    mapping = mapping or {}
    if "seeds" not in mapping and n_seeds is None:
        return None
    problems = []
    if "seeds" in mapping and n_seeds is not None:
        problems.append(
            f"seeds: {shown(mapping['seeds'])} was given, and --seeds {n_seeds} as well: give one of them"
        )
    if any(read_override(text)[0] == ("seed",) for text in overrides):
        problems.append("seed: an override was given, and several seeds as well: give one of them")
    if "seeds" in mapping and "seed" in mapping:
        problems.append(f"seed: {shown(mapping['seed'])} was given, and seeds as well: give one of them")
    seeds = mapping["seeds"] if "seeds" in mapping else list(range(n_seeds or 0))
    if not _are_seeds(seeds):
        problems.append(
            f"seeds: {shown(seeds)} was given; a list of different whole numbers from 0 to {LARGEST_SEED} is wanted, "
            "such as [0, 1, 2]"
        )
    if problems:
        raise ConfigError(str(path), problems)
    return seeds


def _are_seeds(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(type(seed) is int and 0 <= seed <= LARGEST_SEED for seed in value)
        and len(set(value)) == len(value)
    )


def _name_override(name: str) -> str:
    """Returns the override that sets a name, in quotes where YAML would not read the bare name as this text."""
    plain = f"name={name}"
    return plain if read_override(plain)[1] == name else f"name={json.dumps(name, ensure_ascii=False)}"
