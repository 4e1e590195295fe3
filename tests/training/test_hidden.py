"""Training models with hidden sites, on data of the visible ones."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ebm_jax as ej
from ebm_jax import exact
from ebm_jax.energies.target import target_of
from ebm_jax.training import make_train_step, negatives, positives
from tests import oracles, systems
from tests.statistics import assert_same_law
from tests.training.common import assert_close
from tests.training.test_step import gradient_of, marginal_gradient

HIDDEN = ej.Block([1, 4, 6])
SYSTEMS = {
    # Hidden sites 1 and 4 share an edge.
    "ising": lambda: systems.pairwise(ej.Ising(systems.random_graph(), hidden=HIDDEN), scale=0.6),
    "potts": lambda: systems.pairwise(ej.Potts(ej.Grid(2, 3), 3, hidden=ej.Block([1, 4])), scale=0.6),
}
N = 40_000


def rows_of(system, n_rows=4):
    """Configurations whose visible parts are the data."""
    return np.random.default_rng(0).integers(0, system.n_levels, (n_rows, system.n_sites))


def data_of(system, rows, n=N):
    """Visible parts, every row equally often, equal rows together."""
    return jax.vmap(system.model.visible)(system.positions(np.repeat(rows, n // len(rows), axis=0)))


def test_positives_follow_the_conditional_law():
    model, params, energies = system = SYSTEMS["ising"]()
    rows = rows_of(system)
    source = positives.clamped_gibbs(ej.gibbs(model), k=30)
    draw = jax.jit(lambda key, params, batch: source.draw(key, target_of(model), params, batch))
    filled = draw(jax.random.key(0), params, data_of(system, rows))
    assert filled.shape == (N, *model.graph.shape)
    np.testing.assert_array_equal(jax.vmap(model.visible)(filled), data_of(system, rows))
    states, joint = oracles.all_states(system.n_sites, model.n_levels), oracles.boltzmann(energies)
    given = []
    for row in rows:
        agree = (states[:, model.visible_sites] == row[model.visible_sites]).all(axis=1)
        given.append(np.where(agree, joint, 0) / joint[agree].sum())
    assert_same_law(system.counts(filled, len(rows)), np.stack(given), "hidden sites given the data")


@pytest.mark.parametrize(("name", "chains"), [("ising", True), ("potts", False)])
def test_the_gradient_is_that_of_the_marginal_likelihood(name, chains):
    model, params, _ = system = SYSTEMS[name]()
    rows = rows_of(system)
    want = marginal_gradient(system, np.asarray(model.visible_mask).reshape(-1), rows)
    kernel = ej.gibbs(model)
    start = system.exact_positions(N) if chains else None
    source = negatives.pcd(kernel, init=start) if chains else negatives.exact(model)
    filled = positives.clamped_gibbs(kernel, k=30)
    got = gradient_of(model, source, params, data_of(system, rows), filled)
    assert_close(got, want, atol=(7 if chains else 5) / np.sqrt(N))


def test_hidden_sites_learn_parity():
    """Pairs of visible spins are blind to the parity of three: without hidden sites nothing beats log 1/8 a datum."""
    even = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]], bool)
    pairs = lambda n: ej.Graph(n, list(itertools.combinations(range(n), 2)))  # noqa: E731
    shown, model = ej.Ising(pairs(3)), ej.Ising(pairs(5), hidden=ej.Block([3, 4]))
    # The likelihood is concave where nothing is hidden, and flat at zero: this is its maximum.
    assert_close(exact.gradient(shown, ej.IsingParams(jnp.zeros(3), jnp.zeros(3)), even), (0, 0), atol=1e-12)
    result = ej.fit(
        jax.random.key(0),
        model,
        np.tile(even, (64, 1)),
        tx=optax.adam(0.03),
        negatives=negatives.exact(model),
        positives=positives.clamped_gibbs(ej.gibbs(model), k=3),
        params=model.init(jax.random.key(0), scale=0.3),
        n_epochs=400,
        batch_size=256,
        progress=False,
    )
    energies = systems.pairwise(model, params=result.state.params).energies
    visible = oracles.boltzmann(energies).reshape(8, 4).sum(axis=1)  # visible sites lead
    likelihood = np.log(visible[[0b000, 0b011, 0b101, 0b110]]).mean()
    assert np.log(1 / 4) - 0.1 < likelihood <= np.log(1 / 4)


@pytest.mark.usefixtures("as_shipped")
def test_hidden_sites_need_positives_and_data_are_visible_parts():
    model = ej.Ising(ej.Grid(2, 3), hidden=ej.Block([1, 4]))
    kernel, key, tx = ej.gibbs(model), jax.random.key(0), optax.sgd(0.1)
    chains = negatives.cd(kernel)
    with pytest.raises(
        ValueError, match=r"hidden sites and no free energy.*positives\.clamped_gibbs\(kernel\)"
    ):
        make_train_step(model, tx, chains)
    with pytest.raises(ValueError, match=r"hidden sites and no free energy"):
        ej.fit(key, model, jnp.zeros((5, 4), bool), tx=tx, negatives=chains, n_epochs=1, batch_size=5)
    init, step = make_train_step(model, tx, chains, positives.clamped_gibbs(kernel))
    _, metrics = step(key, init(key), jnp.zeros((5, 4), bool))
    assert metrics.n_nonfinite == 0
    with pytest.raises(ValueError, match=r"batch has shape \(5, 2, 3\); expected \(n_chains, 4\)"):
        step(key, init(key), jnp.zeros((5, 2, 3), bool))
    for other in (ej.Ising(ej.Grid(2, 3)), ej.RBM(3, 2)):
        with pytest.raises(ValueError, match=r"does not say which sites are hidden; give a mask"):
            positives.clamped_gibbs(ej.gibbs(other))
    with pytest.raises(ValueError, match="positives sample Ising"):
        shown = ej.Ising(ej.Grid(2, 3))
        make_train_step(shown, tx, negatives.cd(ej.gibbs(shown)), positives.clamped_gibbs(kernel))
