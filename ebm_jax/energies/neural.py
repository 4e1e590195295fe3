"""Energies that a network computes, and classifiers read as energies.

    NeuralEnergy      E(x) = c f(x)
    JointEnergy       E(x, y) = −f(x)[y],    E(x) = −log Σ_y exp(f(x)[y])

f is a Linen module that takes one configuration. The second form is that of Grathwohl et al. 2020 ("Your classifier is
secretly an energy based model and you should treat it like one"): p(y | x) = softmax(f(x)) is the classifier, and
p(x) ∝ exp(−E(x)) a model of the inputs.

Any function `energy(params, x)` is an energy too, so a module of another library needs no class here.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ebm_jax import checks
from ebm_jax.types import Key, PyTree


@dataclass(frozen=True)
class Network:
    """What energies of networks share: their parameters, and how they call the module.

    `params` is the collection "params" of the module alone. A module with further collections, such as the vectors of
    spectral normalisation, takes `{"params": params, **variables}`. Train states hold these variables apart from the
    parameters and pass both.
    """

    module: Any
    shape: tuple[int, ...]

    position_dtypes = checks.FLOATS

    def __post_init__(self) -> None:
        """Checks the module and the shape.

        Raises:
          ValueError: If the module is no Linen module or has no hash, or the shape is not a tuple of positive integers.
        """
        if not isinstance(self.module, nn.Module):
            raise ValueError(
                f"module is {self.module!r}; give a Flax Linen module, e.g. energies.networks.MLP((128, 128)), or use "
                "a function energy(params, x) as the model"
            )
        try:
            hash(self.module)
        except TypeError as error:
            raise ValueError(
                f"{type(self.module).__name__} has no hash, so programs cannot be compiled for it; make its fields "
                "tuples instead of lists and arrays"
            ) from error
        shape = tuple(checks.check_integer("shape", size, 1) for size in self.shape)
        object.__setattr__(self, "shape", shape)

    def init(self, key: Key) -> PyTree:
        """Draws the parameters of the module.

        Args:
          key: A typed key.

        Returns:
          The collection "params".
        """
        return self._init(key)["params"]

    def init_variables(self, key: Key) -> dict[str, PyTree]:
        """Returns the collections of the module that are not trained, for `TrainState.variables`.

        Args:
          key: A typed key; with that of `init`, both belong together.

        Returns:
          The collections by name; empty for most modules.
        """
        return {name: tree for name, tree in self._init(key).items() if name != "params"}

    def position_struct(self) -> jax.ShapeDtypeStruct:
        """Returns the shape and dtype of one configuration."""
        return jax.ShapeDtypeStruct(self.shape, jnp.float32)

    def params_struct(self) -> PyTree:
        """Returns the shapes and dtypes of the parameters."""
        return _structs(self.module, self.shape)["params"]

    def variables_struct(self) -> dict[str, PyTree]:
        """Returns the shapes and dtypes of all collections of the module, "params" among them."""
        return _structs(self.module, self.shape)

    def outputs(self, params: PyTree, x: Float[Array, "..."]) -> Float[Array, " n_outputs"]:
        """Returns what the module returns for one configuration."""
        variables = params if len(_structs(self.module, self.shape)) > 1 else {"params": params}
        return self.module.apply(variables, x)  # pyright: ignore[reportReturnType]

    def _init(self, key: Key) -> dict[str, PyTree]:
        checks.check_key(key)
        checks.check_params_fit(self.variables_struct())
        return dict(self.module.init(key, jnp.zeros(self.shape, jnp.float32)))


@dataclass(frozen=True)
class NeuralEnergy(Network):
    """The energy E(x) = c f(x) of a network with one output.

    Args:
      module: A Flax Linen module that takes one configuration and returns one number, as a scalar or `(1,)`.
      shape: Shape of a configuration, float32.
      scale: c. It multiplies the energy, not the parameters.

    Raises:
      ValueError: If the module is no Linen module or returns more than one number.

    Example:
      >>> model = ej.NeuralEnergy(ej.energies.networks.MLP((32, 32)), shape=(2,))
      >>> params = model.init(jax.random.key(0))
      >>> kernel = ej.langevin(model, step_size=0.1, noise_scale=0.4)
      >>> ej.sample(jax.random.key(1), kernel, params, jnp.zeros((4, 2)), ej.SamplingSchedule(2, 3)).positions.shape
      (3, 4, 2)
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
          ValueError: If they do not fit.
        """
        super().__post_init__()
        _check_outputs(self.module, self.shape, 1, "an energy is one number")

    def energy(self, params: PyTree, x: Float[Array, "..."]) -> Float[Array, ""]:
        """Returns E(x; params) of one configuration, float32."""
        return self.scale * self.outputs(params, x).reshape(()).astype(jnp.float32)


@dataclass(frozen=True)
class JointEnergy(Network):
    """A classifier f as an energy: E(x, y) = −c f(x)[y] and E(x) = −log Σ_y exp(c f(x)[y]).

    `energy` is E(x), which Langevin dynamics and training take. `class_energy` is E(x, y). The logits c f(x) are those
    of p(y | x).

    Args:
      module: A Flax Linen module that takes one configuration and returns `n_classes` numbers.
      shape: Shape of a configuration, float32.
      n_classes: Number of classes.
      scale: c, which multiplies the logits.

    Raises:
      ValueError: If the module is no Linen module or returns another number of outputs.

    Example:
      >>> model = ej.JointEnergy(ej.energies.networks.MLP((32,), n_outputs=10), shape=(8, 8), n_classes=10)
      >>> params = model.init(jax.random.key(0))
      >>> model.logits(params, jnp.zeros((8, 8))).shape, model.energy(params, jnp.zeros((8, 8))).shape
      ((10,), ())
    """

    n_classes: int
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
          ValueError: If they do not fit.
        """
        super().__post_init__()
        checks.check_integer("n_classes", self.n_classes, 2)
        _check_outputs(self.module, self.shape, self.n_classes, f"there are {self.n_classes} classes")

    def logits(self, params: PyTree, x: Float[Array, "..."]) -> Float[Array, " n_classes"]:
        """Returns log p(y | x) + const of every class, float32."""
        return self.scale * self.outputs(params, x).astype(jnp.float32)

    def energy(self, params: PyTree, x: Float[Array, "..."]) -> Float[Array, ""]:
        """Returns E(x; params) of one configuration."""
        return -jax.nn.logsumexp(self.logits(params, x))

    def class_energy(self, params: PyTree, x: Float[Array, "..."], y: Any) -> Float[Array, ""]:
        """Returns E(x, y; params) of one configuration and its class, an integer."""
        return -self.logits(params, x)[y]


