"""Keeping models in files."""

import dataclasses
import json
import os
import random

import jax
import numpy as np
import pytest
from flax import linen as nn

import ebm_jax as ej
from ebm_jax.energies.networks import MLP, ConvNet, ResNet
from tests import systems

MODELS = [
    ej.Ising(ej.Grid(3, 4, "periodic", 8)),
    ej.Potts(ej.Graph(4, [(2, 0), (1, 3)]), 5, "matrix"),
    ej.Potts(ej.Bipartite(2, 3), 3),
    ej.RBM(6, 2),
    ej.Ising(ej.Grid(3, 4), hidden=ej.Block([7, 2])),
    ej.Potts(ej.Graph(4, [(2, 0), (1, 3)]), 3, hidden=ej.Block([3])),
    ej.CategoricalRBM(3, 2, 4),
    ej.GaussianRBM(3, 2),
    ej.Marginal(ej.CategoricalRBM(3, 2, 4)),
    ej.NeuralEnergy(ConvNet((2,), (3,), (2,), (1,), (3,)), (4, 4)),
    ej.JointEnergy(MLP((3,), "elu", 2), (4,), 2, scale=0.5),
    ej.FactorGraph(
        {"s": ej.Spins(3), "c": ej.Categories(1, 3), "a": ej.Gaussians(2)},
        [
            ej.Factor(("a", [0, 1], "square")),
            ej.Factor(("s", [0, 1]), ("c", 0), ("a", [1, 1])),
            ej.Factor(("s", 2), ("s", 1), ("s", 0)),
        ],
    ),
]


# More names than arrays, and no factor.
MODELS.append(ej.FactorGraph({f"s{i}": ej.Spins(1) for i in range(30)}, []))


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_round_trip(model, tmp_path):
    params = systems.draw_params(model)
    ej.save(tmp_path / "model.npz", model, params)
    again, loaded = ej.load(tmp_path / "model.npz")
    assert again == model
    assert type(loaded) is type(params)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    assert [p.name for p in tmp_path.iterdir()] == ["model.npz"]


@dataclasses.dataclass(frozen=True)
class Sign(ej.NodeKind):
    """A kind of the user's own."""

    dtype = np.bool_

    def draw(self, fields, words):
        raise NotImplementedError


def test_kinds_of_ones_own_are_kept_by_their_user(tmp_path):
    model, path = ej.FactorGraph({"n": Sign(2)}, [ej.Factor(("n", 0), ("n", 1))]), tmp_path / "model.npz"
    with pytest.warns(
        UserWarning, match=r"the kind of nodes Sign\(n=2\) is not one of ebm_jax; load\(path, model=model"
    ):
        ej.save(path, model, (np.ones(1, np.float32),))
    again, loaded = ej.load(path, model=model)
    assert again == model and isinstance(loaded, tuple)
    np.testing.assert_array_equal(loaded[0], [1])


def test_nothing_is_overwritten_silently(tmp_path):
    model, path = MODELS[3], tmp_path / "model.npz"
    ej.save(path, model, systems.draw_params(model, 0))
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        ej.save(path, model, systems.draw_params(model, 1))
    assert path.read_bytes() == before
    ej.save(path, model, systems.draw_params(model, 1), overwrite=True)
    assert path.read_bytes() != before


