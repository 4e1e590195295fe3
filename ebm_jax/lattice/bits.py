"""Ising grids with tied parameters, 32 sites to a machine word.

As on the grid path, the lattice is cut by parity of row and column into four sublattices, sites (2i + a, 2j + b). Each
is cut further into 32 equal tiles, `tall` × `wide`; bit t of word (i, j) is site (i, j) of tile t. A neighbour is then
the same bit of the neighbouring word and a shifted read a slice; only in the border are bits rotated by a tile.

With one coupling a direction and one bias, a site is up with one of nine probabilities, T / 2²⁴, by how many neighbours
are up along rows and along columns. u < T, for a uniform u of 24 bits, is decided by bit-sliced comparison: the upper 8
bits plane by plane, a random word being one bit of 32 sites, after which a site is undecided with probability 2⁻⁸. The
first four undecided sites of a word take their lower 16 bits from two further words; a fifth takes the likelier value.
A site is such a fifth with probability at most C(31, 4) 2⁻⁴⁰ < 2⁻²⁵, and T is rounded by at most 2⁻²⁵: probabilities
are right to 2⁻²⁴, as on every path, and those of 0 and 1 exact. Ten random words serve 32 sites, where other paths take
32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt32

from ebm_jax import rng
from ebm_jax.graphs.blocks import BlockSpec
from ebm_jax.graphs.grids import Grid
from ebm_jax.lattice import grid
from ebm_jax.types import PyTree

PARITIES = ((0, 0), (1, 1), (0, 1), (1, 0))  # the first two are one colour, the others the other
WORD = 32
PLANES = 8
TAILS = 4
CALLS = (PLANES + TAILS // 2) // 2  # cipher calls of two words for each word of sites

Packs = tuple[Array, ...]


def obstacle(model: Any, spec: BlockSpec) -> str | None:
    """Says why a model and its blocks do not fit, or None when they do."""
    found = grid.obstacle(model, spec)
    if found is not None:
        return found
    if not model.spins or model.coupling != "tied" or model.bias != "tied":
        return 'only Ising(grid, bias="tied") with tied couplings has few enough probabilities'
    if not model.graph.periodic or model.graph.neighbourhood != 4:
        return "its grid is not periodic with four neighbours"
    if tiling(model.graph) is None:
        return "the quarter of its grid of one parity does not cut into 32 equal tiles"
    return None


def build(model: Any, spec: BlockSpec) -> tuple[BitsLayout, PyTree]:
    """Returns the layout of a model that fits; there are no index tables."""
    order = tuple(sum(divmod(int(sites[0]), model.graph.width)) % 2 for sites in spec.groups)
    return BitsLayout(model.graph, order), ()


class Prepared(NamedTuple):
    """bias `(c,)`; coupling `(2, c)`: horizontal, vertical."""

    bias: Float[Array, " c"]
    coupling: Float[Array, "2 c"]


class Thresholds(NamedTuple):
    """T by neighbours up along columns and along rows, `(3, 3, c)`: its upper 8 bits as planes of all zeros or all
    ones, highest first, and the rest, 0 … 2¹⁶.
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
    tall = min(fits)[1]  # the shortest border
    return tall, WORD // tall