@dataclass(frozen=True)
class ClassConditional:
    """The energy E(x, y) of a joint model whose chains carry their class: a configuration is the pair `(x, label)`.

    `label` is a float32 vector `(n_classes,)` that is 1 at the class and 0 elsewhere. With several ones it is a set S
    of classes, and E = −log Σ_{y in S} exp f(x)[y]; with ones alone that is the E(x) of the joint model. Clamp the
    label, and a kernel of continuous energies draws x given the class or the set.

    Args:
      joint: A `JointEnergy`.

    Example:
      >>> joint = ej.JointEnergy(ej.energies.networks.MLP((8,), n_outputs=3), shape=(2,), n_classes=3)
      >>> model = ej.energies.neural.ClassConditional(joint)
      >>> start = jnp.zeros((3, 2)), jnp.eye(3)
      >>> given = (np.zeros(2, bool), np.ones(3, bool)), start
      >>> kernel = ej.langevin(model, step_size=0.1, noise_scale=0.1)
      >>> params = joint.init(jax.random.key(0))
      >>> schedule = ej.SamplingSchedule(1, 1)
      >>> x, label = ej.sample(jax.random.key(1), kernel, params, start, schedule, clamped=given).positions
      >>> bool((label[0] == jnp.eye(3)).all())
      True
    """

    joint: JointEnergy

    position_dtypes = checks.FLOATS

    def init(self, key: Key) -> PyTree:
        """Draws the parameters of the joint model."""
        return self.joint.init(key)

    def position_struct(self) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        """Returns the shapes and dtypes of one configuration."""
        return self.joint.position_struct(), jax.ShapeDtypeStruct((self.joint.n_classes,), jnp.float32)

    def params_struct(self) -> PyTree:
        """Returns the shapes and dtypes of the parameters."""
        return self.joint.params_struct()

    def energy(self, params: PyTree, x: tuple[Any, Any]) -> Float[Array, ""]:
        """Returns E(x, y; params) of one configuration `(x, label)`."""
        image, label = x
        return -jax.nn.logsumexp(self.joint.logits(params, image), where=label > 0)


# Every call of an energy asks for the collections; modules and shapes compare by value.
@functools.lru_cache(maxsize=64)
def _structs(module: nn.Module, shape: tuple[int, ...]) -> dict[str, PyTree]:
    """Returns the shapes and dtypes of all collections of a module."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return dict(jax.eval_shape(module.init, jax.random.key(0), x))


def _check_outputs(module: nn.Module, shape: tuple[int, ...], n: int, reason: str) -> None:
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    found, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
    if not hasattr(found, "shape") or found.shape not in ({(), (1,)} if n == 1 else {(n,)}):
        raise ValueError(
            f"{type(module).__name__} returns {getattr(found, 'shape', found)} for one configuration of shape {shape}, "
            f"and {reason}; a module takes one configuration, without a batch axis"
        )
