"""Gibbs chains of a trained RBM: pictures along them, and how they mix."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import checks, diagnostics
from ebm_jax.energies.rbm import RBM, RBMParams
from ebm_jax.experiment.recipes.frames import Frames, run_frames
from ebm_jax.experiment.recipes.rbm.config import RBMEvaluationConfig
from ebm_jax.experiment.recipes.rbm.data import Bits, as_images
from ebm_jax.graphs.blocks import SamplingSchedule
from ebm_jax.run import sample
from ebm_jax.samplers.gibbs import gibbs
from ebm_jax.samplers.start import init_chains

# Rows of the training set for what is compared with the test set.
TRAIN_ROWS = 10_000
_FRAMES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class FreeEnergy(NamedTuple):
    """Observer of the free energy of chains. Equal models give equal observers, which share one compilation."""

    model: RBM

    def __call__(self, params: RBMParams, x: Any) -> jax.Array:
        """Returns F of the visible part."""
        return self.model.free_energy(params, x[0])


class Chains(NamedTuple):
    """Result of `run_chains`.

    Attributes:
      ends: Last visible configurations, `(n_chains, n_visible)`.
      mixing: `autocorrelation_time` and `ess_per_step` in sweeps, and `r_hat`, of the free energy.
      autocorrelation: Of the free energy by lag, mean over chains.
    """

    ends: np.ndarray
    mixing: dict[str, float]
    autocorrelation: np.ndarray


def run_chains(
    model: RBM, params: RBMParams, rows: np.ndarray, key: jax.Array, n_chains: int, n_steps: int
) -> Chains:
    """Runs Gibbs chains from rows of data and measures how they mix, without their first tenth.

    Args:
      model: The RBM.
      params: Its parameters.
      rows: Bits `(n, n_visible)` from which starts are drawn, without replacement if there are enough.
      key: A typed key.
      n_chains: Number of chains.
      n_steps: Sweeps of each chain.

    Returns:
      Where the chains end, and how they mix.

    Raises:
      ValueError: If the chains are too many for the memory.
    """
    checks.check_chains_fit(n_chains, model.position_struct())
    pick, draw = jax.random.split(key)
    chosen = np.asarray(jax.random.choice(pick, len(rows), (n_chains,), replace=n_chains > len(rows)))
    start = jax.vmap(model.complete)(jnp.asarray(rows[chosen]))
    n_warmup = n_steps // 10
    schedule = SamplingSchedule(n_warmup, n_steps - n_warmup)
    chains = sample(draw, gibbs(model), params, start, schedule, observe=FreeEnergy(model))
    energies = chains.observed
    mixing = {
        "autocorrelation_time": float(diagnostics.integrated_autocorrelation_time(energies)),
        "ess_per_step": float(diagnostics.effective_sample_size(energies)) / energies.size,
        "r_hat": float(diagnostics.r_hat(energies)),
    }
    curve = np.nanmean(np.asarray(diagnostics.autocorrelation(energies)), axis=1)
    return Chains(np.asarray(chains.positions[0][-1]), mixing, curve)


def final_draws(
    settings: RBMEvaluationConfig, model: RBM, params: RBMParams, bits: Bits, key: jax.Array
) -> dict[str, np.ndarray]:
    """Returns the arrays of samples/final.npz.

    frames: uint8 `(n_frames, n_chains, height, width)`, 255 E[v | h] along chains from noise. steps: their steps.
    data: rows of the test set, as images. weights: of the first hidden units, float32 `(height, width, n)`.
    autocorrelation: of the free energy along chains from training rows, by lag.
    """
    n_chains, n_steps = settings.n_chains, settings.chain_steps
    frames, steps = draw_frames(model, params, key, n_chains, n_steps)
    rows = bits.train_bits[:TRAIN_ROWS]
    chains = run_chains(model, params, rows, jax.random.fold_in(key, 1), n_chains, n_steps)
    return {
        "frames": as_images(frames, bits.shape),
        "steps": steps,
        "data": as_images(255 * bits.test_bits[:n_chains], bits.shape),
        "weights": np.asarray(params.weights[:, :100]).reshape(*bits.shape, -1),
        "autocorrelation": chains.autocorrelation,
    }


def draw_frames(model: RBM, params: RBMParams, key: jax.Array, n_chains: int, n_steps: int) -> Frames:
    """Runs Gibbs chains from noise and returns pictures along them.

    Args:
      model: The RBM.
      params: Its parameters.
      key: A typed key.
      n_chains: Number of chains.
      n_steps: Sweeps of each chain.

    Returns:
      Frames `(n_frames, n_chains, n_visible)`: the noise, and then 255 E[v | h] at the chains' hidden units.
    """
    first, draw = jax.random.split(key)
    start = init_chains(first, model, n_chains)
    steps = [step for step in _FRAMES if step < n_steps] + [n_steps]

    def noise(x: Any) -> np.ndarray:
        return 255 * np.asarray(x[0])

    def means(x: Any) -> np.ndarray:
        return np.rint(255 * np.asarray(_visible_means(params, x[1]))).astype(np.uint8)

    return run_frames(draw, gibbs(model), params, start, steps, means, noise)


@jax.jit
def _visible_means(params: RBMParams, hidden: jax.Array) -> jax.Array:
    field = params.visible_bias + jnp.dot(
        hidden.astype(params.weights.dtype), params.weights.T, precision="highest"
    )
    return jax.nn.sigmoid(field)
