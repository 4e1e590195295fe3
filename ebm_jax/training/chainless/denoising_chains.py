"""Samples of a diffusion by recovery: a ladder of noise levels, undone one level at a time by short chains.

Let x_t = x + σ_t z with σ_0 < … < σ_T, and s_t² = σ_{t+1}² − σ_t². An energy of pairs (x, σ) gives the law of x_t given
the next noisier x_{t+1},

    p(x_t | x_{t+1}) ∝ exp(−E(x_t, σ_t) − |x_{t+1} − x_t|² / (2 s_t²)),

which has one mode where s_t is small, so that a few steps of Langevin dynamics from x_{t+1} sample it:

    x ← x − (b² s²/2) (∇E(x, σ_t) + (x − x_{t+1}) / s²) + b s z

(Gao, Song, Poole, Wu and Kingma 2021, "Learning energy-based models by diffusion recovery likelihood"). In the paper
data also shrink as noise is added, which only scales x.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ebm_jax import checks
from ebm_jax.energies.target import Target, target_of
from ebm_jax.samplers import noise
from ebm_jax.samplers.continuous import check_scale
from ebm_jax.training.chainless import draws
from ebm_jax.types import Key, PyTree


@dataclass(frozen=True)
class Ladder:
    """The levels σ_0 < … < σ_T, the steps of a chain and their size b."""

    sigmas: tuple[float, ...]
    n_steps: int
    step_scale: float

    def recovered(
        self, key: Key, params: PyTree, model: Target, noisy: Array, sigma: Array, gap: Array
    ) -> Array:
        """Returns samples of p(x_t | x_{t+1} = noisy), by Langevin dynamics from `noisy`."""
        gap = draws.rows(gap, noisy)
        gradient = jax.vmap(jax.grad(lambda x, sigma: model.energy(params, (x, sigma))))

        def step(x: Array, i: Array) -> tuple[Array, None]:
            force = gap**2 * gradient(x, sigma) + x - noisy
            moved = x - 0.5 * self.step_scale**2 * force
            return moved + self.step_scale * gap * noise.normals(key, i, x), None

        return jax.lax.scan(step, noisy, jnp.arange(self.n_steps, dtype=jnp.uint32))[0]


def make_ladder(sigmas: Sequence[float], n_steps: int, step_scale: float) -> Ladder:
    """Returns a ladder; raises ValueError where a number is out of range."""
    ladder = draws.check_scales("sigmas", sigmas)
    if len(ladder) < 2 or any(b <= a for a, b in itertools.pairwise(ladder)):
        raise ValueError(f"sigmas is {ladder}; give two or more levels that rise, e.g. (0.1, 0.3, 1.0)")
    check_scale("step_scale", step_scale, positive=True)
    return Ladder(ladder, checks.check_integer("n_steps", n_steps, 1), float(step_scale))


def recovery_samples(
    key: Key,
    model: Any,
    params: PyTree,
    start: Array,
    sigmas: Sequence[float],
    *,
    n_steps: int = 30,
    step_scale: float = 0.4,
) -> Array:
    """Samples a model that `recovery_likelihood` trained, from the noisiest level down to σ_0. May be jitted.

    Args:
      key: A typed key.
      model: A model or function with `energy(params, (x, sigma))`.
      params: Its parameters.
      start: `(n, …)`, points at the level σ_T, e.g. the mean of the data plus σ_T times normals.
      sigmas: As for `recovery_likelihood`.
      n_steps: As for `recovery_likelihood`.
      step_scale: As for `recovery_likelihood`.

    Returns:
      `(n, …)`, samples at the level σ_0.

    Raises:
      ValueError: As `recovery_likelihood`, or if `start` does not hold floats.
    """
    checks.check_key(key)
    sampler, target = make_ladder(sigmas, n_steps, step_scale), target_of(model)
    n = draws.check_real(start)
    ladder = np.asarray(sampler.sigmas, np.float32)

    def down(x: Array, level: tuple[Array, Array, Array]) -> tuple[Array, None]:
        i, sigma, gap = level
        levels = jnp.full(n, sigma), jnp.full(n, gap)
        return sampler.recovered(jax.random.fold_in(key, i), params, target, x, *levels), None

    gaps = np.sqrt(np.diff(ladder**2))
    levels = np.arange(len(gaps)), ladder[:-1], gaps
    return jax.lax.scan(down, start, jax.tree.map(lambda leaf: jnp.asarray(leaf[::-1]), levels))[0]
