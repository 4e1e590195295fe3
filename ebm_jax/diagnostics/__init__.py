"""How far to trust the chains: autocorrelation, effective sample size, R-hat, Monte Carlo standard errors.

Every function takes draws as `sample` stores them, in `Samples.positions` or `Samples.observed`: an array
`(n_samples, n_chains, *event)` or a pytree of such arrays, bool, integer or floating, and looks at every element of an
event by itself; a result has the shape `event`, in float32 (float64 of float64). Energies are a good quantity to look
at: `sample(..., observe=model.energy).observed`. All of it runs under `jit`.

In all of them a NaN among the draws gives NaN, and so does a quantity that never moved: chains that all stand still in
one place say nothing of how they mix (`arviz_stats` counts every such draw as independent). Chains that stand still
apart have an infinite R-hat. Fewer than 4 draws a chain raise ValueError.

`moments`, `batch_means` and `histogram` observe a run in constant memory instead; they give results a chain.

Source: Vehtari, Gelman, Simpson, Carpenter and Bürkner 2021, "Rank-normalization, folding, and localization: an
improved R-hat for assessing convergence of MCMC", Bayesian Analysis 16:667; numbers are those of `arviz_stats`.
"""

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
from ebm_jax.diagnostics.streaming import BatchMeans, Histogram, Moments, batch_means, histogram, moments
from ebm_jax.run import Samples
from ebm_jax.types import PyTree

__all__ = [
    "BatchMeans",
    "Histogram",
    "Moments",
    "Summary",
    "autocorrelation",
    "batch_means",
    "effective_sample_size",
    "histogram",
    "integrated_autocorrelation_time",
    "mcse",
    "moments",
    "potential_scale_reduction",
    "r_hat",
    "summarize",
]

_MIN_SAMPLES = 4
_AT_ONCE = (
    2**22
)  # draws that are in work together: what a FFT and a sort need of memory is some ten times that

_SIZES = {"bulk": estimators.ess_bulk, "tail": estimators.ess_tail, "mean": estimators.ess_mean}
_RATIOS = {"rank": estimators.r_hat, "bulk": estimators.r_hat_bulk, "tail": estimators.r_hat_tail}
_ERRORS = {"mean": estimators.mcse_mean, "sd": estimators.mcse_sd, "quantile": estimators.mcse_quantile}


class Summary(NamedTuple):
    """What `summarize` gives: for each leaf of the draws an array of the shape of its events.

    mean, sd: of all draws, the sd divided by n − 1. mcse: standard error of the mean. ess_bulk, ess_tail: draws out of
    n_samples · n_chains. r_hat: NaN of one chain.
    """

    mean: PyTree
    sd: PyTree
    mcse: PyTree
    ess_bulk: PyTree
    ess_tail: PyTree
    r_hat: PyTree


def autocorrelation(x: PyTree) -> PyTree:
    """Returns the autocorrelation of every chain at lags 0 … n_samples − 1, shaped like `x`.

    ρ_t = Σ_s (x_s − x̄)(x_{s+t} − x̄) / Σ_s (x_s − x̄)², s from 1 to n_samples − t: divided by n_samples at every lag,
    by FFT. Lag 0 is 1; a chain that never moves, or holds a NaN, has NaN.

    Raises ValueError as the module says.
    """
    return _each_leaf(estimators.autocorrelation, x)


def integrated_autocorrelation_time(x: PyTree) -> PyTree:
    """Returns τ = 1 + 2 Σ_{t≥1} ρ_t in draws: how many draws are worth one independent draw to a mean.

    Independent draws have τ = 1, an AR(1) chain with coefficient φ has (1 + φ)/(1 − φ). ρ is estimated from all chains
    together, each cut in two, and summed by Geyer's initial monotone sequence (Geyer 1992, Statistical Science 7:473):
    pairs ρ_2k + ρ_2k+1 as long as they are positive, none above the one before, and the even term after them; so
    τ · `effective_sample_size(x, "mean")` is the number of draws. τ is at least 1/log₁₀ of that number.

    Raises ValueError as the module says.
    """
    return _each_leaf(estimators.tau, x)


