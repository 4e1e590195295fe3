"""Block Gibbs sampling of discrete models.

One step updates the free blocks of a specification in order; all sites of a block are drawn at once from

    p(xᵢ | x₋ᵢ) ∝ exp(−β E(x)),

which leaves p(x) ∝ exp(−β E(x)) invariant (Geman and Geman 1984). The update runs on the path that the structure
allows: "bits" (an Ising model with tied coupling and bias on a periodic grid: 32 sites to a word), "grid" (an Ising or
Potts grid with its default blocks: shifts, no index tables), "bipartite" (an RBM: matrix products) or "general"
(anything else: gathers). Every draw depends on the chain's key, the step and the site alone. "grid" and "general" share
their random words: a model that fits both has the same chains on both.

A sweep in fixed order is not reversible, though each block is. Floating inputs are constants to differentiation: no
gradient passes through a draw, and `jax.grad` of a program around a sampler sees zero there.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from ebm_jax import rng
from ebm_jax.chains import partitions, with_automatic_axes
from ebm_jax.checks import check_choice
from ebm_jax.energies.base import BlockModel
from ebm_jax.graphs.blocks import BlockSpec
from ebm_jax.lattice import bipartite, bits, general, grid
from ebm_jax.lattice.fields import MAX_SPREAD
from ebm_jax.samplers.base import ChainState
from ebm_jax.samplers.discrete import DiscreteKernel, count_nonfinite
from ebm_jax.types import Info, Key, PyTree

# The fastest that fits comes first. Each module says what keeps a model off it, and builds layout and index tables.
PATHS = {"bits": bits, "grid": grid, "bipartite": bipartite, "general": general}


class PackedGibbs(NamedTuple):
    """Many chains as the layout keeps them; `step` has one entry a chain."""

    blocks: PyTree
    masks: PyTree | None
    step: jax.Array


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("tables",), meta_fields=("model", "spec", "layout")
)
@dataclass(frozen=True, eq=False)
class Gibbs(DiscreteKernel):
    """The kernel that `gibbs` builds. `tables` are index tables, traced; everything else is structure."""

    model: Any
    spec: BlockSpec
    layout: Any
    tables: Any

    @property
    def may_diverge(self) -> bool:
        """Only real units can leave the finite numbers, where β is not above 0 or parameters are not finite."""
        return "gaussian" in getattr(self.model, "units", ())

    @property
    def path(self) -> str:
        """Which update runs: "bits", "grid", "bipartite" or "general"."""
        return next(
            name for name, lattice in PATHS.items() if type(self.layout).__module__ == lattice.__name__
        )

    def step(self, key: Key, params: PyTree, beta: Any, state: ChainState) -> tuple[ChainState, Info]:
        """Takes one sweep."""
        return self.steps(key, params, beta, state, 1)

    def steps(
        self, key: Key, params: PyTree, beta: Any, state: ChainState, n: int
    ) -> tuple[ChainState, Info]:
        """Takes `n` sweeps; under `vmap` over chains all of them run side by side, at no cost over `packed_steps`."""
        params, beta = jax.lax.stop_gradient((params, jnp.asarray(beta, jnp.float32)))
        new = _one_chain(n)(self, rng.chain_words(key), params, beta, state)
        return new, _info(n, state.step, params, self._variance(beta))

    def pack(self, params: PyTree, states: ChainState) -> PackedGibbs:
        """Lays chains out for `packed_steps`."""
        del params
        masks = None if states.clamped is None else self.layout.pack_mask(self.tables, states.clamped)
        return PackedGibbs(self.layout.pack(self.tables, states.position), masks, states.step)

    def unpack(self, packed: PackedGibbs) -> ChainState:
        """The inverse of `pack`."""
        masks = None if packed.masks is None else self.layout.unpack_mask(self.tables, packed.masks)
        return ChainState(self.packed_positions(packed), _first(masks, packed.step), packed.step)

    def packed_positions(self, packed: PackedGibbs) -> PyTree:
        """Returns the configurations with a leading chain axis."""
        return _first(self.layout.unpack(self.tables, packed.blocks), packed.step)

    def packed_energies(self, params: PyTree, packed: PackedGibbs) -> jax.Array:
        """Returns E(x; params) of every chain, `(n_chains,)`; on "bits" from the words as they are."""
        if isinstance(self.layout, bits.BitsLayout):
            return self.layout.energies(params, packed.blocks)
        return super().packed_energies(params, packed)

    def packed_steps(
        self, keys: Key, params: PyTree, beta: Any, packed: PackedGibbs, n: int
    ) -> tuple[Any, Info]:
        """Takes `n` sweeps of every chain; `beta` is a scalar, `(n,)`, or `(n, n_chains)`."""
        params, beta = jax.lax.stop_gradient((params, jnp.asarray(beta, jnp.float32)))
        shared = jax.tree.map(lambda p: jnp.asarray(p)[..., None], params)
        betas = beta if beta.ndim == 2 else beta[..., None]
        new = _sweeps(self, rng.chain_words(keys), shared, betas, packed, n)
        beta = self._variance(beta)
        return new, jax.vmap(lambda step: _info(n, step, params, beta))(packed.step)

    @property
    def tells_inputs(self) -> bool:
        """Whether a sweep ends with the hidden layer of an RBM, drawn from its inputs at the chains' last positions."""
        return isinstance(self.layout, bipartite.BipartiteLayout) and self.layout.layers[-1:] == ("hidden",)

    def packed_steps_and_inputs(
        self, keys: Key, params: PyTree, packed: PackedGibbs, n: int
    ) -> tuple[PackedGibbs, Info, bipartite.Seen]:
        """Returns what `packed_steps` does at β = 1, `n` being at least 1, and what the hidden layer was drawn from.

        The last are the visible units of the chains it ends with, and Wᵀv: who needs them at the same parameters has
        them for nothing. Steps count as not finite where Wᵀv is not. Only where `tells_inputs`.
        """
        params = jax.lax.stop_gradient(params)
        shared, beta = jax.tree.map(lambda p: jnp.asarray(p)[..., None], params), jnp.ones(1, jnp.float32)
        prepared = self.layout.prepare(self.tables, shared)
        new, seen = _sweeps_and_inputs(self, rng.chain_words(keys), prepared, beta, packed, n)
        # A product with weights that are not finite is not finite. Who reads the weights themselves, at a time of the
        # compiler's choice, keeps an optimiser from updating them where they lie.
        looked = (seen.inputs, prepared.visible_bias, prepared.hidden_bias)
        beta = self._variance(beta[0])
        return new, jax.vmap(lambda step: _info(n, step, looked, beta))(packed.step), seen

    def _variance(self, beta: jax.Array) -> jax.Array:
        """Returns what has to be finite for β to make sense: of Gaussian units, their variance 1/β."""
        return jnp.where(beta > 0, 1 / beta, jnp.nan) if self.may_diverge else beta


