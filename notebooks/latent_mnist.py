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
# # An energy of sixteen latents of MNIST
#
# An autoencoder writes each image as sixteen numbers z, which are whitened: mean 0, variance 1, no correlations. The
# energy E(z) = ½|z|² + f(z) then learns how these numbers differ from one Gaussian, which is E without the network f.
# Energies of latents are small enough for true samples: chains are Metropolis-adjusted (MALA) at temperature 1, and
# log Z can be estimated from both sides.
#
# `ebm-jax train configs/latent_mnist.yaml` trains both. This notebook reads the record of that run. The repository
# keeps the parameters of the energy with it, so chains of latents are run anew here; pictures that need the
# autoencoder are those of the record.

# %%
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import ebm_jax as ej
from ebm_jax.experiment.config import load_config
from ebm_jax.experiment.recipes.latent.figures import landscape
from ebm_jax.experiment.run.folder import read_metrics, read_result

record = Path(ej.__file__).parents[1] / "docs" / "results" / "latent_mnist"
config = load_config(record / "config.yaml")
rows, metrics = read_metrics(record), read_result(record)["metrics"]
draws = np.load(record / "samples" / "final.npz")
print(json.loads((record / "environment.json").read_text())["command"])
energy, params = ej.load(record / "energy.npz")
n_first, n_epochs = config.autoencoder.n_epochs, config.training.n_epochs
print(f"{n_first} epochs of the autoencoder, then {n_epochs - n_first} of the energy")
print(f"{ej.count_parameters(params):,} parameters of the energy of {energy.shape[0]} latents")

# %% [markdown]
# ## Training
#
# The autoencoder learns first, and then stays as it is; its loss is the cross-entropy of an image in nats. The level of
# the energies means nothing, because a constant added to f changes no probability. What counts is the gap, negatives
# less data: it stays within a few tenths of a nat, so chains keep up. As the energy gets steeper the step size shrinks,
# and chains accept the same share of their proposals all along.

# %%
train = [row for row in rows if row["kind"] == "train"]
of_coder = [row for row in train if row["epoch"] <= n_first]
of_energy = [row for row in train if row["epoch"] > n_first]
panels = {
    "autoencoder: cross-entropy": (of_coder, {"images": "reconstruction"}),
    "mean energy": (of_energy, {"data": "energy_data", "negatives": "energy_model"}),
    "gap, negatives less data": (of_energy, {"gap": "energy_gap"}),
    "chains": (of_energy, {"acceptance": "acceptance", "step size": "step_size"}),
}
figure, axes = plt.subplots(1, 4, figsize=(13, 3))
for axis, (title, (part, names)) in zip(axes, panels.items(), strict=True):
    for label, name in names.items():
        axis.plot([row["epoch"] for row in part], [row[name] for row in part], label=label, linewidth=1.2)
    axis.set(title=title, xlabel="epoch")
    if len(names) > 1:
        axis.legend()
axes[2].axhline(0, color="grey", linewidth=0.8)
figure.tight_layout()

# %% [markdown]
# ## Samples beside reconstructions
#
# Reconstructions are the best that this decoder gives. Draws of one Gaussian are what the autoencoder gives without
# the energy; there the chains start. Their ends are the samples.

# %%
ej.plots.compare(
    {
        "data": draws["data"],
        "reconstructions": draws["reconstructions"],
        "one Gaussian": draws["frames"][0],
        "samples": draws["frames"][-1],
    }
)

# %% [markdown]
# ## What the energy adds to one Gaussian
#
# Log-likelihoods of held-out latents, in nats over that of one Gaussian. Mixtures of Gaussians are fitted to all
# training latents by expectation maximisation.

# %%
for n in config.evaluation.mixtures:
    print(f"{f'mixture of {n} Gaussians':26}{metrics[f'gain_gmm_{n}']:7.2f}")
print(f"{'the energy':26}{metrics['gain']:7.2f}")
print(f"{'the same, training latents':26}{metrics['gain_train']:7.2f}")

# %% [markdown]
# A classifier that took no part in training reads the decoded images.

