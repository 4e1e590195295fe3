"""Energy discrepancy of discrete data, whose sites jump to other levels.

The loss is that of `energy_discrepancy`. Its perturbation changes every site with probability p to one of the other
levels, all as likely (Schröder, Ou, Li and Duncan 2024, "Energy-based modelling for discrete and mixed data via heat
equations on structured spaces", for the complete graph of levels).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ebm_jax import checks, rng
from ebm_jax.energies.target import Target
from ebm_jax.samplers.continuous import check_scale
from ebm_jax.training.chainless import draws
from ebm_jax.training.chainless.energy_discrepancy import discrepancy
from ebm_jax.training.objectives import Objective
from ebm_jax.types import Key, PyTree


@dataclass(frozen=True)
class _Jumps:
    probability: float
    n_levels: int | None

    def __call__(self, key: Key, model: Target, batch: PyTree, m: int) -> PyTree:
        """Returns levels after a jump of each site and m jumps back, `(m, n, …)`."""
        leaves, tree = jax.tree.flatten(batch)
        # A datum may end before the hidden part of a configuration does.
        counts = (self.n_levels,) * len(leaves) if self.n_levels else model.level_counts[: len(leaves)]
        if len(counts) < len(leaves) or None in counts:
            raise ValueError(
                f"{model.model!r} does not say how many levels a site has; give n_levels=2 or more"
            )
        keys = jax.random.split(key, len(leaves))
        jumped = [self._jumped(k, x, m, count) for k, x, count in zip(keys, leaves, counts, strict=True)]
        return jax.tree.unflatten(tree, jumped)

    def _jumped(self, key: Key, x: Array, m: int, n_levels: Any) -> Array:
        if jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"the batch has dtype {x.dtype}; give levels as bool or integers")
        words = draws.words(key, (m + 1) * x.size).reshape(m + 1, *x.shape)
        u = rng.uniform(words) / np.float32(self.probability)
        # Given that u < 1 it is uniform again, and tells to which of the other levels a site jumps.
        by = jnp.where(u < 1, 1 + jnp.floor(u * (n_levels - 1)).astype(jnp.int32), 0)
        return ((x.astype(jnp.int32)[None] + by[:1] + by[1:]) % n_levels).astype(x.dtype)


def discrete_energy_discrepancy(
    probability: float, *, n_negatives: int = 16, stabilizer: float = 1.0, n_levels: int | None = None
) -> Objective:
    """Energy discrepancy of discrete data, whose sites jump to other levels (Schröder et al. 2024).

    Args:
      probability: p, with which a site changes in one perturbation, over 0 and under 1.
      n_negatives: M, at least 1.
      stabilizer: As for `energy_discrepancy`.
      n_levels: Levels of a site. None takes those of the model; an energy function does not say.

    Returns:
      The objective. It takes no negatives.

    Raises:
      ValueError: If a number is out of range.

    Example:
      >>> model, data = ej.Ising(ej.Grid(2, 2)), np.ones((8, 2, 2), bool)
      >>> fitted = ej.fit(jax.random.key(0), model, data, tx=optax.sgd(0.1), n_epochs=3, batch_size=4,
      ...                 objective=ej.training.discrete_energy_discrepancy(0.2), progress=False)
      >>> bool((fitted.state.params.bias > 0).all())
      True
    """
    check_scale("probability", probability, positive=True)
    if n_levels is not None:
        checks.check_integer("n_levels", n_levels, 2)
    if probability >= 1:
        raise ValueError(f"probability is {probability}; give less than 1, e.g. 0.1")
    return discrepancy(_Jumps(float(probability), n_levels), n_negatives, stabilizer)
