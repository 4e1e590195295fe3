"""Energies of latents, and the model of images that they make with an autoencoder.

    E(z) = ½|z|² + f(z)

f is a network. Without it the energy is that of N(0, I), so latents are whitened first: f then learns how they differ
from one Gaussian, and chains of any start come back from far away. `LatentJoint` is the law of latents and images
together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ebm_jax import checks
from ebm_jax.energies.autoencoder import Autoencoder
from ebm_jax.energies.ising import Ising, IsingParams
from ebm_jax.energies.neural import NeuralEnergy
from ebm_jax.graphs import Graph, Grid
from ebm_jax.types import Key, PyTree


@dataclass(frozen=True)
class LatentEnergy(NeuralEnergy):
    """The energy E(z) = ½|z|² + c f(z) of a vector.

    Args:
      module: A Flax Linen module that takes one vector and returns one number, f.
      shape: `(n_latents,)`.
      scale: c.

    Raises:
      ValueError: If the module is no Linen module or returns more than one number.

    Example:
      >>> model = ej.energies.latent.LatentEnergy(ej.energies.networks.MLP((8,)), shape=(4,))
      >>> model.energy(model.init(jax.random.key(0)), jnp.ones(4)).shape
      ()
    """

    def energy(self, params: PyTree, x: Float[Array, " n_latents"]) -> Float[Array, ""]:
        """Returns E(x; params) of one vector, float32."""
        return 0.5 * jnp.dot(x, x, precision="highest") + super().energy(params, x)


class Whitening(NamedTuple):
    """An affine map after which data have mean 0 and covariance I: w = (z − mean) @ forward.

    Attributes:
      mean: `(n_latents,)`.
      forward: Covariance^(−1/2), the symmetric root, `(n_latents, n_latents)`.
      backward: Its inverse.
    """

    mean: Float[Array, " n_latents"] | np.ndarray
    forward: Float[Array, "n_latents n_latents"] | np.ndarray
    backward: Float[Array, "n_latents n_latents"] | np.ndarray

    def apply(self, z: Any) -> Any:
        """Returns whitened vectors, `(..., n_latents)`."""
        return jnp.matmul(z - self.mean, self.forward, precision="highest")

    def undo(self, w: Any) -> Any:
        """Returns the vectors that `apply` whitens to `w`."""
        return jnp.matmul(w, self.backward, precision="highest") + self.mean


def whitening_of(z: Any) -> Whitening:
    """Returns the whitening of data, computed in float64.

    Args:
      z: `(n, n_latents)`, of a covariance of full rank.

    Returns:
      The map, float32.

    Raises:
      ValueError: If the covariance has no full rank.
    """
    z = np.asarray(z, np.float64)
    mean = z.mean(axis=0)
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(z.T)))
    if not values[0] > 1e-10 * values[-1]:
        raise ValueError(
            f"the latents vary by {values[0]:.2g} along one direction and {values[-1]:.2g} along another, so they "
            "cannot be whitened; use fewer latents"
        )
    forward, backward = (vectors * values**power @ vectors.T for power in (-0.5, 0.5))
    return Whitening(*(np.asarray(part, np.float32) for part in (mean, forward, backward)))


class LatentParams(NamedTuple):
    """Parameters of a `LatentModel`: those of the energy, those of the autoencoder, and the whitening between them."""

    energy: PyTree
    autoencoder: PyTree
    whitening: Whitening


@dataclass(frozen=True)
class LatentModel:
    """An energy of whitened latents with the autoencoder that makes images of them.

    Args:
      prior: The energy of whitened latents.
      autoencoder: The autoencoder.

    Raises:
      ValueError: If their numbers of latents differ.

    Example:
      >>> prior = ej.energies.latent.LatentEnergy(ej.energies.networks.MLP((8,)), shape=(2,))
      >>> coder = ej.energies.autoencoder.Autoencoder((8, 8), n_latents=2, n_hidden=16)
      >>> model = ej.energies.latent.LatentModel(prior, coder)
      >>> model.decode(model.init(jax.random.key(0)), jnp.zeros(2)).shape
      (8, 8)
    """

    prior: LatentEnergy
    autoencoder: Autoencoder

    position_dtypes = checks.FLOATS

    def __post_init__(self) -> None:
        """Checks that both parts fit.

        Raises:
          ValueError: If their numbers of latents differ.
        """
        if self.prior.shape != (self.autoencoder.n_latents,):
            raise ValueError(
                f"prior has vectors of shape {self.prior.shape}, and the autoencoder has {self.autoencoder.n_latents} "
                "latents; give both the same number"
            )

    def init(self, key: Key) -> LatentParams:
        """Draws parameters, with a whitening that changes nothing."""
        checks.check_key(key)
        one, two = jax.random.split(key)
        n = self.autoencoder.n_latents
        identity = Whitening(jnp.zeros(n), jnp.eye(n), jnp.eye(n))
        return LatentParams(self.prior.init(one), self.autoencoder.init(two), identity)

    def params_struct(self) -> LatentParams:
        """Returns the shapes and dtypes of the parameters."""
        n = self.autoencoder.n_latents
        structs: Any = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((n,), (n, n), (n, n))]
        return LatentParams(self.prior.params_struct(), self.autoencoder.params_struct(), Whitening(*structs))

    def position_struct(self) -> jax.ShapeDtypeStruct:
        """Returns the shape and dtype of one vector of latents."""
        return self.prior.position_struct()

    def energy(self, params: LatentParams, x: Float[Array, " n_latents"]) -> Float[Array, ""]:
        """Returns the energy of one vector of whitened latents."""
        return self.prior.energy(params.energy, x)

    def encode(self, params: LatentParams, image: Float[Array, "..."]) -> Float[Array, " n_latents"]:
        """Returns the whitened latents of one image with pixels in {0, 1}."""
        return params.whitening.apply(self.autoencoder.encode(params.autoencoder, image))

    def decode(self, params: LatentParams, x: Float[Array, " n_latents"]) -> Float[Array, "..."]:
        """Returns the probabilities of the pixels of one image."""
        return self.autoencoder.decode(params.autoencoder, params.whitening.undo(x))


class LatentImage(NamedTuple):
    """A configuration of a `LatentJoint`: whitened latents `(n_latents,)`, and an image of bools."""

    latent: Float[Array, "*batch n_latents"]
    image: Any


@dataclass(frozen=True)
class LatentJoint:
    """The joint energy E(z, x) = E(z) − log p(x | z) of latents z and an image x with pixels in {0, 1}.

    E(z) is the prior of a `LatentModel`, and p(x | z) its decoder, which is normalised: the law of z alone is the
    prior's. Given an image the latents are drawn by any kernel of continuous energies. Given latents the pixels are
    independent, and `pixels` is the model that draws them exactly. `within_gibbs` does both in turn; with the image
    clamped, or a part of it, it draws latents and the rest of the image given that part.

    Args:
      model: The latents' energy and their decoder. Parameters are its own.

    Raises:
      ValueError: If images have more than two axes.

    Example:
      >>> prior = ej.energies.latent.LatentEnergy(ej.energies.networks.MLP((8,)), shape=(2,))
      >>> coder = ej.energies.autoencoder.Autoencoder((8, 8), n_latents=2, n_hidden=16)
      >>> model = ej.energies.latent.LatentJoint(ej.energies.latent.LatentModel(prior, coder))
      >>> params = model.init(jax.random.key(0))
      >>> moves = {"latent": ej.mala(model, 0.5), "image": (ej.gibbs(model.pixels), model.pixel_params)}
      >>> start = ej.energies.latent.LatentImage(jnp.zeros((4, 2)), jnp.zeros((4, 8, 8), bool))
      >>> run = ej.sample(jax.random.key(1), ej.within_gibbs(moves), params, start, ej.SamplingSchedule(2, 3))
      >>> run.positions.image.shape
      (3, 4, 8, 8)
    """

    model: LatentModel

    def __post_init__(self) -> None:
        """Checks the fields."""
        if len(self.model.autoencoder.shape) > 2:
            raise ValueError(
                f"images have shape {self.model.autoencoder.shape}; flatten all but one or two axes"
            )

    @property
    def pixels(self) -> Ising:
        """The pixels given latents, as an Ising model without couplings. `pixel_params` gives its parameters."""
        shape = self.model.autoencoder.shape
        return Ising(Grid(*shape) if len(shape) == 2 else Graph(shape[0], []))

    def pixel_params(self, params: LatentParams, x: LatentImage) -> IsingParams:
        """Returns the parameters of `pixels` given the latents of `x`: half the log-odds of the pixels as fields."""
        log_odds = self.model.autoencoder.log_odds(params.autoencoder, params.whitening.undo(x.latent))
        coupling: Any = self.pixels.params_struct().coupling
        return IsingParams(log_odds / 2, jnp.zeros(coupling.shape, coupling.dtype))

    def init(self, key: Key) -> LatentParams:
        """Draws the parameters of the model."""
        return self.model.init(key)

    def params_struct(self) -> LatentParams:
        """Returns the shapes and dtypes of the parameters."""
        return self.model.params_struct()

    def position_struct(self) -> LatentImage:
        """Returns the shapes and dtypes of one configuration."""
        image: Any = self.pixels.position_struct()
        latent: Any = self.model.position_struct()
        return LatentImage(latent, image)

    def energy(self, params: LatentParams, x: LatentImage) -> Float[Array, ""]:
        """Returns E(z, x) of one configuration, in nats."""
        prior = self.model.energy(params, x.latent)
        image, latent = x.image.astype(prior.dtype), params.whitening.undo(x.latent)
        return prior + self.model.autoencoder.energy_given(params.autoencoder, image, latent)
