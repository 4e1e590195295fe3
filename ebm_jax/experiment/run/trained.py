"""What can be done with a trained run: draw samples, and evaluate any of its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from ebm_jax import plots
from ebm_jax.experiment import files
from ebm_jax.experiment.config import Config, load_stored_config
from ebm_jax.experiment.recipes.base import Recipe, find
from ebm_jax.experiment.run.checkpoint import CheckpointError, Checkpoints
from ebm_jax.experiment.run.folder import CHECKPOINTS, check_data, finite, stored_config, write_arrays
from ebm_jax.experiment.run.memory import memory_errors, memory_settings
from ebm_jax.types import PyTree

PICTURES = (".png", ".npz")


class RequestError(ValueError):
    """A request that a run cannot fulfil."""


class TrainedRun(NamedTuple):
    """A run at one of its checkpoints.

    Attributes:
      config: Its configuration.
      recipe: Its recipe.
      params: The parameters that are judged and kept.
      state: The train state.
      step: The step of the checkpoint.
    """

    config: Config
    recipe: Recipe
    params: PyTree
    state: PyTree
    step: int


def open_run(path: Path, checkpoint: str = "last") -> TrainedRun:
    """Opens a run at a checkpoint, without its data.

    Args:
      path: The folder of the run.
      checkpoint: "last", "best", or the step of a checkpoint.

    Returns:
      The run.

    Raises:
      RunFolderError: If `path` is not a run, or its configuration was changed.
      RequestError: If the run has no such checkpoint.
      CheckpointError: If the run has no checkpoint yet, or this one is damaged.
      OutOfMemory: If there is too little memory for the train state.
    """
    config = stored_config(path)
    recipe = find(config.recipe)
    checkpoints = Checkpoints(path / CHECKPOINTS)
    steps = checkpoints.steps()
    if not steps:
        raise CheckpointError(f"{path} has no checkpoint yet; go on with it by `ebm-jax resume {path}`")
    step = steps[-1]
    if checkpoint == "best":
        best = checkpoints.manifest(step)["facts"]["best"]
        if best is None:
            raise CheckpointError(
                f"{path} has no evaluation yet, so no checkpoint is the best; take the last"
            )
        step = best["step"]
    elif checkpoint != "last":
        if not checkpoint.isdigit() or int(checkpoint) not in steps:
            raise RequestError(f"{path} has no checkpoint {checkpoint!r}; give last, best, or one of {steps}")
        step = int(checkpoint)
    with memory_errors(memory_settings(config), "They take effect in a new run"):
        state = jax.device_put(checkpoints.load(step, recipe.struct(config)).tree)
    return TrainedRun(config, recipe, recipe.params(config, state), state, step)


def check_outputs(output: Path, frames: Path | None, overwrite: bool) -> None:
    """Checks the files that `draw` will write.

    Args:
      output: A file whose name ends in .png or .npz.
      frames: A file whose name ends in .gif, or None.
      overwrite: Whether existing files may be replaced.

    Raises:
      RequestError: If a name has another ending, or a file exists and may not be replaced.
    """
    if output.suffix not in PICTURES:
        raise RequestError(f"--output is {output}; give a name that ends in {' or '.join(PICTURES)}")
    if frames is not None and frames.suffix != ".gif":
        raise RequestError(f"--frames is {frames}; give a name that ends in .gif")
    for path in (output, frames):
        if path is not None and path.exists() and not overwrite:
            raise RequestError(f"{path} is there already; give another name, or --overwrite")


def check_groups(run: TrainedRun, groups: str | None) -> tuple[str, ...]:
    """Returns groups of metrics from names with commas between them.

    Args:
      run: The run.
      groups: The names. None: all groups of the recipe.

    Returns:
      The names.

    Raises:
      RequestError: If the recipe has no such group.
    """
    if groups is None:
        return run.recipe.groups
    wanted = tuple(part.strip() for part in groups.split(",") if part.strip())
    for name in wanted or ("",):
        if name not in run.recipe.groups:
            raise RequestError(f"--metrics has {name!r}; give some of {','.join(run.recipe.groups)}")
    return wanted


def draw(run: TrainedRun, n: int, n_steps: int | None, seed: int, output: Path, frames: Path | None) -> None:
    """Draws samples by chains from noise and writes them.

    Args:
      run: The run.
      n: Number of chains.
      n_steps: Steps of each chain. None: as many as the configuration says.
      seed: Seed of the chains.
      output: File for the samples: a picture (.png), or arrays (.npz).
      frames: GIF of the chains, or None.

    Raises:
      OutOfMemory: If there is too little memory for so many chains.
    """
    settings = {"--num-samples": n, "--steps": "its default" if n_steps is None else n_steps}
    with memory_errors(settings, "The run is unchanged"):
        pictures, steps = run.recipe.draw(run.config, run.params, n, n_steps, seed)
    if output.suffix == ".npz":
        arrays = {"samples": pictures[-1], "frames": pictures, "steps": steps}
        write_arrays(output.parent, output.name, arrays)
    else:
        with files.written(output.parent, output.name) as path:
            plots.image_grid(pictures[-1]).savefig(path, dpi=150, metadata={"Software": None})
    if frames is not None:
        with files.written(frames.parent, frames.name) as path:
            plots.animate(pictures, path, milliseconds=[600] * (len(pictures) - 1) + [3000])


def judge(
    run: TrainedRun, path: Path, groups: Sequence[str], overrides: Sequence[str] = ()
) -> dict[str, float]:
    """Evaluates a run and appends the result to evaluations.jsonl in its folder.

    Args:
      run: The run.
      path: Its folder.
      groups: Groups of metrics to measure.
      overrides: Overrides of the section `evaluation`, such as `evaluation.n_test=100`.

    Returns:
      The numbers by name.

    Raises:
      RequestError: If an override is of another section.
      RunFolderError: If the run began on other data.
      ConfigError: If a value is wrong.
      OutOfMemory: If there is too little memory.
    """
    for text in overrides:
        if not text.startswith("evaluation."):
            raise RequestError(f"{text!r} is no setting of the evaluation; give evaluation.KEY=VALUE")
    config = load_stored_config(path, overrides)
    with memory_errors(memory_settings(config, "evaluation."), "The run is unchanged"):
        experiment = run.recipe.build(config)
        check_data(path, experiment.data_digest)
        found = experiment.evaluate(run.params, config.evaluation, groups)
        found |= experiment.evaluate_state(run.state, config.evaluation, groups)
    row = {"step": run.step, "evaluation": config.evaluation.model_dump(), "metrics": found}
    with files.open_to_append(path, "evaluations.jsonl") as file:
        file.write((json.dumps(finite(row)) + "\n").encode())
    return found
