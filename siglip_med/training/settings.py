"""The top-level keys of ``conf/train.yaml``; the groups below them are checked against what they instantiate."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from siglip_med.conditions import Geometry, Measure
from siglip_med.training.optim import Share
from siglip_med.training.texts import Pool


class ConditionSettings(BaseModel):
    """Which codes the conditions have, and which geometry they lie in (see docs/geometry.md)."""

    model_config = ConfigDict(extra="forbid")

    codes: str | None
    geometry: Geometry
    measure: Measure
    weights: dict[str, float] | None


class EvaluationSettings(BaseModel):
    """How the final numbers get their intervals."""

    model_config = ConfigDict(extra="forbid")

    bootstrap: PositiveInt
    coverage: Share


class TrainSettings(BaseModel):
    """Top level of a training config.

    Attributes:
        task: ``finetune`` against conditions, or ``pretrain`` on captions.
        seed: of everything: split, order, augmentation, prompts, adapters.
        monitor: validation metric that chooses the checkpoint; ``mode`` says whether more is better.
        optimized_metric: the metric that a sweep reads, or None.
        resume: a checkpoint to go on from, to the end of the same run, or None.
        init_from: a checkpoint of another run, on the same base and split, whose trained weights this run starts
            from, or None.
        text_pool: ``batch`` or ``all`` (see docs/losses.md).
        export_to: pretraining only: the folder that the trained towers are written to, or None.
    """

    model_config = ConfigDict(extra="forbid")

    task: Literal["finetune", "pretrain"]
    name: str
    seed: NonNegativeInt
    monitor: str
    mode: Literal["min", "max"]
    optimized_metric: str | None
    resume: str | None
    init_from: str | None
    text_pool: Pool
    export_to: str | None
    conditions: ConditionSettings
    evaluation: EvaluationSettings
    optimizer: Any
    data: Any
    features: Any = None
    augmentation: Any
    model: Any
    loss: Any
    schedule: Any
    trainer: Any
    callbacks: Any
    logger: Any
    paths: Any
