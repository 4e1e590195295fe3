"""Diagnostics of stored draws; `ebm_jax.diagnostics` describes what they take and return."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ebm_jax.checks import check_choice
from ebm_jax.diagnostics import estimators
from ebm_jax.run import Samples
from ebm_jax.types import PyTree

_MIN_SAMPLES = 4

# Draws that are worked on together. An FFT and a sort need about ten times their memory.
_AT_ONCE = 2**22

_SIZES = {"bulk": estimators.ess_bulk, "tail": estimators.ess_tail, "mean": estimators.ess_mean}
_RATIOS = {"rank": estimators.r_hat, "bulk": estimators.r_hat_bulk, "tail": estimators.r_hat_tail}
_ERRORS = {"mean": estimators.mcse_mean, "sd": estimators.mcse_sd, "quantile": estimators.mcse_quantile}


class Summary(NamedTuple):
    """What `summarize` returns: for each leaf of the draws an array of the shape of its events.

    Attributes:
      mean: Mean of all draws.
      sd: Standard deviation of all draws, divided by n − 1.
      mcse: Standard error of the mean.
      ess_bulk: Effective sample size of the ranks, out of n_samples · n_chains draws.
      ess_tail: The same for the tails.
      r_hat: Potential scale reduction; NaN of one chain.
    """

    mean: PyTree
    sd: PyTree
    mcse: PyTree
    ess_bulk: PyTree
    ess_tail: PyTree
    r_hat: PyTree


def autocorrelation(x: PyTree) -> PyTree:
    """Returns the autocorrelation of every chain at lags 0 … n_samples − 1.

        ρ_t = Σ_s (x_s − x̄)(x_{s+t} − x̄) / Σ_s (x_s − x̄)²,    s from 1 to n_samples − t,

    computed by FFT. The sums are divided by n_samples at every lag.

    Args:
      x: Draws `(n_samples, n_chains, *event)`, or a pytree of them.

    Returns:
      Autocorrelations shaped like `x`. Lag 0 is 1. A chain that never moves, or holds a NaN, has NaN.

    Raises:
      ValueError: If `x` is not such draws, or has fewer than 4 a chain.
    """
    return _each_leaf(estimators.autocorrelation, x)


def integrated_autocorrelation_time(x: PyTree) -> PyTree:
    """Returns τ = 1 + 2 Σ_{t≥1} ρ_t: how many draws tell as much about a mean as one independent draw.

    Independent draws have τ = 1, an AR(1) chain with coefficient φ has (1 + φ)/(1 − φ). ρ is estimated from all chains
    together, each cut in two, and summed by Geyer's initial monotone sequence (Geyer 1992, Statistical Science 7:473):
    pairs ρ_2k + ρ_2k+1 as long as they are positive, none above the one before, and the even term after them. The
    product of τ and `effective_sample_size(x, "mean")` is the number of draws. τ is at least 1/log₁₀ of that number.

    Args:
      x: Draws `(n_samples, n_chains, *event)`, or a pytree of them.

    Returns:
      τ in draws, of the shape `event`.

    Raises:
      ValueError: If `x` is not such draws, or has fewer than 4 a chain.
    """
    return _each_leaf(estimators.tau, x)


def effective_sample_size(x: PyTree, kind: str = "bulk") -> PyTree:
    """Returns how many independent draws would estimate as well as the n_samples · n_chains draws of the chains.

    Every chain is cut in two, so that a trend lowers the size.

    Args:
      x: Draws `(n_samples, n_chains, *event)`, or a pytree of them.
      kind: "bulk": of the normal scores of the ranks, a measure of how well the chains sample at all. "tail": the
        smaller of the sizes for the 5 % and the 95 % quantile (where no draw lies above a quantile, as with discrete
        draws, the number of draws). "mean": for the mean of `x`.

    Returns:
      Effective sample sizes of the shape `event`. Of draws that are all equal it is NaN, where `arviz_stats` gives
      n_samples · n_chains: a chain that never moved may be stuck.

    Raises:
      ValueError: If `kind` is another, or `x` is not such draws, or has fewer than 4 a chain.
    """
    return _each_leaf(_SIZES[check_choice("kind", kind, tuple(_SIZES))], x)


def r_hat(x: PyTree, kind: str = "rank") -> PyTree:
    """Returns the potential scale reduction R̂ = √(V/W) of chains that are cut in two and rank-normalised.

    W is the variance within half chains, V that of all draws (with (n − 1)/n · W for W). 1 is good; above 1.01 the
    chains should not be used (Vehtari et al. 2021).

    Args:
      x: Draws `(n_samples, n_chains, *event)`, or a pytree of them.
      kind: "bulk": of the normal scores of the ranks. "tail": of the normal scores of |x − median|. "rank": the larger
        of the two.

    Returns:
      R̂ of the shape `event`. It is NaN of one chain, as in `arviz_stats`, although its halves could be compared.

    Raises:
      ValueError: If `kind` is another, or `x` is not such draws, or has fewer than 4 a chain.
    """
    return _each_leaf(_RATIOS[check_choice("kind", kind, tuple(_RATIOS))], x)


potential_scale_reduction = r_hat


def mcse(x: PyTree, kind: str = "mean", prob: float | None = None) -> PyTree:
    """Returns the Monte Carlo standard error of an estimate from all draws.

    The error of the standard deviation is that of arviz-stats since version 1: the delta method with the effective
    sample size S of (x − x̄)²,

        mcse² = Var[(x − x̄)²] / (4 S Var[x]).

    arviz-stats 0.8 and earlier took the effective sample size of x in its place, which is wrong wherever x²
    decorrelates at another rate than x.

    Args:
      x: Draws `(n_samples, n_chains, *event)`, or a pytree of them.
      kind: "mean": sd/√ESS. "sd": as above. "quantile": of the quantile `prob`, from order statistics.
      prob: A number between 0 and 1 for "quantile" (0.5 is the median), None for the others.

    Returns:
      Standard errors of the shape `event`, in units of `x`.

    Raises:
      ValueError: If `kind` is another, if `prob` does not go with it, or if `x` is not such draws, or has fewer than 4
        a chain.
    """
    fn = _ERRORS[check_choice("kind", kind, tuple(_ERRORS))]
    if kind != "quantile":
        if prob is not None:
            raise ValueError(f'prob is {prob!r} with kind={kind!r}; leave it out, or take kind="quantile"')
        return _each_leaf(fn, x)
    if not isinstance(prob, float | int) or isinstance(prob, bool) or not 0 < prob < 1:
        raise ValueError(f"prob is {prob!r}; give a Python number between 0 and 1, e.g. 0.5 for the median")
    last_below = functools.partial(estimators.rank, float(prob))
    return _each_leaf(fn, x, lambda leaf: (float(prob), last_below(leaf.shape[0] * leaf.shape[1])))


def summarize(x: Samples | PyTree) -> Summary:
    """Returns mean, sd, error of the mean, bulk and tail ESS, and R-hat of every quantity.

    Args:
      x: Draws `(n_samples, n_chains, *event)`, a pytree of them, or `Samples`. Of `Samples` it takes `observed`, or
        `positions` where nothing was observed.

    Returns:
      A `Summary`.

    Raises:
      ValueError: If the samples were reduced by an `Observer`, or the draws are not such, or fewer than 4 a chain.
    """
    if isinstance(x, Samples):
        if x.positions is None:
            raise ValueError(
                "x holds no draws, an Observer reduced them: see x.observed, or sample with observe=fn"
            )
        x = x.positions if x.observed is None else x.observed
    return jax.tree.transpose(jax.tree.structure(x), None, _each_leaf(_summary, x))


def _summary(x: Array) -> Summary:
    """Returns the summary of draws (n_samples, n_chains), compiled as one: shared parts are computed once."""
    return Summary(
        estimators.overall_mean(x),
        estimators.standard_deviation(x),
        estimators.mcse_mean(x),
        estimators.ess_bulk(x),
        estimators.ess_tail(x),
        estimators.r_hat(x),
    )


def _each_leaf(fn: Callable[..., Any], x: PyTree, numbers: Any = lambda leaf: ()) -> PyTree:
    """Checks the draws and maps `fn`, which takes (n_samples, n_chains), over everything else.

    `numbers(leaf)` gives further arguments of `fn`.
    """
    if isinstance(x, Samples):
        raise ValueError("x is Samples; give its .positions or .observed")
    leaves, structure = jax.tree_util.tree_flatten_with_path(x)
    leaves = [_check_draws("x" + jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
    return structure.unflatten([_over_events(fn, leaf, _AT_ONCE, *numbers(leaf)) for leaf in leaves])


def _check_draws(name: str, leaf: Any) -> Array:
    """Returns the draws as an array of a type that diagnostics work in; raises ValueError if they are no draws."""
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        raise ValueError(f"{name} is {type(leaf).__name__}; give an array (n_samples, n_chains, ...)")
    if leaf.ndim < 2 or leaf.shape[1] == 0:
        raise ValueError(
            f"{name} has shape {leaf.shape}; give (n_samples, n_chains, ...), of one chain x[:, None]"
        )
    if leaf.shape[0] < _MIN_SAMPLES:
        raise ValueError(
            f"{name} has {leaf.shape[0]} draws a chain, shape {leaf.shape}; give at least {_MIN_SAMPLES}, "
            "samples first and chains second"
        )
    leaf = jnp.asarray(leaf)
    if not jnp.issubdtype(leaf.dtype, jnp.bool_) and not jnp.isrealobj(leaf):
        raise ValueError(f"{name} has dtype {leaf.dtype}; give real numbers, e.g. its .real and .imag")
    narrow = jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize < 4
    return leaf.astype(jnp.float32) if narrow else leaf


@functools.partial(jax.jit, static_argnums=(0, 2))
def _over_events(fn: Callable[..., Any], x: Array, n_draws_at_once: int, *numbers: Any) -> Any:
    """Maps `fn` over the elements of events, as many at a time as have that number of draws."""
    n, m, *event = x.shape
    quantities = jnp.moveaxis(x.reshape(n, m, math.prod(event)), -1, 0)

    def of_quantity(quantity: Array) -> Any:
        return fn(quantity, *numbers)

    at_once = max(n_draws_at_once // (n * m), 1)
    if len(quantities) <= at_once:
        out = jax.vmap(of_quantity)(quantities)
    else:
        out = jax.lax.map(of_quantity, quantities, batch_size=at_once)
    return jax.tree.map(lambda values: jnp.moveaxis(values, 0, -1).reshape(*values.shape[1:], *event), out)
