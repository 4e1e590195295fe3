"""Objectives for networks: contrastive losses with small energies, classifiers, and both together.

With E⁺ the energies of data and E⁻ those of negatives,

    regularized       mean E⁺ − mean E⁻ + c (mean E⁺² + mean E⁻²)                      Du and Mordatch 2019
    classification    CE(y, softmax f(x)) + c mean (log Σ_y exp f(x)[y])²
    joint             CE + λ (mean E⁺ − mean E⁻ + c (mean E⁺² + mean E⁻²)) + d mean E⁺² Grathwohl et al. 2020
    improved          regularized + κ (mean E⁻(stopped θ) − w H)                        Du et al. 2021

The squares keep energies near zero, where a network follows its samples. Without them energies of both sides drift away
together. Equal numbers give equal objectives, which share one compiled program.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from ebm_jax.energies.target import Target
from ebm_jax.samplers.continuous import check_scale
from ebm_jax.training.objectives import Objective
from ebm_jax.types import PyTree

# Keeps the logarithm of a distance finite where two negatives are equal.
_LEAST_DISTANCE = 1e-6


def _images(batch: tuple[PyTree, Any]) -> PyTree:
    return batch[0]


@dataclass(frozen=True)
class _Regularized:
    l2: float

    def __call__(self, params: PyTree, model: Target, batch: PyTree, negatives: Any) -> Any:
        positions, weights = jax.lax.stop_gradient((negatives.positions, negatives.weights))
        of_data, of_model = _energies(params, model, batch, positions)
        return _contrast(of_data, of_model, weights, self.l2)


@dataclass(frozen=True)
class _Improved:
    step_size: float
    weight: float
    entropy_weight: float
    l2: float

    def __call__(self, params: PyTree, model: Target, batch: PyTree, negatives: Any) -> Any:
        positions, weights = jax.lax.stop_gradient((negatives.positions, negatives.weights))
        of_data, of_model = _energies(params, model, batch, positions)
        loss, extras = _contrast(of_data, of_model, weights, self.l2)
        gradient = jax.vmap(jax.grad(model.energy, argnums=1), (None, 0))(params, positions)
        moved = jax.tree.map(lambda x, g: x - self.step_size * g, positions, gradient)
        frozen = jax.lax.stop_gradient(params)
        energy = _mean(jax.vmap(model.energy, (None, 0))(frozen, moved), weights)
        entropy = _mean(_log_distances(moved, positions), weights)
        extras |= {"energy_moved": energy, "entropy": entropy}
        return loss + self.weight * (energy - self.entropy_weight * entropy), extras


@dataclass(frozen=True)
class _Classification:
    logsumexp_l2: float

    def __call__(self, params: PyTree, model: Target, batch: Any, negatives: Any) -> Any:
        del negatives
        images, labels = _pair(batch)
        logits = jax.vmap(_logits_of(model), (None, 0))(params, images)
        loss, extras = _cross_entropy(logits, labels)
        return loss + self.logsumexp_l2 * jnp.square(jax.nn.logsumexp(logits, axis=-1)).mean(), extras


@dataclass(frozen=True)
class _Joint:
    weight: float
    l2: float
    logsumexp_l2: float

    def __call__(self, params: PyTree, model: Target, batch: Any, negatives: Any) -> Any:
        logits_of, (images, labels) = _logits_of(model), _pair(batch)
        # Chains of `ClassConditional` energies carry their class. The loss takes E(x) on both sides.
        positions, weights = jax.lax.stop_gradient((negatives.positions, negatives.weights))
        drawn = positions[0] if isinstance(positions, tuple) else positions
        together = jnp.concatenate([images, drawn])
        logits = jax.vmap(logits_of, (None, 0))(params, together)
        n = len(labels)
        energies = -jax.nn.logsumexp(logits, axis=-1)
        loss, extras = _contrast(energies[:n], energies[n:], weights, self.l2)
        of_classes, of_labels = _cross_entropy(logits[:n], labels)
        of_sizes = self.logsumexp_l2 * jnp.square(energies[:n]).mean()
        return of_classes + self.weight * loss + of_sizes, extras | of_labels


def regularized(l2: float = 0.1) -> Objective:
    """Maximum likelihood with small energies: mean E⁺ − mean E⁻ + c (mean E⁺² + mean E⁻²).

    Args:
      l2: c, at least 0.

    Returns:
      The objective.

    Raises:
      ValueError: If `l2` is negative or not finite.

    Example:
      >>> ej.training.regularized(0.1) == ej.training.regularized(0.1)
      True
    """
    check_scale("l2", l2)
    return Objective(_Regularized(float(l2)), takes_data=True)


def classification(logsumexp_l2: float = 0.01) -> Objective:
    """Cross-entropy of a `JointEnergy`, with c (log Σ_y exp f(x)[y])² to keep its energies near zero.

    A batch is `(x, labels)`, labels int32. It takes no negatives.

    Args:
      logsumexp_l2: c, at least 0.

    Returns:
      The objective. It reports `cross_entropy` and `accuracy`.

    Raises:
      ValueError: If a number is negative or not finite.
    """
    check_scale("logsumexp_l2", logsumexp_l2)
    return Objective(_Classification(float(logsumexp_l2)), needs_negatives=False, data_of=_images)


def joint(weight: float = 1.0, l2: float = 0.0, logsumexp_l2: float = 0.0) -> Objective:
    """Cross-entropy plus λ times the contrastive loss of E(x): a classifier that is a model of its inputs.

    With λ = 1 and c = 0 its gradient is that of −log p(y | x) − log p(x) = −log p(x, y). A batch is `(x, labels)`,
    labels int32. Negatives are x, or pairs `(x, label)` of chains of a `ClassConditional` energy.

    Args:
      weight: λ, at least 0.
      l2: c, as for `regularized`.
      logsumexp_l2: d, as c of `classification`; it does not scale with λ.

    Returns:
      The objective. It reports `cross_entropy` and `accuracy`.

    Raises:
      ValueError: If a number is negative or not finite.
    """
    for name, value in (("weight", weight), ("l2", l2), ("logsumexp_l2", logsumexp_l2)):
        check_scale(name, value)
    return Objective(_Joint(float(weight), float(l2), float(logsumexp_l2)), data_of=_images)


def improved(
    step_size: float, *, weight: float = 1.0, entropy_weight: float = 0.3, l2: float = 0.1
) -> Objective:
    """Contrastive divergence with the term that it usually drops: the gradient through the sampler.

    Negatives take one more gradient step x′ = x − α∇E(x; θ), which is differentiated. The term κ (E(x′) − w H) lowers
    the energy of where the sampler goes, with the energy's own parameters held. H is the entropy of the negatives, up
    to constants, by nearest neighbours: the mean log distance of an x′ to the closest other negative (Du, Li, Tenenbaum
    and Mordatch 2021).

    Args:
      step_size: α > 0, that of the sampler.
      weight: κ, at least 0.
      entropy_weight: w, at least 0.
      l2: As for `regularized`.

    Returns:
      The objective. It reports `energy_moved` and `entropy`.

    Raises:
      ValueError: If a number is negative or not finite.
    """
    check_scale("step_size", step_size, positive=True)
    for name, value in (("weight", weight), ("entropy_weight", entropy_weight), ("l2", l2)):
        check_scale(name, value)
    loss = _Improved(float(step_size), float(weight), float(entropy_weight), float(l2))
    return Objective(loss, takes_data=True)


def _energies(params: PyTree, model: Target, data: PyTree, drawn: PyTree) -> tuple[Array, Array]:
    """Returns the energies of data and of negatives, computed as one batch."""
    n = jax.tree.leaves(data)[0].shape[0]
    together = jax.tree.map(lambda *sides: jnp.concatenate(sides), data, drawn)
    each = jax.vmap(model.data_energy, (None, 0))(params, together)
    return each[:n], each[n:]


def _contrast(
    of_data: Array, of_model: Array, weights: Array | None, l2: float
) -> tuple[Array, dict[str, Array]]:
    extras = {"energy_data": of_data.mean(), "energy_model": _mean(of_model, weights)}
    squares = jnp.square(of_data).mean() + _mean(jnp.square(of_model), weights)
    return extras["energy_data"] - extras["energy_model"] + l2 * squares, extras


def _mean(values: Array, weights: Array | None) -> Array:
    """Returns the mean over negatives."""
    return values.mean() if weights is None else jnp.dot(weights, values, precision="highest")


def _cross_entropy(logits: Array, labels: Array) -> tuple[Array, dict[str, Array]]:
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    accuracy = (logits.argmax(axis=-1) == labels).astype(jnp.float32).mean()
    return loss, {"cross_entropy": loss, "accuracy": accuracy}


def _pair(batch: Any) -> tuple[PyTree, Any]:
    if not (isinstance(batch, tuple) and len(batch) == 2):
        raise ValueError(
            f"the batch is {type(batch).__name__}; this objective takes pairs (x, labels): give data=(x, labels)"
        )
    return batch


def _logits_of(model: Target) -> Any:
    if not hasattr(model.model, "logits"):
        raise ValueError(
            f"{model.model!r} has no classes; this objective trains a JointEnergy, or a model with logits(params, x)"
        )
    return model.model.logits


def _log_distances(moved: PyTree, others: PyTree) -> Array:
    """Returns the log distance of each row of `moved` to the closest row of `others` but its own."""
    flat, held = (
        jnp.concatenate([leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(tree)], axis=1)
        for tree in (moved, others)
    )
    if len(flat) < 2:
        raise ValueError("there is 1 negative, and the entropy takes distances between them; draw 2 or more")
    squares = jnp.square(flat[:, None] - held[None]).sum(axis=-1)
    squares = jnp.where(jnp.eye(len(flat), dtype=bool), jnp.inf, squares)
    return 0.5 * jnp.log(squares.min(axis=1) + _LEAST_DISTANCE**2)