def gibbs(model: BlockModel, spec: BlockSpec | None = None, *, path: str = "auto") -> Gibbs:
    """Returns the block Gibbs kernel of an Ising, Potts or RBM model.

    model: gives the graph and the family. spec: who is updated together (default: `model.default_spec()`). path:
    "auto" takes the fastest that fits; "bits", "grid", "bipartite" and "general" force one.
    Raises ValueError when the specification does not fit the graph, or the structure does not allow the path.
    """
    check_choice("path", path, ("auto", *PATHS))
    if not hasattr(model, "default_spec"):
        raise ValueError(
            f"gibbs cannot update {model!r}; give an Ising, Potts or RBM model, or another kernel"
        )
    chosen = model.default_spec() if spec is None else spec
    if not isinstance(chosen, BlockSpec):
        raise ValueError(f"spec is {spec!r}; give a BlockSpec, e.g. BlockSpec(colour(graph))")
    if spec is not None:  # a graph's own blocks are right, and may be huge
        chosen.check(model.graph)
    obstacles = {name: PATHS[name].obstacle(model, chosen) for name in PATHS}
    fitting = [name for name, obstacle in obstacles.items() if obstacle is None]
    if path == "auto" and not fitting:
        raise ValueError(
            f"gibbs cannot update {model!r}; give an Ising, Potts or RBM model, or another kernel"
        )
    if path != "auto" and path not in fitting:
        raise ValueError(f'path="{path}" does not fit {model!r}: {obstacles[path]}; use path="auto"')
    layout, tables = PATHS[fitting[0] if path == "auto" else path].build(model, chosen)
    return Gibbs(model, chosen, layout, tables)


