"""Configurations of experiments: what a YAML file may say, checked before anything runs.

A configuration is a frozen pydantic model, one class for each recipe; the key `recipe` selects the class. `load_config`
reads a file and overrides, `dump_config` writes every field out, and reading that gives the same configuration. JAX is
not imported here.
"""

from ebm_jax.experiment.config.problems import ConfigError
from ebm_jax.experiment.config.reading import (
    config_hash,
    dump_config,
    load_config,
    load_stored_config,
    parse_config,
)
from ebm_jax.experiment.config.sections import ExperimentConfig as Config

__all__ = [
    "Config",
    "ConfigError",
    "config_hash",
    "dump_config",
    "load_config",
    "load_stored_config",
    "parse_config",
]
