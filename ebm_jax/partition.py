"""Estimates of log Z by annealed importance sampling (Neal 2001), from both sides.

Between a base whose log Z₀ is known (t = 0) and the model (t = 1) lie p_t(x) ∝ exp(−E_t(x)). A chain starts with a draw
from the base and follows t along a ladder, a step of a kernel at each t_k; its weight

    log w = Σ_k [E_{t_{k−1}}(x_{k−1}) − E_{t_k}(x_{k−1})]

has E[w] = Z / Z₀, so log Z is estimated by log Z₀ + log mean w. That is too low on average (Jensen), the more so the
worse the chains follow: on a badly mixing model by many nats, with a small spread that gives no warning. From the other
side, chains that start with draws from the model and walk the ladder down give E[1/w] = Z₀ / Z and an estimate that is
too high on average (Grosse, Ghahramani and Adams 2015). Two that agree are good evidence, though no proof: chains of
either side may miss a mode that the other's starts do not show.

Energies linear in their parameters interpolate the parameters: E_t = E(·; (1 − t) θ₀ + t θ). The base is then a model
of the family without couplings, and one sweep of block Gibbs at θ₀ draws from it exactly. An RBM uses the free energies
of its visible units, with the hidden ones summed out (Salakhutdinov and Murray 2008). Other energies interpolate
themselves, E_t = (1 − t) E₀ + t E.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ebm_jax import checks
from ebm_jax.blocks import BlockSpec
from ebm_jax.samplers.gibbs import gibbs
from ebm_jax.schedules import check_ladder
from ebm_jax.types import Key, PyTree

_BOOTSTRAPS = 1000
_MIN_ESS = 10.0  # under ten chains' worth of weight, a mean of weights is a mean of a few
_MAX_SD = 3.0  # log-normal weights of this spread have an effective sample size of n exp(−9)


class AISResult(NamedTuple):
    """log_z: the estimate. interval: 95 % bootstrap interval over chains, `(low, high)`; it knows nothing of weights
    that no chain saw. log_weights: log Z₀ + log w of every chain (of a reverse run, log Z₀ − log(1/w)), `(n_chains,)`
    float64. spread: their standard deviation. ess: effective number of weights, (Σw)² / Σw². warnings: reasons not to
    trust it, empty where there are none.
    """

    log_z: float
    interval: tuple[float, float]
    log_weights: np.ndarray
    spread: float
    ess: float
    warnings: tuple[str, ...]


class LogLikelihoodBounds(NamedTuple):
    """Mean log-likelihood a datum, from both sides. lower: with the reverse estimate of log Z, conservative. upper:
    with the forward one, optimistic. forward, reverse: the estimates themselves. warnings: theirs, and a gap over one
    nat.
    """

    lower: float
    upper: float
    forward: AISResult
    reverse: AISResult
    warnings: tuple[str, ...]


class Base(NamedTuple):
    """Where annealing of a general energy begins: `sample(key) -> x`, `energy(x)`, and the log Z of that energy."""

    sample: Callable[[Key], PyTree]
    energy: Callable[[PyTree], Float[Array, ""]]
    log_z: float


def standard_normal(struct: PyTree) -> Base:
    """Returns independent N(0, 1) components for configurations shaped like `struct` (arrays or their shapes)."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), struct)
    leaves, tree = jax.tree.flatten(shapes)

    def sample(key: Key) -> PyTree:
        keys = jax.random.split(key, len(leaves))
        return jax.tree.unflatten(
            tree, [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
        )

    def energy(x: PyTree) -> Float[Array, ""]:
        return sum((jnp.sum(leaf**2) / 2 for leaf in jax.tree.leaves(x)), jnp.zeros(()))

    size = sum(int(np.prod(leaf.shape)) for leaf in leaves)
    return Base(sample, energy, size / 2 * float(np.log(2 * np.pi)))


def ais(
    key: Key,
    model: Any,
    params: PyTree,
    *,
    betas: Any = 1000,
    n_chains: int = 100,
    base: Any = None,
    kernel: Callable[[Callable[..., Array]], Any] | None = None,
) -> AISResult:
    """Returns the forward estimate of log Z = log Σ_x exp(−E(x; params)): too low on average.

    key: a typed key. model: Ising, Potts or an RBM; or, with `kernel`, any `energy(params, x)` or a model with one.
    betas: how many values of t, equally spaced, or a ladder of `schedules`. base: of a discrete model, parameters of
    the family without couplings (None: its own with couplings at zero; for an RBM of data, visible biases at the data's
    log-odds are closer); otherwise a `Base` such as `standard_normal(x)`. kernel: `kernel(energy) -> Kernel` for the
    interpolated energy; it must leave exp(−energy) invariant for the estimate to be of log Z.
    Raises ValueError on a base with couplings, a ladder that does not rise from 0 to 1, or a missing base or kernel.
    """
    checks.check_key(key)
    checks.check_integer("n_chains", n_chains, 1)
    path = _path(model, params, base, kernel)
    first, walk, boot = jax.random.split(key, 3)
    start = path.from_base(first, n_chains)
    weights = _walk(path, walk, start, jnp.asarray(check_ladder("betas", betas), jnp.float32))
    return _result(boot, path.log_z + np.asarray(weights, np.float64), reverse=False)


def reverse_ais(
    key: Key,
    model: Any,
    params: PyTree,
    start: PyTree,
    *,
    betas: Any = 1000,
    base: Any = None,
    kernel: Callable[[Callable[..., Array]], Any] | None = None,
) -> AISResult:
    """Returns the reverse estimate of log Z, from chains that start at `start`: too high on average.

    start: draws from the model, leading chain axis, e.g. from `exact.sample`; of an RBM whole configurations or visible
    ones. With other starts (data, long chains) the bound is as good as they are draws from the model: the result then
    says what log Z is if they were. Other arguments and errors as for `ais`.
    """
    checks.check_key(key)
    path = _path(model, params, base, kernel)
    start = path.complete(start)
    path.kernel.check(path.at(jnp.float32(1)), start, None)
    walk, boot = jax.random.split(key)
    ladder = check_ladder("betas", betas)[::-1].copy()
    weights = _walk(path.reversed(), walk, start, jnp.asarray(ladder, jnp.float32))
    return _result(boot, path.log_z - np.asarray(weights, np.float64), reverse=True)


def log_likelihood_bounds(
    key: Key,
    model: Any,
    params: PyTree,
    data: PyTree,
    *,
    start: PyTree = None,
    betas: Any = 1000,
    n_chains: int = 100,
    base: Any = None,
    kernel: Callable[[Callable[..., Array]], Any] | None = None,
) -> LogLikelihoodBounds:
    """Returns the mean log-likelihood of `data` from both sides, −mean F(data) − log Z with both estimates of log Z.

    start: draws from the model for the reverse estimate; None takes rows of `data`, which is right where the model is,
    and says so in `warnings`. Other arguments and errors as for `ais`; also ValueError on a model with hidden sites and
    no free energy, and on data that do not fit.
    """
    checks.check_key(key)
    if getattr(model, "hidden", None) is not None:
        raise ValueError(
            f"{model!r} has hidden sites and no free energy; this bounds models that have one, as RBMs"
        )
    path = _path(model, params, base, kernel)
    path.kernel.check(path.at(jnp.float32(1)), path.complete(data), None)
    one, two, pick = jax.random.split(key, 3)
    n = jax.tree.leaves(data)[0].shape[0]
    warnings = []
    if start is None:
        warnings.append("the reverse estimate began at data: it is a bound if they are draws from the model")
    if start is None:
        rows = jax.random.choice(pick, n, (n_chains,), replace=n_chains > n)
        start = jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], data)
    forward = ais(one, model, params, betas=betas, n_chains=n_chains, base=base, kernel=kernel)
    reverse = reverse_ais(two, model, params, start, betas=betas, base=base, kernel=kernel)
    energy = getattr(model, "free_energy", getattr(model, "energy", model))
    mean = float(np.mean(np.asarray(_energies(energy, params, data), np.float64)))
    gap = reverse.log_z - forward.log_z
    warnings += [f"forward: {text}" for text in forward.warnings]
    warnings += [f"reverse: {text}" for text in reverse.warnings]
    if abs(gap) > 1:
        warnings.append(
            f"the two estimates of log Z are {gap:.1f} nats apart: take more betas, or better draws for `start`"
        )
    return LogLikelihoodBounds(
        -mean - reverse.log_z, -mean - forward.log_z, forward, reverse, tuple(warnings)
    )


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("kernel", "params", "base", "log_z"),
    meta_fields=("energy", "sample", "mixes"),
)
@dataclass(frozen=True, eq=False)
class _Path:
    """Energies between a base and a model, and a kernel that follows them.

    energy: `(params_t, x) -> scalar`; of an RBM, of its visible units. mixes: whether parameters are interpolated, else
    they are the pair (params, t). sample: draws from the base, None where a sweep at t = 0 does.
    """

    kernel: Any
    params: PyTree
    base: PyTree
    energy: Any
    sample: Any
    mixes: bool
    log_z: Any

    def at(self, t: Array) -> PyTree:
        """Returns the kernel's parameters at t."""
        if not self.mixes:
            return self.params, t
        return jax.tree.map(lambda a, b: (1 - t) * a + t * b, self.base, self.params)

    def fall(self, before: PyTree, after: PyTree, x: PyTree) -> Array:
        """Returns E_before(x) − E_after(x)."""
        v = x[0] if hasattr(self.model, "free_energy") else x
        if self.mixes and not hasattr(self.model, "free_energy"):  # linear: no difference of large numbers
            return self.energy(jax.tree.map(jnp.subtract, before, after), v)
        return self.energy(before, v) - self.energy(after, v)

    @property
    def model(self) -> Any:
        """The discrete model, or None."""
        return getattr(self.kernel, "model", None) if self.mixes else None

    def from_base(self, key: Key, n_chains: int) -> PyTree:
        """Returns draws from the base."""
        keys = jax.random.split(key, n_chains)
        if self.sample is not None:
            return jax.vmap(self.sample)(keys)
        x = _any_position(self.model, n_chains)
        return _one_sweep(self.kernel, keys, self.base, x)

    def complete(self, start: PyTree) -> PyTree:
        """Returns whole configurations from such, or from visible ones."""
        if hasattr(self.model, "free_energy") and not isinstance(start, tuple):
            return jax.vmap(self.model.complete)(start)
        return start

    def reversed(self) -> _Path:
        """Returns the path with the kernel that undoes the steps: its blocks in the opposite order.

        Of an RBM it is the kernel itself: hidden units and then visible ones is reversible on the visible ones.
        """
        if self.model is None or hasattr(self.model, "free_energy"):
            return self
        spec = self.kernel.spec
        back = gibbs(self.model, BlockSpec(spec.free[::-1], spec.clamped))
        return _Path(back, self.params, self.base, self.energy, self.sample, self.mixes, self.log_z)


