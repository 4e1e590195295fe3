"""Hidden sites of a model on a graph: those that no data show.

With x = (v, h) the data follow p(v) ∝ Σ_h exp(−E(v, h)) (Ackley, Hinton and Sejnowski 1985). A sampler treats hidden
sites as any other; what they change is which sites a datum has.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt8

from ebm_jax.checks import check_struct
from ebm_jax.graphs.blocks import Block
from ebm_jax.graphs.grids import AnyGraph

Sites = Bool[Array, "*sites"] | UInt8[Array, "*sites"]
Visible = Bool[Array, "*visible"] | UInt8[Array, "*visible"]


class HiddenSites:
    """What models with the fields `graph` and `hidden`, a `Block` or None, have for data of their visible sites."""

    graph: AnyGraph
    hidden: Block | None

    def position_struct(self) -> Any:
        """Shape and dtype of a configuration; the model says it."""
        raise NotImplementedError

    @functools.cached_property
    def visible_mask(self) -> Bool[np.ndarray, "*sites"]:
        """True at visible sites, shaped like a configuration."""
        mask = np.ones(self.graph.n_sites, bool)
        if self.hidden is not None:
            mask[self.hidden.sites] = False
        mask.setflags(write=False)
        return mask.reshape(self.graph.shape)

    @functools.cached_property
    def visible_sites(self) -> Int[np.ndarray, " n_visible"]:
        """Numbers of the visible sites in ascending order, int32."""
        sites = np.flatnonzero(self.visible_mask).astype(np.int32)
        sites.setflags(write=False)
        return sites

    def visible(self, x: Sites) -> Visible:
        """Returns the values at visible sites in the order of `visible_sites`, `(n_visible,)`; x if nothing is hidden.

        Raises ValueError when shape or dtype do not fit.
        """
        check_struct("x", x, self.position_struct())
        return x if self.hidden is None else x.reshape(-1)[self.visible_sites]

    def complete(self, v: Visible) -> Sites:
        """Returns the configuration with visible part `v` and hidden sites at False or 0; the inverse of `visible`.

        Raises ValueError when shape or dtype do not fit.
        """
        struct = self.position_struct()
        if self.hidden is None:
            check_struct("v", v, struct)
            return v
        check_struct("v", v, jax.ShapeDtypeStruct(self.visible_sites.shape, struct.dtype))
        whole = jnp.zeros(self.graph.n_sites, struct.dtype).at[self.visible_sites].set(v)
        return whole.reshape(self.graph.shape)

    def clamp(self, v: Visible) -> tuple[Bool[Array, "*sites"], Sites]:
        """Returns `(mask, values)` that hold the visible sites at `v`, for `clamped` of `sample` and `kernel.init`.

        `jax.vmap(model.clamp)(data)` gives every chain a datum of its own. Raises ValueError as `complete` does.
        """
        return jnp.asarray(self.visible_mask), self.complete(v)


def check_hidden(graph: AnyGraph, hidden: Any) -> Block | None:
    """Returns the hidden sites in ascending order; raises ValueError unless they are a part of the graph's, or None."""
    if hidden is None:
        return None
    if not isinstance(hidden, Block):
        raise ValueError(f"hidden is {hidden!r}; wrap site numbers as Block([0, 2, …])")
    if hidden.sites.max() >= graph.n_sites:
        raise ValueError(
            f"hidden names site {int(hidden.sites.max())}; the graph has sites 0 … {graph.n_sites - 1}"
        )
    if len(hidden) == graph.n_sites:
        raise ValueError(f"hidden names all {len(hidden)} sites; leave at least one for data to show")
    return Block(np.sort(hidden.sites))  # a set: models that hide the same sites are equal
