# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Training without chains: which objective, and what it misses
#
# Maximum likelihood needs samples of the model at every update. The objectives of this notebook need none. It trains
# one small network by four of them on data whose density is known, shows where they fail, and does the same with spins.
# It takes about a minute on two cores and downloads nothing.

# %%
import os
import time
import warnings

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from scipy.special import logsumexp

import ebm_jax as ej
from ebm_jax import training
from ebm_jax.energies.networks import MLP

# tqdm warns where ipywidgets is not installed.
warnings.filterwarnings("ignore", "IProgress not found")

# Set to run with small sizes, in seconds. The tests do this; the pictures then mean nothing.
SMALL = bool(os.environ.get("EBM_JAX_SMALL"))
N_DATA, N_EPOCHS, WIDTHS = (512, 2, (16,)) if SMALL else (8192, 40, (128, 128))

# %% [markdown]
# ## Data with a known density
#
# Two arcs, each point moved by normal noise. The log density is a sum of normals along the arcs, so the divergence
# KL(data || model) of any energy is a sum over a grid.

# %%
NOISE = 0.2
rng = np.random.default_rng(0)


def arcs(angle):
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return np.stack([upper, [1.0, 0.5] - upper]) - [0.5, 0.25]


angle = rng.uniform(0, np.pi, N_DATA)
moons = arcs(angle)[rng.integers(0, 2, N_DATA), np.arange(N_DATA)] + NOISE * rng.normal(size=(N_DATA, 2))
moons = moons.astype(np.float32)

side = np.linspace(-3, 3, 121)
grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2).astype(np.float32)
cell = (side[1] - side[0]) ** 2


def normals(points, centres, scale):
    squares = ((points[:, None] - centres) ** 2).sum(axis=-1)
    return logsumexp(-squares / (2 * scale**2), axis=1) - np.log(len(centres) * 2 * np.pi * scale**2)


log_moons = normals(grid, arcs((np.arange(200) + 0.5) * np.pi / 200).reshape(-1, 2), NOISE)

# %% [markdown]
# ## One network, four objectives
#
# The energy is a perceptron plus that of a normal, which keeps the law proper far from the data. `fit` takes an
# `objective` and no `negatives`.

# %%
network = ej.NeuralEnergy(MLP(WIDTHS), (2,))


def energy(params, x):
    return network.energy(params, x) + jnp.sum(x**2) / 2


energies_on_grid = jax.jit(lambda params: jax.vmap(lambda x: energy(params, x))(grid))


def log_density(params):
    found = -np.asarray(energies_on_grid(params), float)
    return found - logsumexp(found) - np.log(cell)


def divergence(truth, found):
    return float(np.sum(np.exp(truth) * (truth - found)) * cell)


