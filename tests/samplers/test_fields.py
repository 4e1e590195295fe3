"""Chains of a Gibbs kernel that add a field of their own to the biases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from tests import oracles, systems
from tests.statistics import assert_other_law, assert_same_law

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(0)
COMPLETE = ej.Graph(10, np.stack(np.triu_indices(10, 1), 1))
RING = ej.Graph(6, [(i, (i + 1) % 6) for i in range(6)])
KERNELS = {
    "bits": lambda: ej.gibbs(ej.Ising(ej.Grid(8, 16, "periodic"), bias="tied")),
    "grid": lambda: ej.gibbs(ej.Ising(ej.Grid(3, 4))),
    "grid of levels": lambda: ej.gibbs(ej.Potts(ej.Grid(2, 3), 3)),
    "general": lambda: ej.gibbs(ej.Potts(RING, 3, "matrix")),
    "looped": lambda: ej.gibbs(ej.Ising(COMPLETE), path="general"),
    "dense": lambda: ej.gibbs(ej.Potts(COMPLETE, 3)),
    "bipartite": lambda: ej.gibbs(ej.RBM(5, 3)),
    "gaussian": lambda: ej.gibbs(ej.GaussianRBM(4, 3)),
}


def draw(struct, n, seed=5, scale=0.8):
    """n fields from NumPy: JAX would compile a program for each shape."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(0, scale, (n, *s.shape)), jnp.float32), struct)


def setting(name, n_chains=66):
    """A kernel, parameters, chains (more than a tile of them) and their fields."""
    kernel = KERNELS[name]()
    params = systems.draw_params(kernel.model, scale=0.4)
    x = ej.init_chains(KEY, kernel.model, n_chains)
    return kernel, params, x, draw(kernel.model.field_struct(), n_chains)


@pytest.mark.parametrize("name", KERNELS)
def test_the_bits_are_those_of_vmap_over_biases_and_a_run_goes_on(name):
    kernel, params, x, field = setting(name)
    n_chains = len(jax.tree.leaves(x)[0])
    whole = ej.sample(KEY, kernel, params, x, ej.SamplingSchedule(2, 4, 2), field=field)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(n_chains))
    own = jax.vmap(kernel.model.add_field, (None, 0))(params, field)
    own = type(params)(*(mine if "bias" in n else p for n, mine, p in zip(params._fields, own, params)))
    axes = type(params)(*(0 if "bias" in name else None for name in params._fields))
    states = jax.vmap(kernel.init, (None, 0))(params, x)

    def last(key, p, state):
        return kernel.steps(key, p, 1.0, state, 8)[0].position

    assert_equal(whole.state.position, jax.jit(jax.vmap(last, (0, axes, 0)))(keys, own, states))
    if name in ("bits", "gaussian"):
        return
    # A state keeps its field. Pieces have the bits of the whole, and so does vmap over single chains.
    piece = ej.SamplingSchedule(2, 2, 2)
    first = ej.sample(KEY, kernel, params, x, piece, field=field)
    second = ej.sample(KEY, kernel, params, first.state, piece)
    assert_equal(second.positions, jax.tree.map(lambda leaf: leaf[2:], whole.positions))
    assert_equal(second.state.field, field)
    alone = jax.jit(jax.vmap(last, (0, None, 0)))(keys, params, states._replace(field=field))
    assert_equal(alone, whole.state.position)


