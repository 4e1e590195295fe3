"""Sliced score matching: the score is fitted along random directions.

    J(θ) = E_x E_v [½ |∇E(x)|² − vᵀ ∇²E(x) v],   v uniform on {−1, 1}^d

(Song, Garg, Shi and Ermon 2019, "Sliced score matching: a scalable approach to density and score estimation", the form
of reduced variance, with score −∇E). As E[v vᵀ] = I this is Hyvärinen's loss (2005), ½|∇E|² − ΔE, without the d second
derivatives of the Laplacian. It learns the density of the data itself, for data with a smooth density. Data on a thin
set have none: use denoising score matching there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ebm_jax import checks
from ebm_jax.energies.target import Method, Target
from ebm_jax.training.chainless import draws
from ebm_jax.training.objectives import Objective
from ebm_jax.types import Key, PyTree


@dataclass(frozen=True)
class _Sliced:
    n_slices: int

    def draw(self, key: Key, params: PyTree, model: Target, batch: PyTree) -> PyTree:
        """Returns directions of −1 and 1, `(n_slices, n, …)`."""
        del params, model
        draws.check_real(batch)
        return jax.tree.map(jnp.sign, draws.normals(key, batch, self.n_slices))

    def __call__(self, params: PyTree, model: Target, batch: PyTree, directions: PyTree) -> Any:
        gradient = jax.grad(model.energy, argnums=1)

        def loss(x: PyTree, v: PyTree) -> Array:
            slope, second = jax.jvp(lambda x: gradient(params, x), (x,), (v,))
            return 0.5 * draws.inner(slope, slope) - draws.inner(v, second)

        of_slices = jax.vmap(jax.vmap(loss), (None, 0))
        return jnp.mean(of_slices(batch, directions)), {}


def sliced_score_matching(n_slices: int = 1) -> Objective:
    """Sliced score matching: E [½ |∇E(x)|² − vᵀ ∇²E(x) v] with random v of ±1 (Song et al. 2019).

    Args:
      n_slices: Directions for each datum, at least 1.

    Returns:
      The objective. It takes no negatives.

    Raises:
      ValueError: If `n_slices` is under 1.

    Example:
      >>> ej.training.sliced_score_matching(2) == ej.training.sliced_score_matching(2)
      True
    """
    loss = _Sliced(checks.check_integer("n_slices", n_slices, 1))
    return Objective(loss, needs_negatives=False, takes_data=True, draw=Method(loss, "draw"))
