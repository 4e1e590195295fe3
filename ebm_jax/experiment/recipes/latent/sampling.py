"""MALA chains of a trained energy of latents, from N(0, I), and pictures of them."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import checks
from ebm_jax.energies.latent import LatentModel, LatentParams
from ebm_jax.experiment.recipes.frames import Frames, run_frames
from ebm_jax.experiment.recipes.images import judging
from ebm_jax.experiment.recipes.images.chains import frame_steps
from ebm_jax.experiment.recipes.latent.config import LatentConfig
from ebm_jax.graphs.blocks import SamplingSchedule
from ebm_jax.run import sample
from ebm_jax.samplers.adaptation import warm_up
from ebm_jax.samplers.mala import MALA, mala
from ebm_jax.types import Key

# Chains of which samples/final.npz holds pictures.
N_PICTURES = 64
# Chains that tune the step size.
_N_TUNING = 256
# Landscapes are drawn on [-4, 4]², whitened latents being of variance 1.
_HALF_WIDTH = 4.0
_N_GRID = 81
_N_SLICES = 2
# Longer paths would cover the landscape.
_MAX_PATH = 500


class Chains(NamedTuple):
    """Chains of latents.

    Attributes:
      positions: `(n_frames, n_chains, n_latents)`, the start first.
      steps: Steps before each frame, `(n_frames,)`.
      step_size: That of MALA, tuned.
      acceptance: Share of accepted proposals.
    """

    positions: np.ndarray
    steps: np.ndarray
    step_size: float
    acceptance: float


def normal_start(key: Key, n: int, n_latents: int) -> jax.Array:
    """Draws from N(0, I), where all chains start; raises ValueError if they are too large for the memory."""
    checks.check_chains_fit(n, jax.ShapeDtypeStruct((n_latents,), jnp.float32), "n")
    return jax.random.normal(key, (n, n_latents))


def tuned_kernel(config: LatentConfig, model: LatentModel, params: LatentParams, key: Key) -> MALA:
    """Returns MALA with a step size that other chains tuned."""
    first, steps = jax.random.split(key)
    start = normal_start(first, _N_TUNING, model.autoencoder.n_latents)
    kernel = mala(model.prior, config.negatives.step_size)
    kernel, _ = warm_up(
        steps,
        kernel,
        params.energy,
        start,
        config.generation.tuning_steps,
        target_acceptance=config.negatives.target_acceptance,
    )
    return kernel


def run_chains(
    config: LatentConfig, model: LatentModel, params: LatentParams, key: Key, n: int, n_steps: int, every: int
) -> Chains:
    """Runs MALA chains from N(0, I).

    Args:
      config: The configuration.
      model: The model.
      params: Its parameters.
      key: A typed key.
      n: Number of chains.
      n_steps: Steps of each chain.
      every: Steps between two positions that are kept. If `n_steps` is no multiple, the first two are further apart.

    Returns:
      The chains.
    """
    chains, kernel, start = _begin(config, model, params, key, n)
    steps = frame_steps(n_steps, every)
    schedule = SamplingSchedule(int(steps[0]), len(steps), min(every, n_steps))
    found = sample(chains, kernel, params.energy, start, schedule)
    positions = np.concatenate([np.asarray(start)[None], np.asarray(found.positions)])
    acceptance = float(np.sum(found.info.n_accepted) / np.sum(found.info.n_proposed))
    return Chains(positions, np.concatenate([[0], steps]), float(kernel.step_size), acceptance)


def _begin(
    config: LatentConfig, model: LatentModel, params: LatentParams, key: Key, n: int
) -> tuple[Key, MALA, jax.Array]:
    """Returns the key of the chains, their kernel, and where they start."""
    tuning, first, chains = jax.random.split(key, 3)
    return (
        chains,
        tuned_kernel(config, model, params, tuning),
        normal_start(first, n, model.autoencoder.n_latents),
    )


def decoded(model: LatentModel, params: LatentParams, z: Any) -> np.ndarray:
    """Returns the probabilities of the pixels, `(..., height, width)`, from whitened latents `(..., n_latents)`."""
    z = np.asarray(z)
    images = np.asarray(_decode(model, params, z.reshape(-1, z.shape[-1])))
    return images.reshape(*z.shape[:-1], *images.shape[1:])


@functools.partial(jax.jit, static_argnums=0)
def _decode(model: LatentModel, params: LatentParams, z: jax.Array) -> jax.Array:
    return jax.vmap(model.decode, (None, 0))(params, z)


def as_pixels(probabilities: np.ndarray) -> np.ndarray:
    """Returns probabilities as grey values, uint8."""
    return np.rint(255 * probabilities).astype(np.uint8)


def draw_frames(
    config: LatentConfig, model: LatentModel, params: LatentParams, key: Key, n: int, n_steps: int
) -> Frames:
    """Returns pictures along chains from N(0, I), uint8 `(n_frames, n, height, width)`, and their steps."""
    chains, kernel, start = _begin(config, model, params, key, n)
    steps = frame_steps(n_steps, config.generation.every)

    def picture(z: jax.Array) -> np.ndarray:
        return as_pixels(decoded(model, params, z))

    return run_frames(chains, kernel, params.energy, start, steps, picture)


def final_draws(
    config: LatentConfig, model: LatentModel, params: LatentParams, held_out: np.ndarray, key: Key
) -> dict[str, np.ndarray]:
    """Returns the arrays of samples/final.npz.

    frames: uint8 `(n_frames, n_chains, height, width)`, along chains from N(0, I). steps: their steps. data: held-out
    images. reconstructions: of these. landscape: energies `(n_slices, rows, columns)` of two coordinates at a time,
    the others being those of the end of a chain. path: latents of this chain, a row a step, `(n_rows, n_latents)`.
    grid: coordinates along which it is drawn. classifier_sha256: which classifier judges the samples.
    """
    n_steps = config.generation.n_steps
    frames, steps = draw_frames(config, model, params, key, N_PICTURES, n_steps)
    few = held_out[:N_PICTURES]
    z = jax.vmap(model.encode, (None, 0))(params, jnp.asarray(few, jnp.float32))
    n_path = min(n_steps, _MAX_PATH)
    path = run_chains(config, model, params, jax.random.fold_in(key, 1), 1, n_path, 1).positions[:, 0]
    return {
        "frames": frames,
        "steps": steps,
        "data": as_pixels(few),
        "reconstructions": as_pixels(decoded(model, params, z)),
        "landscape": landscapes(model, params, path[-1]),
        "path": path,
        "grid": grid(),
        "classifier_sha256": np.asarray(judging.load_classifier(config.data.name).sha256),
    }


def grid() -> np.ndarray:
    """Returns the coordinates along which landscapes are drawn."""
    return np.linspace(-_HALF_WIDTH, _HALF_WIDTH, _N_GRID, dtype=np.float32)


def landscapes(model: LatentModel, params: LatentParams, z: np.ndarray) -> np.ndarray:
    """Returns energies on planes through `z`: coordinates 0 and 1, 2 and 3, …, as far as there are such.

    Args:
      model: The model.
      params: Its parameters.
      z: Whitened latents, `(n_latents,)`.

    Returns:
      `(n_slices, rows, columns)`; the first coordinate of a plane goes along columns.
    """
    rows, columns = np.meshgrid(grid(), grid(), indexing="ij")
    found = []
    for i in range(min(_N_SLICES, len(z) // 2)):
        points = np.broadcast_to(z, (*rows.shape, len(z))).copy()
        points[..., 2 * i], points[..., 2 * i + 1] = columns, rows
        energies = energies_of(model, params, points.reshape(-1, len(z)))
        found.append(energies.reshape(rows.shape))
    return np.stack(found) if found else np.zeros((0, _N_GRID, _N_GRID))


def energies_of(model: LatentModel, params: LatentParams, z: Any) -> np.ndarray:
    """Returns the energies of whitened latents `(n, n_latents)`, float64."""
    return np.asarray(_energies(model, params.energy, jnp.asarray(z)), np.float64)


@functools.partial(jax.jit, static_argnums=0)
def _energies(model: LatentModel, params: Any, z: jax.Array) -> jax.Array:
    return jax.vmap(model.prior.energy, (None, 0))(params, z)
