"""The demonstration behind `ebm-jax demo`: two models of handwritten digits, trained and then dreamt from noise.

Both see the 8×8 digits that come with scikit-learn in four grey levels:

- a Potts grid, whose energy has a bias for every pixel and level and one coupling for each direction. It can know how
  dark each pixel is on average and how alike neighbours are, and nothing of strokes: the baseline;
- an RBM of binary units, three a pixel ("at least level 1, 2, 3"), whose hidden units can know strokes.

Both learn by persistent contrastive divergence, and new digits are drawn by Gibbs chains that start at noise.
"""

from __future__ import annotations

import functools
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ebm_jax import data, io, plots
from ebm_jax.blocks import SamplingSchedule
from ebm_jax.energies.potts import Potts, PottsParams
from ebm_jax.energies.rbm import RBM, RBMParams
from ebm_jax.graphs import Grid
from ebm_jax.run import init_chains, sample
from ebm_jax.samplers.gibbs import gibbs
from ebm_jax.training import fit, negatives
from ebm_jax.types import count_parameters

N_LEVELS = 4
MARKER = ".ebm-jax-demo"
FILES = (
    "digits.png",
    "energies.png",
    "training.png",
    "chains.png",
    "chains.gif",
    "filters.png",
    "potts.npz",
    "rbm.npz",
)
WATCHED = 64  # steps at the start of the chains that are kept one by one
_SHAPE = (8, 8)


@dataclass(frozen=True)
class Recipe:
    """How long the demonstration trains and samples; learning rates fall linearly to zero."""

    potts_epochs: int = 40
    potts_rate: float = 0.02
    rbm_epochs: int = 250
    rbm_rate: float = 0.2
    n_hidden: int = 256
    weight_decay: float = 1e-4
    batch_size: int = 100
    n_training_chains: int = 256
    n_chains: int = 200
    n_steps: int = 1000


class _Trained(NamedTuple):
    """A model after training, what it drew, and what that took.

    frames: levels of the chains, uint8 `(WATCHED + 2, n_chains, 8, 8)`: at steps 0 … WATCHED, and at the last. energies: of
    data, samples (the last frame) and noise (the first). compiling, training, sampling: seconds.
    """

    model: Any
    params: Any
    metrics: Any
    frames: np.ndarray
    energies: dict[str, np.ndarray]
    compiling: float
    training: float
    sampling: float

    @property
    def levels(self) -> np.ndarray:
        """The samples."""
        return self.frames[-1]


def run_demo(out: Path, seed: int, recipe: Recipe | None = None) -> None:
    """Trains a Potts grid and an RBM on digits, draws new ones from noise, and writes figures and models to `out`.

    The same seed writes the same files, on the same machine and versions. `out` is made if need be and marked by a file
    named `.ebm-jax-demo`: in a folder that has it, the files of an earlier demonstration are replaced and others left
    alone. Raises FileExistsError when `out` holds files and no mark, before any work.
    """
    recipe = recipe or Recipe()
    started = time.perf_counter()
    _claim(out)
    digits = data.load("digits")
    train, test = (data.discretize(split.images, N_LEVELS) for split in (digits.train, digits.test))
    keys = jax.random.split(jax.random.key(seed), 2)
    print(f"Digits: {len(train):,} to train on, {len(test)} held out, 8×8 pixels, {N_LEVELS} grey levels")
    print("Training a Potts grid, then an RBM, by persistent contrastive divergence …", flush=True)
    potts = _train_potts(keys[0], train, recipe)
    rbm = _train_rbm(keys[1], train, recipe)
    print("Drawing figures …", flush=True)
    _write(out, train, potts, rbm, [0, 1, 2, 4, 8, 16, 32, 64, -1])
    _report(out, train, test, digits.train.labels, {"Potts grid": potts, "RBM": rbm}, recipe, started)


