"""The models and their exact samplers a second time: NumPy float64, loops over lists, nothing from the package.

Configurations are sequences of levels 0 … K−1, one a site (grids row by row, an RBM's visible units and then its hidden
ones), enumerated with the last site fastest. Ising level 1 is spin +1. An `energies` table holds E of every
configuration in that order.
"""

import itertools

import numpy as np
from scipy.stats import chi2

# ---- graphs ----


def grid_edges(height, width, periodic=False, neighbourhood=4):
    """Returns (edges, direction of each): horizontal, vertical, down-right, down-left, each row by row."""
    steps = [(0, 1), (1, 0), (1, 1), (1, -1)][: 2 if neighbourhood == 4 else 4]
    edges, directions = [], []
    for direction, (down, right) in enumerate(steps):
        for row in range(height):
            for column in range(width):
                r, c = row + down, column + right
                if periodic:
                    r, c = r % height, c % width
                if 0 <= r < height and 0 <= c < width:
                    edges.append((row * width + column, r * width + c))
                    directions.append(direction)
    return edges, directions


def bipartite_edges(n_left, n_right):
    """Every left site with every right one, the right one fastest."""
    return [(i, n_left + j) for i in range(n_left) for j in range(n_right)]


def local_edges(height, width, offsets, periodic, rotations):
    """Returns (pairs joined, whether distinct offsets join a site to itself or two sites twice)."""
    steps = set()
    for dr, dc in offsets:
        turns = [(dr, dc), (-dc, dr), (-dr, -dc), (dc, -dr)] if rotations else [(dr, dc), (-dr, -dc)]
        steps.update(turns)
    pairs, clash = set(), False
    for row in range(height):
        for column in range(width):
            reached = [(row + dr, column + dc) for dr, dc in steps]
            if periodic:
                reached = [(r % height, c % width) for r, c in reached]
            reached = [r * width + c for r, c in reached if 0 <= r < height and 0 <= c < width]
            site = row * width + column
            clash = clash or len(set(reached)) < len(reached) or site in reached
            pairs.update(frozenset((site, other)) for other in reached)
    return pairs, clash


def greedy_colours(n_sites, edges):
    """One colour a site: breadth first from each component's lowest site, neighbours in edge order, first fit."""
    around = [[] for _ in range(n_sites)]
    for i, j in edges:
        around[i].append(j)
        around[j].append(i)
    colours, seen = [None] * n_sites, set()
    for root in range(n_sites):
        queue = [] if root in seen else [root]
        seen.add(root)
        for site in queue:
            used = {colours[other] for other in around[site]}
            colours[site] = min(k for k in range(len(around[site]) + 1) if k not in used)
            new = [other for other in dict.fromkeys(around[site]) if other not in seen]
            seen.update(new)
            queue.extend(new)
    return colours


def is_bipartite(n_sites, edges):
    """Whether no closed walk is odd: by whether the two copies of a site meet in the graph's double cover."""
    parent = list(range(2 * n_sites))

    def find(node):
        while parent[node] != node:
            node = parent[node]
        return node

    for i, j in edges:
        parent[find(2 * i)] = find(2 * j + 1)
        parent[find(2 * i + 1)] = find(2 * j)
    return all(find(2 * i) != find(2 * i + 1) for i in range(n_sites))


def per_edge(coupling, kind, edges, directions=None):
    """Returns one coupling (a number or a K×K table) an edge."""
    coupling = np.asarray(coupling, np.float64)
    if kind != "tied":
        return list(coupling)
    if directions is None:
        return [float(coupling)] * len(edges)
    return [float(coupling[d]) for d in directions]


# ---- energies ----


def ising_energy(levels, bias, edges, couplings):
    """−Σ bᵢsᵢ − Σ J_e sᵢsⱼ."""
    spin = [1.0 if level else -1.0 for level in np.asarray(levels).reshape(-1)]
    # A tied bias is the same at every site.
    bias = np.broadcast_to(np.asarray(bias, np.float64).reshape(-1), len(spin))
    energy = 0.0
    for site in range(len(spin)):
        energy -= bias[site] * spin[site]
    for (i, j), value in zip(edges, couplings, strict=True):
        energy -= value * spin[i] * spin[j]
    return energy


def potts_energy(levels, bias, edges, couplings):
    """−Σ bᵢ[xᵢ] − Σ w_e δ(xᵢ, xⱼ), or − w_e[xᵢ, xⱼ] where the coupling is a table."""
    levels = [int(level) for level in np.asarray(levels).reshape(-1)]
    bias = np.asarray(bias, np.float64).reshape(len(levels), -1)
    energy = 0.0
    for site, level in enumerate(levels):
        energy -= bias[site, level]
    for (i, j), value in zip(edges, couplings, strict=True):
        if np.ndim(value) == 2:
            energy -= float(value[levels[i], levels[j]])
        elif levels[i] == levels[j]:
            energy -= float(value)
    return energy


