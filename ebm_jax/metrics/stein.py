"""The kernel Stein discrepancy: whether draws follow exp(−β E), without draws of that law and without log Z.

A Stein kernel h has mean zero over y ~ exp(−β E) for every x. So the mean of h over independent draws x and y of one
law is zero if the law is exp(−β E), and positive otherwise (Liu, Lee and Jordan 2016; Chwialkowski, Strathmann and
Gretton 2016).

Of real configurations, with the score s(x) = −β ∇E(x), it is

    h(x, y) = s(x)·s(y) k + s(x)·∇_y k + s(y)·∇_x k + tr ∇_x ∇_y k,    k = (1 + |x − y|² / ℓ²)^(−½).

With this kernel the discrepancy also sees draws that run off to infinity (Gorham and Mackey 2017).

Of binary configurations, with ¬ᵢx the configuration x with site i flipped and qᵢ(x) the probability that a heat bath
flips it, it is

    h(x, y) = Σᵢ qᵢ(x) qᵢ(y) [k(¬ᵢx, ¬ᵢy) − k(¬ᵢx, y) − k(x, ¬ᵢy) + k(x, y)],    k = exp(−H(x, y) / ℓ).

H is the number of sites that differ. The discrepancy for discrete laws is that of Yang, Liu, Rao and Neville 2018. They
have p(¬ᵢx) / p(x) in place of qᵢ, which is not bounded (the bounded one: Shi, Zhou, Hwang, Titsias and Mackey 2022).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ebm_jax import checks, functions
from ebm_jax.energies.target import target_of
from ebm_jax.metrics.kernel_sums import (
    KernelTest,
    check_number,
    checked,
    median_distance,
    pair_sums,
    share_at_least,
)
from ebm_jax.metrics.stein_kernels import BINARY, REAL, SteinKernel
from ebm_jax.types import Key, PyTree


def kernel_stein_discrepancy(
    model: Any,
    params: PyTree,
    x: PyTree,
    *,
    key: Key,
    beta: Any = 1.0,
    bandwidth: Any = None,
    flip: Any = 0.5,
    n_bootstrap: int = 1000,
) -> KernelTest:
    """Tests whether draws follow exp(−β E(x; params)), by the kernel Stein discrepancy.

    The statistic is the mean of h(xᵢ, xⱼ) over pairs i ≠ j, the squared discrepancy. Its distribution under the
    hypothesis comes from the wild bootstrap: Σ wᵢ wⱼ h(xᵢ, xⱼ) with random signs w. The squares of signs are 1, so the
    p-value does not depend on whether the pairs i = j are counted. It is asymptotic. With independent draws of a
    Gaussian the test rejects 5 % at the level 5 % from about 30 draws on.

    A test of many chains should take one draw of each, `run.positions[-1]`, since these are independent. Draws of one
    chain need signs that change more slowly than the draws (Chwialkowski et al. 2016): thin the chain until the
    autocorrelation of neighbours is under a half, and give a `flip` of 0.1. With 400 draws of an autocorrelation of 0.3
    the test then rejects 6.5 % at the level 5 %, and 17 % with a `flip` of ½.

    The discrepancy hardly sees the weights of modes that are far apart: gradients are the same whatever they are.

    Args:
      model: A model with `energy(params, x)`, or such a function. x is any pytree of floats; or of sites with two
        levels, bools or of a model with two levels (Ising, RBM, `Marginal`, and compositions of them). Those take an
        energy for each site of each draw.
      params: Its parameters.
      x: Draws with a leading axis of n ≥ 2, in the order in which a chain made them.
      key: A typed key, for the signs.
      beta: β.
      bandwidth: ℓ > 0, in the units of x, or a number of sites. None means the median distance between draws. A smaller
        one sees finer differences, and needs more draws in many dimensions.
      flip: Probability that the sign changes from one draw to the next. ½ is right for independent draws.
      n_bootstrap: Number of random signs. The p-value is at least 1 / (n_bootstrap + 1).

    Returns:
      A `KernelTest` of scalars. It runs under `jit` and `vmap`.

    Raises:
      ValueError: If the draws are of another kind or not finite, the energy does not take them, its gradient is not
        finite, a number is out of range, or the median distance is 0.

    Example:
      >>> energy = lambda params, x: jnp.sum(x**2) / 2
      >>> x = jax.random.normal(jax.random.key(0), (200, 3))
      >>> test = ej.metrics.kernel_stein_discrepancy(energy, None, x, key=jax.random.key(1))
      >>> wide = ej.metrics.kernel_stein_discrepancy(energy, None, 2 * x, key=jax.random.key(1))
      >>> bool(test.p_value > 0.05), bool(wide.p_value < 0.01)
      (True, True)
    """
    target = target_of(model)
    checks.check_key(key)
    checks.check_integer("n_bootstrap", n_bootstrap, 1)
    check_number("bandwidth", bandwidth, None)
    check_number("flip", flip, 1.0)
    check_number("beta", beta, None)
    # A datum may be a part of a configuration; the test is of whole ones.
    full = target.of_full_configurations()
    x = full.as_data("x", x)
    n = full.check_data("x", x)
    if n < 2:
        raise ValueError(f"x has {n} rows; give at least 2")
    checks.check_finite("x", x)
    x = jax.tree.map(jnp.asarray, x)
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), x)
    functions.check_gives_scalar(target.energy, params, one)
    kernel = _kernel_for(x, set(target.level_counts))
    return checked(_stein_test(kernel, target.energy, n_bootstrap, key, params, x, beta, bandwidth, flip))


def _kernel_for(x: PyTree, level_counts: set[int | None]) -> SteinKernel:
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(x)]
    if all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
        return REAL
    if all(
        dtype == jnp.bool_ or (level_counts == {2} and jnp.issubdtype(dtype, jnp.integer)) for dtype in dtypes
    ):
        return BINARY
    raise ValueError(
        f"x has dtypes {', '.join(map(str, dtypes))}, and the test takes floats, bools or sites of two levels; compare "
        "other draws by mmd_test or classifier_two_sample_test"
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _stein_test(
    kernel: SteinKernel,
    energy: Callable[..., Array],
    n_bootstrap: int,
    key: Key,
    params: PyTree,
    x: PyTree,
    beta: Any,
    bandwidth: Any,
    flip: Any,
) -> KernelTest:
    features = kernel.features(energy, params, beta, x)
    n, dtype = len(features[0]), features[0].dtype
    for_median, for_signs = jax.random.split(key)
    scale = kernel.bandwidth(median_distance(for_median, features[0])) if bandwidth is None else bandwidth
    scale = jnp.asarray(scale, dtype)
    changes = jax.random.bernoulli(for_signs, flip, (n_bootstrap, n))
    signs = 1 - 2 * (jnp.cumsum(changes, axis=1) % 2).astype(dtype)
    weights = jnp.concatenate([jnp.ones((1, n), dtype), signs])
    sums, _ = pair_sums(functools.partial(kernel.pairs, scale), features, weights)
    unbiased = (sums[0] - jnp.sum(kernel.diagonal(scale, features))) / (n * (n - 1))
    return KernelTest(unbiased, share_at_least(sums), scale)
