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

from ebm_jax import checks, rng
from ebm_jax.samplers.base import Kernel
from ebm_jax.samplers.continuous import (
    AdjustedKernelBase,
    CachedState,
    as_numbers,
    check_scale,
    random_words,
)
from ebm_jax.types import Info, Key, PyTree

_SMALLEST = np.float32(2.0**-25)  # half a step of a 24-bit uniform, which centres it between 0 and 1


class _InformedKernel(AdjustedKernelBase):
    """What both share: levels as relative moves, and gradients with respect to one-hot rows.

    Move j of a site with K levels leads to level (x + 1 + j) mod K, j in 0 … K − 2; its way back is move K − 2 − j.
    """

    energy: Any
    needs_model = True

    @property
    def model(self) -> Any:
        """The model whose energy is followed."""
        return self.energy

    def _counts(self, x: PyTree) -> list[int]:
        """Levels of the sites of every leaf."""
        counts = getattr(self.energy, "level_counts", None)
        return list(counts) if counts is not None else [self.energy.n_levels] * len(jax.tree.leaves(x))

    def _evaluate(self, params: PyTree, x: PyTree, mask: PyTree | None) -> tuple[jax.Array, PyTree]:
        """Returns E(x) and ∂E/∂one-hot, the gradient zero where clamped."""
        del mask  # clamped sites are left out of the moves
        leaves, tree = jax.tree.flatten(x)
        rows = [
            jax.nn.one_hot(leaf.astype(jnp.int32), k, dtype=jnp.float32)
            for leaf, k in zip(leaves, self._counts(x), strict=True)
        ]
        relaxed = self.energy.energy_relaxed
        return jax.value_and_grad(relaxed, argnums=1)(params, jax.tree.unflatten(tree, rows))

    def _move_logits(self, beta: Any, state_mask: PyTree | None, x: PyTree, gradient: PyTree) -> list[Array]:
        """Returns −β dᵢₖ / 2 of every relative move, `(sites, K − 1)` a leaf; −∞ where clamped."""
        leaves, gradients = jax.tree.leaves(x), jax.tree.leaves(gradient)
        masks = [None] * len(leaves) if state_mask is None else jax.tree.leaves(state_mask)
        logits = []
        for leaf, rows, mask, k in zip(leaves, gradients, masks, self._counts(x), strict=True):
            level = leaf.ravel().astype(jnp.int32)
            rows = rows.reshape(-1, k)
            if k == 2:
                slope = rows[:, 1] - rows[:, 0]
                cost = jnp.where(level == 1, -slope, slope)[:, None]
            else:
                turned = (level[:, None] + jnp.arange(k)) % k
                ordered = jnp.take_along_axis(rows, turned, axis=1)
                cost = ordered[:, 1:] - ordered[:, :1]
            half = -0.5 * beta * cost
            logits.append(half if mask is None else jnp.where(mask.ravel()[:, None], -jnp.inf, half))
        return logits

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Raises ValueError where positions are no levels of the model, or an energy is not finite at its start."""
        if hasattr(self.energy, "params_struct"):
            checks.check_struct("params", params, self.energy.params_struct(), dtypes=checks.FLOATS)
        if hasattr(self.energy, "position_struct"):
            checks.check_struct(
                "init", x, self.energy.position_struct(), leading=1, dtypes=self.energy.position_dtypes
            )
        for path, leaf in jax.tree_util.tree_leaves_with_path(x):
            if not jnp.issubdtype(leaf.dtype, jnp.integer) and leaf.dtype != jnp.bool_:
                name = "init" + jax.tree_util.keystr(path)
                raise ValueError(
                    f"{name} has dtype {leaf.dtype}; levels are whole numbers: use .astype(jnp.uint8)"
                )
        Kernel.check(self, params, x, clamped)
        for name, tree in (("init", x), ("clamped values", None if clamped is None else clamped[1])):
            for leaf, k in zip(jax.tree.leaves(tree), self._counts(x), strict=False):
                checks.check_levels(name, leaf, k)
        self._check_energies(params, x, clamped)

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
        energy, gradient = self._evaluate(params, new, None)
        back = log_back(self._move_logits(beta, state.clamped, new, gradient))
        log_ratio = back - log_forth - beta * (energy - state.energy)
        finite = jnp.isfinite(energy) & ~jnp.isnan(log_ratio)
        return self._decide(state, word, log_ratio, (new, energy, gradient), finite, 1)


@functools.partial(jax.tree_util.register_dataclass, data_fields=(), meta_fields=("energy",))
@dataclass(frozen=True, eq=False)
class GibbsWithGradients(_InformedKernel):
    """The kernel that `gibbs_with_gradients` builds: all of it is structure. `energy` is the model."""

    energy: Any

    def step_with_acceptance(
        self, key: Key, params: PyTree, beta: Any, state: CachedState
    ) -> tuple[CachedState, Info, jax.Array]:
        """Takes one step; also returns the probability with which the proposal was accepted."""
        params, beta, state = jax.lax.stop_gradient((params, beta, state))
        x = state.position
        flat, sizes = _joined(self._move_logits(beta, state.clamped, x, state.gradient))
        words, word, _ = random_words(key, state.step, flat.size)
        u = jnp.minimum(rng.uniform(words) + _SMALLEST, np.float32(1 - 2.0**-24))  # the sum may round to 1
        gumbel = -jnp.log(-jnp.log(u))
        move = jnp.argmax(flat + gumbel)
        leaves, tree = jax.tree.flatten(x)
        moved, start, back = [], 0, jnp.zeros((), jnp.int32)
        for leaf, k, size in zip(leaves, self._counts(x), sizes, strict=True):
            inside = (move >= start) & (move < start + size)
            site, turn = jnp.divmod(jnp.clip(move - start, 0, size - 1), k - 1)
            level = (leaf.ravel()[site].astype(jnp.int32) + 1 + turn) % k
            level = jnp.where(inside, level.astype(leaf.dtype), leaf.ravel()[site])
            moved.append(leaf.ravel().at[site].set(level).reshape(leaf.shape))
            back = jnp.where(inside, start + site * (k - 1) + (k - 2 - turn), back)
            start += size

        def log_back(logits: list[Array]) -> Array:
            flat, _ = _joined(logits)
            return flat[back] - jax.nn.logsumexp(flat)

        forth = flat[move] - jax.nn.logsumexp(flat)  # NaN, and so rejected, where every site is clamped
        return self._finish(state, params, beta, jax.tree.unflatten(tree, moved), word, forth, log_back)


@functools.partial(jax.tree_util.register_dataclass, data_fields=("step_size",), meta_fields=("energy",))
@dataclass(frozen=True, eq=False)
class DMALA(_InformedKernel):
    """The kernel that `dmala` builds. `energy` is the model."""

    energy: Any
    step_size: Any

    target_acceptance = 0.574
    """The best rate for many independent sites (Sun, Dai and Schuurmans 2022); `warm_up` aims at it."""
    largest_step_size = 100.0
    """From here on a move costs nothing; where sites hardly interact, all are accepted."""

    def step_with_acceptance(
        self, key: Key, params: PyTree, beta: Any, state: CachedState
    ) -> tuple[CachedState, Info, jax.Array]:
        """Takes one step; also returns the probability with which the proposal was accepted."""
        params, beta, state, size = jax.lax.stop_gradient((params, beta, state, self.step_size))
        x = state.position
        leaves, tree = jax.tree.flatten(x)
        counts = self._counts(x)
        words, word, _ = random_words(key, state.step, sum(leaf.size for leaf in leaves))
        penalty = 1 / (2 * size)
        moved, turns, forth, start = [], [], jnp.zeros(()), 0
        for leaf, logits, k in zip(
            leaves, self._move_logits(beta, state.clamped, x, state.gradient), counts, strict=True
        ):
            u = rng.uniform(words[start : start + leaf.size]) + _SMALLEST
            turn = _drawn(u, logits - penalty)  # −1: stays
            forth = forth + _log_chance(logits - penalty, turn)
            level = (leaf.ravel().astype(jnp.int32) + 1 + turn) % k
            moved.append(level.astype(leaf.dtype).reshape(leaf.shape))
            turns.append(turn)
            start += leaf.size

        def log_back(logits: list[Array]) -> Array:
            total = jnp.zeros(())
            for part, turn, k in zip(logits, turns, counts, strict=True):
                total = total + _log_chance(part - penalty, jnp.where(turn < 0, -1, k - 2 - turn))
            return total

        new = jax.tree.unflatten(tree, moved)
        return self._finish(state, params, beta, new, word, forth, log_back)

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Raises ValueError where positions or the step size do not fit, or an energy is not finite at its start."""
        check_scale("step_size", self.step_size, positive=True)
        super().check(params, x, clamped)