def rbm_energy(levels, weights, visible_bias, hidden_bias):
    """−a·v − b·h − vᵀWh."""
    weights = np.asarray(weights, np.float64)
    a, b = np.asarray(visible_bias, np.float64), np.asarray(hidden_bias, np.float64)
    n_visible, n_hidden = weights.shape
    levels = [int(level) for level in levels]
    v, h = levels[:n_visible], levels[n_visible:]
    energy = 0.0
    for i in range(n_visible):
        energy -= a[i] * v[i]
    for j in range(n_hidden):
        energy -= b[j] * h[j]
    for i in range(n_visible):
        for j in range(n_hidden):
            energy -= v[i] * weights[i, j] * h[j]
    return energy


# ---- enumeration ----


def all_states(n_sites, n_levels):
    """Returns every configuration, `(n_levels ** n_sites, n_sites)`."""
    return np.array(list(itertools.product(range(n_levels), repeat=n_sites)), np.int64)


def states_of(level_counts):
    """Every configuration of sites with levels of their own, the last site fastest."""
    return np.stack([axis.ravel() for axis in np.indices(level_counts)], axis=1)


def factor_energies(model, params):
    """E of every configuration of a factor graph of spins and categories, one axis a site, term by term."""
    spins = [site for name, kind in model.nodes if not kind.is_table for site in model.sites(name)]
    energy = np.zeros(model.site_levels)
    for factor, weights in zip(model.factors, params, strict=True):
        for table, sites in zip(np.asarray(weights, np.float64), model.sites_of_terms(factor), strict=True):
            axes = [site for site in sites if site not in spins]
            for site in (site for site in sites if site in spins):
                table, axes = np.multiply.outer(table, [-1.0, 1.0]), [*axes, site]
            shape = np.ones(energy.ndim, int)
            shape[axes] = table.shape
            energy -= table.transpose(np.argsort(axes)).reshape(shape)
    return energy


def energy_table(energy, n_sites, n_levels):
    """Returns `energy(levels)` of every configuration."""
    return np.array([energy(levels) for levels in all_states(n_sites, n_levels)])


def log_z(energies, beta=1.0):
    """log Σ exp(−β E)."""
    exponents = -beta * np.asarray(energies, np.float64)
    return float(exponents.max() + np.log(np.exp(exponents - exponents.max()).sum()))


def boltzmann(energies, beta=1.0):
    """exp(−β E) / Z."""
    return np.exp(-beta * np.asarray(energies, np.float64) - log_z(energies, beta))


def site_conditional(energy, levels, site, n_levels, beta=1.0):
    """p(x_site = k | the rest) for every k, from `energy(levels)` alone."""
    trial = np.array(levels).reshape(-1)
    energies = []
    for level in range(n_levels):
        trial[site] = level
        energies.append(energy(trial))
    return boltzmann(energies, beta)


def _strides(n_sites, n_levels):
    return np.array([n_levels**power for power in range(n_sites)][::-1], np.int64)


def conditional_table(energies, n_sites, n_levels, beta=1.0):
    """Returns p(x_site = k | the rest), `(n_states, n_sites, n_levels)`."""
    states, strides = all_states(n_sites, n_levels), _strides(n_sites, n_levels)
    number = np.arange(len(states))
    table = np.empty((len(states), n_sites, n_levels))
    for site in range(n_sites):
        at_zero = number - states[:, site] * strides[site]
        exponents = np.stack([-beta * energies[at_zero + k * strides[site]] for k in range(n_levels)], axis=1)
        weights = np.exp(exponents - exponents.max(axis=1, keepdims=True))
        table[:, site] = weights / weights.sum(axis=1, keepdims=True)
    return table


def interactions(kind, bias, edges, couplings, n_levels=2):
    """Returns (bias `(n, K)`, one K×K table an edge) of an "ising", "potts" or "rbm" model.

    Minus the energy is Σ bias[i, xᵢ] + Σ table_e[xᵢ, xⱼ].
    """
    bias = np.asarray(bias, np.float64)
    if kind == "potts":
        numbers = [np.asarray(value, np.float64) for value in couplings]
        return bias.reshape(-1, n_levels), [w if w.ndim else w * np.eye(n_levels) for w in numbers]
    values = np.array([-1.0, 1.0]) if kind == "ising" else np.array([0.0, 1.0])
    return bias.reshape(-1, 1) * values, [float(w) * np.outer(values, values) for w in couplings]


