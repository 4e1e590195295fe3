"""The kernel Stein discrepancy: whether draws follow exp(−β E), without draws of that law and without log Z.

With the score s(x) = −β ∇E(x) and a kernel k, the Stein kernel is

    h(x, y) = s(x)·s(y) k + s(x)·∇_y k + s(y)·∇_x k + tr ∇_x ∇_y k.

Its mean over y ~ exp(−β E) is zero for every x. So the mean of h over independent draws x and y of one law is zero if
the law is exp(−β E), and positive otherwise (Liu, Lee and Jordan 2016; Chwialkowski, Strathmann and Gretton 2016). The
kernel is the inverse multiquadric k = (1 + |x − y|² / ℓ²)^(−½), with which the discrepancy also sees draws that run
off to infinity (Gorham and Mackey 2017).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ebm_jax import checks, functions
from ebm_jax.energies.target import target_of
from ebm_jax.metrics.kernel_sums import (
    KernelTest,
    centred,
    check_number,
    checked,
    flat_rows,
    median_distance,
    pair_sums,
    read_rows,
    share_at_least,
    square_distances,
)
from ebm_jax.types import Key, PyTree

# Draws whose scores are computed together.
_DRAWS = 256


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
    p-value does not depend on whether the pairs i = j are counted. It is asymptotic, and for independent draws close
    from some 50 on.

    A test of many chains should take one draw of each, `run.positions[-1]`, since these are independent. Draws of one
    chain need signs that change more slowly than the draws (Chwialkowski et al. 2016): thin the chain until the
    autocorrelation of neighbours is under a half, and give a `flip` of 0.1. Such a test needs a thousand draws.

    The discrepancy does not see the weights of modes that are far apart: the score is the same whatever they are.

    Args:
      model: A model with `energy(params, x)`, or such a function. x is any pytree of floats.
      params: Its parameters.
      x: Draws with a leading axis of n ≥ 2, in the order in which a chain made them.
      key: A typed key, for the signs.
      beta: β.
      bandwidth: ℓ > 0, in the units of x. None means the median distance between draws. A smaller one sees finer
        differences, and needs more draws in many dimensions.
      flip: Probability that the sign changes from one draw to the next. ½ is right for independent draws.
      n_bootstrap: Number of random signs. The p-value is at least 1 / (n_bootstrap + 1).

    Returns:
      A `KernelTest` of scalars. It runs under `jit` and `vmap`.

    Raises:
      ValueError: If the draws are no finite floats, the energy does not take them, its gradient is not finite, a number
        is out of range, or the median distance is 0.

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
    x = read_rows("x", x, target.position_struct)
    for leaf in jax.tree.leaves(x):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"x has dtype {leaf.dtype}, and the test needs gradients with respect to x; compare discrete samples "
                "by mmd_test or classifier_two_sample_test"
            )
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), x)
    functions.check_gives_scalar(target.energy, params, one)
    return checked(_stein_test(target.energy, n_bootstrap, key, params, x, beta, bandwidth, flip))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _stein_test(
    energy: Callable[..., Array],
    n_bootstrap: int,
    key: Key,
    params: PyTree,
    x: PyTree,
    beta: Any,
    bandwidth: Any,
    flip: Any,
) -> KernelTest:
    def gradient(one: PyTree) -> PyTree:
        return jax.grad(energy, argnums=1)(params, one)

    rows = centred(flat_rows(x))
    n, n_dimensions = rows.shape
    scores = -beta * flat_rows(jax.lax.map(gradient, x, batch_size=min(n, _DRAWS)))
    for_median, for_signs = jax.random.split(key)
    scale = jnp.asarray(median_distance(for_median, rows) if bandwidth is None else bandwidth, rows.dtype)
    changes = jax.random.bernoulli(for_signs, flip, (n_bootstrap, n))
    signs = 1 - 2 * (jnp.cumsum(changes, axis=1) % 2).astype(rows.dtype)
    weights = jnp.concatenate([jnp.ones((1, n), rows.dtype), signs])
    sums, _ = pair_sums(functools.partial(_stein_kernel, scale), (rows, scores), weights)
    diagonal = jnp.sum(scores**2) + n * n_dimensions / scale**2
    return KernelTest((sums[0] - diagonal) / (n * (n - 1)), share_at_least(sums), scale)


def _stein_kernel(
    scale: Float[Array, ""], a: tuple[Array, Array], b: tuple[Array, Array]
) -> Float[Array, "n m"]:
    """Returns h of all pairs, from rows and their scores.

    With r = x − y, q = 1 + |r|² / ℓ² and k = q^(−½),

        h = s(x)·s(y) q^(−½) + ((s(x) − s(y))·r + d) q^(−3/2) / ℓ² − 3 |r|² q^(−5/2) / ℓ⁴.
    """
    (x, of_x), (y, of_y) = a, b
    dot = functools.partial(jnp.matmul, precision="highest")
    squares = square_distances(x, y)
    along_x, along_y = jnp.sum(of_x * x, axis=1)[:, None], jnp.sum(of_y * y, axis=1)[None]
    along = along_x + along_y - dot(of_x, y.T) - dot(x, of_y.T)
    inverse = 1 / (1 + squares / scale**2)
    root = jnp.sqrt(inverse)
    drift = (along + x.shape[1]) * inverse / scale**2
    return root * (dot(of_x, of_y.T) + drift - 3 * squares * (inverse / scale**2) ** 2)
