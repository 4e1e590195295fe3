"""Compares objectives by the divergence KL(data || model) over seconds of training, where both are known exactly.

    python docs/figures/objectives.py [--epochs 60] [--out docs/images/objectives.png]

Left, a perceptron learns two moons of known density: the divergence is a sum over a grid. Right, spins on a 3×3 grid:
the couplings are learnt from exact draws, and the divergence is a sum over all configurations. Compilation is not
counted. Prints a table.
"""

import argparse
import functools
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from scipy.special import logsumexp

import ebm_jax as ej
from ebm_jax import training
from ebm_jax.energies.networks import MLP

matplotlib.use("Agg")
import matplotlib.pyplot as plt

KEY = jax.random.key(0)
WIDTH = 0.2
SIGMAS = (0.1, 0.2, 0.4, 0.8, 1.6)
SIDE = np.linspace(-3, 3, 121)
CELL = (SIDE[1] - SIDE[0]) ** 2
GRID = jnp.asarray(np.stack(np.meshgrid(SIDE, SIDE, indexing="ij"), axis=-1).reshape(-1, 2), jnp.float32)
MODULE = MLP((128, 128))
N_MOONS, N_SPINS = 16_384, 8_192


def arcs(angle):
    """The middle lines of both moons at angles between 0 and π."""
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return np.stack([upper, [1.0, 0.5] - upper]) - [0.5, 0.25]


def log_density(x):
    """The log density of the moons: normals of one width along both arcs, by quadrature."""
    centres = arcs((np.arange(200) + 0.5) * np.pi / 200).reshape(-1, 2)
    squares = ((np.asarray(x)[:, None] - centres) ** 2).sum(axis=-1)
    return logsumexp(-squares / (2 * WIDTH**2), axis=1) - np.log(len(centres) * 2 * np.pi * WIDTH**2)


def moons(n):
    rng = np.random.default_rng(0)
    points = arcs(rng.uniform(0, np.pi, n))[rng.integers(0, 2, n), np.arange(n)]
    return (points + WIDTH * rng.normal(size=(n, 2))).astype(np.float32)


CONDITIONAL = ej.NeuralEnergy(MODULE, (3,))


def with_level(params, pair):
    """A perceptron of (x, log σ), at the scale of the noisy data, plus the energy of a normal."""
    x, sigma = pair
    variance = 0.5 + sigma**2
    inputs = jnp.append(2 * x / jnp.sqrt(variance), jnp.log(sigma))
    return CONDITIONAL.energy(params, inputs) / jnp.sqrt(sigma) + jnp.sum(x**2) / (2 * variance)


def confined(params, x):
    return ej.NeuralEnergy(MODULE, (2,)).energy(params, x) + jnp.sum(x**2) / 2


@functools.partial(jax.jit, static_argnums=0)
def grid_energies(energy, params):
    return jax.vmap(lambda x: energy(params, x))(GRID)


def moons_divergence(energy, params):
    energies = np.asarray(grid_energies(energy, params), float)
    truth = log_density(GRID)
    found = -energies - logsumexp(-energies) - np.log(CELL)
    return float(np.sum(np.exp(truth) * (truth - found)) * CELL)


def lowest(params, x):
    return with_level(params, (x, jnp.float32(SIGMAS[0])))