def test_damaged_files_are_refused(tmp_path):
    model, path = MODELS[0], tmp_path / "model.npz"
    ej.save(path, model, systems.draw_params(model))
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for broken in (content[: len(content) // 2], b"", b"not a model", bytes(flipped)):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"model\.npz"):
            ej.load(path)
    np.savez(path, structure=np.asarray("{}"))
    with pytest.raises(ValueError, match=r"not written by ebm_jax\.save"):
        ej.load(path)
    with pytest.raises(FileNotFoundError, match="absent"):
        ej.load(tmp_path / "absent.npz")


# What may stand anywhere in the description of a model.
HOSTILE = [
    None,
    True,
    -1,
    0,
    10**30,
    1e400,
    float("nan"),
    "a\nb" * 300,
    [],
    [[]],
    {},
    {"type": "RBM"},
    {"type": "Grid", "height": 10**6, "width": 10**6},
    {"type": "Graph", "n_sites": 10**12},
    {"list": [["structure"]]},
    {"dict": {"a": "structure"}},
    "sites",
]


def places(described, path=()):
    """Lists the paths of all values in a JSON text."""
    yield path
    if isinstance(described, dict | list):
        for key, value in described.items() if isinstance(described, dict) else enumerate(described):
            yield from places(value, (*path, key))


def with_value(described, path, value):
    """Returns a JSON text with another value at a path."""
    if not path:
        return value
    changed = dict(described) if isinstance(described, dict) else list(described)
    changed[path[0]] = with_value(changed[path[0]], path[1:], value)
    return changed


def mutants(path, rng):
    """Writes variants of a model's file over it, one at a time: of its bytes, its structure and its arrays."""
    content = path.read_bytes()
    with np.load(path) as file:
        arrays = dict(file)
    structure = json.loads(str(arrays["structure"]))
    for _ in range(150):
        changed = bytearray(content[: rng.choice((len(content), rng.randrange(len(content))))])
        # The directory of the archive is at its end.
        start = rng.choice((0, max(0, len(changed) - 300)))
        for _ in range(rng.randrange(4) if changed else 0):
            changed[rng.randrange(start, len(changed))] = rng.randrange(256)
        path.write_bytes(changed)
        yield
    for place in places(structure):
        for value in HOSTILE:
            text = json.dumps(with_value(structure, place, value))
            np.savez(path, **{**arrays, "structure": np.asarray(text)})
            yield
    for name in arrays:
        for array in (
            np.zeros(0),
            np.asarray(["a", "b"]),
            np.array([{}]),
            np.zeros(2, "f16"),
            np.ones(1, "M8[s]"),
        ):
            np.savez(path, **{**arrays, name: array})
            yield
        np.savez(path, **{f"/etc/../{key}": array for key, array in arrays.items()})
        yield
    for text in ("[" * 100_000, "9" * 5000, "\ud800", '{"format": 2, "params": NaN}'):
        np.savez(path, **{**arrays, "structure": np.asarray(text)})
        yield


@pytest.mark.parametrize("model", [MODELS[1], MODELS[4], MODELS[8], MODELS[10], MODELS[11], None])
@pytest.mark.usefixtures("as_shipped")
@pytest.mark.filterwarnings("ignore")
def test_whatever_a_file_holds_the_error_is_one_line_with_its_name(model, tmp_path):
    path = tmp_path / "model.npz"
    if model is None:
        ej.save(path, _energy, {"a": [np.ones(2, np.float32)], "b": np.zeros(3)})
    else:
        ej.save(path, model, systems.draw_params(model))
    n_refused = 0
    for _ in mutants(path, random.Random(0)):
        try:
            ej.load(path)
        except ValueError as error:
            n_refused += 1
            message = str(error)
            assert str(path) in message and ";" in message
            assert "\n" not in message and len(message) < 1000
    assert n_refused > 200


def test_networks_with_more_layers_than_arrays_are_not_made(tmp_path):
    path = tmp_path / "model.npz"
    ej.save(path, MODELS[10], systems.draw_params(MODELS[10]))
    layers = {"features": [1] * 100_000}
    rewrite(path, lambda structure: structure["fields"]["module"]["fields"].update(layers))
    with pytest.raises(ValueError, match=r"features lists 100,000 values, and there are 5 arrays"):
        ej.load(path)


def test_pipes_folders_and_bombs_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    np.savez_compressed(tmp_path / "bomb", structure=np.asarray("{}"), x=np.zeros(3_000_000))
    for name, message in (
        ("pipe", "not a regular file"),
        ("bomb.npz", r"unpack to 24,000,\d+ bytes"),
        ("", "Is a directory"),
    ):
        with pytest.raises(
            ValueError, match=rf"{name} is damaged or was not written.*{message}.*; save it anew"
        ):
            ej.load(tmp_path / name)
    with pytest.raises(ValueError, match=r"File name too long"):
        ej.load(tmp_path / ("x" * 5000))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        ej.load(tmp_path / "bomb.npz" / "x")
    with pytest.raises(FileExistsError, match="is a folder; name a file in it"):
        ej.save(tmp_path, MODELS[3], systems.draw_params(MODELS[3]), overwrite=True)


def rewrite(path, change):
    """Writes a model's file again with another structure."""
    with np.load(path) as file:
        arrays = dict(file)
    structure = json.loads(str(arrays.pop("structure")))
    change(structure)
    np.savez(path, structure=np.asarray(json.dumps(structure)), **arrays)


@pytest.mark.parametrize("model", [MODELS[1], MODELS[3], MODELS[4]], ids=str)
def test_files_of_the_first_format_are_read(model, tmp_path):
    def to_first_format(structure):
        fields = structure.pop("fields")
        structure.update(format=1, model=structure.pop("type"), **fields)
        del structure["module"]

    path = tmp_path / "model.npz"
    ej.save(path, model, systems.draw_params(model))
    rewrite(path, to_first_format)
    assert ej.load(path)[0] == model


@pytest.mark.parametrize(
    "change",
    [
        {"type": "BlockSpec"},
        {"type": "RBMParams"},
        {"module": None, "type": "Grid"},
        {"module": "os"},
        {"module": "..graphs.grids", "type": "Grid"},
        {"module": "base"},
    ],
    ids=str,
)
def test_only_models_of_the_package_are_made(change, tmp_path):
    model, path = MODELS[3], tmp_path / "model.npz"
    ej.save(path, model, systems.draw_params(model))
    rewrite(path, lambda structure: structure.update(change))
    with pytest.raises(ValueError, match=r"is no model of ebm_jax\.energies"):
        ej.load(path)


@dataclasses.dataclass(frozen=True)
class Own(ej.RBM):
    """A model of one's own."""


class OwnModule(nn.Module):
    spectral: bool = False

    @nn.compact
    def __call__(self, x):
        dense = nn.Dense(1)
        return nn.SpectralNorm(dense)(x, update_stats=False) if self.spectral else dense(x)


def _energy(params, x):
    return x


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Own(2, 1), r"because Own.* is no model of ebm_jax\.energies"),
        (ej.Marginal(Own(2, 1)), r"because Own.* is no model of ebm_jax\.energies"),
        (ej.NeuralEnergy(OwnModule(), (2,)), r"because the model's module is OwnModule"),
        (_energy, "because .*_energy.* is no model"),
    ],
)
def test_of_other_models_the_parameters_are_kept(model, message, tmp_path):
    path = tmp_path / "x"
    if hasattr(model, "params_struct"):
        params = model.init(jax.random.key(0))
    else:
        params = {"a": [np.ones(2, np.float32)], "b": (np.float32(3), np.arange(3.0, dtype=np.float32))}
    with pytest.warns(UserWarning, match=message):
        ej.save(path, model, params)
    with pytest.warns(UserWarning, match=r"holds parameters alone.* give load\(path, model=model\)"):
        none, alone = ej.load(path)
    assert none is None
    same, joined = ej.load(path, model=model)
    assert same is model
    jax.tree.map(np.testing.assert_array_equal, joined, params)
    assert sorted(leaf.shape for leaf in jax.tree.leaves(alone)) == sorted(
        leaf.shape for leaf in jax.tree.leaves(params)
    )
    assert jax.tree.structure(joined) == jax.tree.structure(params)


