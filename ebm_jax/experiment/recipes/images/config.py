"""Sections of the configurations of image recipes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ebm_jax.experiment.config.sections import Section, conflict


def _different_classes(value: int | list[int] | None) -> int | list[int] | None:
    given = [value] if isinstance(value, int) else value
    if given is not None and not (given and len(set(given)) == len(given) and set(given) <= set(range(10))):
        raise conflict(f"{value} was given: give a class from 0 to 9, or a list of different ones")
    return value


class ImageDataConfig(Section):
    """The images."""

    name: Literal["digits", "mnist"] = Field(
        default="mnist", description="data set, by its name in `ebm_jax.data.load`"
    )
    classes: Annotated[int | list[int] | None, AfterValidator(_different_classes)] = Field(
        default=None, description="classes whose images are kept, from 0 to 9; null: all"
    )
    n_train: int | None = Field(default=None, ge=1, description="first rows to train on; null: all")


class LangevinConfig(Section):
    """Langevin chains with pixels in [-1, 1]: x ← clamp(x − α clip(∇E) + σ z)."""

    n_steps: int = Field(default=20, ge=1, description="steps of a chain")
    step_size: float = Field(default=10.0, gt=0, description="α, what the gradient is multiplied by")
    noise_scale: float = Field(
        default=0.005, ge=0, description="σ, standard deviation of the noise of a step"
    )
    clip: float | None = Field(
        default=0.03, gt=0, description="largest absolute derivative by a pixel; null: any"
    )


class GenerationConfig(LangevinConfig):
    """Langevin chains that make samples from uniform noise."""

    n_steps: int = Field(default=256, ge=1, description="steps of a chain")
    every: int = Field(default=8, ge=1, description="steps between two pictures of a chain")


class BufferConfig(Section):
    """The replay buffer."""

    capacity: int = Field(default=2048, ge=1, description="chains that are kept; at least a batch")
    reinit_rate: float = Field(
        default=0.05, ge=0, le=1, description="probability with which a chain starts anew at noise"
    )
