"""The recipe `rbm`: an RBM of binary images, trained by contrastive divergence.

Visible biases start at the log-odds of the pixels' means and weights at N(0, init_scale²) (Hinton 2012, "A practical
guide to training restricted Boltzmann machines", §8). The learning rate rises for `warmup_epochs` and then follows the
schedule. Weights decay, biases do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ebm_jax import data as datasets
from ebm_jax import diagnostics, exact, metrics, partition
from ebm_jax.energies.rbm import RBM, RBMParams
from ebm_jax.experiment.config import ConfigError, EvaluationConfig, RBMConfig
from ebm_jax.experiment.recipes.base import Recipe
from ebm_jax.graphs.blocks import BlockSpec, SamplingSchedule
from ebm_jax.run import init_chains, sample
from ebm_jax.samplers.gibbs import gibbs
from ebm_jax.training import averaging, centring, negatives
from ebm_jax.training.loop import Plan, advance
from ebm_jax.training.prepare import binarize_batch
from ebm_jax.training.state import TrainState
from ebm_jax.training.step import Limits, make_train_step

FRAMES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
GROUPS = ("likelihood", "pseudo_likelihood", "reconstruction", "free_energy", "mixing")
_EXACT_UNITS = 20
_TRAIN_ROWS = 10_000  # of the training set, for figures that compare with the test set
_DATA, _RUN, _TEST, _JUDGE, _DRAWS = range(5)  # streams of the seed


class Bits(NamedTuple):
    """Rows to train on, uint8 `(n, n_visible)`, bits or grey values that become bits at every step; rows of bits to
    judge by; the means of the pixels; and the shape of an image.
    """

    train: np.ndarray
    grey: bool
    train_bits: np.ndarray
    test_bits: np.ndarray
    mean: np.ndarray
    shape: tuple[int, int]


def build(config: RBMConfig) -> Recipe:
    """Returns the run's parts; raises ConfigError on batches larger than the data, and as `ebm_jax.data.load`."""
    key = jax.random.key(config.seed)
    bits = load_bits(config, key)
    model = RBM(bits.train.shape[1], config.model.n_hidden)
    n = len(bits.train)
    batch_size = config.training.batch_size
    if batch_size > n:
        raise ConfigError(
            config.name,
            [
                f"training.batch_size: {batch_size} was given, and there are {n} rows to train on: give at most {n}"
            ],
        )
    n_batches = n // batch_size
    rate = schedule(config, n_batches)
    tx = transformation(config, model, rate)
    source: Any
    if config.negatives.method == "cd":
        source = negatives.cd(gibbs(model), config.negatives.k)
    else:
        # Chains that end with the hidden layer hand on its inputs, a matrix product of six; those of CD begin with it.
        spec = BlockSpec(model.default_spec().free[::-1])
        source = negatives.pcd(
            gibbs(model, spec), config.negatives.k, config.negatives.n_chains or batch_size
        )
    start, _ = make_train_step(model, tx, source)
    on_device = jax.device_put(bits.train)
    run_key = jax.random.fold_in(key, _RUN)
    health = config.health
    limits = Limits(
        *(
            jnp.float32(np.inf if limit is None else limit)
            for limit in (health.max_gradient_norm, health.max_energy_gap)
        )
    )
    skip = health.policy == "skip"
    prepare = binarize_batch if bits.grey else None

    def init() -> TrainState:
        params = model.init(jax.random.fold_in(run_key, 0), scale=config.model.init_scale)
        if config.model.visible_bias == "data":
            params = params._replace(visible_bias=log_odds(bits.mean, n))
        return start(run_key, params)

    def step(state: TrainState, n_steps: int) -> tuple[TrainState, Any]:
        plan = Plan(model, n_batches, batch_size, n_steps, prepare, skip)
        return advance(plan, source, None, run_key, state, on_device, limits if skip else None)

    def params_of(state: TrainState) -> RBMParams:
        return state.params if config.training.ema_decay is None else averaging.averaged(state.opt_state)

    def judge(
        params: RBMParams, settings: EvaluationConfig, groups: Sequence[str] = GROUPS
    ) -> dict[str, float]:
        return evaluate(model, params, bits, jax.random.fold_in(key, _JUDGE), settings, groups)

    def draw(params: RBMParams, n: int, n_steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        frames, steps = draw_frames(model, params, jax.random.key(seed), n, n_steps)
        return frames.reshape(*frames.shape[:-1], *bits.shape), steps

    def write(params: RBMParams, folder: Path) -> None:
        write_samples(config.evaluation, model, params, bits, jax.random.fold_in(key, _DRAWS), folder)

    return Recipe(
        model=model,
        n_batches=n_batches,
        init=init,
        advance=step,
        learning_rate=lambda state: applied_rate(state, rate),
        params=params_of,
        evaluate=judge,
        groups=GROUPS,
        best="log_likelihood_lower",
        draw=draw,
        write=write,
    )


def load_bits(config: RBMConfig, key: jax.Array) -> Bits:
    """Loads the data set and makes it rows of bits; what is random about the test set is fixed by the seed."""
    found = datasets.load(config.data.name)
    train, test = (
        np.asarray(split.images[:limit]).reshape(len(split.images[:limit]), -1)
        for split, limit in ((found.train, config.data.n_train), (found.test, config.data.n_test))
    )
    height, width = found.image_shape[:2]
    if config.data.name == "binarized_mnist":
        return Bits(train, False, train, test, train.mean(axis=0), (height, width))
    keys = jax.random.split(jax.random.fold_in(key, _TEST))
    if config.data.binarization == "threshold":
        train_bits, test_bits = (
            np.asarray(datasets.binarize(x, 0.5)).astype(np.uint8) for x in (train, test)
        )
        return Bits(train_bits, False, train_bits, test_bits, train_bits.mean(axis=0), (height, width))
    train_bits, test_bits = (
        np.asarray(datasets.binarize(rows, key=k)).astype(np.uint8)
        for rows, k in zip((train, test), keys, strict=True)
    )
    if config.data.binarization == "static":
        return Bits(train_bits, False, train_bits, test_bits, train_bits.mean(axis=0), (height, width))
    return Bits(train, True, train_bits, test_bits, train.mean(axis=0) / 255, (height, width))


def log_odds(mean: np.ndarray, n: int) -> jax.Array:
    """Returns the log-odds of pixels' means, as if each had been on once and off once more in `n` rows."""
    mean = (mean * n + 1) / (n + 2)
    return jnp.asarray(np.log(mean / (1 - mean)), jnp.float32)


def schedule(config: RBMConfig, n_batches: int) -> optax.Schedule:
    """Returns the learning rate by step."""
    training = config.training
    peak, total = training.learning_rate, training.n_epochs * n_batches
    rise = round(training.warmup_epochs * n_batches)
    fall = max(total - rise, 1)
    after = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, 0.0, fall),
        "cosine": optax.cosine_decay_schedule(peak, fall),
    }[training.schedule]
    if rise == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, rise), after], [rise])


