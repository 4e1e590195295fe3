"""Every public kernel, and systems for it that can be drawn exactly.

Draws come from NumPy: JAX compiles a program for each shape and operation.

`REGISTRY` maps the name of a public kernel maker to what it makes for each kind of system. An entry is certified on
every system by `test_certificate` and run by `test_every_kernel`. A public kernel that is missing here fails both.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import ebm_jax as ej
from tests import systems


class Case(NamedTuple):
    """An energy or model with parameters; draws: exact ones, or None for models that `exact.sample` draws from."""

    model: Any
    params: Any
    draws: Any = None

    def start(self, key, n):
        """Positions of n chains."""
        return ej.init_chains(key, self.model, n) if self.draws is None else self.draws(key, n, 1.0)


def gaussian(params, x):
    """Three coordinates of unequal precision."""
    return 0.5 * jnp.sum(params * x**2)


def _generator(key):
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def _gaussian_draws(key, n, beta):
    x = _generator(key).normal(size=(n, 3)) / np.sqrt(beta * np.asarray(PRECISION))
    return jnp.asarray(x, jnp.float32)


PRECISION = jnp.array([0.5, 1.0, 2.0])
CENTRES = np.array([[-1.2, 0.0], [1.2, 0.6]], np.float32)


def two_wells(params, x):
    """A mixture of two Gaussians in the plane, of weights softmax(params) and variance ½."""
    return -jax.nn.logsumexp(jax.nn.log_softmax(params) - jnp.sum((x[None] - CENTRES) ** 2, axis=1))


def network(params, x):
    """A bowl with a perceptron of one hidden layer in it, which bends it by at most Σ|w₂|."""
    return jnp.sum(x**2) / 2 + jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"]


def mixed(params, x):
    """A label and two numbers: a Gaussian around the label's centre."""
    return jnp.sum((x["pixels"] - jnp.asarray(MEANS)[x["label"]]) ** 2) / 2 - params[x["label"]]


MEANS = np.array([[-1.0, 0.0], [0.0, 0.5], [1.5, 0.0]], np.float32)


def _mixed_draws(key, n, beta):
    rng, weights = _generator(key), np.exp(beta * np.asarray(LABEL_LOGITS, np.float64))
    label = rng.choice(3, size=n, p=weights / weights.sum())
    pixels = MEANS[label] + rng.normal(size=(n, 2)) / np.sqrt(beta)
    return {"label": jnp.asarray(label, jnp.int32), "pixels": jnp.asarray(pixels, jnp.float32)}


LABEL_LOGITS = jnp.array([0.5, 0.0, -0.3])


def rejection(energy, params, width=2.5):
    """Exact draws of an energy in the plane, by rejection from N(0, width²); a fine grid gives the bound."""
    energies = jax.jit(jax.vmap(lambda x: energy(params, x)))
    side = np.linspace(-4 * width, 4 * width, 401)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2).astype(np.float32)
    on_grid = np.asarray(energies(grid), np.float64)

    def draws(key, n, beta):
        def log_ratio(x, energy):
            return -beta * energy + np.sum(x**2, axis=-1) / (2 * width**2)

        bound = log_ratio(grid, on_grid).max() + 0.02
        rng = _generator(key)
        kept, size = [], 0
        while size < n:
            x = rng.normal(scale=width, size=(len(grid), 2)).astype(np.float32)
            ratio = log_ratio(x, np.asarray(energies(x), np.float64)) - bound
            assert ratio.max() <= 0
            kept.append(x[np.log(rng.random(len(x))) < ratio])
            size += len(kept[-1])
        return jnp.asarray(np.concatenate(kept)[:n])

    return draws


@functools.cache
def case(name):
    """Returns a system by name, built once."""
    if name == "gaussian":
        return Case(gaussian, PRECISION, _gaussian_draws)
    if name == "two_wells":
        params = jnp.array([0.0, 0.5])
        return Case(two_wells, params, rejection(two_wells, params))
    if name == "network":
        shapes = {"w1": (2, 8), "b1": (8,), "w2": (8,)}
        rng, scales = np.random.default_rng(5), {"w1": 1.0, "b1": 1.0, "w2": 0.6}
        params = {k: jnp.asarray(scales[k] * rng.normal(size=s), jnp.float32) for k, s in shapes.items()}
        return Case(network, params, rejection(network, params))
    if name == "mixed":
        return Case(mixed, LABEL_LOGITS, _mixed_draws)
    if name in ("ferromagnet", "potts_ferromagnet"):
        graph = systems.random_graph()
        model = ej.Ising(graph) if name == "ferromagnet" else ej.Potts(ej.Grid(2, 3), 3, "edge")
        zero = jax.tree.map(lambda s: jnp.asarray(np.zeros(s.shape, s.dtype)), model.params_struct())
        coupling = np.random.default_rng(1).uniform(0.1, 0.9, zero.coupling.shape)
        return Case(model, zero._replace(coupling=jnp.asarray(coupling, jnp.float32)))
    system = systems.get({"ising": "ising_2x3_edge", "potts": "potts_1x4_edge", "rbm": "rbm_4x3"}[name])
    return Case(system.model, system.params)


