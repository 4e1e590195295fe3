"""What the numbers of runs of the recipe `jem` say, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ebm_jax.experiment.recipes.base import StoredRun
from ebm_jax.experiment.recipes.comparison import group_by_seed, number, varied_settings
from ebm_jax.metrics import implied_temperature

_STRANGE = {
    "fashion": "Fashion-MNIST",
    "rotated": "rotated",
    "inverted": "inverted",
    "uniform": "uniform noise",
}


def remarks(run: StoredRun) -> list[str]:
    """Returns how good the classifier, its energy and its samples are, each beside what it is to be compared with."""
    config: Any = run.config
    metrics, generation, split = run.metrics, config.generation, config.evaluation.split
    areas = {name: number(metrics.get(f"auroc_{name}")) for name in _STRANGE}
    known = ", ".join(f"{_STRANGE[name]} {area:.3f}" for name, area in areas.items() if area == area)
    ends, noise, kept = (
        [number(metrics.get(f"{prefix}{name}")) for name in ("mean_confidence", "share_above_0_9", "frechet")]
        for prefix in ("", "start_", "conditional_")
    )
    temperature = implied_temperature(
        generation.final_step_size or generation.step_size, generation.noise_scale
    )
    return [
        f"Of the {split} images {number(metrics.get('accuracy')):.2%} are classified correctly; the expected "
        f"calibration error is {number(metrics.get('ece')):.4f}.",
        f"E(x) tells strange images from them with an area under the ROC curve of: {known}. 0.5 is chance.",
        f"After {generation.n_steps} steps from noise the mean confidence of the judge is {ends[0]:.3f}, "
        f"{ends[1]:.1%} of the chains are read with more than 0.9, and the Fréchet distance is {ends[2]:.1f}. Before "
        f"the first step these are {noise[0]:.3f}, {noise[1]:.1%} and {noise[2]:.1f}.",
        f"{number(metrics.get('stuck_chains')):.1%} of the chains stay noise; the rarest class "
        f"has {number(metrics.get('rarest_class')):.1%} of the chains.",
        f"Chains that keep one class, equally many of each, are read as it in "
        f"{number(metrics.get('class_accuracy')):.1%} of the cases, with a mean confidence of {kept[0]:.3f}; "
        f"{kept[1]:.1%} are read with more than 0.9, the Fréchet distance is {kept[2]:.1f}, and "
        f"{number(metrics.get('conditional_stuck_chains')):.1%} stay noise.",
        f"Chains of the last step size and noise sample at the temperature {temperature:.2g} of the energy, not at 1: "
        "they are short runs that go downhill, not samples of exp(−E).",
    ]


def findings(runs: Mapping[str, StoredRun]) -> list[str]:
    """Returns which run classifies best and which makes the best samples.

    Runs that differ in seed alone count as one, by their means. Runs of different data are not ranked.
    """
    groups = group_by_seed(runs)
    data = sorted(key for key in varied_settings(groups) if key.startswith(("data.", "evaluation.")))
    if data:
        return [
            f"The runs differ in {', '.join(data)}, and so in what they are judged by: they are not ranked."
        ]
    accuracy, classifier = max((group.spread("accuracy"), name) for name, group in groups.items())
    distance, sampler = min((group.spread("frechet"), name) for name, group in groups.items())
    return [
        f"**{classifier}** classifies best, with an accuracy of {accuracy.text(4)}.",
        f"The samples of **{sampler}** have the least Fréchet distance, {distance.text(1)}.",
    ]
