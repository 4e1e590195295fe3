"""What is measured of a trained classifier: its predictions, its energies of strange images, and its samples."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import data as datasets
from ebm_jax.data import DataUnavailableError
from ebm_jax.energies.neural import JointEnergy
from ebm_jax.experiment.recipes.images import data
from ebm_jax.experiment.recipes.images.data import Images
from ebm_jax.experiment.recipes.images.judging import Judge
from ebm_jax.experiment.recipes.jem import sampling
from ebm_jax.experiment.recipes.jem.config import JemConfig, JemEvaluationConfig
from ebm_jax.metrics import auroc, expected_calibration_error
from ebm_jax.types import Key, PyTree

_CHUNK = 1000


class Evaluation:
    """The context of one evaluation. Each method measures a group of `metrics.METRICS`.

    Args:
      config: The configuration.
      model: The energy.
      params: Its parameters.
      images: The data.
      settings: The section `evaluation` of the configuration.
      key: A typed key.
    """

    def __init__(
        self,
        config: JemConfig,
        model: JointEnergy,
        params: PyTree,
        images: Images,
        settings: JemEvaluationConfig,
        key: Key,
    ) -> None:
        self.config = config
        self.model = model
        self.params = params
        self.images = images
        self.settings = settings
        self.noise_key, self.chains_key, self.classes_key, self.strange_key = jax.random.split(key, 4)
        of_test = settings.split == "test"
        self.unseen = data.as_floats(images.test if of_test else images.validation)
        self.labels = images.labels[2 if of_test else 1]

    @functools.cached_property
    def logits(self) -> np.ndarray:
        """Logits of unseen images."""
        return logits_of(self.model, self.params, self.unseen)

    @functools.cached_property
    def judge(self) -> Judge:
        """What compares samples with unseen images."""
        return Judge(self.config.data, self.unseen)

    @functools.cached_property
    def noise(self) -> jax.Array:
        """Where the chains start."""
        return sampling.noise(self.model, self.noise_key, self.settings.n_chains)

    def classifier(self) -> dict[str, float]:
        """Returns accuracy and cross-entropy of unseen and of as many training images, and the calibration."""
        few = self.images.train[: len(self.unseen)]
        seen = logits_of(self.model, self.params, data.as_floats(few))
        accuracy, cross_entropy = predictions(self.logits, self.labels)
        of_training = predictions(seen, self.images.labels[0][: len(few)])
        probabilities = np.exp(self.logits - _log_sum_exp(self.logits)[:, None])
        return {
            "accuracy": accuracy,
            "cross_entropy": cross_entropy,
            "training_accuracy": of_training[0],
            "training_cross_entropy": of_training[1],
            "ece": expected_calibration_error(probabilities, self.labels),
        }

    def ood(self) -> dict[str, float]:
        """Returns how well E(x) tells unseen images from strange ones."""
        energies = self.energies(None)
        unseen = energies.pop("unseen")
        found = {f"auroc_{name}": auroc(unseen, e) for name, e in energies.items()}
        return {"auroc_fashion": np.nan} | found | {"energy_unseen": float(unseen.mean())}

    def energies(self, n: int | None) -> dict[str, np.ndarray]:
        """Returns E(x) of unseen and strange images by kind, of the first `n` each."""
        strange = strange_images(self.config.data.name, self.unseen, self.settings.split, self.strange_key)
        kinds = {"unseen": self.unseen} | strange
        return {name: -_log_sum_exp(logits_of(self.model, self.params, x[:n])) for name, x in kinds.items()}

    def samples(self) -> dict[str, float]:
        """Returns the figures of fresh chains from noise, and the share of them that stay noise."""
        n_steps = self.config.generation.n_steps
        ends = sampling.ends(self.config, self.model, self.params, self.chains_key, self.noise)
        return self.judge.figures(ends, "noise", n_steps) | {"stuck_chains": self._share_of_noise(ends)}

    def start(self) -> dict[str, float]:
        """Returns the same figures of the chains before their first step."""
        return self.judge.figures(np.asarray(self.noise), "noise", 0, prefix="start_")

    def conditional(self) -> dict[str, float]:
        """Returns the figures of chains that keep a class, equally many of each, and the share read as their class."""
        n_each = max(self.settings.n_chains // self.model.n_classes, 1)
        ends = sampling.ends_of_classes(self.config, self.model, self.params, self.classes_key, n_each)
        images = ends.reshape(-1, *self.model.shape)
        read = self.judge.classifier.probabilities(images).argmax(axis=1)
        found = self.judge.figures(images, "noise", self.config.generation.n_steps, prefix="conditional_")
        return found | {
            "class_accuracy": float((read == np.repeat(self.judge.classes, n_each)).mean()),
            "conditional_stuck_chains": self._share_of_noise(images),
        }

    def _share_of_noise(self, images: np.ndarray) -> float:
        """Returns the share of images whose neighbouring pixels differ by more than midway from data to noise."""
        half_way = (roughness(np.asarray(self.noise)).mean() + roughness(self.unseen).mean()) / 2
        return float((roughness(images) > half_way).mean())


def strange_images(name: str, unseen: np.ndarray, split: str, key: Key) -> dict[str, np.ndarray]:
    """Returns images that are not like the data, floats in [-1, 1], by kind.

    Args:
      name: The data set. Fashion-MNIST is compared with MNIST only, and left out where it cannot be loaded.
      unseen: Unseen images of the data set.
      split: The split of Fashion-MNIST.
      key: A typed key for uniform noise.

    Returns:
      The images.
    """
    found = {}
    if name == "mnist":
        with contextlib.suppress(DataUnavailableError):
            found["fashion"] = data.as_floats(getattr(datasets.load("fashion_mnist"), split).images)
    found["rotated"] = np.rot90(unseen, axes=(1, 2))
    found["inverted"] = -unseen
    found["uniform"] = np.asarray(jax.random.uniform(key, unseen.shape, minval=-1, maxval=1))
    return found


def logits_of(model: JointEnergy, params: PyTree, x: Any) -> np.ndarray:
    """Returns the logits of images in [-1, 1], float64 `(n, n_classes)`."""
    parts = [_logits(model, params, jnp.asarray(x[i : i + _CHUNK])) for i in range(0, len(x), _CHUNK)]
    return np.concatenate([np.asarray(part, np.float64) for part in parts])


def predictions(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Returns accuracy and mean cross-entropy in nats."""
    correct = logits.argmax(axis=1) == labels
    loss = _log_sum_exp(logits) - logits[np.arange(len(labels)), labels]
    return float(correct.mean()), float(loss.mean())


def _log_sum_exp(logits: np.ndarray) -> np.ndarray:
    return np.logaddexp.reduce(logits, axis=1)


def roughness(images: np.ndarray) -> np.ndarray:
    """Returns the mean absolute difference of neighbouring pixels, `(n,)`. Noise is rough, grey or not.

    Args:
      images: `(n, height, width)`.
    """
    down, across = (np.abs(np.diff(images, axis=axis)).mean(axis=(1, 2)) for axis in (1, 2))
    return (down + across) / 2


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: JointEnergy, params: PyTree, x: jax.Array) -> jax.Array:
    return jax.vmap(model.logits, (None, 0))(params, x)
