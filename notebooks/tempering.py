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
# # Tempering: how replicas carry a chain over barriers
#
# A chain that stays in one mode looks perfectly converged. Parallel tempering runs replicas on a ladder of inverse
# temperatures and lets neighbours exchange. This notebook shows where tempering helps, how to see whether it does, and
# how to place the ladder. It takes about a minute on two cores and downloads nothing.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import ebm_jax as ej

# Set to run with small sizes, in seconds. The tests do this; the pictures then mean nothing.
SMALL = bool(os.environ.get("EBM_JAX_SMALL"))

# %% [markdown]
# ## Nine wells
#
# The energy is a mixture of nine narrow Gaussians on a lattice, with unequal weights. MALA explores only the well in
# which it starts.

# %%
CENTRES = jnp.array([[i, j] for i in (-2.0, 0.0, 2.0) for j in (-2.0, 0.0, 2.0)])
log_weights = jax.nn.log_softmax(jnp.linspace(0.0, 1.5, 9))


def wells(log_weights, x):
    return -jax.nn.logsumexp(log_weights - 12.0 * jnp.sum((x - CENTRES) ** 2, axis=1))


bare = ej.mala(wells, 0.25)
tempered = ej.parallel_tempering(bare, np.geomspace(0.03, 1.0, 6))
start = jnp.tile(CENTRES[0], (128, 1))
if SMALL:
    schedule = ej.SamplingSchedule(n_warmup=2, n_samples=5, steps_per_sample=2)
else:
    schedule = ej.SamplingSchedule(n_warmup=500, n_samples=50, steps_per_sample=20)
runs = {
    name: ej.sample(jax.random.key(0), kernel, log_weights, start, schedule)
    for name, kernel in {"MALA": bare, "tempered MALA": tempered}.items()
}


# %%
def shares(positions):
    x = np.asarray(positions).reshape(-1, 2)
    nearest = np.argmin(((x[:, None] - np.asarray(CENTRES)) ** 2).sum(-1), axis=1)
    return np.bincount(nearest, minlength=9) / len(x)


fig, axes = plt.subplots(1, 3, figsize=(11, 3.5), layout="constrained")
for ax, (name, run) in zip(axes, runs.items()):
    ax.plot(*np.asarray(run.positions).reshape(-1, 2).T, ".", ms=1, alpha=0.4)
    ax.set(title=name, aspect="equal", xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[])
axes[2].bar(np.arange(9) - 0.2, np.exp(log_weights), 0.4, label="exact")
axes[2].bar(np.arange(9) + 0.2, shares(runs["tempered MALA"].positions), 0.4, label="tempered")
axes[2].set(xlabel="well", ylabel="share", xticks=range(9))
axes[2].legend(frameon=False)
print("MALA:    ", shares(runs["MALA"].positions).round(3))
print("tempered:", shares(runs["tempered MALA"].positions).round(3))

# %% [markdown]
# All chains of MALA agree, and their R-hat is 1.00. They agree on the wrong answer, because they started together.
#
# ## Ising at its critical point
#
# On a 32×32 torus the magnetisation of a critical Ising model rarely changes sign under single-site updates. The inner
# kernel is now block Gibbs; nothing else changes.

# %%
T_c = 2 / np.log(1 + np.sqrt(2))
model = ej.Ising(ej.Grid(32, 32, "periodic"), bias="tied")
params = ej.IsingParams(bias=jnp.zeros(()), coupling=jnp.ones(2))
spins = ej.init_chains(jax.random.key(1), model, n_chains=8)
# The ladder is in units of the critical β.
even = ej.parallel_tempering(ej.gibbs(model), np.linspace(0.5, 1.0, 12))
tuned, states = ej.tune_ladder(jax.random.key(2), even, params, spins, 63 if SMALL else 1500, beta=1 / T_c)

# %% [markdown]
# `tune_ladder` moves the rungs until all pairs reject exchanges at the same rate. Exchanges are hardest where the
# energy fluctuates most, near the critical point, so the tuned ladder has more rungs there.

# %%
steps = ej.SamplingSchedule(n_warmup=50 if SMALL else 2000, n_samples=1)
reports = {}
# The untuned ladder gets a warm-up of about the length of the tuning.
warm = ej.sample(jax.random.key(2), even, params, spins, steps, beta=1 / T_c).state
for name, kernel, first in (("equally spaced", even, warm), ("tuned", tuned, states)):
    fresh = first._replace(statistics=jax.tree.map(jnp.zeros_like, first.statistics))
    run = ej.sample(jax.random.key(2), kernel, params, fresh, steps, beta=1 / T_c)
    reports[name] = ej.swap_report(kernel, run.state)

fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for name, report in reports.items():
    axes[0].plot(report.betas[1:], report.rejection, "o-", ms=4, label=name)
    axes[1].plot(report.betas, report.energy / 1024, "o-", ms=4, label=name)
    print(
        f"{name}: barrier {report.barrier:.2f}, {report.n_round_trips} round trips, "
        f"{1000 * report.round_trip_rate:.2f} per chain and 1,000 steps (at best {1000 * report.best_rate:.0f})"
    )
axes[0].set(xlabel="β / β_c of the colder rung", ylabel="share of exchanges rejected", ylim=(0, 1))
axes[1].set(xlabel="β / β_c", ylabel="mean energy per site")
axes[0].legend(frameon=False)

# %% [markdown]
# ## Following one replica
#
# The state holds the rung of every replica, so a stack of states is a trajectory through the ladder. Exchanges
# alternate between even and odd pairs: a replica keeps its direction until an exchange is rejected. With random pairs
# it diffuses.


# %%
def rungs(kernel, n=40 if SMALL else 400):
    state = jax.tree.map(lambda leaf: leaf[0], states)

    def scan_body(state, _):
        state, _ = kernel.step(jax.random.key(3), params, 1 / T_c, state)
        return state, state.rung

    return np.asarray(jax.jit(lambda s: jax.lax.scan(scan_body, s, length=n))(state)[1])


random = ej.parallel_tempering(ej.gibbs(model), tuned.betas, swaps="random")
exchanges = {"even, odd": tuned, "random": random}
if SMALL:
    # It has run above.
    del exchanges["even, odd"]
fig, axes = plt.subplots(2, 1, figsize=(9, 4.5), sharex=True, layout="constrained")
for ax, (name, kernel) in zip(axes, exchanges.items()):
    ax.plot(rungs(kernel)[:, ::4], lw=0.8)
    ax.set(ylabel="rung", yticks=(0, 4, 8, 11), title=f"exchanges: {name}")
axes[1].set_xlabel("step")

# %% [markdown]
# ## Alternatives
#
# For a ferromagnet without a field, cluster moves are better than tempering. If only the minimum of the energy matters,
# `anneal` cools the chains slowly and keeps the best configuration of each chain. Here it searches for ground states of
# a 12×12 spin glass with random couplings ±1.

# %%
if SMALL:
    schedule = ej.SamplingSchedule(n_warmup=1, n_samples=40)
else:
    schedule = ej.SamplingSchedule(n_warmup=300, n_samples=1000)


def magnetisation(params, x):
    return jnp.abs(2.0 * x.mean() - 1.0)


kernels = {"gibbs": ej.gibbs(model), "swendsen_wang": ej.swendsen_wang(model), "tempered": tuned}
if SMALL:
    # It compiles for longest, and has run above.
    del kernels["tempered"]
for name, kernel in kernels.items():
    run = ej.sample(jax.random.key(4), kernel, params, spins, schedule, beta=1 / T_c, observe=magnetisation)
    tau = ej.diagnostics.integrated_autocorrelation_time(run.observed)
    print(f"{name}: mean |m| {float(run.observed.mean()):.3f}, autocorrelation time {float(tau):.0f} steps")

# %%
glass = ej.Ising(ej.Grid(12, 12, "periodic"), "edge")
signs = jnp.where(jax.random.bernoulli(jax.random.key(5), 0.5, (288,)), 1.0, -1.0)
frozen = ej.IsingParams(bias=jnp.zeros((12, 12)), coupling=signs)
x = ej.init_chains(jax.random.key(6), glass, n_chains=32)
fig, ax = plt.subplots(figsize=(5.5, 3.2), layout="constrained")
for n in (10,) if SMALL else (10, 100, 1000):
    found = ej.anneal(jax.random.key(7), ej.gibbs(glass), frozen, x, np.geomspace(0.2, 4.0, n))
    ax.plot(np.full(32, n), np.asarray(found.energies) / 144, ".", color="tab:blue", alpha=0.4)
    n_found = int((found.energies == found.energy).sum())
    print(f"{n:>5} steps: best energy {float(found.energy):.0f}, found by {n_found} of 32 chains")
ax.set(xscale="log", xlabel="steps of cooling", ylabel="best energy per site of each chain")
