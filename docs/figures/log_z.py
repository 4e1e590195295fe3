"""Trains an RBM whose log Z can be summed exactly, and estimates it from both sides with ladders of several lengths.

    python docs/figures/log_z.py [--dataset mnist|digits] [--hidden 20] [--out docs/images/log_z.png]

Prints the table of docs/log_z.md and draws the estimates.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax

import ebm_jax as ej
from ebm_jax import exact, partition

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COUNTS = (10, 30, 100, 300, 1000, 3000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=["mnist", "digits"], default="mnist")
    parser.add_argument("--hidden", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("docs/images/log_z.png"))
    args = parser.parse_args()
    images = ej.data.load(args.dataset).train.images[:20_000]
    x = np.asarray(ej.data.binarize(images, 0.5)).reshape(len(images), -1).astype(np.uint8)
    model = ej.RBM(x.shape[1], args.hidden)
    kernel = ej.gibbs(model)
    negatives = ej.negatives.pcd(kernel, k=1, n_chains=128)
    params = ej.fit(
        jax.random.key(0), model, x, tx=optax.adam(5e-3), negatives=negatives, n_epochs=10, progress=False
    ).state.params
    truth = exact.log_partition(model, params)
    start = exact.sample(jax.random.key(3), model, params, 100)
    rate = x.mean(0).clip(0.01, 0.99)
    of_data = ej.RBMParams(
        jnp.zeros_like(params.weights),
        jnp.asarray(np.log(rate / (1 - rate)), jnp.float32),
        jnp.zeros_like(params.hidden_bias),
    )
    bases = {"biases of the model": None, "biases of the data": of_data}
    print(f"log Z = {truth:.3f} exactly, {model}")
    print("| base | betas | forward − exact | reverse − exact | ESS forward | ESS reverse |")
    print("| --- | --- | --- | --- | --- | --- |")
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    for axis, (name, base) in zip(axes, bases.items(), strict=True):
        rows = []
        for count in COUNTS:
            forward = partition.ais(jax.random.key(1), model, params, betas=count, base=base)
            reverse = partition.reverse_ais(jax.random.key(2), model, params, start, betas=count, base=base)
            rows.append((forward, reverse))
            print(
                f"| {name} | {count} | {forward.log_z - truth:+.3f} | {reverse.log_z - truth:+.3f} "
                f"| {forward.ess:.0f} | {reverse.ess:.0f} |",
                flush=True,
            )
        for side, label in enumerate(("forward: too low on average", "reverse: too high on average")):
            middle = np.asarray([row[side].log_z for row in rows]) - truth
            ends = np.asarray([row[side].interval for row in rows]).T - truth
            bars = np.clip(np.stack([middle - ends[0], ends[1] - middle]), 0, None)
            axis.errorbar(COUNTS, middle, bars, marker="o", markersize=3, capsize=2, label=label)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set(xscale="log", xlabel="values of t", title=name)
        axis.set_yscale("symlog", linthresh=1)
    axes[0].set_ylabel("estimate − exact log Z (nats)")
    axes[0].legend(frameon=False)
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
