"""Configurations of experiments: what a YAML file may say, checked before anything runs.

A configuration is a frozen pydantic model, one class for each recipe. `load_config` reads a file and overrides,
`dump_config` writes every field out, and reading that gives the same configuration. JAX is not imported here.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from ebm_jax.experiment.config.problems import closest, describe, obstacle, shown
from ebm_jax.experiment.config.reading import read_file, read_override

_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


class ConfigError(ValueError):
    """A configuration that cannot be used: `source` names the file, `problems` says all that is wrong, a line each."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        super().__init__(source, tuple(problems))
        self.source, self.problems = source, tuple(problems)

    def __str__(self) -> str:
        return "\n".join([f"{self.source}:", *(f"  {problem}" for problem in self.problems)])


# `info` of the validators is a ValidationInfo, a protocol that cannot be checked when it is passed.
class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _read_exponents(cls, value: Any, info: Any) -> Any:
        # YAML 1.1, which PyYAML reads, wants 1.0e-3 and takes 1e-3 for text.
        floats = cls.model_fields[str(info.field_name)].annotation in (float, float | None)
        return float(value) if floats and isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def _conflict(message: str, *below: str) -> PydanticCustomError:
    """An error of values that do not go together, at the field under validation or at `below` it."""
    return PydanticCustomError("conflict", "{message}", {"message": message, "below": below})


class DataConfig(_Section):
    """The images, and how they become bits."""

    name: Literal["digits", "mnist", "fashion_mnist", "binarized_mnist"] = Field(
        default="mnist", description="data set, by its name in `ebm_jax.data.load`"
    )
    binarization: Literal["stochastic", "static", "threshold"] | None = Field(
        default=None,
        validate_default=True,
        description="how grey levels become bits: drawn anew at every step, drawn once, or compared with 1/2; "
        "null: stochastic, and for binarized_mnist, which is binary, threshold",
    )
    n_train: int | None = Field(default=None, ge=1, description="first rows to train on; null: all")
    n_test: int | None = Field(default=None, ge=1, description="first rows of the test set; null: all")

    @field_validator("binarization")
    @classmethod
    def _resolve_binarization(cls, value: str | None, info: Any) -> str | None:
        binary = info.data.get("name") == "binarized_mnist"
        if binary and value in ("stochastic", "static"):
            raise _conflict(
                f"{value!r} was given, but binarized_mnist is binary already: give threshold, or null"
            )
        return value or ("threshold" if binary else "stochastic")


class RBMModelConfig(_Section):
    """The restricted Boltzmann machine."""

    n_hidden: int = Field(default=500, ge=1, description="hidden units")
    init_scale: float = Field(default=0.01, ge=0, description="standard deviation of the first weights")
    visible_bias: Literal["data", "zero"] = Field(
        default="data", description="first visible biases: the log-odds of the mean pixels, or zero"
    )


class NegativesConfig(_Section):
    """Where the model's side of the gradient comes from."""

    method: Literal["cd", "pcd"] = Field(
        default="pcd", description="contrastive divergence: chains start at the batch (cd) or persist (pcd)"
    )
    k: int = Field(default=1, ge=1, description="Gibbs steps at each update")
    n_chains: int | None = Field(
        default=None,
        ge=1,
        validate_default=True,
        description="persistent chains, for pcd alone; null: the batch size",
    )

    @field_validator("n_chains")
    @classmethod
    def _check_n_chains(cls, value: int | None, info: Any) -> int | None:
        if value is not None and info.data.get("method") == "cd":
            raise _conflict(
                f"{value} was given, but cd has a chain for every row of the batch: give null, or method: pcd"
            )
        return value


class TrainingConfig(_Section):
    """The optimiser and how long it runs."""

    n_epochs: int = Field(default=10, ge=1, description="passes over the training rows")
    batch_size: int = Field(default=128, ge=1, description="rows of a batch")
    gradient: Literal["plain", "centred"] = Field(
        default="plain", description="of the units as they are, or less their means"
    )
    centring_rate: float = Field(
        default=0.01,
        gt=0,
        le=1,
        description="how fast the running means of a centred gradient follow the batches",
    )
    optimizer: Literal["sgd", "adam"] = Field(default="sgd", description="optimiser")
    learning_rate: float = Field(default=0.1, gt=0, description="highest learning rate")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="linear", description="course of the learning rate; linear and cosine fall to zero"
    )
    warmup_epochs: float = Field(
        default=0.0,
        ge=0,
        description="epochs in which the learning rate rises from zero; at most `training.n_epochs`",
    )
    momentum: float = Field(default=0.0, ge=0, lt=1, description="momentum of sgd; 0 with adam")
    weight_decay: float = Field(default=0.0, ge=0, description="decay of the weights, not of biases")
    ema_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="decay of an exponential moving average of the parameters, which evaluation then uses; null: none",
    )
    steps_per_call: int = Field(
        default=100,
        ge=1,
        description="updates between two looks of the host: how soon a signal or a sick run is noticed",
    )

    @field_validator("warmup_epochs")
    @classmethod
    def _check_warmup(cls, value: float, info: Any) -> float:
        n_epochs = info.data.get("n_epochs", value)
        if value > n_epochs:
            raise _conflict(f"{value} was given, but n_epochs is {n_epochs}: give at most that")
        return value

    @field_validator("momentum")
    @classmethod
    def _check_momentum(cls, value: float, info: Any) -> float:
        if value and info.data.get("optimizer") == "adam":
            raise _conflict(f"{value} was given, but adam has moments of its own: give 0, or optimizer: sgd")
        return value


