"""The `ebm-jax` command. Exit codes: 0 done, 1 the run failed, 2 wrong usage.

Nothing here imports JAX: each command imports its work when it runs, so that `--help` answers at once.
"""

from pathlib import Path
from typing import Annotated

import typer

from ebm_jax import __version__

# Rich help and tracebacks cost more to load than all the rest of `--help`.
app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"ebm-jax {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Sample, train and judge energy-based models in JAX."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the figures.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of all randomness.")] = 0,
) -> None:
    """Train a Potts grid and an RBM on handwritten digits and draw new ones.

    Uses the digits that come with scikit-learn: nothing is downloaded.

    \b
    Examples:
      ebm-jax demo
      ebm-jax demo --out /tmp/demo --seed 1
    """
    from ebm_jax.experiment.demo import run_demo

    try:
        run_demo(out, seed)
    except OSError as error:  # a full disk, a folder that may not be written; a bug keeps its traceback
        typer.echo(f"ebm-jax: {error}", err=True)
        raise typer.Exit(1) from error


def main() -> None:
    """Entry point of the `ebm-jax` script."""
    app(prog_name="ebm-jax")


if __name__ == "__main__":
    main()
