"""What the numbers of runs of the recipe `jem` say, in sentences."""

from __future__ import annotations

from collections.abc import Mapping

from ebm_jax.experiment.recipes.base import StoredRun
from ebm_jax.experiment.recipes.comparison import group_by_seed, number


def remarks(run: StoredRun) -> list[str]:
    """Returns what the figures of samples are worth beside their start, and the temperature of the chains."""
    metrics, generation = run.metrics, run.config.generation
    sentences = []
    if metrics.get("frechet") is not None and metrics.get("start_frechet") is not None:
        ends, noise = (
            [number(metrics.get(f"{prefix}{name}")) for name in ("mean_confidence", "frechet")]
            for prefix in ("", "start_")
        )
        sentences.append(
            f"After {generation.n_steps} steps from uniform noise the judge's mean confidence is {ends[0]:.3f} and the "
            f"Fréchet distance {ends[1]:.1f}; of the noise itself they are {noise[0]:.3f} and {noise[1]:.1f}."
        )
    temperature = generation.noise_scale**2 / (2 * generation.step_size)
    sentences.append(
        f"Chains of this step size and noise would sample at the temperature {temperature:.2g}, not at 1: "
        "they are short runs that go downhill, not samples of exp(−E)."
    )
    return sentences


def findings(runs: Mapping[str, StoredRun]) -> list[str]:
    """Returns which run classifies best; runs that differ in seed alone count as one, by their means."""
    groups = group_by_seed(runs)
    best = max(groups, key=lambda name: groups[name].spread("validation_accuracy").mean)
    accuracy = groups[best].spread("validation_accuracy").text(4)
    error = groups[best].spread("ece").text(4)
    return [f"**{best}** classifies best: accuracy {accuracy}, calibration error {error}."]
