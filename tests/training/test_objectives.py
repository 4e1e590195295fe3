"""Objectives other than maximum likelihood: labels, no negatives, figures of their own, variables of a network."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ebm_jax as ej
from ebm_jax.energies.target import target_of
from ebm_jax.training import Limits, Objective, Plan, contrastive, make_train_step, negatives
from tests.training.common import (
    DATA,
    KEY,
    MODEL,
    PLAN,
    SOURCE,
    TX,
    UNLIMITED,
    assert_same_bits,
    bits,
    run,
    start,
)

# ---- a batch of images with labels ----


def energy_of_label(params, pair):
    """E(x, y) = −w_y · x − b_y, so that p(y | x) ∝ exp(−E) is softmax regression."""
    x, label = pair
    return -(params["w"] @ x + params["b"])[label]


def cross_entropy(params, model, batch, negatives):
    """The mean −log p(y | x), and how often the likeliest label is right."""
    assert negatives is None
    x, labels = batch
    every = jnp.arange(params["b"].size)
    of_labels = jax.vmap(lambda x: jax.vmap(lambda y: model.energy(params, (x, y)))(every))(x)
    log_p = jax.nn.log_softmax(-of_labels)
    accuracy = jnp.mean(jnp.argmin(of_labels, axis=1) == labels)
    return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=1)), {"accuracy": accuracy}


CLASSIFIER = {"w": jnp.zeros((3, 2)), "b": jnp.zeros(3)}


def labelled(n=96):
    """Three clusters in the plane."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, n)
    centres = np.array([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]])
    return (centres[labels] + 0.3 * rng.normal(size=(n, 2))).astype(np.float32), labels.astype(np.int32)


def test_a_batch_may_hold_labels_and_an_objective_reports_figures_of_its_own(count_traces):
    loss, traces = count_traces(cross_entropy)
    data = labelled()
    options = {"tx": optax.sgd(0.5), "params": CLASSIFIER, "objective": loss, "batch_size": 32}
    result = ej.fit(KEY, energy_of_label, data, n_epochs=8, progress=False, **options)
    traced = len(traces)
    metrics = result.metrics
    assert metrics.extra.keys() == {"accuracy"} and metrics.extra["accuracy"].shape == (8, 3)
    assert metrics.extra["accuracy"][-1].mean() > 0.98 and metrics.loss[-1].mean() < 0.3 < metrics.loss[0, 0]
    # Chance at the start: all energies are equal, and the first label wins.
    np.testing.assert_allclose(metrics.loss[0, 0], np.log(3), rtol=1e-6)
    # There are no energies and no proposals, which is nothing to worry about.
    for name in ("energy_gap", "energy_data", "energy_model", "acceptance"):
        assert np.isnan(getattr(metrics, name)).all()
    assert not (metrics.n_nonfinite.any() or metrics.n_dead.any() or metrics.n_skipped.any())
    # The gradient is that of softmax regression, and the run goes on with the same program.
    again = ej.fit(
        KEY,
        energy_of_label,
        data,
        n_epochs=1,
        progress=False,
        state=result.state,
        **{**options, "params": None},
    )
    assert len(traces) == traced and again.metrics.extra["accuracy"].shape == (1, 3)
    gradient = jax.jit(
        lambda params: Objective(cross_entropy).value_and_grad(
            params, {}, target_of(energy_of_label), data, None
        )[1]
    )(CLASSIFIER)
    x, labels = data
    want = (1 / 3 - np.eye(3)[labels]).T @ x / len(x)
    np.testing.assert_allclose(gradient["w"], want, atol=1e-6)
    # Limits know of no energies either.
    plan = Plan(energy_of_label, 3, 32, 3, skip=True, objective=loss)
    first = start(energy_of_label, options["tx"], None, CLASSIFIER, loss)
    _, skipped = run(plan, 1, first, jax.device_put(data), None, Limits(jnp.float32(0.1), jnp.float32(1)))
    np.testing.assert_array_equal(skipped.n_skipped, skipped.gradient_norm > 0.1)
    assert skipped.n_skipped.any() and skipped.extra["accuracy"].shape == (3,)


# ---- no negatives ----

NOISE = 0.5


def quadratic(precision, x):
    return 0.5 * x @ precision @ x


