"""What one part of a run's settings requires of another: checked before any data is read."""

from collections.abc import Collection, Mapping
from typing import Any

from siglip_med.core.config import instantiate
from siglip_med.core.errors import UserError
from siglip_med.losses import LayeredLoss
from siglip_med.metrics import HEADLINE_METRICS, RESAMPLED_METRICS
from siglip_med.report.summary import OWN
from siglip_med.runs.settings import RunSettings
from siglip_med.training.schedule import CoefficientSchedule

FINE_TUNING_METRICS = ("val/loss", *(f"val/{name}" for name in RESAMPLED_METRICS))
_OF_A_SUMMARY = ("thresholded_macro_", "defined_")


def check_references(settings: RunSettings, known: Collection[str]) -> None:
    """Makes sure that whatever is monitored will be there.

    Args:
        settings: of the run.
        known: the metrics of a validation.

    Raises:
        UserError: ``monitor``, or that of a callback, is no metric of the run; or nothing would be validated.
    """
    _check_metric("monitor", settings.monitor, known)
    for name, node in settings.callbacks.items():
        if isinstance(node, Mapping) and isinstance(node.get("monitor"), str):
            _check_metric(f"callbacks.{name}.monitor", node["monitor"], known)
    if settings.callbacks.get("checkpoint") is not None and settings.trainer.get("limit_val_batches") == 0:
        raise UserError(
            "trainer.limit_val_batches=0: nothing would choose the checkpoint; leave it out, or train without one: "
            "callbacks.checkpoint=null"
        )
    steps, epochs = (settings.trainer.get(key) for key in ("max_steps", "max_epochs"))
    if steps in (-1, None) and epochs in (-1, None) and not settings.trainer.get("fast_dev_run"):
        raise UserError("trainer.max_steps=-1: the run would never end; set it, or trainer.max_epochs")
    if 0 in (steps, epochs):
        name = "max_steps" if steps == 0 else "max_epochs"
        raise UserError(f"trainer.{name}=0: nothing would be trained; to judge a base, use predict or evaluate")


def check_coefficients(loss: LayeredLoss, schedule: Mapping[str, Any], callbacks: Mapping[str, Any]) -> None:
    """Makes sure that the schedule defines every coefficient that the loss uses, within its bounds.

    Args:
        loss: whose terms name coefficients.
        schedule: the node of the coefficients' schedule.
        callbacks: one of them sets the coefficients.

    Raises:
        UserError: one has no knots, or nothing would set it.
    """
    curves: CoefficientSchedule = instantiate(schedule)
    asked = loss.coefficients
    missing = sorted(asked - set(curves.names))
    if missing:
        raise UserError(
            f"loss: a coefficient is {missing[0]!r}, but schedule.knots gives {', '.join(curves.names)}: "
            f"add schedule.knots.{missing[0]}"
        )
    if asked and callbacks.get("schedule") is None:
        raise UserError(
            f"callbacks.schedule=null: nothing would set the loss's coefficient {min(asked)!r}; leave it in, or give "
            "the terms numbers"
        )


def check_optimized(name: str | None, known: Collection[str]) -> None:
    """Makes sure that a sweep optimizes what the run will have.

    Raises:
        UserError: it is a metric of the test split, or none of the run.
    """
    if name is None or name in known:
        return
    stage, _, rest = name.partition("/")
    if "/test/" in f"/{name}":
        raise UserError(
            f"optimized_metric={name}: the test split never chooses anything; take {name.replace('test/', 'val/')}"
        )
    split, _, metric = rest.partition("/")
    there = metric in HEADLINE_METRICS or metric.startswith((*_OF_A_SUMMARY, OWN))
    if not (stage in ("tuned", "zero_shot") and split == "val" and there):
        raise UserError(
            f"optimized_metric={name}: the run has no such metric; take tuned/val/ with one of "
            f"{', '.join(HEADLINE_METRICS)}"
        )


def check_own_metrics(own: Mapping[str, object]) -> None:
    """Makes sure that every metric of one's own can be called with predictions.

    Raises:
        UserError: one is no callable object.
    """
    for name, metric in own.items():
        if not callable(metric):
            raise UserError(f"evaluation.metrics.{name}: {type(metric).__name__} cannot be called with predictions")


def _check_metric(key: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise UserError(f"{key}={name}: the run has no such metric; it has {', '.join(known)}")
