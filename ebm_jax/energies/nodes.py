"""Kinds of nodes of a factor graph: what a node's value is, how factors read it, and how it is drawn.

A factor multiplies statistics of its nodes (see `FactorGraph`). Given all others, a node then follows an exponential
family,

    p(x | rest) ∝ exp(Σ_t η_t T_t(x)) with respect to a measure of the kind's own,

whose natural parameters η, one for each statistic T_t that factors use, are sums over the node's factors. Families that
are conditionally exponential make joint laws of any mixture of kinds (Besag 1974; Welling, Rosen-Zvi and Hinton 2005).

A kind of one's own is a subclass of `NodeKind`: two functions, and any factor, block, clamp and sampler takes it.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8, UInt32

from ebm_jax import draw, rng
from ebm_jax.checks import check_integer
from ebm_jax.types import Key

# The natural parameters of nodes by statistic, `(*nodes, chains)` each. A table statistic gives a function of the level
# instead, since the levels of a node may be many.
Fields = Mapping[str, Any]


@dataclass(frozen=True)
class NodeKind(abc.ABC):
    """`n` nodes of one kind, of which a configuration is an array `(n,)`.

    A subclass is a frozen dataclass that gives the attributes and methods below. Compiled code compares kinds by value.

    Args:
      n: Number of nodes, at least 1.

    Raises:
      ValueError: If there is none.

    Attributes:
      dtype: Dtype of a value.
      statistics: Names of the statistics. A member of a factor that names none uses the first.
      required: Statistics that a factor must give to every node, or its law would have no finite sum.
      n_values: Number of values that a node can take, or None where there are infinitely many. If it is a number K, the
        values are the whole numbers 0 … K − 1, each of measure 1; `evaluate` maps them to others.
      is_table: Whether weights of factors have an axis of `n_values` entries for the node, instead of being multiplied
        by a number.

    Example:
      >>> import dataclasses
      >>> from ebm_jax import rng
      >>> @dataclasses.dataclass(frozen=True)
      ... class Waits(ej.NodeKind):
      ...     '''Times x > 0 with density ∝ exp(η x).'''
      ...     dtype = jnp.float32
      ...     def evaluate(self, statistic, x):
      ...         return x
      ...     def draw(self, fields, words):
      ...         return jnp.log1p(-rng.uniform(words[0])) / fields["value"]
      >>> model = ej.FactorGraph({"wait": Waits(1)}, [ej.Factor(("wait", 0))])
      >>> start, rate = {"wait": jnp.ones((4, 1))}, (jnp.array([-2.0]),)
      >>> ej.sample(jax.random.key(0), ej.gibbs(model), rate, start, ej.SamplingSchedule(5, 1)).positions["wait"].shape
      (1, 4, 1)
    """

    n: int

    dtype: ClassVar[Any]
    statistics: ClassVar[tuple[str, ...]] = ("value",)
    required: ClassVar[tuple[str, ...]] = ()
    is_table: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", check_integer("n", self.n, 1))

    @property
    def n_values(self) -> int | None:
        """Number of values that a node can take."""
        return None

    def evaluate(self, statistic: str, x: Array) -> Float[Array, "..."]:
        """Returns a statistic T(x) of every value; a kind whose `is_table` is True needs none."""
        raise NotImplementedError

    def log_sum(self, fields: Mapping[str, Any]) -> np.ndarray:
        """Returns log Σ_x exp(Σ_t η_t T_t(x)), or the integral, of every node that nothing couples.

        A kind of infinitely many values that defines it can anneal (`partition.ais`).

        Args:
          fields: η_t of all statistics, float64 `(n,)` each, or `(n, n_values)` where `is_table` is True.

        Returns:
          `(n,)`, NaN where there is no finite sum.
        """
        if self.n_values is None:
            raise NotImplementedError
        if self.is_table:
            return np.asarray(np.logaddexp.reduce(fields[self.statistics[0]], axis=-1))
        values = jnp.arange(self.n_values).astype(self.dtype)
        terms = [field[:, None] * np.asarray(self.evaluate(t, values)) for t, field in fields.items()]
        return np.asarray(np.logaddexp.reduce(sum(terms), axis=-1))

    @abc.abstractmethod
    def draw(self, fields: Fields, words: tuple[UInt32[Array, "..."], UInt32[Array, "..."]]) -> Array:
        """Draws values from exp(Σ_t η_t T_t(x)) with respect to the kind's measure.

        Args:
          fields: η_t by the name of the statistic, `(*nodes, chains)`, with β in them. Statistics that no factor uses
            are missing.
          words: Two random words for every value, shaped like the result. Draw from them alone (`rng.uniform`,
            `rng.normal`), and a chain does not depend on what runs beside it.

        Returns:
          Values of dtype `dtype`.
        """

    def start(self, key: Key) -> Array:
        """Draws a configuration to start a chain from: uniform levels, or N(0, 1) where there are none."""
        if self.n_values is None:
            return jax.random.normal(key, (self.n,)).astype(self.dtype)
        return jax.random.randint(key, (self.n,), 0, self.n_values).astype(self.dtype)


class Spins(NodeKind):
    """`n` spins s = ±1, stored as bool: True is +1.

    Args:
      n: Number of spins.

    Raises:
      ValueError: If there is none.

    Example:
      >>> ej.Spins(4)
      Spins(n=4)
    """

    dtype = jnp.bool_

    @property
    def n_values(self) -> int:
        """2."""
        return 2

    def evaluate(self, statistic: str, x: Bool[Array, "..."]) -> Float[Array, "..."]:
        """Returns s."""
        del statistic
        return jnp.where(x, 1.0, -1.0)

    def draw(
        self, fields: Fields, words: tuple[UInt32[Array, "..."], UInt32[Array, "..."]]
    ) -> Bool[Array, "..."]:
        """Draws True with probability σ(2η)."""
        return draw.bernoulli(2 * fields["value"], words[0])


@dataclass(frozen=True)
class Categories(NodeKind):
    """`n` categories of levels 0 … n_levels − 1, stored as uint8.

    Weights of factors have an entry for each level.

    Args:
      n: Number of nodes.
      n_levels: Levels of each, 2 to 256.

    Raises:
      ValueError: If there is no node, or the levels are out of range.

    Example:
      >>> ej.Categories(4, n_levels=3)
      Categories(n=4, n_levels=3)
    """

    n_levels: int

    dtype = jnp.uint8
    is_table = True

    @property
    def n_values(self) -> int:
        """The levels."""
        return self.n_levels

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "n_levels", check_integer("n_levels", self.n_levels, 2))
        if self.n_levels > 256:
            raise ValueError(f"n_levels is {self.n_levels}; a level is stored in a byte: use at most 256")

    def draw(
        self, fields: Fields, words: tuple[UInt32[Array, "..."], UInt32[Array, "..."]]
    ) -> UInt8[Array, "..."]:
        """Draws level k with probability ∝ exp(η[k])."""
        return draw.categorical(fields["value"], self.n_levels, words[0])


class Gaussians(NodeKind):
    """`n` real units, float32, with the statistics "value", x, and "square", x².

    A factor of the unit's square with weight −a/2 gives it the precision a, without which there is no law:
    `Factor(("x", range(n), "square"))`.

    Args:
      n: Number of units.

    Raises:
      ValueError: If there is none.

    Example:
      >>> ej.Gaussians(4)
      Gaussians(n=4)
    """

    dtype = jnp.float32
    statistics = ("value", "square")
    required = ("square",)

    def evaluate(self, statistic: str, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns x or x²."""
        return x if statistic == "value" else x * x

    def log_sum(self, fields: Mapping[str, Any]) -> np.ndarray:
        """Returns η₁²/(2a) + ½ log(2π/a) with a = −2η₂."""
        precision = -2 * np.where(fields["square"] < 0, fields["square"], np.nan)
        return (fields["value"] ** 2 / precision + np.log(2 * np.pi / precision)) / 2

    def draw(
        self, fields: Fields, words: tuple[UInt32[Array, "..."], UInt32[Array, "..."]]
    ) -> Float[Array, "..."]:
        """Draws from N(η₁/a, 1/a) with a = −2η₂; NaN where a is not greater than 0."""
        precision = -2 * fields["square"]
        scale = jax.lax.rsqrt(jnp.where(precision > 0, precision, jnp.nan))
        noise = rng.normal(words[0])
        return (fields.get("value", 0.0) * scale * scale + scale * noise).astype(jnp.float32)


