"""Dense graphs: couplings as a matrix, and sites drawn one after the other.

A complete graph needs a block for every site, and a program that names every block compiles for about half a second a
block. Here one loop visits all sites in the order of the blocks, so the program is as long for a thousand blocks as for
one. Sites go in tiles. The fields of a tile are its bias and one matrix product with the whole configuration; while the
sites of the tile are drawn, each is added to the fields of the tile alone. A sweep of n sites takes n² products a
chain, most of them in a few large matrix products.

Chains go in tiles of 64 columns, the last one padded, as in `bipartite`: the order of additions inside a product, and
so every draw, does not depend on how many chains run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt32

from ebm_jax import rng
from ebm_jax.draw import categorical
from ebm_jax.graphs import AnyGraph, Grid, neighbours
from ebm_jax.graphs.blocks import BlockSpec
from ebm_jax.lattice.base import Layout
from ebm_jax.lattice.bipartite import TILE
from ebm_jax.lattice.general import GeneralLayout, edge_rows
from ebm_jax.lattice.grid import site_counters
from ebm_jax.types import PyTree

# Sites of a tile. One row of the matrix meets 64 columns of chains, so smaller products pay for reading it.
SITES = 32
# With more blocks than this, a program that names them compiles for seconds. A torus of odd sides has nine.
MANY_GROUPS = 9
# Automatic choice takes this path where this part of the matrix is filled. With less a loop over the neighbours of each
# site is quicker: of 1,024 sites of degree 12 ten times (an Ising model, 64 chains on one core).
_FILLED = 1 / 8


class DenseTables(NamedTuple):
    """Where sites and couplings lie. Rows are sites in the order of the sweep, then clamped sites, then empty rows.

    Attributes:
      order: int32 `(n_sites,)`, the site in each row.
      back: int32 `(n_sites,)`, the row of each site.
      counter: uint32 `(n_rows,)`, the cipher counter of each row.
      second: bool `(n_rows,)`, where a row takes the second of the cipher's two words.
      coupling: int32 `(n_rows, n_rows)`, the number of the coupling between two rows; without an edge it is the number
        of couplings, where a zero stands.
      forward: bool `(n_rows, n_rows)`, True where the first row is the first site of the edge.
      n_free: int32, the rows that are drawn.
    """

    order: Int[Array, " n_sites"]
    back: Int[Array, " n_sites"]
    counter: UInt32[Array, " n_rows"]
    second: Bool[Array, " n_rows"]
    coupling: Int[Array, "n_rows n_rows"]
    forward: Bool[Array, "n_rows n_rows"]
    n_free: Int[Array, ""]


class DenseParameters(NamedTuple):
    """Parameters as the loop reads them. `a` is K where couplings are tables over levels, and 1 elsewhere.

    Attributes:
      matrix: `(site tiles, SITES·a, n_rows·a)`, with a chain axis last where chains have couplings of their own.
      bias: `(site tiles, SITES, levels, 1 or chains)`, with one level for spins.
    """

    matrix: Float[Array, "tiles width n *c"]
    bias: Float[Array, "tiles sites levels c"]


@dataclass(frozen=True)
class DenseLayout(Layout):
    """An Ising or Potts model on any graph with any blocks, by a matrix of couplings.

    Attributes:
      shape: Shape of a configuration.
      coupling: "tied", "edge" or "matrix".
      n_levels: Levels of a site.
      spins: Whether sites are ±1, stored as bool.
      n_tiles: Tiles of sites that are visited.
    """

    shape: tuple[int, ...]
    coupling: str
    n_levels: int
    spins: bool
    n_tiles: int

    path = "dense"

    @classmethod
    def obstacle(cls, model: Any, spec: BlockSpec) -> str | None:
        """Says why a model does not fit, or returns None when it does."""
        return GeneralLayout.obstacle(model, spec)

    @classmethod
    def pays(cls, model: Any, spec: BlockSpec) -> bool:
        """Returns whether there are many blocks, and the matrix is well filled."""
        filled = 2 * model.graph.n_edges >= _FILLED * model.graph.n_sites**2
        return len(spec.free) > MANY_GROUPS and filled

    @classmethod
    def build(cls, model: Any, spec: BlockSpec) -> tuple[DenseLayout, DenseTables]:
        """Returns the layout and tables of an Ising or Potts model under blocks that fit its graph."""
        graph, n = model.graph, model.graph.n_sites
        order = np.concatenate([*spec.groups, spec.clamped_sites]).astype(np.int32)
        back = np.empty_like(order)
        back[order] = np.arange(n, dtype=np.int32)
        n_rows = -(-n // SITES) * SITES
        adjacency = neighbours(graph)
        edges = edge_rows(graph, adjacency, model.coupling, back)
        own = np.repeat(back, np.diff(edges.starts))
        coupling = np.full((n_rows, n_rows), edges.n_couplings, np.int32)
        coupling[own, edges.row] = edges.coupling
        forward = np.ones((n_rows, n_rows), bool)
        forward[own, edges.row] = edges.forward
        counter, second = (np.pad(column[order], (0, n_rows - n)) for column in counters(graph))
        n_free = n - len(spec.clamped_sites)
        layout = cls(graph.shape, model.coupling, model.n_levels, model.spins, -(-n_free // SITES))
        tables = (order, back, counter, second, coupling, forward, np.int32(n_free))
        return layout, DenseTables(*jax.device_put(tables))

    def n_updates(self, spec: BlockSpec) -> int:
        """Returns 1: an update visits all sites."""
        del spec
        return 1

    def pack(self, tables: DenseTables, x: Array) -> Float[Array, "chain_tiles n_rows levels TILE"]:
        """Cuts chains into tiles: ±1 for spins, one-hot vectors for levels. Empty rows are zero."""
        rows = self._rows(tables, x)
        if self.spins:
            values = jnp.where(rows, 1.0, -1.0)[:, None]
        else:
            values = jax.nn.one_hot(rows, self.n_levels, axis=1)
        values = jnp.pad(values, ((0, len(tables.counter) - len(tables.order)), (0, 0), (0, 0)))
        return _tiles(values)

    def unpack(self, tables: DenseTables, packed: Array) -> Array:
        """The inverse of `pack`, with the chains that fill the last tile."""
        values = jnp.moveaxis(packed, 0, -2).reshape(*packed.shape[1:-1], -1)[tables.back]
        rows = values[:, 0] > 0 if self.spins else values.argmax(axis=1).astype(jnp.uint8)
        return rows.T.reshape(-1, *self.shape)

    def pack_mask(self, tables: DenseTables, mask: Array) -> Bool[Array, "chain_tiles n_rows TILE"]:
        """Lays out a mask in rows."""
        rows = self._rows(tables, mask)
        return _tiles(jnp.pad(rows, ((0, len(tables.counter) - len(tables.order)), (0, 0))))

    def unpack_mask(self, tables: DenseTables, masks: Array) -> Array:
        """The inverse of `pack_mask`, with the chains that fill the last tile."""
        rows = jnp.moveaxis(masks, 0, -2).reshape(masks.shape[1], -1)[tables.back]
        return rows.T.reshape(-1, *self.shape)

    def prepare(self, tables: DenseTables, params: PyTree) -> DenseParameters:
        """Lays out parameters that carry a chain axis last (1 where all chains share them)."""
        n_rows, levels = len(tables.counter), 1 if self.spins else self.n_levels
        c = params.bias.shape[-1]
        bias = jnp.broadcast_to(params.bias.reshape(-1, levels, c), (len(tables.order), levels, c))
        bias = jnp.pad(bias[tables.order], ((0, n_rows - len(tables.order)), (0, 0), (0, 0)))
        square = (self.n_levels, self.n_levels) if self._has_tables else ()
        values = params.coupling.reshape(-1, *square, params.coupling.shape[-1])
        values = jnp.concatenate([values, jnp.zeros((1, *values.shape[1:]), values.dtype)])
        # Rows that are not drawn need no fields.
        visited = self.n_tiles * SITES
        matrix = values[tables.coupling[:visited]]
        if self._has_tables:
            forward = tables.forward[:visited, :, None, None, None]
            matrix = jnp.where(forward, matrix, jnp.swapaxes(matrix, 2, 3))
            matrix = jnp.swapaxes(matrix, 1, 2)
        matrix = matrix.reshape(self.n_tiles, -1, n_rows * self._width, matrix.shape[-1])
        matrix = matrix[..., 0] if matrix.shape[-1] == 1 else matrix
        return DenseParameters(matrix, bias[:visited].reshape(self.n_tiles, SITES, levels, c))

    def weigh(
        self, prepared: DenseParameters, beta: Array, odds: bool
    ) -> tuple[DenseParameters, Float[Array, " c"]]:
        """Returns what `update` reads at one β. Scaling fields costs less than scaling the matrix."""
        del odds
        return prepared, 2 * beta if self.spins else beta

    def update(
        self,
        group: int,
        tables: DenseTables,
        weights: tuple[DenseParameters, Array],
        odds: bool,
        words: UInt32[Array, "chains 2"],
        step: UInt32[Array, " chains"],
        packed: Array,
        masks: Array | None,
    ) -> Array:
        """Redraws every free site in turn from its conditional, except where `masks` is True."""
        del group, odds
        parameters, scale = weights
        key_words, steps = _tiles(words.T), _tiles(step[None])
        shared = parameters.matrix.ndim == 3
        scales, biases = _of_tile(scale), _of_tile(parameters.bias)
        matrices = (lambda t: parameters.matrix) if shared else _of_tile(parameters.matrix)

        def sweep_of_tile(t: Any, packed: Array) -> Array:
            own = DenseParameters(matrices(t), biases(t))
            held = None if masks is None else masks[t]
            new = self._sweep(tables, own, scales(t), key_words[t].T, steps[t, 0], packed[t], held)
            return packed.at[t].set(new)

        return jax.lax.fori_loop(0, len(packed), sweep_of_tile, packed)

    def _sweep(
        self,
        tables: DenseTables,
        parameters: DenseParameters,
        scale: Array,
        words: Array,
        step: Array,
        x: Float[Array, "n_rows levels TILE"],
        held: Bool[Array, "n_rows TILE"] | None,
    ) -> Float[Array, "n_rows levels TILE"]:
        """Draws all free sites of a tile of chains."""
        width, (n_rows, levels, n_chains) = self._width, x.shape
        columns = width, levels // width, n_chains
        lower = np.kron(np.tri(SITES, k=-1, dtype=np.float32), np.ones((width, width), np.float32))

        def sweep_sites(tile: Any, x: Array) -> Array:
            first, matrix = tile * SITES, parameters.matrix[tile]
            counter, second = (
                jax.lax.dynamic_slice_in_dim(column, first, SITES)[:, None]
                for column in (tables.counter, tables.second)
            )
            word, other = rng.site_words(words, step, counter)
            word = jnp.where(second, other, word)
            keeps = (first + jnp.arange(SITES) >= tables.n_free)[:, None]
            if held is not None:
                keeps = keeps | jax.lax.dynamic_slice_in_dim(held, first, SITES)
            old = jax.lax.dynamic_slice_in_dim(x, first, SITES)
            noise = _thresholds(word, keeps, old) if self.spins else word
            # Fields start without the sites of the tile that are drawn earlier, which are added as they are drawn.
            corner = jax.lax.dynamic_slice_in_dim(matrix, first * width, SITES * width, axis=1)
            earlier = corner * lower.reshape(*lower.shape, *(1,) * (corner.ndim - 2))
            fields = parameters.bias[tile].reshape(SITES * width, levels // width, -1)
            fields = fields + _product(matrix, x.reshape(n_rows * width, *columns[1:]))
            fields = fields - _product(earlier, old.reshape(SITES * width, *columns[1:]))

            # A loop of single steps: steps written out share their arithmetic badly and take three times as long.
            def draw_site(i: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
                fields, sites = carry
                field = jax.lax.dynamic_slice_in_dim(fields, i * width, width).reshape(levels, n_chains)
                new = self._draw(scale[None] * field, noise[i])
                if not self.spins:
                    new = jnp.where(keeps[i], sites[i], new)
                # The matrix is symmetric, and its rows are contiguous.
                coupling = jax.lax.dynamic_slice_in_dim(corner, i * width, width)
                fields = fields + _product(jnp.swapaxes(coupling, 0, 1), new.reshape(columns))
                return fields, sites.at[i].set(new)

            _, sites = jax.lax.fori_loop(0, SITES, draw_site, (fields, old))
            # Where a field is infinite no threshold holds a spin.
            sites = jnp.where(keeps[:, None], old, sites)
            return jax.lax.dynamic_update_slice_in_dim(x, sites, first, axis=0)

        return jax.lax.fori_loop(0, self.n_tiles, sweep_sites, x)

    def _draw(self, logits: Float[Array, "levels TILE"], noise: Array) -> Float[Array, "levels TILE"]:
        """Draws one site of every chain: ±1, or a one-hot vector."""
        if self.spins:
            return jnp.where(logits > noise[None], 1.0, -1.0)
        return jax.nn.one_hot(categorical(lambda k: logits[k], self.n_levels, noise), self.n_levels, axis=0)

    def _rows(self, tables: DenseTables, x: Array) -> Array:
        return x.reshape(x.shape[0], -1).T[tables.order]

    @property
    def _has_tables(self) -> bool:
        return self.coupling == "matrix"

    @property
    def _width(self) -> int:
        """Rows of the matrix for a site."""
        return self.n_levels if self._has_tables else 1


def counters(graph: AnyGraph) -> tuple[np.ndarray, np.ndarray]:
    """Returns the cipher counter of every site, and whether it takes the second of the cipher's two words."""
    if isinstance(graph, Grid):
        return site_counters(graph)
    return np.arange(graph.n_sites, dtype=np.uint32), np.zeros(graph.n_sites, bool)


