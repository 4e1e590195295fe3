"""Sampling, training and judging energy-based models in JAX.

`import ebm_jax as ej` gives the names below. Each is loaded at first use, so that the import itself costs
nothing, the command line answers `--help` without loading JAX, and plotting or data libraries are loaded only
by those who plot or load data. `__init__.pyi` tells type checkers and editors the same names.
"""

import importlib
import os

__version__ = "0.1.0"

_HOMES = {
    "graphs": ("Grid", "Graph", "Bipartite", "local_grid"),
    "blocks": ("Block", "BlockSpec", "SamplingSchedule", "checkerboard", "colour", "default_spec"),
    "types": ("Info", "Kernel", "Model", "count_parameters"),
    "energies.ising": ("Ising", "IsingParams"),
    "energies.potts": ("Potts", "PottsParams"),
    "energies.rbm": ("RBM", "RBMParams"),
    "energies.categorical_rbm": ("CategoricalRBM", "CategoricalRBMParams"),
    "energies.gaussian_rbm": ("GaussianRBM",),
    "energies.marginal": ("Marginal",),
    "samplers.gibbs": ("gibbs",),
    "samplers.metropolis": ("metropolis",),
    "samplers.cluster": ("swendsen_wang", "wolff"),
    "samplers.langevin": ("langevin", "ula"),
    "samplers.mala": ("mala",),
    "samplers.hmc": ("hmc",),
    "samplers.adaptation": ("warm_up",),
    "samplers.informed": ("gibbs_with_gradients", "dmala"),
    "samplers.categorical": ("categorical_gibbs",),
    "samplers.composition": ("cycle", "mixture", "within_gibbs"),
    "samplers.tempering": ("parallel_tempering", "tune_ladder", "swap_report"),
    "annealing": ("Annealed", "anneal"),
    "certificate": ("Certificate", "certify"),
    "run": ("NonFiniteError", "sample", "init_chains", "Samples", "Observer"),
    "training": ("TrainState", "make_train_step", "fit"),
    "io": ("save", "load"),
}
_NAMES = {name: home for home, names in _HOMES.items() for name in names}

_MODULES = {
    "blocks": "blocks",
    "data": "data",
    "diagnostics": "diagnostics",
    "energies": "energies",
    "exact": "exact",
    "graphs": "graphs",
    "interop": "interop",
    "metrics": "metrics",
    "negatives": "training.negatives",
    "partition": "partition",
    "plots": "plots",
    "samplers": "samplers",
    "schedules": "schedules",
    "training": "training",
}


def _exists(module: str) -> bool:
    path = os.path.join(os.path.dirname(__file__), *module.split("."))
    return os.path.isfile(path + ".py") or os.path.isfile(os.path.join(path, "__init__.py"))


# Some public modules come in later versions: only those that are here are offered.
_MODULES = {name: home for name, home in _MODULES.items() if _exists(home)}

__all__ = sorted([*_NAMES, *_MODULES, "__version__"])


def __getattr__(name: str):
    if name in _NAMES:
        value = getattr(importlib.import_module(f"ebm_jax.{_NAMES[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"ebm_jax.{_MODULES[name]}")
    else:
        raise AttributeError(f"module 'ebm_jax' has no attribute {name!r}")
    globals()[name] = value  # the next access finds it without coming here
    return value


def __dir__() -> list[str]:
    return __all__
