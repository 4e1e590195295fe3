"""Digits of a chosen class: an RBM learns pixels and one-hot labels together, then its label units are clamped.

Prints how often a nearest-neighbour reader, who never saw the RBM, reads the class that was asked for. Writes
docs/images/class_conditional.png.

    python docs/figures/class_conditional.py                      # MNIST, from EBM_JAX_DATA_DIR or TFDS
    python docs/figures/class_conditional.py --dataset digits     # embedded, 8×8
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import jax
import numpy as np
from common import IMAGES, train_rbm

import ebm_jax as ej

RECIPES = {"digits": (192, 300, 0.1), "mnist": (400, 25, 0.1)}  # hidden units, epochs, learning rate


def conditional(
    key: jax.Array, model: ej.RBM, params: ej.RBMParams, labels: np.ndarray, n_steps: int
) -> np.ndarray:
    """Returns the visible bits of one chain for each row of one-hot `labels`, started at noise, labels held."""
    v, h = (np.asarray(part) for part in ej.init_chains(key, model, len(labels)))
    n_pixels = model.n_visible - labels.shape[1]
    mask = np.zeros(v.shape, bool), np.zeros(h.shape, bool)
    mask[0][:, n_pixels:] = True
    values = v.copy(), h
    values[0][:, n_pixels:] = labels
    schedule = ej.SamplingSchedule(n_steps, 1)
    run = ej.sample(
        jax.random.fold_in(key, 1), ej.gibbs(model), params, (v, h), schedule, clamped=(mask, values)
    )
    return np.asarray(run.positions[0])[0, :, :n_pixels]


def read(images: np.ndarray, train: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the label of the nearest training image, by the number of bits that differ."""
    a, b = images.astype(np.float32), train.astype(np.float32)
    return labels[(a.sum(axis=1)[:, None] + b.sum(axis=1) - 2 * a @ b.T).argmin(axis=1)]


def main() -> None:
    """Trains, draws each class, judges, writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=sorted(RECIPES), default="mnist")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--steps", type=int, default=1000, help="Gibbs sweeps from noise to picture")
    parser.add_argument("--out", type=Path, default=IMAGES / "class_conditional.png")
    args = parser.parse_args()
    n_hidden, n_epochs, rate = RECIPES[args.dataset]
    data, start = ej.data.load(args.dataset), time.perf_counter()
    images, labels = np.asarray(data.train.images), np.asarray(data.train.labels)
    pixels = np.asarray(ej.data.binarize(images, 0.5)).reshape(len(images), -1)
    one_hot = np.eye(10, dtype=bool)
    bits = np.concatenate([pixels, one_hot[labels]], axis=1)
    model, params = train_rbm(jax.random.key(0), bits, n_hidden, args.epochs or n_epochs, rate)
    trained = time.perf_counter()

    asked = np.repeat(np.arange(10), 20)
    drawn = conditional(jax.random.key(1), model, params, one_hot[asked], args.steps)
    as_read = read(drawn, pixels, labels)
    test = np.asarray(ej.data.binarize(data.test.images[:1000], 0.5)).reshape(-1, pixels.shape[1])
    real = np.mean(read(test, pixels, labels) == data.test.labels[:1000])
    right = as_read == asked
    print(f"{args.dataset}: trained in {trained - start:.0f} s, all in {time.perf_counter() - start:.0f} s")
    print(f"read as the class asked for: {100 * right.mean():.0f} % (real test digits: {100 * real:.0f} %)")
    print("by class:", " ".join(f"{c}:{100 * right[asked == c].mean():.0f}" for c in range(10)))

    side = images.shape[1]
    examples = np.concatenate([pixels[labels == c][:10] for c in range(10)])
    samples = np.concatenate([drawn[asked == c][:10] for c in range(10)])
    panels = {"training digits, a row a class": examples, "label clamped, pixels drawn from noise": samples}
    panels = {name: x.reshape(-1, side, side).astype(bool) for name, x in panels.items()}
    ej.plots.compare(panels, 10).savefig(args.out, dpi=110, metadata={"Software": None})
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
