"""Energies of 16 bits: refused before any step wherever a decision hangs on differences of energies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from ebm_jax import partition

SCHEDULE = ej.SamplingSchedule(1, 1, 1)
REALS, LEVELS = jnp.zeros(2), jnp.zeros((2, 3), jnp.int32)
BASE = partition.standard_normal(jnp.zeros(()))


def well(params, x):
    del params
    return (x**2 / 2 + 1000).astype(jnp.bfloat16)


def field(params, x):
    del params
    return jnp.sum(x.astype(jnp.float16))


def blackjax_hmc():
    blackjax = pytest.importorskip("blackjax")
    settings = {"step_size": 0.1, "inverse_mass_matrix": jnp.ones(1), "num_integration_steps": 2}
    return ej.interop.blackjax.from_blackjax(blackjax.hmc, lambda p, x: well(p, x[0]), **settings)


def ais(**kwargs):
    return partition.ais(jax.random.key(0), well, None, base=BASE, kernel=lambda e: ej.mala(e, 1.0), **kwargs)


def drawn(make, x):
    return lambda: ej.sample(jax.random.key(0), make(), None, x, SCHEDULE)


@pytest.mark.parametrize(
    ("run", "dtype"),
    [
        (drawn(lambda: ej.mala(well, 1.0), REALS), "bfloat16"),
        (drawn(lambda: ej.hmc(well, 1.0, 2), REALS), "bfloat16"),
        (drawn(lambda: ej.cycle([ej.ula(well, 0.1), ej.mala(well, 1.0)]), REALS), "bfloat16"),
        (drawn(lambda: ej.parallel_tempering(ej.ula(well, 0.1), [0.5, 1.0]), REALS), "bfloat16"),
        (drawn(lambda: ej.categorical_gibbs(field, 3), LEVELS), "float16"),
        (drawn(blackjax_hmc, jnp.zeros((2, 1))), "bfloat16"),
        (lambda: ais(betas=3, n_chains=2), "bfloat16"),
        (
            lambda: partition.thermodynamic_integration([0.0, 1.0], np.zeros((5, 2, 2), np.float16), 0.0),
            "float16",
        ),
    ],
    ids=["mala", "hmc", "cycle", "tempering", "categorical", "blackjax", "ais", "integration"],
)
def test_energies_that_are_too_narrow_to_decide_by(run, dtype):
    with pytest.raises(ValueError, match=f"has dtype {dtype}, too narrow .* sum it in float32"):
        run()


def test_steps_without_a_decision_take_them():
    """A Langevin step needs the gradient alone, and so does a single rung."""
    for kernel in (ej.ula(well, 0.1), ej.parallel_tempering(ej.ula(well, 0.1), [1.0])):
        assert np.isfinite(ej.sample(jax.random.key(0), kernel, None, REALS, SCHEDULE).positions).all()
