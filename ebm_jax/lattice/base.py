"""What Gibbs sampling asks of a layout: whether it fits, how it packs chains, and how it redraws a group of sites."""

from __future__ import annotations

import abc
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

from ebm_jax.graphs.blocks import BlockSpec
from ebm_jax.lattice.fields import MAX_LOG_ODDS
from ebm_jax.types import PyTree


class Layout(abc.ABC):
    """How configurations of one model lie in memory while many chains are swept, and how groups of sites are redrawn.

    A layout is a frozen dataclass of structure: it compares and hashes by value. What is large or traced goes with it
    as `tables`, a pytree of index arrays that enter compiled code as arguments. A run of sweeps is

        packed = pack(tables, x)                          x: (chains, *sites) -> the layout's own arrays
        prepared = prepare(tables, params)                once a call
        weights = weigh(prepared, beta, odds)             once for each β
        packed = update(group, tables, weights, …)        for every group of the block specification, in order
        x = unpack(tables, packed)                        possibly with more chains, which fill the last tile

    Parameters carry a chain axis last, of size 1 where all chains share them; so does `beta`, `(1,)` or `(chains,)`.

    Attributes:
      path: The name by which `gibbs(path=…)` and `Gibbs.path` know the layout.
      has_odds: Whether `update` has a second arithmetic, on odds instead of logits, for weights of moderate size.
      may_diverge: Whether sites are real numbers, which can leave the finite ones.
    """

    path: str
    has_odds: bool = False
    may_diverge: bool = False

    @classmethod
    @abc.abstractmethod
    def obstacle(cls, model: Any, spec: BlockSpec) -> str | None:
        """Says why a model and its blocks do not fit this layout, or returns None when they do."""

    @classmethod
    @abc.abstractmethod
    def build(cls, model: Any, spec: BlockSpec) -> tuple[Layout, PyTree]:
        """Returns the layout and the index tables of a model and blocks that fit."""

    @classmethod
    def pays(cls, model: Any, spec: BlockSpec) -> bool:
        """Returns whether automatic choice should take this layout for a model and blocks that fit it."""
        del model, spec
        return True

    def n_updates(self, spec: BlockSpec) -> int:
        """Returns how many calls of `update` make a sweep: one for each free group of the blocks."""
        return len(spec.free)

    @abc.abstractmethod
    def pack(self, tables: PyTree, x: PyTree) -> PyTree:
        """Lays out configurations with a leading chain axis."""

    @abc.abstractmethod
    def unpack(self, tables: PyTree, packed: PyTree) -> PyTree:
        """The inverse of `pack`, with a leading chain axis at least as long as that of the chains packed."""

    def pack_mask(self, tables: PyTree, mask: PyTree) -> PyTree:
        """Lays out a bool mask, shaped like configurations, in the form that `update` takes."""
        return self.pack(tables, mask)

    def unpack_mask(self, tables: PyTree, masks: PyTree) -> PyTree:
        """The inverse of `pack_mask`."""
        return self.unpack(tables, masks)

    @abc.abstractmethod
    def prepare(self, tables: PyTree, params: PyTree) -> PyTree:
        """Lays out parameters, which carry a chain axis last."""

    @abc.abstractmethod
    def weigh(self, prepared: PyTree, beta: Float[Array, " c"], odds: bool) -> PyTree:
        """Returns what `update` reads at one β, as odds or as logits."""

    def largest_log_odds(self, prepared: PyTree) -> Float[Array, ""]:
        """Returns a bound on |logit| at β = 1 over all sites; a layout that `has_odds` defines it."""
        raise NotImplementedError

    def odds_fit(self, prepared: PyTree, beta: Float[Array, " c"]) -> Bool[Array, ""]:
        """Returns whether no product of odds can leave float32 at any of the β."""
        return self.largest_log_odds(prepared) * jnp.max(jnp.abs(beta)) < MAX_LOG_ODDS

    @abc.abstractmethod
    def update(
        self,
        group: int,
        tables: PyTree,
        weights: PyTree,
        odds: bool,
        words: UInt32[Array, "chains 2"],
        step: UInt32[Array, " chains"],
        packed: PyTree,
        masks: PyTree | None,
    ) -> PyTree:
        """Redraws every site of a group from its conditional given the others.

        Args:
          group: Number of the group among the free ones of the block specification.
          tables: The index tables that `build` returned.
          weights: What `weigh` returned.
          odds: Whether the weights are odds.
          words: Two words of every chain's key.
          step: Every chain's step counter.
          packed: The configurations.
          masks: Sites that keep their values, or None.

        Returns:
          The configurations with the group redrawn.
        """

    def energies(self, params: PyTree, packed: PyTree) -> Float[Array, " chains"] | None:
        """Returns E of every chain under shared parameters, or None where unpacking the chains is as fast."""
        del params, packed
