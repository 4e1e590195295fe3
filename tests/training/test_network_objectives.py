"""Each objective learns a density of the plane that is known, and the joint gradient is that of the likelihood."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ebm_jax as ej
from ebm_jax.energies.networks import MLP
from ebm_jax.energies.target import target_of
from ebm_jax.training import Negatives, classification, contrastive, improved, joint, negatives, regularized
from ebm_jax.training.negatives import starts

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(0)
CENTRES = np.asarray([[-1.0, 0.0], [1.0, 0.5]])
WIDTH = 0.5
STEP = 0.05
SIDE = np.linspace(-4, 4, 81)
GRID = np.stack(np.meshgrid(SIDE, SIDE, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float32)


class Confined(MLP):
    """A perceptron with logits −½|x|²/4 + g(x), so that densities are normalisable."""

    def __call__(self, x):
        return super().__call__(x) - x @ x / 8


def true_log_density(x, labels=None):
    each = -((x[:, None] - CENTRES) ** 2).sum(axis=-1) / (2 * WIDTH**2) - np.log(2 * np.pi * WIDTH**2)
    return np.log(0.5) + (np.logaddexp(*each.T) if labels is None else each[np.arange(len(x)), labels])


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 4096).astype(np.int32)
    return (CENTRES[labels] + WIDTH * rng.normal(size=(4096, 2))).astype(np.float32), labels


MODEL = ej.JointEnergy(Confined((32, 32), n_outputs=2), (2,), 2)


def train(objective, rows):
    kernel = ej.langevin(MODEL, step_size=STEP, noise_scale=np.sqrt(2 * STEP))
    source = negatives.replay(kernel, 10, 256, capacity=1024, start=starts.normal((2,), 2.0))
    tx = optax.chain(optax.adam(optax.cosine_decay_schedule(1e-2, 20 * 16)), ej.training.average(0.98))
    fitted = ej.fit(
        KEY,
        MODEL,
        rows,
        tx=tx,
        negatives=source,
        n_epochs=20,
        batch_size=256,
        objective=objective,
        progress=False,
    )
    return ej.training.averaged(fitted.state.opt_state), fitted.metrics


def divergence(params):
    """The larger of KL(data || model) and KL(model || data), by quadrature on a grid."""
    energies = np.asarray(jax.vmap(MODEL.energy, (None, 0))(params, GRID), np.float64)
    cell = (SIDE[1] - SIDE[0]) ** 2
    found = -energies - np.log(np.exp(-energies).sum() * cell)
    truth = true_log_density(GRID)
    forward = (np.exp(truth) * (truth - found)).sum() * cell
    backward = (np.exp(found) * (found - truth)).sum() * cell
    return float(max(forward, backward))


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective",
    [regularized(1e-3), improved(STEP, weight=0.1, entropy_weight=1.0, l2=1e-3)],
    ids=["regularized", "improved"],
)
def test_contrastive_objectives_learn_the_density(data, objective):
    assert divergence(MODEL.init(KEY)) > 0.3
    params, _ = train(objective, data[0])
    assert divergence(params) < 0.05


@pytest.mark.slow
def test_the_joint_objective_learns_density_and_classes(data):
    params, metrics = train(joint(1.0, 1e-3), data)
    assert divergence(params) < 0.05
    found = np.asarray(jax.nn.log_softmax(jax.vmap(MODEL.logits, (None, 0))(params, GRID)))
    truth = true_log_density(GRID, np.ones(len(GRID), int)) - true_log_density(GRID)
    weights = np.exp(true_log_density(GRID))
    # The mean error of p(y = 1 | x) over the data.
    assert np.sum(weights * abs(np.exp(found[:, 1]) - np.exp(truth))) / weights.sum() < 0.05
    assert metrics.extra["accuracy"][-1].mean() > 0.95


def test_the_joint_gradient_is_that_of_the_likelihood():
    """All 8 configurations of three bits, weighted exactly, and two classes: ∇ −log p(x, y) by autodiff."""
    model = ej.JointEnergy(MLP((5,), n_outputs=2), (3,), 2)
    states = np.asarray([[i >> k & 1 for k in range(3)] for i in range(8)], np.float32)
    params = model.init(KEY)
    x, y = states[jnp.asarray([1, 3, 6])], jnp.asarray([0, 1, 1], jnp.int32)

    def exact(params):
        log_z = jax.nn.logsumexp(-jax.vmap(model.energy, (None, 0))(params, states))
        return jnp.mean(jax.vmap(model.class_energy, (None, 0, 0))(params, x, y)) + log_z

    weights = jax.nn.softmax(-jax.vmap(model.energy, (None, 0))(params, states))
    drawn = Negatives(jnp.asarray(states), weights, None)
    _, gradient = joint(1.0).value_and_grad(params, {}, target_of(model), (x, y), drawn)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(jax.grad(exact)(params)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def energy(params, x):
    return params * x


def test_values_on_numbers_by_hand():
    batch, drawn = jnp.asarray([1.0, 3.0]), Negatives(jnp.asarray([2.0, 4.0]), None, None)
    loss, extras = regularized(0.5).loss(jnp.float32(2.0), target_of(energy), batch, drawn)
    assert float(loss) == 4 - 6 + 0.5 * (20 + 40)
    assert float(extras["energy_data"]) == 4 and float(extras["energy_model"]) == 6
    weighted = drawn._replace(weights=jnp.asarray([0.25, 0.75]))
    loss, _ = regularized(0.5).loss(jnp.float32(2.0), target_of(energy), batch, weighted)
    assert float(loss) == 4 - 7 + 0.5 * (20 + 52)
    plain, _ = contrastive.loss(jnp.float32(2.0), target_of(energy), batch, drawn)
    assert float(plain) == -2
    loss, extras = improved(0.5, weight=1.0, entropy_weight=2.0, l2=0.0).loss(
        jnp.float32(2.0), target_of(energy), batch, drawn
    )
    # Negatives move to 1 and 3, at distances 3 from 4 and 1 from 2.
    np.testing.assert_allclose(extras["entropy"], 0.5 * np.log(3.0), rtol=1e-5)
    np.testing.assert_allclose(loss, -2 + 4 - np.log(3.0), rtol=1e-5)


class Two:
    """Two classes with logits θx and 0."""

    def energy(self, params, x):
        return -jax.nn.logsumexp(self.logits(params, x))

    def logits(self, params, x):
        return jnp.stack([params * x, 0 * x])


def test_objectives_of_classes_on_numbers_by_hand():
    """With θ = 0 all energies are −log 2."""
    params, batch = jnp.float32(0.0), (jnp.asarray([0.0, 1.0]), jnp.asarray([1, 0], jnp.int32))
    loss, extras = classification(0.1).loss(params, target_of(Two()), batch, None)
    np.testing.assert_allclose(loss, np.log(2) + 0.1 * np.log(2) ** 2, rtol=1e-6)
    assert float(extras["accuracy"]) == 0.5
    drawn = Negatives(jnp.asarray([3.0]), None, None)
    loss, _ = joint(0.5, l2=0.2, logsumexp_l2=0.1).loss(params, target_of(Two()), batch, drawn)
    np.testing.assert_allclose(loss, np.log(2) + (0.5 * 0.2 * 2 + 0.1) * np.log(2) ** 2, rtol=1e-6)


def test_errors_name_the_value(as_shipped):
    with pytest.raises(ValueError, match="l2 is -1"):
        regularized(-1)
    with pytest.raises(ValueError, match="has no classes; this objective trains a JointEnergy"):
        joint().loss(None, target_of(lambda p, x: x), (jnp.zeros(1), jnp.zeros(1, jnp.int32)), None)
    with pytest.raises(ValueError, match="there is 1 negative"):
        one = Negatives(jnp.zeros(1), None, None)
        improved(0.1).loss(jnp.float32(1.0), target_of(energy), jnp.zeros(2), one)
    with pytest.raises(ValueError, match=r"batch is ArrayImpl; this objective takes pairs"):
        classification().loss(None, target_of(MODEL), jnp.zeros((1, 2)), None)
