"""The body of train.py."""

import math
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from siglip_med.config import validate_config
from siglip_med.errors import UserError
from siglip_med.models import read_checkpoint
from siglip_med.training.finetune import finetune
from siglip_med.training.pretrain import pretrain
from siglip_med.training.settings import TrainSettings

_TASKS = {"finetune": finetune, "pretrain": pretrain}


def run(config: DictConfig) -> tuple[dict[str, float], dict[str, Any]]:
    """Validates a config and runs its task.

    Returns:
        The metrics, and the objects that were built, by name.

    Raises:
        UserError: something the config or the data says is wrong.
    """
    validate_config(config, TrainSettings)
    if config.resume is not None and config.init_from is not None:
        raise UserError("resume and init_from: a run either goes on from its own checkpoint or starts from another's")
    if config.init_from is not None and config.task != "finetune":
        raise UserError(f"init_from: task={config.task} starts from random weights; leave it out")
    for checkpoint in (config.resume, config.init_from):
        if checkpoint is not None:
            read_checkpoint(checkpoint)  # a wrong or dangerous file stops here, before any data is read
    return _TASKS[config.task](config)


def optimized_metric(metrics: Mapping[str, float], name: str | None) -> float | None:
    """The number that a sweep optimises.

    Raises:
        UserError: it is a metric of the test split, the run has none of that name, or its value is not finite.
    """
    if name is None:
        return None
    if "/test/" in name:
        raise UserError(
            f"optimized_metric={name}: the test split never chooses anything; take {name.replace('/test/', '/val/')}"
        )
    if name not in metrics:
        raise UserError(f"optimized_metric={name}: the run has no such metric; it has {', '.join(sorted(metrics))}")
    if not math.isfinite(metrics[name]):
        raise UserError(f"optimized_metric={name}: the value is {metrics[name]}")
    return metrics[name]
