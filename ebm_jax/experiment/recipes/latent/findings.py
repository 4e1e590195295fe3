"""What the numbers of runs of the recipe `latent` say, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ebm_jax.experiment.recipes.base import StoredRun
from ebm_jax.experiment.recipes.comparison import group_by_seed, number, varied_settings


def remarks(run: StoredRun) -> list[str]:
    """Returns what the likelihood is compared with and how log Z is known, and what the samples are compared with."""
    config: Any = run.config
    metrics, sentences = run.metrics, []
    if metrics.get("gain") is not None:
        mixtures = {n: metrics.get(f"gain_gmm_{n}") for n in (10, 50, 200)}
        known = [f"{number(gain):.3f} with {n}" for n, gain in mixtures.items() if gain is not None]
        beside = f"; Gaussian mixtures gain {', '.join(known)} components" if known else ""
        sentences.append(
            f"Held-out latents gain {number(metrics['gain']):.3f} nats over one Gaussian{beside}. Training latents "
            f"gain {number(metrics.get('gain_train')):.3f}."
        )
        sentences.append(
            f"log Z by AIS is {number(metrics.get('log_z_forward')):.3f} from below, with "
            f"{number(metrics.get('ais_ess')):.0f} of {config.evaluation.ais_chains} chains effective, and "
            f"{number(metrics.get('log_z_reverse')):.3f} from above if the ends of fresh chains are draws of the "
            f"model; {number(metrics.get('log_z')):.3f} is used."
        )
    if metrics.get("frechet") is not None:
        ends, start, ceiling = (
            [number(metrics.get(f"{prefix}{name}")) for name in ("mean_confidence", "frechet")]
            for prefix in ("", "start_", "reconstructed_")
        )
        sentences.append(
            f"After {config.generation.n_steps} steps the mean confidence is {ends[0]:.3f} and the Fréchet distance "
            f"{ends[1]:.1f}; of one Gaussian, where chains start, {start[0]:.3f} and {start[1]:.1f}; of "
            f"reconstructions {ceiling[0]:.3f} and {ceiling[1]:.1f}. The classifier of {config.data.name} has the "
            f"SHA-256 {str(run.draws['classifier_sha256'])[:16]}…."
        )
    return sentences


def findings(runs: Mapping[str, StoredRun]) -> list[str]:
    """Returns which run makes the best samples, by the Fréchet distance, and which gains most over one Gaussian.

    Runs that differ in seed alone count as one, by their means. Each run has an autoencoder of its own, so gains are of
    densities of different latents. They are only ranked for equal numbers of latents.
    """
    groups = group_by_seed(runs)
    varied = varied_settings(groups)
    if any(key.startswith(("data.", "evaluation.")) for key in varied):
        return ["The runs differ in what they are judged by: they are not ranked."]
    distance, name = min((group.spread("frechet"), name) for name, group in groups.items())
    sentences = [f"The samples of **{name}** have the least Fréchet distance, {distance.text(1)}."]
    if "autoencoder.n_latents" not in varied:
        gain, name = max((group.spread("gain"), name) for name, group in groups.items())
        sentences.append(f"**{name}** gains most over one Gaussian, {gain.text(3)} nats.")
    return sentences
