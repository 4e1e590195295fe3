"""Metrics of the recipe `conv`; each group is a method of `evaluation.Evaluation`.

The figures of samples are those of `ebm_jax.metrics.samples.judge`. They come four times: of fresh chains from noise,
of the same chains before their first step, of as many training images, and of the replay buffer. The buffer is no
part of the parameters, so `Experiment.evaluate_state` measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import methodcaller
from typing import Any

from ebm_jax.experiment.recipes.base import Metric

_FIGURES = (
    ("share_of_classes", "read as one of the classes of the data", 3),
    ("share_above_0_9", "read with a confidence above 0.9", 3),
    ("mean_confidence", "mean confidence", 3),
    ("frechet", "Fréchet distance of classifier features", 1),
    ("kid", "KID of classifier features", None),
    ("inception_score", "inception-type score", None),
    ("rarest_class", "share of the rarest class", 3),
    ("n_samples", "number of samples", None),
    ("n_real", "number of images they are compared with", None),
    ("n_steps", "steps of the chains", None),
    ("beta", "inverse temperature of the chains", None),
)


def _of_samples(
    group: str, prefix: str, whose: str, compute: Callable[[Any], Mapping[str, float]] | None
) -> tuple[Metric, ...]:
    """Returns the metrics of one set of samples."""
    first, *others = (
        (f"{prefix}{name}", group, f"{whose}: {heading}", digits) for name, heading, digits in _FIGURES
    )
    return Metric(*first, compute), *(Metric(*entry) for entry in others)


# metrics.jsonl keeps this order.
METRICS = (
    *_of_samples("samples", "", "fresh chains", methodcaller("samples")),
    *_of_samples("start", "start_", "their noise", methodcaller("start")),
    *_of_samples("training", "training_", "training images", methodcaller("training_images")),
    Metric("energy_unseen", "energy", "energy of unseen images", 3, methodcaller("energy")),
    Metric("energy_training", "energy", "energy of training images", 3),
    Metric("energy_samples", "energy", "energy of fresh chains", 3),
    Metric("energy_noise", "energy", "energy of their noise", 3),
    *_of_samples("buffer", "buffer_", "replay buffer", None),
)
