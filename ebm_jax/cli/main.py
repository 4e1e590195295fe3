"""The `ebm-jax` command. Exit codes: 0 for success, 1 for a run that failed, 2 for wrong usage.

This module does not import JAX. Each command imports its work when it runs, so that `--help` answers at once.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ebm_jax import __version__
from ebm_jax.cli.support import EvaluateCommand, error_messages, run_error_messages

# Loading rich for help and tracebacks would take longer than the rest of `--help`.
app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)
data = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data, name="data", help="List the data sets, or prepare one.")

Overrides = Annotated[
    list[str] | None,
    typer.Option("--override", "-o", metavar="KEY=VALUE", help="Set a value of the file; may be repeated."),
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]
Checkpoint = Annotated[str, typer.Option(help="last, best, or the step of a checkpoint.")]


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

    with error_messages():
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
    with error_messages():
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
    """Train the model that a configuration file describes, in a new run folder.

    The folder holds the configuration, metrics, checkpoints, samples, plots and report.md. It is never overwritten.
    SIGTERM and Ctrl-C end a run with a checkpoint, from which `resume` continues.

    \b
    Examples:
      ebm-jax train configs/rbm_digits_pcd1.yaml
      ebm-jax train configs/rbm_mnist_pcd5.yaml --out runs/slow --override training.learning_rate=0.01
    """
    with run_error_messages():
        from ebm_jax.experiment.config import load_config

        resolved = load_config(path, override or ())
        from ebm_jax.experiment.run.runner import train as train_run

        folder = out if out is not None else Path("runs") / resolved.name
        train_run(resolved, folder, ["ebm-jax", *sys.argv[1:]])


@app.command()
def resume(
    run: RunPath,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Train from the start if none of the checkpoints can be verified."),
    ] = False,
) -> None:
    """Continue a run that was stopped or killed from its newest checkpoint.

    A run without a checkpoint starts afresh. A finished run is left unchanged. The result is bit for bit that of a run
    that was never stopped. Checkpoints that cannot be verified are kept under other names.

    \b
    Examples:
      ebm-jax resume runs/rbm_mnist_pcd5
      ebm-jax resume runs/rbm_mnist_pcd5 --restart
    """
    with run_error_messages():
        from ebm_jax.experiment.run.runner import resume as resume_run

        resume_run(run, restart)


@app.command()
def sample(
    run: RunPath,
    output: Annotated[Path, typer.Option("--output", help="Picture (.png) or arrays (.npz) to write.")],
    num_samples: Annotated[int, typer.Option(min=1, help="Chains; each gives one sample.")] = 100,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of each chain; default: evaluation.chain_steps.")
    ] = None,
    frames: Annotated[Path | None, typer.Option(help="GIF of the chains, from noise to samples.")] = None,
    checkpoint: Checkpoint = "last",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the chains.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> None:
    """Draw samples from a trained model with chains that start at noise.

    \b
    Examples:
      ebm-jax sample runs/rbm_mnist_pcd5 --num-samples 100 --output x.png --frames x.gif
      ebm-jax sample runs/rbm_mnist_pcd5 --output draws.npz --checkpoint best --steps 5000
    """
    with run_error_messages():
        from ebm_jax.experiment.run import trained

        trained.check_outputs(output, frames, overwrite)
        opened = trained.open_run(run, checkpoint)
        trained.draw(opened, num_samples, steps, seed, output, frames)
        for path in (output, frames):
            if path is not None:
                typer.echo(path)


@app.command(cls=EvaluateCommand)
def evaluate(
    run: RunPath,
    metrics: Annotated[
        str | None, typer.Option(help="Groups of metrics, separated by commas (listed below); default: all.")
    ] = None,
    checkpoint: Checkpoint = "last",
    ais_betas: Annotated[int | None, typer.Option(min=2, help="Instead of evaluation.ais_betas.")] = None,
    ais_chains: Annotated[int | None, typer.Option(min=1, help="Instead of evaluation.ais_chains.")] = None,
    n_test: Annotated[int | None, typer.Option(min=1, help="Instead of evaluation.n_test.")] = None,
    override: Overrides = None,
) -> None:
    """Measure a trained model, and append the numbers to evaluations.jsonl in its folder.

    \b
    Examples:
      ebm-jax evaluate runs/rbm_mnist_pcd5
      ebm-jax evaluate runs/rbm_mnist_pcd5 --metrics likelihood --ais-betas 20000 --checkpoint best
      ebm-jax evaluate runs/rbm_mnist_pcd5 --metrics mixing -o evaluation.chain_steps=5000
    """
    with run_error_messages():
        from ebm_jax.experiment.run import trained

        opened = trained.open_run(run, checkpoint)
        settings = {"ais_betas": ais_betas, "ais_chains": ais_chains, "n_test": n_test}
        groups = trained.check_groups(opened, metrics)
        chosen = [f"evaluation.{name}={value}" for name, value in settings.items() if value is not None]
        found = trained.judge(opened, run, groups, [*chosen, *(override or ())])
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
    """Compare finished runs: figures, a table, and the findings in words.

    Runs that differ in seed alone are shown as their mean and spread. Files of an earlier comparison in the folder are
    replaced, others are left alone.

    \b
    Examples:
      ebm-jax plot runs/rbm_digits_* --out runs/comparison
    """
    with run_error_messages():
        from ebm_jax.experiment.report import compare_runs

        compare_runs(runs, out)
        typer.echo(out / "report.md")


@app.command()
def sweep(
    configs: Annotated[list[Path], typer.Argument(metavar="CONFIG", help="YAML files.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder of the runs.")] = Path("runs"),
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Train each file with this many seeds, 0, 1, …; the runs are named NAME-s0, NAME-s1, …",
        ),
    ] = None,
    override: Overrides = None,
) -> None:
    """Train several configurations, each in its own process, and list their final metrics.

    All files are checked first. A finished run is skipped, an interrupted run is resumed, and a run that fails does not
    stop the others. A file with `seeds: [0, 1, 2]` at its top level gives one run for each seed. The output of a run
    goes to DIR/logs/NAME.log. Ctrl-C is forwarded to the runs. Several runs can share a GPU only if the environment has
    XLA_PYTHON_CLIENT_PREALLOCATE=false.

    \b
    Examples:
      ebm-jax sweep configs/rbm_digits_*.yaml --jobs 2
      ebm-jax sweep configs/rbm_digits_pcd1.yaml --seeds 3
      ebm-jax sweep configs/rbm_mnist_cd*.yaml --out /tmp/cd -o training.n_epochs=3
    """
    with error_messages():
        from ebm_jax.experiment.run.plan import plan
        from ebm_jax.experiment.run.sweep import run_sweep, table

        outcomes = run_sweep(plan(configs, out, override or (), seeds), jobs)
    typer.echo("\n" + table(outcomes))
    if any(outcome.failed for outcome in outcomes):
        raise typer.Exit(1)


@data.command("list")
def list_data() -> None:
    """List the data sets, their sizes, and where they are or how to get them.

    \b
    Example:
      ebm-jax data list
    """
    from ebm_jax.cli.data_sets import table

    with error_messages():
        typer.echo(table())


@data.command("prepare")
def prepare_data(
    name: Annotated[str, typer.Argument(help="Name of a data set, as `ebm-jax data list` shows it.")],
) -> None:
    """Load a data set into the cache, and download it first if it is not on this machine.

    \b
    Examples:
      ebm-jax data prepare mnist
      EBM_JAX_DATA_DIR=/data ebm-jax data prepare binarized_mnist
    """
    from ebm_jax.cli.data_sets import check_name, prepare

    with error_messages(usage=(ValueError,)):
        check_name(name)
    with error_messages(failed=(OSError, ValueError)):
        typer.echo(prepare(name))


@app.command()
def classifier(
    name: Annotated[str, typer.Argument(help="Name of the data set: digits, mnist or fashion_mnist.")],
) -> None:
    """Train the classifier by which samples of a data set are judged, and keep it in the cache.

    \b
    Example:
      ebm-jax classifier mnist
    """
    from ebm_jax.metrics import classifier as classifiers

    with error_messages(usage=(ValueError,)):
        path = classifiers.path_of(name)
    with error_messages(failed=(OSError, ValueError)):
        found = classifiers.train(name)
    typer.echo(
        f"{name}: {found.accuracy:.2%} of the test set read correctly\nSHA-256: {found.sha256}\nfile: {path}"
    )


@app.command()
def doctor() -> None:
    """Report versions, devices, data sets, optional extras, and what is missing.

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
