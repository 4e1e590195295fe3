"""Graphs and quadratic problems from NetworkX, dimod, matrices and files: same energies, same labels, and back."""

import itertools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import ebm_jax as ej
from ebm_jax.interop import files, qubo

N = 5
RNG = np.random.default_rng(0)
STATES = np.asarray(list(itertools.product([False, True], repeat=N)))
LABELS = ("a", (0, 1), 7, "b", None)
TRIANGLES = [(0, 1), (2, 1), (3, 0), (4, 2), (1, 3)]
MODEL = ej.Ising(ej.Graph(N, TRIANGLES))
PARAMS = ej.IsingParams(*(jnp.asarray(RNG.normal(size=N), jnp.float32) for _ in range(2)))

energies = jax.jit(jax.vmap(MODEL.energy, (None, 0)))


def energies_of(problem):
    """The energy of every configuration of five sites, the constant included."""
    return np.asarray(jax.vmap(problem.model.energy, (None, 0))(problem.params, STATES)) + problem.offset


def qubo_energies(q, offset, labels):
    columns = {label: STATES[:, site].astype(float) for site, label in enumerate(labels)}
    return offset + sum(value * columns[a] * columns[b] for (a, b), value in q.items())


def as_pairs(graph):
    return [tuple(edge) for edge in graph.edges.tolist()]


# ---- QUBO ----


