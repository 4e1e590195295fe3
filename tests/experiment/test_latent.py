"""The recipe `latent`: a tiny energy of latents of 8×8 digits goes through both phases and every command."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

import ebm_jax as ej
from ebm_jax import partition
from ebm_jax.cli.main import app
from ebm_jax.energies.autoencoder import Autoencoder
from ebm_jax.energies.latent import LatentEnergy, LatentModel, whitening_of
from ebm_jax.energies.networks import MLP
from ebm_jax.energies.target import target_of
from ebm_jax.experiment.config import ConfigError, parse_config
from ebm_jax.experiment.recipes.base import find
from ebm_jax.experiment.recipes.latent import figures
from ebm_jax.experiment.recipes.latent.negatives import AdaptiveChains
from ebm_jax.experiment.recipes.latent.partition import log_partition
from ebm_jax.experiment.run import runner
from ebm_jax.experiment.run.folder import read_metrics, read_result
from tests.experiment import runs

# Networks this small take longer to compile than to train.
pytestmark = pytest.mark.usefixtures("quick_compilation")
LATENT = find("latent")
TINY = {
    "recipe": "latent",
    "name": "tiny",
    "data": {"name": "digits", "classes": [3, 5], "n_train": 200},
    "autoencoder": {"n_latents": 2, "n_hidden": 16, "n_epochs": 2},
    "model": {"features": [8]},
    "negatives": {"n_chains": 16, "n_steps": 2},
    "generation": {"n_steps": 6, "every": 2, "tuning_steps": 20},
    "training": {"n_epochs": 4, "batch_size": 20, "steps_per_call": 5, "ema_decay": 0.9},
    "checkpoints": {"every_epochs": 0.5},
    "evaluation": {"every_epochs": 2, "n_chains": 20, "ais_betas": 20, "ais_chains": 20, "mixtures": [10]},
}
N_BATCHES = 10


def config(name="tiny"):
    return parse_config({**TINY, "name": name})


@pytest.fixture(scope="module")
def whole(tmp_path_factory, digits_classifier):
    """A whole run, with its report."""
    path = tmp_path_factory.mktemp("latent") / "tiny"
    runner.train(config(), path, ["test"])
    return path


def test_the_autoencoder_comes_first_and_its_latents_are_whitened_once(whole):
    rows = [row for row in read_metrics(whole) if row["kind"] == "train"]
    by_phase = {phase: [row for row in rows if (row["epoch"] > 2) == phase] for phase in (False, True)}
    assert all(row["reconstruction"] > 0 and row["energy_gap"] is None for row in by_phase[False])
    assert all(row["step_size"] > 0 and 0 < row["acceptance"] <= 1 for row in by_phase[True])
    step, state = runs.last_state(whole)
    assert step == 4 * N_BATCHES and int(state.autoencoder.step) == int(state.energy.step) == 2 * N_BATCHES
    # Whitened latents of the rows that were trained on have mean 0 and covariance I.
    model = LATENT.model(config())
    train = ej.data.load("digits", classes=[3, 5]).train.images[:200] > 100
    encode = jax.vmap(model.encode, (None, 0))
    z = np.asarray(encode(LATENT.params(config(), state), train.astype(np.float32)), np.float64)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(z.T), np.eye(2), atol=1e-3)


def test_an_evaluation_measures_what_the_recipe_lists(whole):
    first, last = [row for row in read_metrics(whole) if row["kind"] == "evaluation"]
    assert "reconstruction" in first and "gain" not in first
    assert {metric.name for metric in LATENT.metrics} <= set(last)
    assert last["gain"] == pytest.approx(last["log_likelihood"] - last["log_likelihood_gaussian"])
    assert last["gain_gmm_10"] is not None and last["gain_gmm_50"] is None
    assert last["n_steps"] == 6 and last["start_n_steps"] == 0 and last["n_samples"] == 20


def test_the_page_shows_every_figure(whole):
    page = (whole / "report.md").read_text()
    for name in figures.captions:
        assert f"]({name})" in page and (whole / name).stat().st_size > 1000
    assert (whole / "samples" / "chains.gif").exists()
    draws = np.load(whole / "samples" / "final.npz")
    assert draws["steps"].tolist() == [0, 2, 4, 6] and draws["frames"].shape == (4, 64, 8, 8)
    # Two latents have one plane, which the last step of the chain lies on.
    assert draws["landscape"].shape == (1, 81, 81) and draws["path"].shape == (7, 2)


def test_a_killed_run_resumes_to_the_same_bits(whole, tmp_path):
    """Within the second phase: chains, their step size and the averaged parameters; latents are computed anew."""
    runs.interrupted(tmp_path / "tiny", config(), 3 * N_BATCHES)
    runner.resume(tmp_path / "tiny")
    assert runs.fingerprint(tmp_path / "tiny") == runs.fingerprint(whole)


def test_commands(whole, tmp_path):
    def cli(*arguments):
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output

    cli("sample", whole, "--output", tmp_path / "x.npz", "--num-samples", 64, "--frames", tmp_path / "x.gif")
    drawn = np.load(tmp_path / "x.npz")
    assert drawn["samples"].shape == (64, 8, 8) and drawn["samples"].dtype == np.uint8
    cli("evaluate", whole, "--metrics", "reconstruction", "-o", "evaluation.split=test")
    row = json.loads((whole / "evaluations.jsonl").read_text().splitlines()[-1])["metrics"]
    # The cross-entropy of the saved model, computed once more in NumPy.
    model, params = ej.load(whole / "model.npz")
    assert model == LATENT.model(config())
    x = (ej.data.load("digits", classes=[3, 5]).test.images > 100).astype(np.float32)
    z = jax.vmap(model.encode, (None, 0))(params, x)
    p = np.asarray(jax.vmap(model.decode, (None, 0))(params, z), np.float64)
    expected = -(x * np.log(p) + (1 - x) * np.log1p(-p)).sum(axis=(1, 2)).mean()
    assert row["reconstruction"] == pytest.approx(expected, rel=1e-4)
    cli("plot", whole, "--out", tmp_path / "page")
    assert "gains most over one Gaussian" in (tmp_path / "page" / "report.md").read_text()


def test_the_saved_model_is_the_judged_one(whole):
    _, params = ej.load(whole / "model.npz")
    _, state = runs.last_state(whole)
    jax.tree.map(np.testing.assert_array_equal, params, LATENT.params(config(), state))
    assert read_result(whole)["best"]["metric"] == "gain"


def test_energy():
    """½|z|² + c f(z), by hand for a network of one hidden unit."""
    model = LatentEnergy(MLP((1,), "tanh"), (2,), scale=2.0)
    params = {
        "Dense_0": {"kernel": jnp.array([[1.0], [-0.5]]), "bias": jnp.array([0.3])},
        "Dense_1": {"kernel": jnp.array([[0.7]]), "bias": jnp.array([-0.2])},
    }
    assert jax.tree.structure(params) == jax.tree.structure(model.params_struct())
    z = np.array([0.4, -1.2])
    expected = z @ z / 2 + 2 * (0.7 * np.tanh(z[0] - 0.5 * z[1] + 0.3) - 0.2)
    assert float(model.energy(params, jnp.asarray(z, jnp.float32))) == pytest.approx(expected, abs=1e-6)


def linear_energy(n_latents, slope):
    """Returns an energy ½|z|² + slope · (Σ z_i) of a network of two rectified units."""
    model = LatentEnergy(MLP((2,), "relu"), (n_latents,))
    signs = jnp.tile(jnp.array([[1.0, -1.0]]), (n_latents, 1))
    params = {
        "Dense_0": {"kernel": signs, "bias": jnp.zeros(2)},
        "Dense_1": {"kernel": slope * jnp.array([[1.0], [-1.0]]), "bias": jnp.zeros(1)},
    }
    return model, params


@pytest.mark.parametrize("n_latents", [1, 3])
def test_log_z_by_a_grid_is_that_of_a_shifted_gaussian(n_latents):
    """relu(s) − relu(−s) = s, so exp(−E) is a Gaussian around −slope: log Z = n/2 log 2π + n slope²/2."""
    model, params = linear_energy(n_latents, 0.8)
    expected = n_latents / 2 * np.log(2 * np.pi) + n_latents * 0.8**2 / 2
    assert log_partition(model, params) == pytest.approx(expected, abs=1e-4)


def test_log_z_by_annealing_agrees_with_the_grid():
    """With a spread of log weights s over n chains, 6 s / √n is exceeded with a probability of 1e-8."""
    model = LatentEnergy(MLP((8,)), (2,), scale=3.0)
    params = model.init(jax.random.key(3))
    found = partition.ais(
        jax.random.key(4),
        model,
        params,
        betas=30,
        n_chains=200,
        base=partition.standard_normal(model.position_struct()),
        kernel=lambda energy: ej.mala(energy, 0.8),
    )
    assert abs(found.log_z - log_partition(model, params)) < 6 * found.spread / np.sqrt(200) + 1e-3


def test_too_many_latents_for_a_grid():
    with pytest.raises(ValueError, match=r"there are 5 latents; a grid takes at most 4"):
        log_partition(*linear_energy(5, 0.1))


def test_the_step_size_moves_towards_the_target():
    """On a stiff Gaussian, where almost nothing is accepted at first, and on a wide one, where all is."""
    target = target_of(lambda params, x: params * jnp.dot(x, x) / 2)
    kernel = ej.mala(target.model, 0.5)
    source = AdaptiveChains(kernel, jnp.zeros((64, 3)), jnp.float32(0.6), jnp.float32(0.2), 2)

    @jax.jit
    def run(stiffness, state):
        def body(state, i):
            drawn, new = source.draw(jax.random.key(1), target, stiffness, state, None)
            info = drawn.info
            return new, (drawn.figures["step_size"], info.n_accepted.sum() / info.n_proposed.sum())

        return jax.lax.scan(body, state, jnp.arange(200))[1]

    for stiffness in (100.0, 0.01):
        state = source.init(jax.random.key(0), target, stiffness)
        sizes, acceptance = run(jnp.float32(stiffness), state)
        assert float(sizes[0]) == pytest.approx(0.5)
        # 150 updates of 128 proposals have a standard error under 0.01, correlations along chains included.
        assert float(acceptance[50:].mean()) == pytest.approx(0.6, abs=0.05)
        # A step size in units of the standard deviation does not depend on the Gaussian.
        assert float(sizes[-1]) * np.sqrt(stiffness) == pytest.approx(1.6, rel=0.3)


def test_whitening():
    rng = np.random.default_rng(0)
    z = (rng.normal(size=(500, 3)) @ rng.normal(size=(3, 3)) + [1, 2, 3]).astype(np.float32)
    whitening = whitening_of(z)
    w = np.asarray(whitening.apply(z), np.float64)
    np.testing.assert_allclose(np.cov(w.T), np.eye(3), atol=1e-4)
    np.testing.assert_allclose(whitening.undo(w.astype(np.float32)), z, atol=1e-4)
    with pytest.raises(ValueError, match="use fewer latents"):
        whitening_of(z @ np.diag([1.0, 1.0, 0.0]))


def test_wrong_sizes_are_refused():
    with pytest.raises(
        ConfigError, match=r"n_epochs: 2 was given, but the first 2 epochs train the autoencoder"
    ):
        parse_config({**TINY, "training": {**TINY["training"], "n_epochs": 2}})
    with pytest.raises(ValueError, match="give both the same number"):
        LatentModel(LatentEnergy(MLP((4,)), (3,)), Autoencoder((8, 8), 2, 4))
