"""The demonstration behind `ebm-jax demo`: two models learn handwritten digits and then draw new ones from noise.

Both see the 8×8 digits that come with scikit-learn, in four grey levels:

- a Potts grid, whose energy has a bias for every pixel and level and one coupling for each direction. It can know how
  dark each pixel usually is and how alike neighbours are, and nothing of strokes: it serves as the baseline;
- an RBM of binary units, three a pixel ("level at least 1, 2, 3"), whose hidden units can know strokes.

Both learn by persistent contrastive divergence, and their samples are the ends of Gibbs chains that start at noise.
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
from ebm_jax.graphs.blocks import SamplingSchedule
from ebm_jax.graphs.grids import Grid
from ebm_jax.run import init_chains, sample
from ebm_jax.samplers.gibbs import gibbs
from ebm_jax.training import fit, negatives
from ebm_jax.types import count_parameters

N_LEVELS = 4
SHAPE = (8, 8)
WATCHED = 64  # steps at the start of the chains that are kept one by one
MARKER = ".ebm-jax-demo"
FILES = {
    "digits.png": "real digits beside samples of both models",
    "energies.png": "energies of data, samples and noise",
    "training.png": "training curves",
    "chains.png": "RBM chains on their way from noise to digits",
    "chains.gif": "the same, moving",
    "filters.png": "weights of the RBM's hidden units",
    "potts.npz": "the Potts grid, for ebm_jax.load",
    "rbm.npz": "the RBM, for ebm_jax.load",
}


@dataclass(frozen=True)
class Recipe:
    """How long the demonstration trains and samples.

    Learning rates fall linearly to zero; the RBM's first rises, from a twentieth, for `warmup_epochs`. `n_steps` is at
    least `WATCHED`.
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


class Trained(NamedTuple):
    """A model after training, what its chains drew, and the seconds that took.

    frames: levels, uint8 `(n_frames, n_chains, 8, 8)`: the RBM's at steps 0 … WATCHED and the last, the Potts grid's at
    the first and the last. energies: of data, samples (the last frame) and noise (the first), `(n,)` each.
    """

    model: Any
    params: Any
    metrics: Any
    frames: np.ndarray
    energies: dict[str, np.ndarray]
    compiling: float
    training: float
    sampling: float


def run_demo(out: Path, seed: int, recipe: Recipe | None = None) -> None:
    """Trains a Potts grid and an RBM on digits, draws new ones from noise, and writes figures and models to `out`.

    The same seed writes the same files on the same machine and versions. `out` is made if need be and marked by a file
    `.ebm-jax-demo`; in a folder that has it, the files of an earlier demonstration are replaced and others left alone.
    Raises FileExistsError, before any work, when `out` holds files and no mark.
    """
    recipe = recipe or Recipe()
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
    potts = _train_potts(potts_key, train, recipe)
    print("Training an RBM …", flush=True)
    rbm = _train_rbm(rbm_key, train, recipe)
    print("Drawing the figures …", flush=True)
    _write(out, train, potts, rbm, recipe)
    print(_table(train, potts, rbm, recipe))
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
    """Turns levels `(n, 8, 8)` into bits, uint8 `(n, 192)`: bit k = 0, 1, 2 of a pixel says its level exceeds k."""
    bits = levels[..., None] > np.arange(N_LEVELS - 1)
    return bits.reshape(len(levels), -1).astype(np.uint8)


def from_thermometer(bits: np.ndarray) -> np.ndarray:
    """Turns bits `(..., 192)` into levels, uint8 `(..., 8, 8)`: the number of a pixel's bits that are on."""
    return bits.reshape(*bits.shape[:-1], *SHAPE, N_LEVELS - 1).sum(axis=-1).astype(np.uint8)


def nearest(levels: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distance Σ |difference of levels| from each image to the nearest of `train`, and which that is."""
    a, b = (thermometer(x).astype(np.float32) for x in (levels, train))
    # The distance of levels is that of their bits, and |a − b| = a + b − 2ab for bits.
    distance = a.sum(axis=1)[:, None] + b.sum(axis=1) - 2 * a @ b.T
    return distance.min(axis=1), distance.argmin(axis=1)


def _claim(out: Path) -> None:
    """Makes the folder and marks it as the demonstration's."""
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()) and not (out / MARKER).exists():
        raise FileExistsError(
            f"{out} holds files that no demo wrote; name another folder with --out, or empty it"
        )
    (out / MARKER).write_text(
        "Made by `ebm-jax demo`, which replaces its own files here.\n", encoding="utf-8"
    )


