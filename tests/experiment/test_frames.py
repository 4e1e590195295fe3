"""Pictures along chains: those of a whole run, with nothing kept in between."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from ebm_jax.experiment.recipes import frames

KEY = jax.random.key(5)
STEPS = [1, 2, 4, 5]


def test_chains_that_run_some_at_a_time_have_the_bits_of_a_whole_run(monkeypatch):
    monkeypatch.setattr(frames, "N_TOGETHER", 3)
    model = ej.RBM(6, 4)
    params = model.init(KEY, scale=1.0)
    start = ej.init_chains(jax.random.key(1), model, 7)
    together = []

    def hidden(x):
        together.append(len(x[1]))
        return np.asarray(x[1])

    found = frames.run_frames(
        KEY, ej.gibbs(model), params, start, STEPS, hidden, lambda x: 255 * np.asarray(x[1])
    )
    assert sorted(set(together)) == [1, 3] and len(together) == 3 * len(STEPS)
    whole = ej.sample(KEY, ej.gibbs(model), params, start, ej.SamplingSchedule(1, 5)).positions[1]
    assert found.frames.dtype == np.uint8 and found.steps.tolist() == [0, *STEPS]
    np.testing.assert_array_equal(found.frames[0], 255 * np.asarray(start[1]))
    np.testing.assert_array_equal(found.frames[1:], np.asarray(whole)[np.subtract(STEPS, 1)])


def test_a_chain_that_leaves_the_finite_numbers_is_named(monkeypatch):
    monkeypatch.setattr(frames, "N_TOGETHER", 4)
    kernel = ej.langevin(lambda params, x: -(x**4), 1.0, 0.0)
    start = jnp.zeros(6).at[5].set(10.0)
    with pytest.raises(ej.NonFiniteError, match="chain 5 held a NaN"):
        frames.run_frames(KEY, kernel, None, start, [1, 9], lambda x: np.zeros(len(x), np.uint8))


def test_pictures_that_do_not_fit_are_refused(monkeypatch):
    """A broadcast picture takes no memory, and pictures of every chain would take 10¹⁸ bytes."""
    kernel = ej.langevin(lambda params, x: x**2, 0.1, 0.0)
    with pytest.raises(
        ValueError, match=r"pictures of 2 chains would take 1\.8e\+19 bytes.*take fewer chains"
    ):
        frames.run_frames(
            KEY, kernel, None, jnp.zeros(2), [1, 9], lambda x: np.broadcast_to(np.uint8(0), (len(x), 3 * 10**18))
        )  # fmt: skip
