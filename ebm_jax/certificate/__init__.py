"""Evidence that a kernel samples the law that it claims to: `certify` runs the tests, a `Certificate` holds them.

A chain of a wrong kernel looks like any other. What can be tested is this. If chains start with independent exact draws
from p(x) ∝ exp(−β E(x)), they have that law after any number of steps (πP = π; Geweke 2004 and Cook et al. 2006 test
so). The identity would pass, so chains must also forget where they started, and reach the law from a single
configuration. Where the configurations can be enumerated the whole law is compared by χ²; elsewhere means of the
energy, of sites or coordinates and of their squares are, each chain's end against its own start, which leaves out most
of the noise.

A test of chance can show that a kernel is wrong; that it is right, only to within its resolution, which the table
states. So a kernel that says itself that it is not exact (unadjusted Langevin) is called biased whether or not its bias
is large enough to be seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ebm_jax import checks, exact
from ebm_jax.certificate.laws import Law, correlations
from ebm_jax.chains import chain_keys, count_chains
from ebm_jax.samplers.base import Kernel, energy_of
from ebm_jax.samplers.tempering import ParallelTempering
from ebm_jax.types import Key, PyTree

_MAX_STEPS = 2**12
_FORGOTTEN = 0.1  # the correlation with the start under which it counts as forgotten
PASSED, FAILED, BIASED, SKIPPED = "passed", "FAILED", "BIASED", "skipped"


class Check(NamedTuple):
    """name, status ("passed", "FAILED", "BIASED" or "skipped"), and what was seen, in words with numbers."""

    name: str
    status: str
    detail: str


@dataclass(frozen=True)
class Certificate:
    """What `certify` found. Prints as a table; `certificate["invariance"]` is one of its checks."""

    kernel: str
    model: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed and the kernel is not biased."""
        return all(check.status in (PASSED, SKIPPED) for check in self.checks)

    @property
    def biased(self) -> bool:
        """Whether the kernel does not leave the law invariant."""
        return self["invariance"].status == BIASED

    def __getitem__(self, name: str) -> Check:
        return next(check for check in self.checks if check.name == name)

    def __repr__(self) -> str:
        verdict = "ok" if self.ok else "biased" if self.biased else "FAILED"
        rows = [f"  {check.name:<11}{check.status:<9}{check.detail}" for check in self.checks]
        return "\n".join([f"{self.kernel} on {self.model}: {verdict}", *rows])


