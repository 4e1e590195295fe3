"""Energies made of energies: products and powers of laws.

    Sum        E(x) = Σᵢ wᵢ Eᵢ(x)           a product of experts, p ∝ Π pᵢ^wᵢ (Hinton 2002)
    Tempered   E(x) = b E₀(x)
    Ensemble   E(x) = (1/n) Σⱼ E₀(x; θⱼ)    the product of n copies, each to the power 1/n

`Mixture`, their sum, is in `mixture.py` (both: Du, Li and Mordatch 2020, "Compositional visual generation with energy
based models"). Members share the configuration and have parameters of their own. Kernels of any energy sample these
models, and `gibbs_with_gradients` and `dmala` do if the members have a relaxed energy. Block Gibbs sampling does not.
To combine the visible laws of RBMs, wrap each as `Marginal`; otherwise they share their hidden units, too.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ebm_jax import checks
from ebm_jax.energies.sums import weighted_sum
from ebm_jax.types import Key, PyTree


class Composition:
    """What compositions share, frozen dataclasses with a field `models`, or `model`.

    Configurations are those of the first member. A property that the members lack raises AttributeError, so that a
    composition has an attribute if they have it.
    """

    models: tuple[Any, ...]

    @property
    def members(self) -> tuple[Any, ...]:
        """The models."""
        return self.models

    @property
    def n_levels(self) -> int:
        """Levels of a site, of discrete members."""
        return self.members[0].n_levels

    @property
    def level_counts(self) -> tuple[int | None, ...]:
        """Levels of a visible and of a hidden unit, of RBMs."""
        return self.members[0].level_counts

    @property
    def position_dtypes(self) -> frozenset[str]:
        """Dtypes that a configuration may have."""
        return self.members[0].position_dtypes

    @property
    def draw_position(self) -> Callable[[Key], PyTree]:
        """The function `(key)` that draws a configuration with independent uniform levels, of discrete members."""
        member = self.members[0]
        if hasattr(member, "draw_position"):
            return member.draw_position
        from_levels, shape, n_levels = member.from_levels, (member.graph.n_sites,), member.n_levels
        return lambda key: from_levels(jax.random.randint(key, shape, 0, n_levels))

    @property
    def energy_relaxed(self) -> Callable[[PyTree, PyTree], Float[Array, ""]]:
        """The energy as a function of one-hot rows, of members that have one."""
        for member in self.members:
            _ = member.energy_relaxed
        return functools.partial(self._composed, "energy_relaxed")

    def init(self, key: Key) -> PyTree:
        """Draws the parameters of every member."""
        keys = jax.random.split(checks.check_key(key), len(self.members))
        return tuple(member.init(one) for member, one in zip(self.members, keys, strict=True))

    def params_struct(self) -> PyTree:
        """Returns the shapes and dtypes of the parameters."""
        return tuple(member.params_struct() for member in self.members)

    def position_struct(self) -> PyTree:
        """Returns the shapes and dtypes of one configuration."""
        return self.members[0].position_struct()

    def energy(self, params: PyTree, x: PyTree) -> Float[Array, ""]:
        """Returns E(x; params) of one configuration."""
        return self._composed("energy", params, x)

    def _composed(self, method: str, params: PyTree, x: PyTree) -> Float[Array, ""]:
        """Returns the energy that the members' energies make, by their `energy` or `energy_relaxed`."""
        raise NotImplementedError

    def _each(self, method: str, params: PyTree, x: PyTree) -> Float[Array, " n_members"]:
        """Returns the members' energies."""
        pairs = zip(self.members, params, strict=True)
        return jnp.stack([getattr(member, method)(of_member, x) for member, of_member in pairs])


