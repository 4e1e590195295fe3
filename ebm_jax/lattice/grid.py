"""Grids: four sublattices by parity of row and column, neighbours by shifts.

A sublattice (a, b) holds the sites (2i + a, 2j + b) as an array `(rows, columns, chains)`. The neighbours of all its
sites in one direction are another sublattice, shifted by at most one row and one column, so no index table is needed.
Sublattices (0, 0), (1, 1) and (0, 1), (1, 0) are the two colours of a checkerboard with four neighbours; with eight,
each sublattice is a colour. Periodic sides must be even here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32

from ebm_jax import rng
from ebm_jax.graphs import Grid
from ebm_jax.lattice.fields import Slot, draw_levels, draw_spins
from ebm_jax.types import PyTree

Parity = tuple[int, int]


class Prepared(NamedTuple):
    """Parameters of one sublattice: bias `(*levels, rows, columns, c)`, a coupling a direction, padded with zeros."""

    bias: Float[Array, "*shape"]
    couplings: tuple[Float[Array, "*shape"], ...]


@dataclass(frozen=True)
class GridLayout:
    """Packing and updates of an Ising or Potts model on a grid; `groups` lists the sublattices drawn together."""

    grid: Grid
    coupling: str
    n_levels: int
    spins: bool
    groups: tuple[tuple[Parity, ...], ...]

    @property
    def parities(self) -> tuple[Parity, ...]:
        """The sublattices that hold any site."""
        height, width = self.grid.shape
        return tuple((a, b) for a in range(min(2, height)) for b in range(min(2, width)))

    def pack(self, tables: PyTree, x: Array) -> dict[Parity, Array]:
        """`(chains, height, width)` to sublattices `(rows, columns, chains)`."""
        del tables
        last = jnp.moveaxis(x, 0, -1)
        return {(a, b): last[a::2, b::2] for a, b in self.parities}

    def unpack(self, tables: PyTree, blocks: dict[Parity, Array]) -> Array:
        """The inverse of `pack`."""
        del tables
        height, width = self.grid.shape
        rows = [
            self._interleave([blocks[p] for p in self.parities if p[0] == a], 1, width)
            for a in range(2)[:height]
        ]
        return jnp.moveaxis(self._interleave(rows, 0, height), -1, 0)

    @staticmethod
    def _interleave(parts: list[Array], axis: int, length: int) -> Array:
        if len(parts) == 1:
            return parts[0]
        even, odd = parts
        if odd.shape[axis] < even.shape[axis]:
            padding = [(0, 0)] * odd.ndim
            padding[axis] = (0, 1)
            odd = jnp.pad(odd, padding)
        woven = jnp.stack([even, odd], axis=axis + 1)
        shape = [*even.shape]
        shape[axis] *= 2
        return jax.lax.slice_in_dim(woven.reshape(shape), 0, length, axis=axis)

    def prepare(self, tables: PyTree, params: PyTree) -> dict[Parity, Prepared]:
        """Lays out parameters that carry a chain axis last (1 where all chains share them)."""
        del tables
        bias = params.bias if self.spins else jnp.moveaxis(params.bias, 2, 0)
        prepared = {}
        images = self._coupling_images(params.coupling)
        for a, b in self.parities:
            couplings = []
            for (down, right), image in images:
                couplings.append(image[..., a::2, b::2, :])
                # The edge to the opposite side belongs to that neighbour; there its table's levels swap places.
                back = jnp.roll(image, (down, right), axis=(-3, -2))
                back = jnp.swapaxes(back, 0, 1) if self.coupling == "matrix" else back
                couplings.append(back[..., a::2, b::2, :])
            prepared[a, b] = Prepared(bias[..., a::2, b::2, :], tuple(couplings))
        return prepared

    def _coupling_images(self, values: Array) -> list[tuple[Parity, Array]]:
        """Couplings of every direction as `(*levels, height, width, c)`, at the first site of each edge, else zero."""
        grid, images, start = self.grid, [], 0
        height, width = grid.shape
        for number, (down, right) in enumerate(grid.directions):
            rows, columns = grid.edge_shape((down, right))
            if self.coupling == "tied":
                image = jnp.broadcast_to(values[number], (rows, columns, *values.shape[1:]))
            else:
                image = values[start : start + rows * columns].reshape(rows, columns, *values.shape[1:])
                start += rows * columns
            left = 0 if grid.periodic else max(0, -right)
            padding = [(0, height - rows), (left, width - columns - left)] + [(0, 0)] * (image.ndim - 2)
            image = jnp.pad(image, padding)
            images.append(((down, right), jnp.moveaxis(image, (0, 1), (-3, -2))))
        return images

    def update(
        self,
        group: int,
        tables: PyTree,
        prepared: dict[Parity, Prepared],
        beta: Float[Array, "..."],
        words: UInt32[Array, "chains 2"],
        step: UInt32[Array, " chains"],
        blocks: dict[Parity, Array],
        masks: dict[Parity, Array] | None,
    ) -> dict[Parity, Array]:
        """Redraws every site of a group from its conditional, except where `masks` is True."""
        del tables
        new = dict(blocks)
        for parity in self.groups[group]:
            old = blocks[parity]
            slots = self._slots(parity, prepared[parity], blocks)
            word = self._words(parity, old.shape[:2], words, step)
            if self.spins:
                drawn = draw_spins(prepared[parity].bias, slots, beta, word)
            else:
                drawn = draw_levels(self.n_levels, prepared[parity].bias, slots, beta, word)
            drawn = drawn if masks is None else jnp.where(masks[parity], old, drawn)
            # Without the barrier the compiler copies this whole expression, random rounds and all, into each of the
            # shifts that read it.
            new[parity] = jax.lax.optimization_barrier(drawn)
        return new

    def _slots(self, parity: Parity, prepared: Prepared, blocks: dict[Parity, Array]) -> list[Slot]:
        slots = []
        rows, columns = blocks[parity].shape[:2]
        steps = [s for down, right in self.grid.directions for s in ((down, right), (-down, -right))]
        for (down, right), coupling in zip(steps, prepared.couplings, strict=True):
            row, column = parity[0] + down, parity[1] + right
            other = (row % 2, column % 2)
            if other in blocks:
                shifted = _shift(_shift(blocks[other], row // 2, rows, 0), column // 2, columns, 1)
                slots.append(Slot(shifted, coupling))
        return slots

    def _words(
        self,
        parity: Parity,
        shape: tuple[int, ...],
        words: UInt32[Array, "chains 2"],
        step: UInt32[Array, " chains"],
    ) -> UInt32[Array, "rows columns chains"]:
        row = 2 * np.arange(shape[0], dtype=np.uint32) + parity[0]
        column = 2 * np.arange(shape[1], dtype=np.uint32) + parity[1]
        site = jnp.asarray(row[:, None] * np.uint32(self.grid.width) + column)[..., None]
        return rng.site_words(words, step, site)[0]


def _shift(block: Array, by: int, length: int, axis: int) -> Array:
    """Returns block[(i + by) mod size] for i < length along an axis.

    Wrapping is what a periodic side needs; on a free one the coupling there is zero and the value does not matter.
    """
    size = block.shape[axis]
    start = by % size
    if start == 0 and length == size:
        return block
    take = lambda lo, hi: jax.lax.slice_in_dim(block, lo, hi, axis=axis)  # noqa: E731
    parts = [take(start, min(size, start + length))]
    missing = length - parts[0].shape[axis]
    while missing > 0:
        parts.append(take(0, min(size, missing)))
        missing -= parts[-1].shape[axis]
    return jnp.concatenate(parts, axis=axis)
