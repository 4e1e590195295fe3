"""Gibbs with gradients and discrete MALA: proposals and acceptance against plain NumPy, relaxed energies, steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from ebm_jax.samplers import informed
from tests import kernels, oracles, systems
from tests.statistics import assert_same_law

RBM = systems.get("rbm_4x3")
POTTS = systems.get("potts_1x4_edge")


def random_positions(rng, model, n):
    """Stacked configurations from NumPy, which compiles nothing."""
    leaves, tree = jax.tree.flatten(model.position_struct())
    counts = getattr(model, "level_counts", None) or [model.n_levels] * len(leaves)
    drawn = [
        rng.integers(k, size=(n, *leaf.shape)).astype(leaf.dtype)
        for leaf, k in zip(leaves, counts, strict=True)
    ]
    return jax.tree.unflatten(tree, drawn)


@pytest.mark.parametrize(
    "model",
    [
        *(
            systems.get(name).model
            for name in ("ising_2x3_edge", "ising_graph_tied", "ising_3x3_periodic", "potts_2x3")
        ),
        ej.RBM(5, 4),
        ej.RBM(5, 4, spins=True),
        ej.CategoricalRBM(4, 3, 3),
        ej.Potts(ej.Grid(2, 2, neighbourhood=8), 3, "matrix"),
        ej.Potts(ej.Graph(5, [(1, 0), (1, 2), (2, 0), (3, 2)]), 3, "matrix"),
        ej.Marginal(ej.RBM(5, 4)),
        ej.Marginal(ej.RBM(5, 4, spins=True)),
        ej.Marginal(ej.CategoricalRBM(4, 3, 3)),
    ],
    ids=str,
)
def test_relaxed_energies(model):
    """On one-hot rows it is the energy, and the slope along a site is smooth: a difference quotient gives it."""
    rng, params = np.random.default_rng(4), systems.draw_params(model)
    x = random_positions(rng, model, 5)
    counts = getattr(model, "level_counts", None) or [model.n_levels] * len(jax.tree.leaves(x))
    leaves, tree = jax.tree.flatten(x)
    rows = [np.eye(k, dtype=np.float32)[leaf.astype(int)] for leaf, k in zip(leaves, counts, strict=True)]
    one_hot = jax.tree.unflatten(tree, rows)
    way = jax.tree.unflatten(tree, [rng.normal(size=row.shape).astype(np.float32) for row in rows])

    @jax.jit
    def energies():
        def at(t):
            moved = jax.tree.map(lambda p, w: p + t * w, one_hot, way)
            return jax.vmap(model.energy_relaxed, (None, 0))(params, moved)

        zero, slope = jax.jvp(at, (0.0,), (1.0,))
        return zero, slope, (at(0.05) - at(-0.05)) / 0.1, jax.vmap(model.energy, (None, 0))(params, x)

    zero, slope, quotient, expected = energies()
    np.testing.assert_allclose(zero, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(quotient, slope, rtol=0.03, atol=0.03)


@functools.partial(jax.jit, static_argnums=0)
def described(model, params, positions):
    """Levels, energies, and gradients of the relaxed energy, `(sites, K)`, of configurations."""

    def one(x):
        leaves, tree = jax.tree.flatten(x)
        rows = [jax.nn.one_hot(leaf.astype(jnp.int32), model.n_levels) for leaf in leaves]
        gradient = jax.grad(model.energy_relaxed, argnums=1)(params, jax.tree.unflatten(tree, rows))
        flat = [leaf.reshape(-1, model.n_levels) for leaf in jax.tree.leaves(gradient)]
        return model.levels(x), model.energy(params, x), jnp.concatenate(flat)

    return jax.vmap(one)(positions)


def relative_costs(levels, g):
    """d of every site and relative move, by plain loops over the gradient of the relaxed energy."""
    n, k = g.shape
    return np.array(
        [[g[i, (levels[i] + 1 + j) % k] - g[i, levels[i]] for j in range(k - 1)] for i in range(n)]
    )


@pytest.mark.parametrize("system", [RBM, POTTS], ids=["rbm", "potts"])
@pytest.mark.parametrize("kind", ["gwg", "dmala"])
def test_acceptance_as_in_plain_numpy(system, kind):
    """Where a step proposes is seen from the configurations that it moves to; how likely it accepts, from its words."""
    model, params, beta, size = system.model, system.params, 0.8, 0.6
    kernel = ej.gibbs_with_gradients(model) if kind == "gwg" else ej.dmala(model, size)
    start = system.exact_positions(64)
    states = jax.vmap(lambda x: kernel.init(params, x))(start)
    keys = jax.random.split(jax.random.key(2), 64)
    step = lambda key, state: kernel.step_with_acceptance(key, params, beta, state)  # noqa: E731
    new, info, accepted = jax.jit(jax.vmap(step))(keys, states)
    assert set(np.asarray(info.n_accepted)) == {0, 1}

    def log_q(levels, gradient, moves):
        logits = -beta / 2 * relative_costs(levels, gradient)
        if kind == "gwg":
            ((site, move),) = [(i, m) for i, m in enumerate(moves) if m >= 0]
            return logits[site, move] - np.log(np.exp(logits).sum())
        weights = np.exp(logits - 1 / (2 * size))
        chosen = [1.0 if m < 0 else weights[i, m] for i, m in enumerate(moves)]
        return np.sum(np.log(chosen) - np.log(1 + weights.sum(axis=1)))

    checked = 0
    (levels, energies, gradients), (new_levels, new_energies, new_gradients) = (
        [np.asarray(part) for part in described(model, params, x)] for x in (start, new.position)
    )
    for i in np.flatnonzero(np.asarray(info.n_accepted)):
        # The relative move of every site, −1 where there is none.
        forth = (new_levels[i] - levels[i]) % model.n_levels - 1
        back = (levels[i] - new_levels[i]) % model.n_levels - 1
        # dmala may propose to stay.
        if (forth < 0).all():
            continue
        ratio = log_q(new_levels[i], new_gradients[i], back) - log_q(levels[i], gradients[i], forth)
        ratio -= beta * (new_energies[i] - energies[i])
        assert float(accepted[i]) == pytest.approx(np.exp(min(ratio, 0.0)), rel=1e-3, abs=1e-4)
        assert float(new.energy[i]) == pytest.approx(float(new_energies[i]), rel=1e-4, abs=1e-4)
        checked += 1
    assert checked > 10


def test_moves_one_site_and_no_clamped_one():
    model, params = RBM.model, RBM.params
    kernel = ej.gibbs_with_gradients(model)
    mask = (jnp.array([True, False, True, True]), jnp.array([True, False, True]))
    start = RBM.exact_positions(256)
    before = np.asarray(jax.vmap(model.levels)(start))
    states = jax.vmap(lambda x: kernel.init(params, x, (mask, x)))(start)
    keys = jax.random.split(jax.random.key(0), 256)
    step = jax.jit(jax.vmap(lambda k, s: kernel.step(k, params, 1.0, s)))
    end, info = step(keys, states)
    changed = np.asarray(jax.vmap(model.levels)(end.position)) != before
    np.testing.assert_array_equal(changed.sum(axis=1), info.n_accepted)
    assert not changed[:, [0, 2, 3, 4, 6]].any()
    assert changed[:, 1].any()
    assert changed[:, 5].any()
    everything = jax.tree.map(jnp.ones_like, mask)
    states = jax.vmap(lambda x: kernel.init(params, x, (everything, x)))(start)
    end, info = step(keys, states)
    np.testing.assert_array_equal(jax.vmap(model.levels)(end.position), before)
    assert not np.asarray(info.n_accepted).any()


def test_small_steps_stay_and_large_ones_move():
    start = RBM.exact_positions(512)
    moved = []
    for size in (0.05, 0.3, 2.0):
        kernel = ej.dmala(RBM.model, size)
        end, _ = systems.run_chains(kernel, jax.random.key(0), RBM.params, 1.0, start)
        moved.append(
            sum(
                int(np.sum(np.asarray(a) != np.asarray(b)))
                for a, b in zip(jax.tree.leaves(start), jax.tree.leaves(end), strict=True)
            )
        )
    assert moved[0] < 20 < moved[1] < moved[2]


def test_draws_of_a_site_follow_their_weights():
    one = np.array([[0.3, -1.0, 2.0]], np.float32)
    u = jnp.asarray((np.arange(200_000) + 0.5) / 200_000, jnp.float32)
    drawn = np.asarray(jax.jit(informed._draw_moves)(u, jnp.asarray(one.repeat(200_000, axis=0))))
    weights = np.array([1.0, *np.exp([0.3, -1.0, 2.0])])
    np.testing.assert_allclose(np.bincount(drawn + 1) / 200_000, weights / weights.sum(), atol=1e-4)
    logits = jnp.asarray(one)
    chance = informed._log_chance(logits, jnp.array([1]))
    assert float(chance) == pytest.approx(np.log(weights[2] / weights.sum()), rel=1e-5)
    assert float(informed._log_chance(logits, jnp.array([-1]))) == pytest.approx(-np.log(weights.sum()))


def test_warm_up_finds_a_step():
    start = RBM.exact_positions(256)
    # So strong that long steps are refused more often than the target.
    params = systems.draw_params(RBM.model, scale=1.5)
    tuned, states = ej.warm_up(jax.random.key(1), ej.dmala(RBM.model, 5.0), params, start, 300)
    end = ej.sample(jax.random.key(1), tuned, params, states, ej.SamplingSchedule(100, 1, 100))
    assert float(end.info.acceptance.mean()) == pytest.approx(0.574, abs=0.05)
    with pytest.raises(ValueError, match="has a step size"):
        ej.warm_up(jax.random.key(1), ej.gibbs_with_gradients(RBM.model), params, start, 10)


class Net:
    """A network's energy over three sites of four levels, written for one-hot rows."""

    n_levels = 4

    def energy_relaxed(self, params, one_hot):
        return jnp.sum(jnp.tanh(one_hot.ravel() @ params) * 2)

    def energy(self, params, x):
        return self.energy_relaxed(params, jax.nn.one_hot(x, 4))


