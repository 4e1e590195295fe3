"""An autoencoder with one hidden layer on each side, as a Linen module and as a model of binary images."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ebm_jax import checks
from ebm_jax.types import Key, PyTree


class Layers(nn.Module):
    """The layers of an autoencoder, on flat configurations.

    Attributes:
      n_pixels: Numbers of a configuration.
      n_hidden: Units of the hidden layer of the encoder, and of that of the decoder.
      n_latents: Latent numbers.
    """

    n_pixels: int
    n_hidden: int
    n_latents: int

    def setup(self) -> None:
        """Makes the layers."""
        self.encoder_hidden = nn.Dense(self.n_hidden)
        self.encoder_last = nn.Dense(self.n_latents)
        self.decoder_hidden = nn.Dense(self.n_hidden)
        self.decoder_last = nn.Dense(self.n_pixels)

    def encode(self, x: Float[Array, "*batch n_pixels"]) -> Float[Array, "*batch n_latents"]:
        """Returns latents."""
        return self.encoder_last(nn.relu(self.encoder_hidden(x)))

    def decode(self, z: Float[Array, "*batch n_latents"]) -> Float[Array, "*batch n_pixels"]:
        """Returns log-odds of pixels."""
        return self.decoder_last(nn.relu(self.decoder_hidden(z)))

    def __call__(self, x: Float[Array, "*batch n_pixels"]) -> Float[Array, "*batch n_pixels"]:
        """Returns the log-odds of the reconstruction."""
        return self.decode(self.encode(x))


@dataclass(frozen=True)
class Autoencoder:
    """An autoencoder of images with pixels in {0, 1}, whose decoder is Bernoulli.

    Its energy is that of the reconstruction, −log p(x | z(x)) = Σ_i softplus((1 − 2 x_i) a_i) with the log-odds a of
    the decoder. It is not normalised over x.

    Args:
      shape: Height and width of an image.
      n_latents: Latent numbers.
      n_hidden: Units of the hidden layer on either side.

    Raises:
      ValueError: If a size is under 1.

    Example:
      >>> model = ej.energies.autoencoder.Autoencoder((8, 8), n_latents=2, n_hidden=16)
      >>> params = model.init(jax.random.key(0))
      >>> model.encode(params, jnp.ones((8, 8))).shape, model.decode(params, jnp.zeros(2)).shape
      ((2,), (8, 8))
    """

    shape: tuple[int, ...]
    n_latents: int
    n_hidden: int = 1024

    position_dtypes = checks.FLOATS

    def __post_init__(self) -> None:
        """Checks the sizes.

        Raises:
          ValueError: If one is under 1.
        """
        shape = tuple(checks.check_integer("shape", size, 1) for size in self.shape)
        object.__setattr__(self, "shape", shape)
        checks.check_integer("n_latents", self.n_latents, 1)
        checks.check_integer("n_hidden", self.n_hidden, 1)

    @property
    def layers(self) -> Layers:
        """The Linen module."""
        return Layers(math.prod(self.shape), self.n_hidden, self.n_latents)

    def init(self, key: Key) -> PyTree:
        """Draws the parameters of the module, the collection "params"."""
        checks.check_key(key)
        checks.check_params_fit(self.params_struct())
        return self.layers.init(key, jnp.zeros(math.prod(self.shape), jnp.float32))["params"]

    def params_struct(self) -> PyTree:
        """Returns the shapes and dtypes of the parameters."""
        return _params_struct(self)

    def position_struct(self) -> jax.ShapeDtypeStruct:
        """Returns the shape and dtype of an image."""
        return jax.ShapeDtypeStruct(self.shape, jnp.float32)

    def encode(self, params: PyTree, x: Float[Array, "..."]) -> Float[Array, " n_latents"]:
        """Returns the latents of one image."""
        return self._apply(params, x.reshape(-1), Layers.encode)

    def log_odds(self, params: PyTree, z: Float[Array, " n_latents"]) -> Float[Array, "..."]:
        """Returns the log-odds of the pixels of one image."""
        return self._apply(params, z, Layers.decode).reshape(self.shape)

    def decode(self, params: PyTree, z: Float[Array, " n_latents"]) -> Float[Array, "..."]:
        """Returns the probabilities of the pixels of one image."""
        return jax.nn.sigmoid(self.log_odds(params, z))

    def energy_given(
        self, params: PyTree, x: Float[Array, "..."], z: Float[Array, " n_latents"]
    ) -> Float[Array, ""]:
        """Returns −log p(x | z) of one image in nats."""
        return jnp.sum(jax.nn.softplus((1 - 2 * x) * self.log_odds(params, z)))

    def energy(self, params: PyTree, x: Float[Array, "..."]) -> Float[Array, ""]:
        """Returns −log p(x | z(x)) of one image in nats."""
        return self.energy_given(params, x, self.encode(params, x))

    def _apply(self, params: PyTree, x: Any, method: Any) -> Any:
        return self.layers.apply({"params": params}, x, method=method)


# Models compare by value.
@functools.lru_cache(maxsize=16)
def _params_struct(model: Autoencoder) -> PyTree:
    x = jax.ShapeDtypeStruct((math.prod(model.shape),), jnp.float32)
    return jax.eval_shape(model.layers.init, jax.random.key(0), x)["params"]
