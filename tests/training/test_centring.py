"""Centred gradients, against the gradient of an RBM written in centred coordinates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ebm_jax as ej
from ebm_jax import exact
from ebm_jax.training import centred, make_train_step, negatives
from ebm_jax.training.centring import centre
from tests import systems


def units(weights, b, v, spins):
    """Values of visible units, and means of hidden ones given them, a row a datum, in float64."""
    values = 2.0 * v - 1 if spins else v.astype(float)
    field = b + values @ weights
    return values, np.tanh(field) if spins else 1 / (1 + np.exp(-field))


def float64(params):
    """Weights and hidden bias."""
    return np.asarray(params.weights, np.float64), np.asarray(params.hidden_bias, np.float64)


def direction(params, data, model_rows, spins, mu, lam):
    """−∇ of the likelihood in the coordinates of an RBM centred at (μ, λ), carried back to plain ones by hand."""
    w, b = float64(params)

    def moments(rows):
        v, h = units(w, b, rows, spins)
        return (v - mu).T @ (h - lam) / len(v), v.mean(axis=0), h.mean(axis=0)

    of_w, of_a, of_b = (m - d for d, m in zip(moments(data), moments(model_rows), strict=True))
    # A step of W, a', b' in E = −(v−μ)ᵀa' − (h−λ)ᵀb' − (v−μ)ᵀW(h−λ) moves a = a' − Wλ and b = b' − Wᵀμ.
    return of_w, of_a - of_w @ lam, of_b - of_w.T @ mu


@pytest.mark.parametrize("spins", [False, True])
def test_the_gradient_is_that_of_a_centred_rbm(spins):
    rng = np.random.default_rng(0)
    model = ej.RBM(5, 3, spins=spins)
    params = ej.RBMParams(*(jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((5, 3), (5,), (3,))))
    first, second, chains = (rng.integers(0, 2, (n, 5)).astype(np.uint8) for n in (7, 7, 11))
    tx = optax.chain(centred(model, rate=0.3), optax.sgd(0.0))
    state = tx.init(params)

    def plain(batch):
        free = lambda p, rows: jnp.mean(jax.vmap(model.free_energy, (None, 0))(p, rows))  # noqa: E731
        return jax.grad(lambda p: free(p, batch) - free(p, jnp.asarray(chains)))(params)

    offsets, means = [], []
    for batch in (first, second):
        sides = [units(*float64(params), rows, spins) for rows in (batch, chains)]
        means.append([np.mean([side[i].mean(axis=0) for side in sides], axis=0) for i in range(2)])
        # The mean of those so far, forgetting at 0.3 and with the weight of the start divided out.
        weights = 0.7 ** np.arange(len(means))[::-1]
        offsets.append([np.average([m[i] for m in means], axis=0, weights=weights) for i in range(2)])
        got, new = centred(model, rate=0.3).update(plain(batch), state[0], params, data=jnp.asarray(batch))
        want = direction(params, batch, chains, spins, *offsets[-1])
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(g, w, atol=2e-6)
        np.testing.assert_allclose(new.visible, offsets[-1][0], atol=1e-6)
        np.testing.assert_allclose(new.hidden, offsets[-1][1], atol=1e-6)
        _, state = tx.update(plain(batch), state, params, data=jnp.asarray(batch))
    # The plain gradient is another one.
    assert abs(plain(second).weights - want[0]).max() > 0.1


def test_flipped_data_and_model_give_the_flipped_step():
    """What centring is for: the direction does not depend on which value is called 1."""
    rng = np.random.default_rng(1)
    w, a, b = rng.normal(size=(4, 3)), rng.normal(size=4), rng.normal(size=3)
    data, chains = (rng.integers(0, 2, (9, 4)) for _ in range(2))

    def step(w, a, b, data, chains):
        sides = [units(w, b, rows, False) for rows in (data, chains)]
        mu, lam = (np.mean([side[i].mean(axis=0) for side in sides], axis=0) for i in range(2))
        gradient = [
            sides[1][0].T @ sides[1][1] / 9 - sides[0][0].T @ sides[0][1] / 9,
            *(sides[1][i].mean(axis=0) - sides[0][i].mean(axis=0) for i in range(2)),
        ]
        return centre(
            ej.RBMParams(*(jnp.asarray(g, jnp.float32) for g in gradient)), *map(jnp.float32, (mu, lam))
        )

    got = step(w, a, b, data, chains)
    flipped = step(-w, -a, b + w.sum(axis=0), 1 - data, 1 - chains)
    np.testing.assert_allclose(flipped.weights, -got.weights, atol=1e-6)
    np.testing.assert_allclose(flipped.visible_bias, -got.visible_bias, atol=1e-6)
    np.testing.assert_allclose(flipped.hidden_bias, got.hidden_bias + got.weights.sum(axis=0), atol=2e-6)


def test_the_optimum_stays_where_it_is_and_a_step_hands_on_the_batch():
    model, params, _ = systems.rbm(4, 3)
    zero = jax.tree.map(jnp.zeros_like, params)
    tx = centred(model)
    got, _ = tx.update(zero, tx.init(params), params, data=jnp.ones((3, 4), jnp.uint8))
    assert all((leaf == 0).all() for leaf in got)

    # In a train step: parameters move by the centred gradient at the offsets of the first batch.
    batch = jnp.asarray(np.random.default_rng(0).integers(0, 2, (6, 4)), jnp.uint8)
    init, step = make_train_step(model, optax.chain(centred(model), optax.sgd(1.0)), negatives.exact(model))
    state, _ = step(jax.random.key(0), init(jax.random.key(0), params), batch)
    plain = jax.tree.map(jnp.float32, exact.gradient(model, params, batch))
    values, hidden = units(*float64(params), np.asarray(batch), False)
    mu, lam = (
        jnp.asarray(m.mean(axis=0) + np.asarray(g) / 2, jnp.float32)
        for m, g in zip((values, hidden), plain[1:], strict=True)
    )
    for got, want in zip(
        jax.tree.map(jnp.subtract, params, state.params), centre(plain, mu, lam), strict=True
    ):
        np.testing.assert_allclose(got, want, atol=2e-6)


def test_bad_use_is_refused(as_shipped):
    model = ej.RBM(4, 3)
    with pytest.raises(ValueError, match=r"model is Ising\(.*those of an RBM"):
        centred(ej.Ising(ej.Grid(3, 3)))
    for rate in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"rate is .*; give a number above 0"):
            centred(model, rate)
    params = model.init(jax.random.key(0))
    tx = centred(model)
    with pytest.raises(ValueError, match=r"centred needs the parameters and the batch"):
        tx.update(params, tx.init(params), params)
