"""Denoising score matching, with one noise level or many.

Data are moved by noise, x̃ = x + σz with z ~ N(0, I). The score of x̃ given x is −z/σ, and the loss fits that of the
model, −∇E, to it:

    J(θ) = ½ E |σ ∇E(x̃; θ) − z|².

It is least where exp(−E) is proportional to the density of x̃, the data smoothed by noise σ, not to that of the data
(Vincent 2011, "A connection between score matching and denoising autoencoders", times σ²). With several
levels the energy is of pairs (x, σ), and J is the mean over levels drawn evenly (Song and Ermon 2019 with
λ(σ) = σ²).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ebm_jax import rng
from ebm_jax.energies.target import Method, Target
from ebm_jax.training.chainless import draws
from ebm_jax.training.objectives import Objective
from ebm_jax.types import Key, PyTree


@dataclass(frozen=True)
class _Denoising:
    sigmas: tuple[float, ...]
    conditional: bool

    def draw(self, key: Key, params: PyTree, model: Target, batch: PyTree) -> tuple[PyTree, Array]:
        """Returns the noise z and the level σ of every row."""
        del params, model
        n = draws.check_real(batch)
        of_levels, of_noise = jax.random.split(key)
        level = rng.below(draws.words(of_levels, n), len(self.sigmas))
        return draws.normals(of_noise, batch), jnp.asarray(self.sigmas, jnp.float32)[level]

    def __call__(self, params: PyTree, model: Target, batch: PyTree, drawn: tuple[PyTree, Array]) -> Any:
        noise, sigmas = drawn

        def energy(x: PyTree, sigma: Array) -> Array:
            return model.energy(params, (x, sigma) if self.conditional else x)

        def loss(x: PyTree, z: PyTree, sigma: Array) -> Array:
            moved = jax.tree.map(lambda x, z: x + sigma.astype(x.dtype) * z, x, z)
            gradient = jax.grad(energy)(moved, sigma)
            error = jax.tree.map(lambda g, z: sigma * g - z, gradient, z)
            return 0.5 * draws.inner(error, error)

        return jnp.mean(jax.vmap(loss)(batch, noise, sigmas)), {}


def denoising_score_matching(sigma: float | Sequence[float]) -> Objective:
    """Denoising score matching: ½ E |σ ∇E(x + σz) − z|² with z ~ N(0, I) (Vincent 2011).

    The energy learns the data smoothed by noise σ. It is differentiated twice, so its activations must be smooth.

    Args:
      sigma: σ > 0 for an energy `energy(params, x)`. A sequence of levels for an energy of pairs,
        `energy(params, (x, sigma))`, with `sigma` a float32 scalar; every row of a batch gets one of them at random.

    Returns:
      The objective. It takes no negatives.

    Raises:
      ValueError: If a level is not positive.

    Example:
      >>> objective = ej.training.denoising_score_matching(0.1)
      >>> model = ej.NeuralEnergy(ej.energies.networks.MLP((8,)), shape=(2,))
      >>> fitted = ej.fit(jax.random.key(0), model, np.ones((8, 2), np.float32), tx=optax.adam(0.01),
      ...                 objective=objective, n_epochs=3, batch_size=4, progress=False)
      >>> fitted.metrics.loss.shape
      (3, 2)
    """
    conditional = isinstance(sigma, Sequence | np.ndarray) and np.ndim(sigma) > 0
    sigmas = draws.check_scales("sigma", sigma if conditional else [sigma])
    loss = _Denoising(sigmas, conditional)
    return Objective(loss, needs_negatives=False, takes_data=not conditional, draw=Method(loss, "draw"))