def with_noise(key, rows):
    return rows, jax.random.normal(key, rows.shape)


def denoising(precision, model, batch, negatives):
    """½ E ‖∇E(x + σ z) − z/σ‖² (Vincent 2011, "A connection between score matching and denoising autoencoders")."""
    x, z = batch
    gradients = jax.vmap(jax.grad(model.energy, argnums=1), (None, 0))(precision, x + NOISE * z)
    return jnp.mean(jnp.sum((gradients - z / NOISE) ** 2, axis=-1)) / 2, {}


def test_denoising_score_matching_recovers_the_precision_of_a_gaussian():
    covariance = np.array([[1.0, 0.6], [0.6, 0.8]])
    draws = np.random.default_rng(0).multivariate_normal([0, 0], covariance, 4096).astype(np.float32)
    objective = Objective(denoising, needs_negatives=False)
    plan = Plan(quadratic, 32, 128, 32, prepare=with_noise, objective=objective)
    tx = optax.sgd(optax.cosine_decay_schedule(0.2, 40 * 32))
    state = make_train_step(quadratic, tx, objective=objective)[0](KEY, jnp.eye(2))
    assert not jax.tree.leaves(state.negatives)
    state, metrics = run(plan, 40, state, jnp.asarray(draws), None)
    # The law of noisy data, which is what denoising learns.
    want = np.linalg.inv(np.cov(draws.T, bias=True) + NOISE**2 * np.eye(2))
    np.testing.assert_allclose(state.params, want, atol=0.06)
    assert abs(np.linalg.inv(covariance) - want).max() > 0.5
    assert metrics.extra == {} and np.isfinite(metrics.loss).all() and np.isnan(metrics.energy_gap).all()


# ---- maximum likelihood with a figure of its own ----


def regularised(params, model, batch, negatives):
    loss, extras = contrastive.loss(params, model, batch, negatives)
    size = jnp.sum(params.weights**2)
    return loss + 0.0 * size, {**extras, "size": size}


def test_figures_come_through_advance_beside_the_energies():
    plan = PLAN._replace(objective=regularised, n_steps=4)
    state, metrics = run(plan, 2, start(objective=regularised))
    assert metrics.extra["size"].shape == (8,) and (np.diff(metrics.extra["size"]) != 0).any()
    np.testing.assert_allclose(metrics.energy_gap, metrics.energy_model - metrics.energy_data, atol=1e-6)
    np.testing.assert_allclose(metrics.loss, -metrics.energy_gap, atol=1e-6)
    # A negatives' structure is the objective's business: these are the source's.
    assert SOURCE.positions(state.negatives)[0].shape == (12, 6)


# ---- arrays of a network that are not trained ----


class Network(nn.Module):
    """An energy of two layers, the first with spectral normalisation (Miyato et al. 2018)."""

    @nn.compact
    def __call__(self, x, update_stats=False):
        layer = nn.SpectralNorm(nn.Dense(4))
        return nn.Dense(1)(jnp.tanh(layer(x, update_stats=update_stats)))[..., 0] + jnp.sum(x**2, -1) / 2


NETWORK = Network()


def network_energy(variables, x):
    return NETWORK.apply(variables, x)


def spectral(variables, model, batch, negatives):
    """Maximum likelihood, and one step of power iteration."""
    loss, extras = contrastive.loss(variables, model, batch, negatives)
    _, updated = NETWORK.apply(variables, batch, update_stats=True, mutable=["batch_stats"])
    return loss, {**extras, "variables": updated}