def _thresholds(
    word: UInt32[Array, "sites TILE"], keeps: Bool[Array, "sites #TILE"], old: Float[Array, "sites 1 TILE"]
) -> Float[Array, "sites TILE"]:
    """Returns the logits above which spins are up: those of uniform numbers, or infinite where a spin is kept."""
    uniform = rng.uniform(word)
    drawn = jnp.log(uniform) - jnp.log1p(-uniform)
    return jnp.where(keeps, jnp.where(old[:, 0] > 0, -jnp.inf, jnp.inf), drawn)


def _product(matrix: Array, x: Float[Array, "n d TILE"]) -> Float[Array, "m d TILE"]:
    """Returns the matrix times `x`, for each chain its own matrix where there is a chain axis."""
    if matrix.shape[1] == 1:
        return (matrix[..., None] if matrix.ndim == 2 else matrix) * x
    if matrix.ndim == 3:
        return jnp.einsum("ijc,jdc->idc", matrix, x, precision="highest")
    flat = jnp.matmul(matrix, x.reshape(len(x), -1), precision="highest")
    return flat.reshape(-1, *x.shape[1:])


def _tiles(columns: Shaped[Array, "*shape chains"]) -> Shaped[Array, "tiles *shape TILE"]:
    """Cuts the last axis into tiles, the last one filled with zeros, and puts tiles first."""
    n = columns.shape[-1]
    n_tiles = -(-n // TILE)
    padded = jnp.pad(columns, [(0, 0)] * (columns.ndim - 1) + [(0, n_tiles * TILE - n)])
    return jnp.moveaxis(padded.reshape(*columns.shape[:-1], n_tiles, TILE), -2, 0)


def _of_tile(values: Shaped[Array, "*shape c"]) -> Any:
    """Returns, for tile t, its columns, or the one column that all chains share."""
    return (lambda t: values) if values.shape[-1] == 1 else _tiles(values).__getitem__
