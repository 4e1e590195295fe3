"""Block Gibbs sampling of discrete models.

One step updates the free blocks of a specification in order. All sites of a block are drawn at once from

    p(xᵢ | x₋ᵢ) ∝ exp(−β E(x)),

which leaves p(x) ∝ exp(−β E(x)) invariant (Geman and Geman 1984). The update runs on the path that the structure
allows: "bits" (an Ising model with tied coupling and bias on a periodic grid: 32 sites to a word), "grid" (an Ising or
Potts grid with its default blocks: shifts, no index tables), "bipartite" (an RBM: matrix products), "dense" (many
blocks: a matrix of couplings, and sites one after the other), "general" (any other graph: gathers, with many blocks in
one loop) or "factors" (a factor graph: gathers for each member of a term). Every draw depends only on the chain's key,
the step and the site. "grid" and "general" share their random words: a model that fits both has the same chains on
both.

Chains may add fields of their own to the biases (`sample(field=…)`), as conditional models need. They have the bits of
`vmap` over biases, and run about as fast as chains that share all biases.

A sweep in fixed order is not reversible, though each block is. Differentiation treats floating inputs as constants: no
gradient passes through a draw, and `jax.grad` of a program around a sampler sees zero there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ebm_jax import rng
from ebm_jax.checks import check_choice, check_field, check_finite
from ebm_jax.energies.base import BlockModel
from ebm_jax.functions import shown
from ebm_jax.graphs.blocks import BlockSpec
from ebm_jax.lattice import bipartite
from ebm_jax.lattice.base import Layout
from ebm_jax.lattice.bits import BitsLayout
from ebm_jax.lattice.dense import DenseLayout
from ebm_jax.lattice.factors import FactorLayout
from ebm_jax.lattice.general import GeneralLayout
from ebm_jax.lattice.grid import GridLayout
from ebm_jax.lattice.looped import LoopedLayout
from ebm_jax.samplers.base import ChainState
from ebm_jax.samplers.discrete import DiscreteKernel, count_nonfinite
from ebm_jax.samplers.sweeps import sweeps, sweeps_at_one_beta, sweeps_of_one_chain, with_fields
from ebm_jax.types import Info, Key, PyTree

# The fastest comes first.
LAYOUTS: tuple[type[Layout], ...] = (
    BitsLayout,
    GridLayout,
    bipartite.BipartiteLayout,
    DenseLayout,
    LoopedLayout,
    GeneralLayout,
    FactorLayout,
)


class PackedGibbs(NamedTuple):
    """Many chains in the form of the layout.

    Attributes:
      blocks: The configurations.
      masks: The clamped sites, or None.
      step: uint32 `(n_chains,)`, the step counters.
      field: What each chain adds to the biases, chain axis first, or None.
    """

    blocks: PyTree
    masks: PyTree | None
    step: jax.Array
    field: PyTree | None = None


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("tables",), meta_fields=("model", "spec", "layout")
)
@dataclass(frozen=True, eq=False)
class Gibbs(DiscreteKernel):
    """The kernel that `gibbs` builds.

    Attributes:
      model: The model.
      spec: Which sites are updated together.
      layout: How chains are packed and updated.
      tables: The layout's index tables, the only traced leaves of the kernel.
    """

    model: Any
    spec: BlockSpec
    layout: Layout
    tables: Any

    @property
    def may_diverge(self) -> bool:
        """Whether a step can leave the finite numbers: only where units are real."""
        return self.layout.may_diverge

    @property
    def path(self) -> str:
        """Which update runs: "bits", "grid", "bipartite", "dense", "general" or "factors"."""
        return self.layout.path

    def step(self, key: Key, params: PyTree, beta: Any, state: ChainState) -> tuple[ChainState, Info]:
        """Takes one sweep."""
        return self.steps(key, params, beta, state, 1)

    def steps(
        self, key: Key, params: PyTree, beta: Any, state: ChainState, n: int
    ) -> tuple[ChainState, Info]:
        """Takes `n` sweeps. Under `vmap` all chains run side by side, as fast as in `packed_steps`."""
        params, beta = jax.lax.stop_gradient((params, jnp.asarray(beta, jnp.float32)))
        state = state._replace(field=jax.lax.stop_gradient(state.field))
        new = sweeps_of_one_chain(n)(self, rng.chain_words(key), params, beta, state)
        inputs = params, state.field, self._variance(beta), self._real_units(new.position)
        return new, _info(n, state.step, inputs)

    def energy_at(self, params: PyTree, state: ChainState) -> jax.Array:
        """Returns E(x; params), without β, of the configuration that a state holds, its field added to the biases."""
        if state.field is not None:
            params = self.model.add_field(params, state.field)
        return super().energy_at(params, state)

    def clamp(self, params: PyTree, state: ChainState, clamped: Any) -> ChainState:
        """Returns the state with `clamped=(mask, values)` in place of what was clamped, at the same step."""
        return super().clamp(params, state, clamped)._replace(field=state.field)

    def with_field(self, states: Any, field: PyTree | None) -> Any:
        """Returns states, chain axis first or packed, of chains that add a field of their own to the biases.

        Args:
          states: The states, whose fields are replaced.
          field: Shaped like the biases with a chain axis first. `None` means no field.

        Raises:
          ValueError: If the field does not fit, or the model has no `add_field`.
        """
        if field is not None:
            if not hasattr(self.model, "add_field"):
                raise ValueError(
                    f"{self.model!r} takes no field; give it the methods field_struct and add_field"
                )
            check_field("field", field, self.model.field_struct(), states.step.shape[0])
            check_finite("field", field)
        return states._replace(field=field)

    def pack(self, params: PyTree, states: ChainState) -> PackedGibbs:
        """Lays chains out for `packed_steps`."""
        del params
        masks = None if states.clamped is None else self.layout.pack_mask(self.tables, states.clamped)
        blocks = self.layout.pack(self.tables, states.position)
        return PackedGibbs(blocks, masks, states.step, states.field)

    def unpack(self, packed: PackedGibbs) -> ChainState:
        """The inverse of `pack`."""
        masks = None if packed.masks is None else self.layout.unpack_mask(self.tables, packed.masks)
        masks = _first(masks, packed.step)
        return ChainState(self.packed_positions(packed), masks, packed.step, packed.field)

    def packed_positions(self, packed: PackedGibbs) -> PyTree:
        """Returns the configurations with a leading chain axis."""
        return _first(self.layout.unpack(self.tables, packed.blocks), packed.step)

    def packed_energies(self, params: PyTree, packed: PackedGibbs) -> jax.Array:
        """Returns E(x; params) of every chain, `(n_chains,)`; on "bits" by counting the bits of the packed words."""
        own = (
            params
            if packed.field is None
            else with_fields(self.model, _with_chain_axis(params), packed.field)
        )
        energies = self.layout.energies(own, packed.blocks)
        return super().packed_energies(params, packed) if energies is None else energies

    def packed_steps(
        self, keys: Key, params: PyTree, beta: Any, packed: PackedGibbs, n: int
    ) -> tuple[Any, Info]:
        """Takes `n` sweeps of every chain; `beta` is a scalar, `(n,)`, or `(n, n_chains)`."""
        params, beta = jax.lax.stop_gradient((params, jnp.asarray(beta, jnp.float32)))
        betas = beta if beta.ndim == 2 else beta[..., None]
        new = sweeps(self, rng.chain_words(keys), _with_chain_axis(params), betas, packed, n)
        return new, self._infos(n, packed.step, new, params, beta, packed.field)

    def stepper(self, keys: Key, params: PyTree, beta: Any, packed: PackedGibbs) -> Callable[..., Any]:
        """Returns `(beta, packed, n) -> (packed, info)`: `packed_steps` for many calls in a row of the same chains."""
        if jnp.ndim(beta) > 0:
            return super().stepper(keys, params, beta, packed)
        params, beta = jax.lax.stop_gradient((params, jnp.asarray(beta, jnp.float32)))
        words, shared = rng.chain_words(keys), _with_chain_axis(params)
        sweep = sweeps_at_one_beta(self, words, shared, beta[None], packed)
        # Zeros and NaN stand for numbers that are finite and not: a field is as large as the configurations.
        inputs = jax.tree.map(lambda leaf: jnp.sum(leaf - leaf, axis=range(1, leaf.ndim)), packed.field)

        def take_steps(_: Any, packed: PackedGibbs, n: int) -> tuple[PackedGibbs, Info]:
            new = sweep(packed, n)
            return new, self._infos(n, packed.step, new, params, beta, inputs)

        return take_steps

    def _infos(
        self, n: int, steps: jax.Array, new: PackedGibbs, params: PyTree, beta: jax.Array, field: PyTree
    ) -> Info:
        """Returns the report of the `n` sweeps from `steps` on by which every chain came to `new`."""
        shared = params, self._variance(beta)
        real = self._real_units(self.packed_positions(new)) if self.may_diverge else None
        return jax.vmap(lambda step, own: _info(n, step, (shared, own)))(steps, (field, real))

    def _variance(self, beta: jax.Array) -> jax.Array:
        """Returns what must be finite for β to make sense: for Gaussian units their variance 1/β."""
        return jnp.where(beta > 0, 1 / beta, jnp.nan) if self.may_diverge else beta

    def _real_units(self, position: PyTree) -> PyTree:
        """Returns the units of a position that are real numbers, which can leave the finite ones."""
        if not self.may_diverge:
            return None
        return [leaf for leaf in jax.tree.leaves(position) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def gibbs(model: BlockModel, spec: BlockSpec | None = None, *, path: str = "auto") -> Gibbs:
    """Returns the block Gibbs kernel of an Ising, Potts or RBM model, or of a factor graph.

    Args:
      model: Gives the graph and the family: a `PairwiseModel` or a `LayeredModel` of `ebm_jax.energies.base`, or
        a `FactorGraph`.
      spec: Which sites are updated together. The default is `model.default_spec()`.
      path: "auto" takes the fastest that fits; "bits", "grid", "bipartite", "dense", "general" and "factors"
        force one.

    Returns:
      A `Kernel` for `sample`. Its `path` names the update that runs.

    Raises:
      ValueError: If the specification does not fit the graph, or the structure does not allow the path.

    Example:
      >>> model = ej.Ising(ej.Grid(4, 4))
      >>> kernel = ej.gibbs(model)
      >>> kernel.path
      'grid'
      >>> start = ej.init_chains(jax.random.key(0), model, 8)
      >>> params = model.init(jax.random.key(1))
      >>> ej.sample(jax.random.key(2), kernel, params, start, ej.SamplingSchedule(10, 5, 10)).positions.shape
      (5, 8, 4, 4)
    """
    check_choice("path", path, ("auto", *dict.fromkeys(layout.path for layout in LAYOUTS)))
    refusal = f"gibbs cannot update {shown(model)}; give an Ising, Potts or RBM model, a FactorGraph, or another kernel"
    if not isinstance(model, BlockModel):
        raise ValueError(refusal)
    chosen = model.default_spec() if spec is None else spec
    if not isinstance(chosen, BlockSpec):
        raise ValueError(f"spec is {spec!r}; give a BlockSpec, e.g. BlockSpec(colour(graph))")
    # A graph's own blocks fit it; they may be huge, so they are not checked again.
    if spec is not None:
        chosen.check(model.graph)
    asked = [layout for layout in LAYOUTS if path in ("auto", layout.path)]
    obstacles = [layout.obstacle(model, chosen) for layout in asked]
    fitting = [layout for layout, obstacle in zip(asked, obstacles, strict=True) if obstacle is None]
    if not fitting:
        if path == "auto":
            raise ValueError(refusal)
        raise ValueError(f'path="{path}" does not fit {shown(model)}: {obstacles[-1]}; use path="auto"')
    layout = next((layout for layout in fitting if layout.pays(model, chosen)), fitting[0])
    return Gibbs(model, chosen, *layout.build(model, chosen))


def _info(n: int, step: jax.Array, inputs: PyTree) -> Info:
    """Returns the report of `n` sweeps, which evaluate conditionals but no energy or gradient."""
    return Info.of(n_steps=n, **count_nonfinite(step, n, inputs))


def _with_chain_axis(params: PyTree) -> PyTree:
    return jax.tree.map(lambda p: jnp.asarray(p)[..., None], params)


def _first(tree: PyTree, step: jax.Array) -> PyTree:
    """Returns as many rows as there are chains; a layout may hold more, to fill a tile."""
    return jax.tree.map(lambda leaf: leaf[: step.shape[0]], tree)
