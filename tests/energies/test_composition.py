"""Energies made of energies: values and laws by enumeration and closed form, kernels, training and files."""

import functools
import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import ebm_jax as ej
from ebm_jax.energies.autoencoder import Autoencoder
from ebm_jax.energies.latent import LatentEnergy, LatentImage, LatentJoint, LatentModel
from ebm_jax.energies.networks import MLP
from tests import oracles, systems
from tests.statistics import assert_plausible, assert_same_law, normal_sf

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
TIED, EDGE = ej.Ising(ej.Grid(2, 3)), ej.Ising(ej.Grid(2, 3), "edge")
RBMS = ej.Marginal(ej.RBM(4, 2)), ej.Marginal(ej.RBM(4, 3))
NET = ej.NeuralEnergy(MLP((4,)), (2,))
# Every kind, one within another.
NESTED = ej.Sum(
    (ej.Tempered(TIED, 0.5), ej.Ensemble(EDGE, 3), ej.Mixture((TIED, EDGE))), weights=(1.0, -0.5, 0.8)
)
MODELS = [
    ej.Sum((TIED, EDGE)),
    ej.Mixture((TIED, EDGE, TIED)),
    ej.Tempered(RBMS[0], 2.0),
    ej.Ensemble(ej.RBM(3, 2), 2),
    ej.Sum((NET, ej.Ensemble(NET, 2)), (1.0, 0.5)),
    NESTED,
]


@dataclass(frozen=True)
class Gaussian:
    """E = λ |x − m|² / 2 of two numbers; parameters are m and λ."""

    def init(self, key):
        return jax.random.normal(key, (2,)), jnp.ones(())

    def params_struct(self):
        return jax.eval_shape(self.init, KEY)

    def position_struct(self):
        return jax.ShapeDtypeStruct((2,), jnp.float32)

    def energy(self, params, x):
        return params[1] * jnp.sum((x - params[0]) ** 2) / 2


@functools.partial(jax.jit, static_argnums=0)
def of_all_states(function, params):
    """A function of parameters and one configuration, at all 64 configurations of six spins."""
    return jax.vmap(lambda levels: function(params, TIED.from_levels(levels)))(STATES)


def table(model, params):
    """The oracle's energies of all configurations."""
    return systems.pairwise(model, params=params).energies


STATES = jnp.asarray(oracles.all_states(6, 2), jnp.int32)


def test_the_product_of_gaussians_is_a_gaussian():
    """N(m, 1/λ) with λ = Σ wᵢ λᵢ and m = Σ wᵢ λᵢ mᵢ / λ, by gradients and by chains."""
    model = ej.Sum((Gaussian(), Gaussian()), weights=(1.0, 0.5))
    means, precisions = np.asarray([[1.0, 0.0], [-1.0, 3.0]]), np.asarray([2.0, 6.0])
    params = tuple((jnp.asarray(m, jnp.float32), jnp.float32(p)) for m, p in zip(means, precisions))
    parts = np.asarray([1.0, 0.5]) * precisions
    precision, mean = parts.sum(), parts @ means / parts.sum()
    x = jnp.asarray([0.3, -2.0])
    np.testing.assert_allclose(
        jax.grad(model.energy, argnums=1)(params, x), precision * (x - mean), rtol=1e-5
    )
    kernel, start = ej.mala(model, 0.6), jnp.zeros((2000, 2))
    drawn = np.asarray(ej.sample(KEY, kernel, params, start, ej.SamplingSchedule(80, 1)).positions[0])
    squares = precision * np.sum((drawn - mean) ** 2)
    assert_plausible(
        2 * min(scipy.stats.chi2.sf(squares, 4000), scipy.stats.chi2.cdf(squares, 4000)), "spread"
    )
    for shift in (drawn.mean(axis=0) - mean) * np.sqrt(2000 * precision):
        assert_plausible(2 * normal_sf(abs(shift)), "mean")


def test_a_mixture_with_its_log_z_is_the_sum_of_laws():
    members, shares = (TIED, EDGE), [0.3, 0.7]
    of_models = [systems.draw_params(member, seed) for seed, member in enumerate(members)]
    energies = np.stack([table(*pair) for pair in zip(members, of_models, strict=True)])
    log_z = np.log(np.exp(-energies).sum(axis=1))
    model, params = ej.Mixture(members), ej.MixtureParams.of(of_models, shares, log_z)
    parts = np.asarray(shares)[:, None] * np.exp(-energies - log_z[:, None])
    np.testing.assert_allclose(np.exp(-of_all_states(model.energy, params)), parts.sum(axis=0), rtol=1e-4)
    found = of_all_states(model.responsibilities, params)
    np.testing.assert_allclose(found.T, parts / parts.sum(axis=0), atol=1e-5)


