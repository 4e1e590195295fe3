"""`certify`: all checks of a kernel on a model, in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import checks, exact
from ebm_jax.certificate.laws import Law
from ebm_jax.certificate.report import PASSED, Certificate
from ebm_jax.certificate.stationarity import check_clamping, check_invariance, check_mixing
from ebm_jax.certificate.structure import check_dtype, check_energy, check_purity
from ebm_jax.certificate.trial import Trial
from ebm_jax.exact import layers
from ebm_jax.samplers.base import Kernel
from ebm_jax.samplers.tempering import ParallelTempering
from ebm_jax.types import Key, PyTree


def certify(
    kernel: Kernel,
    model: Any,
    params: PyTree,
    *,
    key: Key,
    draws: Callable[[Key, int, float], PyTree] | None = None,
    betas: Any = (1.0, 0.7),
    n_chains: int = 20_000,
    false_positive_rate: float = 1e-6,
    show: bool = True,
) -> Certificate:
    """Tests whether a kernel samples exp(−β E(x; params)) of a model.

    The checks:

    - *energy*: the kernel follows the model's energy; conditionals (and a relaxed energy) agree with its differences.
    - *dtype*: a step keeps structure, shapes and dtypes, and counts itself.
    - *purity*: the same arguments give the same bits, another key or step gives others, a run in two parts is the
      whole run, and one chain alone moves as it does among many.
    - *invariance*: exact draws stay exact after 1 and after 20 steps.
    - *mixing*: chains forget their start, and reach the law from one configuration.
    - *clamping*: clamped values stay and others move; where the sites with levels can be enumerated, the others keep
      their conditional law.

    Args:
      kernel: A kernel of this package, or your own subclass of `Kernel`.
      model: A model, or any function `energy(params, x)`.
      params: Parameters of the model.
      key: One typed random key.
      draws: `draws(key, n, beta)` gives n independent exact draws, leading axis n. Models that `exact.sample` draws
        from need none: few configurations, narrow strips and trees, an RBM with one layer of at most about 20 units, a
        `FactorGraph` of such sizes, of which real units do not count. For an energy of your own use a Gaussian, a
        mixture, or rejection sampling.
      betas: Inverse temperatures to test.
      n_chains: Number of chains. More of them see smaller biases.
      false_positive_rate: Probability, over all tests of the certificate, that a correct kernel fails it.
      show: Whether to print the table.

    Returns:
      A `Certificate`.

    Raises:
      ValueError: If no exact draws can be had, an argument is out of range, or the kernel refuses the model's
        configurations.

    Example:
      >>> model = ej.Ising(ej.Grid(2, 2))
      >>> params = model.init(jax.random.key(0))
      >>> found = ej.certify(ej.metropolis(model), model, params, key=jax.random.key(1), n_chains=500, show=False)
      >>> found.ok, found["dtype"].detail
      (True, 'a step keeps shapes and dtypes (bool)')
    """
    checks.check_key(key)
    checks.check_integer("n_chains", n_chains, 100)
    if not 0 < false_positive_rate < 1:
        raise ValueError(f"false_positive_rate is {false_positive_rate}; give a number between 0 and 1")
    betas = (float(betas),) if np.ndim(betas) == 0 else tuple(map(float, betas))
    if not betas:
        raise ValueError("betas is empty; give at least one inverse temperature")
    if not isinstance(kernel, Kernel):
        raise ValueError(f"kernel is a {type(kernel).__name__}; give a kernel, e.g. gibbs(model)")
    if isinstance(kernel, ParallelTempering) and float(kernel.betas[-1]) != 1:
        raise ValueError(
            f"the last rung of the ladder is {float(kernel.betas[-1]):g}, so positions have another law than β says: "
            "certify a ladder that ends at 1"
        )
    draws = _exact_draws(model, params) if draws is None else draws
    trial = Trial(kernel, Law(model, params), draws, n_chains, false_positive_rate / (2 * len(betas) + 2))
    keys = iter(jax.random.split(key, 8 + len(betas)))
    x = draws(next(keys), n_chains, betas[0])
    lengths = {leaf.shape[0] if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(x)}
    if lengths != {n_chains}:
        raise ValueError(f"draws gave leading axes {sorted(lengths)}; give n = {n_chains} configurations")
    kernel.check(params, x, None)
    energy = check_energy(trial, next(keys), x)
    dtype = check_dtype(trial, next(keys), x)
    purity = check_purity(trial, next(keys), x)
    invariance = check_invariance(trial, [next(keys) for _ in betas], betas)
    mixing = check_mixing(trial, next(keys), betas[0], lawful=invariance.status == PASSED)
    clamping = check_clamping(trial, next(keys), betas[0], x)
    name = getattr(model, "__name__", repr(model))
    found = (energy, dtype, purity, invariance, mixing, clamping)
    certificate = Certificate(type(kernel).__name__, name, found)
    if show:
        print(certificate)
    return certificate


def _exact_draws(model: Any, params: PyTree) -> Callable[[Key, int, float], PyTree]:
    """Returns `draws(key, n, beta)` of a model that can be solved exactly."""
    if layers.obstacle(model) is not None:
        raise ValueError(
            f"{getattr(model, '__name__', repr(model))} has no draws of its own; give draws=(key, n, beta) -> n exact "
            "draws, e.g. of a Gaussian or by rejection sampling"
        )

    def draws(key: Key, n: int, beta: float) -> PyTree:
        return exact.sample(key, model, params, n, beta=beta)

    return draws