def curve(model, data, params, divergence, n_epochs, rate, **options):
    """Seconds and divergences after each epoch, of averaged parameters."""
    n_updates = n_epochs * (len(data) // 256)
    tx = optax.chain(optax.adam(optax.cosine_decay_schedule(rate, n_updates)), training.average(0.99))
    run = functools.partial(
        ej.fit, KEY, model, data, tx=tx, params=params, batch_size=256, progress=False, **options
    )
    run(n_epochs=1)
    kept, start = [], time.perf_counter()

    def keep(epoch, state, metrics):
        del epoch, metrics
        jax.block_until_ready(state.params)
        kept.append((time.perf_counter() - start, training.averaged(state.opt_state)))

    run(n_epochs=n_epochs, callback=keep)
    # Epochs that are measured lie evenly on a logarithmic axis.
    chosen = np.unique(np.geomspace(1, len(kept), 25).astype(int)) - 1
    return np.array([kept[i][0] for i in chosen]), np.array([divergence(kept[i][1]) for i in chosen])


def of_moons(n_epochs):
    data = moons(N_MOONS)
    plain, paired = ej.NeuralEnergy(MODULE, (2,)).init(KEY), CONDITIONAL.init(KEY)
    wide = training.gaussian_noise(1.5 * data)
    chains = ej.langevin(confined, 0.005, 0.1)
    start = training.negatives.starts.normal((2,), 1.0)
    normalized = training.normalized(confined)
    of_plain = functools.partial(moons_divergence, confined)
    no_noise, sigma = {"rate": 3e-3, "params": plain}, 0.1
    runs = {
        "denoising": (
            confined,
            of_plain,
            {"objective": training.denoising_score_matching(sigma), **no_noise},
        ),
        "denoising, 5 levels": (
            with_level,
            functools.partial(moons_divergence, lowest),
            {"objective": training.denoising_score_matching(SIGMAS), "rate": 1e-2, "params": paired},
        ),
        "sliced": (confined, of_plain, {"objective": training.sliced_score_matching(), **no_noise}),
        "noise-contrastive": (
            normalized,
            lambda params: of_plain(params.params),
            {
                "objective": training.noise_contrastive(wide, ratio=4),
                "rate": 3e-3,
                "params": training.NormalizedParams(plain, jnp.zeros(())),
            },
        ),
        "energy discrepancy": (
            confined,
            of_plain,
            {"objective": training.energy_discrepancy(0.5, n_negatives=8), **no_noise},
        ),
        "recovery": (
            with_level,
            functools.partial(moons_divergence, lowest),
            {
                "objective": training.recovery_likelihood(SIGMAS, n_steps=10, step_scale=0.4),
                "rate": 1e-2,
                "params": paired,
            },
        ),
        "replay, 20 Langevin steps": (
            confined,
            of_plain,
            {"negatives": training.negatives.replay(chains, 20, 256, capacity=4096, start=start), **no_noise},
        ),
    }
    return {
        name: curve(model, data, divergence=divergence, n_epochs=n_epochs, **options)
        for name, (model, divergence, options) in runs.items()
    }


def of_spins(n_epochs):
    model = ej.Ising(ej.Grid(3, 3), coupling="edge")
    struct, rng = model.params_struct(), np.random.default_rng(1)
    truth = jax.tree.map(lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), jnp.float32), struct)
    data = np.asarray(ej.exact.sample(KEY, model, truth, N_SPINS))
    states, law = ej.exact.states(model), ej.exact.probabilities(model, truth)
    energies = jax.jit(lambda params: jax.vmap(model.energy, (None, 0))(params, states))

    def divergence(params):
        each = -np.asarray(energies(params), float)
        return float(np.sum(law * (np.log(law) - each + logsumexp(each))))

    runs = {
        "pseudo-likelihood": {"objective": training.pseudo_likelihood()},
        "ratio matching": {"objective": training.ratio_matching()},
        "energy discrepancy": {"objective": training.discrete_energy_discrepancy(0.2, n_negatives=8)},
        "persistent chains": {"negatives": ej.negatives.pcd(ej.gibbs(model), 1, 256)},
    }
    start = jax.tree.map(jnp.zeros_like, truth)
    return {
        name: curve(model, data, start, divergence, n_epochs, 0.01, **options)
        for name, options in runs.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("docs/images/objectives.png"))
    args = parser.parse_args()
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    panels = {"two moons": (of_moons, args.epochs), "spins on a 3×3 grid": (of_spins, min(args.epochs, 40))}
    print("| data | objective | KL | seconds | seconds to KL < 0.05 |\n| --- | --- | --- | --- | --- |")
    for axis, (title, (runs, n_epochs)) in zip(axes, panels.items(), strict=True):
        for name, (seconds, values) in runs(n_epochs).items():
            axis.plot(
                seconds, values, label=name, linestyle="--" if "steps" in name or "chains" in name else "-"
            )
            reached = seconds[values < 0.05]
            first = f"{reached[0]:.2f}" if reached.size else "–"
            print(f"| {title} | {name} | {values[-1]:.4f} | {seconds[-1]:.1f} | {first} |", flush=True)
        axis.axhline(0.05, color="black", linewidth=0.6, linestyle=":")
        axis.set(xscale="log", yscale="log", xlabel="seconds of training", title=title)
        axis.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("KL(data || model), nats")
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