def test_a_nested_composition_is_its_formula_and_its_chains_follow_it():
    params = systems.draw_params(NESTED, 3, scale=0.5)
    tempered, ensemble, mixture = params
    copies = [jax.tree.map(lambda leaf, i=i: leaf[i], ensemble) for i in range(3)]
    inner = np.stack([table(*pair) for pair in zip((TIED, EDGE), mixture.models, strict=True)])
    expected = (
        0.5 * table(TIED, tempered)
        - 0.5 * np.mean([table(EDGE, copy) for copy in copies], axis=0)
        - 0.8 * np.log(np.exp(np.asarray(mixture.log_weights)[:, None] - inner).sum(axis=0))
    )
    np.testing.assert_allclose(of_all_states(NESTED.energy, params), expected, atol=1e-5)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        assert jax.eval_shape(NESTED.energy, params, TIED.from_levels(STATES[0])).shape == ()
    # init_chains draws every level; gradients with respect to one-hot rows inform the moves.
    start = ej.init_chains(KEY, NESTED, 3000)
    assert 0.45 < np.asarray(start).mean() < 0.55
    kernel = ej.gibbs_with_gradients(NESTED)
    drawn = ej.sample(KEY, kernel, params, start, ej.SamplingSchedule(60, 1)).positions[0]
    numbers = oracles.state_numbers(np.asarray(drawn).reshape(3000, 6).astype(int), 2)
    assert_same_law(np.bincount(numbers, minlength=64), oracles.boltzmann(expected), "nested composition")


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_every_composition_is_a_model(model, tmp_path):
    """It has parameters of the shapes that it says, equals its copy, is stored, and has what its members have."""
    assert isinstance(model, ej.Model)
    params = model.init(KEY)
    assert jax.eval_shape(model.init, KEY) == model.params_struct()
    assert hash(type(model)(*vars(model).values())) == hash(model)
    ej.save(tmp_path / "model.npz", model, params)
    again, loaded = ej.load(tmp_path / "model.npz")
    assert again == model and type(loaded) is type(params)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    is_discrete = not isinstance(model.members[0], ej.NeuralEnergy)
    for name in ("n_levels", "draw_position", "energy_relaxed"):
        assert hasattr(model, name) == is_discrete
    if is_discrete:
        x = model.draw_position(KEY)
        assert (
            jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), x)
            == model.position_struct()
        )
        rows = jax.tree.map(lambda leaf: jax.nn.one_hot(leaf.astype(int), model.n_levels), x)
        np.testing.assert_allclose(model.energy_relaxed(params, rows), model.energy(params, x), atol=1e-6)


def test_a_sum_is_trained():
    """Both members move, and data get a lower energy, compared with that of the origin."""
    model = ej.Sum((NET, NET))
    data = 2 + 0.1 * jax.random.normal(KEY, (64, 2))
    before = model.init(KEY)
    negatives = ej.negatives.cd(ej.langevin(model, 0.05, 0.3), k=5)
    options = {"tx": optax.adam(0.05), "negatives": negatives, "n_epochs": 3, "batch_size": 32}
    after = ej.fit(KEY, model, data, params=before, progress=False, **options).state.params
    for old, new in zip(before, after, strict=True):
        assert (old["Dense_0"]["kernel"] != new["Dense_0"]["kernel"]).any()

    def gap(params):
        return model.energy(params, jnp.full(2, 2.0)) - model.energy(params, jnp.zeros(2))

    assert gap(after) < gap(before)


def test_latents_and_images_follow_their_joint_law():
    """Block moves of one latent and four pixels, against quadrature over the latent."""
    prior = LatentEnergy(MLP((4,)), (1,))
    model = LatentJoint(LatentModel(prior, Autoencoder((2, 2), n_latents=1, n_hidden=4)))
    params = jax.tree.map(lambda leaf: 1.5 * leaf, model.init(KEY))
    params = params._replace(whitening=params.whitening._replace(mean=jnp.full(1, 0.3)))
    z = jnp.linspace(-8, 8, 401)[:, None]
    images = jnp.asarray(list(itertools.product([False, True], repeat=4))).reshape(16, 2, 2)
    energy = jax.vmap(
        jax.vmap(lambda z, image: model.energy(params, LatentImage(z, image)), (0, None)), (None, 0)
    )
    law = np.exp(-np.asarray(jax.jit(energy)(z, images), np.float64)).sum(axis=1)
    moves = {"latent": ej.mala(model, 0.5), "image": (ej.gibbs(model.pixels), model.pixel_params)}
    start = LatentImage(jnp.zeros((3000, 1)), jnp.zeros((3000, 2, 2), bool))
    run = ej.sample(KEY, ej.within_gibbs(moves), params, start, ej.SamplingSchedule(60, 1))
    numbers = oracles.state_numbers(np.asarray(run.positions.image[0]).reshape(3000, 4).astype(int), 2)
    assert law.max() > 3 * law.min()
    assert_same_law(np.bincount(numbers, minlength=16), law / law.sum(), "images")


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ej.Sum(()), r"models is \(\); give a tuple of at least one model"),
        (lambda: ej.Sum(TIED), "models is Ising"),
        (lambda: ej.Mixture((lambda params, x: 0.0,)), "has no energy and no init"),
        (lambda: ej.Sum((TIED, ej.Ising(ej.Grid(3, 2)))), "models take different configurations"),
        (lambda: ej.Sum((TIED, EDGE), (1.0,)), r"weights is \(1.0,\); give 2 numbers"),
        (lambda: ej.Sum((TIED,), (np.nan,)), "weights holds nan"),
        (lambda: ej.Tempered(TIED, "cold"), "beta holds 'cold'"),
        (lambda: ej.Ensemble(TIED, 0), "n is 0"),
        (lambda: ej.MixtureParams.of([None] * 2, [0.5, 0.6], [0, 0]), r"shares is \[0.5, 0.6\]"),
        (lambda: ej.gibbs_with_gradients(ej.Sum((NET, NET))), "has no energy_relaxed"),
    ],
)
def test_bad_compositions_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
