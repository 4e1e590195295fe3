"""The contrastive gradient of an RBM written out, and sweeps that hand over the matrix product it needs.

With y = b + vᵀW the inputs of hidden units, p their means σ(y) (of spins tanh y), and ⟨⟩ a mean over the data less one
over the negatives, the gradient of mean F(data) − mean F(negatives) is

    ∂W = −⟨v pᵀ⟩,   ∂a = −⟨v⟩,   ∂b = −⟨p⟩.

That is one product with the weights for both sides and one for their gradient. A Gibbs sweep that ends with the hidden
layer draws it from the very vᵀW that the gradient needs at the negatives, so five products make an update of PCD-1
instead of six.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ebm_jax.energies.rbm import RBM, RBMParams
from ebm_jax.energies.target import Target
from ebm_jax.rng import chain_words
from ebm_jax.samplers.discrete import count_nonfinite
from ebm_jax.samplers.gibbs import Gibbs, PackedGibbs
from ebm_jax.types import Info, Key, PyTree

# Logarithms are taken of products of as many factors of ½ to 1, which float32 holds.
_MOST_FACTORS = 100


class HiddenInputs(NamedTuple):
    """What a hidden layer was drawn from.

    Attributes:
      values: The visible units as weights multiply them, `(n_visible, n_chains)`.
      products: Wᵀ times the values, `(n_hidden, n_chains)`.
    """

    values: Float[Array, "n_visible c"]
    products: Float[Array, "n_hidden c"]


def fits(target: Target) -> bool:
    """Whether the gradient here is that of the target's free energy; a subclass of RBM may have another one."""
    model = target.model
    return (
        target.free_energy is not None
        and isinstance(model, RBM)
        and type(model).free_energy is RBM.free_energy
    )


def contrast(
    params: RBMParams, model: RBM, data: Array, negatives: Any
) -> tuple[Float[Array, ""], Float[Array, ""], RBMParams]:
    """Returns mean F(data), Σ weight · F(negatives), and the gradient of their difference.

    Data become columns, as chains are where they are sampled.

    Args:
      params: The parameters.
      model: The RBM, of units 0 and 1 or of spins.
      data: Visible units, `(n, n_visible)`.
      negatives: Visible units `(m, n_visible)` with weights, and `hidden_inputs` where they are known.

    Returns:
      Both means, and the gradient.
    """
    n, m, dtype = len(data), len(negatives.positions), params.weights.dtype
    weights = negatives.weights
    weights = jnp.full((m,), 1 / m, dtype) if weights is None else weights.astype(dtype)

    def values_of(units: Array) -> Array:
        return 2 * units.astype(dtype) - 1 if model.spins else units.astype(dtype)

    # The barrier keeps the conversion of rows, which is quick, apart from their transposition.
    rows = jax.lax.optimization_barrier(values_of(data))
    to_hidden = jax.lax.optimization_barrier(params.weights.T)
    if negatives.hidden_inputs is None:
        chains = values_of(negatives.positions.T)
        visible = jnp.concatenate([rows.T, chains], axis=1)
        products = jnp.dot(to_hidden, visible, precision="highest")
    else:
        chains, of_chains = (leaf.astype(dtype) for leaf in negatives.hidden_inputs)
        visible = jnp.concatenate([rows.T, chains], axis=1)
        of_rows = jnp.dot(to_hidden, rows.T, precision="highest")
        products = jnp.concatenate([of_rows, of_chains], axis=1)
    y = jax.lax.optimization_barrier(params.hidden_bias[:, None] + products)
    # With p = σ(y), softplus(y) = max(y, 0) − log max(p, 1 − p), and of spins log 2cosh(y) = |y| − the same at 2y.
    # Logarithms cost the most: one is taken of the product of many factors.
    p = jax.lax.optimization_barrier(jax.nn.sigmoid(2 * y if model.spins else y))
    many = max(k for k in range(1, _MOST_FACTORS + 1) if model.n_hidden % k == 0)
    factors = jnp.prod(jnp.maximum(p, 1 - p).reshape(-1, many, n + m), axis=1)
    above = jnp.sum(jnp.abs(y) if model.spins else jnp.maximum(y, 0), axis=0)
    summed = above - jnp.sum(jnp.log(factors), axis=0)
    signed = jnp.concatenate([jnp.full((n,), -1 / n, dtype), weights])
    hidden = (2 * p - 1 if model.spins else p) * signed[None]
    of_data, of_model = jnp.mean(rows, axis=0), jnp.dot(chains, weights, precision="highest")
    gradient = RBMParams(
        jax.lax.dot_general(visible, hidden, (((1,), (1,)), ((), ())), precision="highest"),
        of_model - of_data,
        jnp.sum(hidden, axis=1),
    )
    # A mean energy is −a · mean v − mean Σ log(…).
    return (
        -jnp.sum(params.visible_bias * of_data) - jnp.mean(summed[:n]),
        -jnp.sum(params.visible_bias * of_model) - jnp.sum(weights * summed[n:]),
        gradient,
    )


