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
# # Block Gibbs sampling: phases, digits, missing halves
#
# This notebook runs three small experiments with one sampler.
#
# 1. The Ising model orders below its critical temperature. We compare with Onsager's exact solution.
# 2. A Potts grid learns handwritten digits.
# 3. A Potts grid and an RBM complete digits from their upper halves.
#
# It takes about a minute on two cores and downloads nothing.

# %%
import os
import warnings

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from scipy.special import ellipk

import ebm_jax as ej

# tqdm warns where ipywidgets is not installed.
warnings.filterwarnings("ignore", "IProgress not found")

# Set to run with small sizes, in seconds. The tests do this; the pictures then mean nothing.
SMALL = bool(os.environ.get("EBM_JAX_SMALL"))

# %% [markdown]
# ## Ising phases
#
# The energy is $E(s) = -\sum_{\langle ij\rangle} s_i s_j$ on a torus of 128×128 spins, and the temperature is
# $T = 1/\beta$. A sweep draws the black sites of a checkerboard given the white sites, then the white sites given the
# black sites. `sample` takes one β per run. `vmap` over β gives each temperature its own chains, and all of them run
# side by side in one compiled loop. Because the parameters are tied, the kernel packs 32 sites of a chain into one word
# and draws them together: its path is "bits".

# %%
side = 32 if SMALL else 128
# bias="tied" is one bias for all sites.
model = ej.Ising(ej.Grid(side, side, boundary="periodic"), bias="tied")
kernel = ej.gibbs(model)
params = ej.IsingParams(bias=jnp.zeros(()), coupling=jnp.ones(2))
T_c = 2 / np.log(1 + np.sqrt(2))
print(f"path: {kernel.path}; T_c = {T_c:.4f}")

# %% [markdown]
# An `observe` function reduces each sample to two numbers: the magnetisation and the energy per site.

# %%
temperatures = np.sort(np.append(np.linspace(1.6, 3.4, 13), T_c)).astype(np.float32)
if SMALL:
    schedule = ej.SamplingSchedule(n_warmup=2, n_samples=4, steps_per_sample=2)
else:
    schedule = ej.SamplingSchedule(n_warmup=300, n_samples=40, steps_per_sample=10)


def per_site(params, x):
    return jnp.abs(jnp.mean(jnp.where(x, 1.0, -1.0))), model.energy(params, x) / x.size


def run(start, beta):
    samples = ej.sample(jax.random.key(1), kernel, params, start, schedule, beta=beta, observe=per_site)
    return samples.observed, kernel.position(samples.state)


at_all_temperatures = jax.vmap(run, (None, 0))
noise = ej.init_chains(jax.random.key(0), model, n_chains=4)
# Shape (temperatures, chains, side, side).
_, snapshots = at_all_temperatures(noise, 1 / temperatures)