def effective_sample_size(x: PyTree, kind: str = "bulk") -> PyTree:
    """Returns how many independent draws would estimate as well, out of n_samples · n_chains.

    kind: "bulk", of the normal scores of ranks, a measure of how well the chains sample at all; "tail", the lesser of
    those for the 5 % and the 95 % quantile (of a quantile that no draw is above, as of discrete draws, the number of
    draws); "mean", for the mean of x. All from chains cut in two, so that a trend counts.

    Raises ValueError on another kind, and as the module says.
    """
    return _each_leaf(_SIZES[check_choice("kind", kind, tuple(_SIZES))], x)


def r_hat(x: PyTree, kind: str = "rank") -> PyTree:
    """Returns the potential scale reduction R̂ = √(V/W) of the chains, cut in two and rank-normalised; 1 is good.

    W is the variance within half chains, V that of all draws (with (n − 1)/n · W for W); over 1.01 the chains should
    not be used (Vehtari et al. 2021). kind: "bulk", of the normal scores of ranks; "tail", of |x − median| in the same
    way; "rank", the larger of the two. NaN of one chain, as in `arviz_stats`, though its halves could be compared.

    Raises ValueError on another kind, and as the module says.
    """
    return _each_leaf(_RATIOS[check_choice("kind", kind, tuple(_RATIOS))], x)


potential_scale_reduction = r_hat


def mcse(x: PyTree, kind: str = "mean", prob: float | None = None) -> PyTree:
    """Returns the Monte Carlo standard error of an estimate from all draws, in units of x.

    kind: "mean", sd/√ESS; "sd", by the delta method with the ESS of the mean (as in `arviz_stats`: an approximation
    where x² decorrelates at another rate than x); "quantile", of the quantile `prob`, from order statistics.
    prob: a number between 0 and 1 for "quantile" (0.5: the median), None for the others.

    Raises ValueError on another kind, on a `prob` that does not go with it, and as the module says.
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

    x: draws, or what `sample` returned, of which `observed` is looked at where there is one and `positions` otherwise.

    Raises ValueError for samples that an `Observer` has reduced, and as the module says.
    """
    if isinstance(x, Samples):
        if x.positions is None:
            raise ValueError(
                "x holds no draws, an Observer reduced them: see x.observed, or sample with observe=fn"
            )
        x = x.positions if x.observed is None else x.observed
    return jax.tree.transpose(jax.tree.structure(x), None, _each_leaf(_summary, x))


def _summary(x: Array) -> Summary:
    """All of it of (n_samples, n_chains), compiled as one: what two of them need is computed once."""
    return Summary(
        estimators.location(x),
        estimators.spread(x),
        estimators.mcse_mean(x),
        estimators.ess_bulk(x),
        estimators.ess_tail(x),
        estimators.r_hat(x),
    )


def _each_leaf(fn: Callable[..., Any], x: PyTree, numbers: Any = lambda leaf: ()) -> PyTree:
    """Checks the draws and maps `fn` of (n_samples, n_chains) over all else."""
    if isinstance(x, Samples):
        raise ValueError("x is Samples; give its .positions or .observed")
    leaves, structure = jax.tree_util.tree_flatten_with_path(x)
    leaves = [_check_draws("x" + jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
    return structure.unflatten([_over_events(fn, leaf, *numbers(leaf)) for leaf in leaves])


def _check_draws(name: str, leaf: Any) -> Array:
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


@functools.partial(jax.jit, static_argnums=0)
def _over_events(fn: Callable[..., Any], x: Array, *numbers: Any) -> Any:
    n, m, *event = x.shape
    rows = jnp.moveaxis(x.reshape(n, m, math.prod(event)), -1, 0)
    mapped, at_once = (lambda row: fn(row, *numbers)), max(_AT_ONCE // (n * m), 1)
    out = jax.vmap(mapped)(rows) if len(rows) <= at_once else jax.lax.map(mapped, rows, batch_size=at_once)
    return jax.tree.map(lambda values: jnp.moveaxis(values, 0, -1).reshape(*values.shape[1:], *event), out)