def train(objective, data, n_epochs=N_EPOCHS):
    n_updates = n_epochs * (N_DATA // 256)
    tx = optax.adam(optax.cosine_decay_schedule(3e-3, n_updates))
    start = network.init(jax.random.key(0))
    fitted = ej.fit(
        jax.random.key(1), energy, data, tx=tx, objective=objective, params=start, n_epochs=n_epochs,
        batch_size=256, progress=False,
    )  # fmt: skip
    return log_density(jax.block_until_ready(fitted.state.params)), fitted.state.params


objectives = {
    "denoising, σ = 0.1": training.denoising_score_matching(0.1),
    "sliced": training.sliced_score_matching(),
    "noise contrast": training.noise_contrastive(training.gaussian_noise(1.5 * moons), ratio=4),
    "energy discrepancy": training.energy_discrepancy(0.5, n_negatives=8),
}
learned = {}
for name, objective in objectives.items():
    train(objective, moons, 1)  # compiles
    began = time.perf_counter()
    learned[name] = train(objective, moons)
    seconds = time.perf_counter() - began
    print(f"{name:20} KL {divergence(log_moons, learned[name][0]):.4f} after {seconds:.1f} s")


# %%
def show(panels):
    _, axes = plt.subplots(1, len(panels), figsize=(2.4 * len(panels), 2.6), layout="constrained")
    for ax, (name, found) in zip(axes, panels.items()):
        ax.imshow(np.exp(found).reshape(121, 121), origin="lower", extent=(-3, 3, -3, 3), cmap="magma")
        ax.set(title=name, xticks=[], yticks=[])
        ax.title.set_fontsize(9)


show({"data": log_moons, **{name: found for name, (found, _) in learned.items()}})

# %% [markdown]
# ## What the noise of denoising costs
#
# Denoising learns the data *smoothed by σ*. A large σ blurs the arcs; a small one raises the variance of the gradient.

# %%
levels = (0.03, 0.1, 0.3)
smoothed = {f"σ = {s}": train(training.denoising_score_matching(s), moons)[0] for s in levels}
for name, found in smoothed.items():
    print(f"{name}: KL {divergence(log_moons, found):.4f}")
show({"data": log_moons, **smoothed})

# %% [markdown]
# ## Modes that lie far apart
#
# A score says nothing of how much weight each of two distant modes has: between them there are no data. Three quarters
# of these data lie on the right. An objective that compares energies at distant points sees the weights, if its
# perturbation reaches from one mode to the other.

# %%
right = rng.random(N_DATA) < 0.75
apart = np.where(right, 1.8, -1.8)[:, None] * np.array([1.0, 0.0]) + 0.3 * rng.normal(size=(N_DATA, 2))
apart = apart.astype(np.float32)
found = {
    "denoising, σ = 0.1": train(training.denoising_score_matching(0.1), apart)[0],
    "discrepancy, σ = 0.3": train(training.energy_discrepancy(0.3, n_negatives=8), apart)[0],
    "discrepancy, σ = 1.5": train(training.energy_discrepancy(1.5, n_negatives=8), apart)[0],
    "noise contrast": train(training.noise_contrastive(training.gaussian_noise(1.5 * apart), ratio=4), apart)[
        0
    ],
}
for name, density in found.items():
    share = np.sum(np.exp(density)[grid[:, 0] > 0]) * cell
    print(f"{name:21} share of the right mode {share:.2f} (data {right.mean():.2f})")
show(found)

# %% [markdown]
# ## Samples of what was learned
#
# Training needed no chains; drawing samples does.

# %%
start = jax.random.normal(jax.random.key(2), (1000, 2))
kernel = ej.hmc(energy, 0.15, 5)
params = learned["energy discrepancy"][1]
schedule = ej.SamplingSchedule(n_warmup=20 if SMALL else 300, n_samples=1)
draws = ej.sample(jax.random.key(3), kernel, params, start, schedule).positions[0]
fig, axes = plt.subplots(1, 2, figsize=(6, 3), layout="constrained", sharex=True, sharey=True)
for ax, (name, points) in zip(axes, {"data": moons[:1000], "samples": draws}.items()):
    ax.scatter(*np.asarray(points).T, s=2)
    ax.set(title=name, xlim=(-2.5, 2.5), ylim=(-2, 2), aspect="equal")

# %% [markdown]
# ## Spins: couplings from their conditionals
#
# For discrete data, `pseudo_likelihood` and `ratio_matching` use conditionals of single sites, and
# `discrete_energy_discrepancy` takes energies alone. All find the couplings of this Ising model, as well as the number
# of data allows.

# %%
model = ej.Ising(ej.Grid(3, 3), coupling="edge")
truth = jax.tree.map(
    lambda s: jnp.asarray(0.5 * rng.normal(size=s.shape), jnp.float32), model.params_struct()
)
data = np.asarray(ej.exact.sample(jax.random.key(4), model, truth, N_DATA))
zero = jax.tree.map(jnp.zeros_like, truth)
of_spins = {
    "pseudo-likelihood": training.pseudo_likelihood(),
    "ratio matching": training.ratio_matching(),
    "energy discrepancy": training.discrete_energy_discrepancy(0.2, n_negatives=8),
}
fig, axes = plt.subplots(1, 3, figsize=(8, 2.9), layout="constrained", sharex=True, sharey=True)
for ax, (name, objective) in zip(axes, of_spins.items()):
    tx = optax.adam(optax.cosine_decay_schedule(0.03, N_EPOCHS * (N_DATA // 256)))
    fitted = ej.fit(
        jax.random.key(5), model, data, tx=tx, objective=objective, params=zero, n_epochs=N_EPOCHS,
        batch_size=256, progress=False,
    )  # fmt: skip
    couplings = fitted.state.params.coupling
    ax.plot([-1.2, 1.2], [-1.2, 1.2], color="grey", linewidth=0.8)
    ax.scatter(truth.coupling, couplings, s=12)
    ax.set(title=name, xlabel="true coupling")
    print(f"{name:18} largest error {float(jnp.abs(couplings - truth.coupling).max()):.3f}")
axes[0].set_ylabel("learned")

# %% [markdown]
# [Choosing an objective](../docs/choosing_an_objective.md) has a table of which objective suits which data, and the
# divergence of each over seconds of training.
