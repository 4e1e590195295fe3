"""Which THRML node is which site, and states in both forms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import thrml
from thrml import models

from ebm_jax.interop.thrml.terms import factors_of


def site_nodes(
    source: Any, free_blocks: Sequence[Any] | None = None, clamped_blocks: Sequence[Any] = ()
) -> np.ndarray:
    """Returns the node of every site that `from_thrml` makes of the same arguments: an object array, `(n_sites,)`.

    Nodes are numbered as they first appear: in `ebm.nodes` and then the edges of an `IsingEBM`; in the groups of one
    factor after the other; in a program's free blocks and then its clamped ones. Nodes that only the given blocks hold
    come last.

    Args:
      source: As for `from_thrml`.
      free_blocks: As for `from_thrml`.
      clamped_blocks: As for `from_thrml`.

    Returns:
      The nodes by site.

    Raises:
      ValueError: If nodes are of several types.
    """
    parts: list[Iterable[Any]]
    if isinstance(source, models.IsingEBM):
        parts = [source.nodes, *source.edges]
    elif isinstance(source, thrml.BlockSamplingProgram):
        parts = [*source.gibbs_spec.free_blocks, *source.gibbs_spec.clamped_blocks]
    else:
        parts = [nodes for factor in factors_of(source) for nodes in factor.node_groups]
    parts += [*flat_blocks(free_blocks or ()), *clamped_blocks]
    nodes = list(dict.fromkeys(node for part in parts for node in part))
    kinds = sorted({type(node).__name__ for node in nodes})
    if len(kinds) != 1:
        raise ValueError(f"nodes are of the types {', '.join(kinds)}; a model here has sites of one kind")
    return as_array(nodes)


def to_thrml_state(nodes: Any, blocks: Sequence[Any], x: Any) -> list[jax.Array]:
    """Converts positions to THRML's block state.

    Args:
      nodes: The node of every site, a list or an array (`site_nodes`, `ThrmlModel.nodes`).
      blocks: THRML blocks, or tuples of them.
      x: Positions `(..., *nodes.shape)`.

    Returns:
      An array `(..., len(block))` for each block, of the dtype of `x`.

    Raises:
      ValueError: If `x` does not end in the shape of `nodes`, or a block holds a node that is no site.
    """
    nodes, x = as_array(nodes), jnp.asarray(x)
    lead = x.shape[: max(x.ndim - nodes.ndim, 0)]
    if x.shape != (*lead, *nodes.shape):
        raise ValueError(f"x has shape {x.shape}; expected (..., {', '.join(map(str, nodes.shape))})")
    index, flat = site_index(nodes), x.reshape(*lead, nodes.size)
    return [flat[..., sites_of(block, index)] for block in flat_blocks(blocks)]


def from_thrml_state(nodes: Any, blocks: Sequence[Any], states: Sequence[Any]) -> jax.Array:
    """Converts THRML's block state to positions: the inverse of `to_thrml_state`.

    Args:
      nodes: The node of every site, a list or an array (`site_nodes`, `ThrmlModel.nodes`).
      blocks: THRML blocks, or tuples of them.
      states: An array for each block, or samples as `thrml.sample_states` returns them.

    Returns:
      Positions `(..., *nodes.shape)`. Spins are bool; categories become uint8.

    Raises:
      ValueError: Unless the blocks hold every node once and each state fits its block.
    """
    nodes, blocks = as_array(nodes), flat_blocks(blocks)
    sizes, given = [len(block) for block in blocks], [jnp.shape(state)[-1:] for state in states]
    if [(size,) for size in sizes] != given:
        raise ValueError(
            f"blocks of {sizes} nodes came with states that end in {given}; give one array a block"
        )
    index = site_index(nodes)
    sites = np.concatenate([sites_of(block, index) for block in blocks])
    if not np.array_equal(np.sort(sites), np.arange(nodes.size)):
        raise ValueError(
            f"the blocks hold {np.unique(sites).size} of {nodes.size} nodes, {sites.size} in all; "
            "name every node once, those of clamped blocks too"
        )
    joined = jnp.concatenate([jnp.asarray(state) for state in states], axis=-1)
    joined = joined if joined.dtype == jnp.bool_ else joined.astype(jnp.uint8)
    return joined[..., np.argsort(sites)].reshape(*joined.shape[:-1], *nodes.shape)


def as_array(nodes: Any) -> np.ndarray:
    """Returns nodes as an object array; an array keeps its shape."""
    if isinstance(nodes, np.ndarray):
        return nodes
    array = np.empty(len(nodes), object)
    array[:] = nodes
    return array


def site_index(nodes: np.ndarray) -> dict[Any, int]:
    """Returns the site of every node."""
    return {node: site for site, node in enumerate(nodes.ravel().tolist())}


def sites_of(nodes: Any, index: dict[Any, int]) -> np.ndarray:
    """Returns the sites of some nodes, int32; raises ValueError on a node that is no site."""
    try:
        return np.array([index[node] for node in nodes], np.int32)
    except KeyError as error:
        raise ValueError(f"node {error.args[0]!r} is no site of this model") from None


def flat_blocks(blocks: Sequence[Any]) -> list[Any]:
    """Returns the blocks of a list of blocks and of superblocks, in order."""
    return [block for group in blocks for block in as_group(group)]


def as_group(group: Any) -> tuple[Any, ...]:
    """Returns a superblock as a tuple of THRML blocks; raises ValueError on anything else."""
    members = (group,) if isinstance(group, thrml.Block) else group
    if not isinstance(members, (tuple, list)) or not all(isinstance(b, thrml.Block) for b in members):
        raise ValueError(f"free_blocks holds {group!r}; give THRML Blocks, or tuples of them")
    return tuple(members)
