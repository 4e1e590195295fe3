"""Graphs say which sites interact; blocks say which sites are updated together."""

from ebm_jax.graphs import blocks
from ebm_jax.graphs.grids import Adjacency, AnyGraph, Bipartite, Graph, Grid, local_grid, neighbours

__all__ = ["Adjacency", "AnyGraph", "Bipartite", "Graph", "Grid", "blocks", "local_grid", "neighbours"]
