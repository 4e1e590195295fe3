"""Errors of memory in words: which settings to lower, and what they are now."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import jax

from ebm_jax.experiment.config import Config
from ebm_jax.experiment.recipes.base import find

# XLA reports a failed allocation by a status code, and some of its allocators by words alone.
_SIGNS = ("resource_exhausted", "out of memory", "out_of_memory")


class OutOfMemory(RuntimeError):
    """Too little memory. The message names the settings to lower, with their values."""


def memory_settings(config: Config, section: str = "") -> dict[str, Any]:
    """Returns the fields of a configuration that scale its memory, with their values.

    Args:
      config: The configuration.
      section: Start of the dotted paths that are wanted, such as "evaluation.".

    Returns:
      The values by dotted path. Fields that are null are left out.
    """
    paths = [path for path in find(config.recipe).memory_fields if path.startswith(section)]
    values = {path: functools.reduce(getattr, path.split("."), config) for path in paths}
    return {path: value for path, value in values.items() if value is not None}


@contextmanager
def memory_errors(settings: Mapping[str, Any], remedy: str) -> Iterator[None]:
    """Raises OutOfMemory in place of an error by which JAX or Python reports too little memory.

    Args:
      settings: What to lower: values by name.
      remedy: Sentence that follows in the message.

    Raises:
      OutOfMemory: In one line, so that the last line of a log tells it.
    """
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        if not isinstance(error, MemoryError) and not any(sign in str(error).lower() for sign in _SIGNS):
            raise
        listed = ", ".join(f"{name} (now {value})" for name, value in settings.items())
        raise OutOfMemory(f"out of memory ({lines[0]}); lower some of {listed}. {remedy}") from error


def memory_errors_of_run(config: Config, folder: Path | None = None) -> AbstractContextManager[None]:
    """Returns `memory_errors` for a run in a folder, or for one that has none yet."""
    remedy = "Nothing was started"
    if folder is not None:
        remedy = (
            f"Checkpoints are kept: `ebm-jax resume {folder}` goes on where there is more memory, or after lower "
            "values in the section evaluation of its config.yaml. Other changes need a new run"
        )
    return memory_errors(memory_settings(config), remedy)
