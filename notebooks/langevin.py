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
# # Langevin and its relatives: landscapes, trajectories, biases
#
# This notebook runs four samplers on two energies in the plane. It shows where the chains go, which samplers have the
# right distribution, and what the step size changes. It takes less than a minute on two cores and downloads nothing.

# %%
import io
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image, display
from PIL import Image as Picture

import ebm_jax as ej
from ebm_jax import diagnostics

# Set to run with small sizes, in seconds. The tests do this; the pictures then mean nothing.
SMALL = bool(os.environ.get("EBM_JAX_SMALL"))

# %% [markdown]
# ## Two landscapes
#
# The first energy is a mixture of four Gaussians, the second a ring that a small network bends. An energy is a function
# of parameters and *one* configuration. Everything below maps it over chains.

# %%
CENTRES = jnp.array([[-1.5, -1.0], [1.5, -1.0], [0.0, 1.6], [1.6, 1.8]])


def mixture(log_weights, x):
    return -jax.nn.logsumexp(log_weights - 2.0 * jnp.sum((x - CENTRES) ** 2, axis=1))


def ring(params, x):
    bend = jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"]
    return 4.0 * (jnp.sqrt(jnp.sum(x**2) + 1e-6) - 1.7) ** 2 + bend


log_weights = jnp.log(jnp.array([0.4, 0.3, 0.2, 0.1]))
shapes = {"w1": (2, 8), "b1": (8,), "w2": (8,)}
keys = dict(zip(shapes, jax.random.split(jax.random.key(3), 3)))
network = {name: jax.random.normal(keys[name], shape) for name, shape in shapes.items()}
energies = {"mixture": (mixture, log_weights), "ring": (ring, network)}

# %%
side = np.linspace(-3.2, 3.2, 161, dtype=np.float32)
grid = np.stack(np.meshgrid(side, side), axis=-1)


def on_grid(energy, params):
    return np.asarray(jax.vmap(jax.vmap(energy, (None, 0)), (None, 0))(params, grid))


def landscape(ax, name):
    ax.contourf(side, side, np.minimum(on_grid(*energies[name]), 9.0), levels=19, cmap="Blues_r")
    ax.set(aspect="equal", xticks=[], yticks=[], xlim=side[[0, -1]], ylim=side[[0, -1]])


fig, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
for ax, name in zip(axes, energies):
    landscape(ax, name)
    ax.set_title(f"E of the {name} (dark: low)")

# %% [markdown]
# ## Trajectories
#
# Each kernel runs one chain of 300 steps on the mixture, from the same point. `ula` accepts every step. `mala` computes
# the energy of the proposal and may reject it. `hmc` follows the dynamics for eight gradients before it accepts or
# rejects. `langevin` takes a separate step size and noise scale, as papers that train networks do. Here it mostly
# descends, and it soon stays in one well.

# %%
start = jnp.zeros((1, 2))
kernels = {
    "ula, ε = 0.3": ej.ula(mixture, 0.3),
    "mala, ε = 0.6": ej.mala(mixture, 0.6),
    "hmc, 8 × 0.3": ej.hmc(mixture, 0.3, 8),
    "langevin, α = 0.05, σ = 0.05": ej.langevin(mixture, 0.05, 0.05),
}
every = ej.SamplingSchedule(n_warmup=1, n_samples=30 if SMALL else 300)
paths = {
    name: np.asarray(ej.sample(jax.random.key(1), kernel, log_weights, start, every).positions[:, 0])
    for name, kernel in kernels.items()
}

fig, axes = plt.subplots(1, 4, figsize=(13, 3.5), layout="constrained")
for ax, (name, path) in zip(axes, paths.items()):
    landscape(ax, "mixture")
    ax.plot(*path.T, lw=0.6, color="tab:orange", scalex=False, scaley=False)
    ax.plot(*path[-1], "o", color="tab:red", ms=4)
    ax.set_title(name, fontsize=10)

# %% [markdown]
# ## An animation
#
# Two hundred chains of MALA start from a cloud far outside the ring. They fall in and spread around the ring. From then
# on each frame is a sample of the distribution.

# %%
cloud = 0.25 * jax.random.normal(jax.random.key(4), (200, 2)) + jnp.array([2.6, 2.4])
frame_schedule = ej.SamplingSchedule(n_warmup=1, n_samples=3 if SMALL else 60, steps_per_sample=2)
moving = ej.sample(jax.random.key(5), ej.mala(ring, 0.25), network, cloud, frame_schedule)
frames = np.concatenate([np.asarray(cloud)[None], np.asarray(moving.positions)])


