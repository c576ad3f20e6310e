"""The settings that every run has, trained or pretrained."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt

from siglip_med.config import Node


class PathSettings(BaseModel):
    """Where things lie."""

    model_config = ConfigDict(extra="forbid")

    root_dir: str
    log_dir: str
    cache_dir: str
    output_dir: str


class RunSettings(BaseModel):
    """What ``conf/train.yaml`` and ``conf/pretrain.yaml`` share.

    Attributes:
        seed: of everything: split, order, augmentation, prompts, adapters.
        monitor: validation metric that chooses the checkpoint; ``mode`` says whether more is better.
        resume: a checkpoint to go on from, to the end of the same run, or None.
        paths: where things lie.
    """

    model_config = ConfigDict(extra="forbid")

    seed: NonNegativeInt
    monitor: str
    mode: Literal["min", "max"]
    resume: str | None
    optimizer: Node
    data: Node
    augmentation: Node | None
    model: Node
    loss: Node
    trainer: Node
    callbacks: Node
    logger: Node
    paths: PathSettings
