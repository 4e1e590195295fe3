"""What people give by mistake, and the line that says how to do it."""

import dataclasses
import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse
import tqdm.auto
from flax import nnx
from jax.experimental import sparse

import ebm_jax as ej
from ebm_jax import partition, run

pytestmark = pytest.mark.usefixtures("as_shipped")
KEY = jax.random.key(0)
MODEL = ej.RBM(6, 3)
SOURCE = ej.negatives.pcd(ej.gibbs(MODEL), n_chains=4)
DATA = np.random.default_rng(0).integers(0, 2, (8, 6)).astype(np.uint8)


def fit(data=DATA, n_epochs=3, **options):
    return ej.fit(
        KEY,
        MODEL,
        data,
        tx=optax.sgd(0.1),
        negatives=SOURCE,
        n_epochs=n_epochs,
        batch_size=4,
        progress=False,
        **options,
    )


def test_images_where_rows_are_wanted():
    with pytest.raises(ValueError, match=r"has shape \(8, 2, 3\).*use .reshape\(8, 6\)"):
        fit(DATA.reshape(8, 2, 3))


def test_an_energy_without_parameters():
    for build in (lambda e: ej.mala(e, 0.1), lambda e: ej.make_train_step(e, optax.sgd(0.1), SOURCE)):
        with pytest.raises(ValueError, match=r"takes \(x\); give energy\(params, x\)"):
            build(lambda x: jnp.sum(x**2))


def test_ais_in_a_traced_function():
    params = MODEL.init(KEY)
    with pytest.raises(ValueError, match=r"ais is called inside jit.*call it outside"):
        jax.jit(lambda p: partition.ais(KEY, MODEL, p, betas=4, n_chains=2).log_z)(params)


def test_beta_may_be_a_list():
    kernel, params, x = ej.gibbs(MODEL), MODEL.init(KEY), ej.init_chains(KEY, MODEL, 4)
    betas = [0.5, 0.7, 1.0]
    schedule = ej.SamplingSchedule(1, 3, 1)
    one, other = (
        ej.sample(KEY, kernel, params, x, schedule, beta=b).positions for b in (betas, np.float32(betas))
    )
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    with pytest.raises(ValueError, match="give a real number"):
        ej.sample(KEY, kernel, params, x, schedule, beta=["hot"])


def interrupt(*arguments):
    raise KeyboardInterrupt


