"""Ising grids with tied parameters, 32 sites to a machine word.

As on the grid path, the lattice is cut by parity of row and column into four sublattices, sites (2i + a, 2j + b). Each
is cut further into 32 equal tiles, `tall` × `wide`. Bit t of word (i, j) is site (i, j) of tile t. A neighbour is then
the same bit of the neighbouring word, and a shifted read is a slice. Only in the border are bits rotated by a tile.

With one coupling a direction and one bias, a site is up with one of nine probabilities T / 2²⁴, which depends on how
many neighbours are up along rows and along columns. u < T, for a uniform u of 24 bits, is decided by bit-sliced
comparison. First come the upper 8 bits, plane by plane, where a random word is one bit of 32 sites; after them a site
is undecided with probability 2⁻⁸. The first four undecided sites of a word take their lower 16 bits from two further
words. A fifth takes the likelier value: a site is such a fifth with probability at most C(31, 4) 2⁻⁴⁰ < 2⁻²⁵. T is
rounded by at most 2⁻²⁵, so probabilities are right to 2⁻²⁴, as on every path; those of 0 and 1 are exact. Ten random
words serve 32 sites, where other paths take 32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt32

from ebm_jax import rng
from ebm_jax.chains import with_leading_axes
from ebm_jax.graphs.blocks import BlockSpec
from ebm_jax.graphs.grids import Grid
from ebm_jax.lattice.base import Layout
from ebm_jax.lattice.grid import GridLayout, Packs
from ebm_jax.types import PyTree

# The first two sublattices are one colour of the checkerboard, the last two the other.
PARITIES = ((0, 0), (1, 1), (0, 1), (1, 0))
WORD = 32
PLANES = 8
TAILS = 4
# Cipher calls, of two words each, for each word of sites.
CALLS = (PLANES + TAILS // 2) // 2


class TiedParameters(NamedTuple):
    """The parameters with a chain axis last; couplings are horizontal, vertical."""

    bias: Float[Array, " c"]
    coupling: Float[Array, "2 c"]


class Thresholds(NamedTuple):
    """Thresholds T for each number of neighbours that are up, along columns and along rows, `(3, 3, c)`.

    Attributes:
      planes: The upper 8 bits of T, highest first, each as a word of all zeros or all ones.
      rest: What is left of T, 0 … 2¹⁶.
    """

    planes: UInt32[Array, "8 3 3 c"]
    rest: UInt32[Array, "3 3 c"]


def tiling(grid: Grid) -> tuple[int, int] | None:
    """Returns how many tiles a sublattice has, down and across, or None where 32 equal ones do not fit."""
    if grid.height % 2 or grid.width % 2:
        return None
    h, w = grid.height // 2, grid.width // 2
    fits = [
        (h // tall + w // (WORD // tall), tall)
        for tall in (1, 2, 4, 8, 16, 32)
        if h % tall == 0 and w % (WORD // tall) == 0
    ]
    if not fits:
        return None
    # The tiling with the shortest border.
    tall = min(fits)[1]
    return tall, WORD // tall


@dataclass(frozen=True)
class BitsLayout(Layout):
    """An Ising model with one bias and tied couplings on a periodic grid. There are no index tables.

    A configuration is four arrays `(rows + 2, columns + 2, chains)` of uint32, with a border of width one. Only the
    sides of the border that are read are kept up to date.

    Attributes:
      grid: The grid.
      order: For each group of the block specification, the colour that it draws.
    """

    grid: Grid
    order: tuple[int, ...]

    path = "bits"

    @classmethod
    def obstacle(cls, model: Any, spec: BlockSpec) -> str | None:
        """Says why a model and its blocks do not fit, or returns None when they do."""
        found = GridLayout.obstacle(model, spec)
        if found is not None:
            return found
        if not model.spins or model.coupling != "tied" or model.params_struct().bias.shape != ():
            return 'only Ising(grid, bias="tied") with tied couplings has few enough probabilities'
        if not model.graph.periodic or model.graph.neighbourhood != 4:
            return "its grid is not periodic with four neighbours"
        if tiling(model.graph) is None:
            return "the quarter of its grid of one parity does not cut into 32 equal tiles"
        return None

    @classmethod
    def build(cls, model: Any, spec: BlockSpec) -> tuple[BitsLayout, PyTree]:
        """Returns the layout of a model that fits, and no tables."""
        order = tuple(sum(divmod(int(sites[0]), model.graph.width)) % 2 for sites in spec.groups)
        return cls(model.graph, order), ()

    @property
    def cut(self) -> tuple[int, int]:
        """Tiles of a sublattice, down and across."""
        found = tiling(self.grid)
        assert found is not None
        return found

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of words of a sublattice."""
        tall, wide = self.cut
        return self.grid.height // 2 // tall, self.grid.width // 2 // wide

    def pack(self, tables: PyTree, x: Bool[Array, "chains h w"]) -> Packs:
        """Lays out `(chains, height, width)`."""
        del tables
        (tall, wide), (rows, columns) = self.cut, self.size
        bit = np.arange(WORD, dtype=np.uint32).reshape(tall, 1, wide, 1)
        packs = []
        for a, b in PARITIES:
            tiles = x[:, a::2, b::2].reshape(-1, tall, rows, wide, columns)
            word = jnp.sum(tiles.astype(jnp.uint32) << bit[None], axis=(1, 3), dtype=jnp.uint32)
            word = jnp.pad(jnp.moveaxis(word, 0, -1), ((1, 1), (1, 1), (0, 0)))
            packs.append(self._wrap(word, (a, b)))
        return tuple(packs)

    def unpack(self, tables: PyTree, packs: Packs) -> Bool[Array, "chains h w"]:
        """The inverse of `pack`."""
        del tables
        (tall, wide), (rows, columns) = self.cut, self.size
        bit = np.arange(WORD, dtype=np.uint32).reshape(tall, 1, wide, 1)
        parts = {}
        for parity, array in zip(PARITIES, packs, strict=True):
            word = jnp.moveaxis(array[1:-1, 1:-1], -1, 0)[:, None, :, None, :]
            parts[parity] = ((word >> bit[None]) & np.uint32(1)).reshape(-1, tall * rows, wide * columns)
        woven = jnp.stack([jnp.stack([parts[a, b] for b in range(2)], axis=3) for a in range(2)], axis=2)
        return woven.reshape(-1, self.grid.height, self.grid.width) != 0

    def prepare(self, tables: PyTree, params: PyTree) -> TiedParameters:
        """Takes parameters that carry a chain axis last (1 where all chains share them)."""
        del tables
        return TiedParameters(params.bias, params.coupling)

    def weigh(self, prepared: TiedParameters, beta: Array, odds: bool) -> Thresholds:
        """Returns what `update` reads at one β: T = 2²⁴ σ(2β (b + J_h s_h + J_v s_v)), sums s in (−2, 0, 2)."""
        del odds
        down, across = prepared.coupling[1], prepared.coupling[0]
        s = np.asarray([-2.0, 0.0, 2.0], np.float32)[:, None]
        bias, beta = (with_leading_axes(each, 3) for each in (prepared.bias, beta))
        field = bias + (down[None] * s)[:, None] + (across[None] * s)[None, :]
        t = jnp.round(jax.nn.sigmoid(2 * beta * field).astype(jnp.float32) * 2.0**24).astype(jnp.uint32)
        # T = 2²⁴ would need a 25th bit: its rest is 2¹⁶ instead.
        upper = jnp.minimum(t >> np.uint32(16), np.uint32(255))
        order = np.arange(PLANES - 1, -1, -1, dtype=np.uint32).reshape(-1, 1, 1, 1)
        planes = jnp.where((upper[None] >> order) & np.uint32(1) != 0, np.uint32(0xFFFFFFFF), np.uint32(0))
        return Thresholds(planes, t - (upper << np.uint32(16)))

    def update(
        self,
        group: int,
        tables: PyTree,
        weights: Thresholds,
        odds: bool,
        words: UInt32[Array, "chains 2"],
        step: UInt32[Array, " chains"],
        packs: Packs,
        masks: Packs | None,
    ) -> Packs:
        """Redraws a colour, one sublattice after the other (they share no edge), except where `masks` holds it."""
        del tables, odds
        rows, columns = self.size
        changed = list(packs)
        for number in (2 * self.order[group], 2 * self.order[group] + 1):
            place = (number * rows + np.arange(rows)[:, None]) * columns + np.arange(columns)
            first = jnp.asarray(place * CALLS, jnp.uint32)[..., None]
            random: list[Array] = []
            for call in range(CALLS):
                random += rng.site_words(words, step, first + np.uint32(call))
            neighbours = self._neighbours(PARITIES[number], changed)
            new = _draw(weights, neighbours, random[:PLANES], random[PLANES:])
            if masks is not None:
                held = masks[number][1:-1, 1:-1]
                new = (changed[number][1:-1, 1:-1] & held) | (new & ~held)
            updated = jax.lax.dynamic_update_slice(changed[number], new, (1, 1, 0))
            changed[number] = self._wrap(updated, PARITIES[number])
        return tuple(changed)

    def energies(self, params: PyTree, packs: Packs) -> Float[Array, " chains"]:
        """Returns E of every chain under shared parameters, by counting bits: spins up, and unequal neighbours."""

        def count(words: Array) -> Array:
            return jax.lax.population_count(words).sum(axis=(0, 1), dtype=jnp.uint32)

        up = sum((count(array[1:-1, 1:-1]) for array in packs), jnp.zeros((), jnp.uint32))
        # Unequal neighbours along rows, along columns. Every edge has one end in the first colour.
        unequal = [jnp.zeros((), jnp.uint32)] * 2
        for number in range(2):
            here = packs[number][1:-1, 1:-1]
            below, above, right, left = self._neighbours(PARITIES[number], packs)
            unequal[0] += count(here ^ right) + count(here ^ left)
            unequal[1] += count(here ^ below) + count(here ^ above)
        # There are as many edges along rows, and as many along columns, as sites.
        n = self.grid.n_sites
        down, across = (n - 2.0 * u.astype(params.coupling.dtype) for u in (unequal[1], unequal[0]))
        magnetisation = 2.0 * up.astype(params.bias.dtype) - n
        return -(params.bias * magnetisation + params.coupling[0] * across + params.coupling[1] * down)

    def _neighbours(self, parity: tuple[int, int], packs: Any) -> tuple[Array, Array, Array, Array]:
        """Returns the words below, above, right and left of a sublattice's words."""
        rows, columns = self.size
        found = []
        for down, right in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            row, column = parity[0] + down, parity[1] + right
            top, left = 1 + row // 2, 1 + column // 2
            array = packs[PARITIES.index((row % 2, column % 2))]
            found.append(array[top : top + rows, left : left + columns])
        return found[0], found[1], found[2], found[3]

    def _wrap(self, array: Array, parity: tuple[int, int]) -> Array:
        """Fills the sides of the border that are read: above where a = 1, else below; left where b = 1, else right.

        Corners are never read. Both sides are read before either is written, so that nothing is copied.
        """
        sides, targets = [], []
        for axis in range(2):
            last = array.shape[axis] - 1
            source, target, by = ((1, last, -1), (last - 1, 0, 1))[parity[axis]]
            side = jax.lax.slice_in_dim(array, source, source + 1, axis=axis)
            sides.append(self._shift_tiles(side, axis, by))
            targets.append(target)
        array, row, column = jax.lax.optimization_barrier((array, *sides))
        array = jax.lax.dynamic_update_slice_in_dim(array, row, targets[0], axis=0)
        return jax.lax.dynamic_update_slice_in_dim(array, column, targets[1], axis=1)

    def _shift_tiles(self, word: UInt32[Array, "..."], axis: int, by: int) -> UInt32[Array, "..."]:
        """Moves every bit one tile forward (`by` 1) or back (−1) along an axis, around the torus."""
        tall, wide = self.cut
        if axis == 0:
            # A row of tiles is `wide` bits, so this rotates the word.
            if tall == 1:
                return word
            shift = by * wide % WORD
            return (word << np.uint32(shift)) | (word >> np.uint32(WORD - shift))
        if wide == 1:
            return word
        leftmost = np.uint32(sum(1 << (row * wide) for row in range(tall)))
        rightmost = np.uint32(int(leftmost) << (wide - 1))
        one, rest = np.uint32(1), np.uint32(wide - 1)
        if by == 1:
            return ((word & ~rightmost) << one) | ((word & rightmost) >> rest)
        return ((word & ~leftmost) >> one) | ((word & leftmost) << rest)


