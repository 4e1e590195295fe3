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
# # Partition functions: log Z from three sides
#
# The likelihood of data under an energy-based model requires log Z. This notebook estimates log Z by forward and
# reverse annealed importance sampling (AIS) and by thermodynamic integration. The exact log Z of its models is known,
# so it also shows how each estimate fails. It takes about a minute on two cores and downloads nothing.

# %%
import os
import warnings

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import ebm_jax as ej
from ebm_jax import exact, partition, schedules

# tqdm warns where ipywidgets is not installed.
warnings.filterwarnings("ignore", "IProgress not found")

# Set to run with small sizes, in seconds. The tests do this; the pictures then mean nothing.
SMALL = bool(os.environ.get("EBM_JAX_SMALL"))

# %% [markdown]
# ## An RBM on handwritten digits, small enough to enumerate
#
# The RBM has sixteen hidden units. The exact log Z sums over their $2^{16}$ configurations, with the visible units
# summed in closed form.

# %%
digits = ej.data.load("digits")
train, test = (
    ej.data.binarize(split.images, threshold=0.5).reshape(-1, 64) for split in (digits.train, digits.test)
)
model = ej.RBM(64, 8 if SMALL else 16)
negatives = ej.negatives.pcd(ej.gibbs(model), k=2, n_chains=128)
fitted = ej.fit(
    jax.random.key(0),
    model,
    train,
    tx=optax.sgd(0.15),
    negatives=negatives,
    n_epochs=2 if SMALL else 150,
    progress=False,
)
params = fitted.state.params
truth = exact.log_partition(model, params)
mean = train.mean(axis=0)
base = jax.tree.map(jnp.zeros_like, params)._replace(
    visible_bias=jnp.asarray(np.log((mean + 0.01) / (1.01 - mean)), jnp.float32)
)
print(f"exact log Z = {truth:.3f}")

# %% [markdown]
# ## From both sides
#
# Forward runs start from a model without couplings, and their estimates are too low on average. Reverse runs start from
# draws of the model, and their estimates are too high on average. Both come closer to the exact value with more steps.

# %%
lengths = [20] if SMALL else [5, 20, 100, 500]
draws = exact.sample(jax.random.key(1), model, params, 100)
forward = [partition.ais(jax.random.key(n), model, params, betas=n, base=base) for n in lengths]
reverse = [
    partition.reverse_ais(jax.random.key(n), model, params, draws, betas=n, base=base) for n in lengths
]
for n, low, high in zip(lengths, forward, reverse):
    print(
        f"{n:>5} β: forward {low.log_z - truth:+.3f}, reverse {high.log_z - truth:+.3f}",
        *low.warnings,
        sep="; ",
    )

fig, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
for name, results, shift in (("forward", forward, 0.96), ("reverse", reverse, 1.04)):
    error = np.array([r.log_z - truth for r in results])
    bars = np.abs(np.array([r.interval for r in results]).T - truth - error)
    ax.errorbar(np.array(lengths) * shift, error, yerr=bars, fmt="o-", ms=4, label=name)
ax.axhline(0, color="gray", lw=1)
ax.set(xscale="log", xlabel="number of β", ylabel="estimate less exact log Z")
ax.legend(frameon=False)

# %% [markdown]
# The log-likelihood of data has the same two sides. `log_likelihood_bounds` always reports both.

# %%
bounds = partition.log_likelihood_bounds(
    jax.random.key(2), model, params, test, start=draws, betas=lengths[-1], base=base
)
likelihood = float(-jax.vmap(model.free_energy, (None, 0))(params, jnp.asarray(test)).mean()) - truth
print(f"mean log-likelihood of a test digit: exact {likelihood:.3f}")
print(f"with the reverse estimate {bounds.lower:.3f}, with the forward estimate {bounds.upper:.3f}")
for name, side in (("reverse", bounds.reverse), ("forward", bounds.forward)):
    low, high = side.interval
    print(f"    {name}: 95 % interval of log Z {low:.3f} to {high:.3f}, exact {truth:.3f}")

