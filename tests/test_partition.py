"""Estimates of log Z from both sides against exact values, and what they say of themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from ebm_jax import exact, partition, schedules
from ebm_jax.partition import annealing

ISING = ej.Ising(ej.Grid(3, 4))
POTTS = ej.Potts(ej.Graph(5, [(0, 1), (1, 2), (2, 0), (3, 2), (3, 4)]), 3, "matrix")
RBM = ej.RBM(6, 4)
TIED = ej.Ising(ej.Grid(4, 4, "periodic"), bias="tied")
MODELS = [POTTS, RBM, TIED]
LENGTH, N_CHAINS = 60, 400
"""Of every ladder and population that nothing else is said of: walks of one model share a program."""
RISING = jnp.linspace(0, 1, LENGTH)
N_SE = 6.2  # a two-sided normal tail of 5e-10


def params_of(model, scale=0.7, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda s: jnp.asarray(rng.normal(0.1, scale, s.shape), jnp.float32), model.params_struct()
    )


def standard_error(result):
    """Of log mean w, by the delta method."""
    n = result.log_weights.size
    return np.sqrt((n / result.ess - 1) / n) if result.ess < n else 1e-6


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_both_sides_find_log_z(model):
    params, n = params_of(model), N_CHAINS
    truth = exact.log_partition(model, params)
    forward = partition.ais(jax.random.key(0), model, params, betas=LENGTH, n_chains=n)
    start = exact.sample(jax.random.key(1), model, params, n)
    reverse = partition.reverse_ais(jax.random.key(2), model, params, start, betas=LENGTH)
    for result in (forward, reverse):
        assert abs(result.log_z - truth) < N_SE * standard_error(result) + 1e-4, (result, truth)
        assert result.interval[0] <= result.log_z <= result.interval[1]
        assert not result.warnings and result.ess > n / 2


@pytest.mark.parametrize("model", [ISING, RBM], ids=str)
def test_one_step_is_importance_sampling(model):
    """With betas 0 and 1 the weights are exp(E₀(x) − E(x)) at draws from the base."""
    params, n = params_of(model, 0.4), 4000
    truth = exact.log_partition(model, params)
    coupled = "weights" if isinstance(model, ej.RBM) else "coupling"
    base = params._replace(**{coupled: jnp.zeros_like(getattr(params, coupled))})
    result = partition.ais(jax.random.key(0), model, params, betas=2, n_chains=n)
    assert abs(result.log_z - truth) < N_SE * standard_error(result)
    # The weights lie among those of all configurations, and their mean square is what the base's law says.
    energy = model.free_energy if isinstance(model, ej.RBM) else model.energy
    layer = "visible" if isinstance(model, ej.RBM) else None
    x = exact.states(model, layer=layer)
    log_w = np.asarray(jax.vmap(lambda v: energy(base, v) - energy(params, v))(x), np.float64)
    log_w += exact.log_partition(model, base)
    nearest = np.abs(result.log_weights[:50, None] - log_w).min(axis=1)
    assert nearest.max() < 1e-3


def test_a_base_nearer_the_model_gives_less_spread():
    params = params_of(RBM)
    own = partition.ais(jax.random.key(0), RBM, params, betas=LENGTH, n_chains=N_CHAINS)
    probabilities = exact.probabilities(RBM, params, layer="visible")
    rate = (probabilities[:, None] * np.asarray(exact.states(RBM, layer="visible"))).sum(0)
    base = ej.RBMParams(
        jnp.zeros((6, 4)), jnp.asarray(np.log(rate / (1 - rate)), jnp.float32), params.hidden_bias
    )
    closer = partition.ais(jax.random.key(0), RBM, params, betas=LENGTH, n_chains=N_CHAINS, base=base)
    truth = exact.log_partition(RBM, params)
    assert abs(closer.log_z - truth) < N_SE * standard_error(closer)
    assert closer.spread < own.spread


@pytest.mark.parametrize("mutant", ["frozen chains", "a wrong base", "steps in the wrong order"])
def test_mutants_are_told_apart(mutant, monkeypatch):
    model, params = ISING, params_of(ISING, 1.0)
    truth = exact.log_partition(model, params)
    if mutant == "frozen chains":
        # The last term is weighed at draws from the base alone: the spread shows it.
        path = annealing.path_of(model, params, None, None)
        start = path.from_base(jax.random.key(5), N_CHAINS)

        def frozen(self, keys, params, beta, packed, n):
            return packed, ej.Info.zero()

        monkeypatch.setattr(type(ej.gibbs(model)), "packed_steps", frozen)
        # Compiled anew: the program in the cache takes steps.
        walk = jax.jit(lambda path, start: annealing.walk.__wrapped__(path, jax.random.key(0), start, RISING))
        result = partition._result(
            jax.random.key(1), path.log_z + np.asarray(walk(path, start)), reverse=False
        )
        assert result.warnings or abs(result.log_z - truth) > N_SE * standard_error(result)
        return
    if mutant == "a wrong base":
        real = annealing.log_z_uncoupled
        monkeypatch.setattr(annealing, "log_z_uncoupled", lambda m, b: real(m, b) + 1.0)
        result = partition.ais(jax.random.key(0), model, params, betas=LENGTH, n_chains=N_CHAINS)
    else:
        start = exact.sample(jax.random.key(1), model, params, N_CHAINS)
        result = partition.ais(jax.random.key(0), model, params, betas=LENGTH, n_chains=N_CHAINS)
        path = annealing.path_of(model, params, None, None)
        down = annealing.walk(path.reversed(), jax.random.key(2), start, RISING[::-1])
        result = partition._result(jax.random.key(1), path.log_z + np.asarray(down), reverse=False)
    assert abs(result.log_z - truth) > N_SE * standard_error(result)


def test_a_badly_mixing_model_shows_in_the_gap():
    """Two far modes: the forward estimate misses none here, but a ladder of two real steps leaves both sides apart.

    The others are next to nothing, so that the walk has the length that is compiled already.
    """
    model = ISING
    betas = np.append(np.linspace(0, 1e-3, LENGTH - 2), [0.5, 1.0])
    params = ej.IsingParams(jnp.full((3, 4), 0.02), jnp.asarray([3.0, 3.0]))
    data = exact.sample(jax.random.key(0), model, params, N_CHAINS)
    bounds = partition.log_likelihood_bounds(
        jax.random.key(1), model, params, data, start=data, betas=betas, n_chains=N_CHAINS
    )
    truth = float(
        -np.mean(jax.vmap(model.energy, (None, 0))(params, data)) - exact.log_partition(model, params)
    )
    assert bounds.lower < truth < bounds.upper
    assert any("nats apart" in text for text in bounds.warnings)
    v = exact.sample(jax.random.key(2), RBM, params_of(RBM), N_CHAINS)[0]
    close = partition.log_likelihood_bounds(
        jax.random.key(1), RBM, params_of(RBM), v, start=v, betas=LENGTH, n_chains=N_CHAINS
    )
    assert close.upper - close.lower < 0.5 and not close.warnings


def test_new_numbers_compile_nothing():
    options = {"betas": LENGTH, "n_chains": N_CHAINS}
    partition.ais(jax.random.key(0), RBM, params_of(RBM), **options)
    before = annealing.walk._cache_size()
    partition.ais(jax.random.key(1), ej.RBM(6, 4), params_of(RBM, seed=4), **options)
    assert annealing.walk._cache_size() == before


def test_wide_biases_have_a_finite_log_z():
    model = ej.Potts(ej.Graph(2, [(0, 1)]), 3, "edge")
    params = ej.PottsParams(jnp.asarray([[0.0, 0, 0], [900.0, 900, 900]]), jnp.zeros(1))
    assert annealing.log_z_uncoupled(model, params) == pytest.approx(900 + 2 * np.log(3))


def test_gaussian_and_categorical_rbms():
    rng = np.random.default_rng(1)
    model = ej.GaussianRBM(4, 3)
    params = jax.tree.map(
        lambda s: jnp.asarray(rng.normal(0, 0.4, s.shape), jnp.float32), model.params_struct()
    )
    w, a, b = (np.asarray(leaf, np.float64) for leaf in params)
    h = np.asarray(np.meshgrid(*[[0, 1]] * 3, indexing="ij")).reshape(3, -1).T
    shifted = a + h @ w.T
    truth = 2 * np.log(2 * np.pi) + np.logaddexp.reduce(h @ b + (shifted**2).sum(1) / 2 - a @ a / 2)
    result = partition.ais(jax.random.key(0), model, params, betas=LENGTH, n_chains=N_CHAINS)
    assert abs(result.log_z - truth) < N_SE * standard_error(result)
    model = ej.CategoricalRBM(3, 2, 3)
    params = jax.tree.map(
        lambda s: jnp.asarray(rng.normal(0, 0.6, s.shape), jnp.float32), model.params_struct()
    )
    v = jnp.asarray(np.asarray(np.meshgrid(*[range(3)] * 3, indexing="ij")).reshape(3, -1).T, jnp.uint8)
    truth = np.logaddexp.reduce(-np.asarray(jax.vmap(model.free_energy, (None, 0))(params, v), np.float64))
    result = partition.ais(jax.random.key(0), model, params, betas=LENGTH, n_chains=N_CHAINS)
    assert abs(result.log_z - truth) < N_SE * standard_error(result)


def test_ladders():
    for ladder in (schedules.linear(50), schedules.geometric(50), schedules.three_piece(50)):
        assert ladder.shape == (50,) and ladder[0] == 0 and ladder[-1] == 1 and (np.diff(ladder) > 0).all()
    np.testing.assert_allclose(np.diff(schedules.linear(5)), 0.25)
    ratios = schedules.geometric(9, 0.01)[2:] / schedules.geometric(9, 0.01)[1:-1]
    np.testing.assert_allclose(ratios, ratios[0])
    long = schedules.three_piece(14501)
    assert (long < 0.5 - 1e-9).sum() == 500 and (long < 0.9 - 1e-9).sum() == 4500


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: partition.ais(jax.random.key(0), ISING, params_of(ISING), betas=1), "betas"),
        (
            lambda: partition.ais(jax.random.key(0), ISING, params_of(ISING), betas=[0.1, 1]),
            "rise from 0 to 1",
        ),
        (
            lambda: partition.ais(jax.random.key(0), ISING, params_of(ISING), base=params_of(ISING)),
            "not zero",
        ),
        (lambda: partition.ais(jax.random.key(0), ISING, params_of(RBM)), "params"),
        (lambda: partition.ais(jax.random.key(0), lambda p, x: 0.0, ()), "standard_normal"),
        (lambda: partition.ais(jax.random.key(0), lambda p, x: 0.0, (), kernel=lambda e: e), "give a Base"),
        (lambda: schedules.geometric(5, 2.0), "smallest is 2.0"),
        (
            lambda: partition.reverse_ais(
                jax.random.key(0), RBM, params_of(RBM), jnp.full((5, 6), 255, jnp.uint8)
            ),
            "holds level 255",
        ),
        (
            lambda: partition.log_likelihood_bounds(
                jax.random.key(0), RBM, params_of(RBM), jnp.full((5, 6), 255, jnp.uint8)
            ),
            "holds level 255",
        ),
        (
            lambda: partition.log_likelihood_bounds(
                jax.random.key(0), ej.Ising(ej.Grid(2, 2), hidden=ej.Block([0])), params_of(ISING), None
            ),
            "hidden sites",
        ),
    ],
)
def test_bad_input(as_shipped, call, message):
    with pytest.raises(ValueError, match=message):
        call()
