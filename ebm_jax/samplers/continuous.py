"""What the kernels of continuous energies share: validation, draws, and energies and gradients kept between steps.

Positions are pytrees of floating arrays, and an energy is `energy(params, x) -> scalar` or a model that has one.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import checks, rng
from ebm_jax.samplers.base import Kernel, energy_of, step_number
from ebm_jax.types import Info, Key, PyTree


class CachedState(NamedTuple):
    """A chain of a kernel that accepts or rejects: its position, and what the next step needs of it.

    position: the configuration; clamped: bool mask shaped like it, or None; step: uint32 counter of steps taken.
    energy, gradient: E and ∇E at the position, without β, the gradient zero where clamped. digest: two uint32 words of
    the parameters that they belong to.
    """

    position: PyTree
    clamped: PyTree | None
    step: jax.Array
    energy: jax.Array
    gradient: PyTree
    digest: jax.Array


class ContinuousKernelBase(Kernel):
    """Validation shared by the kernels of continuous energies; they have a field `energy`."""

    energy: Any
    _dtypes: Any = None
    _shaped: tuple[str, ...] = ()
    """Fields that are numbers for all elements, an array for all leaves, or a pytree like a position."""

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Raises ValueError where positions are not floating, the energy is no scalar, or values are not finite."""
        for path, leaf in jax.tree_util.tree_leaves_with_path(x):
            name = "init" + jax.tree_util.keystr(path)
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise ValueError(
                    f"{name} has dtype {leaf.dtype}; {type(self).__name__} moves floating-point arrays: use .astype"
                )
            if self._dtypes and str(leaf.dtype) not in self._dtypes:
                names = " or ".join(sorted(self._dtypes))
                raise ValueError(
                    f"{name} has dtype {leaf.dtype}, too narrow to accept by; use .astype({names})"
                )
        super().check(params, x, clamped)
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), x)
        for name in self._shaped:
            check_spread(name, getattr(self, name), one)
        energy = jax.eval_shape(energy_of(self.energy), params, one)
        if getattr(energy, "shape", None) != ():
            raise ValueError(f"energy gives {energy} for one configuration; it must give a scalar")