def _info(n: int, step: jax.Array, params: PyTree, beta: jax.Array) -> Info:
    """A sweep evaluates conditionals only: it counts as a step, and as no energy or gradient."""
    return Info.of(n_steps=n, **count_nonfinite(step, n, params, beta))


def _sweeps(
    kernel: Gibbs, words: jax.Array, params: PyTree, betas: jax.Array, packed: PackedGibbs, n: int
) -> PackedGibbs:
    """Runs `n` sweeps; `betas` is `(c,)` or `(n, c)`, and parameters carry a chain axis last, of size c or 1."""
    layout, tables = kernel.layout, kernel.tables
    prepared = layout.prepare(tables, params)

    def sweep(weights: PyTree, odds: bool, carry: PackedGibbs) -> PackedGibbs:
        blocks, step = carry.blocks, carry.step
        for group in range(len(kernel.spec.free)):
            blocks = layout.update(group, tables, weights, odds, words, step, blocks, carry.masks)
        return carry._replace(blocks=blocks, step=step + jnp.uint32(1))

    def run(odds: bool, beta: jax.Array, carry: PackedGibbs, length: int) -> PackedGibbs:
        weights = layout.weigh(prepared, beta, odds)
        return jax.lax.scan(lambda c, _: (sweep(weights, odds, c), None), carry, length=length)[0]

    def at(beta: jax.Array, carry: PackedGibbs, length: int) -> PackedGibbs:
        if not layout.has_odds:
            return run(False, beta, carry, length)
        # Decided by this β alone, so that a run cut into pieces decides alike.
        fits = layout.spread(prepared) * jnp.max(jnp.abs(beta)) < MAX_SPREAD
        with_odds, with_logits = (functools.partial(run, odds, beta, length=length) for odds in (True, False))
        return jax.lax.cond(fits, with_odds, with_logits, carry)

    if betas.ndim == 1:
        return at(betas, packed, n)
    return jax.lax.scan(lambda carry, beta: (at(beta, carry, 1), None), packed, betas, length=n)[0]


def _sweeps_and_inputs(
    kernel: Gibbs, words: jax.Array, prepared: PyTree, beta: jax.Array, packed: PackedGibbs, n: int
) -> tuple[PackedGibbs, bipartite.Seen]:
    """Runs `n` sweeps at one β, and tells what the last update saw."""
    layout, tables = kernel.layout, kernel.tables
    weights = layout.weigh(prepared, beta, False)
    last = len(kernel.spec.free) - 1

    def sweep(carry: PackedGibbs, n_groups: int) -> PackedGibbs:
        blocks = carry.blocks
        for group in range(n_groups):
            blocks = layout.update(group, tables, weights, False, words, carry.step, blocks, carry.masks)
        return carry._replace(blocks=blocks)

    def whole(carry: PackedGibbs, _: None) -> tuple[PackedGibbs, None]:
        return sweep(carry, last + 1)._replace(step=carry.step + jnp.uint32(1)), None

    carry = sweep(jax.lax.scan(whole, packed, length=n - 1)[0], last)
    blocks, seen = layout.update_and_tell(last, tables, weights, words, carry.step, carry.blocks, carry.masks)
    return carry._replace(blocks=blocks, step=carry.step + jnp.uint32(1)), seen


# Compiled here although a kernel is not: a caller who steps eagerly, as one does through `bind` in a notebook, would
# otherwise compile the loop over steps anew at every call.
@functools.partial(jax.jit, static_argnums=5)
def _many_chains(
    kernel: Gibbs, words: jax.Array, params: PyTree, betas: jax.Array, states: ChainState, n: int
) -> ChainState:
    def run(
        kernel: Gibbs, words: jax.Array, params: PyTree, betas: jax.Array, states: ChainState
    ) -> ChainState:
        return kernel.unpack(_sweeps(kernel, words, params, betas, kernel.pack(params, states), n))

    return with_automatic_axes(run, partitions(states), kernel, words, params, betas, states)