class RateFactor(NamedTuple):
    """State of `rate_factor`: what learning rates are multiplied with."""

    factor: Any


def rate_factor() -> optax.GradientTransformation:
    """Multiplies updates by a number in the state, 1 at first; `with_rate_factor` sets it."""

    def init(params: Any) -> RateFactor:
        del params
        return RateFactor(jnp.ones((), jnp.float32))

    def update(updates: Any, state: RateFactor, params: Any = None) -> tuple[Any, RateFactor]:
        del params
        return jax.tree.map(lambda leaf: leaf * state.factor, updates), state

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def with_rate_factor(state: TrainState, factor: float) -> TrainState:
    """Returns a train state whose learning rates are multiplied by `factor`."""
    is_factor = lambda node: isinstance(node, RateFactor)  # noqa: E731
    new = jax.tree.map(
        lambda node: RateFactor(jnp.float32(factor)) if is_factor(node) else node,
        state.opt_state,
        is_leaf=is_factor,
    )
    return state.replace(opt_state=new)


def applied_rate(state: TrainState, rate: optax.Schedule) -> float:
    """Returns the learning rate of the latest update; updates that were skipped do not move the schedule."""
    kinds = (optax.ScaleByScheduleState, RateFactor)
    nodes = jax.tree.leaves(state.opt_state, is_leaf=lambda node: isinstance(node, kinds))
    count = next(node.count for node in nodes if isinstance(node, optax.ScaleByScheduleState))
    factor = next(node.factor for node in nodes if isinstance(node, RateFactor))
    value: Any = rate(jnp.maximum(count - 1, 0))
    return float(value) * float(factor)