def test_variables_of_other_modules_are_joined_again(tmp_path):
    model, path = ej.NeuralEnergy(OwnModule(spectral=True), (2,)), tmp_path / "x"
    key = jax.random.key(0)
    params = {"params": model.init(key), **model.init_variables(key)}
    with pytest.warns(UserWarning, match="will hold the parameters alone"):
        ej.save(path, model, params)
    found = ej.load(path, model=model)[1]
    jax.tree.map(np.testing.assert_array_equal, found, params)
    with pytest.raises(ValueError, match=r"params\.batch_stats\..*, which are not the parameters of RBM"):
        ej.load(path, model=ej.RBM(2, 1))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"a": [1.0]}, r"params\.a\.0 is float; save keeps arrays"),
        ({1: np.ones(2)}, "use texts as keys"),
        ({"a": jax.numpy.ones(2, "bfloat16")}, r"params\.a has dtype bfloat16"),
        ({"a": jax.random.key(0)}, r"params\.a has dtype key<fry>"),
        ({"a.b": np.ones(2), "a": {"b": np.ones(2)}}, "two leaves of one name"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*will hold the parameters alone")
def test_parameters_that_would_not_come_back_are_refused(params, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ej.save(tmp_path / "x", _energy, params)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.*parameters alone")
def test_one_array_is_kept_for_a_function(tmp_path):
    ej.save(tmp_path / "x", _energy, np.arange(3, dtype=np.float32))
    np.testing.assert_array_equal(ej.load(tmp_path / "x", model=_energy)[1], [0, 1, 2])


@pytest.mark.usefixtures("quick_compilation")
def test_networks_come_back_with_their_variables(tmp_path):
    model = ej.NeuralEnergy(ResNet((2, 3), spectral=True), (4, 4), scale=2.0)
    key = jax.random.key(0)
    params = {"params": model.init(key), **model.init_variables(key)}
    ej.save(tmp_path / "x", model, params)
    again, found = ej.load(tmp_path / "x")
    assert again == model
    jax.tree.map(np.testing.assert_array_equal, found, params)
    x = jax.numpy.ones((4, 4))
    np.testing.assert_array_equal(again.energy(found, x), model.energy(params, x))
    with pytest.raises(ValueError, match="give that model, or none"):
        ej.load(tmp_path / "x", model=ej.RBM(2, 1))


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match=r"give a function energy\(params, x\)"):
        ej.save(tmp_path / "x", object(), {})
    with pytest.raises(ValueError, match=r"give NeuralEnergy\(module, shape\)"):
        ej.save(tmp_path / "x", MLP((3,)), {})
    with pytest.raises(ValueError, match="shape"):
        ej.save(tmp_path / "x", MODELS[3], systems.draw_params(ej.RBM(5, 2)))
    assert not list(tmp_path.iterdir())
