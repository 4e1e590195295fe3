"""Factor graphs: energies of any order over nodes of mixed kinds.

The energy is a sum over factors f, each a product of statistics of its nodes,

    E(x) = −Σ_f w_f[x_c …] Π_i T_i(xᵢ),

with a weight that is a number, or a table over the levels of the factor's categories. Spins enter as s = ±1, real units
as x or x². Ising, Potts and p-spin models, Boltzmann machines with mixtures of units and Gaussian graphical models are
special cases (Kschischang, Frey and Loeliger 2001).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ebm_jax.checks import FLOATS, check_params_fit, check_struct
from ebm_jax.energies.factors import Factor
from ebm_jax.energies.nodes import NodeKind, check_kind
from ebm_jax.energies.sums import weighted_sum
from ebm_jax.graphs.blocks import BlockSpec, default_spec
from ebm_jax.graphs.edges import Graph
from ebm_jax.types import Key, PyTree


@dataclass(frozen=True, init=False)
class FactorGraph:
    """Nodes of mixed kinds and factors of any order.

    A configuration is a dict of arrays `(n,)`, one for each name. Parameters are a tuple of float arrays, one for each
    factor: `(n_terms, K, …)` with an axis of K levels for each of the factor's categories, in their order. Sites, as
    blocks name them, count through the nodes name after name (see `sites`).

    Args:
      nodes: The kinds by name, e.g. `{"spin": Spins(16), "class": Categories(1, 10)}`.
      factors: The factors.

    Raises:
      ValueError: If a factor names nodes that do not exist, or one node twice in a term, or a real unit has no square.

    Example:
      >>> model = ej.FactorGraph({"s": ej.Spins(3)}, [ej.Factor(("s", 0), ("s", 1), ("s", 2))])
      >>> float(model.energy((jnp.ones(1),), {"s": jnp.array([True, True, False])}))
      1.0
      >>> float(ej.exact.log_partition(model, (jnp.zeros(1),)) / np.log(2))
      3.0
    """

    nodes: tuple[tuple[str, NodeKind], ...]
    factors: tuple[Factor, ...]

    position_dtypes = None

    def __init__(self, nodes: Any, factors: Any) -> None:
        # As `dataclasses.replace` gives them.
        nodes = dict(nodes) if isinstance(nodes, tuple) else nodes
        if not isinstance(nodes, Mapping) or not nodes:
            raise ValueError(f'nodes is {nodes!r}; give kinds by name, e.g. {{"spin": Spins(16)}}')
        for name, kind in nodes.items():
            if not isinstance(name, str) or not isinstance(kind, NodeKind):
                raise ValueError(
                    f"nodes[{name!r}] is {kind!r}; give names and kinds: Spins(n), Categories(n, K), Gaussians(n)"
                )
            check_kind(name, kind)
        if not isinstance(factors, Iterable | Factor):
            raise ValueError(f"factors is {factors!r}; give a list of Factor((name, numbers), …)")
        given = [factors] if isinstance(factors, Factor) else list(factors)
        for number, factor in enumerate(given):
            if not isinstance(factor, Factor):
                raise ValueError(f"factor {number} is {factor!r}; give Factor((name, numbers), …)")
        object.__setattr__(self, "nodes", tuple(nodes.items()))
        object.__setattr__(self, "factors", tuple(_resolved(f, nodes, i) for i, f in enumerate(given)))
        self._check_terms()

    @functools.cached_property
    def kinds(self) -> dict[str, NodeKind]:
        """The kinds by name."""
        return dict(self.nodes)

    @functools.cached_property
    def first_sites(self) -> dict[str, int]:
        """The number of the first site of each name."""
        ends = itertools.accumulate((kind.n for _, kind in self.nodes), initial=0)
        return {name: start for (name, _), start in zip(self.nodes, ends, strict=False)}

    def sites(self, name: str) -> Int[np.ndarray, " n"]:
        """Returns the numbers of the sites of one name, int32, for blocks: `Block(model.sites("spin")[::2])`."""
        if name not in self.kinds:
            raise ValueError(f"there are no nodes {name!r}; choose one of {', '.join(map(repr, self.kinds))}")
        return self.first_sites[name] + np.arange(self.kinds[name].n, dtype=np.int32)

    def sites_of_terms(self, factor: Factor) -> Int[np.ndarray, "n_terms order"]:
        """Returns the sites of every term, one column a member, int32."""
        columns = [self.first_sites[member.name] + member.index for member in factor.members]
        return np.stack(columns, axis=1).astype(np.int32)

    @functools.cached_property
    def graph(self) -> Graph:
        """Which sites interact: those that share a term."""
        pairs = [np.zeros((0, 2), np.int32)]
        for factor in self.factors:
            sites = np.sort(self.sites_of_terms(factor), axis=1)
            pairs += [sites[:, columns] for columns in itertools.combinations(range(sites.shape[1]), 2)]
        n_sites = sum(kind.n for _, kind in self.nodes)
        return Graph(n_sites, np.unique(np.concatenate(pairs), axis=0))

    @property
    def level_counts(self) -> tuple[int | None, ...]:
        """Levels of the nodes of each leaf of a configuration, None where there are infinitely many."""
        return tuple(self.kinds[name].n_values for name in sorted(self.kinds))

    @functools.cached_property
    def site_levels(self) -> tuple[int | None, ...]:
        """Levels of every site, None where there are infinitely many."""
        return tuple(kind.n_values for _, kind in self.nodes for _ in range(kind.n))

    def default_spec(self) -> BlockSpec:
        """Returns the blocks of a colouring: nodes of one block share no factor, and may be of several kinds."""
        return default_spec(self.graph)

    def position_struct(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes and dtypes of a configuration."""
        return {name: jax.ShapeDtypeStruct((kind.n,), kind.dtype) for name, kind in self.nodes}

    def params_struct(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Returns the shapes of the parameters, float32."""
        return tuple(
            jax.ShapeDtypeStruct((factor.n_terms, *self.table_shape(factor)), jnp.float32)
            for factor in self.factors
        )

    def field_struct(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Returns the shapes of what a chain may add to the weights of each factor; None stands for nothing."""
        return self.params_struct()

    def add_field(self, params: tuple[Array, ...], field: tuple[Array | None, ...]) -> tuple[Array, ...]:
        """Returns parameters with a field added to the weights of those factors that have one."""
        return tuple(
            w if own is None else w + own.astype(w.dtype) for w, own in zip(params, field, strict=True)
        )

    def table_shape(self, factor: Factor) -> tuple[int, ...]:
        """Returns the levels of the factor's categories."""
        kinds = [self.kinds[member.name] for member in factor.members]
        return tuple(kind.n_values for kind in kinds if kind.is_table and kind.n_values is not None)

    def init(self, key: Key, *, scale: float = 0.01) -> tuple[Array, ...]:
        """Draws float32 weights.

        Factors of several members are drawn from N(0, scale²). Those of one member, biases, are zero, but −½ for a
        statistic that its kind requires: real units have precision 1.
        """
        check_params_fit(self.params_struct())
        keys = jax.random.split(key, max(len(self.factors), 1))
        weights = []
        for k, factor, struct in zip(keys, self.factors, self.params_struct(), strict=False):
            first = factor.members[0]
            if len(factor.members) > 1:
                weights.append(scale * jax.random.normal(k, struct.shape, jnp.float32))
            else:
                required = first.statistic in self.kinds[first.name].required
                weights.append(jnp.full(struct.shape, -0.5 if required else 0.0, jnp.float32))
        return tuple(weights)

    def draw_position(self, key: Key) -> dict[str, Array]:
        """Draws a configuration to start a chain from: uniform levels, and N(0, 1) where there are infinitely many."""
        keys = jax.random.split(key, len(self.nodes))
        return {name: kind.start(k) for k, (name, kind) in zip(keys, self.nodes, strict=True)}

    def energy(self, params: tuple[Array, ...], x: Mapping[str, Array]) -> Float[Array, ""]:
        """Returns E(x) of one configuration; raises ValueError when shapes or dtypes do not fit."""
        self._check(params, x)
        total: Any = 0.0
        for factor, weights in zip(self.factors, params, strict=True):
            value, levels = self._terms(factor, x, weights.dtype)
            if levels is None:
                total = total + weighted_sum(weights, value)
                continue
            entries = jnp.take_along_axis(weights.reshape(len(weights), -1), levels[:, None], axis=1)
            total = total + jnp.dot(entries[:, 0], value, precision="highest")
        return -jnp.asarray(total)

    def energy_relaxed(
        self, params: tuple[Array, ...], one_hot: Mapping[str, Float[Array, "n levels"]]
    ) -> Float[Array, ""]:
        """Returns E with every level replaced by the weights of its row, a multilinear form: E(x) on one-hot rows.

        Raises:
          ValueError: If nodes have no levels, or parameters do not fit.
        """
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        if None in self.site_levels:
            name = next(name for name, kind in self.nodes if kind.n_values is None)
            raise ValueError(f"the nodes {name!r} have no levels to relax; use gibbs for mixed kinds")
        total: Any = 0.0
        for factor, weights in zip(self.factors, params, strict=True):
            of_terms = jnp.ones((factor.n_terms,), weights.dtype)
            for member in factor.members:
                rows, kind = one_hot[member.name][member.index], self.kinds[member.name]
                if kind.is_table:
                    of_terms = of_terms[..., None] * rows.reshape(len(rows), *[1] * (of_terms.ndim - 1), -1)
                else:
                    values = kind.evaluate(member.statistic, jnp.arange(kind.n_values).astype(kind.dtype))
                    mean = jnp.dot(rows, values.astype(weights.dtype), precision="highest")
                    of_terms = of_terms * mean.reshape(-1, *[1] * (of_terms.ndim - 1))
            total = total + weighted_sum(weights, of_terms)
        return -jnp.asarray(total)

    def conditional_logits(self, params: tuple[Array, ...], x: Mapping[str, Array]) -> dict[str, Array]:
        """Returns log p(xᵢ = k | rest) + constᵢ of every node at β = 1, `(n, K)` for each name.

        Raises:
          ValueError: If nodes have no levels, or shapes or dtypes do not fit.
        """
        self._check(params, x)
        one_hot = {
            name: jax.nn.one_hot(x[name].astype(jnp.int32), kind.n_values or 1) for name, kind in self.nodes
        }
        # The energy is linear in the row of each node.
        return jax.tree.map(jnp.negative, jax.grad(self.energy_relaxed, argnums=1)(params, one_hot))

    def levels(self, x: Mapping[str, Array]) -> Int[Array, " n_sites"]:
        """Returns the levels of all sites, int32; False is 0 and True is 1."""
        return jnp.concatenate([x[name].astype(jnp.int32) for name, _ in self.nodes])

    def from_levels(self, levels: Int[Array, " n_sites"]) -> dict[str, Array]:
        """The inverse of `levels`."""
        spans = {name: levels[self.first_sites[name] :][: kind.n] for name, kind in self.nodes}
        return {name: spans[name].astype(kind.dtype) for name, kind in self.nodes}

    def _terms(
        self, factor: Factor, x: Mapping[str, Array], dtype: Any
    ) -> tuple[Float[Array, " n_terms"], Int[Array, " n_terms"] | None]:
        """Returns the product of the statistics of every term, and the place of its levels in a flat table."""
        value, place = jnp.ones((factor.n_terms,), dtype), None
        for member in factor.members:
            kind, own = self.kinds[member.name], x[member.name][member.index]
            if kind.is_table:
                level = own.astype(jnp.int32)
                place = level if place is None else place * (kind.n_values or 1) + level
            else:
                value = value * kind.evaluate(member.statistic, own).astype(dtype)
        return value, place

    def _check(self, params: PyTree, x: PyTree) -> None:
        check_struct("params", params, self.params_struct(), dtypes=FLOATS)
        check_struct("x", x, self.position_struct())

    def _check_terms(self) -> None:
        given: dict[tuple[str, str], list[np.ndarray]] = {}
        for number, factor in enumerate(self.factors):
            sites = np.sort(self.sites_of_terms(factor), axis=1)
            twice = np.flatnonzero((sites[:, 1:] == sites[:, :-1]).any(axis=1))
            if twice.size:
                raise ValueError(
                    f"term {int(twice[0])} of factor {number} reads a node twice; drop both if it is a spin, whose "
                    'square is 1; that of a real unit is a statistic: (name, numbers, "square")'
                )
            for member in factor.members:
                given.setdefault((member.name, member.statistic), []).append(member.index)
        for name, kind in self.nodes:
            for statistic in kind.required:
                found = np.unique(np.concatenate([[], *given.get((name, statistic), [])]))
                if len(found) == kind.n:
                    continue
                # The first number that is missing among those in ascending order.
                gaps = np.flatnonzero(found != np.arange(len(found)))
                missing = int(gaps[0]) if gaps.size else len(found)
                raise ValueError(
                    f"node {missing} of {name!r} has no factor of its {statistic}, so its law has no finite sum; add "
                    f'Factor(("{name}", range({kind.n}), "{statistic}"))'
                )


def _resolved(factor: Factor, nodes: Mapping[str, NodeKind], number: int) -> Factor:
    """Returns the factor with statistics by name, checked against the nodes."""
    for name, index, statistic in factor.members:
        if name not in nodes:
            raise ValueError(
                f"factor {number} names nodes {name!r}; there are {', '.join(map(repr, nodes))}: add them, or "
                "correct the name"
            )
        outside = index[(index < 0) | (index >= nodes[name].n)]
        if outside.size:
            raise ValueError(
                f"factor {number} names node {int(outside[0])} of {name!r}; they run from 0 to {nodes[name].n - 1}"
            )
        if statistic not in ("", *nodes[name].statistics):
            listed = ", ".join(map(repr, nodes[name].statistics))
            raise ValueError(f"factor {number} uses {statistic!r} of {name!r}; choose one of {listed}")
    return Factor(*((m.name, m.index, m.statistic or nodes[m.name].statistics[0]) for m in factor.members))
