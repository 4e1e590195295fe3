"""Keeping models in files."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import ebm_jax as ej
from ebm_jax import io
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
]


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_round_trip(model, tmp_path):
    io.check_savable(model)
    params = systems.draw_params(model)
    ej.save(tmp_path / "model.npz", model, params)
    again, loaded = ej.load(tmp_path / "model.npz")
    assert again == model
    assert type(loaded) is type(params)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    assert [p.name for p in tmp_path.iterdir()] == ["model.npz"]


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


class OwnEnergy:
    def free_energy_relaxed(self, params, one_hot):
        return 0.0

    def __repr__(self):
        return "an energy"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (object(), "Ising, Potts and RBM"),
        (Own(2, 1), "models of ebm_jax.energies.*not Own"),
        (ej.Marginal(Own(2, 1)), "models of ebm_jax.energies.*not Own"),
        (ej.Marginal(OwnEnergy()), "the model's model is an energy, which no file can describe"),
    ],
)
def test_what_cannot_be_saved_is_known_at_once(model, message, tmp_path, as_shipped):
    with pytest.raises(ValueError, match=message):
        io.check_savable(model)
    with pytest.raises(ValueError, match=message):
        ej.save(tmp_path / "x", model, {})
    assert not list(tmp_path.iterdir())


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="shape"):
        ej.save(tmp_path / "x", MODELS[3], systems.draw_params(ej.RBM(5, 2)))
    assert not list(tmp_path.iterdir())
