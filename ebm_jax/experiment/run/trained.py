"""What can be asked of a run that was trained: draws, and figures of merit of any of its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ebm_jax import plots
from ebm_jax.experiment.config import Config, dump_config, parse_config
from ebm_jax.experiment.recipes.base import Recipe, build
from ebm_jax.experiment.run.checkpoint import CheckpointError, Checkpoints
from ebm_jax.experiment.run.folder import finite, stored_config
from ebm_jax.types import PyTree

PICTURES = (".png", ".npz")


class RequestError(ValueError):
    """Something that was asked of a run and that it does not have."""


class Trained(NamedTuple):
    """A run's configuration, its parts, and the parameters of one of its checkpoints."""

    config: Config
    recipe: Recipe
    params: PyTree
    step: int


def open_run(path: Path, checkpoint: str = "last") -> Trained:
    """Returns a run at its `"last"` or `"best"` checkpoint, or at that of a step.

    Raises RunFolderError where `path` is no run, or its configuration was changed; CheckpointError where it has no such
    checkpoint, or it is corrupt.
    """
    config = stored_config(path)
    recipe = build(config)
    checkpoints = Checkpoints(path / "checkpoints")
    steps = checkpoints.steps()
    if not steps:
        raise CheckpointError(f"{path} has no checkpoint yet; go on with it by `ebm-jax resume {path}`")
    step = steps[-1]
    if checkpoint == "best":
        best = checkpoints.manifest(step)["facts"]["best"]
        if best is None:
            raise CheckpointError(
                f"{path} has evaluated nothing yet that makes a checkpoint the best; take the last"
            )
        step = best["step"]
    elif checkpoint != "last":
        if not checkpoint.isdigit() or int(checkpoint) not in steps:
            raise CheckpointError(
                f"{path} has no checkpoint {checkpoint!r}; give last, best, or one of {steps}"
            )
        step = int(checkpoint)
    state = checkpoints.load(step, recipe.init()).tree
    return Trained(config, recipe, recipe.params(state), step)


def check_outputs(output: Path, frames: Path | None, overwrite: bool) -> None:
    """Raises RequestError on an ending that is none of ours, and where a file would be replaced unasked."""
    if output.suffix not in PICTURES:
        raise RequestError(f"--output is {output}; give a name that ends in {' or '.join(PICTURES)}")
    if frames is not None and frames.suffix != ".gif":
        raise RequestError(f"--frames is {frames}; give a name that ends in .gif")
    for path in (output, frames):
        if path is not None and path.exists() and not overwrite:
            raise RequestError(f"{path} is there already; give another name, or --overwrite")


def check_classes(run: Trained, classes: str | None) -> None:
    """Raises RequestError where labels are asked for of a model that knows none."""
    if classes is not None:
        raise RequestError(
            f"--classes is {classes!r}, and a model of the recipe {run.config.recipe} knows no labels; leave it out"
        )


def check_groups(run: Trained, groups: str | None) -> tuple[str, ...]:
    """Returns groups of figures from a list with commas; raises RequestError on one that the recipe has not."""
    if groups is None:
        return run.recipe.groups
    wanted = tuple(part.strip() for part in groups.split(",") if part.strip())
    for name in wanted or ("",):
        if name not in run.recipe.groups:
            raise RequestError(f"--metrics has {name!r}; give some of {','.join(run.recipe.groups)}")
    return wanted


def draw(run: Trained, n: int, n_steps: int | None, seed: int, output: Path, frames: Path | None) -> None:
    """Writes `n` draws of chains from noise to `output`, a picture or an array file, and their way to a GIF."""
    pictures, steps = run.recipe.draw(run.params, n, n_steps or run.config.evaluation.chain_steps, seed)
    for path in (output, frames):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".npz":
        np.savez_compressed(output, samples=pictures[-1], frames=pictures, steps=steps)
    else:
        plots.image_grid(pictures[-1]).savefig(output, dpi=150, metadata={"Software": None})
    if frames is not None:
        plots.animate(pictures, frames, milliseconds=[600] * (len(pictures) - 1) + [3000])


def judge(run: Trained, path: Path, groups: Sequence[str], settings: Mapping[str, Any]) -> dict[str, float]:
    """Returns figures of merit of `groups` with some of the section `evaluation` replaced by `settings`.

    They are added to evaluations.jsonl in the folder, with the step and the settings.
    """
    import yaml

    changed = yaml.safe_load(dump_config(run.config))
    changed["evaluation"] |= {name: value for name, value in settings.items() if value is not None}
    config = parse_config(changed, name=run.config.name)
    found = run.recipe.evaluate(run.params, config.evaluation, groups)
    row = {"step": run.step, "evaluation": config.evaluation.model_dump(), "metrics": found}
    with (path / "evaluations.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(finite(row)) + "\n")
    return found
