"""Diffusion recovery likelihood: maximum likelihood of data given noisier data, where chains are short.

For a level t drawn evenly for every datum, x_t = x + σ_t z and x_{t+1} = x_t + s_t z′. The model's x̃_t is drawn from
p(x_t | x_{t+1}) by a few Langevin steps from x_{t+1}; see `denoising_chains`. The gradient of the conditional
log-likelihood gives the loss

    J(θ) = E[E(x_t, σ_t; θ) − E(x̃_t, σ_t; θ)]

with samples held constant (Gao, Song, Poole, Wu and Kingma 2021, "Learning energy-based models by diffusion recovery
likelihood"). A level's energy learns the density of the data smoothed by noise σ_t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ebm_jax import rng
from ebm_jax.energies.target import Method, Target
from ebm_jax.training.chainless import draws
from ebm_jax.training.chainless.denoising_chains import Ladder, make_ladder
from ebm_jax.training.objectives import Objective
from ebm_jax.types import Key, PyTree


@dataclass(frozen=True)
class _Recovery:
    ladder: Ladder

    def draw(self, key: Key, params: PyTree, model: Target, batch: Array) -> tuple[Array, Array, Array]:
        """Returns data at a level of noise, samples of the conditional there, and the levels."""
        n, keys = draws.check_real(batch), jax.random.split(key, 3)
        level = rng.below(draws.words(keys[0], n), len(self.ladder.sigmas) - 1)
        sigmas = jnp.asarray(self.ladder.sigmas, jnp.float32)
        sigma, above = sigmas[level], sigmas[level + 1]
        small, step = draws.normals(keys[1], batch, 2)
        gap = jnp.sqrt(above**2 - sigma**2)
        clean = batch + draws.rows(sigma, batch) * small
        noisy = clean + draws.rows(gap, batch) * step
        return clean, self.ladder.recovered(keys[2], params, model, noisy, sigma, gap), sigma

    def __call__(self, params: PyTree, model: Target, batch: Array, drawn: Any) -> Any:
        del batch
        clean, samples, sigma = drawn
        energy = jax.vmap(lambda x, sigma: model.energy(params, (x, sigma)))
        both = energy(jnp.concatenate([clean, samples]), jnp.concatenate([sigma, sigma]))
        of_data, of_model = both[: len(clean)].mean(), both[len(clean) :].mean()
        return of_data - of_model, {"energy_data": of_data, "energy_model": of_model}


def recovery_likelihood(sigmas: Sequence[float], *, n_steps: int = 30, step_scale: float = 0.4) -> Objective:
    """Diffusion recovery likelihood (Gao et al. 2021). Data are one array of floats.

    Args:
      sigmas: σ_0 < … < σ_T, positive; the first well under the scale of the data, the last above it.
      n_steps: Langevin steps a sample, at least 1.
      step_scale: b > 0, the size of a step in units of s_t. Chains are biased by b²/4 and more, and forget where they
        began at a rate of b²/2 a step or faster: keep b² n_steps / 2 above 2.

    Returns:
      The objective for energies of pairs, `energy(params, (x, sigma))`. Sample by `recovery_samples`.

    Raises:
      ValueError: If a number is out of range.

    Example:
      >>> objective = ej.training.recovery_likelihood((0.1, 0.5, 1.0), n_steps=2)
      >>> def energy(params, pair):
      ...     x, sigma = pair
      ...     return 0.5 * jnp.sum(x**2) / (params**2 + sigma**2)
      >>> fitted = ej.fit(jax.random.key(0), energy, np.ones((8, 2), np.float32), tx=optax.adam(0.01),
      ...                 params=jnp.float32(1.0), objective=objective, n_epochs=3, batch_size=4, progress=False)
      >>> fitted.metrics.energy_gap.shape
      (3, 2)
    """
    loss = _Recovery(make_ladder(sigmas, n_steps, step_scale))
    return Objective(loss, needs_negatives=False, draw=Method(loss, "draw"))