def check_kind(name: str, kind: NodeKind) -> None:
    """Checks what a kind of a user's own says of itself.

    Args:
      name: The name of its nodes.
      kind: The kind.

    Raises:
      ValueError: If an attribute is missing or has another form, or its values do not fit its dtype.
    """
    if not hasattr(kind, "dtype"):
        raise ValueError(
            f"{type(kind).__name__} has no dtype; give it the class attribute, e.g. dtype = jnp.float32"
        )
    if not isinstance(kind.statistics, tuple) or not all(isinstance(t, str) for t in kind.statistics):
        raise ValueError(f"{type(kind).__name__}.statistics is {kind.statistics!r}; give a tuple of names")
    # Equal kinds share compiled code, so all that tells two of them apart has to be a field.
    others = set(vars(kind)) - {field.name for field in dataclasses.fields(kind)}
    if others:
        raise ValueError(
            f"nodes[{name!r}] is {kind!r}, which keeps {', '.join(sorted(others))} outside its fields; write the kind "
            "as a frozen dataclass, so that other settings make another kind"
        )
    if kind.n_values is not None and jnp.issubdtype(kind.dtype, jnp.floating):
        raise ValueError(
            f"nodes[{name!r}] is {kind!r} with {kind.n_values} values of dtype {jnp.dtype(kind.dtype)}; finitely many "
            "values are the whole numbers from 0 on: give an integer dtype, and map them in evaluate"
        )
