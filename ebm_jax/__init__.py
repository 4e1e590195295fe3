"""Sampling, training and judging energy-based models in JAX.

`import ebm_jax as ej` offers the names that `__init__.pyi` lists, and no others. Each name is loaded when it is first
used. The import itself therefore costs nothing, the command line answers `--help` without loading JAX, and plotting
and data libraries are loaded only by code that plots or loads data.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