DISCRETE = ("ising", "potts", "rbm")
FERROMAGNETS = ("ferromagnet", "potts_ferromagnet")
CONTINUOUS = ("gaussian", "two_wells", "network")


def _mala(model):
    return ej.mala(model, 1.0)


def _hmc(model):
    return ej.hmc(model, 0.6, 4)


def _gibbs_and_dmala(model):
    return ej.mixture([ej.gibbs(model), ej.dmala(model, 0.7)], [0.4, 0.6])


def _nested_cycle(energy):
    """A cycle in a cycle. Members of members that shared a key would propose alike."""
    return ej.cycle([ej.cycle([_mala(energy), _mala(energy)]), _mala(energy)])


def _tempered_nested_mixture(energy):
    """A mixture in a mixture, under tempering; keys as in `_nested_cycle`."""
    inner = ej.mixture([_mala(energy), _mala(energy)], [0.5, 0.5])
    return ej.parallel_tempering(ej.mixture([inner, _mala(energy)], [0.5, 0.5]), [0.5, 1.0])


def _label_and_pixels(energy):
    return ej.within_gibbs({"label": ej.categorical_gibbs(energy, 3), "pixels": ej.mala(energy, 1.2)})


# Certificates compile for seconds. The systems of a kernel are those that take different paths through it; every kind
# of system has several kernels, and the exact transition matrices of `tests/samplers` run on more of them.
REGISTRY = {
    "gibbs": {"potts": ej.gibbs, "rbm": ej.gibbs},
    "metropolis": {"potts": ej.metropolis},
    "gibbs_with_gradients": {"ising": ej.gibbs_with_gradients},
    "dmala": {"potts": lambda model: ej.dmala(model, 0.7)},
    "swendsen_wang": {"potts_ferromagnet": ej.swendsen_wang},
    "wolff": {"ferromagnet": ej.wolff},
    "categorical_gibbs": {"rbm": lambda model: ej.categorical_gibbs(model, model.n_levels)},
    "ula": {"gaussian": lambda energy: ej.ula(energy, 0.9)},
    "langevin": {"network": lambda energy: ej.langevin(energy, 0.3, 0.9)},
    "mala": {"two_wells": _mala},
    "hmc": {"network": _hmc},
    "cycle": {
        "ising": lambda model: ej.cycle([ej.gibbs(model), ej.metropolis(model)]),
        "gaussian": _nested_cycle,
    },
    # Over real numbers, the one in a mixture under tempering.
    "mixture": {"rbm": _gibbs_and_dmala},
    # Of block Gibbs in `test_tempering`.
    "parallel_tempering": {
        "ising": lambda model: ej.parallel_tempering(ej.metropolis(model), [0.3, 1.0]),
        "gaussian": _tempered_nested_mixture,
    },
    "within_gibbs": {"mixed": _label_and_pixels},
}
NOT_KERNELS = {"init_chains", "warm_up", "tune_ladder", "swap_report"}
# Unadjusted: they leave another law invariant, and steps have derivatives.
BIASED = {"ula", "langevin"}


def public_makers():
    """Names of the public functions of `ebm_jax.samplers` that make kernels."""
    public = {name: getattr(ej, name) for name in ej.__all__ if name != "__version__"}
    return {
        name
        for name, value in public.items()
        if getattr(value, "__module__", "").startswith("ebm_jax.samplers.") and not isinstance(value, type)
    } - NOT_KERNELS


def representatives():
    """(maker, system): of every maker the first discrete, the first continuous and every other system."""
    for maker, makes in REGISTRY.items():
        discrete = [system for system in makes if system in DISCRETE + FERROMAGNETS]
        continuous = [system for system in makes if system in CONTINUOUS]
        others = [system for system in makes if system not in discrete + continuous]
        yield from ((maker, system) for system in discrete[:1] + continuous[:1] + others)
