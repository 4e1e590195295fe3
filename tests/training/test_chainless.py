"""Objectives without chains: their values by hand, and estimates that agree with the truth to their standard errors.

An estimate minimises the loss over blocks of rows whose draws are held. The blocks' gradients give its covariance (the
sandwich H⁻¹VH⁻¹ / B), and Hotelling's T² one p-value for all parameters, which goes to the suite's budget of false
positives.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats
from jax.flatten_util import ravel_pytree

import ebm_jax as ej
from ebm_jax import training
from ebm_jax.energies.target import target_of
from ebm_jax.training.chainless.denoising_chains import make_ladder
from tests.statistics import ALPHA, assert_plausible

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(0)
N_BLOCKS = 64
SIGMAS = (0.3, 0.6, 1.2)

# ---- a mixture of two normals in the plane ----

TRUTH = {
    "centres": jnp.asarray([[-1.0, 0.0], [1.0, 0.5]]),
    "log_variance": jnp.log(jnp.float32(0.36)),
    "log_odds": jnp.float32(0.4),
}


def mixture(params, pair):
    """E(x, σ) of the mixture with noise σ, up to a constant that depends on neither x nor the log odds."""
    x, sigma = pair
    variance = jnp.exp(params["log_variance"]) + sigma**2
    squares = jnp.sum((x[None] - params["centres"]) ** 2, axis=1) / (2 * variance)
    weights = jax.nn.log_sigmoid(jnp.stack([params["log_odds"], -params["log_odds"]]))
    return -jax.nn.logsumexp(weights - squares)


def plain(params, x):
    return mixture(params, (x, 0.0))


def points(n, seed=0):
    rng = np.random.default_rng(seed)
    second = rng.random(n) > scipy.special.expit(0.4)
    centres = np.asarray(TRUTH["centres"])[second.astype(int)]
    return (centres + 0.6 * rng.normal(size=(n, 2))).astype(np.float32)


def estimate(objective, model, start, rows):
    """Returns the minimiser of the loss, as a vector, and its covariance."""
    target, (flat, unravel) = target_of(model), ravel_pytree(start)
    rows = jnp.asarray(rows).reshape(N_BLOCKS, -1, *rows.shape[1:])

    def drawn(key, block):
        return None if objective.draw is None else objective.draw(key, start, target, block)

    draws = jax.jit(jax.vmap(drawn))(jax.random.split(KEY, N_BLOCKS), rows)

    def loss(flat, x, z):
        return objective.loss(unravel(flat), target, x, z)[0]

    @jax.jit
    def derivatives(flat, draws):
        gradient = jax.vmap(jax.grad(loss), (None, 0, 0))

        def column(direction):
            return jax.jvp(lambda flat: gradient(flat, rows, draws).mean(axis=0), (flat,), (direction,))[1]

        # One column after the other: XLA's program of all together crashes where energies are differentiated twice.
        return gradient(flat, rows, draws), jax.lax.map(column, jnp.eye(len(flat)))

    found = np.float64(flat)
    for _ in range(5):
        gradients, bend = map(np.float64, derivatives(found.astype(np.float32), draws))
        found = found - np.linalg.solve(bend, gradients.mean(axis=0))
    # It is a minimum.
    assert abs(gradients.mean(axis=0)).max() < 1e-4 and np.linalg.eigvalsh(bend).min() > 0
    inverse = np.linalg.inv(bend)
    return found, inverse @ np.cov(gradients, rowvar=False) @ inverse / N_BLOCKS


def pvalue(found, covariance, truth):
    """The p-value of Hotelling's T²."""
    error, p, n = found - np.asarray(ravel_pytree(truth)[0], float), len(found), N_BLOCKS
    t2 = error @ np.linalg.solve(covariance, error)
    return scipy.stats.f.sf(t2 * (n - p) / (p * (n - 1)), p, n - p)


def moved(params, size=0.1):
    """Where Newton's method starts."""
    flat, unravel = ravel_pytree(params)
    return unravel(flat + size * jnp.cos(jnp.arange(len(flat))))


ROWS = points(64 * 128)
NOISY = points(64 * 128, 1) + 0.5 * np.random.default_rng(2).normal(size=(64 * 128, 2)).astype(np.float32)
LOG_Z = jnp.log(2 * jnp.pi * jnp.float32(0.36))


