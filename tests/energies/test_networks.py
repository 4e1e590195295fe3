"""Networks and their energies: convolutions against Linen's, values by hand, and their use in kernels and training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import ebm_jax as ej
from ebm_jax.energies import networks
from ebm_jax.energies.networks import MLP, Conv, ConvNet, ResNet
from ebm_jax.energies.neural import ClassConditional
from ebm_jax.energies.target import target_of
from ebm_jax.training import Objective, make_train_step, negatives, regularized

KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures("quick_compilation")
NET = ConvNet((4, 6), (5, 3), (2, 2), (4, 1), (8,), n_outputs=3)


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(1), (3, 9, 8))


@pytest.mark.parametrize(("stride", "padding", "size"), [(1, 1, 3), (2, 4, 5), (3, 0, 2)])
def test_both_convolutions_are_those_of_linen(stride, padding, size, images):
    """Values, and gradients with respect to image and kernel."""
    x = images.transpose(1, 2, 0)
    ours, theirs = Conv(4, size, stride, padding), nn.Conv(4, (size, size), stride, padding)
    variables = ours.init(KEY, x)
    weights = jax.random.normal(KEY, theirs.apply(variables, x).shape)

    def total(apply):
        return jax.value_and_grad(lambda args: jnp.sum(weights * apply(*args)), has_aux=False)

    def by(way):
        def apply(params, x):
            kernel, bias = params["params"]["kernel"], params["params"]["bias"]
            return way(x, kernel, stride, padding) + bias

        return apply

    expected = total(theirs.apply)((variables, x))
    for apply in (ours.apply, by(networks._by_slices), by(networks._by_library)):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5),
            total(apply)((variables, x)),
            expected,
        )


def test_a_batch_is_vmap_and_half_precision_is_close(images):
    model = ej.JointEnergy(NET, (9, 8), 3)
    params = model.init(KEY)
    each = np.stack([model.logits(params, x) for x in images])
    np.testing.assert_allclose(jax.vmap(model.logits, (None, 0))(params, images), each, atol=1e-5)
    half = ej.JointEnergy(NET.copy(dtype="bfloat16"), (9, 8), 3)
    found = half.energy(params, images[0])
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, model.energy(params, images[0]), atol=0.03)
    assert float(found) != float(model.energy(params, images[0]))


def test_joint_energies_are_those_of_the_logits(images):
    model = ej.JointEnergy(NET, (9, 8), 3, scale=0.5)
    params, x = model.init(KEY), images[0]
    logits = 0.5 * np.asarray(NET.apply({"params": params}, x), np.float64)
    np.testing.assert_allclose(model.logits(params, x), logits, rtol=1e-5)
    np.testing.assert_allclose(model.energy(params, x), -np.log(np.exp(logits).sum()), rtol=1e-5)
    np.testing.assert_allclose(model.class_energy(params, x, 2), -logits[2], rtol=1e-5)
    given = ClassConditional(model).energy(params, (x, jnp.eye(3)[2]))
    np.testing.assert_allclose(given, -logits[2], rtol=1e-5)


def test_equal_models_built_anew_share_a_program(images, count_traces):
    def build():
        return ej.NeuralEnergy(ConvNet((2,), (3,), (2,), (1,), (4,)), (9, 8), 2.0)

    assert build() == build() and hash(build()) == hash(build())
    evaluated, traces = count_traces(lambda model, params, x: model.energy(params, x))
    jitted = jax.jit(evaluated, static_argnums=0)
    params = build().init(KEY)
    jitted(build(), params, images[0])
    jitted(build(), params, images[1])
    assert len(traces) == 1
    net = build().module.apply({"params": params}, images[0])
    np.testing.assert_allclose(build().energy(params, images[0]), 2 * net[0], rtol=1e-5)


def test_spectral_normalisation_is_trained_through_variables():
    """The largest singular values of the kernels become 1 while an objective updates their vectors."""
    model = ej.NeuralEnergy(ResNet((3, 4), spectral=True), (4, 4))

    def objective(params, target, batch, drawn):
        del target, drawn
        apply = jax.vmap(lambda x: model.module.apply(params, x, update_stats=True, mutable=["batch_stats"]))
        energies, new = apply(batch)
        new = jax.tree.map(lambda leaf: leaf[0], new)
        return energies.mean() + jnp.square(energies).mean(), {"variables": new}

    init, step = make_train_step(model, optax.sgd(0.0), objective=Objective(objective, needs_negatives=False))
    state = init(KEY, variables=model.init_variables(KEY))
    batch = jax.random.normal(KEY, (2, 4, 4))
    for _ in range(30):
        state, _ = step(KEY, state, batch)
    sigma = state.variables["batch_stats"]["SpectralNorm_0"]["Conv_0/kernel/sigma"]
    kernel = state.params["Conv_0"]["kernel"].reshape(-1, 3)
    np.testing.assert_allclose(sigma, np.linalg.svd(kernel, compute_uv=False)[0], rtol=1e-3)
    assert float(model.energy({"params": state.params, **state.variables}, batch[0])) != 0


@pytest.mark.parametrize(
    "net", [MLP((64, 64)), ConvNet((8, 16), (3, 3), (2, 2), (1, 1), (32,)), ResNet((8, 16))]
)
def test_energies_start_near_zero_and_features_do_not_fade(net):
    """Over 64 draws of the parameters, energies have a standard deviation between 0.02 and 1, as gradients do."""
    model = ej.NeuralEnergy(net, (8, 8))
    x = jax.random.uniform(KEY, (8, 8), minval=-1)

    def draw(key):
        return jax.value_and_grad(model.energy, 1)(model.init(key), x)

    energies, gradients = jax.jit(jax.vmap(draw))(jax.random.split(KEY, 64))
    assert 0.02 < np.std(energies) < 1 and abs(np.mean(energies)) < 0.5
    assert 0.02 < np.sqrt(np.mean(np.sum(gradients**2, (1, 2)))) < 1


class OwnModule(nn.Module):
    """A module of a user's with an energy of its own, whose `init` is Linen's, and a count of hidden units."""

    hidden: int = 3

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.tanh(nn.Dense(self.hidden)(x)))[0]

    def energy(self, params, x):
        return self.apply({"params": params}, x) + 0.5 * x @ x


class OwnLists(nn.Module):
    """A module of a user's whose field has no hash."""

    sizes: list[int]


