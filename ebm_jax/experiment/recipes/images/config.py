"""Sections of the configurations of image recipes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ebm_jax.experiment.config.sections import Section


class ImageDataConfig(Section):
    """The images."""

    name: Literal["digits", "mnist", "fashion_mnist"] = Field(
        default="mnist", description="data set, by its name in `ebm_jax.data.load`"
    )
    classes: int | list[int] | None = Field(default=None, description="classes that are kept; null: all")
    n_train: int | None = Field(default=None, ge=1, description="first rows to train on; null: all")
    n_validation: int | None = Field(default=None, ge=1, description="last rows of the training set")


class LangevinConfig(Section):
    """Langevin chains."""

    n_steps: int = Field(default=20, ge=1, description="steps")
    step_size: float = Field(default=10.0, gt=0, description="α")
    noise_scale: float = Field(default=0.005, ge=0, description="σ")
    clip: float | None = Field(default=None, gt=0, description="largest element of the gradient; null: any")


class BufferConfig(Section):
    """The replay buffer."""

    capacity: int = Field(default=1000, ge=1, description="slots")
    reinit_rate: float = Field(default=0.05, ge=0, le=1, description="probability")


class GenerationConfig(LangevinConfig):
    """Chains that make samples."""

    every: int = Field(default=8, ge=1, description="steps between two pictures")
