"""Draws handed to ArviZ keep their values, names and dtypes, and its numbers of them are those of `diagnostics`."""

import functools
import importlib
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from ebm_jax import diagnostics
from tests.test_imports import loaded_after

pytest.importorskip("arviz_base")
to_datatree = importlib.import_module("ebm_jax.interop.arviz").to_datatree

N, M = 60, 4


@functools.cache
def run():
    """Chains that stick, so that effective sizes are far from the number of draws."""

    def energy(params, x):
        return 0.5 * jnp.sum(x["a"] ** 2) + 2 * (x["b"] - 1) ** 2

    def observe(params, x):
        return {"energy": energy(params, x), "row": x["a"][0]}

    start = {"a": jnp.zeros((M, 2, 3)), "b": jnp.zeros(M)}
    schedule = ej.SamplingSchedule(2, N, 2)
    return ej.sample(jax.random.key(0), ej.mala(energy, 0.6), None, start, schedule, observe=observe)


def test_numbers_of_arviz_are_those_of_diagnostics():
    stats = pytest.importorskip("arviz_stats")
    samples = run()
    tree = to_datatree(samples, dims={"a": ["row", "column"]})
    table = stats.summary(tree, round_to="none")
    ours = jax.tree.map(np.asarray, diagnostics.summarize(samples.positions))
    for place in np.ndindex(2, 3):
        row = table.loc[f"a[{', '.join(map(str, place))}]"]
        for field, numbers in ours._asdict().items():
            column, scale = {"mcse": "mcse_mean"}.get(field, field), 1.0
            # Its summary takes the tail's quantiles from a credible interval.
            if field == "ess_tail":
                continue
            # Before version 1 its sd was divided by n.
            if field == "sd" and stats.__version__.startswith("0."):
                scale = np.sqrt(1 - 1 / (N * M))
            want = scale * float(numbers["a"][place])
            assert row[column] == pytest.approx(want, rel=1e-3, abs=1e-6), column
    tails = stats.ess(tree, method="tail", prob=(0.05, 0.95))
    np.testing.assert_allclose(tails["a"], ours.ess_tail["a"], rtol=1e-3)
    of_energy = diagnostics.summarize(samples.observed["energy"])
    sizes, ratios = stats.ess(tree, group="sample_stats"), stats.rhat(tree)
    assert float(sizes["energy"]) == pytest.approx(float(of_energy.ess_bulk), rel=1e-3)
    assert float(ratios["b"]) == pytest.approx(float(ours.r_hat["b"]), rel=1e-3)


def test_chains_come_first_and_info_becomes_attributes():
    samples = run()
    tree = to_datatree(samples, dims={"a": ["row", "column"]}, coords={"row": ["up", "down"]})
    assert tree["posterior"]["a"].dims == ("chain", "draw", "row", "column")
    assert list(tree["posterior"]["row"].values) == ["up", "down"]
    np.testing.assert_array_equal(tree["posterior"]["a"], jnp.swapaxes(samples.positions["a"], 0, 1))
    assert set(tree["sample_stats"].data_vars) == {"energy", "row"}
    np.testing.assert_array_equal(tree["sample_stats"]["row"][2, 7], samples.observed["row"][7, 2])
    attributes = tree["posterior"].attrs
    assert attributes["inference_library"] == "ebm_jax"
    np.testing.assert_allclose(attributes["acceptance_rate"], samples.info.acceptance)
    assert attributes["n_gradient"] == np.asarray(samples.info.n_gradient).tolist()
    single = samples._replace(observed=samples.observed["energy"])
    assert set(to_datatree(single, observed="energy")["sample_stats"].data_vars) == {"energy"}


def test_discrete_dtypes_stay():
    rng = np.random.default_rng(0)
    pair = (
        jnp.asarray(rng.integers(0, 2, (5, 2, 3)), bool),
        jnp.asarray(rng.integers(0, 9, (5, 2)), jnp.uint8),
    )
    tree = to_datatree(pair)
    assert set(tree.children) == {"posterior"}
    for number, layer in enumerate(pair):
        got = tree["posterior"][f"x_{number}"]
        assert got.dtype == layer.dtype
        np.testing.assert_array_equal(got, np.swapaxes(layer, 0, 1))


class Pair(NamedTuple):
    up: object
    down: object


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda x: x, {"q"}),
        (lambda x: {"w": x, "b": {"inner": x}}, {"w", "b_inner"}),
        (lambda x: Pair(x, x), {"up", "down"}),
        (lambda x: (x, [x, x]), {"q_0", "q_1_0", "q_1_1"}),
        (lambda x: {"layers": (x, Pair(x, x))}, {"layers_0", "layers_1_up", "layers_1_down"}),
        (lambda x: {0: x, 1: x}, {"q_0", "q_1"}),
    ],
)
def test_names_say_where_a_leaf_stands(make, names):
    tree = to_datatree(make(np.zeros((5, 2))), name="q")
    assert set(tree["posterior"].data_vars) == names


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: to_datatree(run()._replace(positions=None)), "an Observer reduced them"),
        (lambda: to_datatree({"a": np.zeros(5)}), r"a has shape \(5,\)"),
        (lambda: to_datatree({"a": np.zeros((5, 2)), "b": np.zeros((5, 3))}), "same"),
        (lambda: to_datatree({"a": {"b": np.zeros((5, 2))}, "a_b": np.zeros((5, 2))}), "taken"),
        (lambda: to_datatree({"draw": np.zeros((5, 2))}), "'draw', which is taken"),
        (lambda: to_datatree({}), "give arrays"),
    ],
)
def test_bad_input(act, words, as_shipped):
    with pytest.raises(ValueError, match=words):
        act()


def test_arviz_is_loaded_when_asked_for_and_its_absence_is_said_with_the_remedy(monkeypatch):
    assert not {"arviz_base", "xarray"} & loaded_after("import ebm_jax.interop; dir(ebm_jax.interop)")
    monkeypatch.delitem(sys.modules, "ebm_jax.interop.arviz")
    monkeypatch.delattr(ej.interop, "arviz")
    monkeypatch.setitem(sys.modules, "arviz_base", None)
    with pytest.raises(ImportError, match=r"pip install 'ebm-jax\[arviz\]'"):
        ej.interop.arviz
