"""Moves of discrete configurations that gradients of the energy inform: Gibbs with gradients, and discrete MALA.

A model with `energy_relaxed(params, one_hot)`, the energy as a smooth function of one-hot rows, gives from one gradient
a first-order guess at what every move to a neighbouring configuration costs,

    dᵢₖ = ∂E/∂pᵢₖ − ∂E/∂p_{i,xᵢ} ≈ E(x with xᵢ = k) − E(x).

`gibbs_with_gradients` changes one site, (i, k) drawn with probability ∝ exp(−β dᵢₖ / 2) (Grathwohl, Swersky, Hashemi,
Duvenaud and Maddison 2021, "Oops I took a gradient"; Zanella 2020 for the square root). `dmala` proposes for all sites
at once, each independently, level k ≠ xᵢ with weight exp(−β dᵢₖ / 2 − 1 / (2α)) beside weight 1 for staying (Zhang, Liu
and Liu 2022, "A Langevin-like sampler for discrete distributions", for levels at distance 1 from each other). Both are
accepted with probability min(1, π(x') q(x | x') / (π(x) q(x' | x))), which leaves π(x) ∝ exp(−β E(x)) invariant however
rough the guess is.

One step costs one energy and one gradient, both at the proposal, since those at x are kept.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ebm_jax import rng
from ebm_jax.energies.base import levels_of_leaves
from ebm_jax.functions import shown
from ebm_jax.samplers.acceptance import AcceptRejectKernel, CachedState
from ebm_jax.samplers.continuous import as_numbers, check_scale
from ebm_jax.samplers.discrete import DiscreteKernel, check_whole_numbers
from ebm_jax.samplers.noise import random_words
from ebm_jax.types import Info, Key, PyTree

# Half a step of a 24-bit uniform, which centres it between 0 and 1.
_SMALLEST = np.float32(2.0**-25)


class _InformedKernel(AcceptRejectKernel, DiscreteKernel):
    """What both share: levels as relative moves, and gradients with respect to one-hot rows.

    Move j of a site with K levels leads to level (x + 1 + j) mod K, j in 0 … K − 2. Move K − 2 − j leads back.
    """

    model: Any

    def evaluate(self, params: PyTree, x: PyTree, mask: PyTree | None) -> tuple[jax.Array, PyTree]:
        """Returns E(x) and ∂E/∂one-hot, of all sites: clamped ones are left out of the moves instead."""
        del mask
        leaves, tree = jax.tree.flatten(x)
        rows = [
            jax.nn.one_hot(leaf.astype(jnp.int32), k, dtype=jnp.float32)
            for leaf, k in zip(leaves, levels_of_leaves(self.model, x), strict=True)
        ]
        relaxed = self.model.energy_relaxed
        return jax.value_and_grad(relaxed, argnums=1)(params, jax.tree.unflatten(tree, rows))

    def _move_logits(self, beta: Any, state_mask: PyTree | None, x: PyTree, gradient: PyTree) -> list[Array]:
        """Returns −β dᵢₖ / 2 of every relative move, `(sites, K − 1)` a leaf; −∞ where clamped."""
        leaves, gradients = jax.tree.leaves(x), jax.tree.leaves(gradient)
        masks = [None] * len(leaves) if state_mask is None else jax.tree.leaves(state_mask)
        logits = []
        for leaf, rows, mask, k in zip(
            leaves, gradients, masks, levels_of_leaves(self.model, x), strict=True
        ):
            level = leaf.ravel().astype(jnp.int32)
            rows = rows.reshape(-1, k)
            if k == 2:
                slope = rows[:, 1] - rows[:, 0]
                cost = jnp.where(level == 1, -slope, slope)[:, None]
            else:
                from_own_level = (level[:, None] + jnp.arange(k)[None]) % k
                ordered = jnp.take_along_axis(rows, from_own_level, axis=1)
                cost = ordered[:, 1:] - ordered[:, :1]
            half = -0.5 * beta * cost
            logits.append(half if mask is None else jnp.where(mask.ravel()[:, None], -jnp.inf, half))
        return logits

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Checks positions, parameters and the step size, and that energies are finite where chains start.

        Raises:
          ValueError: If they do not fit.
        """
        check_whole_numbers(x)
        super().check(params, x, clamped)

    def _finish(
        self,
        state: CachedState,
        params: PyTree,
        beta: Any,
        new: PyTree,
        word: Array,
        log_forth: Array,
        log_back: Any,
    ) -> tuple[CachedState, Info, jax.Array]:
        """Accepts or rejects `new`, proposed with log q = `log_forth`; `log_back(logits)` is that of the way back."""
        energy, gradient = self.evaluate(params, new, None)
        back = log_back(self._move_logits(beta, state.clamped, new, gradient))
        log_ratio = back - log_forth - beta * (energy - state.energy)
        finite = jnp.isfinite(energy) & ~jnp.isnan(log_ratio)
        return self.decide(state, word, log_ratio, (new, energy, gradient), finite, 1)


