"""The configuration of the recipe `rbm`."""

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


class DataConfig(Section):
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
            raise conflict(
                f"{value!r} was given, but binarized_mnist is binary already: give threshold, or null"
            )
        return value or ("threshold" if binary else "stochastic")


class ModelConfig(Section):
    """The restricted Boltzmann machine."""

    n_hidden: int = Field(default=500, ge=1, description="hidden units")
    init_scale: float = Field(default=0.01, ge=0, description="standard deviation of the first weights")
    visible_bias: Literal["data", "zero"] = Field(
        default="data", description="first visible biases: the log-odds of the mean pixels, or zero"
    )


class NegativesConfig(Section):
    """Where the model's side of the gradient comes from."""

    method: Literal["cd", "pcd"] = Field(
        default="pcd", description="contrastive divergence: chains start at the batch (cd) or persist (pcd)"
    )
    k: int = Field(default=1, ge=1, description="Gibbs steps at each update")
    n_chains: int | None = Field(
        default=None,
        ge=1,
        validate_default=True,
        description="persistent chains, only for pcd; null: the batch size",
    )

    @field_validator("n_chains")
    @classmethod
    def _check_n_chains(cls, value: int | None, info: Any) -> int | None:
        if value is not None and info.data.get("method") == "cd":
            raise conflict(
                f"{value} was given, but cd has a chain for every row of the batch: give null, or method: pcd"
            )
        return value


class RBMTrainingConfig(TrainingConfig):
    """The optimiser, how long it runs, and the gradient of an RBM."""

    gradient: Literal["plain", "centred"] = Field(
        default="plain", description="of the units as they are, or less their means"
    )
    centring_rate: float = Field(
        default=0.01,
        gt=0,
        le=1,
        description="how fast the running means of a centred gradient follow the batches",
    )


class RBMEvaluationConfig(EvaluationConfig):
    """What is measured, when, and with how much work."""

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
            raise conflict(
                "1 was given, but annealing has a start and an end: give at least 2, or 0 for none"
            )
        return value


class RBMConfig(ExperimentConfig):
    """An RBM of binary units that is trained on images."""

    recipe: Literal["rbm"] = Field(default="rbm", description="kind of experiment")
    data: DataConfig = Field(default=DataConfig(), description="the images")
    model: ModelConfig = Field(default=ModelConfig(), description="the RBM")
    negatives: NegativesConfig = Field(
        default=NegativesConfig(), description="the model's side of the gradient"
    )
    training: RBMTrainingConfig = Field(
        default=RBMTrainingConfig(), validate_default=True, description="the optimiser"
    )
    health: HealthConfig = Field(default=HealthConfig(), description="failed updates")
    checkpoints: CheckpointsConfig = Field(default=CheckpointsConfig(), description="stored states")
    evaluation: RBMEvaluationConfig = Field(default=RBMEvaluationConfig(), description="measurements")

    @field_validator("training")
    @classmethod
    def _check_batch_size(cls, value: RBMTrainingConfig, info: Any) -> RBMTrainingConfig:
        n_train = getattr(info.data.get("data"), "n_train", None)
        if n_train is not None and value.batch_size > n_train:
            raise conflict(
                f"{value.batch_size} rows a batch, but data.n_train is {n_train}: give at most that",
                "batch_size",
            )
        return value
