"""Kernels and training under the flags by which users of JAX hunt for faults, all on at once.

They refuse programs whose results hold a NaN, arrays of different ranks or dtypes in one operation, and tracers that
outlive their trace. Ranks, dtypes and tracers are looked at while a program is traced, so forms that differ in nothing
else are traced and not compiled.
"""

import contextlib
import gc

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ebm_jax as ej
from ebm_jax import training
from tests import kernels

pytestmark = pytest.mark.usefixtures("quick_compilation")
KEY = jax.random.key(0)
N_CHAINS = 4
SCHEDULE = ej.SamplingSchedule(2, 1)


@pytest.fixture
def strict():
    """Turns all the flags on for one test."""
    # The check for leaks collects garbage again and again: nothing older than the test needs to be looked at.
    gc.collect()
    gc.freeze()
    with contextlib.ExitStack() as flags:
        flags.callback(gc.unfreeze)
        flags.enter_context(jax.debug_nans(True))
        flags.enter_context(jax.numpy_rank_promotion("raise"))
        flags.enter_context(jax.numpy_dtype_promotion("strict"))
        flags.enter_context(jax.checking_leaks())
        yield


def clamping(x):
    """A mask that holds no site, and values: chains have to read them all the same."""
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:], bool), x), jax.tree.map(lambda leaf: leaf[0], x)


@pytest.mark.parametrize(("maker", "system"), list(kernels.representatives()))
def test_every_public_kernel_runs(strict, maker, system):
    case = kernels.case(system)
    kernel = kernels.REGISTRY[maker][system](case.model)
    x = jax.tree.map(np.asarray, case.start(KEY, N_CHAINS))
    info = ej.sample(KEY, kernel, case.params, x, SCHEDULE, clamped=clamping(x)).info
    assert (info.n_steps == SCHEDULE.n_steps).all() and not info.n_nonfinite.any()
    assert np.array_equal(np.isnan(info.acceptance), info.n_proposed == 0)


COMPLETE = ej.Graph(12, [(i, j) for i in range(12) for j in range(i)])
FORMS = {
    "bits": ej.Ising(ej.Grid(16, 16, "periodic"), bias="tied"),
    "grid": ej.Ising(ej.Grid(3, 4)),
    "general": ej.Potts(ej.Graph(12, [(0, i) for i in range(1, 12)]), 3, "matrix"),
    "dense": ej.Ising(COMPLETE),
    "dense levels": ej.Potts(COMPLETE, 3),
    "dense tables": ej.Potts(COMPLETE, 3, "matrix"),
    "categorical": ej.CategoricalRBM(4, 3, 3),
    "gaussian": ej.GaussianRBM(4, 3),
    "factors": ej.FactorGraph(
        {"s": ej.Spins(3), "c": ej.Categories(2, 9), "x": ej.Gaussians(1)},
        [
            ej.Factor(("x", 0, "square")),
            ej.Factor(("x", 0), ("s", [0, 1]), ("c", [0, 1])),
            ej.Factor(("c", 0), ("c", 1)),
        ],
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_gibbs_and_every_energy_is_traced(form):
    """Chains clamped, at a β of every step's own, with parameters of their own, and with fields."""
    model = FORMS[form]
    kernel = ej.gibbs(model)
    params, x = model.init(KEY), ej.init_chains(KEY, model, N_CHAINS)
    betas = np.linspace(0.5, 1, SCHEDULE.n_steps, dtype=np.float32)

    def run(params, x):
        samples = ej.sample(KEY, kernel, params, x, SCHEDULE, clamped=clamping(x), beta=betas)
        each = jax.tree.map(lambda leaf: jnp.stack([leaf] * N_CHAINS), params)
        jax.vmap(lambda p, x: kernel.step(KEY, p, 1.0, kernel.init(p, x)))(each, x)
        field = jax.tree.map(lambda s: jnp.ones((N_CHAINS, *s.shape)), model.field_struct())
        state = ej.sample(KEY, kernel, params, samples.state, SCHEDULE, field=field).state
        energies = kernel.packed_energies(params, kernel.pack(params, state))
        if hasattr(model, "mean_energy"):
            jax.grad(model.mean_energy)(params, x, field)
        return energies, jax.vmap(jax.grad(model.energy), (None, 0))(params, x)

    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        energies, _ = jax.eval_shape(run, params, x)
    assert energies.shape == (N_CHAINS,)


def distance_to_data(params, model, batch, negatives):
    """A loss without negatives that reports no energies."""
    return jnp.mean((jax.vmap(model.energy, (None, 0))(params, batch) - 1) ** 2), {}


def _rbm():
    model = ej.RBM(6, 4)
    return model, None, ej.negatives.pcd(ej.gibbs(model), n_chains=N_CHAINS), None


def _rbm_by_inputs():
    model = ej.RBM(6, 4, spins=True)
    kernel = ej.gibbs(model, ej.BlockSpec(model.default_spec().free[::-1]))
    return model, None, ej.negatives.pcd(kernel, k=2, n_chains=N_CHAINS), None


def _replay():
    start = ej.negatives.starts.uniform((2,))
    kernel = ej.langevin(kernels.network, 0.1, 0.05, clip=1.0, bounds=(-4, 4))
    source = ej.negatives.replay(kernel, 2, N_CHAINS, capacity=N_CHAINS + 1, start=start)
    return kernels.network, kernels.case("network").params, source, training.regularized(0.1)


def _short_runs():
    start = ej.negatives.starts.normal((2,))
    source = ej.negatives.short_run(ej.mala(kernels.network, 0.5), 2, N_CHAINS, start=start)
    return kernels.network, kernels.case("network").params, source, training.improved(0.1)


def _no_negatives():
    return kernels.network, kernels.case("network").params, None, distance_to_data


@pytest.mark.parametrize("build", [_rbm, _rbm_by_inputs, _replay, _short_runs, _no_negatives])
def test_training_runs_and_reports_nan_only_on_the_host(strict, build):
    """With limits, which read what a step may not have."""
    model, params, source, objective = build()
    rng = np.random.default_rng(0)
    data = (
        rng.integers(0, 2, (8, 6)).astype(np.uint8)
        if params is None
        else rng.normal(size=(8, 2)).astype(np.float32)
    )
    if getattr(model, "spins", False):
        data = data.astype(np.bool_)
    seen = []
    result = ej.fit(
        KEY,
        model,
        data,
        tx=optax.sgd(0.01),
        negatives=source,
        objective=objective,
        params=params,
        n_epochs=2,
        batch_size=4,
        limits=training.Limits(gradient_norm=1e6, energy_gap=1e6, position=1e6, acceptance=0.01),
        progress=False,
        callback=lambda epoch, state, metrics: seen.append(metrics.figures()),
    )
    metrics = result.metrics
    assert metrics.loss.shape == (2, 2) and np.isfinite(metrics.loss).all() and not metrics.n_skipped.any()
    for name in ("energy_data", "energy_model", "energy_gap"):
        assert np.isnan(getattr(metrics, name)).all() == (source is None)
    assert np.isnan(metrics.acceptance).all() == (build is not _short_runs)
    assert all(figures["acceptance"].shape == (2,) for figures in seen)