@pytest.mark.parametrize("make", [ej.gibbs_with_gradients, lambda m: ej.dmala(m, 1.0)], ids=["gwg", "dmala"])
def test_a_network_over_discrete_sites(make):
    net, params = Net(), jnp.asarray(np.random.default_rng(0).normal(size=(12, 6)), jnp.float32)
    everything = jnp.asarray(oracles.all_states(3, 4), jnp.int32)
    weights = np.exp(-np.asarray(jax.vmap(net.energy, (None, 0))(params, everything), np.float64))
    start = jnp.zeros((6000, 3), jnp.int32)
    end = ej.sample(jax.random.key(1), make(net), params, start, ej.SamplingSchedule(150, 1, 150)).positions[
        0
    ]
    counts = np.bincount(oracles.state_numbers(np.asarray(end), 4), minlength=64)
    assert_same_law(counts, weights / weights.sum(), "a network")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ej.dmala(RBM.model, 0.0), "step_size is 0"),
        (lambda: ej.dmala(ej.GaussianRBM(3, 2), 0.1), "no energy_relaxed"),
        (
            lambda: ej.gibbs_with_gradients(kernels.gaussian),
            "no energy and no energy_relaxed and no n_levels",
        ),
        (lambda: ej.Marginal(ej.Ising(ej.Grid(2, 2))), "give an RBM"),
        (
            lambda: ej.dmala(RBM.model, 0.1).check(
                RBM.params, (jnp.zeros((2, 4)), jnp.zeros((2, 3), jnp.uint8)), None
            ),
            "has dtype float32",
        ),
        (
            lambda: ej.dmala(Net(), 0.1).check(jnp.zeros((12, 6)), jnp.full((2, 3), 4), None),
            "holds level 4",
        ),
    ],
)
def test_bad_input(call, words, as_shipped):
    with pytest.raises(ValueError, match=words):
        call()