def own_energy(params, x):
    return jnp.sum(params["w"] * x) + 0.5 * x @ x


def equinox_energy():
    """Returns an energy function and its parameters: the arrays of a partitioned Equinox module."""
    eqx = pytest.importorskip("equinox")
    params, static = eqx.partition(eqx.nn.MLP(2, "scalar", 4, 1, key=KEY), eqx.is_inexact_array)

    def energy(params, x):
        return eqx.combine(params, static)(x) + 0.5 * x @ x

    return energy, params


@pytest.mark.parametrize("form", ["linen module", "module with an energy", "function", "equinox"])
def test_any_energy_is_sampled_and_trained(form):
    if form == "function":
        model, params = own_energy, {"w": jnp.ones(2)}
    elif form == "equinox":
        model, params = equinox_energy()
    elif form == "linen module":
        model = ej.NeuralEnergy(MLP((4,)), (2,))
        params = model.init(KEY)
    else:
        model = OwnModule()
        params = model.init(KEY, jnp.zeros(2))["params"]
        assert not target_of(model).has_hidden_sites
        init, _ = make_train_step(model, optax.sgd(0.1), objective=None, negatives=_source(model))
        with pytest.raises(ValueError, match="draws no parameters of its own"):
            init(KEY)
    init, step = make_train_step(model, optax.sgd(0.1), _source(model), objective=regularized(0.1))
    state, metrics = step(KEY, init(KEY, params), jnp.ones((3, 2)))
    assert int(metrics.n_nonfinite) == 0 and float(metrics.extra["movement"]) > 0
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), state.params, params)
    assert any(jax.tree.leaves(changed))


def _source(model):
    kernel = ej.langevin(model, step_size=0.1, noise_scale=0.1)
    return negatives.short_run(kernel, 2, 4, start=negatives.starts.uniform((2,)))


def test_errors_name_the_remedy(as_shipped):
    with pytest.raises(ValueError, match=r"Flax module MLP; give NeuralEnergy\(module, shape\)"):
        target_of(MLP((3,)))
    with pytest.raises(ValueError, match=r"returns \(3,\) for one configuration of shape \(9, 8\)"):
        ej.NeuralEnergy(NET, (9, 8))
    with pytest.raises(ValueError, match="there are 4 classes"):
        ej.JointEnergy(NET, (9, 8), 4)
    with pytest.raises(ValueError, match="give a Flax Linen module"):
        ej.NeuralEnergy(lambda x: x, (2,))
    with pytest.raises(ValueError, match=r"OwnLists has no hash.* tuples instead of lists"):
        ej.NeuralEnergy(OwnLists([3]), (2,))
    with pytest.raises(ValueError, match=r"one image at a time"):
        ej.NeuralEnergy(ConvNet(), (5,))
    with pytest.raises(ValueError, match="activation is 'swish'; choose one of"):
        ej.NeuralEnergy(MLP((3,), "swish"), (2,))
