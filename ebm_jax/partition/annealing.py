"""What annealing walks along: energies between a base and a model, a kernel that follows them, and weights.

`partition` is the public face of this module. A path is a pytree whose numbers are leaves, so that new parameters
compile nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ebm_jax import checks
from ebm_jax.chains import chain_keys
from ebm_jax.energies.base import BlockModel
from ebm_jax.energies.target import Target, target_of
from ebm_jax.graphs.blocks import BlockSpec
from ebm_jax.partition.bases import check_law, check_uncoupled, log_z_uncoupled, without_couplings
from ebm_jax.samplers.base import check_precision
from ebm_jax.samplers.gibbs import gibbs
from ebm_jax.types import Key, PyTree

# Bisection finds t to 2⁻²⁴, as fine as float32 has it near 1.
_HALVINGS = 25


class Base(NamedTuple):
    """Where annealing of a general energy begins.

    Attributes:
      sample: `sample(key) -> x`, an exact draw.
      energy: `energy(x) -> scalar`.
      log_z: log Z of that energy.
    """

    sample: Callable[[Key], PyTree]
    energy: Callable[[PyTree], Float[Array, ""]]
    log_z: float


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("kernel", "params", "base", "log_z"),
    meta_fields=("target",),
)
@dataclass(frozen=True, eq=False)
class ParameterPath:
    """A discrete model or an RBM, whose parameters are interpolated: E_t = E(·; (1 − t) θ₀ + t θ).

    Attributes:
      kernel: Block Gibbs of the model.
      params: θ.
      base: θ₀, without couplings.
      log_z: log Z at θ₀.
      target: The model. Of an RBM, weights are those of the visible units.
    """

    kernel: Any
    params: PyTree
    base: PyTree
    log_z: Any
    target: Target

    @property
    def energy(self) -> Any:
        """The energy that weights are made of, `(params, datum) -> scalar`."""
        return self.target.data_energy

    def at(self, t: Array) -> PyTree:
        """Returns the kernel's parameters at t."""
        return jax.tree.map(lambda a, b: (1 - t) * a + t * b, self.base, self.params)

    def decrease(self, before: PyTree, after: PyTree, x: PyTree) -> Array:
        """Returns E_before(x) − E_after(x)."""
        if self.target.free_energy is None:
            # Linear in the parameters: no difference of large numbers.
            return self.target.energy(jax.tree.map(jnp.subtract, before, after), x)
        v = self.target.visible(x)
        return self.target.free_energy(before, v) - self.target.free_energy(after, v)

    def from_base(self, key: Key, n_chains: int) -> PyTree:
        """Returns draws from the base: a sweep without couplings forgets where it started."""
        struct = self.target.position_struct
        checks.check_chains_fit(n_chains, struct)
        x = jax.tree.map(lambda s: jnp.zeros((n_chains, *s.shape), s.dtype), struct)
        return _one_sweep(self.kernel, jax.random.split(key, n_chains), self.base, x)

    def complete(self, start: PyTree) -> PyTree:
        """Returns full configurations from such, or from visible ones of an RBM."""
        if self.target.free_energy is None or isinstance(start, tuple):
            return start
        return self.target.full_configurations(start)

    def reversed(self) -> ParameterPath:
        """Returns the path with the kernel that undoes the steps: its blocks in the opposite order.

        Of an RBM it is the kernel itself: hidden units and then visible ones is reversible on the visible ones.
        """
        if self.target.free_energy is not None:
            return self
        spec = self.kernel.spec
        return replace(self, kernel=gibbs(self.target.model, BlockSpec(spec.free[::-1], spec.clamped)))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("kernel", "params", "log_z"),
    meta_fields=("energy", "sample"),
)
@dataclass(frozen=True, eq=False)
class EnergyPath:
    """Any energy, which is interpolated itself; the kernel's parameters at t are the pair (params, t).

    Attributes:
      kernel: Leaves exp(−E_t) invariant.
      params: The parameters of the energy.
      log_z: log Z of the base.
      energy: E_t, `((params, t), x) -> scalar`.
      sample: `sample(key) -> x`, a draw from the base.
    """

    kernel: Any
    params: PyTree
    log_z: Any
    energy: _Mixed
    sample: Any

    def at(self, t: Array) -> PyTree:
        """Returns the kernel's parameters at t."""
        return self.params, t

    def decrease(self, before: PyTree, after: PyTree, x: PyTree) -> Array:
        """Returns E_before(x) − E_after(x)."""
        return (after[1] - before[1]) * (self.energy.base(x) - self.energy.target(self.params, x))

    def from_base(self, key: Key, n_chains: int) -> PyTree:
        """Returns draws from the base."""
        checks.check_chains_fit(n_chains, jax.eval_shape(self.sample, key))
        return jax.vmap(self.sample)(jax.random.split(key, n_chains))

    def complete(self, start: PyTree) -> PyTree:
        """Returns full configurations, which these are."""
        return start

    def reversed(self) -> EnergyPath:
        """Returns the path itself: the kernels of general energies are reversible."""
        return self


