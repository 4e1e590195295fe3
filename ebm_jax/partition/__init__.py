"""Estimates of log Z by annealed importance sampling (Neal 2001), from both sides, and by thermodynamic integration.

Between a base whose log Z₀ is known (t = 0) and the model (t = 1) lie p_t(x) ∝ exp(−E_t(x)). A chain starts with a draw
from the base and follows t along a ladder, with a step of a kernel at each t_k. Its weight

    log w = Σ_k [E_{t_{k−1}}(x_{k−1}) − E_{t_k}(x_{k−1})]

has E[w] = Z / Z₀, so log Z₀ + log mean w estimates log Z. The estimate is too low on average (Jensen), the more so the
worse the chains follow. On a badly mixing model it is low by many nats, with a small spread that gives no warning.

From the other side, chains that start with draws from the model and walk the ladder down give E[1/w] = Z₀ / Z and an
estimate that is too high on average (Grosse, Ghahramani and Adams 2015). Two estimates that agree are good evidence,
though no proof: chains of either side may miss a mode that the other's starts do not show.

Energies linear in their parameters interpolate the parameters: E_t = E(·; (1 − t) θ₀ + t θ). The base is then a model
of the family without couplings (a `FactorGraph` without its factors of several members), and one sweep of block Gibbs
at θ₀ draws from it exactly. An RBM uses the free energies of its visible units, with the hidden ones summed out
(Salakhutdinov and Murray 2008). Other energies interpolate themselves: E_t = (1 − t) E₀ + t E.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ebm_jax import checks
from ebm_jax.energies.target import target_of
from ebm_jax.partition import annealing
from ebm_jax.partition.annealing import Base
from ebm_jax.partition.results import AISResult, LogLikelihoodBounds
from ebm_jax.partition.thermodynamic import TIResult, thermodynamic_integration
from ebm_jax.schedules import Ladder, check_ladder
from ebm_jax.types import Key, PyTree

__all__ = [
    "AISResult",
    "Base",
    "LogLikelihoodBounds",
    "TIResult",
    "adaptive_ladder",
    "ais",
    "log_likelihood_bounds",
    "reverse_ais",
    "standard_normal",
    "thermodynamic_integration",
]

_BOOTSTRAPS = 1000
# With less than ten chains' worth of weight, a mean of weights is a mean of a few.
_MIN_ESS = 10.0
# Log-normal weights of this spread have an effective sample size of n exp(−9).
_MAX_SD = 3.0


def standard_normal(struct: PyTree) -> Base:
    """Returns the base of independent N(0, 1) components.

    Args:
      struct: A configuration, arrays or their shapes.

    Returns:
      A `Base` for `ais`.

    Example:
      >>> base = ej.partition.standard_normal(jax.ShapeDtypeStruct((2,), jnp.float32))
      >>> round(base.log_z, 4)
      1.8379
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), struct)
    leaves, tree = jax.tree.flatten(shapes)

    def sample(key: Key) -> PyTree:
        keys = jax.random.split(key, len(leaves))
        return jax.tree.unflatten(
            tree, [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
        )

    def energy(x: PyTree) -> Float[Array, ""]:
        return sum((jnp.sum(leaf**2) / 2 for leaf in jax.tree.leaves(x)), jnp.zeros(()))

    size = sum(int(np.prod(leaf.shape)) for leaf in leaves)
    return Base(sample, energy, size / 2 * float(np.log(2 * np.pi)))


def ais(
    key: Key,
    model: Any,
    params: PyTree,
    *,
    betas: Any = 1000,
    n_chains: int = 100,
    base: Any = None,
    kernel: Callable[[Callable[..., Array]], Any] | None = None,
) -> AISResult:
    """Returns the forward estimate of log Z = log Σ_x exp(−E(x; params)), which is too low on average.

    Args:
      key: A typed key.
      model: Ising, Potts, an RBM or a `FactorGraph`; with `kernel`, any `energy(params, x)` or a model with one.
      params: Its parameters.
      betas: How many values of t, equally spaced, or a ladder of `schedules`.
      n_chains: Number of chains.
      base: Of a discrete model, parameters of the family without couplings. None takes the model's own with couplings
        at zero; for an RBM of data, visible biases at the data's log-odds are closer. Otherwise a `Base` such as
        `standard_normal(x)`.
      kernel: `kernel(energy) -> Kernel` for the interpolated energy. It must leave exp(−energy) invariant for the
        estimate to be of log Z.

    Returns:
      The estimate.

    Raises:
      ValueError: If a base has couplings or no law, a ladder does not rise from 0 to 1, a base or kernel is missing, or
        `betas` or `n_chains` is too large for the memory.

    Example:
      >>> model = ej.Ising(ej.Grid(2, 2))
      >>> params = ej.IsingParams(jnp.zeros((2, 2)), jnp.full(2, 0.1))
      >>> result = ej.partition.ais(jax.random.key(0), model, params, betas=10, n_chains=50)
      >>> round(result.log_z, 1), round(ej.exact.log_partition(model, params), 1)
      (2.8, 2.8)
    """
    checks.check_not_traced("ais", (key, params))
    checks.check_key(key)
    checks.check_integer("n_chains", n_chains, 1)
    ladder = jnp.asarray(check_ladder("betas", betas), jnp.float32)
    path = annealing.path_of(model, params, base, kernel)
    first, walk, boot = jax.random.split(key, 3)
    start = path.from_base(first, n_chains)
    weights = annealing.walk(path, walk, start, ladder)
    return _result(boot, path.log_z + np.asarray(weights, np.float64), reverse=False)


def reverse_ais(
    key: Key,
    model: Any,
    params: PyTree,
    start: PyTree,
    *,
    betas: Any = 1000,
    base: Any = None,
    kernel: Callable[[Callable[..., Array]], Any] | None = None,
) -> AISResult:
    """Returns the reverse estimate of log Z, which is too high on average.

    The bound is as good as the starts are draws from the model. With other starts (data, long chains) the result says
    what log Z would be if they were.

    Args:
      key: A typed key.
      model: As for `ais`.
      params: As for `ais`.
      start: Draws from the model with a leading chain axis, e.g. from `exact.sample`; of an RBM full configurations or
        visible ones.
      betas: As for `ais`.
      base: As for `ais`.
      kernel: As for `ais`.

    Returns:
      The estimate.

    Raises:
      ValueError: As `ais`, and if the starts do not fit.
    """
    checks.check_not_traced("reverse_ais", (key, params, start))
    checks.check_key(key)
    path = annealing.path_of(model, params, base, kernel)
    start = path.complete(start)
    path.kernel.check(path.at(jnp.float32(1)), start, None)
    walk, boot = jax.random.split(key)
    ladder = check_ladder("betas", betas)[::-1].copy()
    weights = annealing.walk(path.reversed(), walk, start, jnp.asarray(ladder, jnp.float32))
    return _result(boot, path.log_z - np.asarray(weights, np.float64), reverse=True)


def log_likelihood_bounds(
    key: Key,
    model: Any,
    params: PyTree,
    data: PyTree,
    *,
    start: PyTree = None,
    betas: Any = 1000,
    n_chains: int = 100,
    base: Any = None,
    kernel: Callable[[Callable[..., Array]], Any] | None = None,
) -> LogLikelihoodBounds:
    """Returns the mean log-likelihood of `data` from both sides, −mean F(data) − log Z with both estimates of log Z.

    Args:
      key: A typed key.
      model: As for `ais`.
      params: As for `ais`.
      data: Data with a leading axis.
      start: Draws from the model for the reverse estimate. None takes rows of `data`, which are such draws if the model
        is right; `warnings` say so.
      betas: As for `ais`.
      n_chains: As for `ais`.
      base: As for `ais`.
      kernel: As for `ais`.

    Returns:
      Both bounds.

    Raises:
      ValueError: As `ais`, if the model has hidden sites and no free energy, or if data do not fit.
    """
    checks.check_key(key)
    target = target_of(model)
    data = target.as_data("data", data)
    if target.has_hidden_sites:
        raise ValueError(
            f"{model!r} has hidden sites and no free energy; this bounds models that have one, as RBMs"
        )
    path = annealing.path_of(model, params, base, kernel)
    path.kernel.check(path.at(jnp.float32(1)), path.complete(data), None)
    one, two, pick = jax.random.split(key, 3)
    n = jax.tree.leaves(data)[0].shape[0]
    warnings = []
    if start is None:
        warnings.append("the reverse estimate began at data: it is a bound if they are draws from the model")
        checks.check_fits("the starts", n_chains * checks.count_bytes(data) // n, "lower n_chains")
        rows = jax.random.choice(pick, n, (n_chains,), replace=n_chains > n)
        start = jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], data)
    forward = ais(one, model, params, betas=betas, n_chains=n_chains, base=base, kernel=kernel)
    reverse = reverse_ais(two, model, params, start, betas=betas, base=base, kernel=kernel)
    mean = float(np.mean(np.asarray(annealing.energies(target.data_energy, params, data), np.float64)))
    gap = reverse.log_z - forward.log_z
    warnings += [f"forward: {text}" for text in forward.warnings]
    warnings += [f"reverse: {text}" for text in reverse.warnings]
    if abs(gap) > 1:
        warnings.append(
            f"the two estimates of log Z are {gap:.1f} nats apart: take more betas, or better draws for `start`"
        )
    return LogLikelihoodBounds(
        -mean - reverse.log_z, -mean - forward.log_z, forward, reverse, tuple(warnings)
    )


