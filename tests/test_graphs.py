"""Graphs: which sites are joined, in what order, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_jax.graphs import Bipartite, Graph, Grid, local_grid, neighbours
from ebm_jax.graphs.blocks import colour
from tests import oracles

GRIDS = [
    (height, width, boundary, neighbourhood)
    for height, width in [(1, 1), (1, 5), (2, 2), (3, 3), (3, 4), (5, 3), (4, 6)]
    for boundary in ("free", "periodic")
    for neighbourhood in (4, 8)
    if boundary == "free" or min(height, width) >= 3
]


@st.composite
def edge_lists(draw, max_sites=12):
    """A number of sites and distinct edges in any order and direction."""
    n = draw(st.integers(1, max_sites))
    pairs = [(i, j) for i in range(n) for j in range(i)]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    turned = draw(st.lists(st.booleans(), min_size=len(chosen), max_size=len(chosen)))
    return n, [(j, i) if turn else (i, j) for (i, j), turn in zip(chosen, turned, strict=True)]


@pytest.mark.parametrize(("height", "width", "boundary", "neighbourhood"), GRIDS)
def test_grid_edges_are_those_of_the_naive_loops_in_the_same_order(height, width, boundary, neighbourhood):
    grid = Grid(height, width, boundary, neighbourhood)
    edges, _ = oracles.grid_edges(height, width, boundary == "periodic", neighbourhood)
    assert grid.edges.tolist() == [list(edge) for edge in edges]
    assert grid.edges.dtype == np.int32
    assert grid.edges.shape == (grid.n_edges, 2)
    assert len({frozenset(edge) for edge in edges}) == grid.n_edges
    assert grid.shape == (height, width)
    assert grid.n_sites == height * width


def test_a_28_by_28_free_grid_has_1512_edges():
    assert Grid(28, 28).n_edges == len(Grid(28, 28).edges) == 1512


def test_bipartite_edges_run_through_the_right_layer_fastest():
    graph = Bipartite(3, 4)
    assert [tuple(edge) for edge in graph.edges.tolist()] == oracles.bipartite_edges(3, 4)
    assert (graph.n_sites, graph.n_edges, graph.shape) == (7, 12, (7,))


@given(edge_lists())
def test_a_graph_keeps_the_callers_edges(case):
    n, edges = case
    graph = Graph(n, edges)
    assert [tuple(edge) for edge in graph.edges.tolist()] == edges
    assert graph.edges.shape == (graph.n_edges, 2)
    assert (graph.n_sites, graph.shape) == (n, (n,))


@pytest.mark.parametrize(
    ("pairs", "nodes", "labels"),
    [
        ([(30, 5), (12, 5)], (), (5, 12, 30)),
        ((("b", "a"), ("c", "b")), (), ("b", "a", "c")),
        (iter([((0, 1), "x"), ("x", 4)]), ("x", "y"), ("x", "y", (0, 1), 4)),
        (np.array([[2, 0], [9, 2]]), (), (0, 2, 9)),
        ({frozenset({"p"}): 0, frozenset({"q"}): 1}.items(), (), (frozenset({"p"}), 0, frozenset({"q"}), 1)),
        ([], range(3), (0, 1, 2)),
    ],
)
def test_edges_of_any_labels(pairs, nodes, labels):
    listed = list(pairs)
    graph, found = Graph.from_edges(iter(listed), nodes=nodes)
    assert found == labels
    assert [(found[i], found[j]) for i, j in graph.edges.tolist()] == [tuple(pair) for pair in listed]
    assert graph.n_sites == len(labels)


@pytest.mark.parametrize(
    ("pairs", "nodes", "message"),
    [
        ([(0, 1, 2.5)], (), r"edge 0 is \(0, 1, 2.5\); give a pair of hashable labels"),
        (["ab"], (), "edge 0 is 'ab'"),
        ([7], (), "edge 0 is 7"),
        ([([0], 1)], (), r"edge 0 is \(\[0\], 1\)"),
        ([("a", "b"), ("c", "c")], (), r"edge 1, \('c', 'c'\), joins a site to itself"),
        ([("a", "b"), ("b", "a")], (), r"edge 1, \('b', 'a'\), is listed twice"),
        ([], ("a", "a"), "nodes list 'a' twice"),
        ([], (), "give at least one site"),
    ],
)
def test_what_are_no_edges_of_labels(pairs, nodes, message):
    with pytest.raises(ValueError, match=message):
        Graph.from_edges(pairs, nodes=nodes)


@given(edge_lists())
def test_neighbour_rows_hold_every_edge_from_both_ends(case):
    n, edges = case
    rows = neighbours(Graph(n, edges))
    for site in range(n):
        part = slice(rows.starts[site], rows.starts[site + 1])
        expected = [
            (b if site == a else a, number, site == a)
            for number, (a, b) in enumerate(edges)
            if site in (a, b)
        ]
        got = zip(
            rows.sites[part].tolist(), rows.edges[part].tolist(), rows.forward[part].tolist(), strict=True
        )
        assert list(got) == expected


@given(edge_lists(), st.randoms(use_true_random=False))
def test_graphs_compare_by_value(case, random):
    n, edges = case
    graph, same = Graph(n, edges), Graph(n, np.asarray(edges, np.int64).reshape(-1, 2))
    assert graph == same
    assert hash(graph) == hash(same)
    assert graph != Graph(n + 1, edges)
    other = edges[:]
    random.shuffle(other)
    assert (Graph(n, other) == graph) == (other == edges)


def test_edges_cannot_be_changed_behind_the_digest():
    for graph in (Grid(3, 3), Graph(3, [(0, 1), (1, 2)]), Bipartite(2, 2)):
        with pytest.raises(ValueError, match="read-only"):
            graph.edges[0, 0] = 2
    mine = np.array([[0, 1], [1, 2]])
    graph = Graph(3, mine)
    mine[0, 0] = 2
    assert graph.edges.tolist() == [[0, 1], [1, 2]]


def test_kinds_of_graph_are_not_equal():
    grid = Grid(2, 3)
    assert grid != Graph(6, grid.edges)
    assert grid != Grid(3, 2)
    assert Grid(3, 3) != Grid(3, 3, "periodic")
    assert Grid(3, 3) != Grid(3, 3, neighbourhood=8)
    assert Bipartite(2, 3) != Bipartite(3, 2)


# ---- local grids ----

OFFSETS = st.lists(
    st.tuples(st.integers(-3, 3), st.integers(-3, 3)).filter(lambda step: step != (0, 0)), min_size=1
)


@given(st.integers(4, 9), st.integers(4, 9), OFFSETS, st.sampled_from(["free", "periodic"]), st.booleans())
def test_a_local_grid_joins_what_the_naive_loops_join(height, width, offsets, boundary, rotations):
    pairs, joined_twice = oracles.local_edges(height, width, offsets, boundary == "periodic", rotations)
    if joined_twice:
        with pytest.raises(ValueError, match=r"joins the same sites as|joins sites to themselves"):
            local_grid(height, width, offsets, boundary, rotations=rotations)
        return
    graph = local_grid(height, width, offsets, boundary, rotations=rotations)
    assert graph.n_sites == height * width
    assert {frozenset(edge) for edge in graph.edges.tolist()} == pairs
    assert graph.n_edges == len(pairs)


def test_local_grids_of_few_offsets_are_grids():
    for boundary, neighbourhood in [("free", 4), ("periodic", 4), ("free", 8), ("periodic", 8)]:
        grid = Grid(4, 6, boundary, neighbourhood)
        local = local_grid(4, 6, [*grid.directions, (0, -1)], boundary)
        assert local == Graph(24, grid.edges)


@pytest.mark.parametrize("boundary", ["free", "periodic"])
def test_offsets_between_the_colours_of_a_checkerboard_need_two_blocks(boundary):
    graph = local_grid(30, 40, [(0, 1), (4, 1), (9, 10)], boundary, rotations=True)
    assert np.bincount(graph.edges.ravel()).max() == 12
    row, column = np.divmod(np.arange(1200), 40)
    blocks = colour(graph)
    assert len(blocks) == 2
    assert set(blocks[0]) == set(np.flatnonzero((row + column) % 2 == 0).tolist())


def test_an_edge_of_a_local_grid_may_be_all_there_is():
    assert local_grid(3, 1, [(2, 0)]).edges.tolist() == [[0, 2]]


@pytest.mark.parametrize(
    "make",
    [lambda: Grid(5, 4, "periodic"), lambda: Graph(3, [(0, 1), (2, 1)]), lambda: Bipartite(3, 2)],
    ids=["grid", "graph", "bipartite"],
)
def test_equal_graphs_share_one_trace(make, count_traces):
    fn, traces = count_traces(lambda graph, x: x * graph.n_edges)
    jitted = jax.jit(fn, static_argnums=0)
    results = {float(jitted(make(), jnp.float32(i))) / max(i, 1) for i in range(1, 4)}
    assert results == {make().n_edges}
    assert len(traces) == 1
    jitted(Graph(2, [(0, 1)]), jnp.float32(0))
    assert len(traces) == 2


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Graph(0, []), "n_sites is 0; give a whole number of at least 1"),
        (lambda: Graph(2.0, []), "n_sites is 2.0"),
        (lambda: Graph(True, []), "n_sites is True"),
        (lambda: Graph(3, [(0, 1), (1, 1)]), "edge 1 joins site 1 to itself"),
        (lambda: Graph(3, [(0, 1), (1, 2), (0, 1)]), r"edge 2, \(0, 1\), is listed twice"),
        (lambda: Graph(3, [(0, 1), (1, 2), (1, 0)]), r"edge 2, \(1, 0\), is listed twice"),
        (lambda: Graph(3, [(0, 3)]), r"edge \(0, 3\) names a site outside 0 … 2"),
        (lambda: Graph(3, [(-1, 0)]), r"edge \(-1, 0\) names a site outside"),
        (lambda: Graph(3, [(0.0, 1.0)]), "dtype float64"),
        (lambda: Graph(3, [0, 1]), r"shape \(2,\)"),
        (lambda: Graph(3, [(0, 1, 2)]), r"shape \(1, 3\)"),
        (lambda: Grid(0, 3), "height is 0"),
        (lambda: Grid(3, -1), "width is -1"),
        (lambda: Grid(3, 2.5), "width is 2.5"),
        (lambda: Grid(2, 5, "periodic"), "2×5 joins two sites twice; make both sides at least 3"),
        (lambda: Grid(5, 1, "periodic"), "5×1 joins"),
        (lambda: Grid(3, 3, "torus"), "boundary is 'torus'; choose one of 'free', 'periodic'"),
        (lambda: Grid(3, 3, neighbourhood=6), "neighbourhood is 6; choose one of 4, 8"),
        (lambda: local_grid(0, 3, [(0, 1)]), "height is 0"),
        (lambda: local_grid(4, 4, [(0, 1)], "torus"), "boundary is 'torus'"),
        (lambda: local_grid(4, 4, []), r"offsets has shape \(0,\)"),
        (lambda: local_grid(4, 4, (0, 1)), r"offsets has shape \(2,\)"),
        (lambda: local_grid(4, 4, [(0.0, 1.0)]), "float64; give pairs of rows and columns"),
        (lambda: local_grid(4, 4, [(0, 1), (0, 0)]), r"offset \(0, 0\) joins sites to themselves; drop it"),
        (lambda: local_grid(4, 9, [(1, 4)], rotations=True), r"offset \(-4, 1\) is longer than .* 4×9"),
        (lambda: local_grid(4, 4, [(4, 0)], "periodic"), r"offset \(4, 0\) joins sites to themselves on a"),
        (lambda: local_grid(4, 6, [(0, 3)], "periodic"), r"\(0, 3\) joins the same sites as its opposite"),
        (lambda: local_grid(4, 6, [(1, 2), (-3, 2)], "periodic"), r"\(-3, 2\) joins the same .* as \(1, 2\)"),
        (lambda: Bipartite(0, 3), "n_left is 0"),
        (lambda: Bipartite(3, 0), "n_right is 0"),
    ],
)
def test_bad_graphs_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_isolated_sites_are_welcome():
    assert Graph(4, []).edges.shape == (0, 2)
    assert Grid(1, 1).n_edges == len(Grid(1, 1, neighbourhood=8).edges) == 0