Path = ParameterPath | EnergyPath


@dataclass(frozen=True)
class _Mixed:
    """E_t(x) = (1 − t) E₀(x) + t E(params, x), of parameters (params, t)."""

    target: Any
    base: Any

    def __call__(self, params_and_t: tuple[PyTree, Array], x: PyTree) -> Array:
        params, t = params_and_t
        # An end of the path is its energy alone: 0 · ∞, outside the support of the other, would be NaN.
        of_base = jnp.where(t < 1, (1 - t) * self.base(x), 0)
        return of_base + jnp.where(t > 0, t * self.target(params, x), 0)


def path_of(model: Any, params: PyTree, base: Any, kernel: Any) -> Path:
    """Returns the path between a base and a model; raises ValueError where they do not fit, as `partition.ais`."""
    if kernel is not None:
        if not isinstance(base, Base):
            raise ValueError(
                f"base is {base!r}; with a kernel give a Base, e.g. partition.standard_normal(x)"
            )
        mixed = _Mixed(target_of(model).energy, base.energy)
        x = jax.eval_shape(base.sample, jax.random.key(0))
        check_precision("energy", jax.eval_shape(mixed.target, params, x))
        check_precision("the energy of base", jax.eval_shape(base.energy, x))
        return EnergyPath(kernel(mixed), params, base.log_z, mixed, base.sample)
    if not isinstance(model, BlockModel):
        raise ValueError(
            f"{model!r} is not an Ising, Potts, RBM or FactorGraph model; give base=partition.standard_normal(x) and a "
            "kernel"
        )
    target = target_of(model)
    checks.check_struct("params", params, target.params_struct, dtypes=checks.FLOATS)
    checks.check_finite("params", params)
    base = without_couplings(model, params) if base is None else base
    checks.check_struct("base", base, target.params_struct, dtypes=checks.FLOATS)
    check_uncoupled(model, base)
    check_law(model, params)
    return ParameterPath(gibbs(model), params, base, log_z_uncoupled(model, base), target)


@jax.jit
def _one_sweep(kernel: Any, keys: Key, params: PyTree, x: PyTree) -> PyTree:
    states = jax.vmap(kernel.init, (None, 0))(params, x)
    packed, _ = kernel.packed_steps(keys, params, jnp.float32(1), kernel.pack(params, states), 1)
    return kernel.packed_positions(packed)


