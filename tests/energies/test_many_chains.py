"""Energies of tens of thousands of chains, where compilers have got fused sums wrong."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.energies import ising
from ebm_jax.energies.factor_graph import FactorGraph
from ebm_jax.energies.factors import Factor
from ebm_jax.energies.ising import Ising
from ebm_jax.energies.nodes import Categories, Spins
from ebm_jax.energies.potts import Potts
from ebm_jax.energies.rbm import RBM
from ebm_jax.graphs import Graph, Grid
from tests.energies.cases import oracle_energy, random_params

RING = [(0, 1), (1, 2), (0, 2)]
MODELS = [
    *[Ising(Graph(n, [(i, (i + 1) % n) for i in range(n if n > 2 else 1)])) for n in (2, 3, 7, 20)],
    Ising(Grid(1, 3), "edge"),
    Potts(Graph(3, RING), 3),
    RBM(3, 2),
    FactorGraph(
        {"s": Spins(3), "c": Categories(2, 3)},
        [
            Factor(("s", 0), ("s", 1), ("s", 2)),
            Factor(("s", range(3))),
            Factor(("s", [0, 1]), ("c", [0, 1])),
            Factor(("c", 0), ("c", 1)),
        ],
    ),
]
# What a fused reduction may tell apart lies around powers of two and at 2¹⁷ / 3.
COUNTS = [32_767, 32_768, 32_769, 40_000, 43_690, 43_691, 65_535, 65_536, 65_537]
N_CONFIGURATIONS = 64


@functools.cache
def cases():
    """Parameters, configurations, and their energies in NumPy's float64, one of each a model."""
    rng, found = np.random.default_rng(0), []
    for model in MODELS:
        params = random_params(model)
        counts = getattr(model, "site_levels", None) or [model.n_levels]
        levels = rng.integers(0, counts, (N_CONFIGURATIONS, model.graph.n_sites))
        energy = oracle_energy(model, params)
        x = jax.tree.map(np.asarray, jax.vmap(model.from_levels)(jnp.asarray(levels)))
        found.append((params, x, np.array([energy(row) for row in levels])))
    return found


def worst_errors(n_chains):
    """Returns the largest error of each model over `n_chains` random configurations, from one program."""
    rows = np.random.default_rng(n_chains).integers(0, N_CONFIGURATIONS, n_chains)
    x = [jax.tree.map(lambda leaf: leaf[rows], x) for _, x, _ in cases()]
    params = [p for p, _, _ in cases()]

    def energies(params, x):
        return [
            jax.vmap(model.energy, (None, 0))(*given) for model, *given in zip(MODELS, params, x, strict=True)
        ]

    found = jax.jit(energies)(params, x)
    return [
        float(np.abs(np.asarray(energy) - truth[rows]).max())
        for energy, (_, _, truth) in zip(found, cases(), strict=True)
    ]


@pytest.mark.parametrize("n_chains", COUNTS)
def test_every_chain_has_the_energy_of_its_configuration(n_chains):
    errors = worst_errors(n_chains)
    assert max(errors) < 2e-5, errors


def test_sums_of_products_would_not_do(monkeypatch):
    """jaxlib 0.10 mixes up chains of three sites where the sum over sites is no matrix product."""
    if not jax.__version__.startswith("0.10."):
        pytest.skip("the fault is of jaxlib 0.10")
    monkeypatch.setattr(ising, "weighted_sum", lambda weights, values: jnp.sum(weights * values))
    assert worst_errors(40_000)[1] > 1e-2
