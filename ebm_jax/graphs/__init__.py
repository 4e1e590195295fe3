"""Graphs say which sites interact; blocks say which sites are updated together."""

from ebm_jax.graphs import blocks
from ebm_jax.graphs.adjacency import Adjacency, AnyGraph, neighbours
from ebm_jax.graphs.edges import Bipartite, Graph
from ebm_jax.graphs.grids import Grid, local_grid

__all__ = ["Adjacency", "AnyGraph", "Bipartite", "Graph", "Grid", "blocks", "local_grid", "neighbours"]