def transformation(config: RBMConfig, model: RBM, rate: optax.Schedule) -> optax.GradientTransformation:
    """Returns the Optax chain of the configuration."""
    training = config.training
    parts: list[Any] = []
    if training.gradient == "centred":
        parts.append(centring.centred(model, training.centring_rate))
    if training.weight_decay:
        decayed: Any = RBMParams(True, False, False)  # pyright: ignore[reportArgumentType]
        parts.append(optax.add_decayed_weights(training.weight_decay, mask=decayed))
    if training.optimizer == "adam":
        parts.append(optax.scale_by_adam())
    elif training.momentum:
        parts.append(optax.trace(training.momentum))
    parts += [optax.scale_by_learning_rate(rate), rate_factor()]
    if training.ema_decay is not None:
        parts.append(averaging.average(training.ema_decay))
    return optax.chain(*parts)


def evaluate(
    model: RBM,
    params: RBMParams,
    bits: Bits,
    key: jax.Array,
    settings: EvaluationConfig,
    groups: Sequence[str] = GROUPS,
) -> dict[str, float]:
    """Returns figures of merit, in nats where they are log-probabilities, of the `groups` asked for.

    likelihood: log_likelihood_lower, log_likelihood_upper, the mean of the test rows with log Z from above (reverse
    AIS) and from below (forward AIS), or twice with the exact log Z; log_likelihood_train, of training rows, as the
    upper one; both log Z. free_energy: free_energy_gap, mean F of test less training rows, which grows as a model
    overfits. pseudo_likelihood, reconstruction: of test rows. mixing: autocorrelation_time, ess_per_step, r_hat of the
    free energy along Gibbs chains from training rows, in sweeps.
    """
    one, two = jax.random.split(key)
    few, train = bits.test_bits[: settings.n_test], bits.train_bits[:_TRAIN_ROWS]
    found: dict[str, float] = {}
    if "likelihood" in groups or "mixing" in groups:
        n_chains = max(settings.n_chains, settings.ais_chains if "likelihood" in groups else 0)
        ends, mixing, _ = run_chains(model, params, train, one, n_chains, settings.chain_steps)
        if "likelihood" in groups:
            found |= likelihood(model, params, bits, two, settings, ends)
        if "mixing" in groups:
            found |= mixing
    if "pseudo_likelihood" in groups:
        found["pseudo_log_likelihood"] = metrics.pseudo_log_likelihood(model, params, few)
    if "reconstruction" in groups:
        found["reconstruction_error"] = metrics.reconstruction_error(model, params, few)
    if "free_energy" in groups:
        of_test, of_train = (mean_free_energy(model, params, rows) for rows in (bits.test_bits, train))
        found["free_energy_gap"] = of_test - of_train
    return found


def likelihood(
    model: RBM, params: RBMParams, bits: Bits, key: jax.Array, settings: EvaluationConfig, draws: np.ndarray
) -> dict[str, float]:
    """Returns the bounds that `evaluate` describes; the reverse estimate starts at `draws`."""
    if settings.exact and min(model.n_visible, model.n_hidden) <= _EXACT_UNITS:
        below = above = exact.log_partition(model, params)
        spread = {}
    elif settings.ais_betas:
        common: Any = {"betas": settings.ais_betas, "base": base_of(model, bits)}
        one, two = jax.random.split(key)
        forward = partition.ais(one, model, params, n_chains=settings.ais_chains, **common)
        reverse = partition.reverse_ais(two, model, params, draws[: settings.ais_chains], **common)
        below, above = forward.log_z, reverse.log_z
        spread = {
            "log_z_forward_low": forward.interval[0],
            "log_z_reverse_high": reverse.interval[1],
            **{
                f"ais_{name}_spread": result.spread
                for name, result in (("forward", forward), ("reverse", reverse))
            },
            **{
                f"ais_{name}_ess": result.ess for name, result in (("forward", forward), ("reverse", reverse))
            },
        }
    else:
        return {}
    of_test, of_train = (
        mean_free_energy(model, params, rows) for rows in (bits.test_bits, bits.train_bits[:_TRAIN_ROWS])
    )
    return {
        "log_likelihood_lower": -of_test - above,
        "log_likelihood_upper": -of_test - below,
        "log_likelihood_train": -of_train - below,
        "log_z_forward": below,
        "log_z_reverse": above,
        **spread,
    }


def base_of(model: RBM, bits: Bits) -> RBMParams:
    """Returns the independent model of the pixels' means, where AIS starts (Salakhutdinov and Murray 2008)."""
    none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), model.params_struct())
    return none._replace(visible_bias=log_odds(bits.mean, len(bits.train)))