@functools.partial(jax.tree_util.register_dataclass, data_fields=(), meta_fields=("model",))
@dataclass(frozen=True, eq=False)
class GibbsWithGradients(_InformedKernel):
    """The kernel that `gibbs_with_gradients` builds: all of it is structure."""

    model: Any

    tunable = False

    def step_with_acceptance(
        self, key: Key, params: PyTree, beta: Any, state: CachedState
    ) -> tuple[CachedState, Info, jax.Array]:
        """Takes one step; also returns the probability with which the proposal was accepted."""
        params, beta, state = jax.lax.stop_gradient((params, beta, state))
        x = state.position
        flat, sizes = _joined(self._move_logits(beta, state.clamped, x, state.gradient))
        words, word, _ = random_words(key, state.step, flat.size)
        # The sum may round to 1.
        u = jnp.minimum(rng.uniform(words) + _SMALLEST, np.float32(1 - 2.0**-24))
        gumbel = -jnp.log(-jnp.log(u))
        move = jnp.argmax(flat + gumbel)
        leaves, tree = jax.tree.flatten(x)
        moved, start, back = [], 0, jnp.zeros((), jnp.int32)
        for leaf, k, size in zip(leaves, levels_of_leaves(self.model, x), sizes, strict=True):
            inside = (move >= start) & (move < start + size)
            site, relative = jnp.divmod(jnp.clip(move - start, 0, size - 1), k - 1)
            level = (leaf.ravel()[site].astype(jnp.int32) + 1 + relative) % k
            level = jnp.where(inside, level.astype(leaf.dtype), leaf.ravel()[site])
            moved.append(leaf.ravel().at[site].set(level).reshape(leaf.shape))
            back = jnp.where(inside, start + site * (k - 1) + (k - 2 - relative), back)
            start += size

        def log_back(logits: list[Array]) -> Array:
            flat, _ = _joined(logits)
            return flat[back] - jax.nn.logsumexp(flat)

        # NaN, and so rejected, where every site is clamped.
        forth = flat[move] - jax.nn.logsumexp(flat)
        return self._finish(state, params, beta, jax.tree.unflatten(tree, moved), word, forth, log_back)


@functools.partial(jax.tree_util.register_dataclass, data_fields=("step_size",), meta_fields=("model",))
@dataclass(frozen=True, eq=False)
class DMALA(_InformedKernel):
    """The kernel that `dmala` builds: the model is structure, the step size is a leaf."""

    model: Any
    step_size: Any

    # The best rate for many independent sites (Sun, Dai and Schuurmans 2022).
    target_acceptance = 0.574
    # From here on a move costs nothing. Where sites hardly interact, all are accepted.
    largest_step_size = 100.0

    def step_with_acceptance(
        self, key: Key, params: PyTree, beta: Any, state: CachedState
    ) -> tuple[CachedState, Info, jax.Array]:
        """Takes one step; also returns the probability with which the proposal was accepted."""
        params, beta, state, size = jax.lax.stop_gradient((params, beta, state, self.step_size))
        x = state.position
        leaves, tree = jax.tree.flatten(x)
        counts = levels_of_leaves(self.model, x)
        words, word, _ = random_words(key, state.step, sum(leaf.size for leaf in leaves))
        penalty = 1 / (2 * size)
        moved, moves, forth, start = [], [], jnp.zeros(()), 0
        for leaf, logits, k in zip(
            leaves, self._move_logits(beta, state.clamped, x, state.gradient), counts, strict=True
        ):
            u = rng.uniform(words[start : start + leaf.size]) + _SMALLEST
            move = _draw_moves(u, logits - penalty)
            forth = forth + _log_chance(logits - penalty, move)
            level = (leaf.ravel().astype(jnp.int32) + 1 + move) % k
            moved.append(level.astype(leaf.dtype).reshape(leaf.shape))
            moves.append(move)
            start += leaf.size

        def log_back(logits: list[Array]) -> Array:
            total = jnp.zeros(())
            for part, move, k in zip(logits, moves, counts, strict=True):
                total = total + _log_chance(part - penalty, jnp.where(move < 0, -1, k - 2 - move))
            return total

        new = jax.tree.unflatten(tree, moved)
        return self._finish(state, params, beta, new, word, forth, log_back)