@dataclass(frozen=True)
class BitsLayout:
    """Packing and updates of a tied Ising model on a periodic grid; `order` lists the colours as groups are drawn.

    A configuration is four arrays `(rows + 2, columns + 2, chains)` of uint32, with a border of one of which the sides
    that are read are kept up.
    """

    grid: Grid
    order: tuple[int, ...]

    has_odds = False

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
            word = jnp.sum(tiles.astype(jnp.uint32) << bit, axis=(1, 3), dtype=jnp.uint32)
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
            parts[parity] = ((word >> bit) & np.uint32(1)).reshape(-1, tall * rows, wide * columns)
        woven = jnp.stack([jnp.stack([parts[a, b] for b in range(2)], axis=3) for a in range(2)], axis=2)
        return woven.reshape(-1, self.grid.height, self.grid.width) != 0

    pack_mask, unpack_mask = pack, unpack

    def prepare(self, tables: PyTree, params: PyTree) -> Prepared:
        """Takes parameters that carry a chain axis last (1 where all chains share them)."""
        del tables
        return Prepared(params.bias, params.coupling)

    def weigh(self, prepared: Prepared, beta: Array, odds: bool) -> Thresholds:
        """Returns what `update` reads at one β: T = 2²⁴ σ(2β (b + J_h s_h + J_v s_v)), sums s in (−2, 0, 2)."""
        del odds
        down, across = prepared.coupling[1], prepared.coupling[0]
        s = np.asarray([-2.0, 0.0, 2.0], np.float32)[:, None]
        field = prepared.bias + (down * s)[:, None] + (across * s)[None, :]
        t = jnp.round(jax.nn.sigmoid(2 * beta * field).astype(jnp.float32) * 2.0**24).astype(jnp.uint32)
        upper = jnp.minimum(t >> np.uint32(16), np.uint32(255))  # T = 2²⁴ has no 25th bit: its rest is 2¹⁶
        order = np.arange(PLANES - 1, -1, -1, dtype=np.uint32).reshape(-1, 1, 1, 1)
        planes = jnp.where((upper >> order) & np.uint32(1) != 0, np.uint32(0xFFFFFFFF), np.uint32(0))
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
            near = self._neighbours(PARITIES[number], changed)
            new = _draw(weights, near, random[:PLANES], random[PLANES:])
            if masks is not None:
                held = masks[number][1:-1, 1:-1]
                new = (changed[number][1:-1, 1:-1] & held) | (new & ~held)
            whole = jax.lax.dynamic_update_slice(changed[number], new, (1, 1, 0))
            changed[number] = self._wrap(whole, PARITIES[number])
        return tuple(changed)

    def energies(self, params: PyTree, packs: Packs) -> Float[Array, " chains"]:
        """Returns E of every chain, of parameters that all share: spins up and unequal neighbours are bits to count."""
        count = lambda words: jax.lax.population_count(words).sum(axis=(0, 1), dtype=jnp.uint32)  # noqa: E731
        up = sum((count(array[1:-1, 1:-1]) for array in packs), jnp.zeros((), jnp.uint32))
        unequal = [jnp.zeros((), jnp.uint32)] * 2  # along rows, along columns
        for number in range(2):  # one colour, which every edge has an end in
            here = packs[number][1:-1, 1:-1]
            below, above, right, left = self._neighbours(PARITIES[number], packs)
            unequal[0] += count(here ^ right) + count(here ^ left)
            unequal[1] += count(here ^ below) + count(here ^ above)
        n = self.grid.n_sites  # and as many edges along rows as along columns
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

        Both sides are read before either is written (corners never are), so that nothing is copied.
        """
        sides, targets = [], []
        for axis in range(2):
            last = array.shape[axis] - 1
            source, target, by = ((1, last, -1), (last - 1, 0, 1))[parity[axis]]
            side = jax.lax.slice_in_dim(array, source, source + 1, axis=axis)
            sides.append(self._turn(side, axis, by))
            targets.append(target)
        array, row, column = jax.lax.optimization_barrier((array, *sides))
        array = jax.lax.dynamic_update_slice_in_dim(array, row, targets[0], axis=0)
        return jax.lax.dynamic_update_slice_in_dim(array, column, targets[1], axis=1)

    def _turn(self, word: UInt32[Array, "..."], axis: int, by: int) -> UInt32[Array, "..."]:
        """Moves every bit one tile on (`by` 1) or back (−1) along an axis, around the torus."""
        tall, wide = self.cut
        if axis == 0:  # a tile's row is `wide` bits: a rotation of the whole word
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
    t: Thresholds, near: tuple[Array, Array, Array, Array], planes: list[Array], tails: list[Array]
) -> UInt32[Array, "rows columns chains"]:
    """Returns new words from the neighbours, 8 random planes and 2 words of 2 tails each."""
    below, above, right, left = near
    down = (~(below | above), below ^ above, below & above)  # where 0, 1, 2 of them are up
    across = (~(right | left), right ^ left, right & left)
    classes = [(i, j, down[i] & across[j]) for i in range(3) for j in range(3)]

    def plane(k: int) -> Array:
        bit = classes[0][2] & t.planes[k, 0, 0]
        for i, j, members in classes[1:]:
            bit = bit | (members & t.planes[k, i, j])
        return bit

    top = plane(0)
    less, equal = top & ~planes[0], ~(top ^ planes[0])
    for k in range(1, PLANES):
        bit = plane(k)
        less = less | (equal & bit & ~planes[k])
        equal = equal & ~(bit ^ planes[k])
    for i in range(TAILS):
        first = equal & (np.uint32(0) - equal)  # the lowest undecided site
        equal = equal ^ first
        down1, down2, across1, across2 = (
            (first & where) != 0 for where in (down[1], down[2], across[1], across[2])
        )
        by_row = [jnp.where(across2, r[2], jnp.where(across1, r[1], r[0])) for r in t.rest]
        rest = jnp.where(down2, by_row[2], jnp.where(down1, by_row[1], by_row[0]))
        tail = tails[i // 2] >> np.uint32(16) if i % 2 else tails[i // 2] & np.uint32(0xFFFF)
        less = less | jnp.where(tail < rest, first, np.uint32(0))
    return less | (equal & top)
