"""What annealing walks along: energies between a base and a model, a kernel that follows them, and weights.

`partition` is its face. A `Path` is a pytree whose numbers are leaves, so that new parameters compile nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ebm_jax import checks
from ebm_jax.chains import chain_keys
from ebm_jax.graphs.blocks import BlockSpec
from ebm_jax.samplers.gibbs import gibbs
from ebm_jax.types import Key, PyTree

_HALVINGS = 25  # t to 2⁻²⁴, as fine as float32 has it near 1


class Base(NamedTuple):
    """Where annealing of a general energy begins: `sample(key) -> x`, `energy(x)`, and the log Z of that energy."""

    sample: Callable[[Key], PyTree]
    energy: Callable[[PyTree], Float[Array, ""]]
    log_z: float


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("kernel", "params", "base", "log_z"),
    meta_fields=("energy", "sample", "mixes"),
)
@dataclass(frozen=True, eq=False)
class Path:
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
        if hasattr(self.model, "free_energy"):
            return self.energy(before, v) - self.energy(after, v)
        if self.mixes:  # linear, as below: no difference of large numbers
            return self.energy(jax.tree.map(jnp.subtract, before, after), v)
        return (after[1] - before[1]) * (self.energy.base(v) - self.energy.target(self.params, v))

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

    def reversed(self) -> Path:
        """Returns the path with the kernel that undoes the steps: its blocks in the opposite order.

        Of an RBM it is the kernel itself: hidden units and then visible ones is reversible on the visible ones.
        """
        if self.model is None or hasattr(self.model, "free_energy"):
            return self
        spec = self.kernel.spec
        back = gibbs(self.model, BlockSpec(spec.free[::-1], spec.clamped))
        return Path(back, self.params, self.base, self.energy, self.sample, self.mixes, self.log_z)


def path_of(model: Any, params: PyTree, base: Any, kernel: Any) -> Path:
    if kernel is not None:
        if not isinstance(base, Base):
            raise ValueError(
                f"base is {base!r}; with a kernel give a Base, e.g. partition.standard_normal(x)"
            )
        target = getattr(model, "energy", model)
        mixed = _Mixed(target, base.energy)
        return Path(kernel(mixed), params, None, mixed, base.sample, False, base.log_z)
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
    return Path(gibbs(model), params, base, _Of(energy), None, True, log_z_uncoupled(model, base))


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


def log_z_uncoupled(model: Any, base: Any) -> float:
    """Log Z of independent sites."""
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
def walk(path: Path, key: Key, start: PyTree, ladder: Float[Array, " n"]) -> Float[Array, " chains"]:
    """Returns Σ_k [E_{t_k}(x) − E_{t_{k+1}}(x)] of every chain, a step of the kernel after each term."""
    kernel, (keys, packed) = path.kernel, _chains_at(path, key, start, ladder[0])

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

    zero = jnp.zeros(keys.shape, jnp.float32)
    pairs = jnp.stack([ladder[:-1], ladder[1:]], axis=1)
    (_, total, _), _ = jax.lax.scan(turn, (packed, zero, zero), pairs)
    return total


@functools.partial(jax.jit, static_argnames="size")
def climb(
    path: Path, key: Key, start: PyTree, cess: Float[Array, ""], size: int
) -> tuple[Float[Array, " size"], Int[Array, ""]]:
    """Returns t from 0 up to 1, each as far from the last as the conditional ESS allows, and how many there are.

    Of draws x from p_t and w = exp(E_t(x) − E_u(x)), the next t is the largest u, found by bisection, at which
    (mean w)² / mean w² is at least `cess`. It ends short of 1 after `size` values, or where no step is small enough.
    """
    kernel, (keys, packed) = path.kernel, _chains_at(path, key, start, jnp.float32(0))

    def next_after(t: Array, x: PyTree) -> Array:
        def halve(_: Any, ends: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            low, high, u = ends
            log_w = jax.vmap(path.fall, (None, None, 0))(path.at(t), path.at(u), x)
            log_share = 2 * jax.nn.logsumexp(log_w) - jax.nn.logsumexp(2 * log_w) - np.log(keys.size)
            near = log_share >= jnp.log(cess)
            low, high = jnp.where(near, u, low), jnp.where(near, high, u)
            return low, high, (low + high) / 2

        return jax.lax.fori_loop(0, _HALVINGS, halve, (t, jnp.float32(1), jnp.float32(1)))[0]

    def rising(carry: tuple[PyTree, Array, Array]) -> Array:
        _, ladder, n = carry
        t = ladder[n - 1]
        return (n < size) & (t < 1) & ((n == 1) | (t > ladder[n - 2]))

    def turn(carry: tuple[PyTree, Array, Array]) -> tuple[PyTree, Array, Array]:
        packed, ladder, n = carry
        t = next_after(ladder[n - 1], kernel.packed_positions(packed))
        packed = kernel.refresh(path.at(t), packed)
        packed, _ = kernel.packed_steps(keys, path.at(t), jnp.float32(1), packed, 1)
        return packed, ladder.at[n].set(t), n + 1

    _, ladder, n = jax.lax.while_loop(rising, turn, (packed, jnp.zeros(size, jnp.float32), jnp.int32(1)))
    return ladder, n


def _chains_at(path: Path, key: Key, start: PyTree, t: Array) -> tuple[Key, PyTree]:
    """Returns a key a chain, and packed chains that stand at `start`."""
    kernel, n_chains = path.kernel, jax.tree.leaves(start)[0].shape[0]
    keys = chain_keys(key, n_chains)
    states = jax.vmap(kernel.init, (None, 0))(path.at(t), start)
    return keys, kernel.pack(path.at(t), states)


@functools.partial(jax.jit, static_argnums=0)
def energies(energy: Any, params: PyTree, data: PyTree) -> Array:
    return jax.vmap(energy, (None, 0))(params, data)
