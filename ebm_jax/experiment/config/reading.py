"""Reads YAML files and overrides into configurations, and writes and hashes configurations."""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ebm_jax.experiment import files
from ebm_jax.experiment.config import loader
from ebm_jax.experiment.config.problems import ConfigError, closest, describe, obstacle, shown
from ebm_jax.experiment.config.sections import ExperimentConfig
from ebm_jax.experiment.recipes.base import config_class, names


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Reads a configuration from a YAML file.

    Args:
      path: The file. A configuration without `name` takes the file's name, without its ending.
      overrides: Values that replace those of the file, such as "training.learning_rate=0.01".

    Returns:
      The configuration, of the class that its key `recipe` selects.

    Raises:
      ConfigError: If anything is wrong; it lists all problems.
    """
    file = Path(path)
    mapping, problems = read_file(file)
    if mapping is None:
        raise ConfigError(str(file), problems)
    return _build(mapping, overrides, file.stem, str(file), problems)


def load_stored_config(folder: Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Reads config.yaml of a folder that may come from someone else; see `load_config` and `files.read`."""
    file = folder / "config.yaml"
    mapping, problems = parse_content(files.read(folder, file.name))
    if mapping is None:
        raise ConfigError(str(file), problems)
    return _build(mapping, overrides, file.stem, str(file), problems)


def parse_config(mapping: Mapping[str, Any], name: str | None = None) -> ExperimentConfig:
    """Checks a configuration that is given as a mapping.

    Args:
      mapping: Sections and values, as in the YAML file.
      name: Name of a configuration that has none.

    Returns:
      The configuration.

    Raises:
      ConfigError: If anything is wrong; it lists all problems.
    """
    return _build(mapping, (), name, name or "configuration", [])


def dump_config(config: ExperimentConfig) -> str:
    """Writes every field as YAML, in the order of the schema; `load_config` reads the same configuration from it."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True)


def config_hash(config: ExperimentConfig) -> str:
    """Returns the SHA-256, in hex, of all fields and the name: equal for configurations that are equal."""
    canonical = json.dumps(config.model_dump(), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def read_file(path: Path) -> tuple[dict[Any, Any] | None, list[str]]:
    """Reads a YAML file whose top level is a mapping; returns it, or None, and what is wrong, a line each."""
    try:
        with path.open("rb") as file:
            return parse_content(file.read(loader.LARGEST_FILE + 1))
    except FileNotFoundError:
        others = [other.name for other in path.parent.glob("*.y*ml")]
        similar = difflib.get_close_matches(path.name, others, n=1)
        hint = f": did you mean {path.with_name(similar[0])}?" if similar else ""
        return None, [f"there is no such file{hint}"]
    except OSError as error:
        return None, [f"it cannot be read ({error.strerror or error})"]


def parse_content(content: bytes) -> tuple[dict[Any, Any] | None, list[str]]:
    """Parses the content of a YAML file; returns what `read_file` does."""
    if len(content) > loader.LARGEST_FILE:
        return None, [f"it has more than {loader.LARGEST_FILE:,} bytes: no configuration is so long"]
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        return None, [
            f"line {line}: byte {error.object[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        ]
    value, problems = loader.parse(text)
    if problems and value is None:
        return None, problems
    if value is None:
        return None, ["it is empty; give at least `recipe: rbm`"]
    if not isinstance(value, dict):
        return None, [*problems, f"its top level is {_kind(value)}; give keys with values, such as `seed: 0`"]
    return value, problems


def read_override(text: str) -> tuple[tuple[str, ...], Any, str | None]:
    """Splits `training.learning_rate=0.01` into its path, its value, which is YAML, and what is wrong, or None."""
    path, separator, value = text.partition("=")
    parts = tuple(path.strip().split("."))
    if not separator or not all(parts):
        return (), None, f"override {text!r}: give KEY=VALUE, such as training.learning_rate=0.01"
    parsed, problems = loader.parse(value)
    if problems:
        return (), None, f"override {text!r}: its value is not YAML ({problems[0]})"
    return parts, parsed, None


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "a list"
    return f"the single value {shown(value)}"


def _build(
    mapping: Mapping[Any, Any],
    overrides: Sequence[str],
    name: str | None,
    source: str,
    problems: Sequence[str],
) -> ExperimentConfig:
    values = copy.deepcopy(dict(mapping))
    problems = list(problems)
    settings = []
    for text in overrides:
        parts, value, problem = read_override(text)
        if problem is None:
            settings.append((parts, value))
        else:
            problems.append(problem)
    # A sweep trains a run for each of `seeds`, and gives each run its seed by an override.
    if "seeds" in values:
        seeds = values.pop("seeds")
        if ("seed",) not in dict(settings):
            problems.append(
                f"seeds: {shown(seeds)} was given; `ebm-jax sweep` trains a run for each of them: use sweep, or choose "
                "one seed by the override seed=NUMBER"
            )
    if name is not None:
        values.setdefault("name", name)
    recipe = dict(settings).get(("recipe",), values.get("recipe", "rbm"))
    known = names()
    if recipe not in known:
        wanted = ("one of " if len(known) > 1 else "") + ", ".join(known)
        problems.append(f"recipe: {shown(recipe)} was given; {wanted} is wanted{closest(recipe, known)}")
        raise ConfigError(source, problems)
    schema = config_class(recipe)
    for parts, value in settings:
        reason = obstacle(schema, parts)
        if reason is None:
            _set(values, parts, value)
        else:
            problems.append(f"{'.'.join(parts)}: {shown(value)} was given by an override; {reason}")
    try:
        config = schema.model_validate(values)
    except ValidationError as error:
        problems += describe(error, schema, {".".join(parts) for parts, _ in settings})
    else:
        if not problems:
            return config
    raise ConfigError(source, problems)


def _set(values: dict[str, Any], parts: Sequence[str], value: Any) -> None:
    """Sets a value by its path. A section that is not a mapping is left as it is, so that validation finds it."""
    *above, last = parts
    for part in above:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            return
    values[last] = value