# %%
fig, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
for ax, index in zip(axes, (1, int(np.argmin(np.abs(temperatures - T_c))), -1)):
    T = temperatures[index]
    ax.imshow(snapshots[index, 0], cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    ax.set_title(f"T = {T:.2f} = {T / T_c:.2f} $T_c$")
    ax.set_axis_off()

# %% [markdown]
# All three chains started from noise 700 sweeps ago. Below $T_c$, domains of one sign have grown. Several of them may
# still be there: the walls between them move slowly, and a stripe around the torus lives for a very long time. At $T_c$
# there are clusters of every size. Above $T_c$, spins agree over a few sites only.
#
# For the curves below, all chains start with every spin up, which avoids stripes.

# %%
# Both have shape (temperatures, samples, chains).
(magnetisation, energy), _ = at_all_temperatures(jnp.ones_like(noise), 1 / temperatures)

# %% [markdown]
# For the infinite lattice, Onsager (1944) derived the exact energy and Yang (1952) the exact magnetisation:
#
# $$ u = -\coth 2\beta \left[1 + \tfrac{2}{\pi}\,(2\tanh^2 2\beta - 1)\, K(k)\right],\quad
# k = \frac{2\sinh 2\beta}{\cosh^2 2\beta}, \qquad m = \left(1 - \sinh^{-4} 2\beta\right)^{1/8} \text{ below } T_c. $$


# %%
def onsager(T):
    x = 2 / T
    k = 2 * np.sinh(x) / np.cosh(x) ** 2
    m = np.maximum(1 - np.sinh(x) ** -4.0, 0) ** 0.125
    return m, -(1 + 2 / np.pi * (2 * np.tanh(x) ** 2 - 1) * ellipk(k**2)) / np.tanh(x)


fine = np.linspace(1.5, 3.5, 400)
fig, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
names = ("magnetisation |m|", "energy per site")
for ax, name, exact, measured in zip(axes, names, onsager(fine), (magnetisation, energy)):
    ax.plot(fine, exact, color="#8a8d91", label="exact, infinite lattice")
    means = np.mean(measured, axis=(1, 2))
    ax.plot(temperatures, means, "o", color="#1f4e79", markersize=4, label=f"block Gibbs, {side}×{side}")
    ax.axvline(T_c, color="#222222", linewidth=0.8, linestyle=(0, (4, 3)))
    ax.set(xlabel="T", title=name)
_ = axes[0].legend(frameon=False)

# %%
exact_m, exact_u = onsager(temperatures)
error_m = np.abs(np.mean(magnetisation, axis=(1, 2)) - exact_m)
error_u = np.abs(np.mean(energy, axis=(1, 2)) - exact_u)
below, away = temperatures < 0.92 * T_c, np.abs(temperatures / T_c - 1) > 0.08
print(f"largest error of |m| for T < 0.92 T_c: {error_m[below].max():.4f}")
print(f"largest error of the energy farther than 8 % from T_c: {error_u[away].max():.4f}")

# %% [markdown]
# The points differ from the lines for two reasons. On a finite torus the mean of |m| is never zero. Near $T_c$ the
# chains slow down, and 700 sweeps are too few to forget the start.
#
# ## A Potts grid learns digits
#
# The data are 8×8 digits in four grey levels. The model has one bias for each pixel and level and one coupling for each
# pair of neighbours: $E(x) = -\sum_i b_i[x_i] - \sum_{ij} w_{ij}\,\delta(x_i, x_j)$. Persistent contrastive divergence
# runs 256 chains on the model while it learns.

# %%
data = ej.data.load("digits")
levels, test_levels = (np.asarray(ej.data.discretize(split.images, 4)) for split in (data.train, data.test))
potts = ej.Potts(ej.Grid(8, 8), n_levels=4, coupling="edge")
counts = np.stack([(levels == k).sum(axis=0) + 1 for k in range(4)], axis=-1)
bias = jnp.asarray(np.log(counts / counts.sum(axis=-1, keepdims=True)), jnp.float32)
potts_kernel = ej.gibbs(potts)
n_epochs = 2 if SMALL else 30
potts_fit = ej.fit(
    jax.random.key(3),
    potts,
    levels,
    tx=optax.adam(optax.linear_schedule(0.02, 0.0, n_epochs * (len(levels) // 128))),
    negatives=ej.negatives.pcd(potts_kernel, k=1, n_chains=256),
    n_epochs=n_epochs,
    # Training starts from nearly independent pixels.
    params=ej.PottsParams(bias, potts.init(jax.random.key(4)).coupling),
    progress=False,
)
potts_params = potts_fit.state.params
ej.plots.training_curves(potts_fit.metrics)

# %%
chains = ej.init_chains(jax.random.key(5), potts, n_chains=60)
schedule = ej.SamplingSchedule(n_warmup=20 if SMALL else 500, n_samples=1)
drawn = ej.sample(jax.random.key(6), potts_kernel, potts_params, chains, schedule).positions[0]
ej.plots.compare({"training digits": levels[:60], "Potts grid, from noise": drawn}, 10, n_levels=4)

# %% [markdown]
# The grid learns how dark each pixel is and how similar neighbours are. Strokes need longer-range structure: hardly any
# of these samples looks like a digit.
#
# ## The missing half
#
# `clamped=(mask, values)` holds the sites under the mask. The mask and the values are arguments of the compiled code,
# so another mask needs no compilation. We compare the Potts grid with an RBM, whose hidden units see the whole picture.

# %%
bits, test_bits = (ej.data.binarize(s.images, 0.5).reshape(-1, 64) for s in (data.train, data.test))
rbm = ej.RBM(n_visible=64, n_hidden=128)
rbm_kernel = ej.gibbs(rbm)
n_epochs = 2 if SMALL else 100
rbm_fit = ej.fit(
    jax.random.key(7),
    rbm,
    bits.astype(np.uint8),
    tx=optax.sgd(optax.linear_schedule(0.2, 0.0, n_epochs * (len(bits) // 128))),
    negatives=ej.negatives.pcd(rbm_kernel, k=1, n_chains=256),
    n_epochs=n_epochs,
    progress=False,
)
rbm_params = rbm_fit.state.params

# %%
upper = np.zeros((8, 8), bool)
upper[:4] = True
if SMALL:
    schedule = ej.SamplingSchedule(n_warmup=2, n_samples=5, steps_per_sample=2)
else:
    schedule = ej.SamplingSchedule(n_warmup=20, n_samples=50, steps_per_sample=20)
n = len(test_bits)

start = ej.init_chains(jax.random.key(8), potts, n)
given = upper, test_levels
by_potts = ej.sample(jax.random.key(9), potts_kernel, potts_params, start, schedule, clamped=given).positions
by_potts = np.asarray(by_potts) / np.float32(3)

v, h = ej.init_chains(jax.random.key(10), rbm, n)
given = (upper.ravel(), np.zeros(128, bool)), (test_bits.astype(np.uint8), h)
by_rbm = ej.sample(jax.random.key(11), rbm_kernel, rbm_params, (v, h), schedule, clamped=given).positions[0]
by_rbm = np.asarray(by_rbm, np.float32).reshape(-1, n, 8, 8)

# %%
truth, shown = test_levels / np.float32(3), slice(0, 20)
panels = {
    "test digits": truth[shown],
    "given": np.where(upper, truth[shown], np.float32(0.3)),
    "Potts: one draw": by_potts[-1, shown],
    "Potts: mean": by_potts[:, shown].mean(axis=0),
    "RBM: one draw": by_rbm[-1, shown],
    "RBM: mean": by_rbm[:, shown].mean(axis=0),
}
ej.plots.compare(panels, 4)


# %%
def error(mean, truth):
    return float(np.mean((mean - truth)[:, ~upper] ** 2))


bit_truth = test_bits.reshape(-1, 8, 8)
potts_guess, rbm_guess = levels.mean(axis=0)[None] / 3, bits.reshape(-1, 8, 8).mean(axis=0)[None]
potts_share = error(by_potts.mean(axis=0), truth) / error(potts_guess, truth)
rbm_share = error(by_rbm.mean(axis=0), bit_truth) / error(rbm_guess, bit_truth)
print("squared error in the lower half, relative to predicting the mean of the training digits")
print(f"Potts grid: {potts_share:.2f}; RBM: {rbm_share:.2f}")

# %% [markdown]
# The Potts grid is hardly better than the mean of the training digits: the given half influences only a row or two
# below the border. The RBM continues strokes. Its single draws are mostly digits, though not always the digit that was
# cut.
