"""The doctor's report and the data commands: what is found, what is missing, and that nothing raises."""

import dataclasses
import re
import sys
import tomllib
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from ebm_jax.cli import data_sets, doctor
from ebm_jax.data import cache, sources, tfds
from ebm_jax.data.specs import SPECS

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    """No test sees the user's cache, data or network."""
    monkeypatch.delenv("EBM_JAX_DATA_DIR", raising=False)
    monkeypatch.setenv("EBM_JAX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(tfds, "_network_problem", lambda url: "no network in tests")


@pytest.fixture
def binarized(monkeypatch, tmp_path):
    """A folder with a tiny binarized MNIST."""
    small = dataclasses.replace(SPECS["binarized_mnist"], sizes=(4, 3, 2), digest=None)
    monkeypatch.setitem(SPECS, "binarized_mnist", small)
    folder = tmp_path / "data"
    (folder / "binarized_mnist").mkdir(parents=True)
    rows = {key: np.zeros((n, 98), np.uint8) for key, n in zip(("train", "valid", "test"), (4, 3, 2))}
    np.savez(folder / "binarized_mnist" / sources.BINARIZED_FILE, **rows)
    monkeypatch.setenv("EBM_JAX_DATA_DIR", str(folder))
    return folder


def sections():
    """The report as {section: {name: text}}."""
    found = {}
    for block in doctor.report().split("\n\n"):
        title, *rows = block.splitlines()
        found[title] = dict(re.split(r"\s{2,}|(?<=\S{17}) ", row.strip(), maxsplit=1) for row in rows)
    return found


def test_the_report_of_a_sound_installation():
    report = sections()
    assert list(report) == ["Versions", "Devices", "Data", "Extras", "Folders"]
    assert report["Versions"]["jax"] == jax.__version__
    assert list(report["Versions"]) == ["Python", "ebm_jax", *doctor.LIBRARIES]
    assert report["Devices"]["cpu:0"] == "cpu"
    assert list(report["Data"]) == list(SPECS)
    assert report["Data"]["digits"] == "found: comes with scikit-learn"
    assert report["Data"]["mnist"].startswith("not found: `ebm-jax data prepare mnist`")
    assert list(report["Extras"]) == list(doctor.EXTRAS)


def test_a_backend_that_fails_is_reported(monkeypatch):
    def fail():
        raise RuntimeError("no such backend\nand more")

    monkeypatch.setattr(jax, "devices", fail)
    monkeypatch.setenv("JAX_PLATFORMS", "bogus")
    said = sections()["Devices"]["none"]
    assert said == "JAX found no device (JAX_PLATFORMS is 'bogus'): RuntimeError: no such backend"


def test_a_jax_that_cannot_be_imported_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    assert "ModuleNotFoundError" in sections()["Devices"]["none"]


def test_data_that_cannot_be_looked_for_are_reported(monkeypatch):
    def fail(spec):
        raise PermissionError("not yours")

    monkeypatch.setattr(data_sets, "locate", fail)
    assert "PermissionError: not yours" in sections()["Data"]["none"]


def test_extras_are_those_of_the_project():
    extras = {name: needs for name, needs in PROJECT["optional-dependencies"].items() if name != "dev"}
    assert list(doctor.EXTRAS) == list(extras)
    for name, needs in extras.items():
        wanted = {re.match(r"[\w.-]+", need).group() for need in needs}
        if wanted == {"jax"}:  # what comes with jax[cuda12] and its like
            assert re.fullmatch(rf"jax\[{name}\]>=.*", needs[0])
        else:
            assert set(doctor.EXTRAS[name].needs) == wanted


def test_what_is_missing_of_an_extra(monkeypatch):
    there = {"arviz-base", "thrml"}
    monkeypatch.setattr(doctor, "version", lambda name: "1" if name in there else None)
    report = sections()
    assert report["Extras"]["thrml"] == "installed: the bridge to THRML's models"
    assert report["Extras"]["arviz"].startswith("not installed (xarray missing): ")
    assert report["Extras"]["docs"].endswith("; pip install 'ebm-jax[docs]'")
    assert report["Versions"]["optax"] == "not installed"


def test_the_data_folder(monkeypatch, tmp_path):
    assert sections()["Folders"]["EBM_JAX_DATA_DIR"] == "not set"
    monkeypatch.setenv("EBM_JAX_DATA_DIR", str(tmp_path))
    folders = sections()["Folders"]
    assert folders["EBM_JAX_DATA_DIR"] == str(tmp_path) and folders["cache"] == str(tmp_path / "cache")
    monkeypatch.setenv("EBM_JAX_DATA_DIR", str(tmp_path / "none"))
    assert sections()["Folders"]["EBM_JAX_DATA_DIR"].endswith("which is not a folder")


def test_a_data_set_is_located_where_load_finds_it(binarized, monkeypatch):
    spec = SPECS["binarized_mnist"]
    assert data_sets.locate(spec) == (True, f"files in {binarized / 'binarized_mnist'}")
    text = data_sets.prepare("binarized_mnist")
    assert "4 / 3 / 2 images of 28×28" in text and f"from: files in {binarized}" in text
    assert f"cache: {cache.directory()}" in text and any(cache.directory().glob("binarized_mnist-*"))
    assert re.search(r"binarized_mnist +28×28 +4 +3 +2 +yes: files in", data_sets.table())
    monkeypatch.delenv("EBM_JAX_DATA_DIR")
    place = data_sets.locate(spec)
    assert not place.found and sources.BINARIZED_FILE in place.where


def test_an_entry_of_the_cache_and_prepared_files_are_found(monkeypatch, tmp_path):
    spec = SPECS["mnist"]
    prepared = cache.directory() / "tfds" / "mnist" / "3.0.1" / "dataset_info.json"
    prepared.parent.mkdir(parents=True)
    prepared.write_text("{}")
    assert data_sets.locate(spec) == (True, f"TensorFlow Datasets in {cache.directory() / 'tfds'}")
    monkeypatch.setattr(
        cache, "read_entry", lambda root, spec, digest: types.SimpleNamespace() if digest else None
    )
    assert data_sets.locate(spec) == (True, f"the cache, {cache.directory()}")


def test_a_set_of_files_with_a_gap_is_told(monkeypatch, tmp_path):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / sources.IDX_FILES[0]).write_bytes(b"")
    monkeypatch.setenv("EBM_JAX_DATA_DIR", str(tmp_path))
    place = data_sets.locate(SPECS["mnist"])
    assert not place.found and "train-labels-idx1-ubyte" in place.where
