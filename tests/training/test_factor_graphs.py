"""Training of models whose sites differ in their levels, or are real: factor graphs, and RBMs of unlike layers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ebm_jax as ej
from ebm_jax import exact
from ebm_jax.training import negatives
from tests import systems
from tests import test_exact_factors as graphs
from tests.training.common import assert_close
from tests.training.test_step import gradient_of


def as_float32(params):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)


def drawn(model, params, n, seed=0):
    """Exact draws, in NumPy; of an RBM the visible part."""
    layer = "visible" if isinstance(model, ej.CategoricalRBM) else None
    return jax.tree.map(np.asarray, exact.sample(jax.random.key(seed), model, params, n, layer=layer))


@pytest.mark.parametrize("model", [graphs.DISCRETE, ej.CategoricalRBM(2, 2, 3)], ids=["factors", "rbm"])
def test_exact_negatives_give_the_gradient_of_the_likelihood(model):
    params, uniform = systems.draw_params(model), jax.tree.map(jnp.zeros_like, systems.draw_params(model))
    batch = drawn(model, uniform, 23)
    got = gradient_of(model, negatives.exact(model), params, batch)
    assert_close(got, exact.gradient(model, params, batch), atol=2e-6)


@pytest.mark.parametrize("source", [negatives.cd, negatives.pcd])
def test_chains_with_real_units_give_the_gradient_on_average(source):
    """The chains start at exact draws, from which contrastive divergence sees no difference."""
    model, params, n = graphs.REAL, as_float32(graphs.REAL_PARAMS), 20_000
    draws = drawn(model, params, n)
    if source is negatives.cd:
        batch, expected, chains = draws, jax.tree.map(jnp.zeros_like, params), negatives.cd(ej.gibbs(model))
    else:
        batch = jax.tree.map(lambda leaf: leaf[:5], draws)
        expected, chains = exact.gradient(model, params, batch), negatives.pcd(ej.gibbs(model), init=draws)
    got = gradient_of(model, chains, params, batch)
    spread = jax.tree.map(
        lambda leaf: np.asarray(leaf).std(axis=0), jax.vmap(jax.grad(model.energy), (None, 0))(params, draws)
    )
    # Twenty means in all, of two populations: a false alarm has probability 1e-5.
    for value, want, sd in zip(got, expected, spread, strict=True):
        assert (np.abs(value - np.asarray(want)) < 5 * np.sqrt(2 / n) * sd + 1e-5).all()


def test_what_it_refuses():
    model = graphs.DISCRETE
    batch = drawn(model, graphs.DISCRETE_PARAMS, 8)
    wrong = {**batch, "c": batch["c"] + np.uint8(3)}
    with pytest.raises(ValueError, match=r"data\['c'\] holds level [345]; levels run from 0 to 2"):
        ej.fit(
            jax.random.key(0),
            model,
            wrong,
            tx=optax.sgd(0.1),
            negatives=negatives.cd(ej.gibbs(model)),
            n_epochs=1,
            batch_size=4,
        )
    for real in (graphs.REAL, ej.GaussianRBM(2, 2)):
        with pytest.raises(ValueError, match="no discrete levels to enumerate"):
            negatives.exact(real)
    large = ej.FactorGraph({"s": ej.Spins(18), "c": ej.Categories(2, 3)}, [ej.Factor(("s", 0), ("c", 0))])
    params = large.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"2\^18·3\^2 configurations to sum at every step"):
        gradient_of(large, negatives.exact(large), params, drawn(large, params, 1))
    with pytest.raises(ValueError, match=r"dmala moves levels, and some sites of FactorGraph.* are real"):
        ej.dmala(graphs.REAL, 0.5)
