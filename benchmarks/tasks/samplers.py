"""The samplers suite: its systems, the work of a timed call, and the promises."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import ebm_jax as ej
from benchmarks.methods import Absent

CRITICAL = math.log(1 + math.sqrt(2)) / 2  # β J of the Ising model on the square lattice (Onsager 1944)


class Task(NamedTuple):
    """A system and its timed call: `n_steps` steps of `n_chains` chains.

    Attributes:
      name: Name of the task.
      kind: Names the system and what is counted.
      unit: Unit of the figures.
      methods: Kernels of ebm_jax that run. Ratios are of the first.
      others: Peers, and the file of `benchmarks.methods` that runs each.
      against: The method or peer that `ratio` compares with.
      promises: Promised figures by name.
      n_chains: Number of chains.
      n_steps: Steps of every method, or a dict by method.
      per_draw: Steps between two records of the chains, in the same form.
      n_components: Gaussians of the mixture.
      dimension: Dimension of the Gaussian.
      side: Side of the lattice.
      n_hidden: Hidden units of the RBM.
      n_epochs: Epochs of its training.
      n_rungs: Rungs of the ladder.
      part: Part of the full size that the task runs.
    """

    name: str
    kind: str
    unit: str
    methods: tuple[str, ...]
    others: dict[str, str]
    against: str | None
    promises: dict[str, float]
    n_chains: int
    n_steps: int | dict[str, int]
    per_draw: int | dict[str, int] = 1
    n_components: int = 0
    dimension: int = 0
    side: int = 0
    n_hidden: int = 0
    n_epochs: int = 0
    n_rungs: int = 0
    part: float = 1.0

    def of(self, numbers: int | dict[str, int], method: str) -> int:
        """Returns the number of a method, where each method has its own."""
        return numbers[method] if isinstance(numbers, dict) else numbers

    def scaled(self, scale: float) -> "Task":
        """Returns the task with chains, steps and images reduced to about this part, but at least a small number."""
        if scale == 1:
            return self

        def cut(n, least):
            return max(least, round(n * scale))

        def each(numbers, least):
            if isinstance(numbers, dict):
                return {k: cut(n, least) for k, n in numbers.items()}
            return cut(numbers, least)

        return self._replace(
            n_chains=cut(self.n_chains, 4),
            n_steps=each(self.n_steps, 40),
            per_draw=each(self.per_draw, 1),
            side=min(self.side, 16),
            n_hidden=min(self.n_hidden, 10),
            part=scale,
        )


ULA = Task(
    "ula_mixture",
    *("langevin", "M steps/s", ("ebm_jax",), {"torchebm": "torchebm_langevin"}, "torchebm", {"ratio": 20}),
    n_chains=1000,
    n_steps=500,
    n_components=2,
)
ULA_RING = ULA._replace(name="ula_ring", n_components=8)
GAUSSIAN = Task(
    "mala_gaussian",
    *("gaussian", "M steps/s", ("ebm_jax",), {"blackjax": "blackjax_kernels"}, "blackjax", {"ratio": 1}),
    n_chains=256,
    n_steps=500,
    dimension=100,
)
INFORMED = Task(
    "informed_rbm",
    *("informed", "ESS/s", ("dmala", "gibbs_with_gradients", "metropolis", "gibbs"), {}, "metropolis"),
    {"dmala_ratio": 20, "gibbs_with_gradients_ratio": 20},
    n_chains=32,
    n_steps={"dmala": 2000, "gibbs_with_gradients": 2000, "metropolis": 30, "gibbs": 2000},
    per_draw={"dmala": 20, "gibbs_with_gradients": 20, "metropolis": 1, "gibbs": 20},
    n_hidden=500,
    n_epochs=2,
)
TEMPERING = Task(
    "tempering_ising",
    *("tempering", "trips/s", ("ebm_jax",), {"hamon": "hamon_tempering"}, "hamon", {"ratio": 3}),
    n_chains=8,
    n_steps=4000,
    side=64,
    n_rungs=12,
)
AIS = Task(
    "ais_rbm",
    *("ais", "estimates/s", ("ebm_jax",), {}, None, {"error_nats": 0.3}),
    n_chains=100,
    n_steps=1000,
    n_hidden=20,
    n_epochs=5,
)
CLUSTER = Task(
    "cluster_ising",
    *("cluster", "ESS/s", ("swendsen_wang", "gibbs"), {}, "gibbs", {"times_shorter": 10}),
    n_chains=32,
    n_steps={"swendsen_wang": 300, "gibbs": 10_000},
    per_draw={"swendsen_wang": 1, "gibbs": 20},
    side=64,
)

CPU_TASKS = (
    ULA,
    ULA_RING,
    GAUSSIAN,
    GAUSSIAN._replace(name="hmc_gaussian"),
    INFORMED,
    TEMPERING,
    AIS,
    CLUSTER,
)
GPU_TASKS = (
    ULA,
    ULA_RING,
    *(GAUSSIAN._replace(name=name) for name in ("mala_gaussian", "hmc_gaussian")),
    INFORMED._replace(n_chains=256),
    TEMPERING._replace(n_steps=2000),
    AIS,
    CLUSTER._replace(n_chains=64),
)


def step_size(task: Task) -> float:
    """Returns ε of the kernels of continuous energies, in the convention of `ula`."""
    if task.kind == "langevin":
        return 0.2
    d = task.dimension
    return 1.1 * d ** (-1 / 4) if task.name == "hmc_gaussian" else 1.2 * d ** (-1 / 6) * 0.65


N_LEAPFROG = 10


def mixture(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Returns the means of equal components of unit variance, and the starts of the chains.

    Two components lie 4 apart. More components lie on a ring of radius 4.
    """
    n = task.n_components
    angle, radius = 2 * np.pi * np.arange(n) / n, 2.0 if n == 2 else 4.0
    means = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    start = np.random.default_rng(0).normal(size=(task.n_chains, 2))
    return means.astype(np.float32), start.astype(np.float32)