def ends_with_hidden_layer(kernel: Any) -> bool:
    """Whether a sweep of the kernel draws the hidden layer of an RBM last, given the chains' final visible units."""
    if not isinstance(kernel, Gibbs) or kernel.path != "bipartite":
        return False
    layout: Any = kernel.layout
    return layout.layers[-1] == "hidden"


def packed_steps_with_inputs(
    kernel: Gibbs, keys: Key, params: PyTree, packed: PackedGibbs, n: int
) -> tuple[PackedGibbs, Info, HiddenInputs]:
    """Takes `n` ≥ 1 sweeps at β = 1 as `kernel.packed_steps` does, and returns what the last layer was drawn from.

    The caller can reuse the inputs as long as the parameters have not changed. Steps count as not finite where the
    inputs or the biases are not.

    Args:
      kernel: One that `ends_with_hidden_layer`.
      keys: A key for each chain.
      params: The parameters.
      packed: The chains.
      n: Number of sweeps.

    Returns:
      The chains, the report of every chain, and the inputs of the hidden layer.
    """
    layout: Any = kernel.layout
    tables, words = kernel.tables, chain_words(keys)
    params = jax.lax.stop_gradient(params)
    shared, beta = jax.tree.map(lambda p: jnp.asarray(p)[..., None], params), jnp.ones(1, jnp.float32)
    prepared = layout.prepare(tables, shared)
    weights = layout.weigh(prepared, beta, False)
    last = len(kernel.spec.free) - 1

    def update_groups(carry: PackedGibbs, n_groups: int) -> PackedGibbs:
        blocks = carry.blocks
        for group in range(n_groups):
            blocks = layout.update(group, tables, weights, False, words, carry.step, blocks, carry.masks)
        return carry._replace(blocks=blocks)

    def scan_body(carry: PackedGibbs, _: None) -> tuple[PackedGibbs, None]:
        return update_groups(carry, last + 1)._replace(step=carry.step + jnp.uint32(1)), None

    carry = update_groups(jax.lax.scan(scan_body, packed, length=n - 1)[0], last)
    blocks, operand, products = layout.redraw(
        last, tables, weights, words, carry.step, carry.blocks, carry.masks
    )
    n_chains, n_tiles = len(packed.step), len(blocks.visible)

    def columns(of_tile: Any) -> Array:
        return jnp.concatenate([of_tile(t) for t in range(n_tiles)], axis=-1)[:, :n_chains]

    inputs = HiddenInputs(columns(operand), columns(products))
    # A product with weights that are not finite is not finite. A read of the weights themselves, at a time of the
    # compiler's choice, keeps an optimiser from updating them in place.
    looked_at = (inputs.products, prepared.visible_bias, prepared.hidden_bias)

    def report(step: Array) -> Info:
        return Info.of(n_steps=n, **count_nonfinite(step, n, looked_at, beta[0]))

    new = carry._replace(blocks=blocks, step=carry.step + jnp.uint32(1))
    return new, jax.vmap(report)(packed.step), inputs