def thermometer(levels: Any, n_levels: int = N_LEVELS) -> Any:
    """Turns levels `(n, height, width)` into bits `(n, height · width · (K − 1))`: bit k of a pixel says level > k."""
    bits = levels[..., None] > np.arange(n_levels - 1, dtype=np.uint8)
    return bits.reshape(len(levels), -1).astype(np.uint8)


def from_thermometer(bits: Any, shape: tuple[int, int] = _SHAPE, n_levels: int = N_LEVELS) -> Any:
    """Turns bits `(..., height · width · (K − 1))` into levels: the number of bits that are on at a pixel."""
    return bits.reshape(*bits.shape[:-1], *shape, n_levels - 1).sum(axis=-1).astype(np.uint8)


def nearest(levels: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distance Σ |difference in level| of each image to the nearest of `train`, and that one's row."""
    bits, known = (thermometer(x).astype(np.float32) for x in (levels, train))
    # For bits |a − b| = a + b − 2ab, and the levels' distance is that of their thermometers.
    distance = bits.sum(1)[:, None] + known.sum(1)[None] - 2 * bits @ known.T
    return distance.min(axis=1), distance.argmin(axis=1)


def _claim(out: Path) -> None:
    """Makes the folder and marks it as the demonstration's own."""
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()) and not (out / MARKER).exists():
        raise FileExistsError(
            f"{out} holds files that no demo wrote; choose another folder with --out, or empty this one"
        )
    (out / MARKER).write_text("`ebm-jax demo` made this folder and replaces its files in it.\n")


def _train_potts(key: jax.Array, train: np.ndarray, recipe: Recipe) -> _Trained:
    model = Potts(Grid(*_SHAPE), N_LEVELS)
    # Start from independent pixels at their own frequencies; a count is added to each so that all are positive.
    counts = np.stack([(train == level).sum(axis=0) + 1.0 for level in range(N_LEVELS)], axis=-1)
    bias = np.log(counts) - np.log(counts).mean(axis=-1, keepdims=True)
    coupling = model.init(jax.random.fold_in(key, 0)).coupling
    params = PottsParams(jnp.asarray(bias, jnp.float32), coupling)
    tx = optax.adam(_rate(recipe.potts_rate, recipe.potts_epochs, len(train), recipe))
    energy = model.energy
    return _train(key, "Potts", model, params, train, tx, recipe.potts_epochs, recipe, energy, np.asarray)


def _train_rbm(key: jax.Array, train: np.ndarray, recipe: Recipe) -> _Trained:
    bits = thermometer(train)
    model = RBM(bits.shape[1], recipe.n_hidden)
    # Visible biases at the log-odds of each bit, as in Hinton (2012), "A practical guide", §8.
    mean = (bits.sum(axis=0) + 1.0) / (len(bits) + 2.0)
    params = model.init(jax.random.fold_in(key, 0))
    params = params._replace(visible_bias=jnp.asarray(np.log(mean / (1 - mean)), jnp.float32))
    decay = optax.add_decayed_weights(recipe.weight_decay, mask=RBMParams(True, False, False))
    tx = optax.chain(decay, optax.sgd(_rate(recipe.rbm_rate, recipe.rbm_epochs, len(train), recipe)))
    return _train(
        key, "RBM", model, params, bits, tx, recipe.rbm_epochs, recipe, model.free_energy, from_thermometer
    )


