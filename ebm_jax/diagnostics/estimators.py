"""How well chains mix, from one real quantity: effective sample size, R-hat, Monte Carlo standard errors.

Every function takes draws x of shape (n, m), n draws of each of m chains; `stored` maps it over everything else. The
estimators are those of Vehtari, Gelman, Simpson, Carpenter and Bürkner 2021 (Bayesian Analysis 16:667). The details,
such as ties and short chains, are those of arviz-stats 1.3.

float32 is enough, because no two large numbers are subtracted after rounding: draws are taken as differences from one
of them, rounded once, and ranks are integers. (XLA sums in trees: 3 million equal terms to 2⁻²³.)
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jaxtyping import Array, Float, Int, Shaped

TAILS = (0.05, 0.95)
"""The quantiles of the tail ESS."""

Draws = Shaped[Array, "n m"]


# ---- numbers without loss ----


def difference(x: Shaped[Array, "*s"], reference: Shaped[Array, "..."]) -> Float[Array, "*s"]:
    """Returns x − reference in floats, rounded once: integers of any width are subtracted as integers."""
    if x.dtype == jnp.bool_:
        x, reference = x.astype(jnp.uint8), reference.astype(jnp.uint8)
    if jnp.issubdtype(x.dtype, jnp.floating):
        return x - reference
    size, dtype = jnp.dtype(f"uint{8 * x.dtype.itemsize}"), jnp.result_type(float)
    # Differences of integers wrap modulo 2^bits, and one of the two is right.
    up, down = (d.astype(size).astype(dtype) for d in (x - reference, reference - x))
    return jnp.where(x >= reference, up, -down)


def mean(x: Float[Array, "n ..."]) -> Float[Array, "..."]:
    """Returns the mean over the first axis."""
    return jnp.sum(x, axis=0) / x.shape[0]


def variance(x: Float[Array, "n ..."]) -> Float[Array, "..."]:
    """Returns the variance over the first axis, divided by n − 1; of equal values it is exactly 0."""
    d = x - x[0]
    d = d - mean(d)
    return jnp.sum(d * d, axis=0) / (x.shape[0] - 1)


def scaled(x: Draws) -> tuple[Float[Array, "n m"], Float[Array, ""]]:
    """Returns deviations from the first draw, scaled to at most 1, and the scale."""
    d = difference(x, x[0, 0])
    scale = jnp.max(jnp.abs(d))
    # A scale of NaN becomes 1; the NaN stays in d.
    scale = jnp.where(scale > 0, scale, jnp.ones_like(scale))
    return d / scale, scale


# ---- ranks ----


def split(x: Draws) -> Shaped[Array, "h 2*m"]:
    """Returns the halves of every chain as chains; of an odd number of draws the middle one is dropped."""
    half = x.shape[0] // 2
    return jnp.concatenate([x[:half], x[x.shape[0] - half :]], axis=1)


def normal_scores(x: Draws) -> Float[Array, "n m"]:
    """Returns Φ⁻¹((r − 3/8) / (N + 1/4)) with r the rank among all N draws, or the mean rank of ties (Blom 1958)."""
    flat = _sortable(x).ravel()
    ordered, n = jnp.sort(flat), flat.size
    below = jnp.searchsorted(ordered, flat)
    up_to = jnp.searchsorted(ordered, flat, side="right")
    twice_rank = (below + up_to + 1).astype(jnp.int32)
    # Counted from the nearer end, because floats are dense near 0.
    from_end = jnp.minimum(twice_rank, 2 * (n + 1) - twice_rank)
    z = ndtri((from_end.astype(jnp.result_type(float)) - 0.75) / (2 * n + 0.5))
    return jnp.where(twice_rank > n + 1, -z, z).reshape(x.shape)


def folded(x: Draws) -> Float[Array, "n m"]:
    """Returns |x − median|."""
    ordered = jnp.sort(_sortable(x).ravel())
    low, high = ordered[(x.size - 1) // 2], ordered[x.size // 2]
    return jnp.abs(difference(_sortable(x), low) - difference(high, low) / 2)


def _sortable(x: Array) -> Array:
    return x.astype(jnp.uint8) if x.dtype == jnp.bool_ else x


# ---- autocorrelation and effective sample size ----


def autocovariance(x: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """Returns Σ_s (x_s − x̄)(x_{s+t} − x̄) / n of every chain at lags t = 0 … n − 1, by FFT."""
    n = x.shape[0]
    d = x - x[0]
    d = d - mean(d)
    spectrum = jnp.fft.rfft(d, 1 << (2 * n - 1).bit_length(), axis=0)
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    return jnp.fft.irfft(power, 1 << (2 * n - 1).bit_length(), axis=0)[:n] / n


def autocorrelation(x: Draws) -> Float[Array, "n m"]:
    """Returns the autocovariance of every chain over its value at lag 0."""
    covariance = autocovariance(jax.vmap(lambda chain: scaled(chain[:, None])[0][:, 0], 1, 1)(x))
    never_moved = (x == x[0]).all(axis=0)
    return jnp.where(never_moved, jnp.nan, covariance / covariance[0])


def size_of(x: Float[Array, "n m"]) -> Float[Array, ""]:
    """Returns the effective sample size n·m / τ of n·m draws for their mean; n·m if they are all equal.

        ρ_t = 1 − (W − mean_chain c_t) / V,    V = (n − 1)/n · W + variance of the chain means,

    with W the mean variance within chains. τ = −1 + 2 Σ_k P_k + the even term after the last pair, where the pairs
    P_k = ρ_2k + ρ_2k+1 are summed as long as they are positive, each lowered to the one before it (Geyer 1992). τ is at
    least 1 / log₁₀(n·m).
    """
    n, m = x.shape
    covariance = jnp.mean(autocovariance(x), axis=1)
    within = covariance[0] * n / (n - 1)
    overall = covariance[0] + variance(mean(x))
    rho = (1 - (within - covariance) / overall).at[0].set(1.0)

    last = max(0, (n - 3) // 2)
    even, odd = rho[0 : 2 * last + 1 : 2], rho[1 : 2 * last + 2 : 2]
    pair = even + odd
    k, _, half = jax.lax.while_loop(
        lambda at: (at[0] < last) & (pair[at[0]] > 0),
        lambda at: (at[0] + 1, lower := jnp.minimum(at[1], pair[at[0]]), at[2] + lower),
        (jnp.zeros((), jnp.int32), jnp.full_like(pair[0], jnp.inf), jnp.zeros_like(pair[0])),
    )
    rest = jnp.where(pair[k] >= 0, even[k], jnp.maximum(even[k], 0))
    tau = jnp.maximum(2 * half + rest - 1, 1 / jnp.log10(float(n * m)))
    tau = jnp.where(jnp.isfinite(overall), tau, jnp.nan)
    return jnp.where((x == x[0, 0]).all(), float(n * m), n * m / tau)


def ess_mean(x: Draws) -> Float[Array, ""]:
    """Returns the effective number of draws for the mean of x."""
    return valid(x, size_of(split(scaled(x)[0])))


def ess_bulk(x: Draws) -> Float[Array, ""]:
    """Returns the effective number of draws for the mean of the normal scores."""
    return valid(x, size_of(normal_scores(split(x))))


def ess_tail(x: Draws) -> Float[Array, ""]:
    """Returns the smaller of the effective sizes for P(x ≤ q), q the 5 % and the 95 % quantile."""
    ordered = jnp.sort(_sortable(x).ravel())
    return valid(x, functools.reduce(jnp.minimum, (_ess_below(x, ordered[rank(p, x.size)]) for p in TAILS)))


def rank(prob: float, size: int) -> int:
    """Returns which of `size` ordered draws, counted from 0, is the last not above the (interpolated) quantile."""
    return int(prob * (size - 1))


def _ess_below(x: Draws, threshold: Shaped[Array, ""]) -> Float[Array, ""]:
    return size_of(split((_sortable(x) <= threshold).astype(jnp.result_type(float))))


def tau(x: Draws) -> Float[Array, ""]:
    """Returns the number of draws that are worth one independent draw to the mean of x."""
    return 2 * (x.shape[0] // 2) * x.shape[1] / ess_mean(x)


# ---- between chains ----


def r_hat(x: Draws) -> Float[Array, ""]:
    """Returns the larger of the R-hats of bulk and tail."""
    bulk, tail = r_hat_bulk(x), r_hat_tail(x)
    # With two equally frequent levels |x − median| is constant. The tail's NaN is then ignored, as in ArviZ.
    return jnp.where(tail > bulk, tail, bulk)


def r_hat_bulk(x: Draws) -> Float[Array, ""]:
    """Returns R-hat of the normal scores of x; NaN of one chain."""
    return _ratio(x, normal_scores(split(x)))


def r_hat_tail(x: Draws) -> Float[Array, ""]:
    """Returns R-hat of the normal scores of |x − median|; NaN of one chain."""
    return _ratio(x, normal_scores(folded(split(x))))


def _ratio(x: Draws, scores: Float[Array, "h 2*m"]) -> Float[Array, ""]:
    """Returns √(V/W): variance between half chains and within over the mean variance within; NaN of one chain."""
    n = scores.shape[0]
    ratio = jnp.sqrt(variance(mean(scores)) / jnp.mean(variance(scores)) + (n - 1) / n)
    return valid(x, ratio if x.shape[1] > 1 else jnp.full_like(ratio, jnp.nan))


def valid(x: Draws, value: Float[Array, ""]) -> Float[Array, ""]:
    """Returns `value`, or NaN when x holds a NaN or one value throughout."""
    return jnp.where((x != x).any() | (x == x[0, 0]).all(), jnp.nan, value)


# ---- mean, standard deviation, and their errors ----


def overall_mean(x: Draws) -> Float[Array, ""]:
    """Returns the mean of all draws."""
    d, scale = scaled(x)
    return x[0, 0].astype(d.dtype) + scale * mean(d.ravel())


def standard_deviation(x: Draws) -> Float[Array, ""]:
    """Returns the standard deviation of all draws, divided by n·m − 1."""
    d, scale = scaled(x)
    return scale * jnp.sqrt(variance(d.ravel()))


def mcse_mean(x: Draws) -> Float[Array, ""]:
    """Returns sd / √ESS of the mean."""
    return standard_deviation(x) / jnp.sqrt(ess_mean(x))


def mcse_sd(x: Draws) -> Float[Array, ""]:
    """Returns √(Var[(x − x̄)²] / S / (4 Var[x])), the delta method with the effective size S of (x − x̄)².

    This is the definition of arviz-stats since version 1. Version 0.8 and earlier took S of x.
    """
    d, scale = scaled(x)
    squares = jnp.square(d - mean(d.ravel()))
    size, flat = valid(x, size_of(split(squares))), squares.ravel()
    return scale * jnp.sqrt(variance(flat) * (1 - 1 / flat.size) / size / mean(flat) / 4)


def mcse_quantile(x: Draws, prob: Float[Array, ""], last_below: Int[Array, ""]) -> Float[Array, ""]:
    """Returns half the distance between the order statistics one standard error below and above the quantile.

    Their ranks are quantiles of the beta law of the share of draws below (Vehtari et al. 2021, section 4.4).
    `last_below` is `rank(prob, n·m)`, whose computation needs float64.
    """
    ordered = jnp.sort(_sortable(x).ravel())
    n = ordered.size
    size = _ess_below(x, ordered[last_below])
    low, high = beta_quantiles(size * prob + 1, size * (1 - prob) + 1) * n - 1
    low = jnp.floor(jnp.clip(low, 0, n - 1)).astype(jnp.int32)
    high = jnp.ceil(jnp.clip(high, 0, n - 1)).astype(jnp.int32)
    return valid(x, difference(ordered[high], ordered[low]) / 2)


def beta_quantiles(a: Float[Array, ""], b: Float[Array, ""]) -> Float[Array, " 2"]:
    """Returns the quantiles of Beta(a, b), a and b ≥ 1, at Φ(−1) and Φ(1).

    In u = logit x the density is a smooth bump. The trapezoidal rule with derivatives at the ends of each cell
    integrates it. This avoids Γ of large numbers, whose error in float32 exceeds the answer.
    """
    width = jnp.sqrt((a + b) / a / b)
    w = jnp.linspace(-20.0, 20.0, 2**11 + 1, dtype=a.dtype)
    h = 40.0 / 2**11
    grown = a / (a + b) * jnp.expm1(width * w)
    f = jnp.exp(a * width * w - (a + b) * jnp.log1p(grown))
    slope = f * width * (a - (a + b) * _logistic_at(a, b, width * w))
    cells = h / 2 * (f[:-1] + f[1:]) + h * h / 12 * (slope[:-1] - slope[1:])
    below = jnp.concatenate([jnp.zeros(1, f.dtype), jnp.cumsum(cells)])
    target = jnp.asarray([0.1586553, 0.8413447], f.dtype) * below[-1]
    k = jnp.searchsorted(below, target) - 1
    missing = target - below[k]
    step = 2 * missing / (f[k] + jnp.sqrt(jnp.square(f[k]) + 2 * slope[k] * missing))
    return _logistic_at(a, b, width * (w[k] + step))


def _logistic_at(a: Array, b: Array, t: Array) -> Array:
    """Returns the x that lies t above a/(a+b) on the logit scale."""
    return a / (a + b * jnp.exp(-t))
