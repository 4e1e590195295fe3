"""Grids: four sublattices by parity of row and column, neighbours by shifts.

A sublattice (a, b) holds the sites (2i + a, 2j + b) as rows i and columns j. The neighbours of all its sites in one
direction are another sublattice, shifted by at most one row and one column, so no index table is needed.

Sublattices that are drawn together share an array of integers `(rows + 2, columns + 2, chains)`, a byte each. With four
neighbours these are (0, 0) with (1, 1) and (0, 1) with (1, 0), the two colours of a checkerboard; with eight each
sublattice has its own array. Both words of one cipher call then go to two sites of one array element, and the whole
update compiles to one loop. The border of width one holds the opposite side of a torus; on a free grid its values do
not matter, since couplings there are zero. With a border a shifted read is a slice, which costs no more than an
unshifted read; a roll would be copied, or would split the loop.

Free sides of odd length are padded to even length with sites that have no neighbours. Odd periodic sides do not fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt8, UInt32

from ebm_jax import rng
from ebm_jax.energies.base import PairwiseModel
from ebm_jax.graphs.blocks import BlockSpec
from ebm_jax.graphs.grids import Grid
from ebm_jax.lattice.base import Layout
from ebm_jax.lattice.fields import Site, Slots, Weights, draw_levels, draw_spins, largest_log_odds, weigh
from ebm_jax.types import PyTree

Parity = tuple[int, int]
Packs = tuple[Array, ...]

PAIRS = (((0, 0), (1, 1)), ((0, 1), (1, 0)))
SINGLES = (((0, 0),), ((0, 1),), ((1, 0),), ((1, 1),))


def site_counters(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Returns the cipher counter of every site, uint32, and whether it takes the second word: pairs share a call."""
    row, column = np.divmod(np.arange(grid.n_sites), grid.width)
    width = -(-grid.width // 2)
    counter = (row // 2 * width + column // 2) * 2 + (row + column) % 2
    return counter.astype(np.uint32), (row % 2).astype(bool)


@dataclass(frozen=True)
class GridLayout(Layout):
    """An Ising or Potts model on a grid with its default blocks. There are no index tables.

    Attributes:
      grid: The grid.
      coupling: "tied", "edge" or "matrix".
      n_levels: Levels of a site.
      spins: Whether sites are ±1, stored as bool.
      order: For each group of the block specification, the number of the array that holds it.
    """

    grid: Grid
    coupling: str
    n_levels: int
    spins: bool
    order: tuple[int, ...]

    path = "grid"
    has_odds = True

    @classmethod
    def obstacle(cls, model: Any, spec: BlockSpec) -> str | None:
        """Says why a model and its blocks do not fit, or returns None when they do."""
        graph = model.graph
        if not isinstance(graph, Grid):
            return "its graph is not a Grid"
        if not isinstance(model, PairwiseModel):
            return "it has no couplings on the edges of its graph"
        if graph.periodic and (graph.height % 2 or graph.width % 2):
            return "a periodic side of odd length has no checkerboard"
        own = model.default_spec()
        if spec is not own and {s.tobytes() for s in spec.groups} != {s.tobytes() for s in own.groups}:
            return "its blocks are not the grid's checkerboard"
        return None

    @classmethod
    def build(cls, model: Any, spec: BlockSpec) -> tuple[GridLayout, PyTree]:
        """Returns the layout of a model that fits, and no tables."""
        first = [divmod(int(sites[0]), model.graph.width) for sites in spec.groups]
        packs = PAIRS if model.graph.neighbourhood == 4 else SINGLES
        order = [
            next(i for i, pack in enumerate(packs) if (row % 2, column % 2) in pack) for row, column in first
        ]
        return cls(model.graph, model.coupling, model.n_levels, model.spins, tuple(order)), ()

    @property
    def packs(self) -> tuple[tuple[Parity, ...], ...]:
        """The sublattices of each array."""
        return PAIRS if self.grid.neighbourhood == 4 else SINGLES

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of a sublattice."""
        return -(-self.grid.height // 2), -(-self.grid.width // 2)

    def pack(self, tables: PyTree, x: Bool[Array, "chains h w"] | UInt8[Array, "chains h w"]) -> Packs:
        """Lays out `(chains, height, width)`."""
        del tables
        levels = self._even(jnp.moveaxis(x, 0, -1).astype(jnp.uint8))
        return tuple(
            self._with_border(self._join([levels[a::2, b::2] for a, b in pack])) for pack in self.packs
        )

    def unpack(self, tables: PyTree, packs: Packs) -> Bool[Array, "chains h w"] | UInt8[Array, "chains h w"]:
        """The inverse of `pack`."""
        del tables
        rows, columns = self.size
        parts = {}
        for pack, array in zip(self.packs, packs, strict=True):
            for half, parity in enumerate(pack):
                parts[parity] = _byte(array[1:-1, 1:-1], half)
        woven = jnp.stack([jnp.stack([parts[a, b] for b in range(2)], axis=2) for a in range(2)], axis=1)
        image = woven.reshape(2 * rows, 2 * columns, -1)[: self.grid.height, : self.grid.width]
        return jnp.moveaxis(image, -1, 0).astype(jnp.bool_ if self.spins else jnp.uint8)

    def pack_mask(self, tables: PyTree, mask: Bool[Array, "chains h w"]) -> Packs:
        """Lays out a mask as bytes of ones where it is True."""
        return self.pack(tables, jnp.where(mask, jnp.uint8(255), jnp.uint8(0)))

    def unpack_mask(self, tables: PyTree, packs: Packs) -> Bool[Array, "chains h w"]:
        """The inverse of `pack_mask`."""
        return self.unpack(tables, packs).astype(jnp.bool_)

    def prepare(self, tables: PyTree, params: PyTree) -> tuple[tuple[Site, ...], ...]:
        """Lays out parameters that carry a chain axis last (1 where all chains share them)."""
        del tables
        levels = () if self.spins else (self.n_levels,)
        # A tied bias becomes one bias a site.
        bias = jnp.broadcast_to(params.bias, (*self.grid.shape, *levels, params.bias.shape[-1]))
        bias = self._even(bias)
        bias = bias if self.spins else jnp.moveaxis(bias, 2, 0)
        images = self._coupling_images(params.coupling)

        def site(a: int, b: int) -> Site:
            couplings = []
            for (down, right), image in images:
                # The edge to the opposite side belongs to that neighbour, so the levels of its table swap places.
                back = jnp.roll(image, (down, right), axis=(-3, -2))
                back = jnp.swapaxes(back, 0, 1) if self.coupling == "matrix" else back
                couplings += [image[..., a::2, b::2, :], back[..., a::2, b::2, :]]
            return Site(bias[..., a::2, b::2, :], tuple(couplings))

        return tuple(tuple(site(a, b) for a, b in pack) for pack in self.packs)

    def largest_log_odds(self, prepared: tuple[tuple[Site, ...], ...]) -> Array:
        """Returns a bound on |logit| at β = 1."""
        return jnp.max(jnp.stack([largest_log_odds(site, self.spins) for pack in prepared for site in pack]))

    def weigh(self, prepared: PyTree, beta: Array, odds: bool) -> tuple[tuple[Weights, ...], ...]:
        """Returns what `update` reads at one β."""
        return tuple(tuple(weigh(site, self.spins, beta, odds) for site in pack) for pack in prepared)

    def update(
        self,
        group: int,
        tables: PyTree,
        weights: tuple[tuple[Weights, ...], ...],
        odds: bool,
        words: UInt32[Array, "chains 2"],
        step: UInt32[Array, " chains"],
        packs: Packs,
        masks: Packs | None,
    ) -> Packs:
        """Redraws every site of a group from its conditional, except where `masks` holds it."""
        del tables
        number = self.order[group]
        pack, (rows, columns) = self.packs[number], self.size
        counter = 2 * (np.arange(rows)[:, None] * columns + np.arange(columns)) + sum(pack[0]) % 2
        both = rng.site_words(words, step, jnp.asarray(counter, jnp.uint32)[..., None])
        drawn = []
        for parity, own in zip(pack, weights[number], strict=True):
            slots, word = self._neighbours(parity, packs), both[parity[0]]
            if self.spins:
                drawn.append(draw_spins(own, slots, odds, word))
            else:
                drawn.append(draw_levels(self.n_levels, own, slots, odds, word))
        new = self._join(drawn)
        if masks is not None:
            held = masks[number][1:-1, 1:-1]
            new = (packs[number][1:-1, 1:-1] & held) | (new & ~held)
        changed = jax.lax.dynamic_update_slice(packs[number], new, (1, 1, 0))
        changed = self._wrap(changed) if self.grid.periodic else changed
        return (*packs[:number], changed, *packs[number + 1 :])

    def _neighbours(self, parity: Parity, packs: Packs) -> Slots:
        """Returns the neighbours of a sublattice, in the order of the couplings in `Site`."""
        place = {p: (number, half) for number, pack in enumerate(self.packs) for half, p in enumerate(pack)}
        rows, columns = self.size
        found = []
        for down, right in (s for d in self.grid.directions for s in (d, (-d[0], -d[1]))):
            row, column = parity[0] + down, parity[1] + right
            number, half = place[row % 2, column % 2]
            top, left = 1 + row // 2, 1 + column // 2
            found.append(_byte(packs[number][top : top + rows, left : left + columns], half))
        return Slots(len(found), found.__getitem__)

    def _coupling_images(self, values: Array) -> list[tuple[Parity, Array]]:
        """Returns the couplings of every direction, `(*levels, 2 rows, 2 columns, c)`.

        A coupling stands at the first site of its edge; where a site is the first of none there is a 0.
        """
        grid, images, start = self.grid, [], 0
        height, width = (2 * n for n in self.size)
        for number, (down, right) in enumerate(grid.directions):
            rows, columns = grid.edge_shape((down, right))
            if self.coupling == "tied":
                image = jnp.broadcast_to(values[number], (rows, columns, *values.shape[1:]))
            else:
                image = values[start : start + rows * columns].reshape(rows, columns, *values.shape[1:])
                start += rows * columns
            left = 0 if grid.periodic else max(0, -right)
            padding = [(0, height - rows), (left, width - columns - left)] + [(0, 0)] * (image.ndim - 2)
            images.append(((down, right), jnp.moveaxis(jnp.pad(image, padding), (0, 1), (-3, -2))))
        return images

    def _even(self, image: Array) -> Array:
        """Pads the first two axes to even lengths with zeros."""
        rows, columns = self.size
        missing = [(0, 2 * rows - self.grid.height), (0, 2 * columns - self.grid.width)]
        return jnp.pad(image, missing + [(0, 0)] * (image.ndim - 2))

    @staticmethod
    def _join(halves: list[Array]) -> Array:
        if len(halves) == 1:
            return halves[0].astype(jnp.uint8)
        return halves[0].astype(jnp.uint16) | (halves[1].astype(jnp.uint16) << np.uint16(8))

    def _with_border(self, inner: Array) -> Array:
        return jnp.pad(inner, ((1, 1), (1, 1), (0, 0)), mode="wrap" if self.grid.periodic else "constant")

    def _wrap(self, array: Array) -> Array:
        """Copies each side of a torus to the border beyond the opposite side; rows first, so that corners follow."""
        for axis in range(2):
            last = array.shape[axis] - 1
            for source, target in ((last - 1, 0), (1, last)):
                side = jax.lax.slice_in_dim(array, source, source + 1, axis=axis)
                array = jax.lax.dynamic_update_slice_in_dim(array, side, target, axis=axis)
        return array


def _byte(array: Array, half: int) -> Array:
    """Returns one of the sublattices that share an array."""
    if array.dtype == jnp.uint8:
        return array
    return (array >> np.uint16(8) if half else array & np.uint16(255)).astype(jnp.uint8)
