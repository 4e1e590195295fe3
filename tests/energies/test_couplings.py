"""Ising models from matrices of couplings, and spins from −1 and +1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import ebm_jax as ej

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def couplings():
    j = np.triu(RNG.integers(-3, 4, (6, 6)), 1).astype(float)
    return j + j.T


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_matrix, scipy.sparse.coo_array])
def test_the_energy_is_minus_the_sum_over_pairs_and_fields(couplings, form):
    h = np.arange(6) / 4
    model, params = ej.Ising.from_couplings(form(couplings), h)
    s = RNG.choice([-1, 1], (32, 6))
    # All numbers are multiples of 1/4, so float32 has no error.
    expected = -0.5 * np.einsum("ni,ij,nj->n", s, couplings, s) - s @ h
    got = jax.vmap(model.energy, (None, 0))(params, ej.spins_from(s))
    np.testing.assert_array_equal(got, expected)
    assert model.graph.n_edges == np.count_nonzero(couplings) // 2
    assert params.bias.dtype == params.coupling.dtype == jnp.float32
    first, second = model.graph.edges.T
    np.testing.assert_array_equal(params.coupling, couplings[first, second])


def test_repeated_entries_of_a_sparse_matrix_add_up():
    j = scipy.sparse.coo_array(([1.0, 2.0, 3.0], ([0, 0, 1], [1, 1, 0])), shape=(2, 2))
    _, params = ej.Ising.from_couplings(j)
    assert params.coupling.tolist() == [3.0]
    assert params.bias.tolist() == [0.0, 0.0]
    assert j.nnz == 3


@pytest.mark.parametrize(
    ("j", "h", "message"),
    [
        (np.zeros((2, 3)), None, r"J has shape \(2, 3\); give a square matrix"),
        (np.zeros(4), None, r"J has shape \(4,\)"),
        (np.eye(3), None, r"J\[0, 0\] is 1.0, and s² = 1 makes it a constant"),
        (
            np.triu(np.ones((3, 3)), 1),
            None,
            r"one side of its diagonal only; give the symmetric matrix J \+ J.T",
        ),
        ([[0, 1, 2], [1, 0, 0], [2, 5, 0]], None, r"J\[1, 2\] is 0.0 and J\[2, 1\] is 5.0"),
        ([[0, 1], [2, 0]], None, r"J\[0, 1\] is 1.0 and J\[1, 0\] is 2.0; give a symmetric matrix"),
        ([[0, np.inf], [np.inf, 0]], None, r"J holds inf at \(0, 1\)"),
        (np.asarray([["0", "1"], ["1", "0"]]), None, "J has dtype <U1; give real numbers"),
        ([[0, 1j], [1j, 0]], None, "J has dtype complex128"),
        (np.zeros((2, 2)), [1.0], r"h has shape \(1,\); expected \(2,\)"),
        (np.zeros((2, 2)), [1.0, np.nan], "params.bias holds nan"),
    ],
)
def test_bad_couplings_are_refused(j, h, message):
    with pytest.raises(ValueError, match=message):
        ej.Ising.from_couplings(j, h)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float32])
def test_spins_and_numbers_are_each_others_inverse(dtype):
    values = RNG.choice([-1, 1], (3, 4)).astype(dtype)
    spins = ej.spins_from(values)
    assert spins.dtype == jnp.bool_
    np.testing.assert_array_equal(ej.as_spins(spins, jnp.int8), values)
    np.testing.assert_array_equal(ej.as_spins(spins.astype(jnp.uint8)), values)
    np.testing.assert_array_equal(jax.jit(ej.spins_from)(values), spins)
    np.testing.assert_array_equal(jax.jit(ej.as_spins)(spins), values)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ej.spins_from([1, 0, 1]),
            r"hold 0, which is no spin; levels 0 and 1 become spins by .astype\(bool\)",
        ),
        (lambda: ej.spins_from([1, -2, 0]), "hold -2, which is no spin; give -1 and"),
        (lambda: ej.spins_from([np.nan]), "hold nan"),
        (lambda: ej.spins_from([True]), "are spins already"),
        (lambda: ej.spins_from(["up"]), "give numbers -1 and"),
        (lambda: ej.as_spins(jnp.ones(2)), "x has dtype float32"),
        (lambda: ej.as_spins(jnp.array([0, -1])), "x holds -1"),
        (lambda: ej.as_spins(jnp.array([True]), jnp.uint8), "dtype is uint8, which has no -1"),
    ],
)
def test_what_is_no_spin_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.usefixtures("as_shipped")
def test_numbers_in_place_of_spins_are_told_what_converts_them():
    model = ej.Ising(ej.Graph(3, [(0, 1)]))
    params = ej.IsingParams(jnp.zeros(3), jnp.zeros(1))
    s = jnp.asarray([1, -1, 1], jnp.int8)
    advice = "convert -1 and .1 with ebm_jax.spins_from"
    with pytest.raises(ValueError, match=advice):
        model.energy(params, s)
    with pytest.raises(ValueError, match=advice):
        ej.sample(jax.random.key(0), ej.gibbs(model), params, s[None], ej.SamplingSchedule(1, 1))
    with pytest.raises(ValueError, match="spins_from"):
        ej.exact.gradient(model, params, np.asarray(s)[None].astype(np.float32))
    with pytest.raises(ValueError, match=r"convert it with \.astype"):
        model.energy(params, jnp.ones(3))
