"""The layers of an RBM: how units of one kind are stored, multiplied and drawn.

A layer of a tile of chains is an array `(rows + 1, chains)`. The last row is empty, which makes the write of a new
layer a partial one. The compiler carries out a partial write once; it would compute a whole new array again for every
reader, random words included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8, UInt32

from ebm_jax import draw, rng
from ebm_jax.chains import with_leading_axes


@dataclass(frozen=True)
class Binary:
    """`n` units of two values, 0 and 1 or (`spins`) −1 and +1.

    Two units share a byte and a cipher call. With rows = ⌈n/2⌉, unit i < rows has bit 0 and the first word, and unit
    n − rows + i has bit 1 and the second word. The middle unit of an odd layer has both bits, and is read from the
    first.
    """

    n: int
    spins: bool

    @property
    def rows(self) -> int:
        """Rows of a layer that hold units."""
        return -(-self.n // 2)

    def pack(self, units: Array) -> UInt8[Array, "*tiles rows chains"]:
        """Lays out `(*tiles, n, chains)` of zeros and ones."""
        bits = units.astype(jnp.uint8)
        return bits[..., : self.rows, :] | (bits[..., self.n - self.rows :, :] << np.uint8(1))

    pack_mask = pack

    def unpack(self, layer: UInt8[Array, "*tiles rows chains"]) -> UInt8[Array, "*tiles n chains"]:
        """The inverse of `pack`."""
        first, second = layer & np.uint8(1), layer >> np.uint8(1)
        return jnp.concatenate([first, second[..., 2 * self.rows - self.n :, :]], axis=-2)

    unpack_mask = unpack

    def operand(self, layer: UInt8[Array, "rows chains"], dtype: Any) -> Float[Array, "n chains"]:
        """Returns what weights multiply."""
        value = self.unpack(layer).astype(dtype)
        return 2 * value - 1 if self.spins else value

    def redraw(
        self,
        field: Float[Array, "n chains"],
        beta: Float[Array, " c"],
        words: UInt32[Array, "chains 2"],
        step: UInt32[Array, " chains"],
        first_site: int,
    ) -> UInt8[Array, "rows chains"]:
        """Draws every unit: one with probability σ(β field), or a spin up with σ(2β field)."""
        logit = with_leading_axes(2 * beta if self.spins else beta, 2) * field
        counter = first_site + np.arange(self.rows, dtype=np.uint32)
        first, second = rng.site_words(words, step, jnp.asarray(counter)[:, None])
        low = draw.bernoulli(logit[: self.rows], first).astype(jnp.uint8)
        high = draw.bernoulli(logit[self.n - self.rows :], second).astype(jnp.uint8)
        return low | (high << np.uint8(1))

    def hold(self, mask: Array, old: Array, new: Array) -> Array:
        """Returns `new`, with the bits of `old` where the packed mask has ones."""
        return (old & mask) | (new & ~mask)


@dataclass(frozen=True)
class _EntryPerUnit:
    """Units that take one entry of an array each."""

    n: int

    @property
    def rows(self) -> int:
        """Rows of a layer that hold units."""
        return self.n

    def pack_mask(self, mask: Bool[Array, "*tiles n chains"]) -> Bool[Array, "*tiles n chains"]:
        """A mask is stored as it is."""
        return mask.astype(jnp.bool_)

    def unpack_mask(self, mask: Bool[Array, "*tiles n chains"]) -> Bool[Array, "*tiles n chains"]:
        """The inverse of `pack_mask`."""
        return mask

    def unpack(self, layer: Array) -> Array:
        """The inverse of `pack`."""
        return layer

    def hold(self, mask: Bool[Array, "..."], old: Array, new: Array) -> Array:
        """Returns `new`, or `old` where the mask is True."""
        return jnp.where(mask, old, new)

    def _word(
        self, words: UInt32[Array, "chains 2"], step: UInt32[Array, " chains"], first_site: int
    ) -> UInt32[Array, "n chains"]:
        counter = jnp.asarray(first_site + np.arange(self.n, dtype=np.uint32))
        return rng.site_words(words, step, counter[:, None])[0]


@dataclass(frozen=True)
class Categorical(_EntryPerUnit):
    """`n` units of `n_levels` levels, a byte each; weights have one row for each unit and level."""

    n_levels: int

    def pack(self, units: Array) -> UInt8[Array, "*tiles n chains"]:
        """Lays out `(*tiles, n, chains)`."""
        return units.astype(jnp.uint8)

    def operand(self, layer: UInt8[Array, "n chains"], dtype: Any) -> Float[Array, "n_times_levels chains"]:
        """Returns what weights multiply: the units' levels as one-hot rows."""
        levels = jnp.arange(self.n_levels, dtype=jnp.uint8)[:, None]
        return (layer[:, None] == levels[None]).astype(dtype).reshape(self.n * self.n_levels, -1)

    def redraw(
        self,
        field: Float[Array, "n_times_levels chains"],
        beta: Float[Array, " c"],
        words: UInt32[Array, "chains 2"],
        step: UInt32[Array, " chains"],
        first_site: int,
    ) -> UInt8[Array, "n chains"]:
        """Draws every unit: level k with probability ∝ exp(β field[k])."""
        logits = with_leading_axes(beta, 3) * field.reshape(self.n, self.n_levels, -1)
        return draw.categorical(lambda k: logits[:, k], self.n_levels, self._word(words, step, first_site))


@dataclass(frozen=True)
class Gaussian(_EntryPerUnit):
    """`n` real units of unit variance at β = 1, float32."""

    def pack(self, units: Array) -> Float[Array, "*tiles n chains"]:
        """Lays out `(*tiles, n, chains)`."""
        return units.astype(jnp.float32)

    def operand(self, layer: Float[Array, "n chains"], dtype: Any) -> Float[Array, "n chains"]:
        """Returns what weights multiply."""
        return layer.astype(dtype)

    def redraw(
        self,
        field: Float[Array, "n chains"],
        beta: Float[Array, " c"],
        words: UInt32[Array, "chains 2"],
        step: UInt32[Array, " chains"],
        first_site: int,
    ) -> Float[Array, "n chains"]:
        """Draws every unit from N(field, 1/β)."""
        noise = rng.normal(self._word(words, step, first_site))
        return (field + with_leading_axes(jax.lax.rsqrt(beta), 2) * noise).astype(jnp.float32)


Units = Binary | Categorical | Gaussian


def make_units(kind: str, n: int, n_levels: int | None) -> Units:
    """Returns the layer of `n` units of a kind: "binary", "spin", "categorical" or "gaussian"."""
    if kind == "categorical":
        assert n_levels is not None
        return Categorical(n, n_levels)
    return Gaussian(n) if kind == "gaussian" else Binary(n, kind == "spin")