# %% [markdown]
# ## An adaptive ladder
#
# `adaptive_ladder` places the values of β so that every step spreads the weights by the same amount. It places many
# values where the model changes fast. Here the base is close to the data, so the ladder is nearly linear, and equally
# spaced values do about as well. The ladder `three_piece` places most values near β = 1.

# %%
cess = 0.9 if SMALL else 0.99
ladder = partition.adaptive_ladder(jax.random.key(3), model, params, cess=cess, base=base)
few = partition.ais(jax.random.key(4), model, params, betas=ladder, base=base)
even = partition.ais(jax.random.key(4), model, params, betas=len(ladder), base=base)
print(f"{len(ladder)} values: adaptive {few.log_z - truth:+.3f} (ESS {few.ess:.0f})", end=", ")
print(f"equally spaced {even.log_z - truth:+.3f} (ESS {even.ess:.0f})")

fig, ax = plt.subplots(figsize=(6, 3), layout="constrained")
for name, values in (("adaptive", ladder), ("three_piece", schedules.three_piece(len(ladder)))):
    ax.plot(np.linspace(0, 1, len(values)), values, label=name)
ax.plot([0, 1], [0, 1], color="gray", lw=1, label="linear")
ax.set(xlabel="position in the ladder", ylabel="β")
ax.legend(frameon=False)

# %% [markdown]
# ## How forward AIS misleads
#
# A ferromagnet well below its critical temperature has two modes, and a small field favours one of them. A short run
# from the independent model ends in either mode with about equal probability. With few steps the weights spread, and
# the result carries a warning. With a hundred steps the weights agree with each other and there is no warning, yet the
# estimate is wrong. The reverse estimate, from exact draws, reveals it.

# %%
torus = ej.Ising(ej.Grid(4, 16, "periodic"))
cold = ej.IsingParams(bias=jnp.full((4, 16), 0.03), coupling=jnp.full(2, 0.7))
known = exact.log_partition(torus, cold)
starts = exact.sample(jax.random.key(5), torus, cold, 100)
for n in (20,) if SMALL else (20, 100, 2000):
    low = partition.ais(jax.random.key(6), torus, cold, betas=n)
    high = partition.reverse_ais(jax.random.key(7), torus, cold, starts, betas=n)
    warned = "; ".join(low.warnings) or "no warning"
    print(f"{n:>5} β: forward {low.log_z - known:+.2f} ({warned}), reverse {high.log_z - known:+.2f}")

# %% [markdown]
# ## A second opinion from tempering
#
# Thermodynamic integration uses $\log Z(1) - \log Z(0) = -\int_0^1 \langle E\rangle_\beta\, d\beta$. Parallel tempering
# has a replica at every rung of a ladder. The ladder starts at β = 0, where every configuration has weight one. The
# energies of the replicas are the integrand.

# %%
betas = np.linspace(0.0, 1.0, 17)
tempered = ej.parallel_tempering(ej.gibbs(torus), betas)
chains = ej.init_chains(jax.random.key(8), torus, n_chains=16)
warm = ej.sample(
    jax.random.key(9), tempered, cold, chains, ej.SamplingSchedule(20 if SMALL else 500, 1)
).state
chain_keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(9), jnp.arange(16))


@jax.jit
def energies_of_rungs(states):
    def scan_body(states, _):
        states, _ = jax.vmap(lambda key, state: tempered.steps(key, cold, 1.0, state, 2))(chain_keys, states)
        return states, jax.vmap(lambda state: tempered.energies_by_rung(cold, state))(states)

    # Shape (n_samples, n_chains, n_rungs).
    return jax.lax.scan(scan_body, states, length=50 if SMALL else 500)[1]


energies = np.asarray(energies_of_rungs(warm))
opinion = partition.thermodynamic_integration(betas, energies, log_z0=64 * np.log(2))
print(
    f"log Z {opinion.log_z:.3f}, interval {np.round(opinion.interval, 3)}, exact {known:.3f}",
    *opinion.warnings,
)

fig, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
ax.plot(betas, energies.mean(axis=(0, 1)), "o-", ms=4)
ax.fill_between(betas, energies.mean(axis=(0, 1)), 0, alpha=0.2)
ax.set(xlabel="β", ylabel="mean energy", title="log Z is the shaded area plus 64 log 2")
