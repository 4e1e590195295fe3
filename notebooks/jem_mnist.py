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
# # A classifier that is a model of its images
#
# The logits f(x) of a classifier define an energy, E(x) = −log Σ_y exp f(x)[y], and with it a model p(x) ∝ exp(−E(x))
# of the images (Grathwohl et al. 2020). `ebm-jax train configs/jem_mnist.yaml` trains a perceptron 784–512–512–512–10
# in this way. This notebook reads the record of that run, which the repository keeps without the parameters.

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import ebm_jax as ej
from ebm_jax.experiment.config import load_config
from ebm_jax.experiment.run.folder import read_metrics, read_result

record = Path(ej.__file__).parents[1] / "docs" / "results" / "jem_mnist"
config = load_config(record / "config.yaml")
rows, metrics = read_metrics(record), read_result(record)["metrics"]
draws = np.load(record / "samples" / "final.npz")
print(json.loads((record / "environment.json").read_text())["command"])
training = config.training
n_joint = training.n_epochs - training.classifier_epochs
print(f"{training.classifier_epochs} epochs of the classifier alone, then {n_joint} joint")

# %% [markdown]
# ## Two phases
#
# The classifier is trained first, because the contrast of energies alone is unstable: a network that has learned
# nothing yet has no smooth energy for the chains to follow. The dashed line shows where the joint epochs begin.

# %%
evaluations = [row for row in rows if row["kind"] == "evaluation"]
epochs = [row["epoch"] for row in evaluations]
figure, axes = plt.subplots(1, 3, figsize=(11, 3))
for axis, (title, names) in zip(
    axes,
    {
        "accuracy, unseen images": ["accuracy"],
        "AUROC of E(x)": ["auroc_fashion", "auroc_rotated", "auroc_uniform"],
        "mean energy": ["energy_unseen"],
    }.items(),
    strict=True,
):
    for name in names:
        axis.plot(epochs, [row[name] for row in evaluations], marker=".", label=name)
    axis.axvline(training.classifier_epochs, color="grey", linestyle="--")
    axis.set(title=title, xlabel="epoch")
    axis.legend()
figure.tight_layout()

# %% [markdown]
# The classifier alone gives uniform noise *lower* energies than digits. The first joint epoch turns that around.
#
# ## What chains from noise become
#
# Chains start at uniform noise and take the number of steps above each column. They are short runs that go downhill:
# their last step size and noise imply the temperature below, not 1.

# %%
generation = config.generation
temperature = ej.metrics.implied_temperature(generation.final_step_size, generation.noise_scale)
print(f"T = {temperature:.1e}")
chosen = np.unique(np.linspace(0, len(draws["steps"]) - 1, 8).round().astype(int))
ej.plots.chain_strip(draws["frames"][chosen, :8], draws["steps"][chosen].tolist())
# %%
ej.plots.compare({"data": draws["data"][:49], "ends of chains": draws["frames"][-1][:49]})
# %% [markdown]
# ## Samples of a class
#
# The same chains on E(x, y) = −f(x)[y], a row for each class. In training, half of the chains kept a class too. Chains
# of E(x) reach the nearest basins first and miss a class or two; with a class given, every class is reached.

# %%
ej.plots.image_grid(draws["classes"].reshape(-1, 28, 28), n_columns=10)
# %% [markdown]
# ## What a judge says
#
# A classifier that took no part in training reads the samples. It is confident of much that is no digit, so its
# confidence alone says little: its figures of the untouched noise stand beside those of the samples.

# %%
print(f"{'':24}{'of a class':>12}{'of E(x)':>10}{'noise':>10}")
for name in ("mean_confidence", "share_above_0_9", "rarest_class", "frechet", "inception_score"):
    print(
        f"{name:24}{metrics['conditional_' + name]:12.3f}{metrics[name]:10.3f}{metrics['start_' + name]:10.3f}"
    )
print(f"{'stuck_chains':24}{metrics['conditional_stuck_chains']:12.3f}{metrics['stuck_chains']:10.3f}")
for name in ("class_accuracy", "accuracy", "ece", "auroc_fashion", "auroc_rotated"):
    print(f"{name:24}{metrics[name]:12.3f}")

# %% [markdown]
# ## Energies of strange inputs

# %%
figure, axis = plt.subplots(figsize=(7, 3))
kinds = {name.removeprefix("energy_"): draws[name] for name in draws.files if name.startswith("energy_")}
edges = np.linspace(*np.quantile(np.concatenate(list(kinds.values())), [0.002, 0.998]), 60)
for name, energies in kinds.items():
    axis.hist(energies, edges, histtype="step", density=True, label=name)
axis.set(xlabel="E(x)", yticks=[])
axis.legend()
