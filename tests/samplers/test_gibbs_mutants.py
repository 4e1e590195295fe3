"""Faults injected into the code that runs, path by path: the check that passes for the real code fails for each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from ebm_jax import draw, rng
from ebm_jax.lattice import bipartite, general
from ebm_jax.lattice.grid import GridLayout
from tests import conditionals, systems

MODELS = {
    "grid": ej.Ising(ej.Grid(4, 4, "periodic"), "edge"),
    "general": ej.Potts(ej.Graph(6, [(1, 0), (1, 2), (3, 2), (3, 4), (5, 4), (0, 5)]), 3, "matrix"),
    "bipartite": ej.RBM(5, 4),
}


def check(path):
    """Without compiling, except for the many tiles of an RBM: a mutant of the others then costs no compilation."""
    model = MODELS[path]
    if path == "bipartite":
        conditionals.one_step.clear_cache()
    with jax.disable_jit(path != "bipartite"):
        conditionals.check(ej.gibbs(model), systems.draw_params(model, seed=3), path, n_copies=1500)


@pytest.fixture(autouse=True, scope="module")
def _leave_nothing_compiled():
    yield
    conditionals.one_step.clear_cache()


@pytest.mark.parametrize("path", MODELS)
def test_the_real_code_passes(path):
    check(path)


# ---- grids ----


def grid_neighbour_dropped(patch):
    genuine = GridLayout._neighbours

    def mutant(self, parity, packs):
        slots = genuine(self, parity, packs)
        return slots._replace(stop=slots.stop - 1)

    patch.setattr(GridLayout, "_neighbours", mutant)


def grid_neighbours_left_and_right_swapped(patch):
    genuine = GridLayout._neighbours

    def mutant(self, parity, packs):
        slots = genuine(self, parity, packs)
        return slots._replace(at=lambda slot: slots.at(slot if slot > 1 else 1 - slot))

    patch.setattr(GridLayout, "_neighbours", mutant)


def grid_border_of_torus_not_renewed(patch):
    patch.setattr(GridLayout, "_wrap", lambda self, array: array)


def grid_colours_read_one_state(patch):
    genuine, before = GridLayout.update, []

    def mutant(self, group, tables, weights, odds, words, step, packs, masks):
        before[:] = [packs] if group == 0 else before
        fresh = genuine(self, group, tables, weights, odds, words, step, before[0], masks)
        target = self.order[group]
        return (*packs[:target], fresh[target], *packs[target + 1 :])

    patch.setattr(GridLayout, "update", mutant)


def grid_couplings_of_directions_swapped(patch):
    genuine = GridLayout._coupling_images

    def mutant(self, values):
        (across, first), (down, second) = genuine(self, values)
        return [(across, second), (down, first)]

    patch.setattr(GridLayout, "_coupling_images", mutant)


def grid_one_word_for_all_sites(patch):
    genuine = rng.site_words
    patch.setattr(rng, "site_words", lambda words, step, site: genuine(words, step, 0 * site))


def grid_draw_biased(patch):
    genuine = rng.uniform
    patch.setattr(draw, "bernoulli_odds", lambda odds, word: 0.97 * genuine(word) * (1 + odds) < odds)


# ---- index tables ----


def general_neighbour_dropped(patch):
    genuine = general.Slots
    patch.setattr(general, "Slots", lambda n, at: genuine(n - 1, at))


def general_tables_transposed(patch):
    genuine = general.slot_couplings

    def mutant(group, *rest):
        return genuine(group._replace(forward=~group.forward), *rest)

    patch.setattr(general, "slot_couplings", mutant)


def general_couplings_of_two_edges_swapped(patch):
    genuine = general.slot_couplings

    def mutant(group, coupling, n_levels, values):
        return genuine(group, coupling, n_levels, values[jnp.array([1, 0, 2, 3, 4, 5])])

    patch.setattr(general, "slot_couplings", mutant)


def general_colours_read_one_state(patch):
    genuine, before = general.GeneralLayout.update, []

    def mutant(self, group, tables, weights, odds, words, step, rows, masks):
        before[:] = [rows] if group == 0 else before
        fresh = genuine(self, group, tables, weights, odds, words, step, before[0], masks)
        start = sum(map(sum, self.sizes[:group]))
        mine = slice(start, start + sum(self.sizes[group]))
        return rows.at[mine].set(fresh[mine])

    patch.setattr(general.GeneralLayout, "update", mutant)


def general_draw_biased(patch):
    genuine = rng.uniform
    patch.setattr(rng, "uniform", lambda word: np.float32(0.97) * genuine(word))


def general_last_level_never_drawn(patch):
    genuine = draw.categorical_odds
    patch.setattr(draw, "categorical_odds", lambda odds, n, word: jnp.minimum(genuine(odds, n, word), n - 2))


# ---- products ----


def bipartite_unit_dropped(patch):
    genuine = bipartite._products

    def mutant(matrix, operand, n_chains):
        return genuine(matrix, lambda t: operand(t).at[0].set(0), n_chains)

    patch.setattr(bipartite, "_products", mutant)


def bipartite_layers_read_one_state(patch):
    genuine, before = bipartite.BipartiteLayout.update, []

    def mutant(self, group, tables, weights, odds, words, step, layers, masks):
        before[:] = [layers] if group == 0 else before
        fresh = genuine(self, group, tables, weights, odds, words, step, before[0], masks)
        name = self.layers[group]
        return layers._replace(**{name: getattr(fresh, name)})

    patch.setattr(bipartite.BipartiteLayout, "update", mutant)


def bipartite_draw_biased(patch):
    genuine = rng.uniform
    patch.setattr(draw, "bernoulli", lambda x, word: 0.97 * genuine(word) < jax.nn.sigmoid(x))


MUTANTS = {name: f for name, f in sorted(globals().items()) if name.split("_")[0] in MODELS and callable(f)}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_fails_the_check(name, monkeypatch):
    MUTANTS[name](monkeypatch)
    with pytest.raises(AssertionError, match="p = "):
        check(name.split("_")[0])
