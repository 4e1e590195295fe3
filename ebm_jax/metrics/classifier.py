"""A small convolutional classifier of a data set of images, whose features judge samples.

It is trained once on this machine, by `ebm-jax classifier NAME` or when it is first needed, and kept in the cache
folder. Its SHA-256 names it: figures of two classifiers cannot be compared.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import secrets
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ebm_jax import checks, files
from ebm_jax import data as datasets
from ebm_jax.data import cache
from ebm_jax.energies.networks import ConvNet
from ebm_jax.energies.neural import JointEnergy

NAMES = ("digits", "mnist", "fashion_mnist")

# Raise this when the network or its training changes.
FORMAT = 2
_ROWS = 500
_BATCH = 100
_N_EPOCHS = {"digits": 30, "mnist": 6, "fashion_mnist": 6}
_PEAK_RATE = 2e-3
# Brightness of some training images is changed and noise added, so that features do not hang on single pixels.
_NOISE = 0.1


class Classifier(NamedTuple):
    """A trained classifier. Images are floats in [−1, 1], `(n, height, width)`.

    Attributes:
      name: The data set.
      model: The network, as a `JointEnergy`.
      params: Its parameters.
      mean: Mean of what the last layer sees, over the training images, float32 `(64,)`.
      scale: Standard deviation of the same; 1 for units that are the same for all images.
      accuracy: Share of the test set that it reads correctly.
      sha256: Hash of the parameters, `mean` and `scale`.
    """

    name: str
    model: JointEnergy
    params: Any
    mean: np.ndarray
    scale: np.ndarray
    accuracy: float
    sha256: str

    def read(self, images: Any) -> tuple[np.ndarray, np.ndarray]:
        """Returns the features and the probabilities of images.

        Args:
          images: `(n, height, width)`.

        Returns:
          Standardized features, float32 `(n, 64)`, and p(y | x), float64 `(n, n_classes)`. The features are what the
          last layer sees, less `mean`, over `scale`. Without that, distances would depend on the scale that a network
          happened to learn.

        Raises:
          ValueError: If images do not fit, are not floats, or lie outside [−1, 1].
        """
        units, logits = _read(self.model, self.params, self._check(images))
        odds = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        return (units - self.mean) / self.scale, odds / odds.sum(axis=1, keepdims=True)

    def features(self, images: Any) -> np.ndarray:
        """Returns standardized features, float32 `(n, 64)`; takes and refuses what `read` does."""
        return self.read(images)[0]

    def probabilities(self, images: Any) -> np.ndarray:
        """Returns p(y | x), float64 `(n, n_classes)`; takes and refuses what `read` does."""
        return self.read(images)[1]

    def _check(self, images: Any) -> np.ndarray:
        """Returns images in float32."""
        x = np.asarray(images)
        if x.shape[1:] != self.model.shape or len(x) == 0:
            shape = ", ".join(map(str, self.model.shape))
            raise ValueError(f"images has shape {x.shape}; the classifier of {self.name} reads (n, {shape})")
        # Grey values of 0 and 1, and bits, would pass the check of the range.
        if not np.issubdtype(x.dtype, np.floating):
            raise ValueError(
                f"images has dtype {x.dtype}; give floats in [-1, 1], of grey values x / 127.5 - 1"
            )
        bad = x[~((x >= -1) & (x <= 1))]
        if len(bad):
            raise ValueError(
                f"images holds {bad[0]}; clip them to [-1, 1], and scale grey values by x / 127.5 - 1"
            )
        return x.astype(np.float32)


def load(name: str, cache_dir: str | os.PathLike[str] | None = None) -> Classifier:
    """Returns the classifier of a data set; trains it where the cache has none.

    Args:
      name: "digits", "mnist" or "fashion_mnist".
      cache_dir: The cache folder, by default that of the data.

    Returns:
      The classifier.

    Raises:
      ValueError: If there is no such classifier.
      DataFileError: (A ValueError.) If its file is damaged.
      DataUnavailableError: If it has to be trained and the data are not here.
    """
    path = path_of(name, cache_dir)
    if not path.exists():
        print(
            f"training the classifier of {name}, once on this machine (a few minutes for mnist)",
            file=sys.stderr,
            flush=True,
        )
        return train(name, cache_dir)
    model = _model(name)
    struct = model.params_struct()
    try:
        arrays = files.read_npz(path)
        facts = json.loads(str(arrays["facts"]))
        leaves = [arrays[f"leaf{i}"] for i in range(len(jax.tree.leaves(struct)))]
        mean, scale = arrays["mean"], arrays["scale"]
        params = jax.tree.unflatten(jax.tree.structure(struct), leaves)
        checks.check_struct("parameters", params, struct)
        accuracy, sha256 = float(facts["accuracy"]), facts["sha256"]
        if digest((params, mean, scale)) != sha256:
            raise ValueError("its hash differs")
    # A damaged archive raises errors of many types.
    except Exception as error:
        raise datasets.DataFileError(
            f"{path} is damaged ({files.reason(error)}); remove it, and it is trained again"
        ) from error
    return Classifier(name, model, jax.tree.map(jnp.asarray, params), mean, scale, accuracy, sha256)


def train(name: str, cache_dir: str | os.PathLike[str] | None = None) -> Classifier:
    """Trains the classifier of a data set and keeps it in the cache, replacing an earlier one.

    Args:
      name: "digits", "mnist" or "fashion_mnist".
      cache_dir: The cache folder, by default that of the data.

    Returns:
      The classifier.

    Raises:
      ValueError: If there is no such classifier.
      DataUnavailableError: If the data are not here.
    """
    path = path_of(name, cache_dir)
    found = datasets.load(name, cache_dir=cache_dir)
    model = _model(name)
    images, labels = jnp.asarray(found.train.images), jnp.asarray(found.train.labels, jnp.int32)
    n_steps = _N_EPOCHS[name] * (len(images) // _BATCH)
    tx = optax.adamw(
        optax.warmup_cosine_decay_schedule(0.0, _PEAK_RATE, n_steps // 10, n_steps), weight_decay=1e-3
    )
    params = model.init(jax.random.key(0))
    state = params, tx.init(params)
    for epoch in range(_N_EPOCHS[name]):
        state = _epoch(model, tx.update, jax.random.fold_in(jax.random.key(1), epoch), state, images, labels)
    params = jax.device_get(state[0])
    units, _ = _read(model, params, np.asarray(found.train.images, np.float32) / 127.5 - 1)
    mean, scale = units.mean(axis=0), units.std(axis=0)
    scale = np.where(scale > 1e-6, scale, np.float32(1))
    test = np.asarray(found.test.images, np.float32) / 127.5 - 1
    fresh = Classifier(name, model, params, mean, scale, 0.0, digest((params, mean, scale)))
    accuracy = float((fresh.probabilities(test).argmax(axis=1) == found.test.labels).mean())
    fresh = fresh._replace(accuracy=accuracy)
    _write(path, fresh)
    return fresh


def path_of(name: str, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Returns the file of a classifier.

    Raises:
      ValueError: If there is no such classifier.
    """
    if name not in NAMES:
        raise ValueError(f"there is no classifier of {name!r}; give one of {', '.join(NAMES)}")
    return cache.directory(cache_dir) / "classifiers" / f"{name}-{FORMAT}.npz"