class HealthConfig(_Section):
    """What counts as a sick run, beside numbers that are not finite, and what is done then."""

    policy: Literal["stop", "skip", "rollback"] = Field(
        default="stop",
        description="what a sick update leads to: the run stops, the update is left out, or the run goes back to a "
        "healthy state with a lower learning rate",
    )
    max_gradient_norm: float | None = Field(
        default=None, gt=0, description="largest norm of a gradient; null: any"
    )
    max_energy_gap: float | None = Field(
        default=None,
        gt=0,
        description="largest absolute difference of mean energies, data less negatives; null: any",
    )
    max_rollbacks: int = Field(default=3, ge=0, description="rollbacks after which the run stops")
    rollback_factor: float = Field(
        default=0.5, gt=0, lt=1, description="what a rollback multiplies the learning rate with"
    )


class CheckpointsConfig(_Section):
    """When the whole state of a run is stored."""

    every_epochs: float = Field(
        default=1.0, gt=0, description="epochs between checkpoints, which may be a fraction"
    )
    keep: int = Field(default=2, ge=1, description="newest checkpoints kept, beside the best")


class EvaluationConfig(_Section):
    """What is measured, when, and with how much work."""

    every_epochs: float = Field(
        default=0.0, ge=0, description="epochs between evaluations; 0: after the last step alone"
    )
    n_test: int = Field(
        default=1000,
        ge=1,
        description="rows of the test set for pseudo-likelihood and reconstruction; log-likelihoods take all",
    )
    ais_betas: int = Field(
        default=1000,
        ge=0,
        description="temperatures of annealed importance sampling, at least 2; 0: none is run",
    )
    ais_chains: int = Field(default=100, ge=1, description="chains of annealed importance sampling")
    exact: bool = Field(default=True, description="log Z by enumeration where a layer has 20 units or fewer")
    chain_steps: int = Field(default=1000, ge=10, description="Gibbs steps whose autocorrelation is measured")
    n_chains: int = Field(default=100, ge=1, description="chains sampled for that and for pictures")

    @field_validator("ais_betas")
    @classmethod
    def _check_betas(cls, value: int) -> int:
        if value == 1:
            raise _conflict(
                "1 was given, but annealing has a start and an end: give at least 2, or 0 for none"
            )
        return value


class RBMConfig(_Section):
    """An RBM of binary units that is trained on images."""

    recipe: Literal["rbm"] = Field(default="rbm", description="kind of experiment")
    name: str = Field(description="name of the run and of its folder")
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="seed of all randomness")
    data: DataConfig = Field(default=DataConfig(), description="the images")
    model: RBMModelConfig = Field(default=RBMModelConfig(), description="the RBM")
    negatives: NegativesConfig = Field(
        default=NegativesConfig(), description="the model's side of the gradient"
    )
    training: TrainingConfig = Field(
        default=TrainingConfig(), validate_default=True, description="the optimiser"
    )
    health: HealthConfig = Field(default=HealthConfig(), description="sick runs")
    checkpoints: CheckpointsConfig = Field(default=CheckpointsConfig(), description="stored states")
    evaluation: EvaluationConfig = Field(default=EvaluationConfig(), description="measurements")

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if not value or len(value) > 100 or value.strip(" .") != value or re.search(r"[/\\\x00-\x1f]", value):
            raise _conflict(
                f"{shown(value)} was given, but it names a folder: give 1 to 100 characters without slashes, "
                "and no dot or blank at its ends"
            )
        return value

    @field_validator("training")
    @classmethod
    def _check_batch_size(cls, value: TrainingConfig, info: Any) -> TrainingConfig:
        n_train = getattr(info.data.get("data"), "n_train", None)
        if n_train is not None and value.batch_size > n_train:
            raise _conflict(
                f"{value.batch_size} rows a batch, but data.n_train is {n_train}: give at most that",
                "batch_size",
            )
        return value


# A further recipe is a class with a `recipe` of its own, a member of this union and a line of the registry.
Config = RBMConfig
RECIPES: dict[str, type[Config]] = {"rbm": RBMConfig}


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Reads a YAML file, applies overrides such as `training.learning_rate=0.01`, and checks the whole.

    A configuration without `name` takes the file's stem. Raises ConfigError, which lists all problems.
    """
    file = Path(path)
    mapping, problems = read_file(file)
    if mapping is None:
        raise ConfigError(str(file), problems)
    return _build(mapping, overrides, file.stem, str(file), problems)


def parse_config(mapping: Mapping[str, Any], name: str | None = None) -> Config:
    """Checks a configuration that is at hand as a mapping; `name` is for one that has none.

    Raises ConfigError, which lists all problems.
    """
    return _build(mapping, (), name, name or "configuration", [])


def dump_config(config: Config) -> str:
    """Writes every field as YAML, in the order of the schema; `load_config` reads the same configuration from it."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True)


def config_hash(config: Config) -> str:
    """SHA-256, in hex, of all fields, the name among them: equal for configurations that are equal."""
    canonical = json.dumps(config.model_dump(), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _build(
    mapping: Mapping[Any, Any],
    overrides: Sequence[str],
    name: str | None,
    source: str,
    problems: Sequence[str],
) -> Config:
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
    schema = RECIPES.get(recipe) if isinstance(recipe, str) else None
    if schema is None:
        wanted = f"one of {', '.join(RECIPES)}" if len(RECIPES) > 1 else next(iter(RECIPES))
        problems.append(f"recipe: {shown(recipe)} was given; {wanted} is wanted{closest(recipe, RECIPES)}")
        raise ConfigError(source, problems)
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
    """Sets a value below; where the file has no section it is left alone, and checked as it stands."""
    *above, last = parts
    for part in above:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            return
    values[last] = value
