"""How a run shows where it is: the bar on a terminal, and lines in its log file and in redirected output."""

import logging
import math
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar
from pydantic import PositiveInt

from siglip_med.training.throughput import described, latest

logger = logging.getLogger(__name__)

SHOWN = {"val/r_at_1": "R@1", "val/r_at_5": "R@5", "val/loss": "loss"}
"""Validation metrics on the bar and in the lines; a run that logs none of one (pretraining) shows the others."""


def position(trainer: pl.Trainer) -> str:
    """``step n of N``; N is the optimizer steps that the run will take."""
    total = trainer.estimated_stepping_batches
    return f"step {trainer.global_step:,}" + (f" of {int(total):,}" if math.isfinite(total) else "")


def validation(trainer: pl.Trainer) -> dict[str, float]:
    """The last validation's metrics of `SHOWN`, by their label."""
    found = trainer.callback_metrics
    return {label: float(found[name]) for name, label in SHOWN.items() if name in found}


class Progress(RichProgressBar):
    """Lightning's rich bar, which shows the step and the last validation instead of a version number."""

    _validated: Mapping[str, float] = MappingProxyType({})

    @property
    def total_train_batches(self) -> float:
        """Of the whole epoch, also where a resumed run begins inside it: Lightning's own says 25 of the 11 left."""
        trainer, batches = self.trainer, self.trainer.num_training_batches
        steps = trainer.max_steps * trainer.accumulate_grad_batches
        return min(batches, steps) if steps > 0 else batches

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keeps what it found: read at every step, it would wait for the device each time."""
        if not trainer.sanity_checking:
            self._validated = validation(trainer)
        super().on_validation_end(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar on and shows the step."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.progress is not None and self.train_progress_bar_id is not None:
            self.progress.update(self.train_progress_bar_id, description=self._get_train_description(0))

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """The metrics that were logged for the bar, those of the last validation, and how fast the run is."""
        metrics = dict(super().get_metrics(trainer, pl_module))
        metrics.pop("v_num", None)
        metrics |= {f"val {label}": round(value, 3) for label, value in self._validated.items()}
        return metrics | described(latest(trainer))

    def _get_train_description(self, current_epoch: int) -> str:
        # Lightning shows "Epoch 0/-2" where a run is counted in steps.
        return f"epoch {self.trainer.current_epoch}, {position(self.trainer)}"


class RunLog(pl.Callback):
    """A line every few steps and after each validation, for log files and redirected output.

    On a terminal, where the bar shows the same, the lines go to the run's log file alone.
    """

    def __init__(self, every_n_steps: PositiveInt = 50) -> None:
        """Writes one line in ``every_n_steps`` optimizer steps, and one a validation."""
        self.every_n_steps = every_n_steps
        self._started = 0.0
        self._first_step = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keeps the lines from a terminal: its handlers are the root logger's."""
        self._started, self._first_step = time.monotonic(), trainer.global_step
        if sys.stdout.isatty() and logger.propagate:
            logger.propagate = False
            for handler in logging.getLogger().handlers:
                if isinstance(handler, logging.FileHandler):
                    logger.addHandler(handler)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Says step, time left, loss, learning rate, and how fast the run is."""
        step = trainer.global_step
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if not (trainer.is_global_zero and stepped and step and step % self.every_n_steps == 0):
            return
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        rate = max(group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups)
        speed = "".join(f", {label} {value}" for label, value in described(latest(trainer)).items())
        logger.info(
            "%s, %s, loss %.4g, learning rate %.3g%s", position(trainer), self._left(trainer), float(loss), rate, speed
        )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Says what the validation found."""
        if trainer.is_global_zero and not trainer.sanity_checking and trainer.state.fn == "fit":
            found = ", ".join(f"{label} {value:.3f}" for label, value in validation(trainer).items())
            logger.info("%s, validation: %s", position(trainer), found)

    def _left(self, trainer: pl.Trainer) -> str:
        done, total = trainer.global_step - self._first_step, trainer.estimated_stepping_batches
        if not math.isfinite(total) or done <= 0:
            return "time left unknown"
        seconds = (time.monotonic() - self._started) / done * max(0, total - trainer.global_step)
        return f"{timedelta(seconds=round(seconds))} left"
