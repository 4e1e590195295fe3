"""What is measured of a joint model: its classifier, how it sees strange inputs, and its samples."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import data as datasets
from ebm_jax.data import DataFileError, DataUnavailableError
from ebm_jax.energies.neural import JointEnergy
from ebm_jax.experiment.recipes.images import data
from ebm_jax.experiment.recipes.images.data import Images
from ebm_jax.experiment.recipes.images.judging import Judge
from ebm_jax.experiment.recipes.jem import sampling
from ebm_jax.experiment.recipes.jem.config import JEMConfig, JEMEvaluationConfig
from ebm_jax.metrics import auroc, expected_calibration_error
from ebm_jax.types import Key, PyTree

_ROWS = 500
# Standard deviation of pixels below which an image has no contrast. Digits of MNIST have 0.4 to 0.8.
_GREY = 0.25


class Evaluation:
    """The context of one evaluation. Each method measures a group of `metrics.METRICS`.

    Args:
      config: The configuration.
      model: The joint model.
      params: Its parameters.
      images: The data.
      settings: The section `evaluation` of the configuration.
      key: A typed key.
    """

    def __init__(
        self,
        config: JEMConfig,
        model: JointEnergy,
        params: PyTree,
        images: Images,
        settings: JEMEvaluationConfig,
        key: Key,
    ) -> None:
        self.config = config
        self.model = model
        self.params = params
        self.settings = settings
        self.keys = jax.random.split(key, 4)
        on_test = settings.split == "test"
        self.unseen = images.test if on_test else images.validation
        self.labels = images.test_labels if on_test else images.validation_labels

    @functools.cached_property
    def judge(self) -> Judge:
        """What compares samples with unseen images."""
        return Judge(self.config.data, data.as_floats(self.unseen))

    @functools.cached_property
    def logits(self) -> np.ndarray:
        """Class logits of unseen images, float64."""
        return self._logits(data.as_floats(self.unseen))

    @functools.cached_property
    def noise(self) -> jax.Array:
        """Where the chains start."""
        return sampling.noise(self.config, self.keys[0], self.settings.n_chains)

    def classify(self) -> dict[str, float]:
        """Returns loss, accuracy and calibration of the classifier."""
        log_p = self.logits + energies_of(self.logits)[:, None]
        p = np.exp(log_p)
        return {
            "validation_loss": float(-log_p[np.arange(len(p)), self.labels].mean()),
            "validation_accuracy": float((p.argmax(axis=1) == self.labels).mean()),
            "ece": expected_calibration_error(p / p.sum(axis=1, keepdims=True), self.labels),
        }

    def strange_energies(self) -> dict[str, np.ndarray]:
        """Returns energies of strange inputs by kind; of Fashion-MNIST only where it can be loaded."""
        n = self.settings.n_strange
        few = data.as_floats(self.unseen[:n])
        noise = np.random.default_rng(0).uniform(-1, 1, (n, *self.model.shape)).astype(np.float32)
        inputs = {"rotated": np.rot90(few, axes=(1, 2)), "inverted": -few, "uniform": noise}
        fashion = _fashion(n, self.model.shape)
        if fashion is not None:
            inputs = {"fashion": fashion} | inputs
        return {name: energies_of(self._logits(x)) for name, x in inputs.items()}

    def strange(self) -> dict[str, float]:
        """Returns how well E(x) tells unseen images from strange inputs."""
        known = energies_of(self.logits)
        found = {
            f"auroc_{name}": auroc(known, energies) for name, energies in self.strange_energies().items()
        }
        return found | {"energy_unseen": float(known.mean())}

    def histograms(self) -> dict[str, np.ndarray]:
        """Returns energies by kind of input, for a figure."""
        return {"energies_unseen": energies_of(self.logits)} | {
            f"energies_{name}": energies for name, energies in self.strange_energies().items()
        }

    def samples(self) -> dict[str, float]:
        """Returns the figures of fresh chains from noise."""
        ends = sampling.ends(self.config, self.model, self.params, self.keys[1], self.noise)
        figures = self.judge.figures(ends, "noise", self.config.generation.n_steps)
        grey = ends.reshape(len(ends), -1).std(axis=1) < _GREY
        energy = float(energies_of(self._logits(ends)).mean())
        return figures | {"stuck_grey": float(grey.mean()), "energy_samples": energy}

    def start(self) -> dict[str, float]:
        """Returns the same figures of the chains before their first step."""
        return self.judge.figures(np.asarray(self.noise), "noise", 0, prefix="start_")

    def conditional(self) -> dict[str, float]:
        """Returns the share of chains of a class that the judge reads as that class."""
        ends, classes = sampling.of_classes(self.config, self.model, self.params, self.keys[2])
        read = self.judge.classifier.probabilities(ends).argmax(axis=1)
        return {"conditional_accuracy": float((read == classes).mean())}

    def _logits(self, x: np.ndarray) -> np.ndarray:
        padded = np.concatenate([x, np.zeros((-len(x) % _ROWS, *x.shape[1:]), np.float32)])
        parts = [
            np.asarray(_logits(self.model, self.params, jnp.asarray(padded[i : i + _ROWS])), np.float64)
            for i in range(0, len(padded), _ROWS)
        ]
        return np.concatenate(parts)[: len(x)]


def energies_of(logits: np.ndarray) -> np.ndarray:
    """Returns E(x) = −log Σ_y exp(f(x)[y]) of rows of logits."""
    largest = logits.max(axis=1)
    return -(largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1)))


def _fashion(n: int, shape: tuple[int, ...]) -> np.ndarray | None:
    if shape != (28, 28):
        return None
    try:
        return data.as_floats(datasets.load("fashion_mnist").test.images[:n])
    except (DataUnavailableError, DataFileError):
        return None


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: JointEnergy, params: Any, x: jax.Array) -> jax.Array:
    return jax.vmap(model.logits, (None, 0))(params, x)
