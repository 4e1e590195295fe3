"""Whether a kernel draws every site from its conditional, on systems too large to enumerate.

One step from a few random configurations, many copies of each. Which conditional a site was drawn from is known from
the configurations before and after: sites of earlier groups have their new levels, the others their old ones. Two
questions are asked. Do the levels of every site, from every start, occur as often as the exact conditionals say? And
are draws of different sites uncorrelated, as they are not where sites share random words?
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import chi2

import ebm_jax as ej
from tests import oracles
from tests.statistics import assert_plausible

# A uniform has 24 bits: what is less likely than 2⁻²⁴ is drawn with a probability of at most that, in sites · 2⁻²⁴ of
# the steps. Levels this much less likely must not be seen.
IMPOSSIBLE = 2.0**-34


def interactions(model, params):
    """Returns (edges, bias, tables) of the oracle, by its own list of edges."""
    graph = model.graph
    if isinstance(model, ej.RBM):
        edges = oracles.bipartite_edges(model.n_visible, model.n_hidden)
        bias = np.concatenate([params.visible_bias, params.hidden_bias])
        return edges, *oracles.interactions("rbm", bias, edges, np.asarray(params.weights).ravel())
    edges, directions = [tuple(edge) for edge in graph.edges.tolist()], None
    if isinstance(graph, ej.Grid):
        edges, directions = oracles.grid_edges(graph.height, graph.width, graph.periodic, graph.neighbourhood)
    couplings = oracles.per_edge(params.coupling, model.coupling, edges, directions)
    kind = "ising" if isinstance(model, ej.Ising) else "potts"
    return edges, *oracles.interactions(kind, params.bias, edges, couplings, model.n_levels)


@jax.jit
def one_step(kernel, key, params, beta, levels, counters):
    """Levels of all sites after a step of every chain, at counters of their own."""
    positions = jax.vmap(kernel.model.from_levels)(levels)
    states = jax.vmap(kernel.init, (None, 0))(params, positions)._replace(step=counters)
    keys = jax.random.split(key, levels.shape[0])
    packed, _ = kernel.packed_steps(keys, params, beta, kernel.pack(params, states), 1)
    return jax.vmap(kernel.model.levels)(kernel.packed_positions(packed))


def draws(kernel, params, beta=1.0, n_starts=16, n_copies=600, seed=0):
    """Returns (levels drawn, probabilities of all levels): `(starts, copies, sites)`, and with levels last.

    `beta` is a scalar or one a start. Chains are at steps of their own.
    """
    model, rng = kernel.model, np.random.default_rng(seed)
    n_sites, n_levels = model.graph.n_sites, model.n_levels
    old = rng.integers(n_levels, size=(n_starts, n_sites)).repeat(n_copies, axis=0)
    counters = rng.integers(2**32, size=len(old)).astype(np.uint32)
    betas = np.broadcast_to(np.asarray(beta, np.float64), n_starts).repeat(n_copies)
    given = np.float32(betas[None] if np.ndim(beta) else beta)
    arrays = jax.tree.map(jnp.asarray, (given, old.astype(np.int32), counters))
    new = np.asarray(one_step(kernel, jax.random.key(seed), params, *arrays))
    assert new.min() >= 0
    assert new.max() < n_levels

    edges, bias, tables = interactions(model, params)
    current, chances = old.copy(), np.zeros((*old.shape, n_levels))
    for group in kernel.spec.groups:
        chances[:, group] = oracles.site_conditionals(
            current, group, bias, edges, tables, betas[:, None, None]
        )
        current[:, group] = new[:, group]
    held = kernel.spec.clamped_sites
    np.testing.assert_array_equal(new[:, held], old[:, held])
    free = np.concatenate(kernel.spec.groups)
    shape = n_starts, n_copies, len(free)
    return new[:, free].reshape(shape), chances[:, free].reshape(*shape, n_levels)


def law_pvalue(levels, chances, minimum_expected=25.0):
    """χ² of how often each site took each level from each start.

    Copies of a start differ in what they drew before, so a count is a sum of draws with known probabilities of their
    own: residuals are weighed with their exact covariance. Rare levels are joined as in `oracles.chi_square`.
    """
    if (np.take_along_axis(chances, levels[..., None], axis=-1) < IMPOSSIBLE).any():
        return 0.0
    statistic, freedom, n_levels = 0.0, 0, chances.shape[-1]
    for start in range(levels.shape[0]):
        for site in range(levels.shape[2]):
            p = chances[start, :, site]
            order = np.argsort(p.sum(axis=0), kind="stable")
            crossed = np.floor(np.cumsum(p.sum(axis=0)[order]) / minimum_expected)
            cell = np.empty(n_levels, int)
            cell[order] = np.unique(np.concatenate([[0], crossed[:-1]]), return_inverse=True)[1]
            joined = p @ np.eye(cell.max() + 1)[cell]
            observed = np.bincount(cell[levels[start, :, site]], minlength=joined.shape[1])
            covariance = np.diag(joined.sum(axis=0)) - joined.T @ joined
            variances, axes = np.linalg.eigh(covariance)
            kept = variances > minimum_expected / 2  # of the directions in which counts vary at all
            residual = (observed - joined.sum(axis=0)) @ axes[:, kept]
            statistic += float(np.sum(residual**2 / variances[kept]))
            freedom += int(kept.sum())
    return float(chi2.sf(statistic, freedom)) if freedom else 1.0


def independence_pvalue(levels, chances):
    """χ² of the correlations of all pairs of sites, each level taken less its conditional mean."""
    values = np.arange(chances.shape[-1])
    mean = chances @ values
    deviation = np.sqrt(np.maximum(chances @ values**2 - mean**2, 0.0))
    scaled = np.where(deviation > 0.2, (levels - mean) / np.maximum(deviation, 0.2), 0.0)
    scaled = scaled.reshape(-1, levels.shape[-1])
    first, second = np.triu_indices(scaled.shape[1], 1)
    sums = (scaled.T @ scaled)[first, second]
    variances = (scaled.T**2 @ scaled**2)[first, second]
    varying = variances > 500.0
    statistic = np.sum(sums[varying] ** 2 / variances[varying])
    return float(chi2.sf(statistic, varying.sum())) if varying.any() else 1.0


def check(kernel, params, what, beta=1.0, **sizes):
    """Fails unless one step of `kernel` draws every site from its conditional, each independently."""
    levels, chances = draws(kernel, params, beta, **sizes)
    assert_plausible(law_pvalue(levels, chances), f"{what}: conditionals")
    assert_plausible(independence_pvalue(levels, chances), f"{what}: independence")