@pytest.mark.parametrize("name", ["grid of levels", "general", "bipartite"])
def test_every_chain_has_the_law_of_its_own_field(name):
    """Chains that start in their laws stay there; chains that start at one state reach them."""
    n, n_fields = 40_000, 3
    kernel = KERNELS[name]()
    model, params = kernel.model, systems.draw_params(kernel.model, scale=0.3)
    fields = draw(model.field_struct(), n_fields)
    states = oracles.all_states(model.graph.n_sites, model.n_levels)
    positions = jax.vmap(model.from_levels)(jnp.asarray(states, jnp.int32))

    energies = np.asarray(jax.vmap(model.energy, (None, 0))(params, positions), np.float64)

    def laws(sign):
        if name == "bipartite":
            added = np.concatenate(fields, axis=1) @ states.T
        else:
            by_site = np.asarray(fields).reshape(n_fields, model.graph.n_sites, -1)
            added = sum(by_site[:, site, states[:, site]] for site in range(model.graph.n_sites))
        return np.stack([oracles.boltzmann(energies - sign * own, 0.9) for own in added])

    law, rng = laws(1), np.random.default_rng(1)
    exact = np.concatenate([rng.choice(len(p), n // 2, p=p) for p in law])
    number = np.stack([exact.reshape(n_fields, -1), np.zeros((n_fields, n // 2), int)], axis=1).reshape(-1)
    run = ej.sample(
        KEY,
        kernel,
        params,
        jax.tree.map(lambda leaf: leaf[number], positions),
        ej.SamplingSchedule(25, 1),
        beta=0.9,
        field=jax.tree.map(lambda f: jnp.repeat(f, n, axis=0), fields),
    )
    system = systems.System(model, params, np.zeros(len(states)))
    counts = system.counts(jax.tree.map(lambda leaf: leaf[0], run.positions), n_fields)
    assert_same_law(counts, law, name)
    assert_other_law(counts, laws(-1), f"{name}, fields of the other sign")
    # Energies are those of the law.
    packed = kernel.pack(params, run.state)
    own = jax.vmap(model.add_field, (None, 0))(params, run.state.field)
    want = jax.vmap(model.energy)(own, run.state.position)
    np.testing.assert_allclose(kernel.packed_energies(params, packed), want, atol=1e-5)


def test_energies_on_bits_count_the_field():
    kernel, params, x, field = setting("bits")
    states = kernel.with_field(jax.vmap(kernel.init, (None, 0))(params, x), field)
    want = jax.vmap(kernel.model.energy)(jax.vmap(kernel.model.add_field, (None, 0))(params, field), x)
    got = kernel.packed_energies(params, kernel.pack(params, states))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-3)


def test_clamping_jit_vmap_and_one_layer():
    kernel, params, x, (visible, _) = setting("bipartite", 4)
    schedule, mask = ej.SamplingSchedule(3, 1), (np.arange(5) < 2, np.zeros(3, bool))
    clamped = mask, jax.tree.map(lambda leaf: leaf[0], x)

    def run(field):
        return ej.sample(KEY, kernel, params, x, schedule, clamped=clamped, field=(field, None)).positions

    wide = jnp.stack([visible, 30.0 * visible])
    eager = [run(field) for field in wide]
    assert_equal(jax.jit(jax.vmap(run))(wide), jax.tree.map(lambda *rows: jnp.stack(rows), *eager))
    v = eager[1][0][0]
    assert (v[:, :2] == x[0][0, :2]).all()
    np.testing.assert_array_equal(v[:, 2:], wide[1, :, 2:] > 0)
    # A new clamping leaves the field where it is.
    state = ej.sample(KEY, kernel, params, x, schedule, field=(visible, None)).state
    assert_equal(jax.vmap(lambda s: kernel.clamp(params, s, clamped))(state).field, (visible, None))


def test_a_field_that_is_not_finite_is_counted():
    kernel, params, x, field = setting("grid", 3)
    bad = field.at[1, 0, 0].set(jnp.nan)
    info = jax.jit(
        lambda f: ej.sample(KEY, kernel, params, x, ej.SamplingSchedule(3, 2), field=f, on_nonfinite="report")
    )(bad).info
    np.testing.assert_array_equal(info.n_nonfinite, [0, 4, 0])
    np.testing.assert_array_equal(info.first_nonfinite, [-1, 1, -1])


def test_fields_that_do_not_fit_are_refused(as_shipped):
    kernel, params, x, field = setting("grid", 3)
    run = lambda kernel, x=x, **kw: ej.sample(KEY, kernel, params, x, ej.SamplingSchedule(1, 1), **kw)  # noqa: E731
    for bad, words in [
        (field[:2], "leading axes .2.; give one field for each of the 3"),
        (field[..., :2], "field has shape"),
        (field.at[0, 0, 0].set(jnp.inf), "field holds inf"),
        (field > 0, "dtype bool"),
    ]:
        with pytest.raises(ValueError, match=words):
            run(kernel, field=bad)
    other = ej.metropolis(kernel.model)
    for refused in (lambda: run(other, field=field), lambda: run(other, run(kernel, field=field).state)):
        with pytest.raises(ValueError, match="Metropolis takes no field; use gibbs"):
            refused()
    bits, params, x, _ = setting("bits", 2)
    with pytest.raises(ValueError, match='build it with bias="site"'):
        run(bits, x, field=jnp.zeros((2, 8, 16)))


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
