"""Every public kernel, and systems for it that can be drawn exactly.

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


def _gaussian_draws(key, n, beta):
    return jax.random.normal(key, (n, 3)) / jnp.sqrt(beta * PRECISION)


PRECISION = jnp.array([0.5, 1.0, 2.0])
CENTRES = jnp.array([[-1.2, 0.0], [1.2, 0.6]])


def two_wells(params, x):
    """A mixture of two Gaussians in the plane, of weights softmax(params) and variance ½."""
    return -jax.nn.logsumexp(jax.nn.log_softmax(params) - jnp.sum((x - CENTRES) ** 2, axis=1))


def network(params, x):
    """A bowl with a perceptron of one hidden layer in it, which bends it by at most Σ|w₂|."""
    return jnp.sum(x**2) / 2 + jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"]


def mixed(params, x):
    """A label and two numbers: a Gaussian around the label's centre."""
    return jnp.sum((x["pixels"] - jnp.asarray(MEANS)[x["label"]]) ** 2) / 2 - params[x["label"]]


MEANS = np.array([[-1.0, 0.0], [0.0, 0.5], [1.5, 0.0]], np.float32)


def _mixed_draws(key, n, beta):
    pick, noise = jax.random.split(key)
    label = jax.random.categorical(pick, beta * LABEL_LOGITS, shape=(n,))
    return {
        "label": label.astype(jnp.int32),
        "pixels": jnp.asarray(MEANS)[label] + jax.random.normal(noise, (n, 2)) / np.sqrt(beta),
    }


LABEL_LOGITS = jnp.array([0.5, 0.0, -0.3])


def rejection(energy, params, width=2.5):
    """Exact draws of an energy in the plane, by rejection from N(0, width²): the bound is sought on a fine grid."""
    energies = jax.jit(jax.vmap(lambda x: energy(params, x)))
    side = np.linspace(-4 * width, 4 * width, 401)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2).astype(np.float32)
    on_grid = np.asarray(energies(grid), np.float64)

    def draws(key, n, beta):
        def log_ratio(x, energy):
            return -beta * energy + np.sum(x**2, axis=-1) / (2 * width**2)

        bound = log_ratio(grid, on_grid).max() + 0.02
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
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
        key = jax.random.key(5)
        params = {
            k: jax.random.normal(jax.random.fold_in(key, i), s) for i, (k, s) in enumerate(shapes.items())
        }
        params["w2"] = 0.6 * params["w2"]
        return Case(network, params, rejection(network, params))
    if name == "mixed":
        return Case(mixed, LABEL_LOGITS, _mixed_draws)
    if name in ("ferromagnet", "potts_ferromagnet"):
        graph = systems.random_graph()
        model = ej.Ising(graph) if name == "ferromagnet" else ej.Potts(ej.Grid(2, 3), 3, "edge")
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), model.params_struct())
        coupling = jax.random.uniform(jax.random.key(1), zero.coupling.shape, minval=0.1, maxval=0.9)
        return Case(model, zero._replace(coupling=coupling))
    system = systems.get({"ising": "ising_2x3_edge", "potts": "potts_1x4_edge", "rbm": "rbm_4x3"}[name])
    return Case(system.model, system.params)


DISCRETE = ("ising", "potts", "rbm")
FERROMAGNETS = ("ferromagnet", "potts_ferromagnet")
CONTINUOUS = ("gaussian", "two_wells", "network")


def _discrete(make):
    return dict.fromkeys(DISCRETE, make)


def _continuous(make):
    return dict.fromkeys(CONTINUOUS, make)


def _mala(model):
    return ej.mala(model, 1.0)


def _hmc(model):
    return ej.hmc(model, 0.6, 4)


REGISTRY = {
    "gibbs": _discrete(ej.gibbs),
    "metropolis": _discrete(ej.metropolis),
    "gibbs_with_gradients": _discrete(ej.gibbs_with_gradients),
    "dmala": _discrete(lambda model: ej.dmala(model, 0.7)),
    "swendsen_wang": dict.fromkeys(FERROMAGNETS, ej.swendsen_wang),
    "wolff": dict.fromkeys(FERROMAGNETS, ej.wolff),
    "categorical_gibbs": _discrete(lambda model: ej.categorical_gibbs(model, model.n_levels)),
    "ula": _continuous(lambda model: ej.ula(model, 0.9)),
    "langevin": _continuous(lambda model: ej.langevin(model, 0.3, 0.9)),
    "mala": _continuous(_mala),
    "hmc": _continuous(_hmc),
    "cycle": {
        **_discrete(lambda model: ej.cycle([ej.gibbs(model), ej.metropolis(model)])),
        **_continuous(lambda model: ej.cycle([_mala(model), _hmc(model)])),
    },
    "mixture": {
        **_discrete(lambda model: ej.mixture([ej.gibbs(model), ej.dmala(model, 0.7)], [0.4, 0.6])),
        **_continuous(lambda model: ej.mixture([_mala(model), _hmc(model)], [0.7, 0.3])),
    },
    "parallel_tempering": {
        **_discrete(lambda model: ej.parallel_tempering(ej.gibbs(model), [0.3, 1.0])),
        **_continuous(lambda model: ej.parallel_tempering(_mala(model), [0.3, 1.0])),
    },
    "within_gibbs": {
        "mixed": lambda energy: ej.within_gibbs(
            {"label": ej.categorical_gibbs(energy, 3), "pixels": ej.mala(energy, 1.2)}
        ),
    },
}
NOT_KERNELS = {"warm_up", "tune_ladder", "swap_report"}
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
