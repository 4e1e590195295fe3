"""The configuration of the recipe `jem`."""

from __future__ import annotations

from typing import Any, Literal

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
    Count,
    GenerationConfig,
    ImageDataConfig,
    LangevinConfig,
)


class JEMDataConfig(ImageDataConfig):
    """The images, and the noise on them."""

    noise: float = Field(
        default=0.2,
        ge=0,
        description="standard deviation of normal noise on every batch, of pixels in [-1, 1]",
    )


class ModelConfig(Section):
    """The perceptron whose outputs are the class logits."""

    features: list[Count] = Field(default=[512, 512, 512], description="units of the hidden layers")
    activation: Literal["silu", "elu", "relu", "softplus", "leaky_relu", "tanh"] = Field(
        default="silu", description="nonlinearity behind every layer but the last"
    )


class NegativesConfig(Section):
    """Where the model's side of the gradient comes from."""

    method: Literal["replay", "short_run"] = Field(
        default="replay", description="chains of the replay buffer, or new ones at every update"
    )
    n_chains: int = Field(default=32, ge=1, description="chains of an update")
    start: Literal["uniform", "class_gaussians"] = Field(
        default="uniform",
        description="where new chains start: uniform noise in [-1, 1], or a Gaussian of each class",
    )
    conditional: bool = Field(
        default=False, description="whether every chain follows the energy of a random class that it keeps"
    )


class ObjectiveConfig(Section):
    """What is minimised beside the cross-entropy."""

    weight: float = Field(default=0.3, ge=0, description="weight of the contrast of energies")
    energy_l2: float = Field(
        default=0.05, ge=0, description="weight of the mean squared energies within that contrast"
    )
    logsumexp_l2: float = Field(
        default=0.01, ge=0, description="weight of the mean squared energy in the classifier epochs"
    )


class JEMTrainingConfig(TrainingConfig):
    """The optimiser and how long it runs: classifier epochs first, then joint ones."""

    n_epochs: int = Field(default=12, ge=1, description="passes over the training rows, both phases together")
    classifier_epochs: int = Field(
        default=8,
        ge=0,
        description="epochs of the classifier alone, at the start; less than `training.n_epochs`",
    )
    optimizer: Literal["sgd", "adam"] = Field(default="adam", description="optimiser")
    learning_rate: float = Field(default=5e-4, gt=0, description="highest learning rate of the joint epochs")
    classifier_rate: float = Field(
        default=1e-3, gt=0, description="first learning rate of the classifier epochs, which falls to a tenth"
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="cosine", description="course of the learning rate in the joint epochs"
    )
    clip_norm: float | None = Field(
        default=1.0, gt=0, description="largest norm of the gradient of the parameters; null: any"
    )
    final_rate: float = Field(
        default=0.02, ge=0, le=1, description="last learning rate, as a share of the highest"
    )

    @field_validator("classifier_epochs")
    @classmethod
    def _check_classifier_epochs(cls, value: int, info: Any) -> int:
        n_epochs = info.data.get("n_epochs", value + 1)
        if value >= n_epochs:
            raise conflict(f"{value} was given, but n_epochs is {n_epochs}, both phases together: give less")
        return value


class JEMEvaluationConfig(EvaluationConfig):
    """What is measured, when, and with how much work."""

    every_epochs: float = Field(
        default=1.0, ge=0, description="epochs between evaluations; 0: only after the last step"
    )
    n_chains: int = Field(default=500, ge=10, description="fresh chains whose ends are judged")
    n_strange: int = Field(
        default=2000, ge=10, description="strange inputs of each kind, whose energies are compared"
    )
    split: Literal["validation", "test"] = Field(
        default="validation",
        description="images that are classified and compared with; settings are chosen on the validation set",
    )


class JEMConfig(ExperimentConfig):
    """A joint model of images and classes."""

    recipe: Literal["jem"] = Field(default="jem", description="kind of experiment")
    data: JEMDataConfig = Field(default=JEMDataConfig(), description="the images")
    model: ModelConfig = Field(default=ModelConfig(), description="the network")
    langevin: LangevinConfig = Field(
        default=LangevinConfig(n_steps=20, step_size=2.0, noise_scale=0.01, clip=None),
        description="chains of the negatives",
    )
    negatives: NegativesConfig = Field(
        default=NegativesConfig(), description="the model's side of the gradient"
    )
    buffer: BufferConfig = Field(default=BufferConfig(), description="where chains of `replay` are kept")
    objective: ObjectiveConfig = Field(default=ObjectiveConfig(), description="what is minimised")
    training: JEMTrainingConfig = Field(default=JEMTrainingConfig(), description="the optimiser")
    health: HealthConfig = Field(default=HealthConfig(), description="failed updates")
    checkpoints: CheckpointsConfig = Field(default=CheckpointsConfig(), description="stored states")
    generation: GenerationConfig = Field(
        default=GenerationConfig(n_steps=200, step_size=2.0, noise_scale=0.01, clip=None, every=10),
        description="chains that make samples",
    )
    evaluation: JEMEvaluationConfig = Field(default=JEMEvaluationConfig(), description="measurements")
