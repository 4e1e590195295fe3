"""Block Gibbs on grids and graphs too large to enumerate: tori, eight neighbours, 17 levels, thin and empty graphs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax as ej
from tests import conditionals, oracles, systems

# Sites of 17 levels are written out, which takes seconds to optimize and nothing to run. `test_gibbs` and the
# certificates run every path as it is shipped.
pytestmark = pytest.mark.usefixtures("quick_compilation")

# Sites 8 and 9 have no neighbours.
GRAPH = ej.Graph(10, systems.random_graph().edges)

# What `test_gibbs` does not reach by enumeration. With it every path has met each boundary and neighbourhood, each kind
# of coupling, and 2, 3, 4 and 17 levels.
CASES = {
    "ising_torus": (ej.Ising(ej.Grid(4, 6, "periodic")), "grid"),
    "ising_torus_8_edge": (ej.Ising(ej.Grid(4, 4, "periodic", 8), "edge"), "grid"),
    "potts_4_torus_matrix": (ej.Potts(ej.Grid(4, 4, "periodic"), 4, "matrix"), "grid"),
    "potts_17_torus_8_matrix": (ej.Potts(ej.Grid(4, 4, "periodic", 8), 17, "matrix"), "grid"),
    "potts_3_odd_torus_8_matrix": (ej.Potts(ej.Grid(3, 4, "periodic", 8), 3, "matrix"), "general"),
    "potts_17_graph_edge": (ej.Potts(GRAPH, 17, "edge"), "general"),
    "row": (ej.Ising(ej.Grid(1, 5), "edge"), "grid"),
    "pixel": (ej.Ising(ej.Grid(1, 1)), "grid"),
    "no_edges": (ej.Ising(ej.Graph(3, [])), "general"),
    "rbm": (ej.RBM(9, 6), "bipartite"),
}


def test_the_oracle_of_conditionals_agrees_with_its_energies():
    model = ej.Potts(ej.Grid(3, 3, "periodic"), 3, "matrix")
    params = systems.draw_params(model)
    edges, bias, tables = conditionals.interactions(model, params)
    x = np.random.default_rng(0).integers(3, size=(2, 9))
    found = oracles.site_conditionals(x, range(9), bias, edges, tables, 0.7)

    def energy(levels):
        return oracles.potts_energy(levels, params.bias, edges, params.coupling)

    for row, site in [(0, 0), (1, 4), (1, 8)]:
        exact = oracles.site_conditional(energy, x[row], site, 3, 0.7)
        np.testing.assert_allclose(found[row, site], exact, atol=1e-12)
    system = systems.get("rbm_4x3")
    edges, bias, tables = conditionals.interactions(system.model, system.params)
    found = oracles.site_conditionals(oracles.all_states(7, 2), range(7), bias, edges, tables)
    np.testing.assert_allclose(found, oracles.conditional_table(system.energies, 7, 2), atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_every_site_is_drawn_from_its_conditional(name):
    model, path = CASES[name]
    kernel = ej.gibbs(model, path=path)
    assert kernel.path == path
    params = systems.draw_params(model, seed=3, scale=0.6)
    conditionals.check(kernel, params, name, beta=0.9)
    # The same code at infinite temperature, and on logits.
    if name in ("ising_torus", "potts_17_graph_edge", "rbm"):
        for factor in (0.0, 60.0):
            large = jax.tree.map(lambda p, f=factor: jnp.asarray(f * np.round(p), jnp.float32), params)
            conditionals.check(kernel, large, f"{name} times {factor}", beta=0.9)
