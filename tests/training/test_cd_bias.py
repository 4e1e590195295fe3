"""What contrastive divergence follows instead of the likelihood, exactly, on an RBM of 2⁵ visible configurations.

After k sweeps from the data the law of the visible units is p_data Pᵏ, and the gradient of CD-k is
E_{p_data Pᵏ}[v hᵀ] − E_data[v hᵀ]. Its distance to the gradient of the likelihood falls with k and is not zero.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.energies.rbm import RBM, RBMParams
from ebm_jax.energies.target import target_of
from ebm_jax.samplers.gibbs import gibbs
from ebm_jax.training.negatives import cd
from ebm_jax.training.objectives import contrastive_loss

N_VISIBLE, N_HIDDEN, N_ROWS = 5, 3, 40_000
V = np.asarray(list(itertools.product((0, 1), repeat=N_VISIBLE)), np.float64)
H = np.asarray(list(itertools.product((0, 1), repeat=N_HIDDEN)), np.float64)
RNG = np.random.default_rng(0)
W, A, B = 2 * RNG.normal(size=(N_VISIBLE, N_HIDDEN)), RNG.normal(size=N_VISIBLE), RNG.normal(size=N_HIDDEN)
P_DATA = RNG.dirichlet(np.full(len(V), 0.3))


def law():
    """p(v), and the kernel P(v, v') of a sweep, hidden layer first."""
    joint = np.exp((V @ A)[:, None] + H @ B + V @ W @ H.T)
    of_hidden, of_visible = joint / joint.sum(axis=1, keepdims=True), joint / joint.sum(axis=0)
    return joint.sum(axis=1) / joint.sum(), of_hidden @ of_visible.T


def weights_gradient(p):
    """Of the loss to be minimised, where p stands for the model."""
    hidden = 1 / (1 + np.exp(-(B + V @ W)))
    return (V * (p - P_DATA)[:, None]).T @ hidden


MODEL, PARAMS = RBM(N_VISIBLE, N_HIDDEN), RBMParams(*(jnp.asarray(x, jnp.float32) for x in (W, A, B)))
COUNTS = np.random.default_rng(1).multinomial(N_ROWS, P_DATA)


@functools.cache
def gradient(kernel_k):
    """The compiled gradient of CD at a key."""
    target, source = target_of(MODEL), cd(gibbs(MODEL), kernel_k)
    batch = jnp.asarray(np.repeat(V, COUNTS, axis=0), jnp.uint8)

    @jax.jit
    def of_key(key):
        found, _ = source.draw(key, target, PARAMS, source.init(key, target, PARAMS), batch)
        return jax.grad(lambda p: contrastive_loss(p, target, batch, found)[0])(PARAMS).weights

    return of_key


def drawn(k, kernel_k):
    # The batch is not quite the data.
    exact_data = weights_gradient(COUNTS / N_ROWS) - weights_gradient(P_DATA)
    return np.asarray(gradient(kernel_k)(jax.random.key(k)), np.float64) + exact_data


def distances():
    p, kernel = law()
    assert np.allclose(p @ kernel, p)
    return {
        k: np.linalg.norm(weights_gradient(P_DATA @ np.linalg.matrix_power(kernel, k)) - weights_gradient(p))
        for k in (1, 4, 16, 64)
    }


def test_the_bias_falls_with_k_and_is_not_zero():
    far = distances()
    assert far[1] > far[4] > far[16] > far[64] > 0
    assert far[16] < 0.7 * far[1]


@pytest.mark.parametrize("k", [1, 4, 16])
def test_cd_draws_that_gradient(k):
    """Standard errors are at most 1/√N_ROWS; 15 entries and three k, 5.5 of them: false alarms 2e-6."""
    _, kernel = law()
    want = weights_gradient(P_DATA @ np.linalg.matrix_power(kernel, k))
    assert np.abs(drawn(k, k) - want).max() < 5.5 / np.sqrt(N_ROWS)


def test_one_step_for_sixteen_is_told_apart():
    _, kernel = law()
    want = weights_gradient(P_DATA @ np.linalg.matrix_power(kernel, 16))
    assert np.abs(drawn(16, 1) - want).max() > 5.5 / np.sqrt(N_ROWS)
