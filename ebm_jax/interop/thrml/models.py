"""THRML's energy models and sampling programs as Ising and Potts models, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import thrml
from thrml import models

from ebm_jax.checks import FLOATS, check_finite, check_struct
from ebm_jax.energies.ising import Ising, IsingParams
from ebm_jax.energies.potts import Potts, PottsParams
from ebm_jax.graphs import AnyGraph, Graph, Grid
from ebm_jax.graphs.blocks import Block, BlockSpec, default_spec
from ebm_jax.interop.thrml.sites import as_array, as_group, site_index, site_nodes, sites_of
from ebm_jax.interop.thrml.terms import count_levels, read_terms


class ThrmlModel(NamedTuple):
    """What `to_thrml` returns, ready for `thrml.sample_states`.

    Attributes:
      ebm: An `IsingEBM`, or a `FactorizedEBM` of categorical factors.
      program: Its sampling program.
      free_blocks: Blocks as `BlockGibbsSpec` takes them; a superblock of several blocks is a tuple.
      clamped_blocks: A list of blocks.
      nodes: Object array of THRML nodes, shaped like a configuration. `thrml.Block(nodes.ravel())` holds them by site.
    """

    ebm: Any
    program: Any
    free_blocks: list[Any]
    clamped_blocks: list[Any]
    nodes: np.ndarray


def from_thrml(
    source: Any,
    free_blocks: Sequence[Any] | None = None,
    clamped_blocks: Sequence[Any] = (),
    *,
    beta: Any = 1.0,
    graph: AnyGraph | None = None,
    nodes: Any = None,
) -> tuple[Ising | Potts, IsingParams | PottsParams, BlockSpec]:
    """Converts a THRML model of spins or of categories, with E_thrml(x) = β · E(params, x).

    Spins become an `Ising` model with a coupling for each edge, categories a `Potts` model with a K×K table for each
    edge. Factors on the same nodes add up, whichever node comes first in each. The model does not depend on the
    weights, so new weights do not compile anew.

    Args:
      source: An `IsingEBM`, a `FactorizedEBM`, a list of its factors, or a sampling program. A program holds only what
        its updates need: biases of its clamped nodes and couplings among them are missing and become 0, which changes
        the energy by a constant. Weights must be numbers, not traced.
      free_blocks: THRML `Block`s, or tuples of them that are drawn at the same moment. By default a program's own
        blocks, else a colouring of the sites that are not clamped.
      clamped_blocks: THRML `Block`s.
      beta: A positive number; 1 gives THRML's energy itself.
      graph: A graph with these edges, such as a `Grid` whose sites are the nodes row by row, so that its faster update
        runs. By default a `Graph` of the edges in the order of the factors.
      nodes: The node of every site; by default `site_nodes` of the same arguments.

    Returns:
      `(model, params, spec)`.

    Raises:
      ValueError: If a factor joins three or more nodes, spins stand beside categories, nodes differ in their number of
        categories, a node is coupled to itself, `graph` lacks an edge, the interactions of a program come from no
        energy, or blocks miss a node, hold one twice, or hold two that are coupled (THRML then samples another law).
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
    terms = read_terms(source, float(beta))
    n_levels = count_levels(terms)
    found = site_nodes(source, free_blocks, clamped_blocks)
    nodes = found if nodes is None else as_array(nodes)
    if set(nodes.ravel()) != set(found) or nodes.size != found.size:
        raise ValueError(
            f"nodes holds {nodes.size} nodes, not the {found.size} of the model; name each of them once"
        )
    index = site_index(nodes)
    ends = [np.stack([sites_of(t.first, index), sites_of(t.second, index)], 1) for t in terms if t.second]
    graph, edge, backward = _edges(np.concatenate([np.zeros((0, 2), np.int32), *ends]), nodes.size, graph)
    spec = _spec(free_blocks, clamped_blocks, index, graph)
    levels = () if n_levels is None else (n_levels,)
    bias = np.zeros((nodes.size, *levels))
    for term in terms:
        if term.second is None:
            np.add.at(bias, sites_of(term.first, index), term.weights)
    weights = np.concatenate([np.zeros((0, *levels, *levels)), *(t.weights for t in terms if t.second)])
    forth, back = np.zeros((2, graph.n_edges, *levels, *levels))
    np.add.at(forth, edge[~backward], weights[~backward])
    transposed = weights.swapaxes(1, 2) if levels else weights
    np.add.at(back, edge[backward], transposed[backward])
    if program is not None:
        _check_program(program, spec, index, graph, forth, back)
    dtype = jnp.result_type(jnp.float32, *(term.dtype for term in terms))
    bias = jnp.asarray(bias.reshape(*graph.shape, *levels), dtype)
    coupling = jnp.asarray(forth + back, dtype)
    if n_levels is None:
        return Ising(graph, "edge"), IsingParams(bias, coupling), spec
    return Potts(graph, n_levels, "matrix"), PottsParams(bias, coupling), spec


def to_thrml(model: Ising | Potts, params: Any, spec: BlockSpec | None = None, beta: Any = 1.0) -> ThrmlModel:
    """Converts an Ising or Potts model on any graph, with E_thrml(x) = β · E(params, x).

    Tied couplings are spread over the edges. An Ising model becomes an `IsingEBM` of `SpinNode`s with this `beta`, a
    Potts model a `FactorizedEBM` of `CategoricalNode`s whose weights are multiplied by `beta`. To sample there, and
    read the samples as positions:

        there = to_thrml(model, params)
        state = to_thrml_state(there.nodes, there.free_blocks, x)
        everything = [thrml.Block(there.nodes.ravel())]
        schedule = thrml.SamplingSchedule(n_warmup=100, n_samples=10, steps_per_sample=5)
        samples = thrml.sample_states(key, there.program, schedule, state, [], everything)
        positions = from_thrml_state(there.nodes, everything, samples)

    Args:
      model: An Ising or Potts model.
      params: Its parameters.
      spec: The blocks; by default `model.default_spec()`.
      beta: Inverse temperature.

    Returns:
      A `ThrmlModel`.

    Raises:
      ValueError: If the model is another, parameters do not fit it, or blocks do not fit its graph.
    """
    if not isinstance(model, (Ising, Potts)):
        raise ValueError(f"to_thrml converts Ising and Potts models, got {model!r}; write it as one of them")
    check_struct("params", params, model.params_struct(), dtypes=FLOATS)
    check_finite("beta", beta)
    spec = model.default_spec() if spec is None else spec
    spec.check(model.graph)
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


def _spec(
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


def _check_program(
    program: Any, spec: BlockSpec, index: dict[Any, int], graph: AnyGraph, forth: np.ndarray, back: np.ndarray
) -> None:
    """Raises unless sites to be drawn are free in the program, and free pairs are coupled alike in both directions."""
    fixed = np.zeros(len(index), bool)
    for block in program.gibbs_spec.clamped_blocks:
        fixed[sites_of(block, index)] = True
    drawn = ~np.isin(np.arange(len(index)), spec.clamped_sites)
    if (drawn & fixed).any():
        site = int(np.flatnonzero(drawn & fixed)[0])
        raise ValueError(
            f"site {site} is clamped in the program, which does not hold its bias; convert the energy model instead"
        )
    both = ~fixed[graph.edges].any(axis=1)
    if not np.allclose(forth[both], back[both], rtol=1e-5, atol=1e-6):
        raise ValueError(
            "the program's interactions are not the same both ways, so it samples from no energy; build it from factors"
        )


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
