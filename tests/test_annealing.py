"""Simulated annealing finds known minima, keeps the best it saw, and says what does not fit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from tests import systems

SYSTEM = systems.get("ising_3x3")
BETAS = np.geomspace(0.1, 5, 60)


def test_finds_the_lowest_energy():
    start = ej.init_chains(jax.random.key(0), SYSTEM.model, 16)
    found = ej.anneal(jax.random.key(1), ej.gibbs(SYSTEM.model), SYSTEM.params, start, BETAS)
    assert isinstance(found, ej.Annealed)
    assert float(found.energy) == pytest.approx(SYSTEM.energies.min(), abs=1e-4)
    assert float(found.energy) == float(found.energies.min())
    energies = jax.vmap(SYSTEM.model.energy, (None, 0))(SYSTEM.params, found.positions)
    np.testing.assert_allclose(energies, found.energies, rtol=1e-6)
    assert float(SYSTEM.model.energy(SYSTEM.params, found.position)) == pytest.approx(float(found.energy))
    assert (found.info.n_steps == 60).all()


def test_keeps_the_best_of_what_every_chain_saw():
    """A run at a high temperature: the best of a chain is the minimum over what `sample` stores, start included."""
    start = ej.init_chains(jax.random.key(0), SYSTEM.model, 4)
    kernel, key = ej.metropolis(SYSTEM.model), jax.random.key(2)
    found = ej.anneal(key, kernel, SYSTEM.params, start, np.full(30, 0.05))
    run = ej.sample(key, kernel, SYSTEM.params, start, ej.SamplingSchedule(1, 30, 1), beta=0.05)
    visited = jnp.concatenate([start[None], run.positions])
    energies = np.asarray(
        jax.vmap(jax.vmap(SYSTEM.model.energy, (None, 0)), (None, 0))(SYSTEM.params, visited)
    )
    np.testing.assert_allclose(found.energies, energies.min(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(found.state.position, run.state.position)
    for chain, step in enumerate(energies.argmin(axis=0)):
        np.testing.assert_array_equal(found.positions[chain], visited[step, chain])


def test_a_nan_is_never_the_best():
    def energy(params, x):
        return jnp.where(x > 1, jnp.nan, x**2)

    found = ej.anneal(jax.random.key(0), ej.ula(energy, 0.8), (), jnp.linspace(0.5, 2.0, 8), np.full(20, 1.0))
    assert np.isfinite(found.energies[:3]).all()
    assert float(found.energy) < 0.1


@pytest.mark.parametrize(
    ("betas", "words"),
    [
        (1.0, r"betas has shape \(\)"),
        ([], r"betas has shape \(0,\)"),
        ([1.0, -2.0], "holds -2.0"),
        ([np.nan], "nan"),
    ],
)
def test_bad_input(betas, words, as_shipped):
    call = functools.partial(ej.anneal, jax.random.key(0), ej.gibbs(SYSTEM.model), SYSTEM.params)
    with pytest.raises(ValueError, match=words):
        call(ej.init_chains(jax.random.key(0), SYSTEM.model, 2), betas)
    with pytest.raises(ValueError, match="kernel is 3"):
        ej.anneal(jax.random.key(0), 3, SYSTEM.params, jnp.zeros((2, 3, 3), bool), [1.0])
