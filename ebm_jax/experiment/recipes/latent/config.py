"""The configuration of the recipe `latent`."""

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
from ebm_jax.experiment.recipes.images.config import ImageDataConfig


class LatentDataConfig(ImageDataConfig):
    """The images, and how they become bits."""

    threshold: int = Field(default=100, ge=0, le=254, description="grey values above it are 1, the others 0")


class AutoencoderConfig(Section):
    """The autoencoder, and the epochs that train it before the energy."""

    n_latents: int = Field(default=16, ge=1, description="latent numbers")
    n_hidden: int = Field(default=1024, ge=1, description="hidden units of the encoder, and of the decoder")
    n_epochs: int = Field(
        default=12, ge=1, description="first epochs of the run, which train the autoencoder"
    )
    learning_rate: float = Field(
        default=2e-3, gt=0, description="highest learning rate of adam, which falls to zero as a cosine"
    )
    noise: float = Field(default=0.15, ge=0, description="standard deviation of normal noise on latents")
    latent_l2: float = Field(default=0.05, ge=0, description="weight of the squared norm of latents")


class ModelConfig(Section):
    """The network f of the energy ½|z|² + f(z) of whitened latents."""

    features: list[Annotated[int, Field(ge=1)]] = Field(
        default=[128, 128], min_length=1, description="units of each hidden layer"
    )
    activation: Literal["silu", "elu", "relu", "softplus", "leaky_relu", "tanh"] = Field(
        default="silu", description="nonlinearity behind every hidden layer"
    )


class NegativesConfig(Section):
    """Persistent MALA chains at temperature 1, whose step size follows the energy."""

    n_chains: int = Field(default=512, ge=1, description="chains")
    n_steps: int = Field(default=5, ge=1, description="steps at each update")
    step_size: float = Field(default=0.3, gt=0, description="first step size ε")
    target_acceptance: float = Field(
        default=0.6, gt=0, lt=1, description="share of accepted proposals that the step size is adapted to"
    )
    adaptation_rate: float = Field(
        default=0.05,
        ge=0,
        description="how much the logarithm of the step size changes at an update, as a multiple of acceptance less "
        "target; 0: the step size stays",
    )


class LatentTrainingConfig(TrainingConfig):
    """The optimiser of the energy, and how long both phases run."""

    n_epochs: int = Field(
        default=60, ge=2, description="passes over the training rows, those of the autoencoder included"
    )
    batch_size: int = Field(default=256, ge=1, description="rows of a batch")
    optimizer: Literal["sgd", "adam"] = Field(default="adam", description="optimiser")
    learning_rate: float = Field(default=3e-3, gt=0, description="highest learning rate")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="cosine", description="course of the learning rate; linear and cosine fall to zero"
    )
    ema_decay: float | None = Field(
        default=0.998,
        gt=0,
        lt=1,
        description="decay of an exponential moving average of the parameters, which evaluation then uses; null: none",
    )


class LatentGenerationConfig(Section):
    """MALA chains that make samples from N(0, I), the energy without its network."""

    n_steps: int = Field(default=3000, ge=1, description="steps of a chain")
    every: int = Field(default=100, ge=1, description="steps between two pictures of a chain")
    tuning_steps: int = Field(
        default=300, ge=1, description="steps of other chains before, which tune the step size"
    )


class LatentEvaluationConfig(EvaluationConfig):
    """What is measured, when, and with how much work."""

    n_chains: int = Field(default=1000, ge=10, description="fresh chains whose ends are decoded and judged")
    ais_betas: int = Field(default=500, ge=2, description="temperatures of annealed importance sampling")
    ais_chains: int = Field(default=500, ge=2, description="chains of annealed importance sampling")
    mixtures: list[Literal[10, 50, 200]] = Field(
        default=[10, 50, 200],
        description="components of Gaussian mixtures fitted to all training latents, some of 10, 50, 200",
    )
    split: Literal["validation", "test"] = Field(
        default="validation",
        description="images that are held out; settings are chosen on the validation set",
    )


class LatentConfig(ExperimentConfig):
    """An energy of the latents of images."""

    recipe: Literal["latent"] = Field(default="latent", description="kind of experiment")
    data: LatentDataConfig = Field(default=LatentDataConfig(), description="the images")
    autoencoder: AutoencoderConfig = Field(
        default=AutoencoderConfig(), description="the autoencoder and its training"
    )
    model: ModelConfig = Field(default=ModelConfig(), description="the energy")
    negatives: NegativesConfig = Field(
        default=NegativesConfig(), description="the model's side of the gradient"
    )
    training: LatentTrainingConfig = Field(
        default=LatentTrainingConfig(), validate_default=True, description="the optimiser"
    )
    health: HealthConfig = Field(default=HealthConfig(), description="failed updates")
    checkpoints: CheckpointsConfig = Field(default=CheckpointsConfig(), description="stored states")
    generation: LatentGenerationConfig = Field(
        default=LatentGenerationConfig(), description="chains that make samples"
    )
    evaluation: LatentEvaluationConfig = Field(default=LatentEvaluationConfig(), description="measurements")

    @field_validator("training")
    @classmethod
    def _check_phases(cls, value: LatentTrainingConfig, info: Any) -> LatentTrainingConfig:
        first = getattr(info.data.get("autoencoder"), "n_epochs", 0)
        if value.n_epochs <= first:
            raise conflict(
                f"{value.n_epochs} was given, but the first {first} epochs train the autoencoder "
                "(autoencoder.n_epochs): give more",
                "n_epochs",
            )
        return value
