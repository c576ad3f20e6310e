"""The settings that every run has, trained or pretrained."""

from typing import Annotated, Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger
from pydantic import BaseModel, BeforeValidator, ConfigDict, NonNegativeInt

from siglip_med.core.config import Builds, Node
from siglip_med.data import DataModule
from siglip_med.data.augmentation import Augmentation
from siglip_med.losses import LayeredLoss
from siglip_med.models import TwoTower
from siglip_med.training.optim import AdamW


class PathSettings(BaseModel):
    """Where things lie."""

    model_config = ConfigDict(extra="forbid")

    root_dir: str
    log_dir: str
    cache_dir: str
    output_dir: str


def _named(nodes: Any) -> Any:
    """Nodes by name; a group that was switched off holds none."""
    return {} if nodes is None else nodes


class RunSettings(BaseModel):
    """What ``conf/train.yaml`` and ``conf/pretrain.yaml`` share.

    Attributes:
        seed: of everything: split, order, augmentation, prompts, adapters.
        monitor: validation metric that chooses the checkpoint; ``mode`` says whether more is better.
        resume: a checkpoint or a run folder to go on with, ``auto`` for the newest run of these settings, or None.
        paths: where things lie.
    """

    model_config = ConfigDict(extra="forbid")

    seed: NonNegativeInt
    monitor: str
    mode: Literal["min", "max"]
    resume: str | None
    optimizer: Annotated[Node, Builds(AdamW)]
    data: Annotated[Node, Builds(DataModule)]
    augmentation: Annotated[Node | None, Builds(Augmentation)]
    model: Annotated[Node, Builds(TwoTower)]
    loss: Annotated[Node, Builds(LayeredLoss)]
    trainer: Annotated[Node, Builds(pl.Trainer)]
    callbacks: Annotated[Node, BeforeValidator(_named), Builds(pl.Callback, each=True)]
    logger: Annotated[Node, BeforeValidator(_named), Builds(Logger, each=True)]
    paths: PathSettings