def adaptive_ladder(
    key: Key,
    model: Any,
    params: PyTree,
    *,
    cess: float = 0.99,
    n_chains: int = 200,
    base: Any = None,
    kernel: Callable[[Callable[..., Array]], Any] | None = None,
    max_betas: int = 10_000,
) -> Ladder:
    """Returns a ladder of t for `ais` and `reverse_ais` whose steps all cost their weights alike.

    A pilot population starts at the base. At each t_k the next value is the largest t at which the conditional
    effective sample size of the population,

        (Σ w)² / (n_chains Σ w²),   w = exp(E_{t_k}(x) − E_t(x)),

    is at least `cess`. The chains then take a step of the kernel there. They count as equally weighted draws from
    p_{t_k}, which they are as far as they keep up. Steps are 2⁻²⁴ fine. 1 − cess is about the variance of log w that
    each step adds (Zhou, Johansen and Aston 2016, "Toward automatic model comparison: an adaptive sequential Monte
    Carlo approach", J. Comput. Graph. Stat. 25:701).

    Use the ladder with another key. Weights of the chains that chose it would be biased, since the steps would depend
    on the draws.

    Args:
      key: A typed key.
      model: As for `ais`.
      params: As for `ais`.
      cess: Between 0 and 1; nearer 1 gives more values.
      n_chains: Size of the population.
      base: As for `ais`.
      kernel: As for `ais`.
      max_betas: Largest number of values.

    Returns:
      The ladder, float64 from 0 to 1.

    Raises:
      ValueError: As `ais`, and if 1 is not reached within `max_betas` values.
    """
    checks.check_key(key)
    checks.check_integer("n_chains", n_chains, 2)
    checks.check_integer("max_betas", max_betas, 2)
    if not 0 < cess < 1:
        raise ValueError(f"cess is {cess!r}; give a number between 0 and 1, e.g. 0.99")
    checks.check_fits(f"a ladder of max_betas={max_betas} values", 8 * max_betas, "lower max_betas")
    path = annealing.path_of(model, params, base, kernel)
    first, walk = jax.random.split(key)
    start = path.from_base(first, n_chains)
    values, n = annealing.climb(path, walk, start, jnp.float32(cess), max_betas)
    ladder = np.asarray(values, np.float64)[: int(n)]
    if ladder[-1] < 1:
        raise ValueError(
            f"after {len(ladder)} of max_betas={max_betas} values t is {ladder[-1]:.3g}, not 1; "
            f"lower cess={cess}, or raise max_betas"
        )
    return ladder


