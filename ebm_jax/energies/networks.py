"""Linen modules for energies: a perceptron, a convolutional and a residual network.

They have no batch normalisation, whose energies would depend on the other images of a batch. Activations are smooth by
default, because Langevin dynamics follows the gradient with respect to the input. Every field is a number, a text or a
tuple, so modules compare by value and `ebm_jax.save` keeps them.

A convolution is computed in one of two ways with the same parameters. On a GPU or TPU it is
`lax.conv_general_dilated`. On a CPU it is k² strided slices, a concatenation and one matrix product. There a Langevin
step of the default `ConvNet` in `lax.scan` (64 images of 28×28, one core) takes 7.5 ms, and 26 ms with `nn.Conv`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ebm_jax import checks

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "elu": jax.nn.elu,
    "leaky_relu": lambda x: jax.nn.leaky_relu(x, 0.2),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "tanh": jnp.tanh,
}

# Energies begin near zero, so that the first chains take steps of the size that the step size says.
_LAST_KERNEL = nn.initializers.variance_scaling(0.2, "fan_in", "normal")
_KERNEL = nn.initializers.he_normal()


class MLP(nn.Module):
    """A perceptron: dense layers with an activation between them, on the flattened input.

    Attributes:
      features: Units of each hidden layer.
      activation: Name of the activation, a key of `ACTIVATIONS`.
      n_outputs: Numbers that it returns.
      dtype: Dtype of the computation, such as "bfloat16". Parameters and outputs are float32.

    Example:
      >>> model = ej.NeuralEnergy(ej.energies.networks.MLP((16, 16)), shape=(2,))
      >>> model.energy(model.init(jax.random.key(0)), jnp.ones(2)).shape
      ()
    """

    features: tuple[int, ...]
    activation: str = "silu"
    n_outputs: int = 1
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, " n_outputs"]:
        """Returns the outputs for one input of any shape."""
        act = _activation(self.activation)
        x = x.reshape(-1)
        for size in self.features:
            x = act(nn.Dense(size, kernel_init=_KERNEL, dtype=jnp.dtype(self.dtype))(x))
        return _last(self.n_outputs, self.dtype)(x).astype(jnp.float32)


class Conv(nn.Module):
    """A convolution with a square kernel. Parameters are those of `nn.Conv`: `kernel` and `bias`.

    Attributes:
      features: Channels that it returns.
      kernel_size: Height and width of the kernel.
      stride: Pixels from one place of the kernel to the next.
      padding: Zeros added at each of the four sides.
      dtype: Dtype of the computation.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: int = 1
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "height width channels"]) -> Float[Array, "rows columns features"]:
        """Returns the convolved image."""
        size = self.kernel_size
        kernel = self.param("kernel", _KERNEL, (size, size, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        convolve = _by_slices if jax.default_backend() == "cpu" else _by_library
        return convolve(x, kernel, self.stride, self.padding) + bias


class ConvNet(nn.Module):
    """A convolutional network: convolutions, dense layers, and outputs.

    The defaults fit images of 28×28 and 32×32 pixels, whose sides they halve four times, and have about 77,000
    parameters.

    Attributes:
      channels: Channels of each convolution.
      kernel_sizes: Heights and widths of their kernels.
      strides: Their strides.
      paddings: Zeros that they add at each side.
      dense: Units of the dense layers that follow.
      activation: Name of the activation, a key of `ACTIVATIONS`.
      n_outputs: Numbers that it returns.
      dtype: Dtype of the computation, such as "bfloat16". Parameters and outputs are float32.

    Example:
      >>> model = ej.NeuralEnergy(ej.energies.networks.ConvNet(), shape=(28, 28))
      >>> ej.count_parameters(model.params_struct())
      76993
    """

    channels: tuple[int, ...] = (16, 32, 64, 64)
    kernel_sizes: tuple[int, ...] = (5, 3, 3, 3)
    strides: tuple[int, ...] = (2, 2, 2, 2)
    paddings: tuple[int, ...] = (4, 1, 1, 1)
    dense: tuple[int, ...] = (64,)
    activation: str = "silu"
    n_outputs: int = 1
    dtype: str = "float32"

    def setup(self) -> None:
        """Makes the layers."""
        layers = zip(self.channels, self.kernel_sizes, self.strides, self.paddings, strict=True)
        self.convolutions = [Conv(*layer, dtype=self.dtype) for layer in layers]
        self.layers = [nn.Dense(n, kernel_init=_KERNEL, dtype=jnp.dtype(self.dtype)) for n in self.dense]
        self.last = _last(self.n_outputs, self.dtype)

    def features(self, x: Float[Array, "..."]) -> Float[Array, " n_features"]:
        """Returns what the last layer sees of one image."""
        act = _activation(self.activation)
        x = _with_channels(x)
        for layer in self.convolutions:
            x = act(layer(x))
        x = x.reshape(-1)
        for layer in self.layers:
            x = act(layer(x))
        return x.astype(jnp.float32)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, " n_outputs"]:
        """Returns the outputs for one image, `(height, width)` or `(height, width, channels)`."""
        return self.last(self.features(x)).astype(jnp.float32)


class ResNet(nn.Module):
    """A residual network without normalisation, with optional spectral normalisation.

    A convolution of stride 1 comes first. A block of each further width then halves the sides:
    x ← pool(V x + W₂ a(W₁ a(x))), where V is a 1×1 convolution. Outputs are read from the mean over pixels.

    Spectral normalisation divides the kernel of each convolution by its largest singular value, estimated by one power
    iteration an update (Miyato et al. 2018). Its vectors are in the collection `batch_stats`, which an objective
    updates through `TrainState.variables`.

    Attributes:
      widths: Channels of the first convolution and of each block.
      activation: Name of the activation, a key of `ACTIVATIONS`.
      n_outputs: Numbers that it returns.
      spectral: Whether kernels are normalised.
      dtype: Dtype of the computation. Parameters and outputs are float32.
    """

    widths: tuple[int, ...] = (32, 64, 64)
    activation: str = "silu"
    n_outputs: int = 1
    spectral: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "..."], update_stats: bool = False) -> Float[Array, " n_outputs"]:
        """Returns the outputs for one image; with `update_stats`, makes a power iteration in `batch_stats`."""
        act = _activation(self.activation)

        def layer(made: nn.Module, x: Any) -> Any:
            if not self.spectral:
                return made(x)
            return nn.SpectralNorm(made)(x, update_stats=update_stats)

        x = layer(Conv(self.widths[0], dtype=self.dtype), _with_channels(x))
        for width in self.widths[1:]:
            inner = layer(Conv(width, dtype=self.dtype), act(x))
            inner = layer(Conv(width, dtype=self.dtype), act(inner))
            skip = layer(Conv(width, kernel_size=1, padding=0, dtype=self.dtype), x)
            x = nn.avg_pool(inner + skip, (2, 2), strides=(2, 2))
        x = act(x).mean(axis=(0, 1))
        return _last(self.n_outputs, self.dtype)(x).astype(jnp.float32)


def _by_slices(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    size, _, channels, features = kernel.shape
    x = jnp.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    height, width, _ = x.shape
    rows, columns = (height - size) // stride + 1, (width - size) // stride + 1
    ends = stride * (rows - 1) + 1, stride * (columns - 1) + 1
    patches = [
        jax.lax.slice(x, (i, j, 0), (i + ends[0], j + ends[1], channels), (stride, stride, 1))
        for i in range(size)
        for j in range(size)
    ]
    return jnp.concatenate(patches, axis=-1) @ kernel.reshape(-1, features)


def _by_library(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    return jax.lax.conv_general_dilated(
        x[None],
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )[0]


def _with_channels(x: Array) -> Array:
    if x.ndim not in (2, 3):
        raise ValueError(
            f"an image has shape {x.shape}; give (height, width) or (height, width, channels), one image at a time"
        )
    return x[..., None] if x.ndim == 2 else x


def _last(n_outputs: int, dtype: str) -> nn.Dense:
    return nn.Dense(n_outputs, kernel_init=_LAST_KERNEL, dtype=jnp.dtype(dtype))


def _activation(name: str) -> Callable[[Any], Any]:
    checks.check_choice("activation", name, tuple(ACTIVATIONS))
    return ACTIVATIONS[name]
