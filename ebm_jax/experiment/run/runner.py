"""Trains the experiment of a configuration, and resumes runs that were stopped or killed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np

from ebm_jax.experiment.config import Config, ConfigError
from ebm_jax.experiment.recipes.base import Experiment, Recipe, find
from ebm_jax.experiment.run.checkpoint import CheckpointError
from ebm_jax.experiment.run.console import LOGGER, console
from ebm_jax.experiment.run.folder import MODEL, RunFolder, RunFolderError
from ebm_jax.experiment.run.memory import OutOfMemory, memory_errors_of_run
from ebm_jax.experiment.run.training import Run, RunFailed


def train(config: Config, out: Path, command: Sequence[str]) -> None:
    """Starts the run of a configuration in a new folder, and trains to the end.

    Args:
      config: The configuration.
      out: The folder. It must not exist, or be empty.
      command: The command that the folder records.

    Raises:
      ConfigError: If the data or the model do not allow such a run.
      RunFolderError: If `out` exists or is in use.
      RunFailed: If the run stops early.
      OutOfMemory: If there is too little memory.
      CheckpointError: If a checkpoint cannot be written.
    """
    with console():
        # All this comes before there is a folder, so that a run that cannot begin leaves nothing behind.
        recipe = find(config.recipe)
        if config.health.policy == "skip" and not recipe.can_skip:
            problem = f"skip was given, and the recipe {recipe.name} skips no updates: give stop or rollback"
            raise ConfigError(config.name, [f"health.policy: {problem}"])
        with memory_errors_of_run(config):
            experiment = recipe.build(config)
            _check_saving(recipe, config, experiment)
        folder = RunFolder.create(out, config, command, experiment.data_digest)
        with _held(folder):
            Run(folder, recipe, experiment).go()


def resume(path: Path, restart: bool = False) -> None:
    """Resumes a run from its newest intact checkpoint.

    A finished run is left as it is. One without a checkpoint starts again.

    Args:
      path: The folder of the run.
      restart: Whether a run with checkpoints, none of which can be verified, starts again. They are set aside.

    Raises:
      RunFolderError: If `path` is not a run, or is in use, or was changed, or began on other data or with another
        setting of jax_enable_x64.
      RunFailed: If the run stops early, or no checkpoint can be verified.
      OutOfMemory: If there is too little memory. The checkpoints stay.
      CheckpointError: If a checkpoint cannot be written, or none can be read.
    """
    with console():
        folder = RunFolder.open(path)
        with _held(folder):
            if folder.finished:
                LOGGER.info("%s is finished; nothing is left to do", path)
                return
            recipe = find(folder.config.recipe)
            experiment = recipe.build(folder.config)
            folder.check_conditions(experiment.data_digest)
            Run(folder, recipe, experiment, restart).go()


def _check_saving(recipe: Recipe, config: Config, experiment: Experiment) -> None:
    """Saves and restores the first parameters, so that no run fails after its last step for want of a format."""
    params = recipe.params(config, experiment.init())
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / MODEL
        try:
            recipe.save(path, config, params)
            _, restored = recipe.restore(path)
        except (TypeError, ValueError, NotImplementedError) as error:
            problem = f"recipe: the model of {config.recipe} cannot be saved, so nothing was started: {error}"
            raise ConfigError(config.name, [problem]) from error
    same = jax.tree.structure(restored) == jax.tree.structure(params) and all(
        np.array_equal(a, b) for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(params), strict=True)
    )
    if not same:
        problem = (
            f"recipe: the model of {config.recipe} is not the same after save and restore; correct the recipe"
        )
        raise ConfigError(config.name, [problem])


@contextmanager
def _held(folder: RunFolder) -> Iterator[None]:
    """Closes the folder at the end, and logs why a run stopped; the command prints that to the console."""
    try:
        with memory_errors_of_run(folder.config, folder.path):
            yield
    except (RunFailed, OutOfMemory, CheckpointError, RunFolderError) as error:
        LOGGER.debug("%s", error)
        raise
    finally:
        folder.close()