def _path(model: Any, params: PyTree, base: Any, kernel: Any) -> _Path:
    if kernel is not None:
        if not isinstance(base, Base):
            raise ValueError(
                f"base is {base!r}; with a kernel give a Base, e.g. partition.standard_normal(x)"
            )
        target = getattr(model, "energy", model)
        mixed = _Mixed(target, base.energy)
        return _Path(kernel(mixed), params, None, mixed, base.sample, False, base.log_z)
    if not hasattr(model, "default_spec"):
        raise ValueError(
            f"{model!r} is not an Ising, Potts or RBM model; give base=partition.standard_normal(x) and a kernel"
        )
    checks.check_struct("params", params, model.params_struct(), dtypes=checks.FLOATS)
    checks.check_finite("params", params)
    coupled = "weights" if hasattr(params, "weights") else "coupling"
    if base is None:
        base = params._replace(**{coupled: jnp.zeros_like(getattr(params, coupled))})
    checks.check_struct("base", base, model.params_struct(), dtypes=checks.FLOATS)
    if np.any(np.asarray(getattr(base, coupled))):
        raise ValueError(f"base has a {coupled} that is not zero, and its log Z is not known; set it to zero")
    energy = getattr(model, "free_energy", None) or model.energy
    return _Path(gibbs(model), params, base, _Of(energy), None, True, _log_z_uncoupled(model, base))


