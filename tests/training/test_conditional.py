"""Training with a field for each row, and mean energies by counts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ebm_jax as ej
from ebm_jax.energies.target import target_of
from ebm_jax.training import Negatives, WithField, contrastive, make_train_step, negatives, positives
from ebm_jax.types import Info
from tests import oracles, systems
from tests.samplers.test_fields import draw
from tests.training.common import assert_close, bits

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(3)
GRAPH = ej.Graph(9, [(0, 1), (2, 1), (3, 5), (5, 0), (7, 8), (8, 0)])
MODELS = {
    "ising": ej.Ising(GRAPH),
    "tied": ej.Ising(ej.Grid(4, 4, "periodic", 8), bias="tied"),
    "no edge": ej.Ising(ej.Graph(3, [])),
    "potts": ej.Potts(ej.Grid(3, 4, "free", 8), 5, "edge"),
    "tables": ej.Potts(ej.Grid(2, 3), 3, "matrix"),
}


@pytest.mark.parametrize("name", MODELS)
def test_mean_energies_are_means_of_energies(name):
    """With fields and without, numbers of rows that fill words and that do not."""
    model = MODELS[name]
    target, params = target_of(model), systems.draw_params(model)
    assert target.mean_energy is not None
    slow = dataclasses.replace(target, mean_energy=None)

    @functools.partial(jax.jit, static_argnums=0)
    def contrast(target, batch, drawn):
        return contrastive.value_and_grad(params, {}, target, batch, drawn)

    x, y = (ej.init_chains(jax.random.key(i), model, n) for i, n in ((1, 64), (2, 33)))
    fields = [draw(model.field_struct(), n, seed=n) for n in (64, 33)]
    for batch, own in ((x, None), (WithField(x, fields[0]), fields[1])):
        drawn = Negatives(y, None, Info.zero(), field=own)
        assert_close(contrast(target, batch, drawn), contrast(slow, batch, drawn), atol=2e-5)


def test_an_energy_of_ones_own_is_not_counted():
    class Louder(ej.Ising):
        def energy(self, params, x):
            return 2 * super().energy(params, x)

    assert target_of(Louder(GRAPH)).mean_energy is None


def gradient_of(model, source, params, batch, positives=None):
    """The gradient of one step: plain gradient descent at rate 1 subtracts it."""
    init, step = make_train_step(model, optax.sgd(1.0), source, positives)
    state, metrics = step(KEY, init(KEY, params), batch)
    assert metrics.n_nonfinite == 0
    return jax.tree.map(lambda before, after: before - after, params, state.params)


def exact_gradient(model, params, rows, fields, visible):
    """The mean over rows of E[∂E | visible part, field] − E[∂E | field], by enumeration."""
    states = oracles.all_states(model.graph.n_sites, model.n_levels)
    positions = jax.vmap(model.from_levels)(jnp.asarray(states, jnp.int32))
    gradients = jax.vmap(jax.grad(model.energy), (None, 0))(params, positions)
    total = jax.tree.map(jnp.zeros_like, params)
    for i, row in enumerate(rows):
        own = model.add_field(params, jax.tree.map(lambda f, i=i: f[i], fields))
        law = oracles.boltzmann(np.asarray(jax.vmap(model.energy, (None, 0))(own, positions), np.float64))
        shown = np.where((states[:, visible] == row[visible]).all(axis=1), law, 0)
        weight = jnp.asarray(shown / shown.sum() - law, jnp.float32) / len(rows)
        total = jax.tree.map(lambda t, g, w=weight: t + jnp.tensordot(w, g, 1), total, gradients)
    return total


@pytest.mark.parametrize("name", ["rbm", "hidden sites"])
def test_the_gradient_is_that_of_the_conditional_likelihood(name):
    n, n_rows = 24_000, 3
    if name == "rbm":
        model, visible = ej.RBM(4, 2), np.arange(4)
        source, filled = negatives.cd(ej.gibbs(model), k=25), None
    else:
        model = ej.Ising(ej.Graph(5, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0)]), hidden=ej.Block([1, 4]))
        kernel, visible = ej.gibbs(model), model.visible_sites
        source, filled = negatives.pcd(kernel, 25, n), positives.clamped_gibbs(kernel, k=2)
    params = systems.draw_params(model, scale=0.4)
    rows = np.random.default_rng(0).integers(0, 2, (n_rows, model.graph.n_sites))
    fields = draw(model.field_struct(), n_rows)
    data = jax.vmap(lambda levels: target_of(model).visible(model.from_levels(levels)))(jnp.asarray(rows))
    batch = jax.tree.map(lambda leaf: jnp.repeat(leaf, n // n_rows, axis=0), WithField(data, fields))
    got = gradient_of(model, source, params, batch, filled)
    want = exact_gradient(model, params, rows, fields, visible)
    assert_close(got, want, atol=7 / np.sqrt(n))
    without = exact_gradient(model, params, rows, jax.tree.map(jnp.zeros_like, fields), visible)
    assert max(jnp.abs(g - w).max() for g, w in zip(got, without)) > 14 / np.sqrt(n)


def test_fit_takes_fields_from_the_data_or_from_prepare():
    model, data = ej.Ising(ej.Grid(3, 4)), bits((40, 3, 4)).astype(bool)
    field = 0.7 * ej.as_spins(data)

    def noisy(key, clean):
        del key
        return WithField(clean, 0.7 * ej.as_spins(clean))

    def fit(data, prepare=None):
        source = negatives.pcd(ej.gibbs(model), n_chains=10)
        return ej.fit(
            KEY, model, data, tx=optax.sgd(0.1), negatives=source, n_epochs=2, batch_size=10, prepare=prepare,
            progress=False,
        )  # fmt: skip

    given, made = fit(WithField(data, field)), fit(data, noisy)
    assert_close(given.state.params, made.state.params, atol=1e-6)
    # Chains between two steps have no field: the next batch brings its own.
    assert given.state.negatives.field is None


def test_what_takes_no_field_refuses_it(as_shipped):
    model = ej.RBM(4, 3)
    data = bits((6, 4))
    batch = WithField(data, (np.zeros((6, 4), np.float32), None))
    for source, wrong, words in [
        (negatives.exact(model), batch, "Enumerated draws no negatives under the fields of a batch; use neg"),
        (negatives.pcd(ej.gibbs(model), n_chains=5), batch, "n_chains=6"),
        (negatives.cd(ej.metropolis(model)), batch, "Metropolis takes no field"),
        (
            negatives.cd(ej.gibbs(model)),
            batch._replace(field=batch.field[0]),
            "batch.field has the structure",
        ),
        (negatives.cd(ej.gibbs(model)), WithField(data[:5], batch.field), "one field for each of the 5"),
    ]:
        init, step = make_train_step(model, optax.sgd(0.1), source)
        with pytest.raises(ValueError, match=words):
            step(KEY, init(KEY), wrong)