def gibbs_with_gradients(model: Any) -> GibbsWithGradients:
    """Returns the kernel that changes one site a step, chosen by the gradient of the energy.

    model: has `energy_relaxed(params, one_hot)`, `energy`, and `n_levels` (or `level_counts`, one a leaf of a
    position): Ising, Potts, RBMs, `Marginal`, or a network's. one_hot is a pytree like a position with an axis of K
    levels last; on one-hot rows `energy_relaxed` is the energy. Draws are by Gumbel noise of 24 bits.
    Raises ValueError on a model without these.
    """
    return GibbsWithGradients(_check_model("gibbs_with_gradients", model))


def dmala(model: Any, step_size: Any) -> DMALA:
    """Returns the discrete Metropolis-adjusted Langevin kernel, which proposes for all sites at once.

    model: as for `gibbs_with_gradients`. step_size: α > 0: small ones hardly ever move a site, as 1/(2α) is what a move
    costs; far over 1 a site forgets its level. `warm_up` finds one, at most 100: where sites hardly interact, no step
    size is refused as often as it aims at. Draws have a resolution of 2⁻²⁴ a site.
    Raises ValueError on a model without a relaxed energy, or a step size that is not greater than 0.
    """
    check_scale("step_size", step_size, positive=True)
    return DMALA(_check_model("dmala", model), as_numbers(step_size))


