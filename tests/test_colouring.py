"""Colouring in waves gives what the plain loop gives, however much of it is done one site at a time."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ebm_jax.graphs import Graph, Grid, colouring
from ebm_jax.graphs.blocks import BlockSpec, colour
from tests import oracles
from tests.test_graphs import edge_lists

ODD_CYCLE = (7, [(i, (i + 1) % 7) for i in range(7)])
FOREST = (12, [(11, 0), (0, 3), (4, 8), (8, 2), (8, 9), (5, 1)])


@pytest.fixture(params=[0, 2, 100], ids="patience {}".format)
def patience(request, monkeypatch):
    """After how many waves the rest is visited one by one."""
    monkeypatch.setattr(colouring, "_PATIENCE", request.param)


@pytest.mark.usefixtures("patience")
class TestWaves:
    @given(edge_lists(20))
    @example(ODD_CYCLE)
    @example(FOREST)
    def test_waves_give_the_colours_of_the_plain_loop(self, case):
        n, edges = case
        assert colouring.greedy_colours(Graph(n, edges)).tolist() == oracles.greedy_colours(n, edges)

    @given(edge_lists(20))
    @example(ODD_CYCLE)
    @example(FOREST)
    def test_two_colours_exactly_where_two_suffice(self, case):
        n, edges = case
        n_colours = len(colour(Graph(n, edges)))
        assert (n_colours <= 2) == oracles.is_bipartite(n, edges)
        assert n_colours >= 1 + bool(edges)

    def test_more_colours_than_bits_of_a_word(self):
        names = np.random.default_rng(0).permutation(140)
        complete = names[np.array(list(itertools.combinations(range(130), 2)))]
        assert len(colour(Graph(140, complete))) == 130


@given(st.lists(st.lists(st.integers(-1, 140), min_size=1, max_size=150), min_size=1, max_size=4))
def test_the_smallest_missing_colour(runs):
    firsts = np.cumsum([0, *map(len, runs)])[:-1]
    found = colouring._smallest_missing(np.concatenate(runs), firsts)
    assert found.tolist() == [min(set(range(150)) - set(run)) for run in runs]


def triangular(height, width):
    sites = np.arange(height * width).reshape(height, width)
    pairs = [(sites[:, :-1], sites[:, 1:]), (sites[:-1], sites[1:]), (sites[:-1, 1:], sites[1:, :-1])]
    return Graph(sites.size, np.concatenate([np.stack([a.ravel(), b.ravel()], 1) for a, b in pairs]))


@pytest.mark.parametrize(
    ("graph", "n_blocks"),
    [
        (Graph(900, Grid(30, 30, neighbourhood=8).edges), 4),
        (triangular(30, 30), 4),
        (Graph(900, Grid(30, 30).edges), 2),
        (Graph(899, Grid(29, 31, "periodic").edges), 4),
    ],
    ids=["8 neighbours", "triangular", "4 neighbours", "odd torus"],
)
def test_lattices_get_few_blocks(graph, n_blocks):
    assert len(colour(graph)) <= n_blocks


@pytest.mark.parametrize("shape", ["cycles", "path"])
def test_a_million_edges(shape):
    n = 1_000_000 if shape == "cycles" else 1_000_001
    site = np.arange(n)
    if shape == "path":
        edges = np.stack([site[:-1], site[1:]], 1)
    else:  # eight thousand cycles of 125 sites
        edges = np.stack([site, np.where(site % 125 == 124, site - 124, site + 1)], 1)
    graph = Graph(n, edges)
    spec = BlockSpec(colour(graph))
    spec.check(graph)
    assert len(spec.free) == (2 if shape == "path" else 3)
