"""Parts of about equal degree: every site in one, little padding, and the same draws as without."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ebm_jax as ej
from ebm_jax.lattice import general
from tests import systems


@given(st.lists(st.integers(0, 300), min_size=1, max_size=200), st.integers(0, 50))
def test_parts_hold_every_site_once_and_waste_little(degrees, spare):
    degree = np.asarray(degrees)
    sites = np.arange(len(degrees))[:: 2 if len(degrees) > 1 else 1]
    parts = general.by_degree(sites, degree, spare)
    assert sorted(np.concatenate(parts).tolist()) == sites.tolist()
    widest = [degree[part].max() for part in parts]
    assert widest == sorted(set(widest))
    for part, width in zip(parts, widest, strict=True):
        filled = degree[part].sum()
        assert len(part) * width - filled <= max(general.SPARE_SLOTS, spare, filled)


def test_a_hub_does_not_widen_the_rows_of_others():
    n = 3000
    # A path, and a hub joined to every fourth site.
    edges = np.stack([np.arange(0, n - 1), np.arange(1, n)], axis=1)
    spokes = np.stack([np.full(n // 4, n), np.arange(0, n, 4)], axis=1)
    kernel = ej.gibbs(ej.Ising(ej.Graph(n + 1, np.concatenate([edges, spokes]))))
    slots = sum(part.row.size for parts in kernel.tables.parts for part in parts)
    assert slots < 3 * (2 * len(edges) + 2 * len(spokes))


@pytest.mark.parametrize("name", ["potts_graph", "ising_3x3"])
def test_parts_change_no_draw(name, monkeypatch):
    system = systems.get(name)
    start = system.exact_positions(300)

    def run():
        kernel = ej.gibbs(system.model, path="general")
        after, _ = systems.run_chains(kernel, jax.random.key(1), system.params, 0.7, start, n_steps=2)
        return kernel, np.asarray(after)

    whole, expected = run()
    monkeypatch.setattr(
        general,
        "by_degree",
        lambda sites, degree, spare: [sites[degree[sites] == d] for d in np.unique(degree[sites])],
    )
    cut, found = run()
    assert len(jax.tree.leaves(cut.tables.parts)) > len(jax.tree.leaves(whole.tables.parts))
    assert not cut.layout.has_odds and whole.layout.has_odds
    np.testing.assert_array_equal(found, expected)
