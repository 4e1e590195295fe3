"""Persistent chains whose step size follows the energy that is trained."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ebm_jax.training.negatives.persistent import PersistentChains
from ebm_jax.training.sources import Negatives, Source, figures_of_chains, model_of
from ebm_jax.types import Key, PyTree


class AdaptiveState(NamedTuple):
    """State of `AdaptiveChains`.

    Attributes:
      chains: Chains in the kernel's packed form.
      log_step_size: log ε, float32.
    """

    chains: PyTree
    log_step_size: jax.Array


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("kernel", "start", "target_acceptance", "rate"),
    meta_fields=("k",),
)
@dataclass(frozen=True, eq=False)
class AdaptiveChains(Source):
    """Persistent chains with log ε ← log ε + rate (acceptance − target) after every update.

    An energy that sharpens in training lowers the acceptance of a fixed step size. The step size changes between
    updates only, by the acceptance of all chains, so each update samples with an exact kernel (Andrieu and Thoms 2008,
    "A tutorial on adaptive MCMC", with a constant rate because the target moves).

    Attributes:
      kernel: A kernel with `step_size`, its first one.
      start: Where chains start, with a leading axis.
      target_acceptance: Share of accepted proposals to aim at.
      rate: Change of log ε for each unit of acceptance.
      k: Steps of an update.
    """

    kernel: Any
    start: PyTree
    target_acceptance: Any
    rate: Any
    k: int

    def sampled_model(self) -> Any:
        """Returns the kernel's model, or None."""
        return model_of(self.kernel)

    def init(self, key: Key, target: Any, params: PyTree) -> AdaptiveState:
        """Returns the chains at their start, with the first step size."""
        chains = self._source(self.kernel).init(key, target, params)
        return AdaptiveState(chains, jnp.log(jnp.asarray(self.kernel.step_size, jnp.float32)))

    def draw(
        self, key: Key, target: Any, params: PyTree, state: AdaptiveState, batch: PyTree
    ) -> tuple[Negatives, AdaptiveState]:
        """Returns the chains `k` steps on, and the step size for the next update."""
        step_size = jnp.exp(state.log_step_size)
        source = self._source(replace(self.kernel, step_size=step_size))
        before = source.positions(state.chains)
        drawn, chains = source.draw(key, target, params, state.chains, batch)
        info = drawn.info
        acceptance = jnp.sum(info.n_accepted) / jnp.sum(info.n_proposed).astype(jnp.float32)
        change = self.rate * (acceptance - self.target_acceptance)
        figures = {"step_size": step_size, **figures_of_chains(before, source.positions(chains))}
        return drawn._replace(figures=figures), AdaptiveState(chains, state.log_step_size + change)

    def _source(self, kernel: Any) -> PersistentChains:
        n_chains = jax.tree.leaves(self.start)[0].shape[0]
        return PersistentChains(kernel, self.start, self.k, n_chains)
