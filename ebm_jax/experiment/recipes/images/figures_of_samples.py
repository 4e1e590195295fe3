"""Metrics of samples that `metrics.judge` measures, as entries of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


def of_samples(
    group: str, prefix: str, whose: str, compute: Callable[[Any], Mapping[str, float]] | None
) -> tuple[Metric, ...]:
    """Returns the metrics of one set of samples.

    Args:
      group: Their group.
      prefix: Beginning of their names.
      whose: Whose figures they are, for the headings.
      compute: What measures the group, or None.

    Returns:
      The metrics.
    """
    first, *others = (
        (f"{prefix}{name}", group, f"{whose}: {heading}", digits) for name, heading, digits in _FIGURES
    )
    return Metric(*first, compute), *(Metric(*entry) for entry in others)
