"""What the commands share: error messages with exit codes, and help that the recipes complete.

This module does not import JAX, and `--help` loads it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperCommand


@contextlib.contextmanager
def error_messages(
    usage: tuple[type[Exception], ...] = (), failed: tuple[type[Exception], ...] = (OSError,)
) -> Iterator[None]:
    """Prints an expected error as one message. Exits with 2 for ConfigError and `usage`, with 1 for `failed`.

    Any other exception is a bug and keeps its traceback.
    """
    from ebm_jax.experiment.config import ConfigError
    from ebm_jax.experiment.files import printable

    try:
        yield
    except (ConfigError, *usage) as error:
        typer.echo(printable(f"ebm-jax: {error}", newlines=True), err=True)
        raise typer.Exit(2) from error
    except failed as error:
        typer.echo(printable(f"ebm-jax: {error}", newlines=True), err=True)
        raise typer.Exit(1) from error


@contextlib.contextmanager
def run_error_messages() -> Iterator[None]:
    """Prints the errors of commands that work on runs. Exits with 2 for wrong requests, with 1 for failures."""
    with error_messages():
        from ebm_jax.data import DataFileError
        from ebm_jax.experiment.run.checkpoint import CheckpointError
        from ebm_jax.experiment.run.folder import RunFolderError
        from ebm_jax.experiment.run.memory import OutOfMemory
        from ebm_jax.experiment.run.runner import RunFailed
        from ebm_jax.experiment.run.trained import RequestError

        failures = (OSError, DataFileError, CheckpointError, RunFailed, OutOfMemory)
        with error_messages(usage=(RunFolderError, FileExistsError, RequestError), failed=failures):
            yield


class EvaluateCommand(TyperCommand):
    """The command `evaluate`, whose help ends with the groups of metrics of every recipe."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Writes the groups below the options. The recipes are imported only here, when this help is asked for."""
        from ebm_jax.experiment.recipes import base

        del ctx
        for name in base.names():
            formatter.write_paragraph()
            formatter.write_text(f"Groups of the recipe {name}: {', '.join(base.find(name).groups)}.")
