"""The configuration of the recipe `jem`."""

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


class JemDataConfig(ImageDataConfig):
    """The images and their classes, and what is done to the images of a batch."""

    shift: int = Field(
        default=0,
        ge=0,
        description="largest number of pixels by which images of a batch are moved at random in the classifier epochs",
    )
    noise: float = Field(
        default=0.2,
        ge=0,
        description="standard deviation of normal noise on every batch, of pixels in [-1, 1]; sums are not clamped",
    )

    @field_validator("classes")
    @classmethod
    def _check_two_classes(cls, value: int | list[int] | None) -> int | list[int] | None:
        if isinstance(value, int) or (value is not None and len(value) < 2):
            raise conflict(f"{value} was given, but a classifier needs two classes: give a list, or null")
        return value


class ModelConfig(Section):
    """The perceptron whose outputs are the logits of the classes."""

    features: list[Annotated[int, Field(ge=1)]] = Field(
        default=[512, 512, 512], min_length=1, description="units of each hidden layer"
    )
    activation: Literal["silu", "elu", "relu", "softplus", "leaky_relu", "tanh"] = Field(
        default="silu", description="nonlinearity behind every hidden layer"
    )


class ObjectiveConfig(Section):
    """What is minimised in the two phases."""

    logsumexp_l2: float = Field(
        default=0.01, ge=0, description="weight of the mean squared energy in the classifier epochs"
    )
    weight: float = Field(
        default=0.3, ge=0, description="weight of the contrast of energies in the joint epochs"
    )
    energy_l2: float = Field(
        default=0.05, ge=0, description="weight of the mean squared energies in that contrast"
    )


class JemLangevinConfig(LangevinConfig):
    """Langevin chains of the negatives."""

    step_size: float = Field(default=2.0, gt=0, description="α, what the gradient is multiplied by")
    noise_scale: float = Field(default=0.01, ge=0, description="σ, standard deviation of the noise of a step")
    clip: float | None = Field(
        default=None, gt=0, description="largest absolute derivative by a pixel; null: any"
    )
    clamp: bool = Field(default=False, description="whether pixels are clamped to [-1, 1] after every step")


class NegativesConfig(BufferConfig):
    """Where the chains of the negatives start."""

    method: Literal["replay", "short_run"] = Field(
        default="replay", description="chains persist in a replay buffer, or start anew at every update"
    )
    n_chains: int = Field(default=32, ge=1, description="chains of an update")
    capacity: int = Field(default=1000, ge=1, description="chains that the buffer keeps; at least `n_chains`")
    start: Literal["uniform", "class_gaussians"] = Field(
        default="uniform", description="uniform noise, or a Gaussian fitted to the images of each class"
    )
    conditional: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of chains that follow the energy of one random class; the others follow E(x)",
    )

    @field_validator("conditional", mode="before")
    @classmethod
    def _read_all_or_none(cls, value: Any) -> Any:
        # Files of runs from before there were shares say true or false.
        return float(value) if isinstance(value, bool) else value

    @field_validator("capacity")
    @classmethod
    def _check_capacity(cls, value: int, info: Any) -> int:
        n_chains = info.data.get("n_chains", value)
        if value < n_chains:
            raise conflict(f"{value} was given, but n_chains is {n_chains}: give at least that")
        return value


class JemTrainingConfig(TrainingConfig):
    """The optimiser, and its two phases: classifier epochs, then joint epochs."""

    n_epochs: int = Field(default=20, ge=1, description="passes over the training rows, of both phases")
    classifier_epochs: int = Field(
        default=8,
        ge=0,
        description="first epochs, which train the classifier without negatives; less than `n_epochs`",
    )
    optimizer: Literal["sgd", "adam"] = Field(default="adam", description="optimiser")
    classifier_rate: float = Field(
        default=1e-3, gt=0, description="highest learning rate of the classifier epochs"
    )
    learning_rate: float = Field(default=5e-4, gt=0, description="highest learning rate of the joint epochs")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="cosine", description="course of the learning rate in either phase"
    )
    warmup_epochs: float = Field(
        default=0.25, ge=0, description="joint epochs in which the learning rate rises from zero"
    )
    final_rate: float = Field(
        default=0.02, ge=0, le=1, description="last learning rate of a phase, as a share of its highest"
    )
    clip_norm: float | None = Field(
        default=1.0, gt=0, description="largest norm of the gradient, which is scaled down to it; null: any"
    )
    ema_decay: float | None = Field(
        default=0.99,
        gt=0,
        lt=1,
        description="decay of an exponential moving average of the parameters, which evaluation then uses; null: none",
    )

    @field_validator("classifier_epochs")
    @classmethod
    def _check_phases(cls, value: int, info: Any) -> int:
        n_epochs = info.data.get("n_epochs", value + 1)
        if value >= n_epochs:
            raise conflict(f"{value} was given, but n_epochs is {n_epochs}: leave at least one joint epoch")
        return value


class JemGenerationConfig(GenerationConfig):
    """Langevin chains that make samples from uniform noise, clamped to [-1, 1]."""

    n_steps: int = Field(default=200, ge=1, description="steps of a chain")
    step_size: float = Field(
        default=2.0, gt=0, description="α of the first step, what the gradient is multiplied by"
    )
    final_step_size: float | None = Field(
        default=None, gt=0, description="α of the last step; between them it is geometric; null: the first"
    )
    noise_scale: float = Field(default=0.01, ge=0, description="σ, standard deviation of the noise of a step")
    clip: float | None = Field(
        default=None, gt=0, description="largest absolute derivative by a pixel; null: any"
    )
    every: int = Field(default=10, ge=1, description="steps between two pictures of a chain")


class JemEvaluationConfig(EvaluationConfig):
    """What is measured, when, and with how much work."""

    every_epochs: float = Field(
        default=1.0, ge=0, description="epochs between evaluations; 0: only after the last step"
    )
    samples_every: int = Field(
        default=5,
        ge=1,
        description="epochs between evaluations that also draw and judge samples, joint epochs only; the last does",
    )
    n_chains: int = Field(default=500, ge=10, description="fresh chains whose ends are judged")
    split: Literal["validation", "test"] = Field(
        default="validation",
        description="images that are classified and compared; settings are chosen on the validation set",
    )


class JemConfig(ExperimentConfig):
    """A classifier of images that is an energy of its inputs (Grathwohl et al. 2020)."""

    recipe: Literal["jem"] = Field(default="jem", description="kind of experiment")
    data: JemDataConfig = Field(default=JemDataConfig(), description="the images")
    model: ModelConfig = Field(default=ModelConfig(), description="the network")
    langevin: JemLangevinConfig = Field(default=JemLangevinConfig(), description="chains of the negatives")
    negatives: NegativesConfig = Field(default=NegativesConfig(), description="where these chains start")
    objective: ObjectiveConfig = Field(default=ObjectiveConfig(), description="what is minimised")
    training: JemTrainingConfig = Field(default=JemTrainingConfig(), description="the optimiser")
    health: HealthConfig = Field(default=HealthConfig(), description="failed updates")
    checkpoints: CheckpointsConfig = Field(default=CheckpointsConfig(), description="stored states")
    generation: JemGenerationConfig = Field(
        default=JemGenerationConfig(), description="chains that make samples"
    )
    evaluation: JemEvaluationConfig = Field(default=JemEvaluationConfig(), description="measurements")
