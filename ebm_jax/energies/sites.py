"""Models of sites on a graph, some of which may be hidden: no data show them.

With x = (v, h) the data follow p(v) ∝ Σ_h exp(−E(v, h)) (Ackley, Hinton and Sejnowski 1985). A sampler treats hidden
sites as any other. They only change which sites a datum has.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt8

from ebm_jax.checks import check_struct
from ebm_jax.graphs import AnyGraph
from ebm_jax.graphs.blocks import Block, BlockSpec, default_spec

Sites = Bool[Array, "*sites"] | UInt8[Array, "*sites"]
Visible = Bool[Array, "*visible"] | UInt8[Array, "*visible"]


class GraphModel:
    """The base of Ising and Potts models, frozen dataclasses with fields `graph` and `hidden`.

    Attributes:
      graph: Which sites interact.
      hidden: The sites that no data show, or None.
      site_dtype: Dtype of a configuration.
    """

    graph: AnyGraph
    hidden: Block | None

    site_dtype: Any

    def default_spec(self) -> BlockSpec:
        """Returns the graph's own blocks."""
        return default_spec(self.graph)

    def position_struct(self) -> Any:
        """Returns the shape and dtype of a configuration."""
        return jax.ShapeDtypeStruct(self.graph.shape, self.site_dtype)

    def levels(self, x: Sites) -> Int[Array, " n_sites"]:
        """Returns the configuration as int32 levels in the order of the graph's sites; False is 0 and True is 1."""
        return x.reshape(-1).astype(jnp.int32)

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

    def params_struct(self) -> Any:
        """Returns the shapes of the parameters, float32."""
        raise NotImplementedError

    def field_struct(self) -> Any:
        """Returns the shape of what a chain may add to the biases: that of the biases."""
        return self.params_struct().bias

    def add_field(self, params: Any, field: Any) -> Any:
        """Returns the parameters with a field added to the biases."""
        return params._replace(bias=params.bias + field.astype(params.bias.dtype))

    def visible(self, x: Sites) -> Visible:
        """Returns the visible part of a configuration.

        Args:
          x: A configuration.

        Returns:
          The values at `visible_sites`, `(n_visible,)`; `x` itself if nothing is hidden.

        Raises:
          ValueError: If shape or dtype do not fit.
        """
        check_struct("x", x, self.position_struct())
        return x if self.hidden is None else x.reshape(-1)[self.visible_sites]

    def complete(self, v: Visible) -> Sites:
        """Returns the configuration with a given visible part and hidden sites at False or 0.

        Args:
          v: The visible part, as `visible` returns it.

        Returns:
          A configuration.

        Raises:
          ValueError: If shape or dtype do not fit.
        """
        struct = self.position_struct()
        if self.hidden is None:
            check_struct("v", v, struct)
            return v
        check_struct("v", v, jax.ShapeDtypeStruct(self.visible_sites.shape, struct.dtype))
        x = jnp.zeros(self.graph.n_sites, struct.dtype).at[self.visible_sites].set(v)
        return x.reshape(self.graph.shape)

    def clamp(self, v: Visible) -> tuple[Bool[Array, "*sites"], Sites]:
        """Returns what holds the visible sites at `v`, for `clamped` of `sample` and `kernel.init`.

        `jax.vmap(model.clamp)(data)` gives every chain a datum of its own.

        Args:
          v: The visible part, as `visible` returns it.

        Returns:
          `(mask, values)`, both shaped like a configuration.

        Raises:
          ValueError: If shape or dtype do not fit.
        """
        return jnp.asarray(self.visible_mask), self.complete(v)


def check_hidden(graph: AnyGraph, hidden: Any) -> Block | None:
    """Returns the hidden sites in ascending order, or None.

    Args:
      graph: The graph.
      hidden: A `Block`, or None.

    Returns:
      The block, sorted: models that hide the same sites are equal.

    Raises:
      ValueError: If it is no block, or its sites are not some, but not all, of the graph's sites.
    """
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
    return Block(np.sort(hidden.sites))
