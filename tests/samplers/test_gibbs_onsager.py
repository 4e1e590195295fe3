"""The square-lattice Ising model without field against its exact energy (Onsager 1944)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ellipk

import ebm_jax as ej

TEMPERATURES = (1.5, 2.0, 2.5, 3.0)
EXACT = (-1.951117, -1.745565, -1.106083, -0.817310)
SIDE, N_CHAINS, N_WARMUP, N_SAMPLES, THIN = 64, 24, 200, 50, 5


def onsager(temperature):
    """E per site at J = 1: −coth 2K (1 + (2/π)(2 tanh² 2K − 1) K₁(κ)), κ = 2 sinh 2K / cosh² 2K."""
    k = 1 / temperature
    modulus = 2 * np.sinh(2 * k) / np.cosh(2 * k) ** 2
    return -(1 + 2 / np.pi * (2 * np.tanh(2 * k) ** 2 - 1) * ellipk(modulus**2)) / np.tanh(2 * k)


@pytest.fixture(scope="module")
def energies():
    """Mean energy per site of every chain, `(temperatures, chains)`: one run, β a number a chain."""
    model = ej.Ising(ej.Grid(SIDE, SIDE, "periodic"))
    kernel, params = ej.gibbs(model), ej.IsingParams(jnp.zeros((SIDE, SIDE)), jnp.ones(2))
    n = len(TEMPERATURES) * N_CHAINS
    betas = jnp.repeat(1 / jnp.array(TEMPERATURES), N_CHAINS)
    # Ordered below the critical temperature of 2.269, so that no chain is caught between two stripes; random above.
    random = ej.init_chains(jax.random.key(0), model, n)
    x = random | (betas > 0.44)[:, None, None]

    @jax.jit
    def run(kernel, params, betas, keys, x):
        def steps(carry, n_steps):
            rows = jnp.broadcast_to(betas, (n_steps, n))
            return kernel.packed_steps(keys, params, rows, carry, n_steps)[0]

        def sweeps_and_energy(carry, _):
            packed, total = carry
            packed = steps(packed, THIN)
            s = kernel.packed_positions(packed).astype(jnp.int32) * 2 - 1
            bonds = s * (jnp.roll(s, 1, axis=1) + jnp.roll(s, 1, axis=2))
            return (packed, total - jnp.sum(bonds, axis=(1, 2)) / SIDE**2), None

        packed = kernel.pack(params, jax.vmap(kernel.init, (None, 0))(params, x))
        carry = steps(packed, N_WARMUP), jnp.zeros(n)
        return jax.lax.scan(sweeps_and_energy, carry, length=N_SAMPLES)[0][1] / N_SAMPLES

    keys = jax.random.split(jax.random.key(1), n)
    return np.asarray(run(kernel, params, betas, keys, x), np.float64).reshape(-1, N_CHAINS)


@pytest.mark.parametrize("number", range(4), ids=[f"T={t}" for t in TEMPERATURES])
def test_energy_per_site(energies, number):
    """Within four standard errors, which are small enough to tell a temperature off by 1 %."""
    temperature, exact = TEMPERATURES[number], EXACT[number]
    np.testing.assert_allclose(onsager(temperature), exact, atol=1e-5)  # of the infinite lattice
    chains = energies[number]
    error = chains.std(ddof=1) / np.sqrt(N_CHAINS)
    print(f"T={temperature}: {chains.mean():.6f} ± {error:.6f}, {(chains.mean() - exact) / error:+.2f} SE")
    assert abs(chains.mean() - exact) < 4 * error
    assert abs(onsager(1.01 * temperature) - exact) > 5 * error