@dataclass(frozen=True)
class _Of:
    """A bound method that compares by its model, so that a second call compiles nothing."""

    method: Any

    def __call__(self, params: PyTree, x: PyTree) -> Array:
        return self.method(params, x)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Of)
            and self.method.__self__ == other.method.__self__
            and self.method.__name__ == other.method.__name__
        )

    def __hash__(self) -> int:
        return hash((self.method.__self__, self.method.__name__))


@dataclass(frozen=True)
class _Mixed:
    """E_t(x) = (1 − t) E₀(x) + t E(params, x), of parameters (params, t)."""

    target: Any
    base: Any

    def __call__(self, params_and_t: tuple[PyTree, Array], x: PyTree) -> Array:
        params, t = params_and_t
        return (1 - t) * self.base(x) + t * self.target(params, x)


def _log_z_uncoupled(model: Any, base: Any) -> float:
    """log Z of independent sites."""
    base = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), base)
    binary = lambda field, spins: np.logaddexp(-field, field) if spins else np.logaddexp(0, field)  # noqa: E731
    levels = lambda bias: np.logaddexp.reduce(bias, axis=-1)  # noqa: E731
    if hasattr(base, "coupling"):
        if model.spins:
            return float(np.sum(np.broadcast_to(binary(base.bias, True), model.graph.shape)))
        return float(np.sum(levels(base.bias)))
    visible, hidden = model.units
    of_visible = {
        "gaussian": lambda a: np.full(a.shape, np.log(2 * np.pi) / 2),
        "categorical": levels,
    }.get(visible, lambda a: binary(a, visible == "spin"))
    return float(np.sum(of_visible(base.visible_bias)) + np.sum(binary(base.hidden_bias, hidden == "spin")))


