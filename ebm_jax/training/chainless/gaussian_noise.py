"""Normal noise with the moments of data, for noise-contrastive estimation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ebm_jax.training.chainless import draws
from ebm_jax.types import Key


@dataclass(frozen=True)
class GaussianNoise:
    """What `gaussian_noise` returns.

    Attributes:
      shape: Shape of one configuration.
      mean_bytes: The mean, float64 as bytes, which have a hash.
      factor_bytes: The Cholesky factor of the covariance, likewise.
    """

    shape: tuple[int, ...]
    mean_bytes: bytes
    factor_bytes: bytes

    def sample(self, key: Key, n: int) -> Float[Array, "n *shape"]:
        """Draws n configurations, float32."""
        mean, factor = self._moments()
        z = draws.normals(key, jax.ShapeDtypeStruct((n, len(mean)), jnp.float32))
        rows = jnp.float32(mean)[None] + jnp.dot(z, factor.T.astype(np.float32), precision="highest")
        return rows.reshape(n, *self.shape)

    def log_density(self, x: Float[Array, "*shape"]) -> Float[Array, ""]:
        """Returns log pₙ of one configuration."""
        mean, factor = self._moments()
        to_unit = np.linalg.inv(factor).astype(np.float32)
        z = jnp.dot(to_unit, x.reshape(-1) - mean.astype(np.float32), precision="highest")
        constant = np.log(np.diag(factor)).sum() + 0.5 * len(mean) * np.log(2 * np.pi)
        return -0.5 * jnp.sum(z * z) - np.float32(constant)

    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        mean = np.frombuffer(self.mean_bytes)
        return mean, np.frombuffer(self.factor_bytes).reshape(len(mean), len(mean))


def gaussian_noise(data: Any) -> GaussianNoise:
    """Returns normal noise with the mean and covariance of data, for `noise_contrastive`. It compares by value.

    Another noise is any hashable object with `sample(key, n)`, which returns configurations with a leading axis, and
    `log_density(x)`, the normalised log density of one of them.

    Args:
      data: `(n, …)`, real, more rows than numbers a row.

    Returns:
      The noise.

    Raises:
      ValueError: If the covariance of the data is singular.

    Example:
      >>> noise = ej.training.gaussian_noise(np.random.default_rng(0).normal(size=(64, 2)))
      >>> noise.sample(jax.random.key(0), 5).shape
      (5, 2)
    """
    rows = np.asarray(data, np.float64)
    flat = rows.reshape(len(rows), -1)
    try:
        factor = np.linalg.cholesky(np.atleast_2d(np.cov(flat, rowvar=False)))
    except np.linalg.LinAlgError as error:
        raise ValueError(
            f"data of shape {rows.shape} have a singular covariance; add noise to them, or give more rows"
        ) from error
    return GaussianNoise(rows.shape[1:], flat.mean(axis=0).tobytes(), factor.tobytes())
