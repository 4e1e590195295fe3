"""Sums over every configuration of a small model, in chunks of bounded memory."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ebm_jax.checks import check_choice
from ebm_jax.exact import layers
from ebm_jax.exact.order import Plan
from ebm_jax.graphs import Bipartite
from ebm_jax.types import PyTree

MAX_STATES = 2**22
"""Largest number of configurations that is enumerated."""

# float64 values that one chunk of configurations may hold.
_CHUNK_VALUES = 2**22


class Chunk(NamedTuple):
    """Configurations number `start` to `stop` − 1, stacked in `x`."""

    start: int
    stop: int
    x: PyTree


@dataclass(frozen=True)
class Enumeration:
    """All configurations of a discrete model, or of one layer of an RBM.

    Methods that return JAX arrays must be called with 64-bit types on.

    Attributes:
      model: A discrete model.
      layer: "visible", "hidden" or None.

    Raises:
      ValueError: If the model has no such layer.
    """

    model: Any
    layer: str | None = None

    def __post_init__(self) -> None:
        check_choice("layer", self.layer, (None, "visible", "hidden"))
        if self.layer is not None and not layers.is_layered(self.model):
            raise ValueError(
                f"layer is {self.layer!r}, and {type(self.model).__name__} has none; leave it out"
            )

    @property
    def n_units(self) -> int:
        """Number of sites that are enumerated."""
        if self.layer is None:
            return self.model.graph.n_sites
        return self.model.n_visible if self.layer == "visible" else self.model.n_hidden

    @property
    def n_levels(self) -> int:
        """Levels of a site; those of an RBM's layers must agree unless one of them is chosen."""
        counts = layers.level_counts(self.model, self.layer)
        count = counts[0]
        if count is None:
            raise ValueError(
                f"the visible units of {type(self.model).__name__} are real and cannot be enumerated; "
                "give layer='hidden'"
            )
        if len(set(counts)) > 1:
            raise ValueError(
                f"the layers of {type(self.model).__name__} have {counts[0]} and {counts[1]} levels; enumerate one "
                "of them: layer='visible' or layer='hidden'"
            )
        return count

    @property
    def n_states(self) -> int:
        """K to the power of `n_units`."""
        return self.n_levels**self.n_units

    @property
    def chunk_size(self) -> int:
        """Number of configurations in a chunk, a power of two."""
        graph = self.model.graph
        most_levels = max(count or 1 for count in layers.level_counts(self.model, None))
        values = graph.n_sites * most_levels + (0 if isinstance(graph, Bipartite) else graph.n_edges)
        return 1 << (int(np.clip(_CHUNK_VALUES // values, 2**8, 2**16)).bit_length() - 1)

    def check_size(self, plan: Plan | None = None) -> None:
        """Checks the number of configurations.

        Args:
          plan: The plan of an elimination that is too large, too, for the error message.

        Raises:
          ValueError: If there are too many.
        """
        if self.n_states <= MAX_STATES:
            return
        count = self.n_states
        # Python refuses to write out very long numbers.
        exponent = int(self.n_units * math.log10(self.n_levels))
        shown = f"= {count:,}" if exponent < 15 else f"(about 10^{exponent})"
        remedy = (
            "use a smaller model, a grid with one short side, or an estimate by annealed importance sampling"
        )
        smaller = smallest(self.model)
        if smaller.n_states <= MAX_STATES:
            remedy = f"enumerate the smaller layer: layer={smaller.layer!r}"
        also = ""
        if plan is not None:
            also = (
                f" and summing out site after site meets a width of {plan.width}, "
                f"a table of {self.n_levels}^{plan.width + 1} entries;"
            )
        raise ValueError(
            f"{self.n_levels}^{self.n_units} {shown} configurations are too many to enumerate,{also} the limit is "
            f"2^22 = {MAX_STATES:,}; {remedy}"
        )

    def chunks(self) -> Iterator[Chunk]:
        """Yields all configurations in order.

        Raises:
          ValueError: If there are too many.
        """
        self.check_size()
        for start in range(0, self.n_states, self.chunk_size):
            stop = min(start + self.chunk_size, self.n_states)
            yield Chunk(start, stop, self.configurations(jnp.arange(start, stop)))

    @functools.partial(jax.jit, static_argnums=0)
    def configurations(self, index: Array) -> PyTree:
        """Returns the configurations with these numbers, the last site varying fastest."""
        strides = np.asarray([self.n_levels**power for power in range(self.n_units)][::-1], np.int64)
        levels = (index[:, None] // strides[None] % self.n_levels).astype(jnp.int32)
        return jax.vmap(self.model.from_levels)(levels) if self.layer is None else levels.astype(jnp.uint8)

    @functools.partial(jax.jit, static_argnums=0)
    def chunk_log_weights(self, params: PyTree, beta: Array | float, x: PyTree) -> Array:
        """Returns log Σ exp(−β E) of stacked configurations. The sum runs over the other layer, if there is one."""
        return jax.vmap(lambda one: self._log_weight(params, beta, one))(x)

    @functools.partial(jax.jit, static_argnums=0)
    def weighted_gradient(self, params: PyTree, beta: Array | float, x: PyTree, weights: Array) -> PyTree:
        """Returns Σ_x weight(x) ∂ log-weight(x) / ∂ params."""
        return jax.grad(lambda p: jnp.dot(weights, self.chunk_log_weights(p, beta, x)))(params)

    def log_weights(self, params: PyTree, beta: float) -> np.ndarray:
        """Returns the log weight of every configuration."""
        return np.concatenate([np.asarray(self.chunk_log_weights(params, beta, c.x)) for c in self.chunks()])

    def log_partition_gradient(self, params: PyTree, beta: float) -> PyTree:
        """Returns ∂ log Z / ∂ params = Σ_x p(x) ∂ log-weight(x) / ∂ params."""
        log_weights = self.log_weights(params, beta)
        p = np.exp(log_weights - logsumexp(log_weights))
        return total(self.weighted_gradient(params, beta, c.x, p[c.start : c.stop]) for c in self.chunks())

    def _log_weight(self, params: PyTree, beta: Array | float, x: PyTree) -> Array:
        """Returns the log weight of one configuration."""
        if self.layer is None:
            return -beta * self.model.energy(params, x)
        return layers.log_weight(self.model, self.layer, params, beta, x)


def smallest(model: Any) -> Enumeration:
    """Returns the enumeration with the fewest configurations: an RBM's smaller layer, else the whole model."""
    if not layers.is_layered(model):
        return Enumeration(model)
    discrete = [name for name in layers.LAYERS if layers.level_counts(model, name) != (None,)]
    return min((Enumeration(model, name) for name in discrete), key=lambda rows: rows.n_states)


def total(parts: Iterable[PyTree]) -> PyTree:
    """Returns the sum of pytrees, leaf by leaf."""
    return functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), parts)


def logsumexp(values: np.ndarray) -> np.float64:
    """Returns log Σ exp(values); NaN stays NaN."""
    largest = values.max()
    if not np.isfinite(largest):
        return largest
    return largest + np.log(np.sum(np.exp(values - largest)))
