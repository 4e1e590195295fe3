"""Blocks: colourings are proper and small, and specifications that would break a Gibbs sweep are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebm_jax.graphs import Bipartite, Graph, Grid
from ebm_jax.graphs.blocks import Block, BlockSpec, SamplingSchedule, checkerboard, colour, default_spec
from tests.test_graphs import GRIDS, edge_lists


def colours_of(blocks, n_sites):
    """One colour a site; fails unless the blocks are a partition."""
    colours = np.full(n_sites, -1)
    for number, block in enumerate(blocks):
        assert (colours[block.sites] == -1).all()
        colours[block.sites] = number
    assert (colours >= 0).all()
    return colours


def is_proper(blocks, graph):
    colours = colours_of(blocks, graph.n_sites)
    return bool((colours[graph.edges[:, 0]] != colours[graph.edges[:, 1]]).all())


# ---- colourings ----


@given(edge_lists())
def test_colour_is_proper_deterministic_and_small(case):
    n, edges = case
    blocks = colour(Graph(n, edges))
    assert is_proper(blocks, Graph(n, edges))
    assert blocks == colour(Graph(n, list(edges)))
    degree = np.bincount(np.asarray(edges, int).reshape(-1), minlength=n).max()
    assert len(blocks) <= degree + 1


@given(st.integers(1, 7), st.integers(1, 7), st.data())
def test_two_blocks_do_for_a_bipartite_graph(n_left, n_right, data):
    pairs = [(i, j) for i in range(n_left) for j in range(n_right)]
    chosen = data.draw(st.lists(st.sampled_from(pairs), unique=True, min_size=1))
    names = data.draw(st.permutations(range(n_left + n_right)))
    graph = Graph(n_left + n_right, [(names[i], names[n_left + j]) for i, j in chosen])
    blocks = colour(graph)
    assert len(blocks) == 2
    assert is_proper(blocks, graph)


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(["free", "periodic"]), st.sampled_from([4, 8]))
def test_checkerboards_are_proper_and_as_small_as_documented(height, width, boundary, neighbourhood):
    if boundary == "periodic" and min(height, width) < 3:
        return
    grid = Grid(height, width, boundary, neighbourhood)
    blocks = checkerboard(grid)
    assert is_proper(blocks, grid)
    odd = [boundary == "periodic" and side % 2 == 1 for side in (height, width)]
    if neighbourhood == 8:
        assert len(blocks) == np.prod([min(3 if o else 2, side) for o, side in zip(odd, (height, width))])
    else:
        assert len(blocks) == (3 if any(odd) else min(2, grid.n_sites))


@pytest.mark.parametrize(
    ("grid", "n_blocks"),
    [
        (Grid(28, 28), 2),
        (Grid(28, 28, "periodic"), 2),
        (Grid(5, 4, "periodic"), 3),
        (Grid(4, 5, "periodic"), 3),
        (Grid(5, 5, "periodic"), 3),
        (Grid(3, 3, "periodic"), 3),
        (Grid(28, 28, neighbourhood=8), 4),
        (Grid(28, 28, "periodic", 8), 4),
        (Grid(5, 7, neighbourhood=8), 4),
    ],
    ids=str,
)
def test_numbers_of_blocks(grid, n_blocks):
    assert len(checkerboard(grid)) == n_blocks
    assert is_proper(checkerboard(grid), grid)


def test_a_28_by_28_free_grid_has_two_blocks_of_392():
    assert [len(block) for block in checkerboard(Grid(28, 28))] == [392, 392]
    assert 0 in checkerboard(Grid(28, 28))[0]


@pytest.mark.usefixtures("as_shipped")
def test_checkerboard_needs_a_grid():
    with pytest.raises(ValueError, match=r"needs a Grid, got Graph.*use colour\(graph\)"):
        checkerboard(Graph(2, [(0, 1)]))


@pytest.mark.parametrize(
    "graph", [Grid(*args) for args in GRIDS] + [Bipartite(3, 4), Graph(5, [(0, 1), (1, 2), (0, 2)])], ids=str
)
def test_default_specs_fit_their_graphs(graph):
    default_spec(graph).check(graph)
    BlockSpec(colour(graph)).check(graph)


def test_an_rbm_draws_its_hidden_layer_first():
    assert default_spec(Bipartite(3, 2)) == BlockSpec([Block([3, 4]), Block([0, 1, 2])])


# ---- specifications ----

PATH = Graph(5, [(0, 1), (1, 2), (2, 3), (3, 4)])


def test_a_specification_says_groups_and_clamped_sites():
    spec = BlockSpec([[Block([4]), Block([2])], Block([3])], clamped=[Block([1]), Block([0])])
    spec.check(PATH)
    assert [group.tolist() for group in spec.groups] == [[2, 4], [3]]
    assert spec.clamped_sites.tolist() == [0, 1]
    assert BlockSpec([Block([1, 3])], clamped=[Block([0, 2, 4])]).clamped_sites.tolist() == [0, 2, 4]
    assert BlockSpec(colour(PATH)).clamped_sites.size == 0


def test_neighbours_may_be_clamped_together():
    BlockSpec([Block([3])], clamped=[Block([0, 1, 2]), Block([4])]).check(PATH)
    BlockSpec([], clamped=[Block(range(5))]).check(PATH)


@pytest.mark.parametrize(
    ("free", "clamped", "graph", "message"),
    [
        ([Block([0, 2, 4]), Block([1, 3, 4])], [], PATH, r"site 4 is in blocks \[0, 1\]"),
        ([Block([0, 2, 4]), Block([1, 3])], [Block([3])], PATH, r"site 3 is in blocks \[1, 2\]"),
        ([Block([0, 2, 4]), Block([1])], [], PATH, r"site 3 is in no block \(1 are missing\)"),
        ([], [], PATH, r"site 0 is in no block \(5 are missing\)"),
        ([Block([0, 2, 4]), Block([1, 3, 5])], [], PATH, "names site 5; the graph has sites 0 … 4"),
        ([Block([0, 2]), Block([1, 3, 4])], [], PATH, "block 1 holds sites 3 and 4, which share an edge"),
        ([[Block([0, 2]), Block([3])], Block([1, 4])], [], PATH, "block 0 holds sites 2 and 3, which share"),
        ([Block([0, 1, 2]), Block([3, 4])], [], Bipartite(2, 3), "block 0 holds sites 0 and 2, which share"),
        ([[Block([0, 1]), Block([4])], Block([2, 3])], [], Bipartite(2, 3), "block 0 holds sites 0 and 4"),
        ([Block([0, 3]), Block([1, 2])], [], Grid(2, 2, neighbourhood=8), "block 0 holds sites 0 and 3"),
        ([Block(range(0, 9, 2)), Block(range(1, 9, 2))], [], Grid(3, 3, "periodic"), "block 0 holds sites"),
    ],
)
def test_specifications_that_do_not_fit_are_refused(free, clamped, graph, message):
    with pytest.raises(ValueError, match=message):
        BlockSpec(free, clamped).check(graph)


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Block([]), "non-empty list of site numbers"),
        (lambda: Block([[0, 1]]), r"got shape \(1, 2\)"),
        (lambda: Block([0.0, 1.0]), "float64"),
        (lambda: Block([0, -2]), "names site -2; site numbers start at 0"),
        (lambda: Block([3, 1, 3]), "names site 3 twice"),
        (lambda: BlockSpec([[0, 1]]), r"holds 0; wrap site numbers as Block"),
        (lambda: BlockSpec([3]), "give a sequence of blocks"),
        (lambda: BlockSpec(Block([0])), r"free is Block\(\[0\], n=1\); give a sequence of blocks"),
        (lambda: BlockSpec([Block([0])], clamped=Block([1])), "clamped is Block"),
        (lambda: BlockSpec([Block([0]), []]), "superblock 1 holds no block"),
        (lambda: SamplingSchedule(-1, 1, 1), "n_warmup is -1"),
        (lambda: SamplingSchedule(0, -1, 1), "n_samples is -1"),
        (lambda: SamplingSchedule(0, 1, 0), "steps_per_sample is 0; give a whole number of at least 1"),
        (lambda: SamplingSchedule(0, 1.5, 1), "n_samples is 1.5"),
    ],
)
def test_bad_blocks_and_schedules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_specifications_compare_by_value_and_share_one_trace(count_traces):
    def make():
        return BlockSpec([Block(np.array([0, 2, 4])), [Block([1]), Block([3])]])

    assert make() == make()
    assert hash(make()) == hash(make())
    assert make() != BlockSpec([Block([0, 2, 4]), Block([1, 3])])
    assert make() != BlockSpec([[Block([1]), Block([3])], Block([0, 2, 4])])
    assert Block([0, 2]) != Block([2, 0])
    fn, traces = count_traces(lambda spec, x: x + len(spec.groups))
    jitted = jax.jit(fn, static_argnums=0)
    assert [float(jitted(make(), jnp.float32(i))) for i in range(3)] == [2.0, 3.0, 4.0]
    assert len(traces) == 1


def test_a_block_keeps_its_own_copy():
    sites = np.array([0, 2])
    block = Block(sites)
    sites[0] = 7
    assert list(block) == [0, 2]
    with pytest.raises(ValueError, match="read-only"):
        block.sites[0] = 7


@pytest.mark.parametrize(
    ("schedule", "n_steps"),
    [((0, 1, 1), 0), ((10, 0, 5), 10), ((10, 1, 5), 10), ((10, 4, 5), 25), ((0, 3, 2), 4)],
)
def test_a_schedule_counts_its_steps(schedule, n_steps):
    assert SamplingSchedule(*schedule).n_steps == n_steps