def site_conditionals(levels, sites, bias, edges, tables, beta=1.0):
    """Returns p(x_site = k | the rest) for stacked configurations `(m, n)`: `(m, len(sites), K)`."""
    at = {int(site): number for number, site in enumerate(sites)}
    logits = np.repeat(bias[None, list(at)], len(levels), axis=0)
    for (i, j), table in zip(edges, tables, strict=True):
        if i in at:
            logits[:, at[i]] += table.T[levels[:, j]]
        if j in at:
            logits[:, at[j]] += table[levels[:, i]]
    weights = np.exp(beta * (logits - logits.max(axis=2, keepdims=True)))
    return weights / weights.sum(axis=2, keepdims=True)


def gibbs_matrix(energies, n_sites, n_levels, groups, beta=1.0):
    """Transition matrix of drawing each group of sites from the product of its conditionals, groups in order."""
    conditionals = conditional_table(energies, n_sites, n_levels, beta)
    states, strides = all_states(n_sites, n_levels), _strides(n_sites, n_levels)
    number, matrix = np.arange(len(states)), np.eye(len(states))
    for group in groups:
        group = [int(site) for site in group]
        cleared = number - states[:, group] @ strides[group]
        block = np.zeros_like(matrix)
        for levels in itertools.product(range(n_levels), repeat=len(group)):
            target = cleared + int(np.dot(levels, strides[group]))
            chance = np.ones(len(states))
            for site, level in zip(group, levels, strict=True):
                chance = chance * conditionals[:, site, level]
            block[number, target] += chance
        matrix = matrix @ block
    return matrix


def metropolis_matrix(energies, n_sites, n_levels, beta=1.0):
    """Transition matrix of random-scan Metropolis.

    A site is picked uniformly, one of its other levels proposed uniformly, and accepted with min(1, exp(−β ΔE)).
    """
    energies = np.asarray(energies, np.float64)
    states, strides = all_states(n_sites, n_levels), _strides(n_sites, n_levels)
    number, matrix = np.arange(len(states)), np.zeros((len(states), len(states)))
    for site in range(n_sites):
        for shift in range(1, n_levels):
            level = (states[:, site] + shift) % n_levels
            target = number + (level - states[:, site]) * strides[site]
            accept = np.exp(np.minimum(0.0, -beta * (energies[target] - energies)))
            matrix[number, target] += accept / (n_sites * (n_levels - 1))
    matrix[number, number] = 1.0 - matrix.sum(axis=1)
    return matrix


def state_numbers(levels, n_levels):
    """Returns the number of each configuration of `(..., n_sites)` levels in the order of `all_states`."""
    levels = np.asarray(levels, np.int64)
    return levels @ _strides(levels.shape[-1], n_levels)


# ---- diagnostics ----


def mcse_of_sd(x, size_of_squares):
    """Monte Carlo standard error of the standard deviation, as arviz-stats defines it since version 1.

    √(Var[(x − x̄)²] / S / (4 Var[x])) over the last two axes (chains, draws) of `x`, with the effective sample size S of
    (x − x̄)². Version 0.8 took S of x.
    """
    squares = (x - x.mean(axis=(-2, -1), keepdims=True)) ** 2
    variance = squares.mean(axis=(-2, -1))
    return np.sqrt(((squares**2).mean(axis=(-2, -1)) - variance**2) / size_of_squares / variance / 4)


# ---- chance ----


def chi_square(counts, probabilities, minimum_expected=25.0):
    """Returns (χ², degrees of freedom) of multinomial counts.

    Cells are taken from the least likely up and joined until each is expected `minimum_expected` times; what remains
    at the end joins the last one. A count where the probability is zero makes χ² infinite.
    """
    counts, probabilities = np.asarray(counts, np.float64), np.asarray(probabilities, np.float64)
    if abs(probabilities.sum() - 1.0) > 1e-6:
        raise ValueError(f"probabilities add up to {probabilities.sum()}")
    if counts[probabilities == 0.0].sum() > 0:
        return np.inf, 1
    order = np.argsort(probabilities, kind="stable")
    expected, observed, waiting = [], [], [0.0, 0.0]
    for e, o in zip(probabilities[order] * counts.sum(), counts[order], strict=True):
        waiting = [waiting[0] + e, waiting[1] + o]
        if waiting[0] >= minimum_expected:
            expected.append(waiting[0])
            observed.append(waiting[1])
            waiting = [0.0, 0.0]
    if expected:
        expected[-1] += waiting[0]
        observed[-1] += waiting[1]
    expected, observed = np.array(expected), np.array(observed)
    return float(np.sum((observed - expected) ** 2 / expected)), max(len(expected) - 1, 0)


def chi_square_pvalue(counts, probabilities, minimum_expected=25.0):
    """Returns the χ² p-value of counts against probabilities, one multinomial or a table of independent rows."""
    tables = np.atleast_2d(counts), np.atleast_2d(probabilities)
    results = [chi_square(c, p, minimum_expected) for c, p in zip(*tables, strict=True)]
    statistic, freedom = sum(r[0] for r in results), sum(r[1] for r in results)
    return float(chi2.sf(statistic, freedom)) if freedom else 1.0