def smoothed(sigma):
    return {**TRUTH, "log_variance": jnp.log(jnp.float32(0.36 + sigma**2))}


CONTINUOUS = {
    "denoising": (training.denoising_score_matching(0.5), plain, smoothed(0.5)),
    "denoising, levels": (training.denoising_score_matching(SIGMAS), mixture, TRUTH),
    "sliced": (training.sliced_score_matching(2), plain, TRUTH),
    "noise-contrastive": (
        training.noise_contrastive(training.gaussian_noise(NOISY), ratio=2),
        training.normalized(plain),
        training.NormalizedParams(TRUTH, LOG_Z),
    ),
    "energy discrepancy": (training.energy_discrepancy(0.7, n_negatives=4), plain, TRUTH),
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_density_of_the_plane_is_estimated_to_its_standard_errors(name):
    objective, model, truth = CONTINUOUS[name]
    found, covariance = estimate(objective, model, moved(truth), ROWS)
    assert np.sqrt(np.diag(covariance)).max() < 0.15
    assert_plausible(pvalue(found, covariance, truth), name)
    if name == "denoising":
        # It is the smoothed density, not the one of the data.
        assert pvalue(found, covariance, TRUTH) < ALPHA


# ---- discrete models that can be enumerated ----

ISING = ej.Ising(ej.Grid(3, 3), coupling="edge")
POTTS = ej.Potts(ej.Grid(2, 2), n_levels=3)
RBM = ej.RBM(4, 2)


def random_params(model, scale):
    rng = np.random.default_rng(3)
    return jax.tree.map(
        lambda leaf: jnp.asarray(scale * rng.normal(size=leaf.shape), jnp.float32), model.params_struct()
    )


DISCRETE = {
    "pseudo-likelihood": training.pseudo_likelihood(),
    "ratio matching": training.ratio_matching(),
    "energy discrepancy": training.discrete_energy_discrepancy(0.2, n_negatives=4),
}


@pytest.fixture(scope="module")
def spins():
    params = random_params(ISING, 0.3)
    return params, np.asarray(ej.exact.sample(KEY, ISING, params, 64 * 64))


@pytest.mark.parametrize("name", DISCRETE)
def test_couplings_of_spins_are_estimated_to_their_standard_errors(name, spins):
    params, rows = spins
    found, covariance = estimate(DISCRETE[name], ISING, moved(params, 0.05), rows)
    assert np.sqrt(np.diag(covariance)).max() < 0.08
    assert_plausible(pvalue(found, covariance, params), name)
    assert pvalue(found, covariance, jax.tree.map(jnp.zeros_like, params)) < ALPHA


def energies_of_neighbours(model, params, x):
    """Energies of x and of every configuration with one site changed, `(sites, levels)`, one by one."""
    flat = np.asarray(x).reshape(-1)
    energy = target_of(model).data_energy

    def at(i, k):
        other = flat.copy()
        other[i] = k
        return float(energy(params, jnp.asarray(other.reshape(x.shape))))

    return np.array([[at(i, k) for k in range(model.n_levels)] for i in range(len(flat))]), flat.astype(int)


@pytest.mark.parametrize("model", [ISING, POTTS, RBM], ids=["Ising", "Potts", "RBM"])
def test_discrete_losses_are_those_of_energies_one_by_one(model):
    params = random_params(model, 0.5)
    struct = target_of(model).data_struct()
    levels = np.random.default_rng(4).integers(0, model.n_levels, (3, *struct.shape)).astype(struct.dtype)
    pseudo = ratio = 0.0
    for x in levels:
        energies, now = energies_of_neighbours(model, params, x)
        own = energies[np.arange(len(now)), now]
        pseudo += np.sum(own + scipy.special.logsumexp(-energies, axis=1)) / 3
        other = np.arange(model.n_levels) != now[:, None]
        ratio += np.sum(scipy.special.expit(own[:, None] - energies)[other] ** 2) / 3
    target, batch = target_of(model), jnp.asarray(levels)
    np.testing.assert_allclose(
        DISCRETE["pseudo-likelihood"].loss(params, target, batch, None)[0], pseudo, rtol=1e-5
    )
    np.testing.assert_allclose(
        DISCRETE["ratio matching"].loss(params, target, batch, None)[0], ratio, rtol=1e-5
    )


@pytest.mark.parametrize("name", ["pseudo-likelihood", "ratio matching"])
def test_the_law_of_a_potts_model_is_stationary(name):
    """All 81 configurations, weighted exactly."""
    params, target = random_params(POTTS, 0.5), target_of(POTTS)
    states = ej.exact.states(POTTS)
    weights = jnp.asarray(ej.exact.probabilities(POTTS, params), jnp.float32)

    def expected(params):
        each = jax.vmap(lambda x: DISCRETE[name].loss(params, target, x[None], None)[0])(states)
        return jnp.dot(weights, each)

    gradient = jax.jit(jax.grad(expected))
    for leaf in jax.tree.leaves(gradient(params)):
        np.testing.assert_allclose(leaf, 0, atol=2e-6)
    largest = max(float(abs(leaf).max()) for leaf in jax.tree.leaves(gradient(moved(params))))
    assert largest > 1e-3


def test_jumps_change_a_site_with_the_given_probability_to_any_other_level():
    """Both jumps together: with p = 0.3 and three levels, x₁ = x with probability 0.7² + 0.3²/2."""
    objective = training.discrete_energy_discrepancy(0.3, n_negatives=1)
    batch = jnp.asarray(np.random.default_rng(5).integers(0, 3, (4096, 2, 2)), jnp.uint8)
    drawn = objective.draw(KEY, None, target_of(POTTS), batch)
    assert drawn.shape == (1, 4096, 2, 2) and drawn.dtype == jnp.uint8
    change = (np.asarray(drawn[0], int) - np.asarray(batch)) % 3
    counts = np.bincount(change.reshape(-1), minlength=3)
    same = 0.7**2 + 0.3**2 / 2
    law = np.array([same, (1 - same) / 2, (1 - same) / 2])
    assert_plausible(scipy.stats.chisquare(counts, law * counts.sum()).pvalue, "jumps")


# ---- values by hand ----


def quadratic(theta, x):
    return 0.5 * theta * jnp.sum(x**2)


def test_values_on_numbers_by_hand():
    target, theta, x = target_of(quadratic), jnp.float32(2.0), jnp.asarray([[1.0], [3.0]])
    z = jnp.asarray([[0.5], [-1.0]])
    loss, _ = training.denoising_score_matching(0.5).loss(theta, target, x, (z, jnp.full(2, 0.5)))
    # σθ(x + σz) − z = 0.75 and 3.5.
    np.testing.assert_allclose(loss, 0.5 * (0.75**2 + 3.5**2) / 2)
    loss, _ = training.sliced_score_matching().loss(theta, target, x, jnp.ones((1, 2, 1)))
    np.testing.assert_allclose(loss, 0.5 * (2**2 + 6**2) / 2 - 2)
    drawn = jnp.asarray([[[0.0], [2.0]], [[2.0], [1.0]]])
    for w in (1.0, 0.0, 0.5):
        loss, _ = training.energy_discrepancy(1.0, n_negatives=2, stabilizer=w).loss(theta, target, x, drawn)
        each = np.log((w + np.array([np.exp(1) + np.exp(-3), np.exp(5) + np.exp(8)])) / 2)
        np.testing.assert_allclose(loss, each.mean(), rtol=1e-6)


def test_noise_contrastive_is_logistic_regression():
    rng = np.random.default_rng(6)
    data = (rng.normal(size=(50, 2)) @ np.array([[1.0, 0.5], [0.0, 2.0]]) + 1).astype(np.float32)
    noise = training.gaussian_noise(data)
    law = scipy.stats.multivariate_normal(data.mean(axis=0), np.cov(data, rowvar=False))
    np.testing.assert_allclose(jax.vmap(noise.log_density)(data), law.logpdf(data), rtol=1e-5)
    drawn = np.asarray(noise.sample(KEY, 4096))
    # Whitened, the draws have means 0 and squares 1.
    unit = np.linalg.solve(np.linalg.cholesky(law.cov), (drawn - law.mean).T)
    assert_plausible(scipy.stats.chi2.sf(4096 * np.sum(unit.mean(axis=1) ** 2), 2), "means")
    squares = np.sum(unit**2)
    assert_plausible(
        2 * min(scipy.stats.chi2.sf(squares, 8192), scipy.stats.chi2.cdf(squares, 8192)), "squares"
    )
    assert abs(np.corrcoef(unit)[0, 1]) < 0.1

    params = training.NormalizedParams(jnp.float32(0.7), jnp.float32(1.5))
    loss, extras = training.noise_contrastive(noise, ratio=2).loss(
        params, target_of(training.normalized(quadratic)), jnp.asarray(data[:3]), jnp.asarray(data[3:9])
    )
    odds = -0.35 * np.sum(data[:9] ** 2, axis=1) - 1.5 - law.logpdf(data[:9]) - np.log(2)
    want = np.mean(np.logaddexp(0, -odds[:3])) + 2 * np.mean(np.logaddexp(0, odds[3:]))
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    np.testing.assert_allclose(extras["accuracy"], 0.5 * (np.mean(odds[:3] > 0) + np.mean(odds[3:] < 0)))


def test_a_normalized_model_keeps_what_is_known_of_the_model():
    target = training.normalized(RBM)
    params = target.init(KEY)
    assert params.log_z == 0 and target.params_struct.params == RBM.params_struct()
    v = jnp.asarray([0, 1, 1, 0], jnp.uint8)
    shifted = params._replace(log_z=jnp.float32(2.0))
    np.testing.assert_allclose(
        target.data_energy(shifted, v), RBM.free_energy(params.params, v) + 2, rtol=1e-6
    )
    assert (
        target == training.normalized(ej.RBM(4, 2)) and target.data_struct() == target_of(RBM).data_struct()
    )


# ---- diffusion recovery ----


def test_chains_of_the_recovery_have_the_law_of_their_recursion():
    """For a quadratic energy a step is linear, so that mean and variance after four steps are exact."""
    ladder = make_ladder((0.5, 1.0), 4, 0.6)
    b, gap, theta, n = 0.6, np.sqrt(0.75), 2.0, 4096
    noisy = jnp.full((n, 1), 1.5)

    def energy(theta, pair):
        return quadratic(theta, pair[0])

    x = ladder.recovered(
        KEY, jnp.float32(theta), target_of(energy), noisy, jnp.full(n, 0.5), jnp.full(n, gap)
    )
    mean, variance = 1.5, 0.0
    for _ in range(4):
        mean = mean - 0.5 * b**2 * (gap**2 * theta * mean + mean - 1.5)
        variance = (1 - 0.5 * b**2 * (gap**2 * theta + 1)) ** 2 * variance + b**2 * gap**2
    unit = (np.asarray(x, float)[:, 0] - mean) / np.sqrt(variance)
    assert_plausible(2 * scipy.stats.norm.sf(abs(unit.mean()) * np.sqrt(n)), "mean")
    total = np.sum(unit**2)
    assert_plausible(2 * min(scipy.stats.chi2.sf(total, n), scipy.stats.chi2.cdf(total, n)), "variance")


def test_recovery_learns_a_density_of_the_plane_and_samples_it():
    objective = training.recovery_likelihood(SIGMAS, n_steps=20, step_scale=0.3)
    tx = optax.adam(optax.cosine_decay_schedule(0.1, 60))
    fitted = ej.fit(
        KEY, mixture, ROWS[:3840], tx=tx, params=moved(TRUTH, 0.4), objective=objective, n_epochs=4, batch_size=256,
        progress=False,
    )  # fmt: skip
    params = fitted.state.params
    assert divergence(params, 0.3) < 0.05 < 0.1 < divergence(moved(TRUTH, 0.4), 0.3)
    # Points of the noisiest level, from which the chains go down to the lowest one.
    start = points(2048, 7) + 1.2 * jax.random.normal(KEY, (2048, 2))
    sample = jax.jit(
        lambda start: training.recovery_samples(
            KEY, mixture, TRUTH, start, SIGMAS, n_steps=60, step_scale=0.3
        )
    )
    x = np.asarray(sample(start))
    right = x @ np.array([2.0, 0.5]) > 0.3125
    share = scipy.special.expit(0.4)
    assert abs(np.mean(~right) - share) < 0.06
    centres = np.stack([x[~right].mean(axis=0), x[right].mean(axis=0)])
    np.testing.assert_allclose(centres, TRUTH["centres"], atol=0.15)
    # The noise of the lowest level is in it, and no more.
    np.testing.assert_allclose(x[:, 1].var(), 0.36 + 0.3**2 + share * (1 - share) / 4, rtol=0.15)


SIDE = np.linspace(-5, 5, 81)
GRID = np.stack(np.meshgrid(SIDE, SIDE, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float32)


def divergence(params, sigma):
    """KL(data with noise σ || model), by quadrature on a grid."""
    cell = (SIDE[1] - SIDE[0]) ** 2

    def log_density(params):
        energies = np.asarray(jax.vmap(lambda x: mixture(params, (x, sigma)))(GRID), float)
        return -energies - scipy.special.logsumexp(-energies) - np.log(cell)

    truth = log_density(TRUTH)
    return float(np.sum(np.exp(truth) * (truth - log_density(params))) * cell)


# ---- how a train step draws ----


def test_draws_change_from_step_to_step_and_a_resumed_run_has_the_same_bits():
    def loss(params, model, batch, draws):
        return jnp.sum((params - draws) ** 2), {"draw": draws[0]}

    objective = training.Objective(
        loss, needs_negatives=False, draw=lambda key, params, model, batch: jax.random.normal(key, (2,))
    )
    options = {"tx": optax.sgd(0.1), "objective": objective, "batch_size": 4, "progress": False}
    rows = np.ones((12, 2), np.float32)
    whole = ej.fit(KEY, quadratic, rows, n_epochs=2, params=jnp.zeros(2), **options)
    seen = whole.metrics.extra["draw"].reshape(-1)
    assert len(set(seen.tolist())) == 6
    half = ej.fit(KEY, quadratic, rows, n_epochs=1, params=jnp.zeros(2), **options)
    rest = ej.fit(KEY, quadratic, rows, n_epochs=1, state=half.state, **options)
    np.testing.assert_array_equal(rest.state.params, whole.state.params)
    np.testing.assert_array_equal(
        np.concatenate([half.metrics.extra["draw"], rest.metrics.extra["draw"]]).ravel(), seen
    )


def test_objectives_compare_by_value():
    makers = [
        lambda: training.denoising_score_matching(SIGMAS),
        lambda: training.noise_contrastive(training.gaussian_noise(ROWS[:8])),
        lambda: training.energy_discrepancy(0.5),
        lambda: training.discrete_energy_discrepancy(0.1),
        lambda: training.recovery_likelihood(SIGMAS),
    ]
    for make in makers:
        assert make() == make() and hash(make()) == hash(make())
    for one, other in itertools.combinations(makers, 2):
        assert one() != other()


def test_errors_name_the_value(as_shipped):
    bits = jnp.zeros((2, 3), jnp.uint8)
    for objective in (training.denoising_score_matching(0.1), training.energy_discrepancy(0.1)):
        with pytest.raises(ValueError, match="the batch has dtype uint8"):
            objective.draw(KEY, None, target_of(quadratic), bits)
    with pytest.raises(ValueError, match="does not say how many levels"):
        training.discrete_energy_discrepancy(0.1).draw(KEY, None, target_of(quadratic), bits)
    with pytest.raises(ValueError, match="the batch has dtype float32; give levels"):
        training.discrete_energy_discrepancy(0.1, n_levels=2).draw(
            KEY, None, target_of(quadratic), 1.0 * bits
        )
    with pytest.raises(ValueError, match="has no conditionals"):
        training.ratio_matching().loss(None, target_of(quadratic), bits, None)
    with pytest.raises(ValueError, match="needs_negatives=False too"):
        training.Objective(lambda *_: None, draw=lambda *_: None)
    for call, problem in (
        (lambda: training.denoising_score_matching(0.0), "sigma is 0.0"),
        (lambda: training.denoising_score_matching([]), r"sigma is \[\]"),
        (lambda: training.energy_discrepancy(0.1, n_negatives=0), "n_negatives is 0"),
        (lambda: training.energy_discrepancy(0.1, stabilizer=-1.0), "stabilizer is -1"),
        (lambda: training.discrete_energy_discrepancy(1.0), "probability is 1.0"),
        (lambda: training.noise_contrastive(3), "noise is 3 and has no method sample"),
        (lambda: training.gaussian_noise(np.ones((4, 2))), "singular covariance"),
        (lambda: training.recovery_likelihood((0.5, 0.1)), "give two or more levels that rise"),
        (lambda: training.sliced_score_matching(0), "n_slices is 0"),
    ):
        with pytest.raises(ValueError, match=problem):
            call()