def test_an_ising_model_and_its_qubo_have_one_energy():
    q, offset = qubo.to_qubo(MODEL, PARAMS, offset=0.5, labels=LABELS)
    np.testing.assert_allclose(qubo_energies(q, offset, LABELS), energies(PARAMS, STATES) + 0.5, atol=1e-5)
    problem = qubo.from_qubo(q, offset=offset)
    assert problem.labels == LABELS
    assert as_pairs(problem.model.graph) == [tuple(sorted(edge)) for edge in TRIANGLES]
    assert problem.offset == pytest.approx(0.5, abs=1e-6)
    for got, expected in zip(problem.params, PARAMS, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("form", ["dense", "sparse", "upper"])
def test_matrices_of_any_triangle(form):
    q = RNG.integers(-4, 5, (N, N)).astype(float)
    expected = np.einsum("ni,ij,nj->n", STATES, q, STATES) + 2.0
    given = {
        "dense": q,
        "sparse": scipy.sparse.coo_array(q),
        "upper": np.triu(q + np.tril(q, -1).T),
    }[form]
    # Every number is a multiple of 1/4, so float32 has no error.
    np.testing.assert_array_equal(energies_of(qubo.from_qubo(given, offset=2.0)), expected)


# ---- NetworkX ----


def test_networkx_graphs_and_back():
    networkx = pytest.importorskip("networkx")
    from ebm_jax.interop.networkx import from_networkx, to_networkx

    source = networkx.grid_2d_graph(2, 3)
    source.add_node("alone")
    source.edges[(0, 0), (0, 1)]["weight"] = -2
    graph, weights, labels = from_networkx(source)
    assert labels == tuple(source.nodes)
    assert [(labels[i], labels[j]) for i, j in as_pairs(graph)] == list(source.edges)
    assert weights.tolist() == [-2.0 if edge == ((0, 0), (0, 1)) else 1.0 for edge in source.edges]
    back = to_networkx(graph, weights, labels=labels)
    assert list(back.nodes) == list(source.nodes)
    assert list(back.edges(data="weight")) == list(source.edges(data="weight", default=1.0))
    assert list(to_networkx(ej.Grid(1, 3)).edges) == [(0, 1), (1, 2)]
    for bad, message in (
        (networkx.DiGraph([(0, 1)]), "is a DiGraph; make it simple"),
        (networkx.MultiGraph([(0, 1), (0, 1)]), "is a MultiGraph"),
        (networkx.Graph([("x", "x")]), r"edge 0, \('x', 'x'\), joins a site to itself"),
        (networkx.Graph([(0, 1, {"weight": "heavy"})]), r"edge \(0, 1\) has weight 'heavy'; give a number"),
        (networkx.Graph([(0, 1, {"weight": np.inf})]), "give a finite number"),
        (networkx.Graph(), "give at least one site"),
        ([(0, 1)], "for pairs use Graph.from_edges"),
    ):
        with pytest.raises(ValueError, match=message):
            from_networkx(bad)
    with pytest.raises(ValueError, match=r"weights have shape \(2,\)"):
        to_networkx(graph, [1.0, 2.0])
    with pytest.raises(ValueError, match="give 7 different ones"):
        to_networkx(graph, labels="aaaaaaa")


# ---- dimod ----


@pytest.mark.usefixtures("as_shipped")
def test_binary_quadratic_models_and_back():
    dimod = pytest.importorskip("dimod")
    from ebm_jax.interop.dimod import from_bqm, to_bqm

    names = "vwxyz"
    linear = dict(zip(names, RNG.integers(-4, 5, N).tolist(), strict=True))
    quadratic = {("v", "x"): 2, ("z", "v"): -1, ("w", "y"): 3, ("y", "x"): 0}
    for vartype in ("SPIN", "BINARY"):
        bqm = dimod.BinaryQuadraticModel(linear, quadratic, 0.75, vartype)
        problem = from_bqm(bqm)
        assert problem.labels == tuple(bqm.variables)
        values = STATES.astype(int) if vartype == "BINARY" else 2 * STATES.astype(int) - 1
        np.testing.assert_array_equal(energies_of(problem), bqm.energies((values, problem.labels)))
        back = to_bqm(problem.model, problem.params, offset=problem.offset, labels=problem.labels)
        assert back.is_almost_equal(bqm.change_vartype("SPIN", inplace=False), places=5)
    tied = ej.Ising(ej.Grid(2, 2))
    bqm = to_bqm(tied, ej.IsingParams(jnp.zeros((2, 2)), jnp.asarray([1.0, 2.0])))
    assert dict(bqm.quadratic) == {(1, 0): -1.0, (3, 2): -1.0, (2, 0): -2.0, (3, 1): -2.0}
    with pytest.raises(ValueError, match="for a QUBO use interop"):
        from_bqm({})
    with pytest.raises(ValueError, match="give an Ising model"):
        to_bqm(ej.RBM(2, 2), ej.RBM(2, 2).init(jax.random.key(0)))


@pytest.mark.parametrize(
    ("q", "message"),
    [
        ({("a",): 1.0}, "pairs of labels"),
        ({}, "q is empty"),
        (np.ones((2, 3)), r"q has shape \(2, 3\)"),
        (np.asarray([[0.0, np.nan], [0.0, 0.0]]), r"q holds nan at \(0, 1\)"),
        ({("a", "b"): np.inf}, "holds -inf"),
    ],
)
def test_bad_qubos_are_refused(q, message):
    with pytest.raises(ValueError, match=message):
        qubo.from_qubo(q)


# ---- files ----


def write(tmp_path, text):
    path = tmp_path / "graph.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_rudy_files(tmp_path):
    graph, weights, labels = files.read_rudy(write(tmp_path, "5 3\n1 2 1\n\n3 2 -1\r\n4 1\n"))
    assert (graph.n_sites, as_pairs(graph), labels) == (5, [(0, 1), (1, 2), (0, 3)], (1, 2, 3, 4, 5))
    assert weights.tolist() == [1.0, -1.0, 1.0]
    # The largest cut has weight 2: the energy with couplings −w is Σ w − 2 cut.
    model, params = ej.Ising(graph), ej.IsingParams(jnp.zeros(5), jnp.asarray(-weights, jnp.float32))
    values = jax.vmap(model.energy, (None, 0))(params, STATES)
    assert (weights.sum() - float(values.min())) / 2 == 2.0


def test_dimacs_files(tmp_path):
    text = "c queen\np col 3 4\ne 1 2\ne 2 1\ne 2 3\ne 3 2\n"
    graph, weights, _ = files.read_dimacs(write(tmp_path, text))
    assert (as_pairs(graph), weights.tolist()) == ([(0, 1), (1, 2)], [1.0, 1.0])
    graph, weights, _ = files.read_dimacs(write(tmp_path, "p sp 3 1\na 3 1 2.5\n"))
    assert (as_pairs(graph), weights.tolist()) == ([(0, 2)], [2.5])


def test_qubo_files(tmp_path):
    text = "c a comment\np qubo 0 5 2 2\n0 0 -3\n4 4 1.5\n0 4 2\n3 1 -1\n"
    problem = files.read_qubo(write(tmp_path, text))
    expected = qubo_energies({(0, 0): -3, (4, 4): 1.5, (0, 4): 2, (3, 1): -1}, 0.0, range(N))
    np.testing.assert_array_equal(energies_of(problem), expected)
    assert problem.labels == tuple(range(N))


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (files.read_rudy, "", "line 0: '' is not the numbers of sites"),
        (files.read_rudy, "3\n", "line 1: '3' is not the numbers"),
        (files.read_rudy, "0 0\n", "line 1: there is no site"),
        (files.read_rudy, "3 1\n1 x\n", "line 2: '1 x' is not two sites"),
        (files.read_rudy, "3 1\n1 4 1\n", "line 2: site 4 is outside 1 … 3"),
        (files.read_rudy, "3 1\n0 1 1\n", "line 2: site 0 is outside"),
        (files.read_rudy, "3 1\n2 2 1\n", "line 2: the edge joins site 2 to itself"),
        (files.read_rudy, "3 2\n1 2 1\n2 1 1\n", r"line 3: edge \(1, 2\) is listed twice"),
        (files.read_rudy, "3 1\n1 2 nan\n", "line 2: 'nan' is no finite number"),
        (files.read_rudy, "3 1\n1 2 3 4\n", "line 2: an edge is two sites"),
        (files.read_rudy, "3 5\n1 2 1\n", "line 2: 1 edges, and the first line promises 5"),
        (files.read_rudy, f"3 1\n1 {'9' * 5000}\n", "line 2: .* is not two sites"),
        (files.read_rudy, b"3 1\n1 \xff\n", "line 2: it is not text"),
        (files.read_dimacs, "e 1 2\n", "line 1: an edge before the line p"),
        (files.read_dimacs, "c only\n", "no line p"),
        (files.read_dimacs, "p edge 3 1\np edge 3 1\n", "line 2: a second line p"),
        (files.read_dimacs, "p edge 3 1\nx 1 2\n", "line 2: the line begins with 'x'"),
        (files.read_qubo, "p cnf 3 1\n", "line 1: the first line is not `p qubo"),
        (files.read_qubo, "p qubo 0 2 0 1\n0 2 1\n", "line 2: site 2 is outside 0 … 1"),
        (files.read_qubo, "p qubo 0 2 0 1\n0 1 1\n1 0 1\n", r"line 3: entry \(0, 1\) is listed twice"),
        (files.read_qubo, "p qubo 0 2 1 1\n0 1 1\n", "0 diagonal entries and 1 couplers"),
        (files.read_qubo, "p qubo 0 2 0 1\n0 1\n", "line 2: an entry is `i j value`"),
    ],
)
def test_bad_files_are_refused_with_the_line(tmp_path, read, text, message):
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path, text))


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in (files.read_rudy, files.read_dimacs, files.read_qubo):
        for path in (tmp_path / "pipe", "/dev/zero"):
            with pytest.raises(ValueError, match="is no regular file"):
                read(path)
    with pytest.raises(FileNotFoundError):
        files.read_rudy(tmp_path / "missing")
