"""Checks of the law: chains that have it keep it, forget their start, reach it, and keep it under clamping."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import exact
from ebm_jax.certificate.laws import correlations
from ebm_jax.certificate.report import BIASED, FAILED, PASSED, SKIPPED, Check
from ebm_jax.certificate.trial import Trial, same_bits, with_dtypes_of
from ebm_jax.types import Key, PyTree

_MAX_STEPS = 2**12

# A start counts as forgotten once the correlation with it is below this.
_FORGOTTEN = 0.1


def check_invariance(trial: Trial, keys: list[Key], betas: tuple[float, ...]) -> Check:
    """Checks that exact draws stay exact after 1 and after 20 steps, at every β."""
    agreements, failures = [], []
    for key, beta in zip(keys, betas, strict=True):
        first, second, third = jax.random.split(key, 3)
        states = start = trial.stationary(first, beta)
        for n_steps, run_key in ((1, second), (19, third)):
            states = trial.run(run_key, beta, states, n_steps)
            ok, detail = trial.law.compare(beta, trial.positions(states), trial.positions(start), trial.rate)
            if not ok:
                failures.append(f"β = {beta:g}: {detail}")
                break
        else:
            agreements.append(f"β = {beta:g}: {detail}")
    if not trial.kernel.exact:
        seen = "; ".join(failures) or "; ".join(agreements) + " (too small to be seen here)"
        return Check("invariance", BIASED, f"not exact by its own account; {seen}")
    return Check("invariance", BIASED if failures else PASSED, "; ".join(failures or agreements))


def check_mixing(trial: Trial, key: Key, beta: float, *, lawful: bool) -> Check:
    """Checks that chains forget their start and, if the kernel is `lawful`, reach the law from one configuration.

    A kernel that never leaves a part of the space keeps its distribution from exact starts. Only the second test sees
    it.
    """
    first, second, third = jax.random.split(key, 3)
    states = start = trial.stationary(first, beta)
    before, n_steps = trial.law.statistics(trial.positions(start)).values, 0
    varies = before.std(axis=0) > 1e-6 * (1 + np.abs(before).max())
    largest = 1.0
    # The second term covers the noise of the largest of some hundred correlations.
    threshold = _FORGOTTEN + 5 / np.sqrt(trial.n_chains)
    while largest > threshold and n_steps < _MAX_STEPS:
        states = trial.run(second, beta, states, max(n_steps, 1))
        n_steps = 2 * n_steps or 1
        after = trial.law.statistics(trial.positions(states)).values
        if not np.isfinite(after).all():
            return Check("mixing", FAILED, f"chains left the finite numbers within {n_steps} steps")
        largest = np.abs(correlations(before[:, varies], after[:, varies])).max() if varies.any() else 0.0
    if largest > threshold:
        detail = f"chains remember their start after {n_steps} steps (correlation {largest:.2f})"
        return Check("mixing", FAILED, detail)
    forgets = f"forgets its start in {n_steps} steps"
    if not lawful:
        return Check("mixing", PASSED, forgets)
    n_steps *= 20
    one = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), trial.positions(start))
    end = trial.positions(trial.run(third, beta, trial.states(one), n_steps))
    ok, detail = trial.law.compare(beta, end, trial.positions(start), trial.rate, paired=False)
    if not ok:
        return Check(
            "mixing", FAILED, f"{forgets}, but from one configuration, after {n_steps} steps, {detail}"
        )
    return Check("mixing", PASSED, f"{forgets}; from one configuration reaches the law in {n_steps}")


def check_clamping(trial: Trial, key: Key, beta: float, x: PyTree) -> Check:
    """Checks that clamped values stay and others move; where it can be enumerated, that these keep their law."""
    mask_key, draw_key, run_key = jax.random.split(key, 3)
    one = jax.tree.map(lambda leaf: np.asarray(leaf)[0], x)
    mask = _random_half(mask_key, one)
    try:
        trial.kernel.check(trial.law.params, x, (mask, one))
        states = trial.states(x, (mask, one))
    except ValueError as error:
        return Check("clamping", SKIPPED, f"refused: {str(error).splitlines()[0]}")
    flags = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(mask)])
    held = f"{int(flags.sum())} of {flags.size} values held"
    rows, probabilities = trial.law.enumerated, None
    is_compared = rows is not None and trial.kernel.exact and trial.kernel.memoryless
    if is_compared and rows is not None and rows.layer is None:
        probabilities, x = _conditional_draws(trial, draw_key, beta, mask, one)
        states = trial.states(x, (mask, one))
    end = trial.positions(trial.run(run_key, beta, states, 20))
    if not _clamped_values_stay(mask, one, end):
        return Check("clamping", FAILED, "a clamped value moved")
    if not flags.all() and same_bits(end, trial.positions(states)):
        return Check("clamping", FAILED, "with some values clamped, the others stand still as well")
    if not is_compared:
        return Check("clamping", PASSED, f"{held}, others move; their conditional law was not compared")
    if probabilities is None:
        # With real values held no two chains share a conditional law. All together they keep the joint law.
        end = trial.positions(trial.run(run_key, beta, trial.states_that_hold(mask, x), 20))
        ok, detail = trial.law.compare(beta, end, x, trial.rate)
    else:
        pvalue = trial.law.chi_square_pvalue(end, probabilities)
        ok, detail = bool(pvalue > trial.rate), f"χ² p = {pvalue:.2g}"
    if not ok:
        return Check("clamping", FAILED, f"the others leave their conditional law ({detail})")
    return Check("clamping", PASSED, f"{held}; the others keep their conditional law ({detail})")


def _clamped_values_stay(mask: PyTree, one: PyTree, end: PyTree) -> bool:
    """Returns whether all rows of `end` have the values of `one` where the mask is True."""
    leaves = zip(jax.tree.leaves(mask), jax.tree.leaves(one), jax.tree.leaves(end), strict=True)
    return all((~held | (np.asarray(after) == before)).all() for held, before, after in leaves)


def _random_half(key: Key, one: PyTree) -> PyTree:
    """Returns a mask of a random half of all values, the larger half where their number is odd."""
    leaves, tree = jax.tree.flatten(one)
    sizes = [leaf.size for leaf in leaves]
    flags = np.asarray(jax.random.permutation(key, sum(sizes))) % 2 == 0
    pieces = np.split(flags, np.cumsum(sizes)[:-1])
    shaped = [piece.reshape(leaf.shape) for piece, leaf in zip(pieces, leaves, strict=True)]
    return jax.tree.unflatten(tree, shaped)


def _conditional_draws(
    trial: Trial, key: Key, beta: float, mask: PyTree, one: PyTree
) -> tuple[np.ndarray, PyTree]:
    """Returns the law given that masked values are those of `one`, and draws from it."""
    model = trial.law.model
    levels = trial.law.levels(exact.states(model))
    mask_and_one = jax.tree.map(lambda m, value: np.stack([m.astype(value.dtype), value]), mask, one)
    held, values = trial.law.levels(mask_and_one)
    fits = (levels == values)[:, held != 0].all(axis=1)
    probabilities = np.where(fits, trial.law.probabilities(beta), 0.0)
    probabilities /= probabilities.sum()
    rng = np.random.default_rng(np.asarray(jax.random.bits(key, (2,))))
    chosen = jnp.asarray(levels[rng.choice(probabilities.size, size=trial.n_chains, p=probabilities)])
    return probabilities, jax.vmap(lambda row: with_dtypes_of(model.from_levels(row), one))(chosen)
