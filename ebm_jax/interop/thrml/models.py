"""THRML's energy models and sampling programs as Ising and Potts models and factor graphs, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import thrml
from thrml import models

from ebm_jax.checks import FLOATS, check_finite, check_struct
from ebm_jax.energies.factor_graph import FactorGraph
from ebm_jax.energies.ising import Ising, IsingParams
from ebm_jax.energies.potts import Potts, PottsParams
from ebm_jax.graphs import AnyGraph, Graph, Grid
from ebm_jax.graphs.blocks import Block, BlockSpec
from ebm_jax.interop.thrml.factors import factor_graph, thrml_factors
from ebm_jax.interop.thrml.sites import (
    Nodes,
    arrange,
    as_array,
    block_spec,
    check_drawn,
    clamped_in,
    ordered_nodes,
    site_index,
    sites_of,
)
from ebm_jax.interop.thrml.terms import Term, levels_of_nodes, read_terms


class ThrmlModel(NamedTuple):
    """What `to_thrml` returns, ready for `thrml.sample_states`.

    Attributes:
      ebm: An `IsingEBM` of an Ising model, else a `FactorizedEBM`.
      program: Its sampling program.
      free_blocks: Blocks as `BlockGibbsSpec` takes them; a superblock of several blocks is a tuple.
      clamped_blocks: A list of blocks.
      nodes: THRML nodes, shaped like a configuration: an object array, or of a factor graph a dict of them by name.
        `thrml.Block(nodes.ravel())` holds those of an array by site.
    """

    ebm: Any
    program: Any
    free_blocks: list[Any]
    clamped_blocks: list[Any]
    nodes: Nodes


def from_thrml(
    source: Any,
    free_blocks: Sequence[Any] | None = None,
    clamped_blocks: Sequence[Any] = (),
    *,
    beta: Any = 1.0,
    graph: AnyGraph | None = None,
    nodes: Any = None,
) -> tuple[Ising | Potts | FactorGraph, Any, BlockSpec]:
    """Converts a THRML model of spins and categories, with E_thrml(x) = β · E(params, x).

    Where factors join two nodes at most and all nodes are alike, spins become an `Ising` model with a coupling for each
    edge, and categories a `Potts` model with a K×K table for each edge. Factors on the same nodes add up, whichever
    node comes first in each.

    Anything else becomes a `FactorGraph`, with the nodes by name as `site_nodes` gives them. Each of THRML's factors
    becomes a factor, in the same order, and its weights become parameters as they are. Where its nodes have several
    names it becomes several factors. The interactions of a program are added up by nodes first.

    The model does not depend on the weights, so new weights do not compile anew.

    Args:
      source: An `IsingEBM`, a `FactorizedEBM`, a list of its factors, or a sampling program. A program holds only what
        its updates need: factors on its clamped nodes alone are missing and become 0, which changes the energy by a
        constant. Weights must be numbers, not traced.
      free_blocks: THRML `Block`s, or tuples of them that are drawn at the same moment. By default a program's own
        blocks, else a colouring of the sites that are not clamped.
      clamped_blocks: THRML `Block`s.
      beta: A positive number; 1 gives THRML's energy itself.
      graph: A graph with these edges, such as a `Grid` whose sites are the nodes row by row, so that its faster update
        runs. By default a `Graph` of the edges in the order of the factors. A `FactorGraph` takes none.
      nodes: The node of every site; by default `site_nodes` of the same arguments. A dict of nodes by names of your
        own, each of one kind, makes a `FactorGraph` of any model.

    Returns:
      `(model, params, spec)`.

    Raises:
      ValueError: If a factor is not one of THRML's own, a node is both spin and category or occurs twice in a term,
        `graph` lacks an edge, the interactions of a program come from no energy, or blocks miss a node, hold one twice,
        or hold two that are coupled (THRML then samples another law).
    """
    check_finite("beta", beta)
    if not float(beta) > 0:
        raise ValueError(f"beta is {beta}; THRML's energy is divided by it: give a positive number")
    program = source if isinstance(source, thrml.BlockSamplingProgram) else None
    if program is not None and free_blocks is None:
        if clamped_blocks:
            raise ValueError(
                "clamped_blocks came without free_blocks; give both, or none to keep the program's"
            )
        free_blocks, clamped_blocks = program.gibbs_spec.superblocks, program.gibbs_spec.clamped_blocks
    terms, found = read_terms(source, float(beta)), ordered_nodes(source, free_blocks, clamped_blocks)
    levels = levels_of_nodes(terms, found)
    by_default = arrange(found, terms, levels)
    nodes = by_default if nodes is None else nodes
    named = {name: as_array(each) for name, each in nodes.items()} if isinstance(nodes, Mapping) else None
    nodes = as_array(nodes) if named is None else np.concatenate([each.ravel() for each in named.values()])
    if set(nodes.ravel()) != set(found) or nodes.size != len(found):
        raise ValueError(
            f"nodes holds {nodes.size} nodes, not the {len(found)} of the model; name each of them once"
        )
    if named is not None:
        if graph is not None:
            raise ValueError(f"graph is {graph!r}, and a FactorGraph has its factors for it; leave it out")
        return factor_graph(terms, named, levels, program, free_blocks, clamped_blocks)
    if isinstance(by_default, dict):
        raise ValueError(
            f"nodes is a list, and this model has nodes by name ({', '.join(by_default)}); give a dict, as "
            "`site_nodes` returns"
        )
    return _pairwise(terms, nodes, levels[found[0]], graph, program, free_blocks, clamped_blocks)


def _pairwise(
    terms: Sequence[Term],
    nodes: np.ndarray,
    n_levels: int | None,
    graph: AnyGraph | None,
    program: Any,
    free_blocks: Sequence[Any] | None,
    clamped_blocks: Sequence[Any],
) -> tuple[Ising | Potts, IsingParams | PottsParams, BlockSpec]:
    """Returns the Ising model of spins, or the Potts model of categories, with `n_levels` each."""
    index = site_index(nodes)
    pairs = [term for term in terms if len(term.groups) == 2]
    ends = [np.stack([sites_of(group, index) for group in term.groups], 1) for term in pairs]
    graph, edge, backward = _edges(np.concatenate([np.zeros((0, 2), np.int32), *ends]), nodes.size, graph)
    spec = block_spec(free_blocks, clamped_blocks, index, graph)
    levels = () if n_levels is None else (n_levels,)
    bias = np.zeros((nodes.size, *levels))
    for term in terms:
        if len(term.groups) == 1:
            np.add.at(bias, sites_of(term.groups[0], index), term.weights)
    weights = np.concatenate([np.zeros((0, *levels, *levels)), *(term.weights for term in pairs)])
    forth, back = np.zeros((2, graph.n_edges, *levels, *levels))
    np.add.at(forth, edge[~backward], weights[~backward])
    transposed = weights.swapaxes(1, 2) if levels else weights
    np.add.at(back, edge[backward], transposed[backward])
    if program is not None:
        fixed = clamped_in(program, index)
        check_drawn(fixed, spec)
        both = ~fixed[graph.edges].any(axis=1)
        if not np.allclose(forth[both], back[both], rtol=1e-5, atol=1e-6):
            raise ValueError(
                "the program's interactions are not the same both ways, so it samples from no energy; build it from "
                "factors"
            )
    dtype = jnp.result_type(jnp.float32, *(term.dtype for term in terms))
    bias = jnp.asarray(bias.reshape(*graph.shape, *levels), dtype)
    coupling = jnp.asarray(forth + back, dtype)
    if n_levels is None:
        return Ising(graph, "edge"), IsingParams(bias, coupling), spec
    return Potts(graph, n_levels, "matrix"), PottsParams(bias, coupling), spec


def to_thrml(
    model: Ising | Potts | FactorGraph, params: Any, spec: BlockSpec | None = None, beta: Any = 1.0
) -> ThrmlModel:
    """Converts an Ising or Potts model on any graph, or a factor graph of spins and categories.

    The energies are E_thrml(x) = β · E(params, x). Tied couplings are spread over the edges. An Ising model becomes an
    `IsingEBM` of `SpinNode`s with this `beta`. A Potts model becomes a `FactorizedEBM` of `CategoricalNode`s, and a
    factor graph one of both, whose weights are multiplied by `beta`. THRML's blocks are of one kind, so a block of
    several names becomes a superblock of one block for each. To sample there, and read the samples as positions:

        there = to_thrml(model, params)
        state = to_thrml_state(there.nodes, there.free_blocks, x)
        everything = [thrml.Block(there.nodes.ravel())]
        schedule = thrml.SamplingSchedule(n_warmup=100, n_samples=10, steps_per_sample=5)
        samples = thrml.sample_states(key, there.program, schedule, state, [], everything)
        positions = from_thrml_state(there.nodes, everything, samples)

    Of a factor graph, `everything` is a block for each name: `[thrml.Block(nodes) for nodes in there.nodes.values()]`.

    Args:
      model: An Ising or Potts model, or a `FactorGraph` of `Spins` and `Categories`.
      params: Its parameters.
      spec: The blocks; by default `model.default_spec()`.
      beta: Inverse temperature.

    Returns:
      A `ThrmlModel`.

    Raises:
      ValueError: If the model is another or has nodes of another kind, parameters do not fit it, or blocks do not fit
        its graph.
    """
    if not isinstance(model, (Ising, Potts, FactorGraph)):
        raise ValueError(
            f"to_thrml converts Ising and Potts models and factor graphs, got {model!r}; write it as one of them"
        )
    check_struct("params", params, model.params_struct(), dtypes=FLOATS)
    check_finite("beta", beta)
    spec = model.default_spec() if spec is None else spec
    spec.check(model.graph)
    if isinstance(model, FactorGraph):
        return ThrmlModel(*thrml_factors(model, params, spec, beta))
    graph, spins = model.graph, isinstance(model, Ising)
    nodes: list[Any] = [thrml.SpinNode() if spins else thrml.CategoricalNode() for _ in range(graph.n_sites)]

    def thrml_blocks(blocks: Sequence[Block]) -> list[Any]:
        return [thrml.Block([nodes[site] for site in block]) for block in blocks]

    superblocks = [thrml_blocks(group) for group in spec.free]
    free = [group[0] if len(group) == 1 else tuple(group) for group in superblocks]
    clamped = thrml_blocks(spec.clamped)
    first, second = ([nodes[site] for site in column] for column in graph.edges.T.tolist())
    levels = () if spins else (model.n_levels,)
    # A tied bias is the same at every site.
    bias = jnp.broadcast_to(params.bias.reshape(-1, *levels), (graph.n_sites, *levels))
    coupling, beta = _per_edge(model, params.coupling), jnp.asarray(beta, bias.dtype)
    if spins and graph.n_edges:
        ebm: Any = models.IsingEBM(nodes, list(zip(first, second)), bias, coupling, beta)
        program: Any = models.IsingSamplingProgram(ebm, free, clamped)
    else:
        factor: Any = models.SpinEBMFactor if spins else models.SquareCategoricalEBMFactor
        factors = [factor([thrml.Block(nodes)], beta * bias)]
        if graph.n_edges:
            factors.append(factor([thrml.Block(first), thrml.Block(second)], beta * coupling))
        ebm = models.FactorizedEBM(factors)
        blocks = thrml.BlockGibbsSpec(free, clamped, ebm.node_shape_dtypes)
        draw: Any = (
            models.SpinGibbsConditional() if spins else models.CategoricalGibbsConditional(model.n_levels)
        )
        program = thrml.FactorSamplingProgram(blocks, [draw] * len(blocks.free_blocks), factors, [])
    return ThrmlModel(ebm, program, free, clamped, as_array(nodes).reshape(graph.shape))


def _edges(ends: np.ndarray, n_sites: int, graph: AnyGraph | None) -> tuple[AnyGraph, np.ndarray, np.ndarray]:
    """Returns the graph, the edge of every pair of sites, and whether the pair names that edge's second site first."""
    loops = np.flatnonzero(ends[:, 0] == ends[:, 1])
    if loops.size:
        raise ValueError(f"a factor couples site {int(ends[loops[0], 0])} to itself; write it as a bias")
    code = _code(ends, n_sites)
    if graph is None:
        _, where, inverse = np.unique(code, return_index=True, return_inverse=True)
        order = np.argsort(where, kind="stable")
        graph = Graph(n_sites, ends[where[order]])
        edge = np.argsort(order, kind="stable")[inverse]
    else:
        if graph.n_sites != n_sites:
            raise ValueError(
                f"graph has {graph.n_sites} sites, and there are {n_sites} nodes; give one that fits"
            )
        order = np.argsort(_code(graph.edges, n_sites), kind="stable")
        known = _code(graph.edges, n_sites)[order]
        where = np.searchsorted(known, code)
        found = np.append(known, -1)[where] == code
        if not found.all():
            pair = tuple(ends[np.flatnonzero(~found)[0]].tolist())
            raise ValueError(
                f"sites {pair} are coupled and no edge of {graph!r} joins them; give a graph that has it"
            )
        edge = order[where] if order.size else where
    return graph, edge, ends[:, 0] != graph.edges[edge, 0]


def _code(ends: np.ndarray, n_sites: int) -> np.ndarray:
    """Returns a number for every pair, the same in both orders."""
    return ends.min(axis=1).astype(np.int64) * n_sites + ends.max(axis=1)


def _per_edge(model: Ising | Potts, coupling: jax.Array) -> jax.Array:
    """Returns `(n_edges,)` couplings of spins, `(n_edges, K, K)` tables of categories."""
    graph = model.graph
    if model.coupling == "tied" and isinstance(graph, Grid):
        counts = [int(np.prod(graph.edge_shape(direction))) for direction in graph.directions]
        coupling = jnp.repeat(coupling, np.array(counts), total_repeat_length=graph.n_edges)
    coupling = jnp.broadcast_to(coupling, (graph.n_edges, *coupling.shape[1:]))
    if isinstance(model, Ising) or model.coupling == "matrix":
        return coupling
    return coupling[:, None, None] * jnp.eye(model.n_levels, dtype=coupling.dtype)
