"""Hidden sites: what a datum is, and that samplers hold the visible ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from tests import oracles, systems
from tests.statistics import assert_same_law

MODELS = [
    ej.Ising(ej.Grid(2, 3), hidden=ej.Block([5, 0])),
    ej.Ising(ej.Bipartite(2, 3), hidden=ej.Block([2, 3, 4])),
    ej.Potts(ej.Graph(4, [(2, 0), (1, 3)]), 5, "matrix", hidden=ej.Block([1])),
]


def draw(model, shape, seed=0):
    """Random values of the sites."""
    values = np.random.default_rng(seed).integers(0, model.n_levels, shape)
    return jnp.asarray(values, model.position_struct().dtype)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_visible_and_complete_are_inverse(model):
    hidden = sorted(model.hidden)
    shown = [site for site in range(model.graph.n_sites) if site not in hidden]
    assert model.visible_sites.tolist() == shown
    assert model.visible_sites.dtype == np.int32
    assert np.flatnonzero(model.visible_mask).tolist() == shown
    assert model.visible_mask.shape == model.graph.shape
    x = draw(model, model.graph.shape)
    v = model.visible(x)
    assert v.tolist() == [x.reshape(-1)[site] for site in shown]
    completed = model.complete(v)
    assert (completed.shape, completed.dtype) == (x.shape, x.dtype)
    np.testing.assert_array_equal(completed, jnp.where(model.visible_mask, x, 0))
    np.testing.assert_array_equal(model.visible(completed), v)


def test_where_nothing_is_hidden_a_datum_is_a_configuration():
    for model in (ej.Ising(ej.Grid(2, 3)), ej.Potts(ej.Grid(2, 3), 3)):
        x = draw(model, (2, 3))
        assert model.hidden is None
        assert model.visible(x) is x and model.complete(x) is x
        assert model.visible_sites.tolist() == list(range(6))
        assert model.clamp(x)[0].all()


def test_hidden_sites_are_a_set_and_part_of_the_value():
    def make(*sites):
        return ej.Ising(ej.Grid(2, 3), hidden=ej.Block(sites))

    assert make(5, 0) == make(0, 5) and hash(make(5, 0)) == hash(make(0, 5))
    assert make(0) != make(5) and make(0) != ej.Ising(ej.Grid(2, 3))


def test_clamped_chains_follow_the_law_of_the_hidden_sites():
    """A datum a chain: p(h | v) of a grid whose hidden sites touch, both in rows of one table."""
    model = ej.Ising(ej.Grid(2, 3), "edge", hidden=ej.Block([1, 4, 5]))
    params = systems.draw_params(model)
    rows = np.array([[1, 0, 1], [0, 0, 1]], bool)
    mask, values = jax.vmap(model.clamp)(jnp.asarray(np.repeat(rows, 4000, axis=0)))
    schedule = ej.SamplingSchedule(n_warmup=60)
    samples = ej.sample(
        jax.random.key(0), ej.metropolis(model), params, values, schedule, clamped=(mask, values)
    )
    drawn = samples.positions[0]
    np.testing.assert_array_equal(jax.vmap(model.visible)(drawn), np.repeat(rows, 4000, axis=0))
    states = oracles.all_states(6, 2)
    joint = oracles.boltzmann(systems.pairwise(model, params=params).energies)
    hidden = np.asarray(drawn).reshape(2, 4000, 6)[..., [1, 4, 5]]
    numbers = oracles.state_numbers(hidden, 2)
    counts = np.stack([np.bincount(row, minlength=8) for row in numbers])
    given = [joint[(states[:, [0, 2, 3]] == row).all(axis=1)] for row in rows]
    assert_same_law(counts, np.stack([p / p.sum() for p in given]), "hidden sites given visible ones")


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ej.Ising(ej.Grid(2, 3), hidden=[0]), r"hidden is \[0\]; wrap site numbers as Block"),
        (
            lambda: ej.Ising(ej.Grid(2, 3), hidden=ej.Block([6])),
            "hidden names site 6; the graph has sites 0 … 5",
        ),
        (lambda: ej.Potts(ej.Grid(2, 3), 3, hidden=ej.Block(range(6))), "hidden names all 6 sites; leave"),
        (lambda: MODELS[0].complete(jnp.zeros((2, 3), bool)), r"v has shape \(2, 3\); expected \(4,\)"),
        (lambda: MODELS[0].clamp(jnp.zeros(4, jnp.uint8)), "v has dtype uint8; expected bool"),
        (lambda: MODELS[0].visible(jnp.zeros(4, bool)), r"x has shape \(4,\); expected \(2, 3\)"),
        (
            lambda: ej.Ising(ej.Grid(2, 3)).complete(jnp.zeros(6, bool)),
            r"v has shape \(6,\); expected \(2, 3\)",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
