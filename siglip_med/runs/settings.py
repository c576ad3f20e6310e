"""The settings that every run has, and those of fine-tuning."""

from typing import Annotated, Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeInt

from siglip_med.conditions import Geometry, Measure
from siglip_med.core.config import Builds, Node
from siglip_med.core.ranges import Share
from siglip_med.data import DataModule, LabeledData
from siglip_med.data.augmentation import Augmentation
from siglip_med.losses import LayeredLoss
from siglip_med.models import TwoTower
from siglip_med.training.optim import BuildsOptimizer
from siglip_med.training.schedule import CoefficientSchedule
from siglip_med.training.text_pools import PoolChoice


class PathSettings(BaseModel):
    """Paths of a run."""

    model_config = ConfigDict(extra="forbid")

    root_dir: str
    log_dir: str
    cache_dir: str
    output_dir: str


def _named(nodes: Any) -> Any:
    """Nodes by name; a group that was switched off holds none."""
    return {} if nodes is None else nodes


class RunSettings(BaseModel):
    """What every run has: ``conf/_run.yaml``.

    Attributes:
        seed: of everything: split, order, augmentation, prompts, adapters.
        monitor: validation metric that chooses the checkpoint; ``mode`` tells whether more is better.
        resume: a checkpoint or a run folder to resume, ``auto`` for the newest run of these settings, or None.
        trust: dotted names of code of one's own that ``resume`` and ``init_from`` may build.
        paths: of logs, caches and the run folder.
    """

    model_config = ConfigDict(extra="forbid")

    seed: NonNegativeInt
    monitor: str
    mode: Literal["min", "max"]
    resume: str | None
    trust: list[str] = []
    optimizer: Annotated[Node, Builds(BuildsOptimizer)]
    data: Annotated[Node, Builds(DataModule, given=("image", "seed"))]
    augmentation: Annotated[Node | None, Builds(Augmentation)]
    model: Annotated[Node, Builds(TwoTower)]
    loss: Annotated[Node, Builds(LayeredLoss)]
    trainer: Annotated[Node, Builds(pl.Trainer, given=("callbacks", "logger"))]
    callbacks: Annotated[Node, BeforeValidator(_named), Builds(pl.Callback, each=True)]
    logger: Annotated[Node, BeforeValidator(_named), Builds(Logger, each=True)]
    paths: PathSettings


class ConditionSettings(BaseModel):
    """Which codes the conditions have, and which geometry compares them (see docs/geometry.md)."""

    model_config = ConfigDict(extra="forbid")

    codes: str | None
    geometry: Geometry
    measure: Measure
    weights: dict[Geometry, float] | None


class EvaluationSettings(BaseModel):
    """How the final numbers get their intervals, and what they are compared with.

    Attributes:
        bootstrap: resamples of the cases.
        coverage: of the intervals.
        probe_images: most training images that the probes embed; 0: no probe.
        refit_images: most training images that the refit embeds.
        neighbours: most training images that are kept for the nearest cases; 0: none.
        metrics: metrics of one's own by name, each a node whose object is called with `Predictions`.
    """

    model_config = ConfigDict(extra="forbid")

    bootstrap: Annotated[int, Field(gt=0, le=1_000_000)]
    coverage: Share
    probe_images: Annotated[int, Field(ge=0)]
    refit_images: Annotated[int, Field(gt=0)] = 50_000
    neighbours: Annotated[int, Field(ge=0, le=1_000_000)]
    metrics: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], Node] = {}


class FineTuneSettings(RunSettings):
    """Top level of ``conf/train.yaml``.

    Attributes:
        name: of the experiment, in folders and leaderboards.
        optimized_metric: the metric that a sweep reads, or None.
        init_from: a checkpoint of another run, on the same base and split, whose trained weights this run starts
            from, or None.
        fit: whether to train; a run that does not is the report of its base.
        text_pool: ``batch``, ``all`` or ``auto`` (see docs/losses.md).
        refit: ``kernel``: after training the last layer is solved in closed form and answers in place of the prompts;
            None: the prompts answer.
    """

    name: str
    optimized_metric: str | None
    init_from: str | None
    fit: bool
    text_pool: PoolChoice
    refit: Literal["kernel"] | None = None
    conditions: ConditionSettings
    evaluation: EvaluationSettings
    features: Annotated[Node | None, Builds(LabeledData, given=("datamodule", "model"))] = None
    schedule: Annotated[Node, Builds(CoefficientSchedule)]
