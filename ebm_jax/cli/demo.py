"""The demonstration behind `ebm-jax demo`: two models learn handwritten digits and draw new ones from noise.

Both models are trained on the 8×8 digits that come with scikit-learn, in four grey levels:

- A Potts grid. Its energy has a bias for every pixel and level, and one coupling for each direction. It can learn how
  dark each pixel usually is and how similar neighbours are, but no strokes. It serves as the baseline.
- An RBM of binary units, three for each pixel ("level at least 1, 2, 3"). Its hidden units can learn strokes.

Both are trained by persistent contrastive divergence. Their samples are the ends of Gibbs chains that start at noise.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ebm_jax import data, io, plots
from ebm_jax.energies.potts import Potts, PottsParams
from ebm_jax.energies.rbm import RBM, RBMParams
from ebm_jax.experiment import files
from ebm_jax.graphs.blocks import SamplingSchedule
from ebm_jax.graphs.grids import Grid
from ebm_jax.run import sample
from ebm_jax.samplers.gibbs import gibbs
from ebm_jax.samplers.start import init_chains
from ebm_jax.training import fit, negatives
from ebm_jax.types import count_parameters

N_LEVELS = 4
SHAPE = (8, 8)
# Every one of the first steps of the RBM's chains is kept, for the figure of chains.
WATCHED = 64
MARKER = ".ebm-jax-demo"
FILES = {
    "digits.png": "real digits beside samples of both models",
    "energies.png": "energies of data, samples and noise",
    "training.png": "training curves",
    "chains.png": "RBM chains, from noise to digits",
    "chains.gif": "the same chains, animated",
    "filters.png": "weights of the RBM's hidden units",
    "potts.npz": "the Potts grid, for ebm_jax.load",
    "rbm.npz": "the RBM, for ebm_jax.load",
}


@dataclass(frozen=True)
class Settings:
    """How long the demonstration trains and samples.

    Learning rates fall linearly to zero. That of the RBM first rises for `warmup_epochs`, from a twentieth of its
    maximum. `n_steps` is at least `WATCHED`.
    """

    potts_epochs: int = 40
    potts_rate: float = 0.02
    rbm_epochs: int = 200
    rbm_rate: float = 0.2
    warmup_epochs: int = 10
    weight_decay: float = 1e-4
    n_hidden: int = 256
    batch_size: int = 100
    n_negatives: int = 512
    n_chains: int = 200
    n_steps: int = 1000


class Result(NamedTuple):
    """A trained model, the draws of its chains, and how long both took.

    Attributes:
      model: The model.
      params: Its trained parameters.
      metrics: What `fit` returns.
      frames: Levels, uint8 `(n_frames, n_chains, 8, 8)`. The RBM has frames at steps 0 … WATCHED and at the last step,
        the Potts grid at the first and the last step.
      energies: Energies `(n,)` of the data, of samples (the last frame) and of noise (the first frame).
      compiling: Seconds of compiling.
      training: Seconds of training, without compiling.
      sampling: Seconds of sampling.
    """

    model: Any
    params: Any
    metrics: Any
    frames: np.ndarray
    energies: dict[str, np.ndarray]
    compiling: float
    training: float
    sampling: float


def run_demo(out: Path, seed: int, settings: Settings | None = None) -> None:
    """Trains a Potts grid and an RBM on digits, draws new digits from noise, and writes figures and models.

    On the same machine and versions, the same seed writes the same files.

    Args:
      out: Folder for the files. It is made if need be, and marked by a file `.ebm-jax-demo`. In a marked folder, the
        files of an earlier demonstration are replaced and other files are left alone.
      seed: Seed of all randomness.
      settings: How long to train and sample; default: as long as the shipped figures need.

    Raises:
      FileExistsError: Before any work, if `out` holds files and no mark.
    """
    settings = settings or Settings()
    start = time.perf_counter()
    _claim(out)
    digits = data.load("digits")
    train, test = (
        np.asarray(data.discretize(split.images, N_LEVELS)) for split in (digits.train, digits.test)
    )
    print(
        f"{len(train):,} digits to train on, {len(test)} held out; 8×8 pixels, {N_LEVELS} grey levels",
        flush=True,
    )
    potts_key, rbm_key = jax.random.split(jax.random.key(seed))
    print("Training a Potts grid …", flush=True)
    potts = _train_potts(potts_key, train, settings)
    print("Training an RBM …", flush=True)
    rbm = _train_rbm(rbm_key, train, settings)
    print("Drawing the figures …", flush=True)
    _write(out, train, potts, rbm, settings)
    print(_table(train, potts, rbm, settings))
    groups = {
        "held-out digits": test,
        "RBM samples": rbm.frames[-1],
        "Potts grid samples": potts.frames[-1],
        "noise": rbm.frames[0],
    }
    print(_quality(train, np.asarray(digits.train.labels), groups))
    print("\n" + "\n".join(f"  {out / name!s:<28} {what}" for name, what in FILES.items()))
    print(f"\nDone in {time.perf_counter() - start:.0f} s.")


def thermometer(levels: np.ndarray) -> np.ndarray:
    """Turns levels `(n, 8, 8)` into bits, uint8 `(n, 192)`. Bit k = 0, 1, 2 of a pixel is 1 if its level exceeds k."""
    bits = levels[..., None] > np.arange(N_LEVELS - 1)
    return bits.reshape(len(levels), -1).astype(np.uint8)


def from_thermometer(bits: np.ndarray) -> np.ndarray:
    """Turns bits `(..., 192)` into levels, uint8 `(..., 8, 8)`: the sum of the three bits of a pixel."""
    return bits.reshape(*bits.shape[:-1], *SHAPE, N_LEVELS - 1).sum(axis=-1).astype(np.uint8)


def nearest(levels: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the training image nearest to each image.

    Args:
      levels: Images, integers `(n, 8, 8)`.
      train: Training images, integers `(n_train, 8, 8)`.

    Returns:
      `(distance, row)`, arrays `(n,)`: the distance Σ |difference of levels| to the nearest training image, and the row
      of that image.
    """
    a, b = (thermometer(x).astype(np.float32) for x in (levels, train))
    # The distance between levels is the distance between their bits, and |a − b| = a + b − 2ab for bits.
    distance = a.sum(axis=1)[:, None] + b.sum(axis=1) - 2 * a @ b.T
    return distance.min(axis=1), distance.argmin(axis=1)