def _draw(
    t: Thresholds, neighbours: tuple[Array, Array, Array, Array], planes: list[Array], tails: list[Array]
) -> UInt32[Array, "rows columns chains"]:
    """Returns new words from the neighbours, 8 random planes and 2 words of 2 tails each."""
    below, above, right, left = neighbours
    # Where 0, 1 and 2 of the two neighbours are up.
    down = (~(below | above), below ^ above, below & above)
    across = (~(right | left), right ^ left, right & left)
    planes_of_threshold, rest_of_threshold = t.planes[..., None, None, :], t.rest[..., None, None, :]
    classes = [(i, j, down[i] & across[j]) for i in range(3) for j in range(3)]

    def plane(k: int) -> Array:
        bit = classes[0][2] & planes_of_threshold[k, 0, 0]
        for i, j, members in classes[1:]:
            bit = bit | (members & planes_of_threshold[k, i, j])
        return bit

    top = plane(0)
    less, equal = top & ~planes[0], ~(top ^ planes[0])
    for k in range(1, PLANES):
        bit = plane(k)
        less = less | (equal & bit & ~planes[k])
        equal = equal & ~(bit ^ planes[k])
    for i in range(TAILS):
        # The lowest undecided site.
        first = equal & (np.uint32(0) - equal)
        equal = equal ^ first
        down1, down2, across1, across2 = (
            (first & where) != 0 for where in (down[1], down[2], across[1], across[2])
        )
        by_row = [jnp.where(across2, r[2], jnp.where(across1, r[1], r[0])) for r in rest_of_threshold]
        rest = jnp.where(down2, by_row[2], jnp.where(down1, by_row[1], by_row[0]))
        tail = tails[i // 2] >> np.uint32(16) if i % 2 else tails[i // 2] & np.uint32(0xFFFF)
        less = less | jnp.where(tail < rest, first, np.uint32(0))
    return less | (equal & top)