def mean_free_energy(model: RBM, params: RBMParams, rows: np.ndarray) -> float:
    """Returns the mean of F over rows of bits, added up in float64."""
    each = [_free_energies(model, params, rows[i : i + 2000]) for i in range(0, len(rows), 2000)]
    return float(np.mean(np.concatenate([np.asarray(part, np.float64) for part in each])))


def _free_energies(model: RBM, params: RBMParams, rows: np.ndarray) -> jax.Array:
    return _free_energies_jitted(model, params, jnp.asarray(rows))


_free_energies_jitted = jax.jit(
    lambda model, params, rows: jax.vmap(model.free_energy, (None, 0))(params, rows), static_argnums=0
)


class FreeEnergy(NamedTuple):
    """What chains are watched by; compares by the value of the model."""

    model: RBM

    def __call__(self, params: RBMParams, x: Any) -> jax.Array:
        """Returns F of the visible part."""
        return self.model.free_energy(params, x[0])


def run_chains(
    model: RBM, params: RBMParams, rows: np.ndarray, key: jax.Array, n_chains: int, n_steps: int
) -> tuple[np.ndarray, dict[str, float], np.ndarray]:
    """Runs Gibbs chains from `rows`; returns where they end, how they mix, and their mean autocorrelation.

    A tenth of the steps is not looked at. The autocorrelation is that of the free energy, averaged over chains.
    """
    pick, draw = jax.random.split(key)
    chosen = np.asarray(jax.random.choice(pick, len(rows), (n_chains,), replace=n_chains > len(rows)))
    start = jax.vmap(model.complete)(jnp.asarray(rows[chosen]))
    n_warmup = n_steps // 10
    watched = sample(
        draw,
        gibbs(model),
        params,
        start,
        SamplingSchedule(n_warmup, n_steps - n_warmup),
        observe=FreeEnergy(model),
    )
    energies = watched.observed
    time = float(diagnostics.integrated_autocorrelation_time(energies))
    size = float(diagnostics.effective_sample_size(energies))
    curve = np.nanmean(np.asarray(diagnostics.autocorrelation(energies)), axis=1)
    mixing = {
        "autocorrelation_time": time,
        "ess_per_step": size / energies.size,
        "r_hat": float(diagnostics.r_hat(energies)),
    }
    return np.asarray(watched.positions[0][-1]), mixing, curve


def write_samples(
    settings: EvaluationConfig, model: RBM, params: RBMParams, bits: Bits, key: jax.Array, folder: Path
) -> None:
    """Writes the arrays that figures are made of: samples/final.npz.

    frames: uint8 `(n_frames, n_chains, height, width)`, 255 E[v | h] along chains from noise; steps: when. data: rows
    of the test set, as pictures. weights: of the first hidden units, float32 `(height, width, n)`. autocorrelation: of
    the free energy along chains from training rows, by lag.
    """
    n_chains, n_steps = settings.n_chains, settings.chain_steps
    frames, steps = draw_frames(model, params, key, n_chains, n_steps)
    _, _, curve = run_chains(
        model, params, bits.train_bits[:_TRAIN_ROWS], jax.random.fold_in(key, 1), n_chains, n_steps
    )
    images = lambda rows: rows.reshape(*rows.shape[:-1], *bits.shape)  # noqa: E731
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        folder / "final.npz",
        frames=images(frames),
        steps=steps,
        data=images(255 * bits.test_bits[:n_chains]),
        weights=np.asarray(params.weights[:, :100]).reshape(*bits.shape, -1),
        autocorrelation=curve,
    )


def draw_frames(
    model: RBM, params: RBMParams, key: jax.Array, n_chains: int, n_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns pictures uint8 `(n_frames, n_chains, n_visible)` along Gibbs chains that start at noise, and their steps.

    A picture is 255 E[v | h] at the chain's hidden units; that of step 0 is the noise itself.
    """
    first, draw = jax.random.split(key)
    noise: Any = init_chains(first, model, n_chains)
    hidden = sample(draw, gibbs(model), params, noise, SamplingSchedule(1, n_steps)).positions[1]
    moments = np.asarray([step for step in FRAMES if step < n_steps] + [n_steps])
    means = _visible_means(params, hidden[moments[1:] - 1])
    pictures = np.rint(255 * np.asarray(means)).astype(np.uint8)
    return np.concatenate([255 * np.asarray(noise[0])[None], pictures]), moments


@jax.jit
def _visible_means(params: RBMParams, hidden: jax.Array) -> jax.Array:
    field = params.visible_bias + jnp.dot(
        hidden.astype(params.weights.dtype), params.weights.T, precision="highest"
    )
    return jax.nn.sigmoid(field)