def _any_position(model: Any, n_chains: int) -> PyTree:
    """Any configurations: a sweep without couplings forgets them."""
    return jax.tree.map(lambda s: jnp.zeros((n_chains, *s.shape), s.dtype), model.position_struct())


@jax.jit
def _one_sweep(kernel: Any, keys: Key, params: PyTree, x: PyTree) -> PyTree:
    states = jax.vmap(kernel.init, (None, 0))(params, x)
    packed, _ = kernel.packed_steps(keys, params, jnp.float32(1), kernel.pack(params, states), 1)
    return kernel.packed_positions(packed)


@jax.jit
def _walk(path: _Path, key: Key, start: PyTree, ladder: Float[Array, " n"]) -> Float[Array, " chains"]:
    """Returns Σ_k [E_{t_k}(x) − E_{t_{k+1}}(x)] of every chain, a step of the kernel after each term."""
    kernel = path.kernel
    n_chains = jax.tree.leaves(start)[0].shape[0]
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n_chains))
    states = jax.vmap(kernel.init, (None, 0))(path.at(ladder[0]), start)

    def turn(carry: tuple[PyTree, Array, Array], pair: Array) -> tuple[tuple[PyTree, Array, Array], None]:
        packed, total, lost = carry
        before, after = path.at(pair[0]), path.at(pair[1])
        gain = jax.vmap(path.fall, (None, None, 0))(before, after, kernel.packed_positions(packed))
        gain = gain.astype(jnp.float32) - lost  # compensated summation: a thousand small terms on a large sum
        summed = total + gain
        lost = (summed - total) - gain
        packed = kernel.refresh(after, packed)
        packed, _ = kernel.packed_steps(keys, after, jnp.float32(1), packed, 1)
        return (packed, summed, lost), None

    zero = jnp.zeros(n_chains, jnp.float32)
    pairs = jnp.stack([ladder[:-1], ladder[1:]], axis=1)
    (_, total, _), _ = jax.lax.scan(turn, (kernel.pack(path.at(ladder[0]), states), zero, zero), pairs)
    return total


@functools.partial(jax.jit, static_argnums=0)
def _energies(energy: Any, params: PyTree, data: PyTree) -> Array:
    return jax.vmap(energy, (None, 0))(params, data)


def _result(key: Key, log_weights: np.ndarray, *, reverse: bool) -> AISResult:
    n, sign = log_weights.size, -1.0 if reverse else 1.0
    log_mean = lambda rows: np.logaddexp.reduce(rows, axis=-1) - np.log(n)  # noqa: E731
    estimate = sign * log_mean(sign * log_weights)
    seed = np.asarray(jax.random.bits(key, (2,)))
    rows = np.random.default_rng(seed).integers(0, n, (_BOOTSTRAPS, n))
    again = sign * log_mean(sign * log_weights[rows])
    low, high = np.quantile(again, (0.025, 0.975))
    relative = np.exp(sign * (log_weights - estimate))
    ess = float(relative.sum() ** 2 / np.sum(relative**2))
    spread = float(np.std(log_weights, ddof=1)) if n > 1 else float("nan")
    warnings = []
    if not np.isfinite(log_weights).all():
        warnings.append(f"{int((~np.isfinite(log_weights)).sum())} of {n} weights are not finite")
    if n < 2:
        warnings.append("one chain says nothing of how far weights spread: take more")
    if not ess >= min(_MIN_ESS, n / 2):
        warnings.append(f"the weights are worth {ess:.1f} chains of {n}: take more betas or chains")
    if spread > _MAX_SD:
        warnings.append(f"log weights spread over {spread:.1f} nats: take more betas")
    return AISResult(float(estimate), (float(low), float(high)), log_weights, spread, ess, tuple(warnings))
