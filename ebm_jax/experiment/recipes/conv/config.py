"""The configuration of the recipe `conv`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ebm_jax.experiment.config.sections import (
    CheckpointsConfig,
    EvaluationConfig,
    ExperimentConfig,
    HealthConfig,
    Section,
    TrainingConfig,
    conflict,
)
from ebm_jax.experiment.recipes.images.config import (
    BufferConfig,
    GenerationConfig,
    ImageDataConfig,
    LangevinConfig,
)

Count = Annotated[int, Field(ge=1)]


class ConvDataConfig(ImageDataConfig):
    """The images, and the noise on them."""

    noise: float = Field(
        default=0.005,
        ge=0,
        description="standard deviation of normal noise on every batch, of pixels in [-1, 1]",
    )


class ModelConfig(Section):
    """The convolutional network whose output is the energy."""

    channels: list[Count] = Field(
        default=[16, 32, 64, 64], min_length=1, description="channels of each convolution"
    )
    kernel_sizes: list[Count] = Field(
        default=[5, 3, 3, 3], min_length=1, description="side of each convolution's window"
    )
    strides: list[Count] = Field(default=[2, 2, 2, 2], min_length=1, description="stride of each convolution")
    paddings: list[Annotated[int, Field(ge=0)]] = Field(
        default=[4, 1, 1, 1], min_length=1, description="zeros around each convolution's input"
    )
    dense: list[Count] = Field(
        default=[64], min_length=0, description="units of the dense layers behind the convolutions"
    )
    activation: Literal["silu", "elu", "relu", "softplus", "leaky_relu", "tanh"] = Field(
        default="silu", description="nonlinearity behind every layer but the last"
    )
    init_scale: float = Field(
        default=0.4,
        gt=0,
        description="first kernels as a multiple of He's; large ones make energies too steep for their chains",
    )

    @field_validator("kernel_sizes", "strides", "paddings")
    @classmethod
    def _check_length(cls, value: list[int], info: Any) -> list[int]:
        n = len(info.data.get("channels", value))
        if len(value) != n:
            raise conflict(f"{value} was given, but model.channels has {n} values: give as many")
        return value


class ObjectiveConfig(Section):
    """What is minimised beside the contrast of energies."""

    energy_l2: float = Field(
        default=0.1, ge=0, description="weight of the mean squared energies of data and negatives"
    )


class ConvTrainingConfig(TrainingConfig):
    """The optimiser and how long it runs."""

    batch_size: int = Field(default=32, ge=1, description="rows of a batch, and chains of a step")
    optimizer: Literal["sgd", "adam"] = Field(default="adam", description="optimiser")
    learning_rate: float = Field(default=5e-4, gt=0, description="highest learning rate")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="linear", description="course of the learning rate from `training.decay_start` on"
    )
    clip_norm: float | None = Field(
        default=0.1, gt=0, description="largest norm of the gradient of the parameters; null: any"
    )
    adam_b1: float = Field(default=0.0, ge=0, lt=1, description="decay of adam's mean of the gradient")
    decay_start: float = Field(
        default=0.7,
        ge=0,
        lt=1,
        description="share of the run after which the learning rate falls to `training.final_rate`",
    )
    final_rate: float = Field(
        default=0.05, ge=0, le=1, description="last learning rate, as a share of the highest"
    )


class ConvEvaluationConfig(EvaluationConfig):
    """What is measured, when, and with how much work."""

    n_chains: int = Field(default=500, ge=10, description="fresh chains whose ends are judged")
    split: Literal["validation", "test"] = Field(
        default="validation",
        description="images that samples are compared with; settings are chosen on the validation set",
    )


class ConvConfig(ExperimentConfig):
    """A convolutional energy that is trained on images."""

    recipe: Literal["conv"] = Field(default="conv", description="kind of experiment")
    data: ConvDataConfig = Field(default=ConvDataConfig(), description="the images")
    model: ModelConfig = Field(default=ModelConfig(), description="the network")
    langevin: LangevinConfig = Field(default=LangevinConfig(), description="chains of the negatives")
    buffer: BufferConfig = Field(default=BufferConfig(), description="where these chains start")
    objective: ObjectiveConfig = Field(default=ObjectiveConfig(), description="what is minimised")
    training: ConvTrainingConfig = Field(
        default=ConvTrainingConfig(), validate_default=True, description="the optimiser"
    )
    health: HealthConfig = Field(default=HealthConfig(), description="failed updates")
    checkpoints: CheckpointsConfig = Field(default=CheckpointsConfig(), description="stored states")
    generation: GenerationConfig = Field(default=GenerationConfig(), description="chains that make samples")
    evaluation: ConvEvaluationConfig = Field(default=ConvEvaluationConfig(), description="measurements")

    @field_validator("training")
    @classmethod
    def _check_batch_size(cls, value: ConvTrainingConfig, info: Any) -> ConvTrainingConfig:
        capacity = getattr(info.data.get("buffer"), "capacity", value.batch_size)
        if value.batch_size > capacity:
            raise conflict(
                f"{value.batch_size} rows a batch, but buffer.capacity is {capacity}: give at most that",
                "batch_size",
            )
        return value
