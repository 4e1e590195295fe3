"""Which THRML node is which site, and states in both forms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import thrml
from thrml import models

from ebm_jax.graphs import AnyGraph
from ebm_jax.graphs.blocks import Block, BlockSpec, default_spec
from ebm_jax.interop.thrml.terms import Term, factors_of, levels_of_nodes, read_terms

# The node of every site: an array shaped like a configuration, or of a factor graph a dict of arrays by name.
Nodes = np.ndarray | dict[str, np.ndarray]


def site_nodes(
    source: Any, free_blocks: Sequence[Any] | None = None, clamped_blocks: Sequence[Any] = ()
) -> Nodes:
    """Returns the node of every site that `from_thrml` makes of the same arguments.

    Nodes are numbered as they first appear: in `ebm.nodes` and then the edges of an `IsingEBM`; in the groups of one
    factor after the other; in a program's free blocks and then its clamped ones. Nodes that only the given blocks hold
    come last.

    Args:
      source: As for `from_thrml`.
      free_blocks: As for `from_thrml`.
      clamped_blocks: As for `from_thrml`.

    Returns:
      An object array `(n_sites,)` where `from_thrml` returns an `Ising` or `Potts` model. Where it returns a
      `FactorGraph`, a dict of such arrays by the name of the nodes: "spin", and "category", or "category_3" and so on
      where nodes differ in their number of categories.

    Raises:
      ValueError: If a node is both spin and category, or its number of categories is not one or not known.
    """
    nodes, terms = ordered_nodes(source, free_blocks, clamped_blocks), read_terms(source, 1.0)
    return arrange(nodes, terms, levels_of_nodes(terms, nodes))


def ordered_nodes(source: Any, free_blocks: Sequence[Any] | None, clamped_blocks: Sequence[Any]) -> list[Any]:
    """Returns all nodes in the order in which they first appear."""
    parts: list[Iterable[Any]]
    if isinstance(source, models.IsingEBM):
        parts = [source.nodes, *source.edges]
    elif isinstance(source, thrml.BlockSamplingProgram):
        parts = [*source.gibbs_spec.free_blocks, *source.gibbs_spec.clamped_blocks]
    else:
        parts = [nodes for factor in factors_of(source) for nodes in factor.node_groups]
    parts += [*flat_blocks(free_blocks or ()), *clamped_blocks]
    return list(dict.fromkeys(node for part in parts for node in part))


def arrange(nodes: Sequence[Any], terms: Sequence[Term], levels: Mapping[Any, int | None]) -> Nodes:
    """Returns nodes as an array if terms join pairs of one kind at most, else by name."""
    counts = sorted({levels[node] or 0 for node in nodes})
    if len(counts) == 1 and all(len(term.groups) <= 2 for term in terms):
        return as_array(nodes)
    # Spins have no categories, and come first.
    named = {count: f"category_{count}" if sum(map(bool, counts)) > 1 else "category" for count in counts}
    named |= {0: "spin"} if 0 in counts else {}
    return {
        name: as_array([node for node in nodes if (levels[node] or 0) == count])
        for count, name in named.items()
    }


def to_thrml_state(nodes: Any, blocks: Sequence[Any], x: Any) -> list[jax.Array]:
    """Converts positions to THRML's block state.

    Args:
      nodes: The node of every site, a list, an array or a dict of them by name (`site_nodes`, `ThrmlModel.nodes`).
      blocks: THRML blocks, or tuples of them.
      x: Positions `(..., *nodes.shape)`; for a dict of nodes, a dict of positions by name.

    Returns:
      An array `(..., len(block))` for each block, of the dtype of `x`.

    Raises:
      ValueError: If `x` does not end in the shape of `nodes`, or a block holds a node that is no site.
    """
    named, positions = _by_name(nodes), x if isinstance(nodes, Mapping) else {"": x}
    if not isinstance(positions, Mapping) or set(positions) != set(named):
        raise ValueError(f"x is no dict of positions by name; give one array for each of {', '.join(named)}")
    flat, place = {}, {}
    for name, each in named.items():
        leaf = jnp.asarray(positions[name])
        lead = leaf.shape[: max(leaf.ndim - each.ndim, 0)]
        if leaf.shape != (*lead, *each.shape):
            what = f"x[{name!r}]" if name else "x"
            raise ValueError(
                f"{what} has shape {leaf.shape}; expected (..., {', '.join(map(str, each.shape))})"
            )
        flat[name] = leaf.reshape(*lead, each.size)
        place |= dict.fromkeys(each.ravel().tolist(), name)
    states = []
    for block in flat_blocks(blocks):
        names = list(dict.fromkeys(place[node] for node in block if node in place))
        index = site_index({name: named[name] for name in names})
        sites = sites_of(block, index)
        states.append(jnp.concatenate([flat[name] for name in names], axis=-1)[..., sites])
    return states


def from_thrml_state(nodes: Any, blocks: Sequence[Any], states: Sequence[Any]) -> Any:
    """Converts THRML's block state to positions: the inverse of `to_thrml_state`.

    Args:
      nodes: The node of every site, a list, an array or a dict of them by name (`site_nodes`, `ThrmlModel.nodes`).
      blocks: THRML blocks, or tuples of them.
      states: An array for each block, or samples as `thrml.sample_states` returns them.

    Returns:
      Positions `(..., *nodes.shape)`; for a dict of nodes, a dict of them by name. Spins are bool; categories become
      uint8.

    Raises:
      ValueError: Unless the blocks hold every node once and each state fits its block.
    """
    named, blocks = _by_name(nodes), flat_blocks(blocks)
    sizes, given = [len(block) for block in blocks], [jnp.shape(state)[-1:] for state in states]
    if [(size,) for size in sizes] != given:
        raise ValueError(
            f"blocks of {sizes} nodes came with states that end in {given}; give one array a block"
        )
    index = site_index(named)
    sites = np.concatenate([sites_of(block, index) for block in blocks])
    if not np.array_equal(np.sort(sites), np.arange(len(index))):
        raise ValueError(
            f"the blocks hold {np.unique(sites).size} of {len(index)} nodes, {sites.size} in all; "
            "name every node once, those of clamped blocks too"
        )
    states = [jnp.asarray(state) for state in states]
    joined = jnp.concatenate([state.astype(jnp.uint8) for state in states], axis=-1)[..., np.argsort(sites)]
    is_spin = np.repeat([state.dtype == jnp.bool_ for state in states], sizes)[np.argsort(sites)]
    x, first = {}, 0
    for name, each in named.items():
        span = slice(first, first + each.size)
        leaf = joined[..., span].astype(jnp.bool_ if is_spin[span].all() else jnp.uint8)
        x[name] = leaf.reshape(*joined.shape[:-1], *each.shape)
        first += each.size
    return x if isinstance(nodes, Mapping) else x[""]


def block_spec(
    free_blocks: Sequence[Any] | None, clamped_blocks: Sequence[Any], index: dict[Any, int], graph: AnyGraph
) -> BlockSpec:
    """Returns the blocks as site numbers, checked against the graph."""
    clamped = [Block(sites_of(block, index)) for block in clamped_blocks]
    if free_blocks is None:
        held = BlockSpec([], clamped).clamped_sites
        groups = [sites[~np.isin(sites, held)] for sites in default_spec(graph).groups]
        spec = BlockSpec([Block(sites) for sites in groups if sites.size], clamped)
    else:
        groups = [[Block(sites_of(block, index)) for block in as_group(group)] for group in free_blocks]
        spec = BlockSpec(groups, clamped)
    spec.check(graph)
    return spec


def clamped_in(program: Any, index: dict[Any, int]) -> np.ndarray:
    """Returns whether a program clamps each site."""
    fixed = np.zeros(len(index), bool)
    for block in program.gibbs_spec.clamped_blocks:
        fixed[sites_of(block, index)] = True
    return fixed


def check_drawn(fixed: np.ndarray, spec: BlockSpec) -> None:
    """Raises ValueError if blocks free a site that the program clamps."""
    wrong = np.flatnonzero(fixed & ~np.isin(np.arange(fixed.size), spec.clamped_sites))
    if wrong.size:
        raise ValueError(
            f"site {int(wrong[0])} is clamped in the program, which does not hold its bias; convert the energy model "
            "instead"
        )


def as_array(nodes: Any) -> np.ndarray:
    """Returns nodes as an object array; an array keeps its shape."""
    if isinstance(nodes, np.ndarray):
        return nodes
    array = np.empty(len(nodes), object)
    array[:] = nodes
    return array


def site_index(nodes: Nodes) -> dict[Any, int]:
    """Returns the site of every node; sites count through the nodes name after name."""
    parts = nodes.values() if isinstance(nodes, Mapping) else [nodes]
    return {node: site for site, node in enumerate(node for part in parts for node in part.ravel().tolist())}


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


def _by_name(nodes: Any) -> dict[str, np.ndarray]:
    named = nodes if isinstance(nodes, Mapping) else {"": nodes}
    return {name: as_array(each) for name, each in named.items()}
