"""The lower half of real digits, drawn by a Potts grid and by an RBM that are shown the upper half.

Both models train on the training split; the halves are of test digits. Prints the squared error of the mean of the
draws in the lower half, beside that of the training pixels' mean. Writes docs/images/completion.png.

    python docs/figures/completion.py                      # MNIST, from EBM_JAX_DATA_DIR or TFDS
    python docs/figures/completion.py --dataset digits     # embedded, 8×8
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import IMAGES, train_rbm

import ebm_jax as ej

N_LEVELS = 4
RECIPES = {
    "digits": (192, 300, 60),
    "mnist": (400, 20, 10),
}  # hidden units; epochs of the RBM, of the Potts grid


def train_potts(key: jax.Array, levels: np.ndarray, n_epochs: int) -> tuple[ej.Potts, ej.PottsParams]:
    """Trains a Potts grid with eight neighbours and a coupling an edge, from independent pixels on."""
    model = ej.Potts(ej.Grid(*levels.shape[1:], neighbourhood=8), N_LEVELS, coupling="edge")
    counts = np.stack([(levels == k).sum(axis=0) + 1 for k in range(N_LEVELS)], axis=-1)
    bias = jnp.asarray(np.log(counts / counts.sum(axis=-1, keepdims=True)), jnp.float32)
    fitted = ej.fit(
        jax.random.fold_in(key, 1),
        model,
        levels,
        tx=optax.adam(optax.linear_schedule(0.01, 0.0, n_epochs * (len(levels) // 128))),
        negatives=ej.negatives.pcd(ej.gibbs(model), 1, 128),
        n_epochs=n_epochs,
        params=ej.PottsParams(bias, model.init(key).coupling),
        progress=False,
    )
    return model, fitted.state.params


def complete(key: jax.Array, model: Any, params: Any, mask: Any, values: Any) -> np.ndarray:
    """Returns 100 draws of the visible part, `(100, n, ...)`, with `values` held under `mask`."""
    n = len(jax.tree.leaves(values)[0])
    noise = ej.init_chains(key, model, n)
    schedule = ej.SamplingSchedule(500, 100, 10)
    run = ej.sample(
        jax.random.fold_in(key, 1), ej.gibbs(model), params, noise, schedule, clamped=(mask, values)
    )
    return np.asarray(jax.tree.leaves(run.positions)[0])


def main() -> None:
    """Trains both models, completes, judges, writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=sorted(RECIPES), default="mnist")
    parser.add_argument("--out", type=Path, default=IMAGES / "completion.png")
    args = parser.parse_args()
    n_hidden, rbm_epochs, potts_epochs = RECIPES[args.dataset]
    data, start = ej.data.load(args.dataset), time.perf_counter()
    train, test = np.asarray(data.train.images), np.asarray(data.test.images[:180])
    shape = train.shape[1:]
    upper = np.zeros(shape, bool)
    upper[: shape[0] // 2] = True

    levels, test_levels = (np.asarray(ej.data.discretize(x, N_LEVELS)) for x in (train, test))
    potts, potts_params = train_potts(jax.random.key(0), levels, potts_epochs)
    potts_drawn = complete(jax.random.key(1), potts, potts_params, upper, test_levels) / np.float32(
        N_LEVELS - 1
    )
    clock = time.perf_counter()
    print(f"{args.dataset}: Potts grid trained and sampled in {clock - start:.0f} s", flush=True)

    bits, test_bits = (np.asarray(ej.data.binarize(x, 0.5)).reshape(len(x), -1) for x in (train, test))
    rbm, rbm_params = train_rbm(jax.random.key(2), bits, n_hidden, rbm_epochs, 0.1)
    off = np.zeros((len(test), n_hidden), np.uint8)
    mask = upper.ravel(), np.zeros(n_hidden, bool)
    rbm_drawn = complete(jax.random.key(3), rbm, rbm_params, mask, (test_bits.astype(np.uint8), off))
    rbm_drawn = rbm_drawn.reshape(*rbm_drawn.shape[:2], *shape).astype(np.float32)
    print(f"RBM trained and sampled in {time.perf_counter() - clock:.0f} s")

    truths = {"Potts grid": (levels, test_levels, N_LEVELS - 1), "RBM": (bits, test_bits, 1)}
    for (name, (seen, wanted, top)), drawn in zip(truths.items(), (potts_drawn, rbm_drawn)):
        wanted, mean = wanted.reshape(-1, *shape) / top, seen.mean(axis=0).reshape(shape) / top
        error, guess = (np.mean((x - wanted)[:, ~upper] ** 2) for x in (drawn.mean(axis=0), mean[None]))
        print(
            f"{name}: squared error {error:.4f} a pixel; of the training mean {guess:.4f}: {error / guess:.2f} of it"
        )

    shown = np.concatenate([np.flatnonzero(data.test.labels[:180] == c)[:2] for c in range(10)])
    truth = test_levels[shown] / np.float32(N_LEVELS - 1)
    panels = {
        "test digits": truth,
        "what is given": np.where(upper, truth, np.float32(0.3)),
        "Potts grid: one draw": potts_drawn[-1, shown],
        "Potts grid: mean of 100": potts_drawn[:, shown].mean(axis=0),
        "RBM: one draw": rbm_drawn[-1, shown],
        "RBM: mean of 100": rbm_drawn[:, shown].mean(axis=0),
    }
    ej.plots.compare(panels, 4).savefig(args.out, dpi=110, metadata={"Software": None})
    print(f"{time.perf_counter() - start:.0f} s; wrote {args.out}")


if __name__ == "__main__":
    main()