def _check_model(name: str, model: Any) -> Any:
    missing = [a for a in ("energy", "energy_relaxed") if not hasattr(model, a)]
    if not hasattr(model, "n_levels") and not hasattr(model, "level_counts"):
        missing.append("n_levels")
    if missing:
        raise ValueError(
            f"{name} cannot inform moves of {model!r}, which has no {' and no '.join(missing)}; give an Ising, Potts "
            "or RBM model, or a model of your own that has them"
        )
    return model


def _joined(logits: list[Array]) -> tuple[Float[Array, " moves"], list[int]]:
    return jnp.concatenate([part.ravel() for part in logits]), [part.size for part in logits]


def _drawn(u: Float[Array, " sites"], logits: Float[Array, "sites moves"]) -> Int[Array, " sites"]:
    """Returns the move drawn at every site from weights exp(logits) beside a weight 1 for staying, which is −1."""
    if logits.shape[1] == 1:
        return jnp.where(u < jax.nn.sigmoid(logits[:, 0]), 0, -1)
    top = jnp.maximum(logits.max(axis=1, keepdims=True), 0.0)
    weights = jnp.concatenate([jnp.exp(logits - top), jnp.exp(-top)], axis=1)
    edges = jnp.cumsum(weights, axis=1)
    drawn = jnp.sum(u[:, None] * edges[:, -1:] >= edges[:, :-1], axis=1)
    return jnp.where(drawn == logits.shape[1], -1, drawn)


def _log_chance(logits: Float[Array, "sites moves"], turn: Int[Array, " sites"]) -> Float[Array, ""]:
    """Returns the log-probability of drawing `turn` at all sites."""
    if logits.shape[1] == 1:
        return jnp.sum(jax.nn.log_sigmoid(jnp.where(turn == 0, logits[:, 0], -logits[:, 0])))
    chosen = jnp.take_along_axis(logits, jnp.maximum(turn, 0)[:, None], axis=1)[:, 0]
    norm = jnp.logaddexp(jax.nn.logsumexp(logits, axis=1), 0.0)
    return jnp.sum(jnp.where(turn < 0, 0.0, chosen) - norm)