def gaussian(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Returns a dense inverse covariance with eigenvalues from 0.25 to 4, and exact draws to start from."""
    d, generator = task.dimension, np.random.default_rng(0)
    basis = np.linalg.qr(generator.normal(size=(d, d)))[0]
    eigenvalues = np.geomspace(0.25, 4, d)
    start = (generator.normal(size=(task.n_chains, d)) / np.sqrt(eigenvalues)) @ basis.T
    return ((basis * eigenvalues) @ basis.T).astype(np.float32), start.astype(np.float32)


def ising(side: int) -> tuple[ej.Ising, ej.IsingParams]:
    """Returns the periodic Ising model without field and with J = 1, so β has its usual meaning in physics."""
    model = ej.Ising(ej.Grid(side, side, "periodic"), bias="tied")
    return model, ej.IsingParams(jnp.float32(0), jnp.ones(2, jnp.float32))


@functools.lru_cache(maxsize=1)
def ladder(side: int, n_rungs: int, n_chains: int, part: float = 1.0):
    """Returns a tempering kernel of the Ising model, and states of `n_chains` chains that have run on it.

    Its ladder is tuned and goes from β = 0.38 to the critical point.
    """
    model, params = ising(side)
    kernel = ej.parallel_tempering(ej.gibbs(model), np.linspace(0.38, CRITICAL, n_rungs))
    start = ej.init_chains(jax.random.key(0), model, n_chains)
    return ej.tune_ladder(jax.random.key(1), kernel, params, start, max(31, round(3100 * part)), n_rounds=5)


@functools.lru_cache(maxsize=2)
def digits_rbm(n_hidden: int, n_epochs: int, part: float = 1.0) -> tuple[ej.RBM, ej.RBMParams]:
    """Returns an RBM trained on binarized MNIST by persistent contrastive divergence. Raises Absent without data."""
    # A machine without optax or Flax runs the other tasks.
    import optax

    try:
        images = ej.data.load("mnist").train.images
    except (FileNotFoundError, OSError) as error:
        raise Absent(f"MNIST is not here: {str(error).splitlines()[0]}") from error
    data = ej.data.binarize(images, 0.5).reshape(-1, 784)[: max(256, round(len(images) * part))]
    model = ej.RBM(784, n_hidden)
    mean = np.clip(data.mean(axis=0), 0.01, 0.99)
    params = model.init(jax.random.key(0))
    params = params._replace(visible_bias=jnp.asarray(np.log(mean / (1 - mean)), jnp.float32))
    fitted = ej.fit(
        jax.random.key(1),
        model,
        data,
        tx=optax.sgd(0.01),
        negatives=ej.negatives.pcd(ej.gibbs(model), k=1, n_chains=128),
        n_epochs=n_epochs,
        params=params,
        progress=False,
    )
    return model, fitted.state.params


@functools.lru_cache(maxsize=1)
def digits_start(n_chains: int, n_hidden: int, n_epochs: int, part: float = 1.0):
    """Returns configurations after long block Gibbs sampling from noise, and 32 pixels.

    The pixels are drawn from the 200 whose variance is largest in the samples.
    """
    model, params = digits_rbm(n_hidden, n_epochs, part)
    schedule = ej.SamplingSchedule(n_warmup=max(100, round(5000 * part)), n_samples=20, steps_per_sample=20)
    start = ej.init_chains(jax.random.key(5), model, max(n_chains, 64))
    positions = ej.sample(jax.random.key(6), ej.gibbs(model), params, start, schedule).positions
    varies = np.asarray(positions[0]).astype(np.float32).var(axis=(0, 1))
    pixels = np.random.default_rng(0).permutation(np.argsort(-varies)[:200])[:32]
    return jax.tree.map(lambda leaf: leaf[-1, :n_chains], positions), pixels