def certify(
    kernel: Any,
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
    """Tests whether `kernel` samples exp(−β E(x; params)) of `model`; prints the table if `show`, and returns it.

    kernel: one of the toolkit or of your own (a subclass of `samplers.base.Kernel`). model: a model, or any
    `energy(params, x)`. draws: `draws(key, n, beta)` gives n independent exact draws, leading axis n; not needed for
    models that `exact.sample` draws from (few configurations, narrow strips and trees, a binary RBM with one layer of
    at most about 20 units). For an energy of your own take a Gaussian or a mixture, or rejection sampling.
    betas: inverse temperatures to test. n_chains: more of them see smaller biases. false_positive_rate: the chance,
    over all tests of the certificate, that a right kernel fails it.

    The checks: *energy*: the kernel follows the model's energy, conditionals (and a relaxed energy) agree with its
    differences. *dtype*: a step keeps structure, shapes and dtypes and counts itself. *purity*: the same arguments give
    the same bits, another key or step gives others, a run in two parts is the whole run, and one chain alone moves as
    in company. *invariance*: exact draws stay exact after 1 and after 20 steps. *mixing*: chains forget their start,
    and from one configuration reach the law. *clamping*: clamped values stay, others move;
    where the law can be enumerated, they keep their conditional law.

    Raises ValueError where no exact draws can be had, and where the kernel refuses the model's configurations.
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
    trial = _Trial(kernel, Law(model, params), draws, n_chains, false_positive_rate / (2 * len(betas) + 2))
    keys = iter(jax.random.split(key, 8 + len(betas)))
    x = draws(next(keys), n_chains, betas[0])
    lengths = {leaf.shape[0] if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(x)}
    if lengths != {n_chains}:
        raise ValueError(f"draws gave leading axes {sorted(lengths)}; give n = {n_chains} configurations")
    kernel.check(params, x, None)
    found = [
        _check_energy(trial, next(keys), x),
        _check_dtype(trial, next(keys), x),
        _check_purity(trial, next(keys), x),
        _check_invariance(trial, [next(keys) for _ in betas], betas),
    ]
    found.append(_check_mixing(trial, next(keys), betas[0], lawful=found[-1].status == PASSED))
    found.append(_check_clamping(trial, next(keys), betas[0], x))
    name = type(kernel).__name__
    certificate = Certificate(name, getattr(model, "__name__", repr(model)), tuple(found))
    if show:
        print(certificate)
    return certificate


class _Trial(NamedTuple):
    """What all checks need; n: chains of every run, so that few programs are compiled. rate: the false-positive rate of
    one comparison of laws.
    """

    kernel: Any
    law: Law
    draws: Callable[[Key, int, float], PyTree]
    n: int
    rate: float

    def stationary(self, key: Key, beta: float) -> PyTree:
        """Returns states in equilibrium."""
        count = itertools.count()
        draw = lambda b: self.draws(jax.random.fold_in(key, next(count)), self.n, b)  # noqa: E731
        return self.kernel.stationary(self.law.params, draw, beta)

    def states(self, x: PyTree, clamped: Any = None) -> PyTree:
        """Returns states of chains that stand at `x`."""
        return _states(self.kernel, self.law.params, x, clamped)

    def run(self, key: Key, beta: float, states: PyTree, n_steps: int) -> PyTree:
        """Returns the states after n steps."""
        return _run(self.kernel, key, self.law.params, jnp.float32(beta), states, jnp.int32(n_steps))

    def positions(self, states: PyTree) -> PyTree:
        """Returns the configurations of states."""
        return _positions(self.kernel, states)


@jax.jit
def _states(kernel: Any, params: PyTree, x: PyTree, clamped: Any) -> PyTree:
    return jax.vmap(lambda x: kernel.init(params, x, clamped))(x)


@jax.jit
def _positions(kernel: Any, states: PyTree) -> PyTree:
    return jax.vmap(kernel.position)(states)


@jax.jit
def _run(kernel: Any, key: Key, params: PyTree, beta: Array, states: PyTree, n_steps: Array) -> PyTree:
    keys = chain_keys(key, count_chains(states))
    packed = kernel.refresh(params, kernel.pack(params, states))
    step = lambda _, packed: kernel.packed_steps(keys, params, beta, packed, 1)[0]  # noqa: E731
    return kernel.unpack(jax.lax.fori_loop(0, n_steps, step, packed))


def _check_energy(trial: _Trial, key: Key, x: PyTree) -> Check:
    model, params = trial.law
    x = jax.tree.map(lambda leaf: leaf[:8], x)
    energies = np.asarray(jax.vmap(energy_of(model), (None, 0))(params, x), np.float64)
    tolerance = 1e-4 * (1 + np.abs(energies).max())
    seen = []
    followed = trial.kernel.energy_function
    if followed is not None:
        off = np.abs(np.asarray(jax.vmap(followed, (None, 0))(params, x)) - energies).max()
        if not off <= tolerance:
            return Check("energy", FAILED, f"the kernel's energy differs from the model's by {off:.3g}")
        seen.append("the kernel follows the model's")
    if hasattr(model, "energy_relaxed"):
        off = np.abs(_relaxed_at_vertices(model, params, x) - energies).max()
        if not off <= tolerance:
            return Check("energy", FAILED, f"energy_relaxed differs from energy on one-hot rows by {off:.3g}")
        seen.append("energy_relaxed agrees on one-hot rows")
    if hasattr(model, "conditional_logits") and hasattr(model, "from_levels"):
        off = _largest_conditional_error(model, params, key, x)
        if not off <= tolerance:
            return Check(
                "energy", FAILED, f"conditional_logits differ from differences of energy by {off:.3g}"
            )
        seen.append(f"conditionals agree with its differences to {off:.1g}")
    return Check("energy", PASSED if seen else SKIPPED, "; ".join(seen) or "nothing to compare")


def _relaxed_at_vertices(model: Any, params: PyTree, x: PyTree) -> np.ndarray:
    leaves, tree = jax.tree.flatten(x)
    counts = getattr(model, "level_counts", None) or [model.n_levels] * len(leaves)
    rows = [jax.nn.one_hot(leaf.astype(jnp.int32), k) for leaf, k in zip(leaves, counts, strict=True)]
    relaxed = jax.vmap(model.energy_relaxed, (None, 0))(params, jax.tree.unflatten(tree, rows))
    return np.asarray(relaxed, np.float64)


def _largest_conditional_error(model: Any, params: PyTree, key: Key, x: PyTree) -> float:
    """Returns the largest |logit differences + energy differences| over a few sites, all levels, a few x."""
    n, k = model.graph.n_sites, model.n_levels
    sites = jax.random.permutation(key, n)[: min(n, 16)]

    def one(x: PyTree) -> Array:
        levels = model.levels(x)

        def put(i: Array, level: Array) -> Array:
            new = model.from_levels(levels.at[i].set(level.astype(levels.dtype)))
            return model.energy(params, _like(new, x))

        energies = jax.vmap(lambda i: jax.vmap(lambda level: put(i, level))(jnp.arange(k)))(sites)
        logits = model.conditional_logits(params, x)
        rows = jnp.concatenate([leaf.reshape(-1, k) for leaf in jax.tree.leaves(logits)])[sites]
        return jnp.abs((rows - rows[:, :1]) + (energies - energies[:, :1])).max()

    return float(jax.jit(jax.vmap(one))(x).max())


def _like(new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: a.astype(b.dtype), new, old)


def _check_dtype(trial: _Trial, key: Key, x: PyTree) -> Check:
    start = trial.states(x)
    end = trial.run(key, 1.0, start, 1)
    before, after = (jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree) for tree in (start, end))
    if jax.tree.structure(start) != jax.tree.structure(end) or before != after:
        return Check("dtype", FAILED, f"a step turns a state of {before} into {after}")
    inner = jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), trial.positions(end))
    if inner != jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), x):
        return Check("dtype", FAILED, f"positions {inner} are not what the chain was started with")
    if hasattr(start, "step") and not (np.asarray(end.step - start.step) == 1).all():
        return Check("dtype", FAILED, "the step counter does not go up by one")
    dtypes = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(x)})
    return Check("dtype", PASSED, f"a step keeps shapes and dtypes ({', '.join(dtypes)})")


def _check_purity(trial: _Trial, key: Key, x: PyTree) -> Check:
    start = trial.states(x)
    one, again = (trial.run(key, 1.0, start, 6) for _ in range(2))
    if not _same(one, again):
        return Check("purity", FAILED, "the same arguments gave two results: there is a hidden state")
    if not _same(one, trial.run(key, 1.0, trial.run(key, 1.0, start, 2), 4)):
        return Check("purity", FAILED, "two and four steps are not the six steps they should be")
    if _same(trial.positions(one), trial.positions(trial.run(jax.random.fold_in(key, 1), 1.0, start, 6))):
        return Check("purity", FAILED, "another key made no difference")
    one_later = trial.run(key, 1.0, _a_step_later(start), 6)
    if hasattr(start, "step") and _same(trial.positions(one), trial.positions(one_later)):
        return Check("purity", FAILED, "another step made no difference: its draws repeat")
    few = jax.tree.map(lambda leaf: leaf[:64], start)
    alone = trial.positions(_one_by_one(trial.kernel, key, trial.law.params, few))
    company = jax.tree.map(lambda leaf: leaf[:64], trial.positions(trial.run(key, 1.0, start, 1)))
    share = _share_alike(alone, company)
    if share < 0.95:  # rounding turns a decision now and then
        return Check("purity", FAILED, f"`step` and `packed_steps` agree on {share:.0%} of chains only")
    return Check("purity", PASSED, "same arguments, same bits; parts make the whole")


@jax.jit
def _one_by_one(kernel: Any, key: Key, params: PyTree, states: PyTree) -> PyTree:
    """Returns the states after one step each, by `step`."""
    keys = chain_keys(key, count_chains(states))
    return jax.vmap(lambda key, state: kernel.step(key, params, jnp.float32(1), state)[0])(keys, states)


def _a_step_later(states: PyTree) -> PyTree:
    """Returns states all of whose step counters, those of members too, are one further."""
    is_step = lambda path: getattr(path[-1], "name", None) == "step"  # noqa: E731
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + jnp.ones((), leaf.dtype) if path and is_step(path) else leaf, states
    )


def _same(a: PyTree, b: PyTree) -> bool:
    return all(
        np.array_equal(np.asarray(p), np.asarray(q))
        for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def _share_alike(a: PyTree, b: PyTree) -> float:
    alike = [
        np.isclose(np.asarray(p, np.float64), np.asarray(q, np.float64), rtol=1e-3, atol=1e-3)
        .reshape(p.shape[0], -1)
        .all(axis=1)
        for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    ]
    return float(np.mean(np.logical_and.reduce(alike)))


def _check_invariance(trial: _Trial, keys: list[Key], betas: tuple[float, ...]) -> Check:
    told, wrong = [], []
    for key, beta in zip(keys, betas, strict=True):
        first, second, third = jax.random.split(key, 3)
        states = start = trial.stationary(first, beta)
        for n_steps, run_key in ((1, second), (19, third)):
            states = trial.run(run_key, beta, states, n_steps)
            fine, words = trial.law.compare(beta, trial.positions(states), trial.positions(start), trial.rate)
            if not fine:
                wrong.append(f"β = {beta:g}: {words}")
                break
        else:
            told.append(f"β = {beta:g}: {words}")
    if not trial.kernel.exact:
        seen = "; ".join(wrong) or "; ".join(told) + " (too small to be seen here)"
        return Check("invariance", BIASED, f"not exact by its own account; {seen}")
    return Check("invariance", BIASED if wrong else PASSED, "; ".join(wrong or told))


def _check_mixing(trial: _Trial, key: Key, beta: float, *, lawful: bool) -> Check:
    first, second, third = jax.random.split(key, 3)
    states = start = trial.stationary(first, beta)
    before, taken = trial.law.statistics(trial.positions(start)).values, 0
    varies = before.std(axis=0) > 1e-6 * (1 + np.abs(before).max())
    worst = 1.0
    threshold = _FORGOTTEN + 5 / np.sqrt(trial.n)  # beyond the noise of the largest of some hundreds
    while worst > threshold and taken < _MAX_STEPS:
        states = trial.run(second, beta, states, max(taken, 1))
        taken = 2 * taken or 1
        after = trial.law.statistics(trial.positions(states)).values
        worst = np.abs(correlations(before[:, varies], after[:, varies])).max() if varies.any() else 0.0
    if worst > threshold:
        return Check(
            "mixing", FAILED, f"chains remember their start after {taken} steps (correlation {worst:.2f})"
        )
    told = f"forgets its start in {taken} steps"
    if not lawful:
        return Check("mixing", PASSED, told)
    # All from one configuration: a kernel that never leaves a part of the space keeps its law from exact starts.
    n_steps = 20 * taken
    one = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), trial.positions(start))
    end = trial.positions(trial.run(third, beta, trial.states(one), n_steps))
    fine, words = trial.law.compare(beta, end, trial.positions(start), trial.rate, paired=False)
    if not fine:
        return Check("mixing", FAILED, f"{told}, but from one configuration, after {n_steps} steps, {words}")
    return Check("mixing", PASSED, f"{told}; from one configuration reaches the law in {n_steps}")


def _check_clamping(trial: _Trial, key: Key, beta: float, x: PyTree) -> Check:
    pick, draw, run = jax.random.split(key, 3)
    one = jax.tree.map(lambda leaf: leaf[0], x)
    mask = _half_of(pick, one)
    try:
        trial.kernel.check(trial.law.params, x, (mask, one))
        states = trial.states(x, (mask, one))
    except ValueError as error:
        return Check("clamping", SKIPPED, f"refused: {str(error).splitlines()[0]}")
    flags = np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(mask)])
    told = f"{int(flags.sum())} of {flags.size} values held"
    law = None
    if trial.law.enumerable and trial.kernel.exact and trial.kernel.memoryless:
        law, x = _conditional_draws(trial, draw, beta, mask, one)
        states = trial.states(x, (mask, one))
    end = trial.positions(trial.run(run, beta, states, 20))
    held = jax.tree.map(lambda m, new, old: jnp.where(m, new, old), mask, end, one)
    expected = jax.tree.map(lambda new, old: jnp.broadcast_to(old, new.shape), held, one)
    if not _same(held, expected):
        return Check("clamping", FAILED, "a clamped value moved")
    if not flags.all() and _same(end, trial.positions(states)):
        return Check("clamping", FAILED, "with some values clamped, the others stand still as well")
    if law is None:
        return Check("clamping", PASSED, f"{told}, others move; their conditional law was not compared")
    pvalue = trial.law.chi_square_pvalue(end, law)
    if not pvalue > trial.rate:
        return Check("clamping", FAILED, f"the others leave their conditional law (χ² p = {pvalue:.1g})")
    return Check("clamping", PASSED, f"{told}; the others keep their conditional law (χ² p = {pvalue:.2g})")


def _half_of(key: Key, one: PyTree) -> PyTree:
    """Returns a mask of a random half of all values, the larger one where they are odd."""
    leaves, tree = jax.tree.flatten(one)
    sizes = [leaf.size for leaf in leaves]
    flags = np.asarray(jax.random.permutation(key, sum(sizes)) % 2 == 0)
    pieces = np.split(flags, np.cumsum(sizes)[:-1])
    return jax.tree.unflatten(
        tree, [jnp.asarray(p.reshape(leaf.shape)) for p, leaf in zip(pieces, leaves, strict=True)]
    )


def _conditional_draws(
    trial: _Trial, key: Key, beta: float, mask: PyTree, one: PyTree
) -> tuple[np.ndarray, PyTree]:
    """Returns the law given that masked values are those of `one`, and draws from it."""
    model = trial.law.model
    levels = trial.law.levels(exact.states(model))
    held = np.asarray(model.levels(_like(mask, one))) != 0
    fits = (levels == np.asarray(model.levels(one)))[:, held].all(axis=1)
    law = np.where(fits, trial.law.probabilities(beta), 0.0)
    law /= law.sum()
    rng = np.random.default_rng(np.asarray(jax.random.bits(key, (2,))))
    chosen = jnp.asarray(levels[rng.choice(law.size, size=trial.n, p=law)])
    return law, jax.vmap(lambda levels: _like(model.from_levels(levels), one))(chosen)


def _exact_draws(model: Any, params: PyTree) -> Callable[[Key, int, float], PyTree]:
    if not hasattr(model, "from_levels"):
        raise ValueError(
            f"{getattr(model, '__name__', repr(model))} has no draws of its own; give draws=(key, n, beta) -> n exact "
            "draws, e.g. of a Gaussian or by rejection sampling"
        )
    return lambda key, n, beta: exact.sample(key, model, params, n, beta=beta)