def _claim(out: Path) -> None:
    """Makes the folder and marks it as a folder of the demonstration."""
    if out.exists() and any(out.iterdir()) and not (out / MARKER).exists():
        raise FileExistsError(
            f"{out} holds files that no demo wrote; name another folder with --out, or empty it"
        )
    files.write(out, MARKER, b"Made by `ebm-jax demo`, which replaces its own files here.\n")


def _train_potts(key: jax.Array, train: np.ndarray, settings: Settings) -> Result:
    model = Potts(Grid(*SHAPE), N_LEVELS)
    # Training starts from independent pixels. One is added to every count, because the logarithm of 0 is not finite.
    log_counts = np.log(np.stack([(train == level).sum(axis=0) + 1 for level in range(N_LEVELS)], axis=-1))
    bias = jnp.asarray(log_counts - log_counts.mean(axis=-1, keepdims=True), jnp.float32)
    params = PottsParams(bias, model.init(jax.random.fold_in(key, 0)).coupling)
    n_updates = settings.potts_epochs * (len(train) // settings.batch_size)
    tx = optax.adam(optax.linear_schedule(settings.potts_rate, 0.0, n_updates))
    return _train(key, model, params, train, tx, settings.potts_epochs, settings, model.energy, np.asarray)


def _train_rbm(key: jax.Array, train: np.ndarray, settings: Settings) -> Result:
    bits = thermometer(train)
    model = RBM(bits.shape[1], settings.n_hidden)
    # Visible biases at the log-odds of each bit: Hinton (2012), "A practical guide to training RBMs", §8.
    mean = (bits.sum(axis=0) + 1) / (len(bits) + 2)
    bias = jnp.asarray(np.log(mean / (1 - mean)), jnp.float32)
    params = model.init(jax.random.fold_in(key, 0))._replace(visible_bias=bias)
    n_batches = len(train) // settings.batch_size
    warmup_steps, decay_steps = (
        n * n_batches for n in (settings.warmup_epochs, settings.rbm_epochs - settings.warmup_epochs)
    )
    up = optax.linear_schedule(settings.rbm_rate / 20, settings.rbm_rate, warmup_steps)
    down = optax.linear_schedule(settings.rbm_rate, 0.0, decay_steps)
    # Weights decay, biases do not.
    decayed: Any = (True, False, False)
    decay = optax.add_decayed_weights(settings.weight_decay, mask=RBMParams(*decayed))
    tx = optax.chain(decay, optax.sgd(optax.join_schedules([up, down], [warmup_steps])))
    return _train(
        key, model, params, bits, tx, settings.rbm_epochs, settings, model.free_energy, from_thermometer
    )


def _train(
    key: jax.Array,
    model: Any,
    params: Any,
    x: np.ndarray,
    tx: optax.GradientTransformation,
    n_epochs: int,
    settings: Settings,
    energy: Callable[..., jax.Array],
    to_levels: Callable[[np.ndarray], np.ndarray],
) -> Result:
    """Trains on `x`, configurations of the visible sites, and then runs chains from noise."""
    kernel = gibbs(model)
    clock = [time.perf_counter()]
    result = fit(
        jax.random.fold_in(key, 1),
        model,
        x,
        tx=tx,
        negatives=negatives.pcd(kernel, 1, settings.n_negatives),
        n_epochs=n_epochs,
        batch_size=settings.batch_size,
        params=params,
        progress=sys.stderr.isatty(),
        callback=lambda *_: clock.append(time.perf_counter()),
    )
    # The first epoch includes the compilation.
    epochs = np.diff(clock)
    compiling = max(float(epochs[0] - np.median(epochs)), 0.0)
    training = clock[-1] - clock[0] - compiling

    params, start = result.state.params, time.perf_counter()
    draws = jax.random.fold_in(key, 3)
    noise = init_chains(jax.random.fold_in(key, 2), model, settings.n_chains)
    state, n_left, runs = noise, settings.n_steps, [jax.tree.map(lambda leaf: leaf[None], noise)]
    # The figures of chains show those of the RBM alone.
    if isinstance(model, RBM):
        watched = sample(draws, kernel, params, noise, SamplingSchedule(0, WATCHED + 1))
        state, n_left, runs = watched.state, settings.n_steps - WATCHED, [watched.positions]
    runs.append(sample(draws, kernel, params, state, SamplingSchedule(n_left, 1)).positions)
    frames = np.concatenate([run[0] if isinstance(run, tuple) else run for run in runs])
    sampling = time.perf_counter() - start

    energies = jax.jit(jax.vmap(energy, (None, 0)))
    groups = {"data": x, "samples": frames[-1], "noise": frames[0]}
    energies_of = {name: np.asarray(energies(params, group)) for name, group in groups.items()}
    return Result(
        model, params, result.metrics, to_levels(frames), energies_of, compiling, training, sampling
    )


def _write(out: Path, train: np.ndarray, potts: Result, rbm: Result, settings: Settings) -> None:
    samples = {"RBM samples": rbm.frames[-1][:100], "Potts grid samples": potts.frames[-1][:100]}
    energies = {"Potts grid: energy E(x)": potts.energies, "RBM: free energy F(v)": rbm.energies}
    moments = [0, 1, 2, 4, 8, 16, 32, WATCHED, -1]
    weights = rbm.params.weights.reshape(-1, N_LEVELS - 1, settings.n_hidden).sum(axis=1)[:, :100]
    figures = {
        "digits.png": plots.compare({"Real digits": train[:100], **samples}, 10, n_levels=N_LEVELS),
        "energies.png": plots.energy_histogram(energies),
        "training.png": plots.training_curves({"Potts grid": potts.metrics, "RBM": rbm.metrics}),
        "chains.png": plots.chain_strip(
            rbm.frames[moments, :8], [*moments[:-1], settings.n_steps], n_levels=N_LEVELS
        ),
        "filters.png": plots.rbm_filters(weights, SHAPE, 10, title="Weights of hidden units, by pixel"),
    }
    for name, figure in figures.items():
        with files.written(out, name) as path:
            figure.savefig(path, dpi=120, metadata={"Software": None})
    durations = [800, *[80] * (len(rbm.frames) - 2), 3000]
    with files.written(out, "chains.gif") as path:
        plots.animate(rbm.frames[:, :20], path, 10, n_levels=N_LEVELS, milliseconds=durations)
    for name, trained in (("potts.npz", potts), ("rbm.npz", rbm)):
        with files.written(out, name) as path:
            io.save(path, trained.model, trained.params, overwrite=True)


def _table(train: np.ndarray, potts: Result, rbm: Result, settings: Settings) -> str:
    """Returns a table of what was done and how long it took."""
    both = (potts, rbm)
    updates = len(train) // settings.batch_size
    rows = [
        ("", "Potts grid", "RBM"),
        ("parameters", *(f"{count_parameters(m.params):,}" for m in both)),
        ("epochs × updates", f"{settings.potts_epochs} × {updates}", f"{settings.rbm_epochs} × {updates}"),
        ("chains for negatives", *(f"{settings.n_negatives}" for _ in both)),
        ("compiling", *(f"{m.compiling:.1f} s" for m in both)),
        ("training", *(f"{m.training:.1f} s" for m in both)),
        (f"{settings.n_chains} chains × {settings.n_steps:,} steps", *(f"{m.sampling:.1f} s" for m in both)),
        ("mean energy of data", *(f"{m.energies['data'].mean():.1f}" for m in both)),
        ("            of samples", *(f"{m.energies['samples'].mean():.1f}" for m in both)),
        ("            of noise", *(f"{m.energies['noise'].mean():.1f}" for m in both)),
    ]
    lines = [f"  {name:<26}{a:>12}{b:>12}" for name, a, b in rows]
    return (
        "\n"
        + "\n".join(lines)
        + "\n  (E(x) of the Potts grid, F(v) of the RBM; sampling includes its compiling)"
    )


def _quality(train: np.ndarray, labels: np.ndarray, groups: dict[str, np.ndarray]) -> str:
    """Returns a table of how close images are to real digits, measured against the held-out digits."""
    distances = {name: nearest(x, train) for name, x in groups.items()}
    limit = np.quantile(next(iter(distances.values()))[0], 0.95)
    lines = [f"  {'':<20}{'near':>8}{'distance':>10}{'copies':>8}   nearest is a 0, 1, … 9 (%)"]
    for name, (distance, row) in distances.items():
        close, copies = (f"{100 * np.mean(part):.0f} %" for part in (distance <= limit, distance == 0))
        classes = 100 * np.bincount(labels[row], minlength=10) / len(row)
        shown = " ".join(f"{share:2.0f}" for share in classes) if name != "noise" else ""
        lines.append(f"  {name:<20}{close:>8}{distance.mean():>10.1f}{copies:>8}   {shown}")
    return (
        "\n" + "\n".join(lines) + "\n"
        "  distance: summed difference in level to the nearest training digit; near: no farther than 95 % of\n"
        "  held-out digits; copies: equal to a training digit. The Potts grid couples nearest neighbours only: it\n"
        "  knows how dark each pixel is and how similar neighbours are, but no strokes. Its samples are not digits."
    )