def _train_potts(key: jax.Array, train: np.ndarray, recipe: Recipe) -> Trained:
    model = Potts(Grid(*SHAPE), N_LEVELS)
    # Independent pixels are where training starts; one is added to every count, since none may be zero.
    log_counts = np.log(np.stack([(train == level).sum(axis=0) + 1 for level in range(N_LEVELS)], axis=-1))
    bias = jnp.asarray(log_counts - log_counts.mean(axis=-1, keepdims=True), jnp.float32)
    params = PottsParams(bias, model.init(jax.random.fold_in(key, 0)).coupling)
    n_updates = recipe.potts_epochs * (len(train) // recipe.batch_size)
    tx = optax.adam(optax.linear_schedule(recipe.potts_rate, 0.0, n_updates))
    return _train(key, model, params, train, tx, recipe.potts_epochs, recipe, model.energy, np.asarray)


def _train_rbm(key: jax.Array, train: np.ndarray, recipe: Recipe) -> Trained:
    bits = thermometer(train)
    model = RBM(bits.shape[1], recipe.n_hidden)
    # Visible biases at the log-odds of each bit: Hinton (2012), "A practical guide to training RBMs", §8.
    mean = (bits.sum(axis=0) + 1) / (len(bits) + 2)
    bias = jnp.asarray(np.log(mean / (1 - mean)), jnp.float32)
    params = model.init(jax.random.fold_in(key, 0))._replace(visible_bias=bias)
    n_batches = len(train) // recipe.batch_size
    rise, fall = (n * n_batches for n in (recipe.warmup_epochs, recipe.rbm_epochs - recipe.warmup_epochs))
    up = optax.linear_schedule(recipe.rbm_rate / 20, recipe.rbm_rate, rise)
    down = optax.linear_schedule(recipe.rbm_rate, 0.0, fall)
    decayed: Any = (True, False, False)  # weights, and no bias
    decay = optax.add_decayed_weights(recipe.weight_decay, mask=RBMParams(*decayed))
    tx = optax.chain(decay, optax.sgd(optax.join_schedules([up, down], [rise])))
    return _train(
        key, model, params, bits, tx, recipe.rbm_epochs, recipe, model.free_energy, from_thermometer
    )


def _train(
    key: jax.Array,
    model: Any,
    params: Any,
    x: np.ndarray,
    tx: optax.GradientTransformation,
    n_epochs: int,
    recipe: Recipe,
    energy: Callable[..., jax.Array],
    to_levels: Callable[[np.ndarray], np.ndarray],
) -> Trained:
    """Trains on `x`, configurations of the visible sites, then runs chains from noise."""
    kernel = gibbs(model)
    clock = [time.perf_counter()]
    result = fit(
        jax.random.fold_in(key, 1),
        model,
        x,
        tx=tx,
        negatives=negatives.pcd(kernel, 1, recipe.n_negatives),
        n_epochs=n_epochs,
        batch_size=recipe.batch_size,
        params=params,
        progress=sys.stderr.isatty(),
        callback=lambda *_: clock.append(time.perf_counter()),
    )
    # The first epoch is the one that waits for the compiler.
    epochs = np.diff(clock)
    compiling = max(float(epochs[0] - np.median(epochs)), 0.0)
    training = clock[-1] - clock[0] - compiling

    params, start = result.state.params, time.perf_counter()
    draws = jax.random.fold_in(key, 3)
    noise = init_chains(jax.random.fold_in(key, 2), model, recipe.n_chains)
    state, n_left, runs = noise, recipe.n_steps, [jax.tree.map(lambda leaf: leaf[None], noise)]
    if isinstance(model, RBM):  # the one whose way from noise is shown
        watched = sample(draws, kernel, params, noise, SamplingSchedule(0, WATCHED + 1))
        state, n_left, runs = watched.state, recipe.n_steps - WATCHED, [watched.positions]
    runs.append(sample(draws, kernel, params, state, SamplingSchedule(n_left, 1)).positions)
    frames = np.concatenate([run[0] if isinstance(run, tuple) else run for run in runs])
    sampling = time.perf_counter() - start

    energies = jax.jit(jax.vmap(energy, (None, 0)))
    groups = {"data": x, "samples": frames[-1], "noise": frames[0]}
    of = {name: np.asarray(energies(params, group)) for name, group in groups.items()}
    return Trained(model, params, result.metrics, to_levels(frames), of, compiling, training, sampling)


def _write(out: Path, train: np.ndarray, potts: Trained, rbm: Trained, recipe: Recipe) -> None:
    samples = {"RBM samples": rbm.frames[-1][:100], "Potts grid samples": potts.frames[-1][:100]}
    energies = {"Potts grid: energy E(x)": potts.energies, "RBM: free energy F(v)": rbm.energies}
    moments = [0, 1, 2, 4, 8, 16, 32, WATCHED, -1]
    weights = rbm.params.weights.reshape(-1, N_LEVELS - 1, recipe.n_hidden).sum(axis=1)[:, :100]
    figures = {
        "digits.png": plots.compare({"Real digits": train[:100], **samples}, 10, n_levels=N_LEVELS),
        "energies.png": plots.energy_histogram(energies),
        "training.png": plots.training_curves({"Potts grid": potts.metrics, "RBM": rbm.metrics}),
        "chains.png": plots.chain_strip(
            rbm.frames[moments, :8], [*moments[:-1], recipe.n_steps], n_levels=N_LEVELS
        ),
        "filters.png": plots.rbm_filters(weights, SHAPE, 10, title="Weights of hidden units, by pixel"),
    }
    for name, figure in figures.items():
        figure.savefig(out / name, dpi=120, metadata={"Software": None})
    stay = [800, *[80] * (len(rbm.frames) - 2), 3000]
    plots.animate(rbm.frames[:, :20], out / "chains.gif", 10, n_levels=N_LEVELS, milliseconds=stay)
    for name, trained in (("potts.npz", potts), ("rbm.npz", rbm)):
        io.save(out / name, trained.model, trained.params, overwrite=True)


def _table(train: np.ndarray, potts: Trained, rbm: Trained, recipe: Recipe) -> str:
    """What was done, and how long it took."""
    both = (potts, rbm)
    updates = len(train) // recipe.batch_size
    rows = [
        ("", "Potts grid", "RBM"),
        ("parameters", *(f"{count_parameters(m.params):,}" for m in both)),
        ("epochs × updates", f"{recipe.potts_epochs} × {updates}", f"{recipe.rbm_epochs} × {updates}"),
        ("chains for negatives", *(f"{recipe.n_negatives}" for _ in both)),
        ("compiling", *(f"{m.compiling:.1f} s" for m in both)),
        ("training", *(f"{m.training:.1f} s" for m in both)),
        (f"{recipe.n_chains} chains × {recipe.n_steps:,} steps", *(f"{m.sampling:.1f} s" for m in both)),
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
    """How near images are to real ones, the held-out digits setting the measure."""
    distances = {name: nearest(x, train) for name, x in groups.items()}
    limit = np.quantile(next(iter(distances.values()))[0], 0.95)
    lines = [f"  {'':<20}{'near':>8}{'distance':>10}{'copies':>8}   nearest is a 0, 1, … 9 (%)"]
    for name, (distance, row) in distances.items():
        near, copies = (f"{100 * np.mean(part):.0f} %" for part in (distance <= limit, distance == 0))
        classes = 100 * np.bincount(labels[row], minlength=10) / len(row)
        shown = " ".join(f"{share:2.0f}" for share in classes) if name != "noise" else ""
        lines.append(f"  {name:<20}{near:>8}{distance.mean():>10.1f}{copies:>8}   {shown}")
    return (
        "\n" + "\n".join(lines) + "\n"
        "  distance: summed difference in level to the nearest training digit; near: no farther than 95 % of\n"
        "  held-out digits; copies: equal to a training digit. A Potts grid that couples nearest neighbours knows\n"
        "  how dark each pixel is and how alike neighbours are: no strokes, so its samples are no digits."
    )