# %%
print(f"{'':18}{'samples':>10}{'Gaussian':>10}{'reconstr.':>11}")
for name in ("share_above_0_9", "mean_confidence", "rarest_class", "frechet", "inception_score"):
    columns = (metrics[prefix + name] for prefix in ("", "start_", "reconstructed_"))
    print("{:18}{:10.3f}{:10.3f}{:11.3f}".format(name, *columns))

# %% [markdown]
# ## The landscape
#
# The energy on two planes: a pair of latents varies, the others stay where one chain ended. The line is that chain,
# from the ring to the dot. The other latents moved too along it, so it need not keep to the low places of this plane.

# %%
landscape(draws["landscape"], draws["grid"], draws["path"])

# %% [markdown]
# ## Chains, decoded
#
# Eight chains from one Gaussian. They do not settle at an image: at temperature 1 they go on from digit to digit,
# which a chain that goes downhill does not.

# %%
n_frames = len(draws["frames"])
chosen = np.unique([0, *np.geomspace(1, n_frames - 1, 14).round().astype(int)])
ej.plots.chain_strip(draws["frames"][chosen, :8], draws["steps"][chosen].tolist())

# %% [markdown]
# ## How many steps do chains need?
#
# New chains of the same energy, from one Gaussian. Once they are samples, their mean energy stays. If the model were
# perfect, it would be that of held-out latents, −log p(z) − log Z.

# %%
kernel = ej.mala(energy, metrics["generation_step_size"])
n_chains, every, n_steps = 512, 10, 1500
start = jax.random.normal(jax.random.key(0), (n_chains, *energy.shape))
schedule = ej.SamplingSchedule(every, n_steps // every, every)
result = ej.sample(jax.random.key(1), kernel, params, start, schedule)
positions = jnp.concatenate([start[None], result.positions])
energies = np.asarray(jax.vmap(jax.vmap(energy.energy, (None, 0)), (None, 0))(params, positions))
held_out = -metrics["log_likelihood"] - metrics["log_z"]
steps = every * np.arange(len(energies))
figure, axis = plt.subplots(figsize=(7, 3))
for low, high, alpha in ((5, 95, 0.15), (25, 75, 0.3)):
    edges = np.percentile(energies[1:], [low, high], axis=1)
    axis.fill_between(steps[1:], *edges, color="C0", alpha=alpha, linewidth=0)
axis.plot(steps[1:], energies[1:].mean(axis=1), label="chains: mean; bands hold 50 % and 90 % of them")
axis.axhline(held_out, color="C1", linestyle="--", label="mean of held-out latents")
axis.set(xscale="log", xlabel="step", ylabel="E(z)")
axis.legend()
accepted = float(result.info.n_accepted.sum() / result.info.n_proposed.sum())
print(f"{accepted:.0%} of proposals accepted")
print(f"mean energy {energies[0].mean():.2f} at the start, {energies[-20:].mean():.2f} at the end")
print(f"mean energy of held-out latents {held_out:.2f}")

# %% [markdown]
# Most of the fall takes tens of steps. Which digit a chain shows changes more slowly: the pictures above show changes
# after hundreds of steps. Shares of classes therefore need longer chains than the mean energy does, and the recipe's
# own samples take as many steps as the last column above says.
#
# ## log Z anew
#
# Annealed importance sampling (AIS) goes from one Gaussian, whose log Z is known, to the energy. Its estimate is too
# low on average. Reverse AIS from the ends of chains is too high on average, if they are samples. The record has both.

# %%
found = ej.partition.ais(
    jax.random.key(2),
    energy,
    params,
    betas=300,
    n_chains=256,
    base=ej.partition.standard_normal(energy.position_struct()),
    kernel=lambda target: ej.mala(target, metrics["generation_step_size"]),
)
print(f"AIS, here                {found.log_z:6.2f}, effective number of chains {found.ess:.0f} of 256")
print(f"AIS, the record          {metrics['log_z_forward']:6.2f}")
print(f"reverse AIS, the record  {metrics['log_z_reverse']:6.2f}")