def gibbs_with_gradients(model: Any) -> GibbsWithGradients:
    """Builds the kernel that changes one site a step, chosen by the gradient of the energy.

    One step proposes xᵢ = k with probability ∝ exp(−β dᵢₖ / 2), dᵢₖ = ∂E/∂pᵢₖ − ∂E/∂p_{i,xᵢ}, and accepts or rejects it
    (Grathwohl et al. 2021, "Oops I took a gradient"). It costs one energy and one gradient. Draws are by Gumbel noise
    of 24 bits.

    Args:
      model: Has `energy_relaxed(params, one_hot)`, `energy`, and `n_levels` (or `level_counts`, one a leaf of a
        position): Ising, Potts, RBMs, `Marginal`, or a network's. `one_hot` is a pytree like a position with an axis of
        K levels last. On one-hot rows `energy_relaxed` is the energy.

    Returns:
      A `Kernel` for `sample`.

    Raises:
      ValueError: If the model lacks one of these.

    Example:
      >>> model = ej.RBM(5, 3)
      >>> kernel = ej.gibbs_with_gradients(model)
      >>> start = ej.init_chains(jax.random.key(0), model, 4)
      >>> params = model.init(jax.random.key(1))
      >>> info = ej.sample(jax.random.key(2), kernel, params, start, ej.SamplingSchedule(10, 1)).info
      >>> info.n_gradient
      Array([10, 10, 10, 10], dtype=int32)
    """
    return GibbsWithGradients(_check_model("gibbs_with_gradients", model))


def dmala(model: Any, step_size: Any) -> DMALA:
    """Builds the discrete Metropolis-adjusted Langevin kernel, which proposes for all sites at once.

    One step proposes for each site independently level k ≠ xᵢ with weight exp(−β dᵢₖ / 2 − 1 / (2α)) beside weight 1
    for staying, dᵢₖ as for `gibbs_with_gradients`, and accepts or rejects all of them together (Zhang, Liu and Liu
    2022). It costs one energy and one gradient. Draws have a resolution of 2⁻²⁴ a site.

    Args:
      model: As for `gibbs_with_gradients`.
      step_size: α > 0. A move costs 1/(2α), so a small α hardly ever moves a site. Far over 1 a site forgets its level.
        `warm_up` finds one, at most 100: where sites hardly interact, proposals are accepted more often than it aims at
        whatever the step size.

    Returns:
      A `Kernel` for `sample`.

    Raises:
      ValueError: If the model has no relaxed energy, or the step size is not greater than 0.

    Example:
      >>> model = ej.Ising(ej.Grid(3, 4))
      >>> kernel = ej.dmala(model, step_size=0.5)
      >>> start = ej.init_chains(jax.random.key(0), model, 4)
      >>> params = model.init(jax.random.key(1))
      >>> ej.sample(jax.random.key(2), kernel, params, start, ej.SamplingSchedule(10, 5, 10)).positions.shape
      (5, 4, 3, 4)
    """
    check_scale("step_size", step_size, positive=True)
    return DMALA(_check_model("dmala", model), as_numbers(step_size))


def _check_model(name: str, model: Any) -> Any:
    missing = [a for a in ("energy", "energy_relaxed") if not hasattr(model, a)]
    if not hasattr(model, "n_levels") and not hasattr(model, "level_counts"):
        missing.append("n_levels")
    if missing:
        raise ValueError(
            f"{name} cannot inform moves of {shown(model)}, which has no {' and no '.join(missing)}; give an Ising, "
            "Potts or RBM model, or a model of your own that has them"
        )
    if None in (getattr(model, "level_counts", None) or ()):
        raise ValueError(f"{name} moves levels, and some sites of {shown(model)} are real; use gibbs(model)")
    return model


def _joined(logits: list[Array]) -> tuple[Float[Array, " moves"], list[int]]:
    return jnp.concatenate([part.ravel() for part in logits]), [part.size for part in logits]


def _draw_moves(u: Float[Array, " sites"], logits: Float[Array, "sites moves"]) -> Int[Array, " sites"]:
    """Returns the move drawn at every site from weights exp(logits) beside a weight 1 for staying, which is −1."""
    if logits.shape[1] == 1:
        return jnp.where(u < jax.nn.sigmoid(logits[:, 0]), 0, -1)
    top = jnp.maximum(logits.max(axis=1, keepdims=True), 0.0)
    weights = jnp.concatenate([jnp.exp(logits - top), jnp.exp(-top)], axis=1)
    edges = jnp.cumsum(weights, axis=1)
    move = jnp.sum(u[:, None] * edges[:, -1:] >= edges[:, :-1], axis=1)
    return jnp.where(move == logits.shape[1], -1, move)


def _log_chance(logits: Float[Array, "sites moves"], move: Int[Array, " sites"]) -> Float[Array, ""]:
    """Returns the log-probability of drawing `move` at all sites."""
    if logits.shape[1] == 1:
        return jnp.sum(jax.nn.log_sigmoid(jnp.where(move == 0, logits[:, 0], -logits[:, 0])))
    chosen = jnp.take_along_axis(logits, jnp.maximum(move, 0)[:, None], axis=1)[:, 0]
    norm = jnp.logaddexp(jax.nn.logsumexp(logits, axis=1), 0.0)
    return jnp.sum(jnp.where(move < 0, 0.0, chosen) - norm)
