"""What the numbers of runs of the recipe `conv` say, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ebm_jax.experiment.recipes.base import StoredRun
from ebm_jax.experiment.recipes.comparison import group_by_seed, number, varied_settings


def remarks(run: StoredRun) -> list[str]:
    """Returns what the figures of samples are worth: their start, their floor, and the temperature of the chains."""
    config: Any = run.config
    metrics, generation = run.metrics, config.generation
    sentences = [
        f"Samples are judged by the classifier of {config.data.name} with the SHA-256 "
        f"{str(run.draws['classifier_sha256'])[:16]}…; distances of two classifiers cannot be compared. A Fréchet "
        "distance of few images is biased upwards: that of training images is the floor at this number."
    ]
    if metrics.get("frechet") is not None and metrics.get("start_frechet") is not None:
        ends, noise, images = (
            [number(metrics.get(f"{prefix}{name}")) for name in ("share_above_0_9", "frechet")]
            for prefix in ("", "start_", "training_")
        )
        sentences.append(
            f"After {generation.n_steps} steps {ends[0]:.1%} of the chains are read with a confidence above 0.9 and "
            f"their Fréchet distance is {ends[1]:.1f}. Before the first step these are {noise[0]:.1%} and "
            f"{noise[1]:.1f}; of as many training images they are {images[0]:.1%} and {images[1]:.1f}."
        )
    from ebm_jax.metrics.samples import implied_temperature

    temperature = implied_temperature(generation.step_size, generation.noise_scale)
    sentences.append(
        f"Without the clip, chains of this step size and noise would sample at the temperature {temperature:.2g} of "
        "the energy, not at 1: they are short runs that go downhill, not samples of exp(−E)."
    )
    return sentences


def findings(runs: Mapping[str, StoredRun]) -> list[str]:
    """Returns which run makes the best samples, by the Fréchet distance.

    Runs that differ in seed alone count as one, by their means. Runs of different data are not ranked.
    """
    groups = group_by_seed(runs)
    data = sorted(key for key in varied_settings(groups) if key.startswith(("data.", "evaluation.")))
    if data:
        return [
            f"The runs differ in {', '.join(data)}, and so in what they are judged by: they are not ranked."
        ]
    by_distance = sorted((group.spread("frechet"), name) for name, group in groups.items())
    first = by_distance[0]
    sentences = [f"The samples of **{first[1]}** have the least Fréchet distance, {first[0].text(1)}."]
    rivals = [name for distance, name in by_distance[1:] if distance.low <= first[0].high]
    if rivals:
        sentences.append(f"That of {', '.join(rivals)} is within the spread over seeds.")
    return sentences