@dataclass(frozen=True)
class Sum(Composition):
    """The energy E(x) = Σᵢ wᵢ Eᵢ(x), a product of experts: x is likely where all members find it likely.

    Parameters are a tuple with those of each model. A negative weight makes x likely where its model finds it unlikely;
    over real numbers the law may then have no finite Z.

    Args:
      models: Models of the same configurations.
      weights: wᵢ, a number for each. None means 1.

    Raises:
      ValueError: If there are no models, they take different configurations, or the weights do not fit.

    Example:
      >>> model = ej.Sum((ej.Ising(ej.Grid(2, 2)), ej.Ising(ej.Grid(2, 2), "edge")), weights=(1.0, 0.5))
      >>> params = jax.tree.map(jnp.ones_like, model.init(jax.random.key(0)))
      >>> float(model.energy(params, jnp.ones((2, 2), bool)))
      -12.0
    """

    models: tuple[Any, ...]
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Checks the fields."""
        object.__setattr__(self, "models", checked_models(self.models))
        weights = (1.0,) * len(self.models) if self.weights is None else self.weights
        if not isinstance(weights, Sequence) or len(weights) != len(self.models):
            raise ValueError(f"weights is {weights!r}; give {len(self.models)} numbers, one for each model")
        object.__setattr__(self, "weights", tuple(_finite("weights", weight) for weight in weights))

    def _composed(self, method: str, params: tuple[PyTree, ...], x: PyTree) -> Float[Array, ""]:
        energies = self._each(method, params, x)
        return weighted_sum(jnp.asarray(self.weights, energies.dtype), energies)


@dataclass(frozen=True)
class Tempered(Composition):
    """The energy b E₀(x) of a model at the inverse temperature b, as a member of a composition.

    Chains take β as an argument, so a model alone needs no such wrapper. Parameters are the model's own.

    Args:
      model: The model.
      beta: b, a finite number.

    Raises:
      ValueError: If the model lacks what a member needs, or the number is not finite.

    Example:
      >>> ising = ej.Ising(ej.Grid(2, 2))
      >>> params = ej.IsingParams(jnp.zeros((2, 2)), jnp.ones(2))
      >>> float(ej.Tempered(ising, 0.5).energy(params, jnp.ones((2, 2), bool)))
      -2.0
    """

    model: Any
    beta: float

    def __post_init__(self) -> None:
        """Checks the fields."""
        checked_models((self.model,))
        object.__setattr__(self, "beta", _finite("beta", self.beta))

    @property
    def members(self) -> tuple[Any, ...]:
        """The model."""
        return (self.model,)

    def init(self, key: Key) -> PyTree:
        """Draws the parameters of the model."""
        return self.model.init(key)

    def params_struct(self) -> PyTree:
        """Returns the shapes and dtypes of the model's parameters."""
        return self.model.params_struct()

    def _composed(self, method: str, params: PyTree, x: PyTree) -> Float[Array, ""]:
        return self.beta * getattr(self.model, method)(params, x)


@dataclass(frozen=True)
class Ensemble(Composition):
    """The mean energy E(x) = (1/n) Σⱼ E₀(x; θⱼ) of a model over n sets of parameters.

    Parameters are those of the model with an axis of length n in front. `jax.tree.map(lambda *p: jnp.stack(p), *sets)`
    makes them of n sets. The law is the normalised geometric mean of the members' laws.

    Args:
      model: The model.
      n: Number of sets, at least 1.

    Raises:
      ValueError: If the model lacks what a member needs, or `n` is less than 1.

    Example:
      >>> model = ej.Ensemble(ej.RBM(4, 3), 5)
      >>> model.init(jax.random.key(0)).weights.shape
      (5, 4, 3)
    """

    model: Any
    n: int

    def __post_init__(self) -> None:
        """Checks the fields."""
        checked_models((self.model,))
        checks.check_integer("n", self.n, 1)

    @property
    def members(self) -> tuple[Any, ...]:
        """The model."""
        return (self.model,)

    def init(self, key: Key) -> PyTree:
        """Draws n sets of parameters."""
        return jax.vmap(self.model.init)(jax.random.split(checks.check_key(key), self.n))

    def params_struct(self) -> PyTree:
        """Returns the shapes and dtypes of the parameters."""

        def with_axis(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((self.n, *leaf.shape), leaf.dtype)

        return jax.tree.map(with_axis, self.model.params_struct())

    def _composed(self, method: str, params: PyTree, x: PyTree) -> Float[Array, ""]:
        return jnp.mean(jax.vmap(getattr(self.model, method), (0, None))(params, x))


def checked_models(models: Any) -> tuple[Any, ...]:
    """Returns models as a tuple.

    Raises:
      ValueError: If there is none, one lacks what a member needs, or they take different configurations.
    """
    if not isinstance(models, Sequence) or not models:
        raise ValueError(f"models is {models!r}; give a tuple of at least one model")
    needed = ("energy", "init", "params_struct", "position_struct")
    for model in models:
        missing = [name for name in needed if not hasattr(model, name)]
        if missing:
            raise ValueError(f"{model!r} has no {' and no '.join(missing)}; compose models that have them")
    structs = [model.position_struct() for model in models]
    for struct in structs:
        if struct != structs[0]:
            raise ValueError(
                f"models take different configurations, {structs[0]} and {struct}; compose models of the same"
            )
    return tuple(models)


def _finite(name: str, value: Any) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} holds {value!r}; give finite numbers")
    return float(value)