def test_variables_of_a_network_are_handed_on_and_never_trained():
    found = NETWORK.init(KEY, jnp.ones((1, 3)), update_stats=True)
    params, stats = found["params"], {"batch_stats": found["batch_stats"]}
    x = jnp.asarray(np.random.default_rng(0).normal(size=(24, 3)), jnp.float32)
    source = negatives.pcd(ej.langevin(network_energy, 0.05, 0.3), k=2, init=x[:5])
    tx, plan = optax.adam(1e-2), Plan(network_energy, 6, 4, 3, objective=spectral, skip=True)
    init, _ = make_train_step(network_energy, tx, source, objective=spectral)
    first = init(KEY, params, stats)
    assert jax.tree.structure(first.opt_state[0].mu) == jax.tree.structure(params)
    state, metrics = run(plan, 4, first, x, source, UNLIMITED)
    assert not metrics.n_nonfinite.any() and metrics.extra == {}
    assert jax.tree.structure(state.variables) == jax.tree.structure(stats)
    # By now the vectors are singular ones of the matrix that was trained: σ is its largest singular value.
    [sigma] = [
        leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state.variables) if "sigma" in str(path)
    ]
    largest = np.linalg.svd(state.params["Dense_0"]["kernel"], compute_uv=False)[0]
    np.testing.assert_allclose(sigma, largest, rtol=0.02)
    [at_start] = [leaf for leaf in jax.tree.leaves(stats) if leaf.shape == ()]
    assert abs(sigma - at_start) > 0.01
    # Chains and energies see the variables that the objective left: a run in pieces goes on as if undisturbed.
    half, _ = run(plan, 2, first, x, source, UNLIMITED)
    rest, _ = run(plan, 2, half, x, source, UNLIMITED)
    assert_same_bits(rest, state)
    fitted = ej.fit(
        KEY,
        network_energy,
        np.asarray(x),
        tx=tx,
        negatives=source,
        n_epochs=1,
        batch_size=4,
        params=params,
        variables=stats,
        objective=spectral,
        progress=False,
    )
    assert jax.tree.structure(fitted.state.variables) == jax.tree.structure(stats)
    # A skipped update leaves them alone.
    stopped, _ = run(plan, 1, first, x, source, Limits(jnp.float32(0), jnp.float32(0)))
    for a, b in zip(jax.tree.leaves(stopped.variables), jax.tree.leaves(stats), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_objective_replaces_the_collections_that_it_returns_and_keeps_the_others(as_shipped):
    variables = {"seen": jnp.zeros(()), "other": jnp.ones(2)}

    def counting(params, model, batch, negatives):
        seen = params["seen"] + 1
        return params["params"]["b"].sum(), {"variables": {"seen": seen}}

    init, step = make_train_step(energy_of_label, TX, None, objective=counting)
    state, _ = step(KEY, init(KEY, CLASSIFIER, variables), labelled(8))
    assert float(state.variables["seen"]) == 1
    np.testing.assert_array_equal(state.variables["other"], 1)

    def wrong(name, value):
        return lambda params, model, batch, negatives: (
            params["params"]["b"].sum(),
            {"variables": {name: value}},
        )

    for name, value, problem in (
        ("new", jnp.zeros(()), r"returned variables \['new'\]"),
        ("seen", jnp.zeros(3), "variables.*seen.* has shape"),
    ):
        init, step = make_train_step(energy_of_label, TX, None, objective=wrong(name, value))
        with pytest.raises(ValueError, match=problem):
            step(KEY, init(KEY, CLASSIFIER, variables), labelled(8))


def test_cd_starts_at_the_data_of_a_labelled_batch():
    def loss(params, model, batch, negatives):
        return contrastive.loss(params, model, batch["x"], negatives)

    source = negatives.cd(ej.gibbs(MODEL))
    init, step = make_train_step(
        MODEL, TX, source, objective=Objective(loss, data_of=lambda batch: batch["x"])
    )
    _, metrics = step(KEY, init(KEY), {"x": DATA[:8], "y": np.zeros(8, np.int32)})
    _, wanted = make_train_step(MODEL, TX, source)[1](KEY, init(KEY), DATA[:8])
    np.testing.assert_allclose(metrics.energy_gap, wanted.energy_gap, rtol=1e-5, atol=1e-5)


def test_a_loss_that_is_not_finite_is_counted_although_its_energies_are():
    def overflowing(params, model, batch, negatives):
        loss, extras = contrastive.loss(params, model, batch, negatives)
        return loss + jax.lax.stop_gradient(jnp.inf), extras

    source = negatives.cd(ej.gibbs(MODEL))
    init, step = make_train_step(MODEL, TX, source, objective=overflowing)
    _, metrics = step(KEY, init(KEY), DATA[:8])
    assert int(metrics.n_nonfinite) == 1


# ---- what does not go together ----


def test_what_does_not_go_together_is_refused(as_shipped):
    with pytest.raises(ValueError, match=r"negatives is None and the objective needs some"):
        make_train_step(MODEL, TX)
    with pytest.raises(ValueError, match=r"the objective uses none; leave negatives out"):
        make_train_step(MODEL, TX, SOURCE, objective=Objective(denoising, needs_negatives=False))
    with pytest.raises(ValueError, match=r"objective is 3; give a function"):
        make_train_step(MODEL, TX, SOURCE, objective=3)
    with pytest.raises(ValueError, match=r"model is 3; give a function energy"):
        make_train_step(3, TX, SOURCE)
    for extras in ({"loss": 1.0}, {"energy_data": 1.0}):

        def objective(params, model, batch, negatives, extras=extras):
            return 0.0 * params.weights.sum(), extras

        step = make_train_step(MODEL, TX, SOURCE, objective=objective)[1]
        with pytest.raises(ValueError, match=r"energy_data and energy_model together or neither"):
            step(KEY, start(), DATA[:4])
    step = make_train_step(energy_of_label, TX, objective=cross_entropy)[1]
    with pytest.raises(ValueError, match=r"batch has leading axes \[3, 4\]"):
        step(
            KEY,
            start(energy_of_label, TX, None, CLASSIFIER, cross_entropy),
            (np.ones((4, 2)), np.ones(3, int)),
        )


# ---- what a model offers ----


def test_targets_compare_by_the_value_of_their_model():
    assert target_of(ej.RBM(4, 3)) == target_of(ej.RBM(4, 3)) != target_of(ej.RBM(4, 2))
    assert hash(target_of(ej.RBM(4, 3))) == hash(target_of(ej.RBM(4, 3)))
    target = target_of(ej.RBM(4, 3))
    assert target_of(target) is target
    full = target.of_full_configurations()
    assert full != target and full.free_energy is None and full.data_energy == target.energy
    assert target.energy == target_of(ej.RBM(4, 3)).energy


def test_data_and_configurations_of_every_kind_of_model():
    """What a datum is: the visible layer, the visible sites, or all of a configuration."""
    v = bits((5, 4))
    rbm = target_of(ej.RBM(4, 3))
    x = rbm.full_configurations(v)
    assert x[1].shape == (5, 3) and (rbm.data_of(x) == v).all() and rbm.data_struct().shape == (4,)
    assert rbm.of_full_configurations().data_of(x) is x
    ising = ej.Ising(ej.Grid(2, 3), hidden=ej.Block([1, 4]))
    hidden = target_of(ising)
    assert hidden.has_hidden_sites and hidden.data_struct().shape == (4,)
    assert hidden.full_configurations(v > 0).shape == (5, 2, 3)
    shown = target_of(ej.Ising(ej.Grid(2, 3)))
    assert not shown.has_hidden_sites and shown.data_energy == shown.energy
    function = target_of(quadratic)
    assert function.energy is quadratic and function.data_struct() is None and function.data_of(v) is v


@pytest.mark.parametrize(
    ("objective", "problem"),
    [
        (lambda params, batch: (0.0, {}), r"does not take \(params, model, batch, negatives\)"),
        (lambda params, model, batch, negatives: params["b"].sum(), "return .loss, extras."),
        (lambda params, model, batch, negatives: (params["b"], {}), "the objective's loss has shape"),
        (
            lambda params, model, batch, negatives: (params["b"].sum(), {"b": params["b"]}),
            "the objective's b has",
        ),
    ],
)
def test_an_objective_of_another_form_is_refused_with_the_form_that_is_wanted(objective, problem, as_shipped):
    with pytest.raises(ValueError, match=problem):
        init, step = make_train_step(energy_of_label, TX, None, objective=objective)
        step(KEY, init(KEY, CLASSIFIER), labelled(8))


def test_cd_refuses_batches_that_no_chain_can_start_at(as_shipped):
    init, step = make_train_step(
        MODEL, TX, negatives.cd(ej.gibbs(MODEL)), objective=lambda p, m, batch, n: (0.0, {})
    )
    with pytest.raises(ValueError, match=r"cd starts its chains at the batch, and .* use pcd"):
        step(KEY, init(KEY), {"x": DATA[:8], "y": np.zeros(8, np.int32)})
