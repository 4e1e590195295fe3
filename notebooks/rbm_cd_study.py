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
# # How many steps does contrastive divergence need?
#
# Seven RBMs with 500 hidden units were trained on MNIST. They differ only in their negative samples: k Gibbs steps from
# the batch (CD-k), or k Gibbs steps of persistent chains (PCD-k). `ebm-jax sweep` made the runs, and the repository
# keeps their records without checkpoints. This notebook loads the records and compares the measures of fit.

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import ebm_jax as ej
from ebm_jax.experiment.config import load_config
from ebm_jax.experiment.run.folder import read_metrics, read_result

records = Path(ej.__file__).parents[1] / "docs" / "studies" / "cd_vs_pcd" / "records"


def load(prefix):
    """Returns configuration, rows of metrics.jsonl, final figures and draws of every run with this prefix."""
    return {
        path.name.removeprefix(prefix): (
            load_config(path / "config.yaml"),
            read_metrics(path),
            read_result(path)["metrics"],
            np.load(path / "samples" / "final.npz"),
        )
        for path in sorted(records.glob(f"{prefix}*"))
    }


mnist = load("rbm_mnist_")
order = ["cd1", "cd5", "cd20", "cd100", "pcd1", "pcd5", "pcd20"]
mnist = {name: mnist[name] for name in order}
print(json.loads((records / "rbm_mnist_pcd5" / "environment.json").read_text())["command"])
for name, (config, _, _, _) in mnist.items():
    print(
        f"{name:>6}: {config.negatives.method}, k = {config.negatives.k}, {config.training.n_epochs} epochs"
    )

# %% [markdown]
# ## Three measures, two of which miss the difference
#
# Reconstruction error and pseudo-likelihood are cheap, but they hardly distinguish these models. The log-likelihood of
# the test images requires log Z, estimated here by annealed importance sampling from both sides. The lower number is
# conservative, the upper number optimistic.

# %%
print("          reconstruction   pseudo-LL   log-likelihood between")
for name, (_, _, figures, _) in mnist.items():
    low, high = figures["log_likelihood_lower"], figures["log_likelihood_upper"]
    print(
        f"{name:>8}{figures['reconstruction_error']:>16.4f}{figures['pseudo_log_likelihood']:>12.1f}"
        f"{min(low, high):>13.1f} and {max(low, high):.1f}"
    )

# %%
figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
for method, colour in (("cd", "C0"), ("pcd", "C1")):
    chosen = [run for run in mnist.values() if run[0].negatives.method == method]
    k = [run[0].negatives.k for run in chosen]
    low, high = ([run[2][key] for run in chosen] for key in ("log_likelihood_lower", "log_likelihood_upper"))
    axes[0].plot(k, low, "o-", color=colour, label=method.upper())
    axes[0].fill_between(k, low, high, color=colour, alpha=0.2)
    axes[1].plot(k, [run[2]["pseudo_log_likelihood"] for run in chosen], "o-", color=colour)
    axes[2].plot(k, [run[2]["reconstruction_error"] for run in chosen], "o-", color=colour)
titles = ("log-likelihood (nats), both bounds", "pseudo-log-likelihood (nats)", "reconstruction error")
axes[0].legend()
for ax, title in zip(axes, titles, strict=True):
    ax.set(title=title, xlabel="k", xscale="log")

# %% [markdown]
# ## During training
#
# CD with small k fits the model near the data and ignores the rest of the space. Its chains never get far from the
# data, so nothing lowers the probability there: the likelihood falls while the reconstruction still improves.
# Persistent chains do find such regions. Their cost is noise: the weights must not move faster than the chains mix. PCD
# therefore gains most at the end, when the learning rate is small.

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
for name, (_, rows, _, _) in mnist.items():
    evaluations = [row for row in rows if row["kind"] == "evaluation"]
    style = "o-" if name.startswith("pcd") else "s--"
    epochs = [row["epoch"] for row in evaluations]
    axes[0].plot(epochs, [row["log_likelihood_lower"] for row in evaluations], style, markersize=4)
    axes[1].plot(
        epochs, [row["reconstruction_error"] for row in evaluations], style, label=name, markersize=4
    )
axes[1].legend(ncols=2)
for ax, title in zip(axes, ("log-likelihood, lower bound", "reconstruction error"), strict=True):
    ax.set(title=title, xlabel="epoch")

# %% [markdown]
# ## Samples from noise
#
# Each picture is the mean of the visible units after a thousand Gibbs steps from noise. A model with too much
# probability far from the data keeps its chains there.

# %%
ej.plots.compare({name: draws["frames"][-1][:25] for name, (_, _, _, draws) in mnist.items()})

# %% [markdown]
# ## Autocorrelation
#
# The figure shows the autocorrelation of the free energy along chains from training images. A thousand steps are short
# compared with the autocorrelation time of these chains, as R-hat shows. The effective sample sizes in the records are
# therefore upper bounds.

# %%
figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
for name, (_, _, _, draws) in mnist.items():
    ax.plot(draws["autocorrelation"][:200], "-" if name.startswith("pcd") else "--", label=name)
ax.set(xlabel="lag (sweeps)", title="autocorrelation of the free energy")
ax.legend(ncols=2)
for name, (_, _, figures, _) in mnist.items():
    print(f"{name:>6}: τ = {figures['autocorrelation_time']:.0f} sweeps, R-hat {figures['r_hat']:.2f}")

# %% [markdown]
# ## Small models with exact log Z
#
# These RBMs have 20 hidden units and learn 8×8 digits. Their log Z is computed exactly, so the two bounds agree.

# %%
digits = load("rbm_digits_")
for name, (_, _, figures, _) in digits.items():
    print(
        f"{name:>6}: log-likelihood {figures['log_likelihood_lower']:7.2f}, "
        f"pseudo-log-likelihood {figures['pseudo_log_likelihood']:7.2f}, "
        f"reconstruction {figures['reconstruction_error']:.4f}"
    )