def test_an_interrupt_of_sample_keeps_what_there_is(monkeypatch):
    """With a bar a run of seven samples is made in seven pieces; the interrupt comes after the third."""
    kernel, params, x = ej.metropolis(MODEL), MODEL.init(KEY), ej.init_chains(KEY, MODEL, 4)
    whole = ej.sample(KEY, kernel, params, x, ej.SamplingSchedule(2, 7), observe=MODEL.energy)
    bar = tqdm.auto.tqdm

    def interrupted(after):
        n = itertools.count(1)

        def update(self, by=1):
            if next(n) == after:
                raise KeyboardInterrupt

        monkeypatch.setattr(bar, "update", update)
        return ej.sample(
            KEY, kernel, params, x, ej.SamplingSchedule(2, 7), observe=MODEL.energy, progress=True
        )

    with pytest.warns(UserWarning, match="interrupted after 3 samples; the result holds these"):
        found = interrupted(3)
    for got, all_of_it in zip(found[:2], whole[:2], strict=True):
        jax.tree.map(np.testing.assert_array_equal, got, jax.tree.map(lambda leaf: leaf[:3], all_of_it))
    # The states belong to the last sample, from where the run goes on with the bits of the whole.
    rest = ej.sample(KEY, kernel, params, found.state, ej.SamplingSchedule(1, 4), observe=MODEL.energy)
    np.testing.assert_array_equal(rest.observed, whole.observed[3:])
    # Before the first sample there is nothing to return.
    monkeypatch.setattr(run, "_run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        interrupted(1)


def test_a_callback_or_an_interrupt_ends_training_and_keeps_what_there_is():
    whole = fit(n_epochs=2).metrics.loss
    for answer in (True, np.bool_(True), jnp.bool_(True)):
        stopped = fit(
            n_epochs=9, callback=lambda epoch, state, metrics, answer=answer: answer if epoch else None
        )
        np.testing.assert_array_equal(stopped.metrics.loss, whole)
        assert int(stopped.state.step) == 4
    # Anything but a truth value goes on.
    assert fit(n_epochs=2, callback=lambda epoch, state, metrics: metrics).metrics.loss.shape == (2, 2)

    def interrupt(epoch, state, metrics):
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted after 2 of 9 epochs"):
        stopped = fit(n_epochs=9, callback=interrupt)
    np.testing.assert_array_equal(stopped.metrics.loss, whole)


class Tensor:
    """Looks like a tensor of PyTorch that needs a gradient."""

    def __init__(self, values):
        self.values, self.shape, self.dtype = values, values.shape, "torch.int64"

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return self.values


def data_frame(values):
    return pytest.importorskip("pandas").DataFrame(values)


CONTAINERS = {
    "list": np.ndarray.tolist,
    "tuples": lambda x: tuple(map(tuple, x.tolist())),
    "list of arrays": list,
    "int64": lambda x: x.astype(np.int64),
    "int32 on the device": lambda x: jnp.asarray(x, jnp.int32),
    "floats 0 and 1": lambda x: x.astype(np.float64),
    "sparse matrix": scipy.sparse.csr_matrix,
    "sparse array of floats": lambda x: scipy.sparse.coo_array(x.astype(float)),
    "sparse of JAX": sparse.BCOO.fromdense,
    "data frame": data_frame,
    "tensor": lambda x: Tensor(x.astype(np.int64)),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_data_of_other_libraries_train_the_same_bits(container):
    kept = CONTAINERS[container](DATA)
    np.testing.assert_array_equal(fit(kept).metrics.loss, fit().metrics.loss)
    params = MODEL.init(KEY)
    measures = [ej.metrics.reconstruction_error(MODEL, params, data) for data in (kept, DATA)]
    assert measures[0] == measures[1]
    # A bool model takes them as well, and floats stay floats.
    grid, positions = ej.Ising(ej.Grid(2, 3)), DATA.reshape(8, 2, 3)
    if container in ("list", "int64", "floats 0 and 1"):
        run = functools.partial(ej.sample, KEY, ej.gibbs(grid), grid.init(KEY))
        schedule = ej.SamplingSchedule(0, 2, 1)
        one, other = (run(x, schedule) for x in (CONTAINERS[container](positions), positions.astype(bool)))
        np.testing.assert_array_equal(one.positions, other.positions)
    floats = CONTAINERS[container](DATA * np.float32(0.5)) if container in ("list", "data frame") else None
    if floats is not None:
        run = functools.partial(ej.sample, KEY, ej.mala(half_square, 0.1), None)
        one, other = (
            run(x, ej.SamplingSchedule(0, 2, 1)).positions for x in (floats, DATA * np.float32(0.5))
        )
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (MODEL, DATA * 0.5, r"convert grey values.*ebm_jax\.data\.binarize, or .*visible=\"mean-field\"\)"),
        (MODEL, DATA * 255, r"data holds level 255.*ebm_jax\.data\.binarize"),
        (MODEL, 2.0 * DATA - 1, r"convert -1 and \+1 with ebm_jax\.spins_from"),
        # As uint8, 256 would be 0.
        (MODEL, DATA.astype(np.int64) * 256, r"dtype int64; .*ebm_jax\.data\.binarize"),
        (MODEL, DATA.astype(object), "data has dtype object"),
        (MODEL, [["a"] * 6], "data is list of <U1, not of numbers alone"),
        (MODEL, [[0, 1], [1]], "data is list that is no array of numbers"),
        (MODEL, np.ma.masked_equal(DATA, 1), r"some are masked: use \.filled"),
        (MODEL, scipy.sparse.csr_matrix(DATA * 0.5), "ebm_jax.data.binarize"),
        (MODEL, DATA[0], r"data has shape \(6,\)"),
        (ej.Ising(ej.Grid(2, 3)), DATA.reshape(8, 2, 3) * 0.5, r"float64; expected bool: convert grey"),
        (ej.Ising(ej.Grid(2, 3)), DATA.reshape(8, 2, 3) * 2, r"uint8; expected bool: convert grey"),
        (ej.CategoricalRBM(6, 3, 4), DATA * 0.5, r"ebm_jax\.data\.discretize"),
        (ej.GaussianRBM(6, 3), DATA, r"dtype uint8; expected float32: convert it with \.astype"),
    ],
)
def test_data_that_only_their_owner_can_convert(model, data, message):
    source = ej.negatives.pcd(ej.gibbs(model), n_chains=4)
    with pytest.raises(ValueError, match=message) as error:
        ej.fit(KEY, model, data, tx=optax.sgd(0.1), negatives=source, n_epochs=1, batch_size=4)
    assert "\n" not in str(error.value)


def test_energies_name_what_they_are_not_given():
    params = MODEL.init(KEY)
    for v, message in (
        (DATA[0].tolist(), "v is a list; expected one array: use np.asarray"),
        (Tensor(DATA[0]), r"v is Tensor; expected an array uint8\[6\]: use np.asarray"),
        (DATA[0] * 0.5, r"ebm_jax\.data\.binarize"),
        (DATA[0].astype(np.int64), r"convert it with \.astype"),
    ):
        with pytest.raises(ValueError, match=message):
            MODEL.free_energy(params, v)
    with pytest.raises(ValueError, match=r"init has the structure .* e\.g\. made by init_chains"):
        ej.sample(KEY, ej.gibbs(MODEL), params, DATA, ej.SamplingSchedule(0, 1, 1))


def half_square(_, x):
    return 0.5 * jnp.sum(x**2)