class AdjustedKernelBase(ContinuousKernelBase):
    """What kernels with an accept/reject rule share. They define `step_with_acceptance`.

    A step keeps E and ∇E for the next one. A proposal whose energy or momentum is not finite is rejected and counted in
    `Info.n_nonfinite`, so that a chain that starts at finite numbers stays there. Steps have no derivatives:
    parameters, β and the kernel's numbers enter behind `stop_gradient`.
    """

    may_diverge = False
    state_type = CachedState
    largest_step_size = float("inf")
    """Where `warm_up` stops, should the acceptance stay above what it aims at."""
    target_acceptance = 0.8
    """The rate of acceptance that `warm_up` aims at when the caller names none."""
    _dtypes = checks.FLOATS

    def init(self, params: PyTree, x: PyTree, clamped: Any = None) -> CachedState:
        """Returns the state of a chain at `x`; `clamped=(mask, values)` fixes values where the mask is True."""
        position, mask, step = super().init(params, x, clamped)
        return CachedState(position, mask, step, *_cached(self, params, position, mask))

    def step(self, key: Key, params: PyTree, beta: Any, state: CachedState) -> tuple[CachedState, Info]:
        """Takes one step from what the state holds of the parameters: after they changed, call `refresh` first."""
        state, info, _ = self.step_with_acceptance(key, params, beta, state)
        return state, info

    def step_with_acceptance(
        self, key: Key, params: PyTree, beta: Any, state: CachedState
    ) -> tuple[CachedState, Info, jax.Array]:
        """Takes one step; also returns the probability with which the proposal was accepted."""
        raise NotImplementedError

    def energy_at(self, params: PyTree, state: CachedState) -> jax.Array:
        """Returns the energy that the state keeps."""
        del params
        return state.energy

    def refresh(self, params: PyTree, packed: CachedState) -> CachedState:
        """Recomputes energies and gradients if the parameters are not those that they were computed with.

        Otherwise they stay, and with them the bits of a run that goes on. Energies that disagree with the position
        (another energy function, a position set by hand) are recomputed as well.
        """
        cached = jax.vmap(functools.partial(_cached, self, params), out_axes=(0, 0, None))
        energy, gradient, digest = cached(packed.position, packed.clamped)
        close = jnp.isclose(packed.energy, energy, rtol=1e-3, atol=1e-3, equal_nan=True)
        keep = (packed.digest == digest).all(axis=-1) & close
        choose = functools.partial(select, keep)
        return packed._replace(
            energy=choose(packed.energy, energy),
            gradient=jax.tree.map(choose, packed.gradient, gradient),
            digest=jnp.broadcast_to(digest, packed.digest.shape),
        )

    def check(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        """Raises ValueError where positions do not fit or an energy is not finite at its start."""
        super().check(params, x, clamped)
        self._check_energies(params, x, clamped)

    def _check_energies(self, params: PyTree, x: PyTree, clamped: Any) -> None:
        if not checks.is_concrete((params, x, clamped)):
            return
        if clamped is not None:
            x = jax.tree.map(lambda mask, value, x: jnp.where(mask, value, x), *clamped, x)
        energies = np.asarray(jax.vmap(energy_of(self.energy), (None, 0))(params, x))
        bad = np.flatnonzero(~np.isfinite(energies))
        if bad.size:
            raise ValueError(
                f"chain {bad[0]} starts where its energy is {energies[bad[0]]} ({bad.size} of {energies.size} chains "
                "do so), from where nothing is accepted; start where the energy is finite"
            )

    def _evaluate(self, params: PyTree, x: PyTree, mask: PyTree | None) -> tuple[jax.Array, PyTree]:
        """Returns E(x) and ∇E(x), the gradient zero where clamped."""
        energy, gradient = jax.value_and_grad(energy_of(self.energy), argnums=1)(params, x)
        return energy, zero_where(mask, gradient)

    def _decide(
        self,
        state: CachedState,
        word: jax.Array,
        log_ratio: jax.Array,
        proposal: tuple[PyTree, jax.Array, PyTree],
        finite: jax.Array,
        n_gradient: Any,
    ) -> tuple[CachedState, Info, jax.Array]:
        """Accepts (position, energy, gradient) with probability min(1, exp(log_ratio)) to 2⁻²⁴, if finite."""
        probability = jnp.where(finite, jnp.exp(jnp.minimum(log_ratio, 0.0)), 0.0)
        # Compared as logarithms: the compiler stores a logarithm, and would draw a plain uniform for each reader again.
        threshold = jnp.log(rng.uniform(word) + np.float32(2.0**-25))
        accept = finite & (threshold < log_ratio)
        position, energy, gradient = jax.tree.map(
            lambda new, old: jnp.where(accept, new, old),
            proposal,
            (state.position, state.energy, state.gradient),
        )
        step = state.step + jnp.uint32(1)
        info = Info.of(
            n_steps=1,
            n_energy=1,
            n_gradient=n_gradient,
            n_proposed=1,
            n_accepted=accept,
            n_nonfinite=~finite,
            first_nonfinite=jnp.where(finite, -1, step_number(step)),
        )
        state = CachedState(position, state.clamped, step, energy, gradient, state.digest)
        return state, info, probability


@jax.jit
def _cached(
    kernel: AdjustedKernelBase, params: PyTree, x: PyTree, mask: PyTree | None
) -> tuple[jax.Array, PyTree, jax.Array]:
    """Returns E, ∇E and the parameters' digest. Compiled, since drivers start chains eagerly."""
    return *kernel._evaluate(params, x, mask), digest_of(params)


def check_energy(energy: Any) -> None:
    """Raises ValueError unless `energy` is a function or a model."""
    if not callable(energy_of(energy)):
        raise ValueError(f"energy is {energy!r}; give a function energy(params, x) or a model that has one")


def check_scale(name: str, value: Any, *, positive: bool = False) -> None:
    """Raises ValueError unless `value` is a real scalar and, where it can be looked at, finite and ≥ 0 or > 0."""
    least = "greater than 0" if positive else "of at least 0"
    if jnp.shape(value) != () or not jnp.issubdtype(getattr(value, "dtype", type(value)), jnp.number):
        raise ValueError(f"{name} is {value!r}; give a single real number {least}")
    if checks.is_concrete(value):
        number = np.asarray(value)
        if not np.isfinite(number) or number < 0 or (positive and number == 0):
            raise ValueError(f"{name} is {value}; give a finite number {least}")


def as_numbers(tree: PyTree) -> PyTree:
    """Returns a pytree of floating arrays from numbers: float64 where the user has enabled it."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), tree)


def check_positive(name: str, tree: PyTree) -> None:
    """Raises ValueError unless all concrete numbers of `tree` are finite and greater than 0."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if checks.is_concrete(leaf):
            values = np.asarray(leaf)
            bad = ~(np.isfinite(values) & (values > 0))
            if bad.any():
                where = name + jax.tree_util.keystr(path)
                raise ValueError(f"{where} holds {values[bad][0]}; give finite numbers greater than 0")


def check_spread(name: str, tree: PyTree, x: PyTree) -> None:
    """Raises ValueError unless `tree` is None or `spread(tree, x)` has leaves that fit those of `x`."""
    if tree is None:
        return
    for part, leaf in zip(jax.tree.leaves(spread(tree, x, name)), jax.tree.leaves(x), strict=True):
        shape = jnp.shape(part)
        if len(shape) > len(leaf.shape) or any(
            a not in (1, b) for a, b in zip(shape[::-1], leaf.shape[::-1])
        ):
            raise ValueError(f"{name} has shape {shape}; give a scalar or a shape that fits {leaf.shape}")


def spread(tree: PyTree, like: PyTree, name: str = "it") -> PyTree:
    """Returns a single leaf for every leaf of `like`; a pytree that has its structure stays as it is."""
    structure = jax.tree.structure(like)
    if jax.tree_util.treedef_is_leaf(jax.tree.structure(tree)):
        return jax.tree.unflatten(structure, [tree] * structure.num_leaves)
    if jax.tree.structure(tree) != structure:
        raise ValueError(f"{name} has the structure {jax.tree.structure(tree)}; a position has {structure}")
    return tree


def zero_where(mask: PyTree | None, tree: PyTree) -> PyTree:
    """Returns `tree` with zeros where `mask` is True."""
    if mask is None:
        return tree
    return jax.tree.map(lambda m, leaf: jnp.where(m, jnp.zeros((), leaf.dtype), leaf), mask, tree)


def select(keep: jax.Array, old: jax.Array, new: jax.Array) -> jax.Array:
    """Returns rows of `old` where `keep` is True and of `new` elsewhere."""
    return jnp.where(keep.reshape(keep.shape + (1,) * (old.ndim - keep.ndim)), old, new)


def total(tree: PyTree) -> jax.Array:
    """Returns the sum of all elements."""
    return sum(map(jnp.sum, jax.tree.leaves(tree)), jnp.zeros(()))


def draws(key: Key, step: jax.Array, like: PyTree) -> tuple[PyTree, jax.Array, jax.Array]:
    """Returns standard normals shaped like `like` and two random words: all functions of (key, step, component)."""
    leaves, treedef = jax.tree.flatten(like)
    words, first, second = random_words(key, step, sum(leaf.size for leaf in leaves))
    flat = rng.normal(words)
    drawn, start = [], 0
    for leaf in leaves:
        drawn.append(flat[start : start + leaf.size].reshape(leaf.shape).astype(leaf.dtype))
        start += leaf.size
    return jax.tree.unflatten(treedef, drawn), first, second


def random_words(key: Key, step: jax.Array, n: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns n random words and two more.

    The second half of the n is made of the cipher's second words. The barrier keeps the compiler from enciphering the
    chain's key for each word.
    """
    words = jax.lax.optimization_barrier(rng.chain_words(key))
    half = -(-n // 2)
    site = jnp.arange(half + 1, dtype=jnp.uint32)
    first, second = rng.threefry2x32(words[0], words[1], step, site + step)
    return jnp.concatenate([first[:half], second[: n - half]]), first[half], second[half]


def digest_of(params: PyTree) -> jax.Array:
    """Returns two words that change with the bits of the parameters: whole-number sums, the same in any order."""
    words = jnp.zeros(2, jnp.uint32)
    for number, leaf in enumerate(jax.tree.leaves(params)):
        if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        # Python's numbers count as the arrays that drivers make of them.
        leaf = jax.lax.stop_gradient(jnp.asarray(leaf, jnp.result_type(leaf))).ravel()
        if leaf.dtype == jnp.bool_:
            bits = leaf.astype(jnp.uint32)
        elif jnp.iscomplexobj(leaf):
            bits = jnp.concatenate([_bits(leaf.real), _bits(leaf.imag)])
        else:
            bits = _bits(leaf)
        place = jnp.arange(bits.size, dtype=jnp.uint32) ^ np.uint32(number * 0x9E3779B9 % 2**32)
        first = _mixed(bits ^ _mixed(place))
        second = _mixed(first + np.uint32(0x9E3779B9))
        words += jnp.stack([first.sum(dtype=jnp.uint32), second.sum(dtype=jnp.uint32)])
    return words


def _mixed(word: jax.Array) -> jax.Array:
    """Returns words every bit of which depends on every bit of the given ones (the last steps of MurmurHash3)."""
    word = (word ^ (word >> 16)) * np.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * np.uint32(0xC2B2AE35)
    return word ^ (word >> 16)


def _bits(leaf: jax.Array) -> jax.Array:
    """Returns the bits of a flat array as uint32, two words an element where it has 64."""
    width = leaf.dtype.itemsize
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(width, jnp.uint32)
    return jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32).ravel()
