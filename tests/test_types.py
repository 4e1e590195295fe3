"""Counts that add up."""

import jax.numpy as jnp
import numpy as np

import ebm_jax as ej


def test_info_adds_up_and_keeps_the_first_bad_step():
    early = ej.Info.of(n_steps=3, n_proposed=10, n_accepted=4)
    bad = ej.Info.of(n_steps=2, n_proposed=10, n_accepted=1, n_nonfinite=1, first_nonfinite=5)
    worse = ej.Info.of(n_steps=1, n_nonfinite=1, first_nonfinite=6)
    total = early.then(bad).then(worse)
    assert (int(total.n_steps), int(total.n_nonfinite), int(total.first_nonfinite)) == (6, 2, 5)
    np.testing.assert_allclose(total.acceptance, 0.25)
    assert jnp.isnan(worse.acceptance)


def test_acceptance_is_nan_rather_than_wrong_once_its_count_is_full():
    nearly = ej.Info.of(n_proposed=2**32 - 2, n_accepted=2**31)
    assert 0.49 < float(nearly.acceptance) < 0.51
    full = nearly.then(ej.Info.of(n_proposed=100, n_accepted=50))
    assert jnp.isnan(full.acceptance)
    assert jnp.isnan(full.then(ej.Info.of(n_proposed=7, n_accepted=7)).acceptance)


def test_count_parameters():
    assert ej.count_parameters(ej.Potts(ej.Grid(28, 28), 4).params_struct()) == 3138