def _rate(start: float, n_epochs: int, n: int, recipe: Recipe) -> optax.Schedule:
    return optax.linear_schedule(start, 0.0, n_epochs * (n // recipe.batch_size))


def _train(
    key: jax.Array,
    name: str,
    model: Any,
    params: Any,
    x: np.ndarray,
    tx: Any,
    n_epochs: int,
    recipe: Recipe,
    energy: Any,
    to_levels: Any,
) -> _Trained:
    """Trains by PCD and runs chains from noise. `x` are configurations of the visible sites."""
    kernel = gibbs(model)
    seconds = [time.perf_counter()]
    result = fit(
        jax.random.fold_in(key, 1),
        model,
        x,
        tx=tx,
        negatives=negatives.pcd(kernel, 1, recipe.n_training_chains),
        n_epochs=n_epochs,
        batch_size=recipe.batch_size,
        params=params,
        progress=sys.stderr.isatty(),
        callback=lambda *_: seconds.append(time.perf_counter()),
    )
    epochs = np.diff(seconds)
    compiling = max(float(epochs[0] - np.median(epochs)), 0.0)
    params = result.state.params

    start = time.perf_counter()
    noise = init_chains(jax.random.fold_in(key, 2), model, recipe.n_chains)
    draws = jax.random.fold_in(key, 3)
    early = sample(draws, kernel, params, noise, SamplingSchedule(0, WATCHED + 1))
    late = sample(draws, kernel, params, early.state, SamplingSchedule(recipe.n_steps - WATCHED, 1))
    visible = np.concatenate(
        [
            np.asarray(model.visible(run.positions) if hasattr(model, "visible") else run.positions)
            for run in (early, late)
        ]
    )
    sampling = time.perf_counter() - start

    of = jax.jit(jax.vmap(functools.partial(energy, params)))
    energies = {"data": x, "samples": visible[-1], "noise": visible[0]}
    energies = {who: np.asarray(of(values)) for who, values in energies.items()}
    training = seconds[-1] - seconds[0] - compiling
    return _Trained(
        model, params, result.metrics, to_levels(visible), energies, compiling, training, sampling
    )


def _write(out: Path, train: np.ndarray, potts: _Trained, rbm: _Trained, moments: list[int]) -> None:
    def save(figure: Any, name: str) -> None:
        figure.savefig(out / name, dpi=130, metadata={"Software": None})

    panels = {
        "Real digits": train[:100],
        "RBM samples": rbm.levels[:100],
        "Potts grid samples": potts.levels[:100],
    }
    save(plots.compare(panels, 10, n_levels=N_LEVELS), "digits.png")
    energies = {"Potts grid, energy E(x)": potts.energies, "RBM, free energy F(v)": rbm.energies}
    save(plots.energy_histogram(energies), "energies.png")
    save(plots.training_curves({"Potts grid": potts.metrics, "RBM": rbm.metrics}), "training.png")
    strip = plots.chain_strip(rbm.frames[moments, :8], [*moments[:-1], moments[-1]], n_levels=N_LEVELS)
    save(strip, "chains.png")
    filters = rbm.params.weights.reshape(-1, N_LEVELS - 1, rbm.model.n_hidden).sum(axis=1)
    save(
        plots.rbm_filters(
            filters[:, :100], _SHAPE, 10, title="Weights of 100 hidden units, summed over a pixel's bits"
        ),
        "filters.png",
    )
    pause = [600, *[70] * (len(rbm.frames) - 2), 2500]
    plots.animate(rbm.frames[:, :60], out / "chains.gif", 10, n_levels=N_LEVELS, milliseconds=pause)
    for name, trained in (("potts", potts), ("rbm", rbm)):
        io.save(out / f"{name}.npz", trained.model, trained.params, overwrite=True)


def _report(out, train, test, digits, models, recipe, total) -> None:
    potts, rbm = models.values()
    for row in (
        ("", *models),
        ("parameters", *(f"{count_parameters(m.params):,}" for m in models.values())),
    ):
        print(row)
    for m in models.values():
        print(m.compiling, m.training, m.sampling, {k: v.mean() for k, v in m.energies.items()})
    for n, x in (("test", test), ("potts", potts.levels), ("rbm", rbm.levels), ("noise", rbm.frames[0])):
        d, i = nearest(x, train)
        print(n, d.mean(), (d <= 19).mean(), np.bincount(digits[i], minlength=10))
    print(time.perf_counter() - total)
