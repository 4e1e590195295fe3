"""Exact negatives: every configuration of a small model, weighted by its probability."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax

from ebm_jax import exact as enumeration
from ebm_jax.energies.base import levels_of_sites
from ebm_jax.energies.target import Target
from ebm_jax.exact.enumeration import Enumeration
from ebm_jax.training.sources import Negatives, Source
from ebm_jax.types import Info, Key, PyTree

MAX_STATES = 2**20


@functools.partial(jax.tree_util.register_dataclass, data_fields=(), meta_fields=("model",))
@dataclass(frozen=True, eq=False)
class Enumerated(Source):
    """What `exact` builds. Its state is every configuration, or every visible one, leading axis first."""

    model: Any

    def sampled_model(self) -> Any:
        """Returns the model."""
        return self.model

    def init(self, key: Key, target: Target, params: PyTree) -> PyTree:
        """Returns the configurations.

        Raises:
          ValueError: If there are more than 2²⁰ of them.
        """
        del key, params
        layer = None if target.free_energy is None else "visible"
        rows = Enumeration(self.model, layer)
        if rows.n_states > MAX_STATES:
            raise ValueError(
                f"{self.model!r} has {rows.product} configurations to sum at every step, and the limit is "
                f"2^20 = {MAX_STATES:,}; train it with negatives.pcd(kernel)"
            )
        return enumeration.states(self.model, layer=layer)

    def draw(
        self, key: Key, target: Target, params: PyTree, state: PyTree, batch: PyTree
    ) -> tuple[Negatives, PyTree]:
        """Returns every configuration with weight exp(−F) / Σ exp(−F)."""
        del key, batch
        energies = jax.vmap(target.data_energy, (None, 0))(params, state)
        info = jax.tree.map(lambda leaf: leaf[None], Info.of(n_energy=energies.size))
        return Negatives(state, jax.nn.softmax(-energies), info), state


def exact(model: Any) -> Enumerated:
    """All configurations, weighted by their exact probabilities at the current parameters: maximum likelihood itself.

    Of a model with a `free_energy`: all visible configurations. Only for small models, since up to 2²⁰ configurations
    are summed at every step.

    Args:
      model: A discrete model.

    Returns:
      A source of negatives for `fit` and `make_train_step`.

    Raises:
      ValueError: If the model is not discrete.

    Example:
      >>> source = ej.negatives.exact(ej.Ising(ej.Grid(3, 3)))
    """
    counts = levels_of_sites(model)
    if counts is None or None in counts:
        raise ValueError(
            f"{model!r} has no discrete levels to enumerate; use pcd with a kernel that samples it"
        )
    return Enumerated(model)
