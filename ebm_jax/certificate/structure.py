"""Checks that need no statistics: energies, dtypes, and steps as pure functions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ebm_jax.certificate.laws import energies
from ebm_jax.certificate.report import FAILED, PASSED, SKIPPED, Check
from ebm_jax.certificate.trial import Trial, rows, same_bits
from ebm_jax.energies.base import BlockModel, levels_of_leaves
from ebm_jax.samplers.base import Kernel, energy_of
from ebm_jax.types import Key, PyTree

_MAX_SITES = 16
_MIN_SHARE_ALIKE = 0.95


def check_energy(trial: Trial, key: Key, x: PyTree) -> Check:
    """Checks that the kernel follows the model's energy, and that the model does not contradict itself.

    Conditionals must agree with differences of the energy, and a relaxed energy with the energy on one-hot rows.
    """
    model, params = trial.law
    x = rows(x, 8)
    energy = np.asarray(energies(energy_of(model), params, x), np.float64)
    tolerance = 1e-4 * (1 + np.abs(energy).max())
    agreements = []
    followed = trial.kernel.energy_function
    if followed is not None:
        error = np.abs(np.asarray(energies(followed, params, x)) - energy).max()
        if not error <= tolerance:
            return Check("energy", FAILED, f"the kernel's energy differs from the model's by {error:.3g}")
        agreements.append("the kernel follows the model's")
    has_levels = None not in levels_of_leaves(model, x)
    if has_levels and hasattr(model, "energy_relaxed"):
        error = np.abs(_relaxed_at_vertices(model, params, x) - energy).max()
        if not error <= tolerance:
            detail = f"energy_relaxed differs from energy on one-hot rows by {error:.3g}"
            return Check("energy", FAILED, detail)
        agreements.append("energy_relaxed agrees on one-hot rows")
    if has_levels and isinstance(model, BlockModel) and hasattr(model, "conditional_logits"):
        error = _largest_conditional_error(model, params, key, x)
        if not error <= tolerance:
            detail = f"conditional_logits differ from differences of energy by {error:.3g}"
            return Check("energy", FAILED, detail)
        agreements.append(f"conditionals agree with its differences to {error:.1g}")
    return Check("energy", PASSED if agreements else SKIPPED, "; ".join(agreements) or "nothing to compare")


def check_dtype(trial: Trial, key: Key, x: PyTree) -> Check:
    """Checks that a step keeps structure, shapes and dtypes, and counts itself."""
    start = trial.states(x)
    end = trial.run(key, 1.0, start, 1)
    before, after = _shapes_and_dtypes(start), _shapes_and_dtypes(end)
    if jax.tree.structure(start) != jax.tree.structure(end) or before != after:
        return Check("dtype", FAILED, f"a step turns a state of {before} into {after}")
    positions = _shapes_and_dtypes(trial.positions(end))
    if positions != _shapes_and_dtypes(x):
        return Check("dtype", FAILED, f"positions {positions} are not what the chain was started with")
    if not (np.asarray(end.step) - np.asarray(start.step) == 1).all():
        return Check("dtype", FAILED, "the step counter does not go up by one")
    dtypes = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(x)})
    return Check("dtype", PASSED, f"a step keeps shapes and dtypes ({', '.join(dtypes)})")


def check_purity(trial: Trial, key: Key, x: PyTree) -> Check:
    """Checks that steps are pure functions of key, counter and state.

    The same arguments give the same bits, another key or counter gives others, a run in two parts is the whole run,
    and one chain alone moves as it does among many.
    """
    start = trial.states(x)
    six_steps, again = (trial.run(key, 1.0, start, 6) for _ in range(2))
    if not same_bits(six_steps, again):
        return Check("purity", FAILED, "the same arguments gave two results: there is a hidden state")
    if not same_bits(six_steps, trial.run(key, 1.0, trial.run(key, 1.0, start, 2), 4)):
        return Check("purity", FAILED, "two and four steps are not the six steps they should be")
    moved = trial.positions(six_steps)
    if same_bits(moved, trial.positions(trial.run(jax.random.fold_in(key, 1), 1.0, start, 6))):
        return Check("purity", FAILED, "another key made no difference")
    if same_bits(moved, trial.positions(trial.run(key, 1.0, _a_step_later(start), 6))):
        return Check("purity", FAILED, "another step made no difference: its draws repeat")
    share = _share_that_moves_alike(trial, key, start)
    # Rounding changes a decision now and then.
    if share < _MIN_SHARE_ALIKE:
        return Check("purity", FAILED, f"`step` and `packed_steps` agree on {share:.0%} of chains only")
    return Check("purity", PASSED, "same arguments, same bits; parts make the whole")


def _relaxed_at_vertices(model: Any, params: PyTree, x: PyTree) -> np.ndarray:
    """Returns the relaxed energy of one-hot rows."""
    leaves, tree = jax.tree.flatten(x)
    counts: Any = levels_of_leaves(model, x)
    one_hot = [jax.nn.one_hot(leaf.astype(np.int32), k) for leaf, k in zip(leaves, counts, strict=True)]
    relaxed = energies(model.energy_relaxed, params, jax.tree.unflatten(tree, one_hot))
    return np.asarray(relaxed, np.float64)


def _largest_conditional_error(model: Any, params: PyTree, key: Key, x: PyTree) -> float:
    """Returns the largest |logit differences + energy differences|, over all levels of a few sites of each leaf."""

    def of_one(x: PyTree) -> Array:
        leaves, tree = jax.tree.flatten(x)
        logits = jax.tree.leaves(model.conditional_logits(params, x))
        errors = []
        for place, (leaf, of_sites) in enumerate(zip(leaves, logits, strict=True)):
            sites = jax.random.permutation(jax.random.fold_in(key, place), leaf.size)[:_MAX_SITES]

            def energy_with(site: Array, level: Array, place: int = place, leaf: Array = leaf) -> Array:
                changed = leaf.ravel().at[site].set(level.astype(leaf.dtype)).reshape(leaf.shape)
                return model.energy(params, tree.unflatten([*leaves[:place], changed, *leaves[place + 1 :]]))

            levels = jnp.arange(of_sites.shape[-1])
            changed = jax.vmap(jax.vmap(energy_with, (None, 0)), (0, None))(sites, levels)
            of_sites = of_sites.reshape(-1, levels.size)[sites]
            errors.append(jnp.abs(of_sites - of_sites[:, :1] + changed - changed[:, :1]).max())
        return jnp.stack(errors).max()

    return float(jax.jit(jax.vmap(of_one))(x).max())


def _shapes_and_dtypes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)


def _a_step_later(states: PyTree) -> PyTree:
    """Returns states in which every step counter, those of members included, is one further."""

    def advance(path: tuple[Any, ...], leaf: Array) -> Array:
        is_counter = bool(path) and getattr(path[-1], "name", None) == "step"
        return leaf + jnp.ones((), leaf.dtype) if is_counter else leaf

    return jax.tree_util.tree_map_with_path(advance, states)


def _share_that_moves_alike(trial: Trial, key: Key, start: PyTree) -> float:
    """Returns the share of 64 chains that `step` and the form for many chains move to the same place."""
    if _runs_step_itself(trial.kernel):
        return 1.0
    few = rows(start, 64)
    alone = trial.positions(trial.step_alone(key, few))
    among_many = rows(trial.positions(trial.run(key, 1.0, start, 1)), 64)
    alike = [
        np.isclose(np.asarray(p, np.float64), np.asarray(q, np.float64), rtol=1e-3, atol=1e-3)
        .reshape(p.shape[0], -1)
        .all(axis=1)
        for p, q in zip(jax.tree.leaves(alone), jax.tree.leaves(among_many), strict=True)
    ]
    return float(np.mean(np.logical_and.reduce(alike)))


def _runs_step_itself(kernel: Kernel) -> bool:
    """Returns whether many chains are `step` mapped over them, so that there is nothing to compare or to compile."""
    forms = ("steps", "packed_steps", "pack", "unpack", "refresh", "packed_positions")
    return all(getattr(type(kernel), name) is getattr(Kernel, name) for name in forms)
