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
# # A convolutional energy of MNIST
#
# A network with four convolutions gives each image an energy. Langevin chains of a replay buffer are its negatives
# (Du and Mordatch 2019). `ebm-jax train configs/conv_mnist.yaml` trains it on all digits. This notebook reads the
# record of that run, and runs new chains with the parameters that the repository keeps.

# %%
import json
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

import ebm_jax as ej
from ebm_jax.experiment.config import load_config
from ebm_jax.experiment.run.folder import read_metrics, read_result

SMALL = False
record = Path(ej.__file__).parents[1] / "docs" / "results" / "conv_mnist"
config = load_config(record / "config.yaml")
rows, metrics = read_metrics(record), read_result(record)["metrics"]
draws = np.load(record / "samples" / "final.npz")
print(json.loads((record / "environment.json").read_text())["command"])
model, params = ej.load(record / "model.npz")
print(f"{ej.count_parameters(params):,} parameters; {read_result(record)['step']:,} updates")

# %% [markdown]
# ## Training
#
# The gap between energies of negatives and of data stays small: chains keep up with the energy. Slots of the buffer
# grow older as training goes on, and a share of them starts anew at every update.

# %%
train = [row for row in rows if row["kind"] == "train"]
evaluations = [row for row in rows if row["kind"] == "evaluation"]
figure, axes = plt.subplots(1, 3, figsize=(11, 3))
for axis, name in zip(axes, ("energy_gap", "age", "movement"), strict=True):
    axis.plot([row["epoch"] for row in train], [row[name] for row in train])
    axis.set(title=name, xlabel="epoch")
figure.tight_layout()

# %% [markdown]
# ## New chains from noise
#
# Chains start at uniform noise. An update of a chain is x ← clamp(x − α clip(∇E) + σz), and the clip bounds how far a
# step moves a pixel.

# %%
generation = config.generation
kernel = ej.langevin(
    model, generation.step_size, generation.noise_scale, clip=generation.clip, clip_by="value", bounds=(-1, 1)
)
noise = jax.random.uniform(jax.random.key(0), (8, 28, 28), minval=-1, maxval=1)
chains = ej.sample(jax.random.key(1), kernel, params, noise, ej.SamplingSchedule(16, 16, 16)).positions
frames = np.concatenate([noise[None], chains])
ej.plots.chain_strip((frames + 1) / 2, [0, *range(16, 257, 16)])
# %%
ej.plots.compare({"data": draws["data"][:49], "ends of chains": draws["frames"][-1][:49]})
# %% [markdown]
# ## What a judge says
#
# A classifier that took no part in training reads the ends of fresh chains, the noise they began at, and as many
# training images, which no sampler has to beat.

# %%
print(f"{'':18}{'chains':>10}{'noise':>10}{'images':>10}")
for name in ("share_above_0_9", "mean_confidence", "rarest_class", "frechet", "inception_score"):
    print(f"{name:18}" + "".join(f"{metrics[prefix + name]:10.3f}" for prefix in ("", "start_", "training_")))
temperature = ej.metrics.implied_temperature(generation.step_size, generation.noise_scale)
print(f"T = {temperature:.1e}: these chains go downhill, and are no samples of exp(−E)")