def step_with(energy, params):
    """Takes a step of MALA, which looks at the energy before it runs."""
    x = np.zeros((2, 3), np.float32)
    return ej.sample(KEY, ej.mala(energy, 0.1), params, x, ej.SamplingSchedule(0, 1, 1))


@pytest.mark.parametrize(
    ("energy", "params"),
    [
        # The names of the arguments say so, though the sum works either way round.
        (lambda x, params: jnp.sum(x**2) + params.sum(), jnp.ones(3)),
        (lambda x, p: jnp.sum(p["w"] * x**2), {"w": jnp.ones(3)}),
        # Here only the attempt does.
        (lambda place, scale: jnp.sum(scale["w"] * place**2), {"w": jnp.ones(3)}),
    ],
)
def test_an_energy_with_its_arguments_swapped(energy, params):
    with pytest.raises(ValueError, match=r"energy\(params, x\).*energy\(x, params\) turns them round"):
        step_with(energy, params)
    # An energy that fails either way round fails with its own error.
    with pytest.raises(KeyError, match="missing"):
        step_with(lambda p, x: p["missing"] + x["missing"], {"w": jnp.ones(3)})


class Module:
    """Looks like a module of Equinox: called on inputs, a pytree of arrays and functions."""

    __module__ = "equinox._module._module"


@functools.partial(jax.tree_util.register_dataclass, data_fields=("weight", "activation"), meta_fields=())
@dataclasses.dataclass
class Perceptron(Module):
    weight: object
    activation: object = jax.nn.relu

    def __call__(self, x, *, key=None):
        return self.activation(self.weight @ x)


def test_modules_in_place_of_functions_and_of_parameters():
    dense = nn.Dense(1)
    network = Perceptron(jnp.ones(3))
    for energy, message in (
        (
            dense,
            r"energy is the Flax module Dense.*give NeuralEnergy\(module, shape\).*module\.apply\(params, x\)",
        ),
        (nnx.Linear(3, 1, rngs=nnx.Rngs(0)), r"the Flax module Linear.*nnx\.split\(module\)"),
        (
            network,
            r"the Equinox module Perceptron.*equinox\.partition.*equinox\.combine\(params, static\)\(x\)",
        ),
    ):
        with pytest.raises(ValueError, match=message) as error:
            ej.mala(energy, 0.1)
        assert "energy(params, x)" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(
        ValueError, match=r"params is the Flax module Dense; give its parameters, module\.init"
    ):
        step_with(half_square, dense)
    for take in (
        step_with,
        lambda e, p: ej.make_train_step(e, optax.sgd(0.1), ej.negatives.cd(ej.ula(e, 0.1)))[0](KEY, p),
    ):
        with pytest.raises(ValueError, match=r"params\.activation is .*equinox\.partition.*equinox\.combine"):
            take(lambda p, x: p(x), network)
    with pytest.raises(ValueError, match=r"params\['name'\] is 'relu'; give arrays and numbers alone"):
        step_with(half_square, {"name": "relu"})


def test_levels_that_are_not_those_of_the_model():
    spins = ej.Ising(ej.Grid(1, 2))
    kernel, params = ej.gibbs(spins), spins.init(KEY)
    held = np.array([[True, False]]), np.array([[1, -1]])
    with pytest.raises(ValueError, match=r"clamped values has dtype int64; .* with ebm_jax\.spins_from"):
        ej.sample(KEY, kernel, params, np.ones((3, 1, 2), bool), ej.SamplingSchedule(1, 1), clamped=held)
    with pytest.raises(ValueError, match="init has dtype int64; expected uint8: levels run from 0 on"):
        ej.sample(
            KEY,
            ej.gibbs(ej.Potts(ej.Grid(1, 2), 3)),
            ej.Potts(ej.Grid(1, 2), 3).init(KEY),
            np.full((3, 1, 2), -1),
            ej.SamplingSchedule(1, 1),
        )
    mixed = ej.FactorGraph({"s": ej.Spins(1), "c": ej.Categories(1, 4)}, [ej.Factor(("s", 0), ("c", 0))])
    with pytest.raises(ValueError, match="other than n_levels=4 levels; use gibbs"):
        ej.categorical_gibbs(mixed, 4)
    flags = ej.categorical_gibbs(lambda params, x: jnp.sum(x * 1.0), 3)
    with pytest.raises(ValueError, match="bools, which have 2 levels, and n_levels is 3"):
        ej.sample(KEY, flags, None, np.ones((3, 2), bool), ej.SamplingSchedule(1, 1))
    with pytest.raises(ValueError, match=r"params is a list; expected a tuple: use tuple\(…\)"):
        mixed.energy([np.zeros((1, 4), np.float32)], {"s": np.ones(1, bool), "c": np.zeros(1, np.uint8)})
    with pytest.raises(ValueError, match="exact answers need an Ising, Potts, RBM or FactorGraph model"):
        ej.exact.sample(KEY, lambda params, x: 0.0, None, 3)