def digest(params: Any) -> str:
    """Returns the SHA-256 of parameters: of the shape and the bytes of each array."""
    found = hashlib.sha256(f"ebm_jax classifier {FORMAT}".encode())
    for leaf in jax.tree.leaves(params):
        array = np.ascontiguousarray(leaf)
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(array.data)
    return found.hexdigest()


def _model(name: str) -> JointEnergy:
    if name == "digits":
        return JointEnergy(ConvNet((16, 32), (3, 3), (1, 2), (1, 1), (64,), "relu", 10), (8, 8), 10)
    net = ConvNet((24, 48), (5, 3), (2, 2), (2, 1), (64,), "relu", 10)
    return JointEnergy(net, (28, 28), 10)


def _write(path: Path, classifier: Classifier) -> None:
    """Writes the file in one step, so that another process sees all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}.partial")
    facts = json.dumps({"accuracy": classifier.accuracy, "sha256": classifier.sha256})
    leaves = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(classifier.params))}
    try:
        with partial.open("wb") as file:
            named: dict[str, Any] = {
                "facts": np.asarray(facts),
                "mean": classifier.mean,
                "scale": classifier.scale,
                **leaves,
            }
            np.savez(file, **named)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _epoch(
    model: JointEnergy, update: Any, key: Any, state: Any, images: jax.Array, labels: jax.Array
) -> Any:
    """Makes one pass over the shuffled images."""
    n_batches = len(images) // _BATCH
    order = jax.random.permutation(jax.random.fold_in(key, 0), len(images))[: n_batches * _BATCH]
    keys = jax.random.split(jax.random.fold_in(key, 1), n_batches)

    def body(state: Any, step: Any) -> tuple[Any, None]:
        (params, opt_state), (rows, key) = state, step
        noise, gain = jax.random.split(key)
        x = images[rows].astype(jnp.float32) / 127.5 - 1
        scale = jax.random.uniform(gain, (_BATCH, 1, 1), minval=0.7, maxval=1.0)
        x = jnp.clip((x + 1) * scale - 1 + _NOISE * jax.random.normal(noise, x.shape), -1, 1)

        def loss(params: Any) -> jax.Array:
            logits = jax.vmap(model.logits, (None, 0))(params, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

        updates, opt_state = update(jax.grad(loss)(params), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    return jax.lax.scan(body, state, (order.reshape(n_batches, _BATCH), keys))[0]


def _read(model: JointEnergy, params: Any, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns what the last layer sees, and the logits."""
    # Rows are filled up with zeros, so that any number of images runs the same program.
    padded = np.concatenate([images, np.zeros((-len(images) % _ROWS, *images.shape[1:]), np.float32)])
    parts = [
        jax.device_get(_read_rows(model, params, padded[i : i + _ROWS])) for i in range(0, len(padded), _ROWS)
    ]
    units, logits = (np.concatenate(part)[: len(images)] for part in zip(*parts, strict=True))
    return units, logits


@functools.partial(jax.jit, static_argnums=0)
def _read_rows(model: JointEnergy, params: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the same of one chunk, in one pass: the compiler merges what both compute."""
    module = model.module
    units = jax.vmap(lambda x: module.apply({"params": params}, x, method=module.features))(images)
    return units, jax.vmap(model.logits, (None, 0))(params, images)