@jax.jit
def walk(path: Path, key: Key, start: PyTree, ladder: Float[Array, " n"]) -> Float[Array, " chains"]:
    """Returns Σ_k [E_{t_k}(x) − E_{t_{k+1}}(x)] of every chain, a step of the kernel after each term."""
    kernel, (keys, packed) = path.kernel, _chains_at(path, key, start, ladder[0])

    def scan_body(
        carry: tuple[PyTree, Array, Array], pair: Array
    ) -> tuple[tuple[PyTree, Array, Array], None]:
        packed, total, rounding = carry
        before, after = path.at(pair[0]), path.at(pair[1])
        gain = jax.vmap(path.decrease, (None, None, 0))(before, after, kernel.packed_positions(packed))
        # Compensated summation (Kahan): a thousand small terms on a large sum.
        gain = gain.astype(jnp.float32) - rounding
        summed = total + gain
        # The weight of a chain outside the support is zero and stays so: log w = −∞.
        rounding = jnp.where(jnp.isfinite(summed), (summed - total) - gain, 0)
        packed = kernel.refresh(after, packed)
        packed, _ = kernel.packed_steps(keys, after, jnp.float32(1), packed, 1)
        return (packed, summed, rounding), None

    zero = jnp.zeros(keys.shape, jnp.float32)
    pairs = jnp.stack([ladder[:-1], ladder[1:]], axis=1)
    (_, total, _), _ = jax.lax.scan(scan_body, (packed, zero, zero), pairs)
    return total


@functools.partial(jax.jit, static_argnames="size")
def climb(
    path: Path, key: Key, start: PyTree, cess: Float[Array, ""], size: int
) -> tuple[Float[Array, " size"], Int[Array, ""]]:
    """Returns t from 0 up to 1, each as far from the last as the conditional ESS allows, and how many there are.

    With draws x from p_t and w = exp(E_t(x) − E_u(x)), the next t is the largest u, found by bisection, at which
    (mean w)² / mean w² is at least `cess`. The ladder ends short of 1 after `size` values, or where no step is small
    enough.
    """
    kernel, (keys, packed) = path.kernel, _chains_at(path, key, start, jnp.float32(0))

    def next_after(t: Array, x: PyTree) -> Array:
        def halve(_: Any, ends: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            low, high, u = ends
            log_w = jax.vmap(path.decrease, (None, None, 0))(path.at(t), path.at(u), x)
            # Chains of weight zero are lost however small the step, so the others alone decide how large it is.
            n_alive = jnp.sum(log_w > -jnp.inf).astype(log_w.dtype)
            log_share = 2 * jax.nn.logsumexp(log_w) - jax.nn.logsumexp(2 * log_w) - jnp.log(n_alive)
            reachable = log_share >= jnp.log(cess)
            low, high = jnp.where(reachable, u, low), jnp.where(reachable, high, u)
            return low, high, (low + high) / 2

        return jax.lax.fori_loop(0, _HALVINGS, halve, (t, jnp.float32(1), jnp.float32(1)))[0]

    def rising(carry: tuple[PyTree, Array, Array]) -> Array:
        _, ladder, n = carry
        t = ladder[n - 1]
        return (n < size) & (t < 1) & ((n == 1) | (t > ladder[n - 2]))

    def advance(carry: tuple[PyTree, Array, Array]) -> tuple[PyTree, Array, Array]:
        packed, ladder, n = carry
        t = next_after(ladder[n - 1], kernel.packed_positions(packed))
        packed = kernel.refresh(path.at(t), packed)
        packed, _ = kernel.packed_steps(keys, path.at(t), jnp.float32(1), packed, 1)
        return packed, ladder.at[n].set(t), n + 1

    _, ladder, n = jax.lax.while_loop(rising, advance, (packed, jnp.zeros(size, jnp.float32), jnp.int32(1)))
    return ladder, n


def _chains_at(path: Path, key: Key, start: PyTree, t: Array) -> tuple[Key, PyTree]:
    """Returns a key a chain, and packed chains that stand at `start`."""
    kernel, n_chains = path.kernel, jax.tree.leaves(start)[0].shape[0]
    keys = chain_keys(key, n_chains)
    states = jax.vmap(kernel.init, (None, 0))(path.at(t), start)
    return keys, kernel.pack(path.at(t), states)


@functools.partial(jax.jit, static_argnums=0)
def energies(energy: Any, params: PyTree, data: PyTree) -> Array:
    """Returns the energy of every row of `data`."""
    return jax.vmap(energy, (None, 0))(params, data)
