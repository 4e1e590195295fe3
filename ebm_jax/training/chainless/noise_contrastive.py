"""Noise-contrastive estimation, with the normalising constant as a parameter.

The model learns to tell data from noise of a known density pₙ, ν draws of noise for each datum. With the log odds
G(x) = log p(x; θ) − log pₙ(x) − log ν the loss is that of logistic regression,

    J(θ) = −E_data log σ(G(x)) − ν E_noise log σ(−G(x))

(Gutmann and Hyvärinen 2012, JMLR 13:307). Here log p(x; θ) = −E(x; θ): the energy must be able to shift by a constant,
as a network with a bias in its last layer can. `normalized` gives any other energy such a parameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import checks
from ebm_jax.energies.target import Method, Target
from ebm_jax.training.objectives import Objective
from ebm_jax.types import Key, PyTree


@dataclass(frozen=True)
class _NoiseContrastive:
    noise: Any
    ratio: int

    def draw(self, key: Key, params: PyTree, model: Target, batch: PyTree) -> PyTree:
        """Returns ν draws of noise for each row."""
        del params, model
        return self.noise.sample(key, self.ratio * jax.tree.leaves(batch)[0].shape[0])

    def __call__(self, params: PyTree, model: Target, batch: PyTree, drawn: PyTree) -> Any:
        n = jax.tree.leaves(batch)[0].shape[0]
        together = jax.tree.map(lambda *sides: jnp.concatenate(sides), batch, drawn)
        energies = jax.vmap(model.data_energy, (None, 0))(params, together)
        log_odds = -energies - jax.vmap(self.noise.log_density)(together) - np.float32(np.log(self.ratio))
        loss = jax.nn.softplus(-log_odds[:n]).mean() + self.ratio * jax.nn.softplus(log_odds[n:]).mean()
        accuracy = 0.5 * ((log_odds[:n] > 0).mean() + (log_odds[n:] < 0).mean())
        return loss, {"accuracy": accuracy}


def noise_contrastive(noise: Any, ratio: int = 1) -> Objective:
    """Noise-contrastive estimation: logistic regression of data against noise (Gutmann and Hyvärinen 2012).

    After training, −E(x) estimates the normalised log density. Noise should be wider than the data and close to them.

    Args:
      noise: `gaussian_noise(data)`, or another object with its two methods.
      ratio: ν, draws of noise for each datum, at least 1.

    Returns:
      The objective. It takes no negatives and reports `accuracy`, the mean share of data and of noise told right.

    Raises:
      ValueError: If the noise lacks a method, or `ratio` is under 1.

    Example:
      >>> data = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
      >>> model = ej.training.normalized(lambda params, x: 0.5 * params * jnp.sum(x**2))
      >>> start = ej.training.NormalizedParams(jnp.float32(1.0), jnp.float32(0.0))
      >>> objective = ej.training.noise_contrastive(ej.training.gaussian_noise(data), ratio=2)
      >>> fitted = ej.fit(jax.random.key(0), model, data, tx=optax.adam(0.01), params=start,
      ...                 objective=objective, n_epochs=2, batch_size=32, progress=False)
      >>> fitted.state.params.log_z.shape
      ()
    """
    for name in ("sample", "log_density"):
        if not callable(getattr(noise, name, None)):
            raise ValueError(f"noise is {noise!r} and has no method {name}; give e.g. gaussian_noise(data)")
    loss = _NoiseContrastive(noise, checks.check_integer("ratio", ratio, 1))
    return Objective(loss, needs_negatives=False, takes_data=True, draw=Method(loss, "draw"))
