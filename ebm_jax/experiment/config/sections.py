"""Sections of a configuration that recipes share, as frozen pydantic models.

The configuration class of a recipe inherits from `ExperimentConfig` and adds its own sections. A section that needs
further keys inherits from the one here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from ebm_jax.experiment.config.problems import shown

_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


# `info` of the validators is a ValidationInfo, a protocol that cannot be checked when it is passed.
class Section(BaseModel):
    """Base of every section: frozen, strict about types, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _read_exponents(cls, value: Any, info: Any) -> Any:
        # PyYAML follows YAML 1.1, which requires 1.0e-3 and reads 1e-3 as text.
        is_float = cls.model_fields[str(info.field_name)].annotation in (float, float | None)
        return float(value) if is_float and isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def conflict(message: str, *below: str) -> PydanticCustomError:
    """Returns the error of a validator whose value conflicts with another.

    Args:
      message: What was given and what to give instead.
      below: Keys that lead from the validated field to the one that is wrong.

    Returns:
      The error to raise.
    """
    return PydanticCustomError("conflict", "{message}", {"message": message, "below": below})


class TrainingConfig(Section):
    """The optimiser and how long it runs."""

    n_epochs: int = Field(default=10, ge=1, description="passes over the training rows")
    batch_size: int = Field(default=128, ge=1, description="rows of a batch")
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
    clip_norm: float | None = Field(
        default=None, gt=0, description="largest norm of the gradient, which is scaled down to it; null: any"
    )
    accumulate: int = Field(
        default=1, ge=1, description="batches whose mean gradient makes one change of the parameters"
    )
    ema_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="decay of an exponential moving average of the parameters, which evaluation then uses; null: none",
    )
    steps_per_call: int = Field(
        default=100,
        ge=1,
        description="updates between two checks by the host: how soon a signal or a diverging run is noticed",
    )

    @field_validator("warmup_epochs")
    @classmethod
    def _check_warmup(cls, value: float, info: Any) -> float:
        n_epochs = info.data.get("n_epochs", value)
        if value > n_epochs:
            raise conflict(f"{value} was given, but n_epochs is {n_epochs}: give at most that")
        return value

    @field_validator("momentum")
    @classmethod
    def _check_momentum(cls, value: float, info: Any) -> float:
        if value and info.data.get("optimizer") == "adam":
            raise conflict(f"{value} was given, but adam has moments of its own: give 0, or optimizer: sgd")
        return value


class HealthConfig(Section):
    """Which updates count as failed, besides those with NaN or infinities, and what happens then."""

    policy: Literal["stop", "skip", "rollback"] = Field(
        default="stop",
        description="what a failed update leads to: the run stops, the update is left out (the run stops if it leaves "
        "out all updates of calls, 10 or more in a row), or the run goes back to a healthy state with a lower learning "
        "rate",
    )
    max_gradient_norm: float | None = Field(
        default=None, gt=0, description="largest norm of a gradient; null: any"
    )
    max_energy_gap: float | None = Field(
        default=None,
        gt=0,
        description="largest absolute difference of mean energies, data less negatives; null: any",
    )
    max_position: float | None = Field(
        default=None, gt=0, description="largest absolute number in the positions of chains; null: any"
    )
    min_movement: float | None = Field(
        default=None,
        gt=0,
        description="least mean distance that chains move at an update; null: any",
    )
    min_acceptance: float | None = Field(
        default=None, gt=0, le=1, description="least share of proposals that is accepted; null: any"
    )
    grace_steps: int = Field(
        default=0,
        ge=0,
        description="updates at the start of a run during which only NaN and infinite values count as failures",
    )
    max_rollbacks: int = Field(default=3, ge=0, description="rollbacks after which the run stops")
    rollback_factor: float = Field(
        default=0.5, gt=0, lt=1, description="factor of the learning rate at each rollback"
    )


class CheckpointsConfig(Section):
    """When the whole state of a run is stored."""

    every_epochs: float = Field(
        default=1.0, gt=0, description="epochs between checkpoints, which may be a fraction"
    )
    keep: int = Field(default=2, ge=1, description="newest checkpoints kept, besides the best")


class EvaluationConfig(Section):
    """When the model is evaluated. Recipes add what they measure, and with how much work."""

    every_epochs: float = Field(
        default=0.0, ge=0, description="epochs between evaluations; 0: only after the last step"
    )


class ExperimentConfig(Section):
    """What the configuration of every recipe has.

    A subclass gives `recipe` its name as the only value and declares all of its sections, in the order in which they
    are written: besides its own, `training`, `health`, `checkpoints` and `evaluation`.
    """

    recipe: str = Field(description="kind of experiment")
    name: str = Field(description="name of the run and of its folder")
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="seed of all randomness")
    if TYPE_CHECKING:
        training: TrainingConfig
        health: HealthConfig
        checkpoints: CheckpointsConfig
        evaluation: EvaluationConfig

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if (
            not value
            or len(value) > 100
            or value.strip(" .") != value
            or not value.isprintable()
            or re.search(r"[/\\]", value)
        ):
            raise conflict(
                f"{shown(value)} was given, but it names a folder: give 1 to 100 printable characters without "
                "slashes, and no dot or blank at its ends"
            )
        return value