@functools.cache
def _one_chain(n: int) -> Any:
    """Returns `n` sweeps of a single chain, with a batching rule that hands all chains to `_all_chains` at once."""

    @custom_vmap
    def run(
        kernel: Gibbs, words: jax.Array, params: PyTree, betas: jax.Array, state: ChainState
    ) -> ChainState:
        front = lambda tree: jax.tree.map(lambda leaf: leaf[None], tree)  # noqa: E731
        last = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(leaf)[..., None], tree)  # noqa: E731
        states = _many_chains(kernel, front(words), last(params), last(betas), front(state), n)
        return jax.tree.map(lambda leaf: leaf[0], states)

    @run.def_vmap
    def rule(
        size: int, batched: Any, kernel: Gibbs, words: Any, params: PyTree, betas: Any, state: Any
    ) -> Any:
        _refuse_batched_tables(batched[0])
        last = lambda leaf, b: jnp.moveaxis(leaf, 0, -1) if b else leaf[..., None]  # noqa: E731
        words, state = _front(words, batched[1], size), _front(state, batched[4], size)
        params, betas = jax.tree.map(last, (params, betas), (batched[2], batched[3]))
        new = _all_chains(n)(kernel, words, params, betas, state)
        return new, jax.tree.map(lambda _: True, new)

    return run


@functools.cache
def _all_chains(n: int) -> Any:
    """Returns `n` sweeps of chains in front, whose batching rule joins a further axis into theirs.

    Parameters and `betas` carry a chain axis last, of size 1 where shared.
    """

    @custom_vmap
    def run(
        kernel: Gibbs, words: jax.Array, params: PyTree, betas: jax.Array, states: ChainState
    ) -> ChainState:
        return _many_chains(kernel, words, params, betas, states, n)

    @run.def_vmap
    def rule(
        size: int, batched: Any, kernel: Gibbs, words: Any, params: PyTree, betas: Any, states: Any
    ) -> Any:
        _refuse_batched_tables(batched[0])
        words, states = _front(words, batched[1], size), _front(states, batched[4], size)
        chains = words.shape[1]

        def merge_last(leaf: jax.Array, b: bool) -> jax.Array:
            if not b and leaf.shape[-1] == 1:
                return leaf
            leaf = leaf if b else jnp.broadcast_to(leaf, (size, *leaf.shape))
            leaf = jnp.broadcast_to(jnp.moveaxis(leaf, 0, -2), (*leaf.shape[1:-1], size, chains))
            return leaf.reshape(*leaf.shape[:-2], size * chains)

        words, states = jax.tree.map(
            lambda leaf: leaf.reshape(size * chains, *leaf.shape[2:]), (words, states)
        )
        params, betas = jax.tree.map(merge_last, (params, betas), (batched[2], batched[3]))
        new = _all_chains(n)(kernel, words, params, betas, states)
        new = jax.tree.map(lambda leaf: leaf.reshape(size, chains, *leaf.shape[1:]), new)
        return new, jax.tree.map(lambda _: True, new)

    return run


def _first(tree: PyTree, step: jax.Array) -> PyTree:
    """Returns as many rows as there are chains; a layout may hold more, to fill up a tile."""
    return jax.tree.map(lambda leaf: leaf[: step.shape[0]], tree)


def _front(tree: PyTree, batched: PyTree, size: int) -> PyTree:
    """Gives every leaf the leading axis that some leaves already have."""
    return jax.tree.map(
        lambda leaf, b: leaf if b else jnp.broadcast_to(leaf, (size, *jnp.shape(leaf))), tree, batched
    )


def _refuse_batched_tables(batched: PyTree) -> None:
    if any(jax.tree.leaves(batched)):
        raise ValueError(
            "a Gibbs kernel's index tables cannot be mapped; vmap over keys, params, beta and state only"
        )
