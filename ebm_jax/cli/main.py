"""The `ebm-jax` command. Exit codes: 0 done, 1 the run failed, 2 wrong usage.

Nothing here imports JAX: each command imports its work when it runs, so that `--help` answers at once.
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ebm_jax import __version__

# Rich help and tracebacks cost more to load than all the rest of `--help`.
app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)
data = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data, name="data", help="List the data sets, or prepare one.")

Overrides = Annotated[
    list[str] | None,
    typer.Option("--override", "-o", metavar="KEY=VALUE", help="Set a value of the file; may be repeated."),
]


@contextlib.contextmanager
def _errors(
    usage: tuple[type[Exception], ...] = (), failed: tuple[type[Exception], ...] = (OSError,)
) -> Iterator[None]:
    """Tells an error in one message: exit 2 for ConfigError and `usage`, 1 for `failed`. A bug keeps its traceback."""
    from ebm_jax.experiment.config import ConfigError

    try:
        yield
    except (ConfigError, *usage) as error:
        typer.echo(f"ebm-jax: {error}", err=True)
        raise typer.Exit(2) from error
    except failed as error:  # such as a full disk, or a folder that may not be written
        typer.echo(f"ebm-jax: {error}", err=True)
        raise typer.Exit(1) from error


RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]
Checkpoint = Annotated[str, typer.Option(help="last, best, or the step of a checkpoint.")]


@contextlib.contextmanager
def _run_errors() -> Iterator[None]:
    """As `_errors`, of commands that work on runs: wrong requests exit with 2, runs and files that fail with 1."""
    with _errors():
        from ebm_jax.data import DataFileError
        from ebm_jax.experiment.run.checkpoint import CheckpointError
        from ebm_jax.experiment.run.folder import RunFolderError
        from ebm_jax.experiment.run.runner import RunFailed
        from ebm_jax.experiment.run.trained import RequestError

        failures = (OSError, DataFileError, CheckpointError, RunFailed)
        with _errors(usage=(RunFolderError, FileExistsError, RequestError), failed=failures):
            yield


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
    from ebm_jax.cli.demo import run_demo

    with _errors():
        run_demo(out, seed)


@app.command()
def config(
    path: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file.")], override: Overrides = None
) -> None:
    """Check a configuration and print it with every field filled in.

    \b
    Examples:
      ebm-jax config configs/rbm_mnist_pcd1.yaml
      ebm-jax config configs/rbm_mnist_pcd1.yaml -o training.n_epochs=20 -o seed=1
    """
    with _errors():
        from ebm_jax.experiment.config import dump_config, load_config

        typer.echo(dump_config(load_config(path, override or ())), nl=False)


@app.command()
def train(
    path: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file.")],
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder of the run; default: runs/NAME.")
    ] = None,
    override: Overrides = None,
) -> None:
    """Train what a configuration file describes, in a new run folder.

    The folder holds the configuration, metrics, checkpoints, samples, plots and report.md; it is never overwritten.
    SIGTERM and Ctrl-C end a run with a checkpoint, from which `resume` goes on.

    \b
    Examples:
      ebm-jax train configs/rbm_digits_pcd1.yaml
      ebm-jax train configs/rbm_mnist_pcd5.yaml --out runs/slow --override training.learning_rate=0.01
    """
    with _run_errors():
        from ebm_jax.experiment.config import load_config

        resolved = load_config(path, override or ())
        from ebm_jax.experiment.run.runner import train as run

        folder = out if out is not None else Path("runs") / resolved.name
        run(resolved, folder, ["ebm-jax", *sys.argv[1:]])


@app.command()
def resume(run: RunPath) -> None:
    """Go on with a run that was stopped or killed, from its newest checkpoint.

    A run without a checkpoint starts afresh, a finished one is left alone. The result has the bits of a run that was
    never stopped.

    \b
    Examples:
      ebm-jax resume runs/rbm_mnist_pcd5
    """
    with _run_errors():
        from ebm_jax.experiment.run.runner import resume as go_on

        go_on(run)


@app.command()
def sample(
    run: RunPath,
    output: Annotated[Path, typer.Option("--output", help="Picture (.png) or arrays (.npz) to write.")],
    num_samples: Annotated[int, typer.Option(min=1, help="Chains, each of which gives a sample.")] = 100,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of each chain; default: evaluation.chain_steps.")
    ] = None,
    frames: Annotated[Path | None, typer.Option(help="GIF of the chains on their way from noise.")] = None,
    classes: Annotated[
        str | None, typer.Option(help="Labels to draw, such as 3,8, of models that know labels.")
    ] = None,
    checkpoint: Checkpoint = "last",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the chains.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> None:
    """Draw samples from a trained model by chains that begin at noise.

    \b
    Examples:
      ebm-jax sample runs/rbm_mnist_pcd5 --num-samples 100 --output x.png --frames x.gif
      ebm-jax sample runs/rbm_mnist_pcd5 --output draws.npz --checkpoint best --steps 5000
    """
    with _run_errors():
        from ebm_jax.experiment.run import trained

        trained.check_outputs(output, frames, overwrite)
        opened = trained.open_run(run, checkpoint)
        trained.draw(opened, num_samples, steps, seed, output, frames)
        for path in (output, frames):
            if path is not None:
                typer.echo(path)


@app.command()
def evaluate(
    run: RunPath,
    metrics: Annotated[
        str | None, typer.Option(help="Groups to measure, with commas; default: all that the recipe has.")
    ] = None,
    checkpoint: Checkpoint = "last",
    ais_betas: Annotated[int | None, typer.Option(min=2, help="Instead of evaluation.ais_betas.")] = None,
    ais_chains: Annotated[int | None, typer.Option(min=1, help="Instead of evaluation.ais_chains.")] = None,
    n_test: Annotated[int | None, typer.Option(min=1, help="Instead of evaluation.n_test.")] = None,
) -> None:
    """Measure a trained model, and add the figures to evaluations.jsonl in its folder.

    Groups of the recipe rbm: likelihood (bounds by AIS), pseudo_likelihood, reconstruction, free_energy, mixing.

    \b
    Examples:
      ebm-jax evaluate runs/rbm_mnist_pcd5
      ebm-jax evaluate runs/rbm_mnist_pcd5 --metrics likelihood --ais-betas 20000 --checkpoint best
    """
    with _run_errors():
        from ebm_jax.experiment.run import trained

        opened = trained.open_run(run, checkpoint)
        settings = {"ais_betas": ais_betas, "ais_chains": ais_chains, "n_test": n_test}
        groups = trained.check_groups(opened, metrics)
        found = trained.judge(opened, run, groups, settings)
        typer.echo(f"{run}, step {opened.step}")
        for name, value in found.items():
            typer.echo(f"  {name:<24}{value:>14.6g}")


@app.command()
def plot(
    runs: Annotated[
        list[Path], typer.Argument(exists=True, file_okay=False, help="Folders of finished runs.")
    ],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for figures and report.md.")],
) -> None:
    """Compare finished runs: figures, a table, and the finding in words.

    Files of an earlier comparison in the folder are replaced, others are left alone.

    \b
    Examples:
      ebm-jax plot runs/rbm_digits_* --out runs/comparison
    """
    with _run_errors():
        from ebm_jax.experiment.report import compare_runs

        compare_runs(runs, out)
        typer.echo(out / "report.md")


@app.command()
def sweep(
    configs: Annotated[list[Path], typer.Argument(metavar="CONFIG", help="YAML files.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder of the runs.")] = Path("runs"),
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    override: Overrides = None,
) -> None:
    """Train several configurations, each in a process of its own, and compare them.

    All files are checked first. A run that is complete is skipped, one that was interrupted is resumed, and one that
    fails does not stop the others. What a run prints goes to DIR/logs/NAME.log. Ctrl-C is passed on to the runs. A
    GPU is shared by several only with XLA_PYTHON_CLIENT_PREALLOCATE=false in the environment.

    \b
    Examples:
      ebm-jax sweep configs/rbm_digits_*.yaml --jobs 2
      ebm-jax sweep configs/rbm_mnist_cd*.yaml --out /tmp/cd -o training.n_epochs=3
    """
    with _errors():
        from ebm_jax.experiment.run.sweep import plan, run_sweep, table

        outcomes = run_sweep(plan(configs, out, override or ()), jobs)
    typer.echo("\n" + table(outcomes))
    if any(outcome.failed for outcome in outcomes):
        raise typer.Exit(1)


@data.command("list")
def list_data() -> None:
    """Show the data sets, their sizes, and where they were found or how to get them.

    \b
    Example:
      ebm-jax data list
    """
    from ebm_jax.cli.data_sets import table

    typer.echo(table())


@data.command("prepare")
def prepare_data(name: Annotated[str, typer.Argument(help="Data set, by the name in the list.")]) -> None:
    """Load a data set, so that the cache holds it; downloads it if it is nowhere.

    \b
    Examples:
      ebm-jax data prepare mnist
      EBM_JAX_DATA_DIR=/data ebm-jax data prepare binarized_mnist
    """
    from ebm_jax.cli.data_sets import check_name, prepare

    with _errors(usage=(ValueError,)):
        check_name(name)
    with _errors(failed=(OSError, ValueError)):
        typer.echo(prepare(name))


@app.command()
def doctor() -> None:
    """Report versions, devices, data sets and optional extras, and what is missing.

    \b
    Example:
      ebm-jax doctor
    """
    from ebm_jax.cli.doctor import report

    typer.echo(report())


def main() -> None:
    """Entry point of the `ebm-jax` script."""
    app(prog_name="ebm-jax")


if __name__ == "__main__":
    main()