def animation(frames, milliseconds=90):
    """Returns a GIF of the points over the ring, drawn frame by frame."""
    fig, ax = plt.subplots(figsize=(3.6, 3.6), layout="constrained")
    landscape(ax, "ring")
    (points,) = ax.plot([], [], ".", color="tab:orange", ms=4)
    pages = []
    for number, x in enumerate(frames):
        points.set_data(*x.T)
        ax.set_title(f"step {2 * number}", fontsize=10)
        fig.canvas.draw()
        pages.append(Picture.fromarray(np.asarray(fig.canvas.buffer_rgba())[..., :3]).quantize(48))
    plt.close(fig)
    gif = io.BytesIO()
    pages[0].save(gif, format="GIF", save_all=True, append_images=pages[1:], duration=milliseconds, loop=0)
    return gif.getvalue()


display(Image(data=animation(frames), format="gif"))

# %% [markdown]
# ## The bias of a step size
#
# On $E = x^2/2$ the unadjusted chain has variance $1 / (1 - \varepsilon^2/4)$ instead of 1: its bias shrinks as
# $\varepsilon^2$. MALA has no bias at any step size. A larger step only lowers its acceptance rate.

# %%
steps = np.array([0.2, 0.4, 0.6, 0.8, 1.0, 1.2], np.float32)
x0 = jax.random.normal(jax.random.key(6), (2_000 if SMALL else 20_000,))
long = ej.SamplingSchedule(n_warmup=150, n_samples=1)


def bowl(params, x):
    return x**2 / 2


variance = {
    name: [float(jnp.var(ej.sample(jax.random.key(7), make(bowl, e), (), x0, long).positions)) for e in steps]
    for name, make in (("ula", ej.ula), ("mala", ej.mala))
}
fig, ax = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
fine = np.linspace(0.1, 1.25, 100)
ax.plot(fine, 1 / (1 - fine**2 / 4), color="gray", lw=1, label="theory of ula")
for name, marker in (("ula", "o"), ("mala", "s")):
    ax.errorbar(steps, variance[name], yerr=2 * np.sqrt(2 / x0.size), fmt=marker, ms=4, label=name)
ax.set(xlabel="step size ε", ylabel="variance")
ax.legend(frameon=False)
print({name: np.round(v, 3).tolist() for name, v in variance.items()})

# %% [markdown]
# A certificate finds the bias without knowing the theory. It starts thousands of chains with exact draws and tests
# whether the chains keep the distribution.


# %%
def exact_draws(key, n, beta):
    return jax.random.normal(key, (n,)) / beta**0.5


for kernel in (ej.ula(bowl, 0.8),) if SMALL else (ej.ula(bowl, 0.8), ej.mala(bowl, 0.8)):
    ej.certify(
        kernel,
        bowl,
        (),
        key=jax.random.key(8),
        draws=exact_draws,
        n_chains=1_000 if SMALL else 20_000,
    )

# %% [markdown]
# ## Step sizes and effective samples
#
# `warm_up` tunes the step size to a target acceptance rate (0.57 for MALA, 0.8 for HMC), over all chains at once. The
# effective sample size then counts independent draws. It can be trusted only if the chains cross between the four wells
# of the mixture, which R-hat checks.

# %%
scattered = 2.0 * jax.random.normal(jax.random.key(9), (64, 2))
for name, kernel in {"mala": ej.mala(mixture, 0.1), "hmc": ej.hmc(mixture, 0.1, 8)}.items():
    tuned, states = ej.warm_up(jax.random.key(10), kernel, log_weights, scattered, 40 if SMALL else 400)
    schedule = ej.SamplingSchedule(n_warmup=1, n_samples=50 if SMALL else 1000)
    run = ej.sample(jax.random.key(10), tuned, log_weights, states, schedule)
    summary = diagnostics.summarize(run.positions)
    gradients = int(run.info.n_gradient.sum())
    print(
        f"{name}: step {float(tuned.step_size):.2f}, acceptance {float(run.info.acceptance.mean()):.2f}, "
        f"R-hat {float(summary.r_hat.max()):.3f}, {float(summary.ess_bulk.min()):.0f} effective draws of 64,000, "
        f"{1000 * float(summary.ess_bulk.min()) / gradients:.1f} per thousand gradients"
    )
