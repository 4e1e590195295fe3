"""Sums over every configuration of a small model, in chunks of bounded memory."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ebm_jax import files
from ebm_jax.checks import check_choice
from ebm_jax.energies.factor_graph import FactorGraph
from ebm_jax.exact import layers
from ebm_jax.exact.order import Plan
from ebm_jax.graphs import Bipartite
from ebm_jax.types import PyTree, count_parameters

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
    """All configurations of a discrete model, or of one layer of a model.

    Methods that return JAX arrays must be called with 64-bit types on.

    Attributes:
      model: A discrete model.
      layer: "visible" or "hidden" of an RBM, "discrete" of a factor graph with real units, or None.

    Raises:
      ValueError: If the model has no such layer.
    """

    model: Any
    layer: str | None = None

    def __post_init__(self) -> None:
        check_choice("layer", self.layer, (None, "visible", "hidden", "discrete"))
        names = layers.names(self.model)
        if self.layer is None or self.layer in names:
            return
        remedy = f"choose {' or '.join(map(repr, names))}" if names else "leave it out"
        has = f"has no such layer; {remedy}" if names else f"has none; {remedy}"
        raise ValueError(f"layer is {self.layer!r}, and {type(self.model).__name__} {has}")

    @property
    def level_counts(self) -> tuple[int, ...]:
        """Levels of every site that is enumerated.

        Raises:
          ValueError: If some are real.
        """
        counts: Any = layers.level_counts(self.model, self.layer)
        if None in counts:
            what = "visible units" if layers.is_layered(self.model) else "nodes without levels"
            raise ValueError(
                f"the {what} of {type(self.model).__name__} are real and cannot be enumerated; "
                f"give layer={layers.of_levels(self.model)[0]!r}"
            )
        return counts

    @property
    def n_states(self) -> int:
        """The product of the levels of all sites."""
        return math.prod(count**n for count, n in Counter(self.level_counts).items())

    @property
    def product(self) -> str:
        """The number of configurations as a product of powers, for messages."""
        return "·".join(f"{levels}^{n}" for levels, n in Counter(self.level_counts).items())

    @property
    def chunk_size(self) -> int:
        """Number of configurations in a chunk, a power of two."""
        graph = self.model.graph
        most_levels = max(count or 1 for count in layers.level_counts(self.model, None))
        values = graph.n_sites * most_levels + (0 if isinstance(graph, Bipartite) else graph.n_edges)
        if isinstance(self.model, FactorGraph):
            values += count_parameters(self.model.params_struct())
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
        count, powers = self.n_states, Counter(self.level_counts)
        # Python refuses to write out very long numbers.
        exponent = int(sum(n * math.log10(levels) for levels, n in powers.items()))
        shown = f"= {count:,}" if exponent < 15 else f"(about 10^{exponent})"
        remedy = (
            "use a smaller model, a grid with one short side, or an estimate by annealed importance sampling"
        )
        smaller = smallest(self.model)
        if smaller.n_states <= MAX_STATES:
            remedy = f"enumerate the smaller layer: layer={smaller.layer!r}"
        also = ""
        if plan is not None:
            size = plan.width + 1
            table = f"{size} sites" if len(powers) > 1 else f"{self.level_counts[0]}^{size} entries"
            also = f" and summing out site after site meets a width of {plan.width}, a table of {table};"
        raise ValueError(
            f"{self.product} {shown} configurations are too many to enumerate,{also} the limit is "
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
        counts = np.asarray(self.level_counts, np.int64)
        strides = np.append(np.cumprod(counts[:0:-1])[::-1], 1)[: len(counts)]
        levels = (index[:, None] // strides % counts).astype(jnp.int32)
        return jax.vmap(lambda row: layers.from_levels(self.model, self.layer, row))(levels)

    @functools.partial(jax.jit, static_argnums=0)
    def chunk_log_weights(self, params: PyTree, beta: Array | float, x: PyTree) -> Array:
        """Returns log Σ exp(−β E) of stacked configurations. The sum runs over all other sites, if there are any."""
        return jax.vmap(lambda one: self._log_weight(params, beta, one))(x)

    @functools.partial(jax.jit, static_argnums=0)
    def weighted_gradient(self, params: PyTree, beta: Array | float, x: PyTree, weights: Array) -> PyTree:
        """Returns Σ_x weight(x) ∂ log-weight(x) / ∂ params."""
        return jax.grad(lambda p: jnp.dot(weights, self.chunk_log_weights(p, beta, x)))(params)

    def log_weights(self, params: PyTree, beta: float) -> np.ndarray:
        """Returns the log weight of every configuration."""
        found = np.concatenate([np.asarray(self.chunk_log_weights(params, beta, c.x)) for c in self.chunks()])
        if self.layer == "discrete" and np.isnan(found).any():
            number = int(np.flatnonzero(np.isnan(found))[0])
            levels = np.asarray(self.configurations(jnp.asarray([number])))[0].tolist()
            raise ValueError(
                f"with the other nodes at levels {files.one_line(str(levels))} the precision matrix of the real units "
                "is not positive definite, so their sum is infinite; make the weights of squares more negative, or "
                "couplings weaker"
            )
        return found

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
    """Returns the enumeration with the fewest configurations: that of a layer, else of the whole model."""
    return min((Enumeration(model, name) for name in layers.of_levels(model)), key=lambda rows: rows.n_states)


def total(parts: Iterable[PyTree]) -> PyTree:
    """Returns the sum of pytrees, leaf by leaf."""
    return functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), parts)


def logsumexp(values: np.ndarray) -> np.float64:
    """Returns log Σ exp(values); NaN stays NaN."""
    largest = values.max()
    if not np.isfinite(largest):
        return largest
    return largest + np.log(np.sum(np.exp(values - largest)))