def _result(key: Key, log_weights: np.ndarray, *, reverse: bool) -> AISResult:
    n, sign = log_weights.size, -1.0 if reverse else 1.0
    nonzero = sign * log_weights > -np.inf

    def log_mean(rows: np.ndarray) -> Any:
        return np.logaddexp.reduce(rows, axis=-1) - np.log(n)

    if not (nonzero | np.isnan(log_weights)).any():
        empty = "all weights are zero: no chain began where the energy is finite; take another base, or more chains"
        bound = -sign * np.inf
        return AISResult(bound, (bound, bound), log_weights, float("nan"), 0.0, (empty,))
    estimate = sign * log_mean(sign * log_weights)
    seed = np.asarray(jax.random.bits(key, (2,)))
    rows = np.random.default_rng(seed).integers(0, n, (_BOOTSTRAPS, n))
    again = sign * log_mean(sign * log_weights[rows])
    low, high = np.quantile(again, (0.025, 0.975))
    relative = np.exp(sign * (log_weights - estimate))
    ess = float(relative.sum() ** 2 / np.sum(relative**2))
    spread = float(np.std(log_weights[nonzero], ddof=1)) if nonzero.sum() > 1 else float("nan")
    warnings = []
    bad = np.isnan(log_weights) | (sign * log_weights == np.inf)
    if bad.any():
        warnings.append(f"{int(bad.sum())} of {n} weights are not finite")
    if n < 2:
        warnings.append("one chain says nothing of how far weights spread: take more")
    if not ess >= min(_MIN_ESS, n / 2):
        warnings.append(f"the weights are worth {ess:.1f} chains of {n}: take more betas or chains")
    if spread > _MAX_SD:
        warnings.append(f"log weights spread over {spread:.1f} nats: take more betas")
    return AISResult(float(estimate), (float(low), float(high)), log_weights, spread, ess, tuple(warnings))
