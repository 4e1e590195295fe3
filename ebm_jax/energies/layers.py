"""What all RBMs share: a visible and a hidden layer, and weights between them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ebm_jax.checks import check_integer, check_params_fit
from ebm_jax.graphs.blocks import BlockSpec, default_spec
from ebm_jax.graphs.edges import Bipartite
from ebm_jax.types import Key


class TwoLayers:
    """The base of RBMs, frozen dataclasses with fields `n_visible` and `n_hidden`; hidden units have two values.

    A configuration is the pair `(v, h)`. Sites are numbered visible first. A Gibbs sweep draws the hidden layer, then
    the visible one.

    Attributes:
      visible_dtype: Dtype of the visible units in `position_struct`.
    """

    n_visible: int
    n_hidden: int

    visible_dtype: Any = jnp.uint8
    level_counts: Any

    def __post_init__(self) -> None:
        for name in ("n_visible", "n_hidden"):
            object.__setattr__(self, name, check_integer(name, getattr(self, name), 1))

    @property
    def graph(self) -> Bipartite:
        """The complete bipartite graph of visible (left) and hidden (right) units."""
        return Bipartite(self.n_visible, self.n_hidden)

    @property
    def site_levels(self) -> tuple[int | None, ...]:
        """Levels of every site; None for real units."""
        of_visible, of_hidden = self.level_counts
        return (of_visible,) * self.n_visible + (of_hidden,) * self.n_hidden

    def levels(self, x: tuple[Array, Array]) -> Int[Array, " n_sites"]:
        """Returns visible and hidden units in one int32 row."""
        return jnp.concatenate([x[0], x[1]]).astype(jnp.int32)

    def from_levels(self, levels: Int[Array, " n_sites"]) -> tuple[Array, Array]:
        """The inverse of `levels`."""
        v, h = levels[: self.n_visible], levels[self.n_visible :]
        return v.astype(self.visible_dtype), h.astype(jnp.uint8)

    def init(self, key: Key, *, scale: float = 0.01) -> Any:
        """Draws weights from N(0, scale²); biases are zero (Hinton 2012, "A practical guide", §8).

        Args:
          key: A random key.
          scale: Standard deviation of the weights.

        Returns:
          float32 parameters.

        Raises:
          ValueError: If they are too large for the memory.
        """
        struct = self.params_struct()
        check_params_fit(struct)
        weights = scale * jax.random.normal(key, struct.weights.shape, jnp.float32)
        zeros = (jnp.zeros(bias.shape, jnp.float32) for bias in (struct.visible_bias, struct.hidden_bias))
        return type(struct)(weights, *zeros)

    def visible(self, x: tuple[Array, Array]) -> Array:
        """Returns the visible part of a configuration."""
        return x[0]

    def complete(self, v: Array) -> tuple[Array, Array]:
        """Returns a configuration with visible part `v` and all hidden units off (a sweep draws them first)."""
        return v, jnp.zeros((self.n_hidden,), jnp.bool_ if v.dtype == jnp.bool_ else jnp.uint8)

    def field_struct(self) -> tuple[Any, Any]:
        """Returns the shapes of what a chain may add to the biases of either layer."""
        struct = self.params_struct()
        return struct.visible_bias, struct.hidden_bias

    def add_field(self, params: Any, field: tuple[Array | None, Array | None]) -> Any:
        """Returns the parameters with a field added to the biases; None adds nothing."""
        biases = (params.visible_bias, params.hidden_bias)
        visible, hidden = (
            bias if own is None else bias + own.astype(bias.dtype)
            for bias, own in zip(biases, field, strict=True)
        )
        return params._replace(visible_bias=visible, hidden_bias=hidden)

    def default_spec(self) -> BlockSpec:
        """Returns the hidden layer, then the visible one."""
        return default_spec(self.graph)

    def position_struct(self) -> tuple[Any, Any]:
        """Returns the shapes and dtypes of `(v, h)`."""
        struct: Any = jax.ShapeDtypeStruct
        return struct((self.n_visible,), self.visible_dtype), struct((self.n_hidden,), jnp.uint8)

    def params_struct(self) -> Any:
        """Returns the shapes of the parameters, float32."""
        raise NotImplementedError
