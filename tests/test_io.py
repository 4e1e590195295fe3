"""Keeping models in files."""

import jax
import numpy as np
import pytest

import ebm_jax as ej
from tests import systems

MODELS = [
    ej.Ising(ej.Grid(3, 4, "periodic", 8)),
    ej.Potts(ej.Graph(4, [(2, 0), (1, 3)]), 5, "matrix"),
    ej.Potts(ej.Bipartite(2, 3), 3),
    ej.RBM(6, 2),
    ej.Ising(ej.Grid(3, 4), hidden=ej.Block([7, 2])),
    ej.Potts(ej.Graph(4, [(2, 0), (1, 3)]), 3, hidden=ej.Block([3])),
]


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_round_trip(model, tmp_path):
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
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for broken in (whole[: len(whole) // 2], b"", b"not a model", bytes(flipped)):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"model\.npz"):
            ej.load(path)
    np.savez(path, structure=np.asarray("{}"))
    with pytest.raises(ValueError, match=r"not written by ebm_jax\.save"):
        ej.load(path)
    with pytest.raises(FileNotFoundError, match="absent"):
        ej.load(tmp_path / "absent.npz")


def test_bad_input(tmp_path, as_shipped):
    with pytest.raises(ValueError, match="Ising, Potts and RBM"):
        ej.save(tmp_path / "x", object(), {})
    with pytest.raises(ValueError, match="shape"):
        ej.save(tmp_path / "x", MODELS[3], systems.draw_params(ej.RBM(5, 2)))
    assert not list(tmp_path.iterdir())
